"""Makes a LLaVA of any decoder of transformers: `LlavaQwen3ForCausalLM` of `Qwen3ForCausalLM`, and so on.

The classes are made when they are first asked for, by the decoder's model type (`llava_class("qwen3")`) or by name
(`from llava.model.language_model.decoders import LlavaQwen3ForCausalLM`). Each is its causal class with `LlavaCausalLM`
in front, and its config is the decoder's config with LLaVA's keys. Their files are the decoder's own, with the
projector beside them as `model.mm_projector.*`, as LLaVA's releases on Mistral and Qwen have it.
"""

from __future__ import annotations

import logging
from functools import cache
from inspect import signature
from typing import Any, Final

from llava.errors import CheckpointError

log = logging.getLogger(__name__)

PREFIX: Final = "llava_"
"""What a LLaVA's `model_type` has before its decoder's."""
TESTED: Final = frozenset(
    (
        *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "olmo3", "granite"),
        *("cohere", "cohere2", "glm", "glm4", "stablelm", "starcoder2", "exaone4", "helium", "ernie4_5", "seed_oss"),
    )
)
"""Model types of the decoders that the tests compare with transformers' own LLaVA."""
_OTHER_NAMES: Final = {"qwen": "qwen2", "gemma3": "gemma3_text"}
"""Names that checkpoints use for a decoder -> its model type in transformers."""


def decoder_type(name: str) -> str:
    """Returns transformers' model type of a decoder: `qwen2` for `qwen2`, `qwen`, `llava_qwen` and `llava_qwen2`."""
    name = name.removeprefix(PREFIX)
    return _OTHER_NAMES.get(name, name)


def llava_class(name: str) -> Any:
    """Returns the class of a LLaVA on a decoder.

    Args:
        name: the decoder's model type, with or without `llava_` before it.

    Raises:
        CheckpointError: transformers has no such decoder, or it cannot be given embeddings in place of token ids.
    """
    return _make_class(decoder_type(name))


@cache
def _make_class(kind: str) -> Any:
    from llava.model.language_model.causal_lm import LlavaCausalLM
    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.llava_arch import LlavaMetaModel

    if kind == "llama":
        from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

        return LlavaLlamaForCausalLM
    causal, decoder, config = _classes_of(kind)
    own = {"__module__": __name__}
    config_class = type(
        f"Llava{config.__name__.removesuffix('Config').removesuffix('Text')}Config",
        (LlavaConfigKeys, config),
        {**own, "model_type": PREFIX + kind, "__doc__": f"The config of {config.__name__} with LLaVA's keys."},
    )
    decoder_class = type(
        f"Llava{decoder.__name__}",
        (LlavaMetaModel, decoder),
        {**own, "config_class": config_class, "__doc__": "The decoder with the projector and the vision tower."},
    )
    made = type(
        f"Llava{causal.__name__}",
        (LlavaCausalLM, causal),
        {
            **own,
            "__doc__": f"LLaVA on {causal.__name__}.",
            "config_class": config_class,
            "causal_class": causal,
            "decoder_class": decoder_class,
        },
    )
    _register(config_class, made, kind)
    return made


def llava_config_class(name: str) -> Any:
    """Returns the config class of `llava_class(name)`."""
    return llava_class(name).config_class


def decoder_config_class(kind: str) -> Any:
    """Returns transformers' config class of a decoder.

    Raises:
        CheckpointError: transformers has no such decoder.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        raise CheckpointError(f"This release of transformers has no decoder of type {kind!r}.")
    return CONFIG_MAPPING[kind]


def _classes_of(kind: str) -> tuple[Any, Any, Any]:
    """Returns the causal class, the decoder class and the config class of a model type."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    config = decoder_config_class(kind)
    causal = getattr(transformers, str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)), None)
    decoder = getattr(transformers, str(MODEL_MAPPING_NAMES.get(kind)), None)
    if causal is None or decoder is None:
        raise CheckpointError(f"transformers has no causal language model of type {kind!r}.")
    if not _takes_embeddings(causal, decoder, config):
        raise CheckpointError(
            f"{causal.__name__} cannot become a LLaVA: images need a decoder that is called `model` and takes "
            "`inputs_embeds` in place of token ids."
        )
    if kind not in TESTED:
        log.warning("LLaVA on %s was never tested; compare its answers with transformers' own.", causal.__name__)
    return causal, decoder, config


def _takes_embeddings(causal: Any, decoder: Any, config: Any) -> bool:
    """Whether a decoder can be given embeddings alone; some also look tokens up by their ids in every layer."""
    return (
        config is causal.config_class
        and causal.base_model_prefix == "model"
        and "logits_to_keep" in signature(causal.forward).parameters
        and "inputs_embeds" in signature(decoder.forward).parameters
        and not hasattr(config, "hidden_size_per_layer_input")
    )


def _register(config_class: Any, made: Any, kind: str) -> None:
    """Tells transformers' Auto classes of the classes, and its loader how files of the decoder name their tensors."""
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    AutoConfig.register(config_class.model_type, config_class)
    AutoModelForCausalLM.register(config_class, made)
    conversion = get_checkpoint_conversion_mapping(made.causal_class.__name__) or get_checkpoint_conversion_mapping(
        kind
    )
    for transform in conversion or []:
        # Names inside the vision tower may look like those of the decoder's layers.
        transform.base_model_prefix, transform.scope_prefix = "model", "layers"
    if conversion is not None:
        register_checkpoint_conversion_mapping(config_class.model_type, conversion)


def __getattr__(name: str) -> Any:
    """Makes `LlavaQwen3ForCausalLM` and the like importable by name."""
    kinds = []
    if name.startswith("Llava"):  # Python itself asks for other names
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        kinds = [kind for kind, causal in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if f"Llava{causal}" == name]
    if not kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A model that sees by itself has the same causal class as its decoder; only the decoder becomes a LLaVA.
    return llava_class(next((kind for kind in kinds if kind.endswith("_text")), kinds[0]))
