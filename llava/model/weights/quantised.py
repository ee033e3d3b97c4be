"""Recognises weights that were saved quantised, by the names and number formats of their tensors.

Each library stores a matrix as packed integers with scales beside them. Read as plain numbers these give a model that
loads and says nonsense, so a file with any of them is refused, whatever the folder's config says. Nothing here imports
PyTorch.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llava.errors import QuantizedWeights

if TYPE_CHECKING:
    from llava.model.weights.headers import TensorHeader

log = logging.getLogger(__name__)

_METHODS: Final = (
    (r"\.SCB$|\.weight_format$", "bitsandbytes (8 bits)"),
    (r"\.(?:nested_)?(?:absmax|quant_map)$|\.quant_state\.bitsandbytes__\w+$", "bitsandbytes (4 bits)"),
    (r"\.(?:qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.weight_(?:packed|shape|zero_point|g_idx)$", "compressed-tensors"),
    (r"\.(?:weight|input|output|k|v)_scale(?:_inv|_2)?$", "FP8 or NVFP4"),
    (r"\.(?:gate_up|down)_proj_(?:blocks|scales)$", "MXFP4"),
    (r"\.W_q$|\.W_nbits$", "HQQ"),
    (r"\.codebooks$", "AQLM"),
    (
        r"\.(?:weight_)?_data$|\.weight\._scale$|:_(?:data|scale)$|\.weight\.(?:qdata|scale|tensor_impl)",
        "quanto or torchao",
    ),
    (r"\.(?:SU|SV|Qidxs)$", "QuIP#"),
    (r"\.weight_perscale$|\.channel_scale$", "a quantisation library"),
)
"""Patterns of the tensors that a library writes beside or in place of a matrix."""
_METHOD_NAMES: Final = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
    "hqq": "HQQ",
    "quanto": "quanto",
    "torchao": "torchao",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "higgs": "HIGGS",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "bitnet": "BitNet",
}
"""Values of `quant_method` in a config -> the library's name."""
_INTEGERS: Final = frozenset(("int64", "int32", "int16", "int8", "uint8", "bool"))
_PARAMETER: Final = re.compile(r"\.(?:weight|bias)$|(?:^|\.)(?:lora_\w+|image_newline|class_embedding)(?:\.|$)")
"""Names of tensors that are numbers, never counters, masks or positions."""


def method_in_config(config_json: Mapping[str, Any]) -> str | None:
    """Returns the method that a config says its weights were quantised with, in words; None if it names none."""
    for config in (config_json, config_json.get("text_config") or {}, config_json.get("llm_config") or {}):
        for key in ("quantization_config", "compression_config"):
            settings = config.get(key)
            if isinstance(settings, Mapping) and settings:
                method = str(settings.get("quant_method") or _of_bitsandbytes(settings))
                return _METHOD_NAMES.get(method.lower(), method)
    return None


def _of_bitsandbytes(settings: Mapping[str, Any]) -> str:
    is_bitsandbytes = any(str(key).startswith(("load_in_", "bnb_", "_load_in_")) for key in settings)
    return "bitsandbytes" if is_bitsandbytes else "an unknown method"


def method_of_tensor(name: str, dtype: str) -> str | None:
    """Returns the method that one tensor was quantised with, in words; None for a plain tensor.

    Args:
        dtype: PyTorch's name of its number format, or the file's own if PyTorch has none.
    """
    for pattern, method in _METHODS:
        if re.search(pattern, name):
            return method
    if re.match(r"F8_|float8|F4|float4|F6", dtype):
        return "FP8" if "8" in dtype.partition("_")[0] else "4-bit floats"
    if dtype in _INTEGERS and _PARAMETER.search(name):
        return f"an unknown method (it has the number format {dtype})"
    return None


def refuse_quantised(headers: Mapping[str, TensorHeader], file: Path) -> None:
    """Refuses a file with quantised tensors.

    Raises:
        QuantizedWeights: names the file, the first such tensor and the method.
    """
    for name, header in headers.items():
        method = method_of_tensor(name, header.dtype)
        if method is not None:
            raise QuantizedWeights(file, name, method_in_config(_config_beside(file.parent)) or method)


def warn_of_quantised_config(config_json: Mapping[str, Any], folder: Path) -> None:
    """Says that a config names a method of quantisation which the weights, though, do not have."""
    method = method_in_config(config_json)
    if method is not None:
        log.warning(
            "%s: quantization_config names %s, but the weights are not quantised. They are read as they are.",
            folder / "config.json",
            method,
        )


def _config_beside(folder: Path) -> dict[str, Any]:
    """Returns a folder's `config.json`; empty if there is none that can be read, of which others speak."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
