"""LLaVA: the open large language-and-vision assistant.

The names below are loaded on first use, so `import llava` takes almost no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.conversation import conv_templates
    from llava.mm_utils import load_image, process_images, tokenizer_image_token
    from llava.model.builder import load_pretrained_model
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

__version__ = "0.1.0"

__all__ = [
    "LlavaConfig",
    "LlavaLlamaForCausalLM",
    "__version__",
    "conv_templates",
    "load_image",
    "load_pretrained_model",
    "process_images",
    "tokenizer_image_token",
]

_HOMES = {
    "LlavaConfig": "llava.model.language_model.llava_llama",
    "LlavaLlamaForCausalLM": "llava.model.language_model.llava_llama",
    "conv_templates": "llava.conversation",
    "load_image": "llava.mm_utils",
    "load_pretrained_model": "llava.model.builder",
    "process_images": "llava.mm_utils",
    "tokenizer_image_token": "llava.mm_utils",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llava' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
