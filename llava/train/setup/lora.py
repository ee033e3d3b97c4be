"""Adds LoRA matrices to a model that will be trained, and reads and writes what a LoRA run saves.

The model stays of our class: PEFT replaces its linear layers in place (`inject_adapter_in_model`), so the names of all
other parameters, the sharding and the loss are those of any other run. The folder that a run writes is the original's:
`adapter_config.json` and `adapter_model.safetensors` in PEFT's format, and `non_lora_trainables.bin` with the tensors
that train whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava.errors import CheckpointError, InvalidRequest, ShapeMismatch
from llava.model.weights.lora import CONFIG_FILE, LORA_FILES, WHOLE_FILE, LoraAdapter, read_adapter
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import EMBEDDING, OUTPUT, Checkpoint, resolve_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llava.train.setup.arguments import ModelArguments, TrainingOptions
    from llava.train.setup.trainable import TokenRows

Bias = Literal["none", "all", "lora_only"]

ADAPTER_NAME = "default"
_WRAPPER = "base_model.model."
"""Start of the names of all tensors in a LoRA folder, which PEFT's classes put there."""
_NOT_ADAPTED = ("mm_projector", "vision_tower", "vision_resampler", "lm_head")
"""Parts whose linear layers get no LoRA matrices, as in the original."""
_SAVED_WHOLE = ("model.mm_projector.", "model.image_newline")
"""Parts that a LoRA folder always holds, so that its base may be a plain language model."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How the language model is adapted."""

    rank: int = 64
    """Rank of each change."""
    alpha: int = 16
    """A change is scaled by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`."""
    dropout: float = 0.05
    """Fraction of the inputs of the matrices that is dropped in training, 0 to 1."""
    bias: Bias = "none"
    """Which biases of the language model train: none, all, or those of adapted layers (`lora_only`)."""
    use_dora: bool = False
    """Whether the length of each row of a changed matrix trains on its own (DoRA)."""
    use_rslora: bool = False
    """Whether changes are scaled so that high ranks learn as fast as low ones (rank-stabilised LoRA)."""
    start_from: Path | None = None
    """Folder of an adapter to train on; None starts from no change."""

    def __post_init__(self) -> None:
        """
        Raises:
            InvalidRequest: a value out of its range; names the flag.
        """
        if self.rank < 1:
            raise InvalidRequest(f"--lora_r {self.rank}: must be at least 1.")
        if self.alpha <= 0:
            raise InvalidRequest(f"--lora_alpha {self.alpha}: must be greater than 0.")
        if not 0 <= self.dropout < 1:
            raise InvalidRequest(f"--lora_dropout {self.dropout}: must be at least 0 and less than 1.")
        if self.bias not in ("none", "all", "lora_only"):
            raise InvalidRequest(f"--lora_bias {self.bias}: must be none, all or lora_only.")

    @classmethod
    def from_options(cls, options: TrainingOptions) -> LoraSettings | None:
        """Builds the settings of a command line; None if it does not ask for LoRA.

        Raises:
            InvalidRequest: a value out of its range, or flags that contradict the adapter to start from.
        """
        if not options.lora_enable:
            return None
        settings = cls(
            rank=options.lora_r,
            alpha=options.lora_alpha,
            dropout=options.lora_dropout,
            bias=options.lora_bias,  # type: ignore[arg-type]  # checked above
            use_dora=options.use_dora,
            use_rslora=options.use_rslora,
        )
        return settings._starting_from(options.lora_weight_path) if options.lora_weight_path else settings

    def _starting_from(self, path: str) -> LoraSettings:
        """Takes the shape of an adapter; a flag that says something else is an error."""
        folder = resolve_folder(path, what="adapter")
        saved = read_adapter(folder).settings
        for name in ("rank_pattern", "alpha_pattern"):
            if saved.get(name):
                raise InvalidRequest(f"--lora_weight_path {path}: adapters with a {name} cannot be trained on.")
        theirs = {
            "lora_r": ("rank", saved.get("r", 8)),
            "lora_alpha": ("alpha", saved.get("lora_alpha", 8)),
            "use_dora": ("use_dora", bool(saved.get("use_dora"))),
            "use_rslora": ("use_rslora", bool(saved.get("use_rslora"))),
        }
        for flag, (name, value) in theirs.items():
            given = getattr(self, name)
            if given not in (value, _DEFAULTS[name]):
                raise InvalidRequest(
                    f"--{flag} {given}: the adapter in --lora_weight_path {path} has {value}. Remove the flag."
                )
        return replace(self, start_from=folder, **dict(theirs.values()))


_DEFAULTS = {name: LoraSettings.__dataclass_fields__[name].default for name in ("rank", "alpha", "use_dora", "use_rslora")}


def check_stage(settings: LoraSettings | None, options: TrainingOptions, model_args: ModelArguments) -> None:
    """Refuses flags that contradict LoRA.

    Raises:
        InvalidRequest: names the two flags.
    """
    if settings is None:
        return
    if model_args.tune_mm_mlp_adapter:
        raise InvalidRequest(
            "--lora_enable adapts the language model, and --tune_mm_mlp_adapter leaves it as it is. Remove one of them."
        )
    if model_args.freeze_backbone:
        raise InvalidRequest(
            "--lora_enable freezes the language model but for its adapter, so --freeze_backbone does not apply. "
            "Remove --freeze_backbone."
        )
    if getattr(options, "muon", False):
        raise InvalidRequest("--optim muon is meant for whole matrices. Use another optimizer with --lora_enable.")


def ignored_flags(options: TrainingOptions) -> list[str]:
    """Lists the flags that are set and have no effect without `--lora_enable True`."""
    names = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "lora_weight_path", "use_dora", "use_rslora")
    defaults = type(options).__dataclass_fields__
    return [f"--{name}" for name in names if getattr(options, name) != defaults[name].default]


# ---- the model -------------------------------------------------------------------------------------------------------


def add_lora(model: Any, settings: LoraSettings, *, base: str) -> None:
    """Puts LoRA matrices beside every linear layer of the language model, in float32 and without effect at first.

    Args:
        model: a LLaVA; its parameters keep their names, except that an adapted layer's own weight is `base_layer`.
        base: what the adapter's config names as its base.

    Raises:
        InvalidRequest: biases shall train, and the language model has none.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    if settings.bias != "none" and not any(name.startswith("model.layers.") and name.endswith(".bias")
                                           for name, _ in model.named_parameters()):
        raise InvalidRequest(f"--lora_bias {settings.bias}: the language model has no biases. Remove the flag.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules=_targets(model, settings),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    # The vision tower has layers of the same names, which get no matrices.
    with _without_tower(model):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.float32)
    if settings.use_dora:
        _set_magnitudes(model)
    # Trainer trains a quantised model only if it is told of its adapter.
    model._hf_peft_config_loaded = True


@contextmanager
def _without_tower(model: Any) -> Iterator[None]:
    decoder = model.get_model()
    tower = decoder._modules.pop("vision_tower", None)
    try:
        yield
    finally:
        if tower is not None:
            decoder._modules["vision_tower"] = tower


def _targets(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Returns the last parts of the names of the layers to adapt, as the original lists them."""
    from torch import nn

    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in _NOT_ADAPTED)
    ]
    if settings.start_from is None:
        return sorted({name.rpartition(".")[2] for name in linear})
    adapter = read_adapter(settings.start_from)
    adapted = {name.removesuffix(".weight") for name in adapter.changes}
    targets = {name.rpartition(".")[2] for name in adapted}
    if adapted != {name for name in linear if name.rpartition(".")[2] in targets}:
        raise InvalidRequest(
            f"--lora_weight_path {settings.start_from}: the adapter changes other layers than LoRA trains here (linear "
            "layers of the language model, each kind in all layers). Merge it into the base and start from the result."
        )
    return sorted(targets)


def _set_magnitudes(model: nn.Module) -> None:
    """Sets DoRA's magnitudes to the lengths of the base's rows; PEFT's own are rounded to the base's format."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = dequantize_module_weight(module.get_base_layer())
            module.lora_magnitude_vector[ADAPTER_NAME].weight.data = weight.detach().float().norm(dim=1)


def start_from_adapter(model: Any, rows: TokenRows | None, folder: Path) -> set[str]:
    """Copies an adapter and the tensors beside it into a model that `add_lora` has prepared.

    Returns:
        Names of the parameters that the folder holds whole; the run saves them too.

    Raises:
        CheckpointError: a tensor that the model does not have.
        ShapeMismatch: a tensor of another shape.
    """
    adapter = read_adapter(folder)
    parameters = dict(model.named_parameters())
    for name, change in adapter.changes.items():
        module = name.removesuffix(".weight")
        found = {"lora_A": change.down, "lora_B": change.up}
        for part, value in found.items():
            _copy(parameters[f"{module}.{part}.{ADAPTER_NAME}.weight"], value, name, folder)
        if change.magnitude is not None:
            _copy(parameters[f"{module}.lora_magnitude_vector.{ADAPTER_NAME}.weight"], change.magnitude, name, folder)
    for name, (weights, theirs) in adapter.whole.items():
        own = _own_name(model, name)
        if own not in parameters:
            raise CheckpointError(f"{adapter.described(name)}, which the model to train does not have.")
        _copy(parameters[own], weights.tensor(theirs), theirs, folder)
        if name == EMBEDDING and rows is not None:
            rows.load(weights.tensor(theirs))
    return {_own_name(model, name) for name in adapter.whole}


def _own_name(model: Any, name: str) -> str:
    """Returns the name of a parameter of the model for our name of a tensor."""
    if name.startswith(TOWER_PREFIX):
        return TOWER_PREFIX + model.get_vision_tower().own_name(name.removeprefix(TOWER_PREFIX))
    path, _, own = name.rpartition(".")
    adapted = f"{path}.base_layer.{own}"
    return adapted if any(candidate == adapted for candidate, _ in model.named_parameters()) else name


def _copy(parameter: Tensor, value: Tensor, name: str, folder: Path) -> None:
    if parameter.shape != value.shape:
        raise ShapeMismatch(name, folder, tuple(value.shape), tuple(parameter.shape))
    parameter.data.copy_(value)


# ---- the folder ------------------------------------------------------------------------------------------------------


class LoraFiles:
    """What a LoRA run saves: which parameters, under which names, in which file."""

    def __init__(self, model: Any, rows: TokenRows | None, *, base_num_tokens: int, also: set[str] | None = None) -> None:
        """
        Args:
            model: a model that `add_lora` and `select_trainable` have prepared.
            rows: the embedding rows that train.
            base_num_tokens: rows of the base's embedding; new rows are saved with the table that they are in.
            also: names of further parameters to save.
        """
        self._config = model.peft_config[ADAPTER_NAME]
        self._rows = rows
        self._tower = getattr(model.get_model(), "vision_tower", None)
        grown = model.get_input_embeddings().weight.shape[0] != base_num_tokens
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        tables = {EMBEDDING} if grown or rows is not None else set()
        if grown and not tied:
            tables.add(OUTPUT)
        self.names: dict[str, str] = {}
        """Name of each saved parameter -> its name in the files."""
        for name, parameter in model.named_parameters():
            if name == _ROWS_PARAMETER:
                continue
            if parameter.requires_grad or name.startswith(_SAVED_WHOLE) or name in tables or name in (also or ()):
                self.names[name] = self._file_name(name)

    def wanted(self, name: str) -> bool:
        """Tells whether a parameter is needed to write the files."""
        return name in self.names or (name == _ROWS_PARAMETER and self._rows is not None)

    def tables(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sorts whole tensors into the two files.

        Args:
            tensors: every `wanted` parameter by name, gathered from all processes.

        Returns:
            The tensors of the adapter's file, and those of `non_lora_trainables.bin`, by their names there.
        """
        from llava.train.setup.trainable import merged_table

        adapter, whole = {}, {}
        for name, theirs in self.names.items():
            tensor = tensors[name].detach()
            if name == EMBEDDING and self._rows is not None:
                tensor = merged_table(tensor, tensors[_ROWS_PARAMETER].detach(), self._rows.token_ids)
            (adapter if _belongs_to_adapter(name) else whole)[theirs] = tensor.cpu().contiguous()
        return adapter, whole

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Writes the adapter's config and both files. Arguments as `tables`."""
        from llava.model.weights.adapter import save_adapter

        adapter, whole = self.tables(tensors)
        save_adapter(adapter, folder / LORA_FILES[0])
        save_adapter(whole, folder / WHOLE_FILE)
        inference_mode, self._config.inference_mode = self._config.inference_mode, True
        try:
            self._config.save_pretrained(str(folder))
        finally:
            self._config.inference_mode = inference_mode
        if self._tower is not None and any(name.startswith(TOWER_PREFIX) for name in self.names):
            from llava.model.weights.reader import OWN_TOWER

            self._tower.describe(folder / OWN_TOWER)

    def load(self, model: Any, folder: Path) -> None:
        """Puts what `write` wrote back into the model, which is not sharded.

        Raises:
            CheckpointError: a file is missing, or its tensors are not those that this run saves.
            ShapeMismatch: a tensor of another shape.
        """
        for file in (CONFIG_FILE, LORA_FILES[0], WHOLE_FILE):
            if not (folder / file).is_file():
                raise CheckpointError(f"{folder}: {file} is missing; this is not a checkpoint of a LoRA run.")
        saved = Checkpoint([folder / LORA_FILES[0], folder / WHOLE_FILE])
        expected = {theirs: name for name, theirs in self.names.items()}
        if set(saved) != set(expected):
            difference = sorted(set(saved) ^ set(expected))
            raise CheckpointError(
                f"{folder}: the tensors do not match those that this run saves: {', '.join(difference[:5])}. "
                "Use another --output_dir."
            )
        parameters = dict(model.named_parameters())
        for theirs, name in expected.items():
            value = saved.tensor(theirs)
            _copy(parameters[name], value, theirs, folder)
            if name == EMBEDDING and self._rows is not None:
                self._rows.load(value)

    def _file_name(self, name: str) -> str:
        if name.startswith(TOWER_PREFIX):
            assert self._tower is not None
            name = TOWER_PREFIX + self._tower.original_name(name.removeprefix(TOWER_PREFIX))
        name = name.replace(f".{ADAPTER_NAME}.", ".") if _belongs_to_adapter(name) else name
        if name.endswith(".lora_magnitude_vector.weight"):
            name = name.removesuffix(".weight")  # PEFT's files keep the name of its first releases
        return f"{_WRAPPER}{name}"


_ROWS_PARAMETER = "model.embed_tokens.trained_rows.rows"


def _belongs_to_adapter(name: str) -> bool:
    """Tells whether PEFT's format has a place for a parameter: its matrices, and biases of adapted layers."""
    return ".lora_" in name or name.endswith(".base_layer.bias")
