"""Chooses where a model runs and in which number format, from what the machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
"""The number formats that a model can be loaded in."""

# Below this many parameters float32 costs a CPU nothing worth saving.
_SMALL_MODEL = 1_000_000_000


def choose_device() -> str:
    """Returns `cuda`, `mps` or `cpu`: the first of these that this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """
    Raises:
        InvalidRequest: this machine does not have the device.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidRequest(f"device {device}: this machine has no CUDA GPU that PyTorch can use. Use --device cpu.")
    if device.startswith("mps") and not torch.backends.mps.is_available():
        raise InvalidRequest("device mps: this machine has none. Use --device cpu.")


def choose_device_map(device: str, device_map: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """Returns the device map for transformers: one device, unless several GPUs are to share the model."""
    import torch

    if isinstance(device_map, dict):
        return device_map
    if device_map == "auto" and device == "cuda" and torch.cuda.device_count() > 1:
        return device_map
    return {"": device}


def cpu_has_bf16_units() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); without, bfloat16 is 3 times slower."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def choose_dtype(device: str, num_parameters: int, checkpoint_dtype: str | None = None) -> torch.dtype:
    """Chooses the number format to run in.

    Accelerators run float16, as the original does, or bfloat16 if the checkpoint is in it. A CPU runs float32, or
    bfloat16 if it has the units for it and the model is large enough to gain.
    """
    import torch

    if device.startswith("cpu"):
        return torch.bfloat16 if cpu_has_bf16_units() and num_parameters >= _SMALL_MODEL else torch.float32
    wants_bf16 = checkpoint_dtype in ("bfloat16", "torch.bfloat16")
    if wants_bf16 and (device.startswith("mps") or torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return torch.float16


def named_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Returns the dtype of a name.

    Raises:
        InvalidRequest: a name that is not one of `DTYPES`.
    """
    import torch

    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise InvalidRequest(f"dtype is {dtype!r}; it must be float32, float16 or bfloat16.")
    return getattr(torch, dtype)


def placement(device: str | None, num_gpus: int | None) -> dict[str, Any]:
    """Returns the arguments of `load_pretrained_model` that place a model as --device and --num-gpus say.

    Args:
        device: a device, or None for the best one of this machine.
        num_gpus: number of GPUs to split the model across; None takes all.

    Raises:
        InvalidRequest: this machine does not have that many.
    """
    if num_gpus is None or (device or "cuda") != "cuda":
        return {"device": device}
    import torch

    available = torch.cuda.device_count()
    if num_gpus < 1 or num_gpus > max(1, available):
        raise InvalidRequest(f"--num-gpus {num_gpus}: this machine has {available} GPUs that PyTorch can use.")
    if num_gpus == 1 or available == 0:
        return {"device": "cuda:0" if available else device}
    memory = {index: f"{torch.cuda.mem_get_info(index)[0] // 2**20}MiB" for index in range(num_gpus)}
    return {"device": "cuda", "device_map": "auto", "max_memory": memory}
