"""Token strings, sentinels and protocol numbers that checkpoints, data files and other programs agree on."""

from __future__ import annotations

from typing import Final

IGNORE_INDEX: Final = -100
"""Label of a position that takes no part in the loss (PyTorch's `ignore_index`)."""

IMAGE_TOKEN_INDEX: Final = -200
"""Stands in `input_ids` where one image goes (v1 and later); never a vocabulary id."""

DEFAULT_IMAGE_TOKEN: Final = "<image>"
"""Marks one image in a prompt or a data file; never a vocabulary item."""

DEFAULT_IMAGE_PATCH_TOKEN: Final = "<im_patch>"
"""One image patch in a v0 prompt; its embedding is replaced by a projected feature."""

DEFAULT_IM_START_TOKEN: Final = "<im_start>"
DEFAULT_IM_END_TOKEN: Final = "<im_end>"

DEFAULT_PAD_TOKEN: Final = "[PAD]"
"""Added by v0 training when the base tokenizer has no padding token."""

IMAGE_PLACEHOLDER: Final = "<image-placeholder>"
"""Where a command-line query wants its image; replaced by the template's own marker."""

CONTROLLER_HEART_BEAT_EXPIRATION: Final = 30
"""Seconds without a heartbeat after which the controller drops a worker."""

WORKER_HEART_BEAT_INTERVAL: Final = 15
"""Seconds between two heartbeats of a worker."""

LOGDIR: Final = "."
"""Folder of the serving logs unless one is given."""
