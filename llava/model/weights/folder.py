"""What the tools that write weights share: common arguments, opening their inputs, the files beside the weights."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest, TokenizerNotFound
from llava.model.weights.reader import LEFTOVER, OWN_TOWER, Checkpoint, open_checkpoint, read_json, resolve_folder
from llava.model.weights.writer import DEFAULT_SHARD_BYTES, CheckpointWriter, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = ("float16", "bfloat16", "float32")
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
OTHER_FILES = ("generation_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def add_writing_arguments(parser: argparse.ArgumentParser, *, dtype: str | None = "float16") -> None:
    """Arguments of every command that writes a model folder; `dtype` is the default, None keeps each tensor's own."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default=dtype, help=f"of the written weights ({dtype or 'as they are'})"
    )
    parser.add_argument(
        "--max-shard-size",
        type=size_in_bytes,
        default=DEFAULT_SHARD_BYTES,
        metavar="SIZE",
        help="begin a new file before it grows beyond this, as in 500MB or 5GB (5GB)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


@dataclass(frozen=True)
class Writing:
    """How a tool writes its model folder."""

    dtype: torch.dtype | None = None
    """Of the weights; None keeps each tensor's own."""
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    overwrite: bool = False
    quiet: bool = True
    """No progress bar."""


def writing_options(args: argparse.Namespace) -> Writing:
    """What `add_writing_arguments` parsed."""
    return Writing(named_dtype(args.dtype), args.max_shard_size, args.overwrite, args.quiet)


@contextmanager
def open_target(target: Path, specs: list[TensorSpec], options: Writing) -> Iterator[CheckpointWriter]:
    """A writer for the tensors `specs`, with a progress bar of its own; the caller writes them and calls `finish`.

    Raises:
        CheckpointError: no room on the disk, or another process writes there; the target is as it was before.
        InvalidRequest: the target exists.
    """
    with (
        progress_bar(sum(spec.num_bytes for spec in specs), f"writing {target.name}", quiet=options.quiet) as advance,
        CheckpointWriter(
            target,
            specs,
            max_shard_bytes=options.max_shard_bytes,
            overwrite=options.overwrite,
            progress=advance,
        ) as writer,
    ):
        yield writer


def add_delta_arguments(parser: argparse.ArgumentParser, *, target: str, delta: str) -> None:
    """The three folders of a delta; `target` and `delta` say what they are to this command.

    The short spellings are how LLaVA's documentation always wrote them; no later flag may begin with one of them.
    """
    for short, name, text in (
        ("base", "base-model-path", "the language model that the delta is from, folder or hub id"),
        ("target", "target-model-path", target),
        ("delta", "delta-path", delta),
    ):
        parser.add_argument(f"--{name}", f"--{short}", dest=short, required=True, metavar="DIR", help=text)


def size_in_bytes(text: str) -> int:
    """`500MB`, `5GB`, `2GiB` or a number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as in 500MB or 5GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def named_dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)


@dataclass(frozen=True)
class Source:
    """A model folder whose weights are read."""

    what: str
    """`base`, `delta`, ...: how messages call it."""
    folder: Path
    config: dict[str, Any]
    weights: Checkpoint

    @property
    def names(self) -> list[str]:
        """Its tensors in file order, without the leftovers of old releases."""
        return [name for name in self.weights if not LEFTOVER.search(name)]

    def rows(self, name: str) -> int:
        """Rows of a matrix, 0 if there is none of this name."""
        return self.weights.shape(name)[0] if name in self.weights else 0

    def size(self) -> str:
        """`32 layers of width 4096, 32000 tokens`."""
        layers = {match[1] for name in self.weights if (match := re.search(r"layers\.(\d+)\.", name))}
        embedding = "model.embed_tokens.weight"
        shape = self.weights.shape(embedding) if embedding in self.weights else (0, 0)
        return f"{len(layers)} layers of width {shape[1]}, {shape[0]} tokens"


def open_source(path: str | Path, what: str) -> Source:
    """Opens a model folder, or fetches it from the hub; reads no weights yet.

    Raises:
        CheckpointError: (or one of its kinds) no such folder, no or broken weight files.
    """
    folder = resolve_folder(path, what=what)
    return Source(what, folder, read_json(folder / "config.json"), open_checkpoint(folder))


def check_distinct(paths: dict[str, str | Path]) -> None:
    """All arguments must name different folders, none within another: what is written must not be what is read.

    Raises:
        InvalidRequest: names the two arguments.
    """
    places = {name: Path(path).expanduser().resolve() for name, path in paths.items()}
    names = list(places)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if places[one] == places[other]:
                raise InvalidRequest(f"{one} and {other} are the same folder, {places[one]}. Give two different ones.")
            if places[one] in places[other].parents or places[other] in places[one].parents:
                raise InvalidRequest(
                    f"{one} ({places[one]}) and {other} ({places[other]}): one lies within the other. "
                    "Choose folders beside each other."
                )


def check_tokenizer(source: Source, num_rows: int) -> None:
    """The tokenizer must be there, and its tokens must fit the embedding.

    Raises:
        TokenizerNotFound: no tokenizer file.
        CheckpointError: it adds a token for which the embedding has no row.
    """
    if not any((source.folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise TokenizerNotFound(source.folder, ("tokenizer.model", "tokenizer.json"))
    added = source.folder / "added_tokens.json"
    if not added.is_file():
        return
    for token, index in read_json(added).items():
        if isinstance(index, int) and index >= num_rows:
            raise CheckpointError(
                f"{added}: token {token!r} has id {index}, the embedding of the {source.what} only {num_rows} rows. "
                "The tokenizer and the weights belong to different models."
            )


def copy_companions(
    writer: CheckpointWriter, source: Source, names: tuple[str, ...] = TOKENIZER_FILES + OTHER_FILES
) -> None:
    """Copies those of the files that the folder has, and the vision tower that lies in it."""
    for name in names:
        if (source.folder / name).is_file():
            writer.copy(source.folder / name)
    tower = str(source.config.get("mm_vision_tower") or OWN_TOWER)
    if not Path(tower).is_absolute() and (source.folder / tower / "config.json").is_file():
        writer.copy(source.folder / tower, tower)


def write_model(
    target: Path,
    specs: list[TensorSpec],
    options: Writing,
    blocks: Callable[[TensorSpec], Iterable[Tensor]],
    *,
    like: Source,
    dtype: torch.dtype,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes a whole model folder: weights, config, and the files beside them.

    Args:
        blocks: slices of a tensor's first dimension, in order.
        like: whose config and tokenizer the model has.
        dtype: what the config says of the weights.
        more: further JSON files, by name.

    Raises:
        CheckpointError: a value that is not finite, or no room on the disk; the target is as it was before.
        InvalidRequest: the target exists.
    """
    with open_target(target, specs, options) as writer:
        for spec in specs:
            writer.write(spec.name, blocks(spec))
        writer.write_json("config.json", upgraded_config(like.config, dtype))
        for name, content in (more or {}).items():
            writer.write_json(name, content)
        copy_companions(writer, like)
        writer.finish()


def converted_specs(source: Source, dtype: torch.dtype | None) -> list[TensorSpec]:
    """All tensors of a source; those of numbers with a fraction in `dtype`, where one is given."""
    specs = []
    for name in source.names:
        own = source.weights.dtype(name)
        specs.append(TensorSpec(name, source.weights.shape(name), dtype if dtype and own.is_floating_point else own))
    return specs


def converted(source: Source, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks of one tensor in `dtype`."""
    for first, last in source.weights.row_ranges(name):
        yield source.weights.rows(name, first, last).to(dtype)


def upgraded_config(settings: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A `config.json` for the written weights; deltas of spring 2023 call themselves plain LLaMA."""
    settings = dict(settings, torch_dtype=str(dtype).removeprefix("torch."))
    settings.pop("dtype", None)
    if settings.get("mm_vision_tower") or settings.get("use_mm_proj"):
        settings["architectures"] = ["LlavaLlamaForCausalLM"]
        if settings.get("model_type", "llama") == "llama":
            settings["model_type"] = "llava_llama"
    # Left over from training; it would make every answer slow.
    settings["use_cache"] = True
    return settings


@contextmanager
def progress_bar(num_bytes: int, what: str, *, quiet: bool) -> Iterator[Any]:
    """A bar of bytes with their rate on stderr; gives the function to call with each block's bytes."""
    from tqdm import tqdm

    with tqdm(
        total=num_bytes, desc=what, unit="B", unit_scale=True, disable=quiet, file=sys.stderr, mininterval=0.5
    ) as bar:
        yield bar.update


def dominant_dtype(specs: list[TensorSpec]) -> torch.dtype:
    """The type that most bytes are in: what a config calls the type of the model."""
    sizes: dict[torch.dtype, int] = {}
    for spec in specs:
        sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.num_bytes
    return max(sizes, key=lambda dtype: sizes[dtype])
