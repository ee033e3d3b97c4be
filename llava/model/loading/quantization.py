"""8-bit inference on a CPU: the decoder's linear layers as int8, everything that sees stays as it is.

Weights are quantised once, a row at a time, activations as they come (dynamic quantisation); products are of integers.
Vision tower, projector, embeddings and output stay in floating point: little of the work is theirs, and errors there
change answers most.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


def quantize_decoder(model: Any) -> None:
    """Replaces each linear layer of the decoder, in place. The model must be in float32 and on the CPU."""
    # PyTorch is moving these tools to a package of their own, and says so each time.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        a_row_at_a_time = torch.ao.quantization.per_channel_dynamic_qconfig
        for layer in model.get_model().layers:
            torch.ao.quantization.quantize_dynamic(layer, {nn.Linear: a_row_at_a_time}, inplace=True)
