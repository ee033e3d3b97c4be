"""Decides who may act for the cluster: register workers, and see their addresses and metrics.

Holders of the cluster token always may. If there is no token, programs on the same machine may, as with the original;
only the connection itself counts as proof of that. `--insecure` opens the cluster to everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from llava.errors import Unauthorized
from llava.serve.cluster.registry import TOKENLESS
from llava.serve.protocol.original import CLUSTER_TOKEN_HEADER
from llava.serve.service.security import ClusterToken, bearer, is_local


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """The access rule of one controller."""

    token: ClusterToken | None
    """The cluster token; None if there is none."""
    insecure: bool
    """Whether callers on other machines may act for the cluster without a token."""

    def owner(self, request: HTTPConnection) -> str:
        """Returns the owner under which the caller's workers are registered.

        Raises:
            Unauthorized: the caller may not act for the cluster.
        """
        headers = request.headers
        if self.token is not None:
            owner = self.token.identify(headers)
            if owner is not None:
                return owner
            if headers.get(CLUSTER_TOKEN_HEADER) or bearer(headers):
                raise Unauthorized("the cluster token is not valid. Worker and controller must use the same token.")
        if self.insecure or (self.token is None and is_local(request)):
            return TOKENLESS
        if self.token is None:
            raise Unauthorized(
                "without a cluster token, only programs on the controller's own machine may do this. Start controller "
                "and worker with the same LLAVA_CLUSTER_TOKEN."
            )
        raise Unauthorized(
            f"the cluster token is required in the header {CLUSTER_TOKEN_HEADER}. Start the worker with the same "
            "LLAVA_CLUSTER_TOKEN or --cluster-token-file as the controller."
        )
