"""The arithmetic of delta weights: target = base + delta, tensor by tensor, in blocks of rows.

A delta lets people share a model whose base may not be shared. Its rules are those of the original (`apply_delta` and
`make_delta` of LLaVA v0, after FastChat's): tensors that both sides have are added; `embed_tokens` and `lm_head` may
have more rows in the delta, and those rows are stored whole; the projector is in the delta alone, whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import BaseMismatch, CheckpointError, ShapeMismatch
from llava.model.weights.folder import Source
from llava.model.weights.reader import read_json
from llava.model.weights.writer import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
OWN_PARTS = ("mm_projector", "image_newline", "vision_tower")
"""Parts of the names of tensors that only a LLaVA has."""
BASE_FILE = "delta_base.json"
"""Beside a delta made here: which base it was made from."""
_SAMPLED_VALUES = 4096
_LIKE_FULL_WEIGHTS = 0.5
"""A delta's norm weights are a few percent of its base's; full weights are as large."""


def specs_of(source: Source, dtype: torch.dtype) -> list[TensorSpec]:
    """What base + delta (or target - base) has: the tensors of the side with more of them, in its order."""
    return [TensorSpec(name, source.weights.shape(name), dtype) for name in source.names]


def combined(
    name: str, larger: Source, base: Source, dtype: torch.dtype, combine: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """Blocks of one tensor of `larger`, joined by `combine` with the base's rows as far as the base has them.

    Both are brought to `dtype` first, as the original brings both to float16.
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


def check_fit(larger: Source, base: Source) -> None:
    """Names and shapes of the two sides must belong together.

    Args:
        larger: the delta, or the model that a delta is made of.

    Raises:
        BaseMismatch: another size of model, a base that is no base, tensors that one side lacks.
        ShapeMismatch: a tensor of another shape.
    """
    own = [name for name in base.names if any(part in name for part in OWN_PARTS)]
    if own:
        raise BaseMismatch(
            f"{base.folder}: already is a LLaVA (it has {own[0]}). The base must be the language model alone: "
            "the LLaMA weights that the delta was made from."
        )
    if EMBEDDING not in base.weights or EMBEDDING not in larger.weights:
        lacking = base if EMBEDDING not in base.weights else larger
        raise BaseMismatch(f"{lacking.folder}: has no {EMBEDDING}; it is no LLaMA in the Hugging Face format.")
    if _width_and_depth(base) != _width_and_depth(larger):
        raise BaseMismatch(
            f"{base.folder} has {base.size()}, the {larger.what} {larger.folder} has {larger.size()}: they are of "
            "different sizes. Take the base and the delta of the same size (7B with 7B, 13B with 13B)."
        )
    if base.rows(EMBEDDING) > larger.rows(EMBEDDING):
        raise BaseMismatch(
            f"{base.folder} has {base.rows(EMBEDDING)} tokens, the {larger.what} only {larger.rows(EMBEDDING)}. "
            "The original LLaMA has 32000: was a model with added tokens given as the base, such as Vicuna?"
        )
    missing = [name for name in base.names if name not in larger.weights]
    if missing:
        raise BaseMismatch(
            f"{larger.folder}: {len(missing)} tensors of the base are missing in the {larger.what}, such as "
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


def check_is_delta(delta: Source, base: Source) -> None:
    """Full weights given as a delta would give a model of noise, and no other check would notice.

    Raises:
        BaseMismatch: the norms are as large as the base's own.
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
            "large as the base's. Is it a complete model already (then there is nothing to apply), or were --base and "
            "--delta swapped? --force applies it all the same."
        )


def check_base(delta: Source, base: Source) -> str:
    """Compares the base with what the delta says it was made from; returns a sentence on what was found.

    Raises:
        BaseMismatch: another fingerprint, or tokens that the original base does not have.
    """
    stated = read_json(delta.folder / BASE_FILE) if (delta.folder / BASE_FILE).is_file() else None
    if stated is not None:
        found = weights_fingerprint(base)
        if stated.get("fingerprint") != found:
            raise BaseMismatch(
                f"{base.folder}: is not the base that this delta was made from ({stated.get('name')!r}): its "
                f"fingerprint is {found[:16]}, the delta asks for {str(stated.get('fingerprint'))[:16]} ({BASE_FILE}). "
                "A fine-tuned copy differs too. --force applies it all the same."
            )
        return f"the base has the fingerprint that the delta asks for ({found[:16]})"
    pieces = _num_pieces(delta.folder)
    if pieces is not None and base.rows(EMBEDDING) != pieces:
        raise BaseMismatch(
            f"{base.folder} has {base.rows(EMBEDDING)} tokens, the tokenizer that the delta's base came with {pieces}. "
            "LLaVA's deltas go onto the original LLaMA, not onto a model with added tokens such as Vicuna. "
            "--force applies it all the same."
        )
    names = (base.folder.name, str(base.config.get("_name_or_path", "")))
    if any("vicuna" in name.lower() for name in names):
        return (
            "its name says Vicuna. LLaVA's deltas go onto the original LLaMA: with Vicuna the result answers nonsense"
        )
    return "the delta does not say which base it was made from; names, shapes and sizes fit"


def _num_pieces(folder: Path) -> int | None:
    """Tokens of a folder's sentencepiece model, which knows nothing of tokens added later."""
    if not (folder / "tokenizer.model").is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()


def weights_fingerprint(source: Source) -> str:
    """SHA-256 over the names, shapes and first values (as float16) of all tensors; the same for any file format."""
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


def base_statement(base: Source) -> dict[str, Any]:
    """What a delta says of its base."""
    return {
        "name": base.config.get("_name_or_path") or Path(base.folder).name,
        "fingerprint": weights_fingerprint(base),
    }


def _width_and_depth(source: Source) -> tuple[int, int]:
    layers = {name.split(".")[2] for name in source.names if name.startswith("model.layers.")}
    return source.weights.shape(EMBEDDING)[1], len(layers)


def check_complete(target: Source, what: str) -> None:
    """A LLaVA without a projector would only show at its first image.

    Raises:
        CheckpointError: the config speaks of images, the tensors do not.
    """
    sees = target.config.get("mm_vision_tower") or target.config.get("use_mm_proj")
    if sees and not any("mm_projector" in name for name in target.names):
        raise CheckpointError(
            f"{target.folder}: its config names a vision tower, but the {what} has no projector (mm_projector.*). "
            "Is the download complete?"
        )
