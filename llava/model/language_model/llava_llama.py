"""LLaVA on LLaMA: the model class of every released LLaVA checkpoint on LLaMA and Vicuna.

Parameter names are the original's (`model.layers.*`, `model.mm_projector.*`, `lm_head`), so its checkpoints, deltas and
FSDP wrap names work as they are.
"""

from __future__ import annotations

from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from llava.model.language_model.causal_lm import LlavaCausalLM
from llava.model.language_model.config_keys import LlavaConfigKeys
from llava.model.llava_arch import LlavaMetaModel


class LlavaConfig(LlavaConfigKeys, LlamaConfig):
    """A LLaMA config with the keys that LLaVA's releases write into `config.json`."""

    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """The decoder with the projector and, once it is attached, the vision tower."""

    config_class = LlavaConfig

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.build_vision_modules()


class LlavaLlamaForCausalLM(LlavaCausalLM, LlamaForCausalLM):
    """LLaVA on LLaMA: takes token ids and images, and gives logits, losses and generated ids."""

    config_class = LlavaConfig
    causal_class = LlamaForCausalLM
    decoder_class = LlavaLlamaModel


AutoConfig.register(LlavaConfig.model_type, LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
