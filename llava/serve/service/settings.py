"""Holds the settings that every service reads from its command line: address, access, limits and shutdown."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from llava.serve.service.middleware import Limits
from llava.serve.service.security import ApiKeys, ClusterToken, for_this_machine_only


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where a service listens, whom it answers, and how it stops."""

    host: str = "localhost"
    """Name or address to listen on."""
    port: int = 0
    """Port to listen on; 0 chooses a free one."""
    api_keys: ApiKeys | None = None
    """The API keys that clients must send; None requires no key."""
    cluster_token: ClusterToken | None = None
    """The secret shared by controller and workers; None if there is none."""
    insecure: bool = False
    """Whether callers on other machines are answered without keys or a token."""
    requests_per_minute: int = 0
    """Maximum rate for each API key, or for each IP address if there are no keys; 0 means no limit."""
    drain_timeout_s: float = 30.0
    """Seconds that running requests have to finish after the first SIGTERM."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ServiceSettings:
        """Reads the command line, and the files and environment variables that hold the secrets.

        Raises:
            InvalidRequest: a file is unreadable, or a secret is not valid.
        """
        return cls(
            host=args.host,
            port=args.port,
            api_keys=ApiKeys.from_settings(args.api_key_file),
            cluster_token=ClusterToken.from_settings(args.cluster_token_file),
            insecure=args.insecure,
            requests_per_minute=args.requests_per_minute,
            drain_timeout_s=args.drain_timeout,
        )

    @property
    def local_only(self) -> bool:
        """Whether callers on other machines are refused."""
        return for_this_machine_only(self.host, self.api_keys, insecure=self.insecure)

    @property
    def limits(self) -> Limits:
        """Bounds on each request."""
        return Limits(requests_per_minute=self.requests_per_minute)
