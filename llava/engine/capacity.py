"""Derives from a model how much an engine can hold, whether it can batch, and which tokens end an answer."""

from __future__ import annotations

from typing import Any


def cache_tokens(model: Any, max_running: int, context_length: int) -> int | None:
    """Returns the size of the key-value cache in tokens, or None on a GPU, where the batching manager chooses it.

    The cache holds all requests at their longest, but takes at most a quarter of this machine's free memory.
    """
    import psutil

    if model.device.type == "cuda":
        return None
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
    affordable = psutil.virtual_memory().available // 4 // bytes_per_token
    return int(max(context_length, min(max_running * context_length, affordable)))


def image_rows(model: Any, context_length: int) -> int:
    """Returns the number of image features to keep for later questions: those of 32 images, at least one context."""
    if not model.config.has_vision:
        return 1
    return max(context_length, 32 * int(model.get_vision_tower().num_patches))


def why_not_batched(model: Any) -> str | None:
    """Returns the reason why the batching manager cannot run this model, or None if it can."""
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(devices) > 1:
        return f"the model is split across {len(devices)} devices, and the manager's cache fits on one device only"
    return None


def end_ids(model: Any) -> tuple[int, ...]:
    """Returns the token ids that end an answer."""
    end = model.generation_config.eos_token_id
    if end is None:
        return ()
    return tuple(end) if isinstance(end, (list, tuple)) else (end,)
