"""Serves every tool that writes weights: common flags, opening input folders, and the files beside the weights."""

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
from llava.model.weights.finite import check_finite
from llava.model.weights.quantised import warn_of_quantised_config
from llava.model.weights.reader import (
    EMBEDDING,
    LEFTOVER,
    OWN_TOWER,
    Checkpoint,
    open_checkpoint,
    read_model_json,
    resolve_folder,
)
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
    """Adds the flags of every command that writes a model folder.

    Args:
        dtype: default of `--dtype`; None keeps each tensor's own.
    """
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=dtype,
        help=f"Number format of the written weights (default: {dtype or 'unchanged'}).",
    )
    parser.add_argument(
        "--max-shard-size",
        type=size_in_bytes,
        default=DEFAULT_SHARD_BYTES,
        metavar="SIZE",
        help="Maximum size of one weight file, such as 500MB (default: 5GB).",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace the target if it exists.")
    parser.add_argument("--quiet", action="store_true", help="Hide the progress bar.")


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """How a tool writes its model folder."""

    dtype: torch.dtype | None = None
    """Number format of the weights; None keeps each tensor's own."""
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    """Largest size of one weight file, in bytes."""
    overwrite: bool = False
    """Whether an existing target is replaced."""
    quiet: bool = True
    """Whether the progress bar is hidden."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> WriteSettings:
        """Builds the settings from what `add_writing_arguments` parsed."""
        dtype = None
        if args.dtype is not None:
            from llava.model.loading.device import named_dtype

            dtype = named_dtype(args.dtype)
        return cls(dtype, args.max_shard_size, args.overwrite, args.quiet)


@contextmanager
def open_target(target: Path, specs: list[TensorSpec], options: WriteSettings) -> Iterator[CheckpointWriter]:
    """Opens a writer for the tensors `specs`, with a progress bar; the caller writes them and calls `finish`.

    Raises:
        CheckpointError: the disk is full, or another process is writing the target, which stays as it was.
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
    """Adds the flags for the three folders of a delta.

    LLaVA's documentation has always used the short spellings, so no other flag may begin with one of them.

    Args:
        target, delta: help texts of the two flags, which differ between commands.
    """
    for short, name, text in (
        ("base", "base-model-path", "Folder or hub id of the language model that the delta is based on."),
        ("target", "target-model-path", target),
        ("delta", "delta-path", delta),
    ):
        parser.add_argument(f"--{name}", f"--{short}", dest=short, required=True, metavar="DIR", help=text)


def size_in_bytes(text: str) -> int:
    """Parses a size such as `500MB`, `5GB`, `2GiB` or a number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 500MB or 5GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A model folder whose weights are read."""

    what: str
    """What messages call it: `base`, `delta`, ..."""
    folder: Path
    config: dict[str, Any]
    """The content of its `config.json`."""
    weights: Checkpoint

    @property
    def names(self) -> list[str]:
        """Names of its tensors in file order, without the buffers of old releases."""
        return [name for name in self.weights if not LEFTOVER.search(name)]

    def rows(self, name: str) -> int:
        """Returns the number of rows of a matrix, 0 if it does not exist."""
        return self.weights.shape(name)[0] if name in self.weights else 0

    @property
    def num_layers(self) -> int:
        return len({name.split(".")[2] for name in self.weights if name.startswith("model.layers.")})

    @property
    def width(self) -> int:
        """Size of the language model's hidden states; 0 without an embedding."""
        return self.weights.shape(EMBEDDING)[1] if EMBEDDING in self.weights else 0

    def size(self) -> str:
        """Describes the size: `32 layers of width 4096, 32000 tokens`."""
        return describe_size(self.num_layers, self.width, self.rows(EMBEDDING))


def describe_size(num_layers: int, width: int, num_tokens: int) -> str:
    return f"{num_layers} layers of width {width}, {num_tokens} tokens"


def open_source(path: str | Path, what: str) -> SourceFolder:
    """Opens a model folder, or fetches it from the hub, without reading weights yet.

    Raises:
        CheckpointError: (or one of its kinds) no such folder, or no or broken weight files.
    """
    folder = resolve_folder(path, what=what)
    config_json = read_model_json(folder / "config.json")
    weights = open_checkpoint(folder)
    warn_of_quantised_config(config_json, folder)
    return SourceFolder(what, folder, config_json, weights)


def check_distinct(paths: dict[str, str | Path]) -> None:
    """Checks that all arguments name different folders, none inside another, so that no input is overwritten.

    Raises:
        InvalidRequest: names the two arguments at fault.
    """
    places = {name: Path(path).expanduser().resolve() for name, path in paths.items()}
    names = list(places)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if places[one] == places[other]:
                raise InvalidRequest(
                    f"{one} and {other} are the same folder, {places[one]}. Give two different folders."
                )
            if places[one] in places[other].parents or places[other] in places[one].parents:
                raise InvalidRequest(
                    f"{one} ({places[one]}) and {other} ({places[other]}): one lies inside the other. "
                    "Choose separate folders."
                )


def check_tokenizer(source: SourceFolder, num_rows: int) -> None:
    """Checks that the tokenizer exists and that its tokens fit the embedding.

    Raises:
        TokenizerNotFound: no tokenizer file.
        CheckpointError: an added token for which the embedding has no row.
    """
    if not any((source.folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise TokenizerNotFound(source.folder, ("tokenizer.model", "tokenizer.json"))
    added = source.folder / "added_tokens.json"
    if not added.is_file():
        return
    for token, index in read_model_json(added).items():
        if isinstance(index, int) and index >= num_rows:
            raise CheckpointError(
                f"{added}: token {token!r} has id {index}, but the embedding of the {source.what} has only "
                f"{num_rows} rows. The tokenizer and the weights belong to different models."
            )


def copy_companions(
    writer: CheckpointWriter, source: SourceFolder, names: tuple[str, ...] = TOKENIZER_FILES + OTHER_FILES
) -> None:
    """Copies those of the files that the folder has, and the vision tower inside it, if there is one."""
    for name in names:
        if (source.folder / name).is_file():
            writer.copy(source.folder / name)
    tower = str(source.config.get("mm_vision_tower") or OWN_TOWER)
    if not Path(tower).is_absolute() and (source.folder / tower / "config.json").is_file():
        writer.copy(source.folder / tower, tower)


def write_model(
    target: Path,
    specs: list[TensorSpec],
    options: WriteSettings,
    blocks: Callable[[TensorSpec], Iterable[Tensor]],
    *,
    like: SourceFolder,
    dtype: torch.dtype,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes a whole model folder: weights, config, and the files beside them.

    Args:
        blocks: returns the slices of a tensor's first dimension, in order.
        like: folder whose config and tokenizer the model takes.
        dtype: number format to name in the config.
        more: further JSON files by name.

    Raises:
        CheckpointError: a value that is not finite, or a full disk; the target stays as it was.
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


def converted_specs(source: SourceFolder, dtype: torch.dtype | None) -> list[TensorSpec]:
    """Lists all tensors of a source, the floating-point ones in `dtype` unless it is None."""
    specs = []
    for name in source.names:
        own = source.weights.dtype(name)
        specs.append(TensorSpec(name, source.weights.shape(name), dtype if dtype and own.is_floating_point else own))
    return specs


def converted(source: SourceFolder, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields blocks of one tensor in `dtype`.

    Raises:
        WeightsNotFinite: it holds NaN or infinite values.
    """
    for first, last in source.weights.row_ranges(name):
        yield check_finite(source.weights.rows(name, first, last), name, source.weights.file_of(name)).to(dtype)


def upgraded_config(settings: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Returns the `config.json` for the written weights; deltas of spring 2023 claim to be plain LLaMA."""
    settings = dict(settings, torch_dtype=str(dtype).removeprefix("torch."))
    settings.pop("dtype", None)
    settings.pop("quantization_config", None)  # quantised weights are not read
    if settings.get("mm_vision_tower") or settings.get("use_mm_proj"):
        if settings.get("model_type", "llama") == "llama":
            settings["model_type"] = "llava_llama"
        if settings["model_type"] == "llava_llama":
            settings["architectures"] = ["LlavaLlamaForCausalLM"]
    # Training switches the cache off, which would make every answer slow.
    settings["use_cache"] = True
    return settings


@contextmanager
def progress_bar(num_bytes: int, what: str, *, quiet: bool) -> Iterator[Any]:
    """Shows a bar of bytes and their rate on stderr; yields the function to call with each block's bytes."""
    from tqdm import tqdm

    with tqdm(
        total=num_bytes, desc=what, unit="B", unit_scale=True, disable=quiet, file=sys.stderr, mininterval=0.5
    ) as bar:
        yield bar.update


def dominant_dtype(specs: list[TensorSpec]) -> torch.dtype:
    """Returns the dtype of most bytes, which a config names as the dtype of the model."""
    sizes: dict[torch.dtype, int] = {}
    for spec in specs:
        sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.num_bytes
    return max(sizes, key=lambda dtype: sizes[dtype])
