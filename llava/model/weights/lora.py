"""Reads LoRA adapters and adds them to the tensors of their base, block by block: W + scale * B A (Hu et al., 2021).

A LLaVA LoRA run writes the adapter in PEFT's format (`adapter_config.json`, `adapter_model.*`) and, in
`non_lora_trainables.bin`, the tensors that were trained whole: the projector, the embedding if start and end tokens
were trained, a trained vision tower. Adapters of other tools keep whole tensors among the adapter's. Loading and
merging both read adapters here, and every tensor of a folder is used or refused by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, ShapeMismatch, WeightsNotFound
from llava.model.weights.finite import check_finite
from llava.model.weights.names import adapter_own_name, module_in_adapter
from llava.model.weights.reader import BLOCK_BYTES, EMBEDDING, LEFTOVER, OUTPUT, Checkpoint, read_model_json

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
LORA_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE_FILE = "non_lora_trainables.bin"

_PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.(?P<leaf>weight|bias))?"
)
_WITHOUT_INFLUENCE = re.compile(rf"{LEFTOVER.pattern}|vision_tower\.unused_layers\.")
"""Names of buffers that are computed, and of our tower's layers above the selected one, which never run."""
_INITIALISATIONS = ("True", "False", "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's weights as they are."""
_REFUSED_SETTINGS = {
    "fan_in_fan_out": "weights stored as [in, out]",
    "lora_bias": "biases beside the two matrices",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "an adapter that is active after certain tokens only",
    "trainable_token_indices": "single trained rows of an embedding",
    "target_parameters": "adapters of single parameters",
    "use_qalora": "grouped inputs (QA-LoRA)",
    "use_bdlora": "block-diagonal matrices (BD-LoRA)",
    "arrow_config": "routing between adapters (Arrow)",
    "kasa_config": "singular values of the base (KaSA)",
    "monteclora_config": "sampled weights (MonteCLoRA)",
}
"""Settings of PEFT that change what the two matrices mean, and what they stand for."""

_KNOWN_SETTINGS = frozenset(
    {
        *("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern"),
        *("use_dora", "use_rslora", *_REFUSED_SETTINGS),
        *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
        *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config"),
        *("lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_version"),
        *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type", "velora_config"),
    }
)
"""Settings that are used, and those that say how an adapter came about or repeat what its tensors say."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one matrix [out, in]."""

    down: Tensor
    """A, [rank, in]."""
    up: Tensor
    """B, [out, rank]."""
    scale: float
    magnitude: Tensor | None = None
    """Length of each row of the changed matrix, [out] (DoRA, Liu et al., 2024); None for plain LoRA."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def applied(self, block: Tensor, first: int) -> Tensor:
        """Returns rows of the changed matrix, float32.

        Args:
            block: the rows of the base's matrix from `first` on, [rows, in].
        """
        up = self.up[first : first + block.shape[0]].float()
        changed = block.float() + self.scale * (up @ self.down.float())
        if self.magnitude is None:
            return changed
        magnitude = self.magnitude[first : first + block.shape[0]].float()
        return changed * (magnitude / changed.norm(dim=1))[:, None]


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """The changes of one LoRA folder to its base, by our names of the base's tensors."""

    folder: Path
    settings: dict[str, Any]
    """The content of `adapter_config.json`."""
    changes: dict[str, LowRank]
    """Name of a weight -> its change."""
    whole: dict[str, tuple[Checkpoint, str]]
    """Name of a tensor -> the file with its replacement or addition, and its name there."""

    @property
    def names(self) -> list[str]:
        """Names of all tensors that the adapter changes, replaces or adds."""
        return list(dict.fromkeys([*self.changes, *self.whole]))

    def described(self, name: str) -> str:
        """Describes in a message what the adapter does to a tensor."""
        return f"{self.folder}: the adapter {'replaces' if name in self.whole else 'changes'} {name}"


def open_lora(folder: Path) -> Checkpoint:
    """Opens the file with the LoRA matrices.

    Raises:
        WeightsNotFound: there is none.
    """
    file = next((folder / name for name in LORA_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsNotFound(folder, LORA_FILES)
    return Checkpoint([file])


def read_adapter(folder: Path) -> LoraAdapter:
    """Reads a LoRA folder.

    Raises:
        CheckpointError: no adapter, half of one, or one with settings or tensors whose meaning is not known here.
    """
    settings = read_model_json(folder / CONFIG_FILE)
    _check_settings(settings, folder)
    parts: dict[str, dict[str, Tensor]] = {}
    modules: dict[str, str] = {}
    whole: dict[str, tuple[Checkpoint, str]] = {}
    for weights in (open_lora(folder), *_whole_file(folder)):
        for name in weights:
            if _WITHOUT_INFLUENCE.search(name):
                continue
            match = _PART.fullmatch(name)
            if match is None:
                _refuse_unknown_kinds(name, folder)
                whole[adapter_own_name(name)] = (weights, name)
                continue
            if match["leaf"] == "bias":
                raise CheckpointError(f"{folder}: {name} is a bias of LoRA, which cannot be merged into LLaMA.")
            ours = adapter_own_name(f"{match['module']}.weight")
            if match["part"] in parts.setdefault(ours, {}):
                raise CheckpointError(f"{folder}: has two tensors for {match['part']} of {ours}. Keep one adapter.")
            parts[ours][match["part"]] = check_finite(weights.tensor(name), name, weights.file_of(name))
            modules[ours] = module_in_adapter(match["module"])
    if not parts:
        raise CheckpointError(f"{folder}: the adapter has no LoRA tensors. Is the download complete?")
    changes = {name: _low_rank(name, found, modules[name], settings, folder) for name, found in parts.items()}
    return LoraAdapter(folder, settings, changes, whole)


def _whole_file(folder: Path) -> list[Checkpoint]:
    return [Checkpoint([folder / WHOLE_FILE])] if (folder / WHOLE_FILE).is_file() else []


def _check_settings(settings: dict[str, Any], folder: Path) -> None:
    file = folder / CONFIG_FILE
    if settings.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{folder}: is an adapter of type {settings['peft_type']}; only LoRA can be merged.")
    for name, meaning in _REFUSED_SETTINGS.items():
        if settings.get(name):
            raise CheckpointError(f"{file}: {name} is set ({meaning}), which is not supported. Merge it with PEFT.")
    initialisation = str(settings.get("init_lora_weights", True))
    if initialisation not in _INITIALISATIONS:
        raise CheckpointError(
            f"{file}: init_lora_weights is {initialisation!r}, which changes the base's weights too. Convert the "
            "adapter with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    unknown = [name for name, value in settings.items() if value and name not in _KNOWN_SETTINGS]
    if unknown:
        log.warning("%s: %s has no meaning here and is not used", file, ", ".join(unknown))


def _refuse_unknown_kinds(name: str, folder: Path) -> None:
    if "lora_" in name or ".original_module." in name or "token_adapter" in name:
        raise CheckpointError(
            f"{folder}: {name} is a kind of adapter tensor that cannot be merged here. Merge the adapter with PEFT."
        )


def _low_rank(name: str, found: dict[str, Tensor], module: str, settings: dict[str, Any], folder: Path) -> LowRank:
    if "embedding_A" in found or "embedding_B" in found:
        if "magnitude_vector" in found:
            raise CheckpointError(f"{folder}: DoRA of an embedding ({name}) is not supported. Merge it with PEFT.")
        # An embedding's matrices are stored the other way around: A [rank, tokens], B [hidden, rank].
        found = {
            part: found[theirs].T for part, theirs in (("A", "embedding_B"), ("B", "embedding_A")) if theirs in found
        }
    if not {"A", "B"} <= set(found):
        raise CheckpointError(
            f"{folder}: the adapter has only one of the two matrices of {name}. The file is incomplete."
        )
    down, up, magnitude = found["A"], found["B"], found.get("magnitude_vector")
    if settings.get("use_dora") and magnitude is None:
        raise CheckpointError(f"{folder}: use_dora is set, but {name} has no magnitudes. The file is incomplete.")
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"{folder}: the matrices of {name} have shapes {list(down.shape)} and {list(up.shape)}, "
            "which cannot be multiplied. The file is damaged."
        )
    if magnitude is not None:
        magnitude = magnitude.flatten()
        if magnitude.shape[0] != up.shape[0]:
            raise ShapeMismatch(f"the magnitude of {name}", folder, tuple(magnitude.shape), (up.shape[0],))
    return LowRank(down, up, _scale(settings, module, down.shape[0]), magnitude)


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    alpha = settings.get("lora_alpha", 8)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """A tensor of a base with what an adapter does to it, read block by block."""

    checkpoint: Checkpoint
    """The file with the tensor, of the base or of the adapter."""
    name: str
    """The tensor's name there."""
    num_rows: int | None = None
    """Rows that the tensor shall have; those that the file lacks are the mean of its rows. None keeps the file's."""
    change: LowRank | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.checkpoint.shape(self.name)
        return shape if self.num_rows is None else (self.num_rows, *shape[1:])

    @property
    def dtype(self) -> str:
        """PyTorch's name of the dtype: float32 if anything is added, so that nothing is rounded before its use."""
        return "float32" if self.change is not None else self.checkpoint.dtype_name(self.name)

    def rows(self, first: int, last: int) -> Tensor:
        """Returns rows `first` to `last`, in `dtype`."""
        import torch

        stored = self.checkpoint.shape(self.name)
        block = self.checkpoint.rows(self.name, first, min(last, stored[0]) if stored else last)
        if stored and last > stored[0]:
            added = self._mean_row().to(block.dtype).expand(last - max(first, stored[0]), *stored[1:])
            block = torch.cat([block, added])
        return block if self.change is None else self.change.applied(block, first)

    def whole(self) -> Tensor:
        """Returns the whole tensor, in `dtype`; beside it, no more than a block is in memory."""
        import torch

        if self.change is None and self.num_rows is None:
            return self.checkpoint.tensor(self.name)
        result = torch.empty(self.shape, dtype=getattr(torch, self.dtype))
        for first, last in self._ranges():
            result[first:last] = self.rows(first, last)
        return result

    def _ranges(self) -> Iterator[tuple[int, int]]:
        num_rows = self.shape[0]
        step = max(1, BLOCK_BYTES // (4 * max(1, self.shape[-1])))
        return ((first, min(first + step, num_rows)) for first in range(0, num_rows, step))

    def _mean_row(self) -> Tensor:
        total: Any = 0
        for first, last in self.checkpoint.row_ranges(self.name):
            total = total + self.checkpoint.rows(self.name, first, last).float().sum(dim=0, keepdim=True)
        return total / self.checkpoint.shape(self.name)[0]


def adapted_tensors(
    adapter: LoraAdapter, base: dict[str, tuple[Checkpoint, str]], *, tied: bool
) -> dict[str, AdaptedTensor]:
    """Adds an adapter to the tensors of its base.

    If the run had more tokens than its base, both embeddings get as many rows.

    Args:
        base: our name of each of the base's tensors -> the file with it, and its name there.
        tied: whether the model's output embedding is its token embedding.

    Returns:
        Every tensor that differs from the base's, by our name.

    Raises:
        CheckpointError: the adapter changes a tensor that the base does not have.
        ShapeMismatch: a change of another shape than its tensor.
    """
    _check_tied(adapter, tied=tied)
    num_tokens = _num_tokens(adapter, base)
    result = {}
    names = [*adapter.names, *(name for name in (EMBEDDING, OUTPUT) if name in base and name not in adapter.names)]
    for name in names:
        source = adapter.whole.get(name) or base.get(name)
        if source is None:
            raise CheckpointError(f"{adapter.described(name)}, which the base does not have. Is it the right base?")
        weights, theirs = source
        grown = num_tokens if name in (EMBEDDING, OUTPUT) and weights.shape(theirs)[:1] != (num_tokens,) else None
        tensor = AdaptedTensor(weights, theirs, grown, adapter.changes.get(name))
        if tensor.change is not None and tensor.change.shape != tensor.shape:
            raise ShapeMismatch(name, adapter.folder, tensor.change.shape, tensor.shape)
        if name in base and tensor.shape[1:] != base[name][0].shape(base[name][1])[1:]:
            raise ShapeMismatch(theirs, adapter.folder, tensor.shape, base[name][0].shape(base[name][1]))
        if name in adapter.names or grown is not None:
            result[name] = tensor
    return result


def _num_tokens(adapter: LoraAdapter, base: dict[str, tuple[Checkpoint, str]]) -> int:
    rows = [0]
    for name in (EMBEDDING, OUTPUT):
        before = base[name][0].shape(base[name][1])[0] if name in base else 0
        if name in adapter.whole:
            weights, theirs = adapter.whole[name]
            found = weights.shape(theirs)
            if not found or found[0] < before:
                raise ShapeMismatch(theirs, adapter.folder, found, (before, *found[1:]))
            rows.append(found[0])
        if name in adapter.changes:
            rows.append(adapter.changes[name].shape[0])
        rows.append(before)
    return max(rows)


def _check_tied(adapter: LoraAdapter, *, tied: bool) -> None:
    """Refuses changes to one of two embeddings that are the same tensor."""
    if not tied:
        return
    for name in (OUTPUT, EMBEDDING):
        if name in adapter.changes or (name == OUTPUT and name in adapter.whole):
            raise CheckpointError(
                f"{adapter.described(name)}, but the model uses one tensor as token and output embedding "
                "(tie_word_embeddings), so the change cannot be merged."
            )
