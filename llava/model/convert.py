"""Converts a LLaVA between its own format and transformers', with everything beside the weights.

    python -m llava.model.convert --model-path /path/to/LLaVA-7B-v0 --output /path/to/export

Exports load in transformers (`LlavaForConditionalGeneration`, or `LlavaNextForConditionalGeneration` for tiled
pictures) and are in the format that engines such as vLLM and SGLang read, with no need of this package: vision tower,
processor and chat template are in the folder. A folder in transformers' format is turned back into the original's.
Reads and writes block by block.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import run
from llava.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llava.model.checkpoint import Checkpoint
    from llava.model.checkpoint_writer import CheckpointWriter, TensorSpec
    from llava.model.flavours import Flavour

FORMATS = ("transformers", "original")
IMAGE_TOKEN = "<image>"
_TOKENIZER_KEY = "tokenizer"
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weight_tools import add_writing_arguments

    parser.add_argument("--model-path", required=True, metavar="DIR", help="LLaVA to read, folder or hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--to", choices=FORMATS, help="format to write (the one that it is not in)")
    parser.add_argument("--vision-tower", metavar="DIR", help="folder of the tower (what the checkpoint says)")
    parser.add_argument("--conv-mode", metavar="NAME", help="template to export (the checkpoint's own)")
    add_writing_arguments(parser, dtype=None)


def main(args: argparse.Namespace) -> int:
    from llava.model.checkpoint import resolve_folder
    from llava.model.flavours import read_flavour
    from llava.model.weight_tools import check_distinct

    check_distinct({"--model-path": args.model_path, "--output": args.output})
    folder = resolve_folder(args.model_path)
    flavour = read_flavour(folder)
    if flavour.kind not in ("flat", "nested"):
        what = {"text": "a language model without pictures", "lora": "a LoRA run", "projector": "only a projector"}
        hint = " Merge it first with scripts/merge_lora_weights.py." if flavour.kind == "lora" else ""
        raise InvalidRequest(f"{folder}: holds {what[flavour.kind]}; a whole LLaVA can be converted.{hint}")
    wanted = args.to or ("original" if flavour.kind == "nested" else "transformers")
    if wanted == ("original" if flavour.kind == "flat" else "transformers"):
        raise InvalidRequest(f"{folder}: is in the {wanted} format already.")
    convert = export if wanted == "transformers" else restore
    for line in convert(folder, flavour, Path(args.output), args):
        print(line)
    print(f"{args.output}: ready")
    return 0


# Export: the original's format -> transformers'


def export(folder: Path, flavour: Flavour, target: Path, args: argparse.Namespace) -> list[str]:
    """Writes the flat checkpoint in `folder` in transformers' format; returns what there is to say about it.

    Raises:
        InvalidRequest: a projector, tower or template that the format has no place for.
    """
    from llava.era import era_of
    from llava.model import exported
    from llava.model.checkpoint_writer import CheckpointWriter
    from llava.model.weight_tools import named_dtype, progress_bar

    checkpoint, sources, tower = _open_parts(folder, flavour, args.vision_tower)
    config = flavour.config
    kind = config.mm_projector_type or "linear"
    if kind not in ("linear", "mlp2x_gelu"):
        raise InvalidRequest(
            f"{folder}: has a projector of type {kind!r}; transformers' format holds linear and mlp2x_gelu."
        )
    tokenizer = _exported_tokenizer(folder, era_of(config), config)
    dtype = named_dtype(args.dtype)
    plan = _Plan(checkpoint, dtype)
    form = None
    if kind == "linear":
        form = exported.linear_form(int(config.mm_hidden_size or 0), config.hidden_size)
        weight = checkpoint.tensor(sources["model.mm_projector.weight"])
        bias = checkpoint.tensor(sources["model.mm_projector.bias"])
        for name, value in exported.two_layers(weight, bias, form).items():
            plan.add(f"{exported.PROJECTOR}{name}", value=value)
    rows = max(len(tokenizer), checkpoint.shape(sources[_EMBEDDINGS[0]])[0])
    for ours, theirs in sources.items():
        if form is not None and ".mm_projector." in ours:
            continue
        plan.add(exported.exported_name(ours), source=theirs, rows=rows if ours in _EMBEDDINGS else None)
    if config.tie_word_embeddings and "lm_head.weight" not in sources:
        plan.add("language_model.lm_head.weight", source=sources[_EMBEDDINGS[0]], rows=rows)
    for name in tower.names:
        plan.add(f"vision_tower.vision_model.{name}", source=tower.names[name], checkpoint=tower.weights)
    settings = _exported_config(config, tower, rows, tokenizer, form, plan.dominant_dtype)
    settings[exported.SOURCE_KEY][_TOKENIZER_KEY] = _tokenizer_settings(folder)
    with (
        progress_bar(plan.num_bytes, f"writing {target.name}", quiet=args.quiet) as advance,
        CheckpointWriter(
            target, plan.specs, max_shard_bytes=args.max_shard_size, overwrite=args.overwrite, progress=advance
        ) as writer,
    ):
        plan.write(writer)
        writer.write_json("config.json", settings)
        _write_processor(writer, folder, config, tower, tokenizer, args.conv_mode)
        writer.finish()
    return _notes(form, settings, tokenizer, config)


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """The small files that make a tokenizer of `tokenizer.model`, to be put back later; {} if there are others."""
    from llava.model.checkpoint import read_json
    from llava.model.weight_tools import TOKENIZER_FILES

    if (folder / "tokenizer.json").is_file():
        return {}
    names = [name for name in TOKENIZER_FILES if name != "tokenizer.model"]
    return {name: read_json(folder / name) for name in names if (folder / name).is_file()}


class _Tower:
    """The vision tower of a checkpoint, wherever its weights are."""

    def __init__(self, folder: Path, config: Any, weights: Checkpoint, names: dict[str, str]):
        self.folder = folder
        """Holds its image processor's settings."""
        self.config = config
        """transformers' config of the vision model."""
        self.weights = weights
        self.names = names
        """Name without any prefix -> name in `weights`."""


def _open_parts(folder: Path, flavour: Flavour, vision_tower: str | None) -> tuple[Checkpoint, dict[str, str], _Tower]:
    """The language model's and projector's tensors by our names, and the tower."""
    from llava.model.builder import check_tensors
    from llava.model.checkpoint import OWN_TOWER, open_checkpoint, read_json
    from llava.model.exported import one_layer
    from llava.model.flavours import TOWER_PREFIX
    from llava.model.multimodal_encoder.builder import find_vision_tower, tower_config

    checkpoint = one_layer(open_checkpoint(folder), read_json(folder / "config.json"))
    sources = flavour.rename(checkpoint)
    check_tensors(flavour.config, checkpoint, sources)
    own = {name: theirs for name, theirs in sources.items() if name.startswith(TOWER_PREFIX)}
    sources = {name: theirs for name, theirs in sources.items() if name not in own}
    if flavour.vision_config is not None:
        names = {name.removeprefix(f"{TOWER_PREFIX}vision_tower."): theirs for name, theirs in own.items()}
        return checkpoint, sources, _Tower(folder, flavour.vision_config, checkpoint, names)
    described = folder / OWN_TOWER
    if own and vision_tower is None:
        place = described
        if not (described / "config.json").is_file():
            place = find_vision_tower(flavour.config.mm_vision_tower or "", model_folder=folder)
        names = {name.removeprefix(f"{TOWER_PREFIX}vision_tower."): theirs for name, theirs in own.items()}
        tower = _Tower(place, tower_config(place), checkpoint, names)
    else:
        place = find_vision_tower(str(vision_tower or flavour.config.mm_vision_tower), model_folder=folder)
        weights = open_checkpoint(place)
        names = {
            name.removeprefix("vision_model."): name
            for name in weights
            if not name.startswith(("text_", "logit_", "visual_projection")) and not name.endswith("position_ids")
        }
        tower = _Tower(place, tower_config(place), weights, names)
    if tower.config.model_type != "clip_vision_model":
        raise InvalidRequest(f"{place}: is a tower of type {tower.config.model_type!r}; exports hold CLIP towers.")
    return checkpoint, sources, tower


class _Plan:
    """The tensors of an output in order, and where each comes from."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None):
        self.specs: list[TensorSpec] = []
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._blocks: dict[str, tuple[Checkpoint, str, Tensor | None]] = {}

    def add(
        self,
        name: str,
        *,
        source: str = "",
        value: Tensor | None = None,
        rows: int | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """One tensor, of a checkpoint or given; `rows` cuts it, or lengthens it by the mean of its rows."""
        from llava.model.checkpoint_writer import TensorSpec

        weights = checkpoint or self._checkpoint
        shape = tuple(value.shape) if value is not None else weights.shape(source)
        own = value.dtype if value is not None else weights.dtype(source)
        dtype = self._dtype if self._dtype is not None and own.is_floating_point else own
        self.specs.append(TensorSpec(name, (rows, *shape[1:]) if rows is not None else shape, dtype))
        self._blocks[name] = (weights, source, value)

    @property
    def num_bytes(self) -> int:
        return sum(spec.num_bytes for spec in self.specs)

    @property
    def dominant_dtype(self) -> torch.dtype:
        from llava.model.weight_tools import dominant_dtype

        return dominant_dtype(self.specs)

    def write(self, writer: CheckpointWriter) -> None:
        for spec in self.specs:
            writer.write(spec.name, self._read(spec))

    def _read(self, spec: TensorSpec) -> Iterator[Tensor]:
        weights, source, value = self._blocks[spec.name]
        if value is not None:
            yield value.to(spec.dtype)
            return
        total, count = None, 0
        for first, last in weights.row_ranges(source):
            block = weights.rows(source, first, last)
            if not spec.shape:
                yield block.to(spec.dtype)
                return
            block = block[: max(0, spec.shape[0] - first)]
            count += len(block)
            if spec.shape[0] > weights.shape(source)[0]:
                total = block.float().sum(0) + (0 if total is None else total)
            yield block.to(spec.dtype)
        if total is not None:
            # The logit of a mean row is the mean of all logits: a new token is never the most likely one.
            yield (total / count).expand(spec.shape[0] - count, *spec.shape[1:]).to(spec.dtype)


def _exported_tokenizer(folder: Path, era: str, config: Any) -> Any:
    """The checkpoint's tokenizer, with a token for a picture."""
    from tokenizers import AddedToken

    from llava.model.builder import context_length
    from llava.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if era != "v0":
        # Later releases tokenise the text on either side of a picture by itself, whitespace included.
        token = AddedToken(IMAGE_TOKEN, lstrip=False, rstrip=False, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)
    first = tokenizer("a").input_ids[0]
    if first in tokenizer.all_special_ids:
        # Trainers of v0 wrote "</s>" here, yet every text began with id 1.
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(first)
    tokenizer.model_max_length = context_length(config)
    return tokenizer


def _picture_tokens(config: Any, tokenizer: Any) -> tuple[str, str]:
    """The token that becomes a picture's features, and the text of one picture in a prompt."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    vocabulary = tokenizer.get_vocab()
    token = IMAGE_TOKEN if IMAGE_TOKEN in vocabulary else DEFAULT_IMAGE_PATCH_TOKEN
    if token not in vocabulary:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer has no {token}. Copy the checkpoint's own tokenizer."
        )
    wrapped = f"{DEFAULT_IM_START_TOKEN}{token}{DEFAULT_IM_END_TOKEN}" if config.mm_use_im_start_end else token
    return token, wrapped


def _exported_config(
    config: Any, tower: _Tower, rows: int, tokenizer: Any, form: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    from transformers import LlamaConfig

    from llava.model.exported import LINEAR_FORM_KEY, SOURCE_KEY

    known = set(LlamaConfig().to_dict())
    ours = config.to_dict()
    text = {key: value for key, value in ours.items() if key in known and key not in ("architectures", "_name_or_path")}
    text.update(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=rows)
    # transformers 4 knows the base of the rotary embedding by this key alone.
    text["rope_theta"] = (text.get("rope_parameters") or {}).get("rope_theta", 10_000.0)
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    full = config.mm_vision_select_feature == "cls_patch"
    tiled = config.image_aspect_ratio == "anyres"
    settings: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration" if tiled else "LlavaForConditionalGeneration"],
        "model_type": "llava_next" if tiled else "llava",
        "text_config": text,
        "vision_config": {**tower.config.to_dict(), "model_type": "clip_vision_model"},
        "image_token_index": tokenizer.convert_tokens_to_ids(_picture_tokens(config, tokenizer)[0]),
        "image_seq_length": patches + full,
        "projector_hidden_act": "linear" if form == "identity" else "gelu",
        "vision_feature_layer": config.mm_vision_select_layer,
        "vision_feature_select_strategy": "full" if full else "default",
        "tie_word_embeddings": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # What this format has no place for; `convert --to original` reads it.
        SOURCE_KEY: {"config": {key: value for key, value in ours.items() if key not in known or key in _KEPT}},
    }
    if form is not None:
        settings[SOURCE_KEY][LINEAR_FORM_KEY] = form
    if tiled:
        if config.mm_patch_merge_type != "spatial_unpad":
            raise InvalidRequest(
                f"mm_patch_merge_type is {config.mm_patch_merge_type!r}; transformers' LLaVA-NeXT knows spatial_unpad."
            )
        # LLaVA writes (width, height), transformers (height, width).
        settings["image_grid_pinpoints"] = [[height, width] for width, height in config.image_grid_pinpoints]
        settings["use_image_newline_parameter"] = True
    return settings


_KEPT = ("vocab_size", "architectures", "model_type", "tie_word_embeddings")


def _write_processor(
    writer: CheckpointWriter, folder: Path, config: Any, tower: _Tower, tokenizer: Any, conv_mode: str | None
) -> None:
    """Tokenizer, image processor, processor, chat template and generation settings."""
    from llava.conversation import template
    from llava.era import default_template_for, era_of
    from llava.model.chat_template import chat_template
    from llava.model.checkpoint import read_json

    token, picture = _picture_tokens(config, tokenizer)
    era = era_of(config)
    conversation = template(conv_mode or default_template_for(config, name=folder.name), era=era)
    bos = tokenizer.bos_token if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    tokenizer.save_pretrained(writer.folder)
    writer.write_json("tokenizer_config.json", _portable(read_json(writer.folder / "tokenizer_config.json")))
    if (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")
    (writer.folder / "chat_template.jinja").write_text(chat_template(conversation, picture=picture, bos=bos))
    processor = _image_processor_settings(config, tower)
    writer.write_json("preprocessor_config.json", processor)
    writer.write_json(
        "processor_config.json",
        {
            "processor_class": processor["processor_class"],
            "image_token": token,
            "num_additional_image_tokens": 1,  # CLIP's class token
            "patch_size": tower.config.patch_size,
            "vision_feature_select_strategy": "full" if config.mm_vision_select_feature == "cls_patch" else "default",
        },
    )
    writer.write_json(
        "generation_config.json",
        {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id},
    )


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that transformers 4 reads as well as 5.

    By any other class name they would build their own LLaMA tokenizer in place of the one that is written.
    """
    left_out = ("backend", "is_local", "local_files_only", "extra_special_tokens")
    kept = {key: value for key, value in settings.items() if key not in left_out}
    more = settings.get("extra_special_tokens") or []
    return kept | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": more,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _image_processor_settings(config: Any, tower: _Tower) -> dict[str, Any]:
    from llava.model.multimodal_encoder.builder import load_image_processor

    settings = {
        key: value
        for key, value in load_image_processor(tower.folder).to_dict().items()
        if value is not None and not key.endswith("_processor_type")
    }
    shape = config.image_aspect_ratio
    if shape == "anyres":
        grid = [[height, width] for width, height in config.image_grid_pinpoints]
        return settings | {
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
            "image_grid_pinpoints": grid,
            "do_pad": True,
        }
    if shape == "pad":
        return settings | {
            "image_processor_type": "LlavaImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_pad": True,
        }
    return settings | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}


def _notes(form: str | None, settings: dict[str, Any], tokenizer: Any, config: Any) -> list[str]:
    lines = [f"{settings['architectures'][0]}, picture token {_picture_tokens(config, tokenizer)[0]}"]
    if form == "pair":
        lines.append("the linear projector is written as two layers that give the same result; any engine can run it")
    if form == "identity":
        lines.append(
            "the linear projector is written without an activation (projector_hidden_act: linear), because the "
            f"language model ({config.hidden_size}) is less than twice as wide as the tower's features "
            f"({config.mm_hidden_size}): transformers runs it, vLLM does not know this activation"
        )
    if config.image_aspect_ratio == "keep":
        lines.append("image_aspect_ratio keep has no counterpart there: pictures are cropped to a square")
    return lines


# Back: transformers' format -> the original's


def restore(folder: Path, flavour: Flavour, target: Path, args: argparse.Namespace) -> list[str]:
    """Writes the transformers-format checkpoint in `folder` in the original's format; returns what there is to say."""
    from llava.model.checkpoint import OWN_TOWER, read_json
    from llava.model.checkpoint_writer import CheckpointWriter
    from llava.model.exported import SOURCE_KEY
    from llava.model.flavours import TOWER_PREFIX
    from llava.model.weight_tools import named_dtype, progress_bar

    checkpoint, sources, tower = _open_parts(folder, flavour, None)
    source = read_json(folder / "config.json").get(SOURCE_KEY) or {}
    rows = source.get("config", {}).get("vocab_size")
    # LLaVA-NeXT trains its tower along, so there it stays with the rest; a frozen one gets a folder of its own.
    trained = bool(flavour.config.image_grid_pinpoints)
    dtype = named_dtype(args.dtype)
    plan, towers = _Plan(checkpoint, dtype), _Plan(tower.weights, dtype)
    for ours, theirs in sources.items():
        plan.add(ours, source=theirs, rows=rows if ours in _EMBEDDINGS else None)
    for name, theirs in tower.names.items():
        if trained:
            plan.add(f"{TOWER_PREFIX}vision_tower.vision_model.{name}", source=theirs, checkpoint=tower.weights)
        else:
            towers.add(name, source=theirs)
    settings = _original_config(flavour.config, source, plan.dominant_dtype, trained=trained)
    with (
        progress_bar(plan.num_bytes + towers.num_bytes, f"writing {target.name}", quiet=args.quiet) as advance,
        CheckpointWriter(
            target, plan.specs, max_shard_bytes=args.max_shard_size, overwrite=args.overwrite, progress=advance
        ) as writer,
    ):
        plan.write(writer)
        writer.write_json("config.json", settings)
        if (folder / "generation_config.json").is_file():
            writer.copy(folder / "generation_config.json")
        _restore_tokenizer(writer, folder, source.get(_TOKENIZER_KEY), rows)
        _write_tower(writer.folder / OWN_TOWER, tower, towers, advance)
        writer.finish()
    return [f"LlavaLlamaForCausalLM, projector {settings.get('mm_projector_type') or 'linear'}, tower in {OWN_TOWER}/"]


def _original_config(config: Any, source: dict[str, Any], dtype: torch.dtype, *, trained: bool) -> dict[str, Any]:
    from llava.model.checkpoint import OWN_TOWER
    from llava.model.weight_tools import upgraded_config

    settings = {**config.to_dict(), **source.get("config", {})}
    settings.update(mm_vision_tower=OWN_TOWER, unfreeze_mm_vision_tower=trained, model_type="llava_llama")
    return upgraded_config(settings, dtype)


def _restore_tokenizer(
    writer: CheckpointWriter, folder: Path, saved: dict[str, Any] | None, num_tokens: int | None
) -> None:
    """The tokenizer as it was before the export, or under the class by which the original's tools know it.

    `num_tokens`: of the original; the export's token for a picture came after them.
    """
    from llava.model.checkpoint import read_json
    from llava.model.weight_tools import TOKENIZER_FILES

    if saved and (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")
        for name, content in saved.items():
            writer.write_json(name, content)
        return
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            writer.copy(folder / name)
    if num_tokens is not None and (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_tokens]
        writer.write_json("tokenizer.json", content)
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
        writer.write_json("tokenizer_config.json", settings | {"tokenizer_class": "LlamaTokenizer"})


def _write_tower(folder: Path, tower: _Tower, plan: _Plan, advance: Any) -> None:
    """A folder that `mm_vision_tower` can name; without weights where they are among the model's."""
    from llava.model.checkpoint_writer import CheckpointWriter
    from llava.model.multimodal_encoder.builder import load_image_processor

    with CheckpointWriter(folder, plan.specs, progress=advance) as writer:
        plan.write(writer)
        described = {**tower.config.to_dict(), "model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]}
        writer.write_json("config.json", described)
        load_image_processor(tower.folder).save_pretrained(writer.folder)
        writer.finish()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
