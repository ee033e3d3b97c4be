"""Finds the first weight that is NaN or infinite, at the speed of reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Returns whether no value of a tensor is NaN or infinite; True for one without values or of integers.

    The largest and the smallest value tell: both are NaN if any value is. Unlike a sum they cannot overflow, and unlike
    `isfinite` they allocate nothing.
    """
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    if tensor.itemsize == 1:  # the 8-bit formats have no comparisons
        tensor = tensor.float()
    smallest, largest = tensor.aminmax()
    return bool(smallest.isfinite() and largest.isfinite())


def num_not_finite(tensor: Tensor) -> int:
    """Counts the values that are NaN or infinite."""
    return int((~tensor.isfinite()).sum())


def first_not_finite(model: Any) -> str | None:
    """Returns the name of a model's first parameter or buffer that is not finite; None if all are.

    Buffers that hold minus infinity on purpose, such as attention masks, are left out: only those that are saved count.
    """
    return next((name for name, tensor in model.state_dict().items() if not is_finite(tensor)), None)
