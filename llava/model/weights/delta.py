"""Computes delta weights: target = base + delta, tensor by tensor, in blocks of rows.

A delta lets people share a model whose base must not be shared. Its rules are those of the original (`apply_delta` and
`make_delta` of LLaVA v0, after FastChat's): tensors that both sides have are added. `embed_tokens` and `lm_head` may
have more rows in the delta, and those rows are stored whole. The projector is only in the delta, whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import BaseMismatch, CheckpointError, ShapeMismatch
from llava.model.weights.folder import SourceFolder
from llava.model.weights.reader import EMBEDDING, OUTPUT, read_model_json
from llava.model.weights.writer import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OWN_PARTS = ("mm_projector", "image_newline", "vision_tower")
"""Name parts of tensors that only a LLaVA has."""
BASE_FILE = "delta_base.json"
"""File beside a delta made by this package that names the base it was made from."""
_SAMPLED_VALUES = 4096
_LIKE_FULL_WEIGHTS = 0.5
"""Norm weights, relative to the base's, above which a delta is taken for full weights; a delta's are a few percent."""


def specs_of(source: SourceFolder, dtype: torch.dtype) -> list[TensorSpec]:
    """Lists the tensors of base + delta (or target - base): those of the side that has more, in its order."""
    return [TensorSpec(name, source.weights.shape(name), dtype) for name in source.names]


def combined(
    name: str, larger: SourceFolder, base: SourceFolder, dtype: torch.dtype, combine: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """Yields blocks of one tensor of `larger`, combined with the base's rows as far as the base has them.

    Both are converted to `dtype` first, as the original converts both to float16.
    """
    base_shape = base.weights.shape(name) if name in base.weights else None
    for first, last in larger.weights.row_ranges(name):
        block = larger.weights.rows(name, first, last).to(dtype)
        if base_shape is None:
            yield block
            continue
        shared = min(last, base_shape[0]) - first if base_shape else 1
        if shared <= 0:
            yield block
        elif not base_shape or shared == last - first:
            yield combine(block, base.weights.rows(name, first, last).to(dtype))
        else:
            block = block.clone()
            block[:shared] = combine(block[:shared], base.weights.rows(name, first, first + shared).to(dtype))
            yield block


def check_fit(larger: SourceFolder, base: SourceFolder) -> None:
    """Checks that the names and shapes of the two sides belong together.

    Args:
        larger: the delta, or the model that a delta is made from.

    Raises:
        BaseMismatch: models of different sizes, a base that is a LLaVA itself, or tensors that one side lacks.
        ShapeMismatch: a tensor of another shape.
    """
    own = [name for name in base.names if any(part in name for part in OWN_PARTS)]
    if own:
        raise BaseMismatch(
            f"{base.folder}: is already a LLaVA (it has {own[0]}). The base must be the language model alone: "
            "the LLaMA weights that the delta was made from."
        )
    if EMBEDDING not in base.weights or EMBEDDING not in larger.weights:
        lacking = base if EMBEDDING not in base.weights else larger
        raise BaseMismatch(f"{lacking.folder}: has no {EMBEDDING}, so it is not a LLaMA in the Hugging Face format.")
    if (base.width, base.num_layers) != (larger.width, larger.num_layers):
        raise BaseMismatch(
            f"{base.folder} has {base.size()}, but the {larger.what} {larger.folder} has {larger.size()}: "
            "they are of different sizes. Use a base and a delta of the same size (7B with 7B, 13B with 13B)."
        )
    if base.rows(EMBEDDING) > larger.rows(EMBEDDING):
        raise BaseMismatch(
            f"{base.folder} has {base.rows(EMBEDDING)} tokens, the {larger.what} has only {larger.rows(EMBEDDING)}. "
            "The original LLaMA has 32000. Is the base a model with added tokens, such as Vicuna?"
        )
    missing = [name for name in base.names if name not in larger.weights]
    if missing:
        raise BaseMismatch(
            f"{larger.folder}: {len(missing)} tensors of the base are missing from the {larger.what}, such as "
            f"{missing[0]}. Is the download complete?"
        )
    for name in larger.names:
        if name not in base.weights:
            if not any(part in name for part in OWN_PARTS):
                raise BaseMismatch(
                    f"{base.folder}: has no {name}, which the {larger.what} has. Is it LLaMA, and is it complete?"
                )
            continue
        theirs, ours = base.weights.shape(name), larger.weights.shape(name)
        if theirs != ours and not (name in (EMBEDDING, OUTPUT) and theirs[1:] == ours[1:] and theirs[0] <= ours[0]):
            raise ShapeMismatch(name, base.weights.file_of(name), theirs, ours)


def check_is_delta(delta: SourceFolder, base: SourceFolder) -> None:
    """Checks that a delta is not full weights, which would give a model of noise that no other check notices.

    Raises:
        BaseMismatch: the norm weights are as large as the base's.
    """
    import torch

    ours = theirs = 0.0
    for name in delta.names:
        if name.endswith("norm.weight") and name in base.weights:
            ours += delta.weights.tensor(name).to(torch.float32).square().sum().item()
            theirs += base.weights.tensor(name).to(torch.float32).square().sum().item()
    if theirs and (ours / theirs) ** 0.5 > _LIKE_FULL_WEIGHTS:
        raise BaseMismatch(
            f"{delta.folder}: does not look like a delta: its norm weights are {100 * (ours / theirs) ** 0.5:.0f} % as "
            "large as the base's. It may already be a complete model, or --base and --delta may be swapped. "
            "Add --force to apply it anyway."
        )


def check_base(delta: SourceFolder, base: SourceFolder) -> str:
    """Compares the base with the one that the delta names.

    Returns:
        A sentence about what was found.

    Raises:
        BaseMismatch: another fingerprint, or tokens that the original base does not have.
    """
    stated = read_model_json(delta.folder / BASE_FILE) if (delta.folder / BASE_FILE).is_file() else None
    if stated is not None:
        found = weights_fingerprint(base)
        if stated.get("fingerprint") != found:
            raise BaseMismatch(
                f"{base.folder}: is not the base that this delta was made from ({stated.get('name')!r}): its "
                f"fingerprint is {found[:16]}, the delta asks for {str(stated.get('fingerprint'))[:16]} ({BASE_FILE}). "
                "A fine-tuned copy differs too. Add --force to apply it anyway."
            )
        return f"the base has the fingerprint that the delta asks for ({found[:16]})"
    pieces = _num_pieces(delta.folder)
    if pieces is not None and base.rows(EMBEDDING) != pieces:
        raise BaseMismatch(
            f"{base.folder} has {base.rows(EMBEDDING)} tokens, but the tokenizer of the delta's base has {pieces}. "
            "LLaVA's deltas apply to the original LLaMA, not to a model with added tokens such as Vicuna. "
            "Add --force to apply it anyway."
        )
    names = (base.folder.name, str(base.config.get("_name_or_path", "")))
    if any("vicuna" in name.lower() for name in names):
        return "its name says Vicuna, but LLaVA's deltas apply to the original LLaMA. On Vicuna the result is nonsense."
    return "the delta does not name its base; names, shapes and sizes fit"


def _num_pieces(folder: Path) -> int | None:
    """Returns the size of a folder's sentencepiece vocabulary, which excludes tokens added later; None without one."""
    if not (folder / "tokenizer.model").is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()


def weights_fingerprint(source: SourceFolder) -> str:
    """Returns the SHA-256 of the names, shapes and first values (as float16) of all tensors, for any file format."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(source.names):
        shape = source.weights.shape(name)
        digest.update(f"{name}{list(shape)}".encode())
        columns = max(1, shape[-1] if len(shape) > 1 else 1)
        rows = (
            source.weights.rows(name, 0, max(1, _SAMPLED_VALUES // columns)) if shape else source.weights.tensor(name)
        )
        values = rows.reshape(-1)[:_SAMPLED_VALUES].to(torch.float16).contiguous()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_statement(base: SourceFolder) -> dict[str, Any]:
    """Returns what a delta records about its base."""
    return {
        "name": base.config.get("_name_or_path") or Path(base.folder).name,
        "fingerprint": weights_fingerprint(base),
    }


def check_complete(target: SourceFolder, what: str) -> None:
    """Checks that a LLaVA has a projector, whose absence would only show at its first image.

    Raises:
        CheckpointError: the config names a vision tower, but there is no projector.
    """
    sees = target.config.get("mm_vision_tower") or target.config.get("use_mm_proj")
    if sees and not any("mm_projector" in name for name in target.names):
        raise CheckpointError(
            f"{target.folder}: its config names a vision tower, but the {what} has no projector (mm_projector.*). "
            "Is the download complete?"
        )
