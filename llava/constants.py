"""Defines token strings and numbers that checkpoints, data files and other programs share."""

from __future__ import annotations

from typing import Final

IGNORE_INDEX: Final = -100
"""Label of a position that the loss ignores (PyTorch's `ignore_index`)."""

IMAGE_TOKEN_INDEX: Final = -200
"""Stands for one image in `input_ids` of v1 and later; never a vocabulary id."""

DEFAULT_IMAGE_TOKEN: Final = "<image>"
"""Marks one image in a prompt or a data file; never a vocabulary item."""

DEFAULT_IMAGE_PATCH_TOKEN: Final = "<im_patch>"
"""Stands for one image patch in a v0 prompt; a projected feature replaces its embedding."""

DEFAULT_IM_START_TOKEN: Final = "<im_start>"
DEFAULT_IM_END_TOKEN: Final = "<im_end>"
"""Surround each image if the checkpoint's `mm_use_im_start_end` is true."""

DEFAULT_PAD_TOKEN: Final = "[PAD]"
"""Padding token that v0 training adds if the base tokenizer has none."""

IMAGE_PLACEHOLDER: Final = "<image-placeholder>"
"""Marks an image in a query on the command line; the template's own marker replaces it."""

CONTROLLER_HEART_BEAT_EXPIRATION: Final = 30
"""Seconds without a heartbeat after which the controller drops a worker."""

WORKER_HEART_BEAT_INTERVAL: Final = 15
"""Seconds between two heartbeats of a worker."""

LOGDIR: Final = "."
"""Default folder of the server logs."""
