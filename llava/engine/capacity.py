"""How much an engine holds: the cache of keys and values, the table of images, and whether a model can be batched."""

from __future__ import annotations

from typing import Any


def cache_tokens(model: Any, max_running: int, context_length: int) -> int | None:
    """Keys and values for all requests at their longest, or what a quarter of this machine's free memory holds.

    None on a GPU: the batching manager measures there what the model leaves free.
    """
    import psutil

    if model.device.type == "cuda":
        return None
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
    affordable = psutil.virtual_memory().available // 4 // bytes_a_token
    return int(max(context_length, min(max_running * context_length, affordable)))


def image_rows(model: Any, context_length: int) -> int:
    """Features kept for further questions: of 32 images, and never fewer than one full context."""
    if not model.config.has_vision:
        return 1
    return max(context_length, 32 * int(model.get_vision_tower().num_patches))


def why_not_batched(model: Any) -> str | None:
    """What keeps the batching manager from this model, or None."""
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(devices) > 1:
        return f"the model is spread over {len(devices)} devices, and the manager's cache lies on one"
    return None
