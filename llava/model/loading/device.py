"""Chooses where a model runs and in which number format, from what the machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

# Below this many parameters float32 costs a CPU nothing worth having back.
_SMALL_MODEL = 1_000_000_000


def choose_device() -> str:
    """`cuda`, `mps` or `cpu`: the first of these that this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cpu_has_bf16_units() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); without, bfloat16 is 3 times slower."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def choose_dtype(device: str, num_parameters: int, checkpoint_dtype: str | None = None) -> torch.dtype:
    """The number format to run in.

    Accelerators run float16, as the original does, or bfloat16 where the checkpoint is in it; a CPU runs float32, or
    bfloat16 where it has the units for it and the model is large enough to gain.
    """
    import torch

    if device.startswith("cpu"):
        return torch.bfloat16 if cpu_has_bf16_units() and num_parameters >= _SMALL_MODEL else torch.float32
    wants_bf16 = checkpoint_dtype in ("bfloat16", "torch.bfloat16")
    if wants_bf16 and (device.startswith("mps") or torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return torch.float16


def placement(device: str | None, num_gpus: int | None) -> dict[str, Any]:
    """Arguments of `load_pretrained_model` that put a model where the flags --device and --num-gpus say.

    Args:
        num_gpus: GPUs to spread the model over; None takes all.

    Raises:
        InvalidRequest: this machine has not so many.
    """
    if num_gpus is None or (device or "cuda") != "cuda":
        return {"device": device}
    import torch

    there = torch.cuda.device_count()
    if num_gpus < 1 or num_gpus > max(1, there):
        raise InvalidRequest(f"--num-gpus {num_gpus}: this machine has {there} GPUs that PyTorch can use.")
    if num_gpus == 1 or there == 0:
        return {"device": "cuda:0" if there else device}
    memory = {index: f"{torch.cuda.mem_get_info(index)[0] // 2**20}MiB" for index in range(num_gpus)}
    return {"device": "cuda", "device_map": "auto", "max_memory": memory}
