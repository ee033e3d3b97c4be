"""Finds the first weight that is NaN or infinite, at the speed of reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llava.errors import WeightsNotFinite

if TYPE_CHECKING:
    from torch import Tensor

    from llava.model.weights.reader import Checkpoint


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


def check_finite(tensor: Tensor, name: str, file: object) -> Tensor:
    """Returns a tensor that was read from a file.

    Raises:
        WeightsNotFinite: it holds NaN or infinite values; names it and the file.
    """
    if not is_finite(tensor):
        raise WeightsNotFinite(name, file, num_not_finite(tensor))
    return tensor


class WatchedTensor:
    """A tensor of a checkpoint that is looked at when it is read.

    It is indexed like a slice of a safetensors file. transformers reads on threads of its own, which do not pass errors
    on, so what is found is kept in a list.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, found: list[WeightsNotFinite]) -> None:
        self._checkpoint, self._name, self._found = checkpoint, name, found

    def __getitem__(self, index: Any) -> Tensor:
        tensor: Tensor = self._checkpoint[self._name][index]
        try:
            return check_finite(tensor, self._name, self._checkpoint.file_of(self._name))
        except WeightsNotFinite as error:
            self._found.append(error)
            return tensor
