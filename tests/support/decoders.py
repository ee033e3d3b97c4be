"""Small random decoders of every tested family."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support.checkpoints import VOCABULARY

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # experts
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    # windows short enough to matter
    "sliding_window": 24,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16},
    "gemma3_text": {"final_logit_softcapping": 4.0, "query_pre_attn_scalar": 16},
    "granite": {"embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
    "seed_oss": {"residual_dropout": 0.0, "attention_dropout": 0.0},
}
"""What makes a family differ, strong enough to show in the logits."""


def tiny_decoder(kind: str, **settings: Any) -> PreTrainedConfig:
    """Returns the config of a decoder of two small layers."""
    config_class = CONFIG_MAPPING[kind]
    known = set(config_class.__dataclass_fields__) | set(config_class.attribute_map)
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return config_class(**{**sizes, **SPECIAL.get(kind, {}), **settings})
