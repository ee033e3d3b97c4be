"""Loads every form of LLaVA checkpoint: original v0 to v1.6, projector or LoRA beside a base model, and transformers'.

What a folder is, its content says (`llava.model.loading.flavours`). The names, shapes and files are checked against the
model before anything is loaded, so a wrong folder fails at once and says which tensor of which file is wrong.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.errors import CheckpointError, InvalidRequest, ShapeMismatch
from llava.model.loading.device import choose_device, choose_dtype
from llava.model.loading.flavours import TOWER_PREFIX, Flavour, flat_config, read_flavour
from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
from llava.model.transformers_format.layout import one_layer
from llava.model.weights.adapter import copy_tensor, load_image_token_rows, load_projector, open_adapter
from llava.model.weights.reader import OWN_TOWER, Checkpoint, open_checkpoint, read_json, resolve_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
    from llava.model.multimodal_encoder.vision_tower import VisionTower

log = logging.getLogger(__name__)

_WORTH_A_PROGRESS_BAR = 1_000_000_000
"""Parameters; smaller models are there before a bar would be seen."""


def load_pretrained_model(
    model_path: str | Path,
    model_base: str | Path | None = None,
    model_name: str | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict[str, Any] | None = "auto",
    device: str | None = None,
    use_flash_attn: bool = False,
    *,
    dtype: torch.dtype | str | None = None,
    vision_tower: str | Path | None = None,
    mm_projector: str | Path | None = None,
    attn_implementation: str | None = None,
    max_memory: dict[int | str, str] | None = None,
) -> tuple[PreTrainedTokenizerFast, LlavaLlamaForCausalLM, Any, int]:
    """Loads a model for inference.

    Args:
        model_path: folder or hub id of any form in `llava.model.loading.flavours`.
        model_base: the language model, for projector-only and LoRA folders.
        model_name: accepted for callers of the original; the folder's content decides, never its name.
        load_8bit, load_4bit: quantise the language model; on a GPU with bitsandbytes (the extra `quant`), on a CPU
            to 8 bits with PyTorch's own (`llava.model.loading.quantization`).
        device_map: "auto" spreads over all CUDA GPUs; a dict is passed to transformers; None keeps one device.
        device: cuda, cuda:N, mps or cpu; None takes the best there is.
        use_flash_attn: the same as `attn_implementation="flash_attention_2"`.
        dtype: None chooses by device (`llava.model.loading.device.choose_dtype`).
        vision_tower: where the tower is, in place of what the checkpoint says.
        mm_projector: projector file, to make a LLaVA of a plain language model (with `vision_tower`).
        attn_implementation: "sdpa", "eager" or "flash_attention_2"; None leaves it to transformers.
        max_memory: for each GPU, as accelerate takes it, for `device_map="auto"`.

    Returns:
        (tokenizer, model in evaluation mode, image processor or None for a text-only model, context length in tokens).

    Raises:
        CheckpointError: (or one of its kinds) names the file and what to do.
        InvalidRequest: arguments that do not go together, or a device that is not there.
    """

    folder = resolve_folder(model_path)
    flavour = read_flavour(folder)
    device = _check_device(device or choose_device())
    int8_on_cpu = load_8bit and not load_4bit and device.startswith("cpu")
    quantization = None if int8_on_cpu else _quantization(load_8bit, load_4bit, device)
    if mm_projector is not None:
        flavour = _with_projector(flavour, folder, mm_projector, vision_tower)
    weights_folder = _weights_folder(flavour, folder, model_base)

    checkpoint = one_layer(open_checkpoint(weights_folder), read_json(weights_folder / "config.json"))
    config = flavour.config
    if weights_folder != folder:
        # Vocabulary size of the base; the rows of image tokens are added below.
        config.vocab_size = read_flavour(weights_folder).config.vocab_size
    sources = flavour.rename(checkpoint)
    check_tensors(config, checkpoint, sources, projector_elsewhere=weights_folder != folder or mm_projector is not None)

    num_parameters = sum(_numel(checkpoint.shape(name)) for name in sources.values())
    dtype = _named_dtype("float32" if int8_on_cpu else dtype) or choose_dtype(
        device, num_parameters, read_json(weights_folder / "config.json").get("torch_dtype")
    )
    model = _load_language_model(
        config,
        {ours: checkpoint[theirs] for ours, theirs in sources.items() if not ours.startswith(TOWER_PREFIX)},
        num_parameters,
        dtype=dtype,
        device_map=_device_map(device, device_map),
        max_memory=max_memory,
        quantization_config=quantization,
        attn_implementation="flash_attention_2" if use_flash_attn else attn_implementation,
    )
    tokenizer = load_tokenizer(folder if _has_tokenizer(folder) else weights_folder)
    _add_image_tokens(model, tokenizer, folder)
    if flavour.kind in ("projector", "lora") or mm_projector is not None:
        _apply_adapter(model, flavour, folder, mm_projector)
    _set_generation_config(model, weights_folder)
    if int8_on_cpu:
        from llava.model.loading.quantization import quantize_decoder

        quantize_decoder(model)
    image_processor = None
    if config.has_vision:
        with progress_bars(False):
            tower = _load_tower(flavour, folder, checkpoint, sources, vision_tower, dtype)
        model.attach_vision_tower(tower)
        model.config.mm_vision_tower = config.mm_vision_tower  # the model has a copy of the config
        image_processor = tower.image_processor
    return tokenizer, model.eval(), image_processor, context_length(config)


def context_length(config: LlavaConfig) -> int:
    """Tokens that prompt, images and answer may have together."""
    length = getattr(config, "max_sequence_length", None) or config.tokenizer_model_max_length
    return length or config.max_position_embeddings


def check_tensors(
    config: LlavaConfig, checkpoint: Checkpoint, sources: dict[str, str], *, projector_elsewhere: bool = False
) -> None:
    """Compares the tensors of a checkpoint with those that its config asks for, reading headers only.

    Raises:
        ShapeMismatch: a tensor of the wrong shape.
        CheckpointError: tensors are missing.
    """
    import torch

    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    with torch.device("meta"):
        expected = LlavaLlamaForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    missing = [name for name in expected if name not in sources]
    if projector_elsewhere:
        missing = [name for name in missing if "mm_projector" not in name and "image_newline" not in name]
    if missing:
        raise CheckpointError(
            f"{checkpoint.files[0].parent}: {len(missing)} of {len(expected)} tensors are missing, the first is "
            f"{missing[0]}. " + _why_missing(missing)
        )
    for name, value in expected.items():
        if name in sources and checkpoint.shape(sources[name]) != tuple(value.shape):
            file = checkpoint.file_of(sources[name])
            raise ShapeMismatch(sources[name], file, checkpoint.shape(sources[name]), tuple(value.shape))
    unknown = [theirs for ours, theirs in sources.items() if ours not in expected and not ours.startswith(TOWER_PREFIX)]
    if config.tie_word_embeddings:
        unknown = [name for name in unknown if not name.endswith("lm_head.weight")]
    if unknown:
        log.warning("%s: %d tensors are not used, such as %s", checkpoint.files[0].parent, len(unknown), unknown[0])


def _why_missing(missing: list[str]) -> str:
    if all("mm_projector" in name for name in missing):
        return "The folder has no projector of the kind that config.json describes (mm_projector_type)."
    return "The download is incomplete, or config.json belongs to another model."


def _check_device(device: str) -> str:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidRequest(f"device {device}: this machine has no CUDA GPU that PyTorch can use. Use --device cpu.")
    if device.startswith("mps") and not torch.backends.mps.is_available():
        raise InvalidRequest("device mps: not available here. Use --device cpu.")
    return device


def _device_map(device: str, device_map: str | dict[str, Any] | None) -> str | dict[str, Any]:
    import torch

    spread = device_map == "auto" and device == "cuda" and torch.cuda.device_count() > 1
    if isinstance(device_map, dict) or spread:
        return device_map  # type: ignore[return-value]
    return {"": device}


def _quantization(load_8bit: bool, load_4bit: bool, device: str) -> Any:
    """The bitsandbytes settings of the original: nf4, double quantised; projector and output stay as they are."""
    if not load_8bit and not load_4bit:
        return None
    if load_8bit and load_4bit:
        raise InvalidRequest("load_8bit and load_4bit exclude each other.")
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise InvalidRequest("8-bit and 4-bit loading need bitsandbytes: pip install 'llava[quant]'.")
    if not device.startswith("cuda"):
        raise InvalidRequest(
            f"4-bit loading, and 8-bit loading on anything but a CPU, need a CUDA GPU; the device is {device}."
        )
    import torch
    from transformers import BitsAndBytesConfig

    skipped = ["mm_projector", "vision_tower", "lm_head"]
    if load_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=skipped,
    )


def _with_projector(
    flavour: Flavour, folder: Path, mm_projector: str | Path, vision_tower: str | Path | None
) -> Flavour:
    """A plain language model and a projector file, as `--mm-projector` and `--vision-tower` of v0 join them."""
    if vision_tower is None:
        raise InvalidRequest("--mm-projector needs --vision-tower: the tower that the projector was trained with.")
    adapter = open_adapter(mm_projector)
    weight = next((name for name in adapter if name.endswith(("mm_projector.weight", "mm_projector.0.weight"))), None)
    if weight is None:
        raise CheckpointError(f"{mm_projector}: has no projector (no tensor named mm_projector.*).")
    depth = sum(1 for name in adapter if "mm_projector." in name and name.endswith(".weight"))
    settings = read_json(folder / "config.json") | {
        "mm_vision_tower": str(vision_tower),
        "use_mm_proj": True,
        "mm_hidden_size": adapter.shape(weight)[1],
        "mm_projector_type": "linear" if weight.endswith("mm_projector.weight") else f"mlp{depth}x_gelu",
        "mm_vision_select_layer": flavour.config.mm_vision_select_layer or -2,
    }
    return Flavour("flat", flat_config(settings, folder))


def _weights_folder(flavour: Flavour, folder: Path, model_base: str | Path | None) -> Path:
    if flavour.kind not in ("projector", "lora"):
        return folder
    if model_base is None:
        hint = ""
        if flavour.kind == "lora":
            hint = f" (the adapter says {read_json(folder / 'adapter_config.json').get('base_model_name_or_path')!r})"
        what = "a LoRA adapter" if flavour.kind == "lora" else "only a projector"
        raise InvalidRequest(f"{folder}: holds {what}; give the language model with --model-base{hint}.")
    return resolve_folder(model_base, what="base model")


def _load_language_model(
    config: LlavaConfig, sources: dict[str, Any], num_parameters: int, **options: Any
) -> LlavaLlamaForCausalLM:
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    options = {name: value for name, value in options.items() if value is not None}
    try:
        with progress_bars(num_parameters >= _WORTH_A_PROGRESS_BAR):
            model = LlavaLlamaForCausalLM.from_pretrained(None, config=config, state_dict=sources, **options)
    except ImportError as error:
        raise InvalidRequest(str(error).strip().splitlines()[0]) from error
    # Training leaves use_cache off in released configs, which makes generation quadratic.
    model.config.use_cache = True
    return model


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Shows or hides transformers' progress bars inside the block."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    try:
        yield
    finally:
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))


def _add_image_tokens(model: LlavaLlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Makes sure that the tokenizer has the tokens which the config asks for, and the model rows for all of them."""
    from llava.model.llava_arch import fill_with_mean, resize_embeddings

    config = model.config
    if not config.has_vision:
        return
    wanted = []
    if config.uses_patch_runs or config.mm_use_im_patch_token:
        wanted.append(DEFAULT_IMAGE_PATCH_TOKEN)
    if config.mm_use_im_start_end:
        wanted += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
    vocabulary = tokenizer.get_vocab()
    absent = [token for token in wanted if token not in vocabulary]
    if absent:
        if len(tokenizer) + len(absent) <= model.model.embed_tokens.weight.shape[0] and config.uses_patch_runs:
            raise CheckpointError(
                f"{folder}: the tokenizer lacks {', '.join(absent)}, which this v0 checkpoint has trained rows for. "
                "Copy added_tokens.json and the tokenizer files of the checkpoint into the folder."
            )
        num_new = add_special_tokens(tokenizer, absent)
        resize_embeddings(model, len(tokenizer))
        fill_with_mean(model, num_new)
    resize_embeddings(model, len(tokenizer))
    if DEFAULT_IMAGE_PATCH_TOKEN in wanted:
        config.im_patch_token = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_PATCH_TOKEN)


def _apply_adapter(
    model: LlavaLlamaForCausalLM, flavour: Flavour, folder: Path, mm_projector: str | Path | None
) -> None:
    source = Path(mm_projector) if mm_projector is not None else folder
    if flavour.kind == "lora":
        source = folder / "non_lora_trainables.bin"
    load_projector(model, source)
    if model.config.mm_use_im_start_end:
        if flavour.kind == "lora":
            _copy_embeddings(model, source)
        else:
            load_image_token_rows(model, source, 2)
    if flavour.kind == "lora":
        _merge_lora(model, folder)


def _copy_embeddings(model: LlavaLlamaForCausalLM, source: Path) -> None:
    adapter = open_adapter(source)
    for name in adapter:
        if name.endswith("embed_tokens.weight"):
            copy_tensor(model.model.embed_tokens.weight, adapter.tensor(name), name, source)
        elif name.endswith("lm_head.weight"):
            copy_tensor(model.lm_head.weight, adapter.tensor(name), name, source)


def _merge_lora(model: LlavaLlamaForCausalLM, folder: Path) -> None:
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: the LoRA adapter does not fit the base ({str(error).splitlines()[0]})."
        ) from error
    assert merged is model


def _set_generation_config(model: LlavaLlamaForCausalLM, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        with warnings.catch_warnings():
            # Released files set temperature without sampling; harmless here, where every call says what it wants.
            warnings.simplefilter("ignore")
            model.generation_config = GenerationConfig.from_pretrained(folder)
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = model.config.eos_token_id


def _named_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    import torch

    if not isinstance(dtype, str):
        return dtype
    if dtype not in ("float32", "float16", "bfloat16"):
        raise InvalidRequest(f"dtype is {dtype!r}; it must be float32, float16 or bfloat16.")
    return getattr(torch, dtype)


def _load_tower(
    flavour: Flavour,
    folder: Path,
    checkpoint: Checkpoint,
    sources: dict[str, str],
    override: str | Path | None,
    dtype: torch.dtype,
) -> VisionTower:
    """The tower of the checkpoint: from its own folder, or from the checkpoint where that trained it along."""
    from llava.model.multimodal_encoder import builder

    config = flavour.config
    select_layer = config.mm_vision_select_layer if config.mm_vision_select_layer is not None else -1
    select_feature = config.mm_vision_select_feature or "patch"
    select: dict[str, Any] = {"select_layer": select_layer, "select_feature": select_feature}
    own = {ours: theirs for ours, theirs in sources.items() if ours.startswith(TOWER_PREFIX)}
    if not own or override is not None:
        name = str(override or config.mm_vision_tower)
        if (folder / name / "config.json").is_file():
            # Found again from wherever this model is saved to.
            config.mm_vision_tower = str((folder / name).absolute())
        return builder.build_vision_tower(name, model_folder=folder, dtype=dtype, **select)
    described = folder / OWN_TOWER / "config.json"
    if flavour.vision_config is not None:
        vision_config, image_processor = flavour.vision_config, builder.load_image_processor(folder)
    else:
        place = (
            described.parent
            if described.is_file()
            else builder.find_vision_tower(config.mm_vision_tower or "", model_folder=folder)
        )
        vision_config, image_processor = builder.tower_config(place), builder.load_image_processor(place)
    tower = builder.empty_vision_tower(vision_config, image_processor, **select).to(dtype)
    _fill_tower(tower, checkpoint, own)
    return tower


def _fill_tower(tower: VisionTower, checkpoint: Checkpoint, own: dict[str, str]) -> None:
    tensors = {ours.removeprefix(TOWER_PREFIX): checkpoint.tensor(theirs) for ours, theirs in own.items()}
    try:
        report = tower.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.files[0].parent}: the vision tower's tensors do not fit its config "
            f"({str(error).strip().splitlines()[-1].strip()})"
        ) from error
    # The final norm and the layers above the selected one never run, and some releases leave them out.
    needed = [name for name in report.missing_keys if "post_layernorm" not in name and "unused_layers" not in name]
    needed = [name for name in needed if not name.startswith("vision_tower.head.")]
    if needed:
        raise CheckpointError(
            f"{checkpoint.files[0].parent}: {len(needed)} tensors of the vision tower are missing, such as {needed[0]}."
        )


def _numel(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)
