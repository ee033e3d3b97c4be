"""Holds the settings of a controller."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from llava.constants import CONTROLLER_HEART_BEAT_EXPIRATION
from llava.serve.cluster.registry import DispatchMethod
from llava.serve.service.addresses import AddressPolicy
from llava.serve.service.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Everything that the controller's command line sets."""

    service: ServiceSettings = field(default_factory=ServiceSettings)
    """Address, access, limits and shutdown."""
    dispatch_method: DispatchMethod = "shortest_queue"
    """How a worker is chosen: `lottery` at random, weighted by speed; `shortest_queue` by load."""
    allowed_workers: AddressPolicy = field(default_factory=AddressPolicy)
    """Where workers may run in addition to this machine."""
    first_token_timeout_s: float = 300.0
    """Maximum time from sending a request to a worker until its first byte, in seconds."""
    idle_timeout_s: float = 60.0
    """Maximum time between two pieces of an answer, in seconds."""
    heart_beat_expiration_s: float = CONTROLLER_HEART_BEAT_EXPIRATION
    """Seconds without a heartbeat after which a worker is removed."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ControllerSettings:
        """Reads the command line of `llava.serve.controller`.

        Raises:
            InvalidRequest: a file is unreadable, or a secret or an --allow-worker entry is not valid.
        """
        return cls(
            service=ServiceSettings.from_args(args),
            dispatch_method=args.dispatch_method,
            allowed_workers=AddressPolicy.parse(args.allow_worker),
            first_token_timeout_s=args.first_token_timeout,
            idle_timeout_s=args.idle_timeout,
            heart_beat_expiration_s=args.heart_beat_expiration,
        )
