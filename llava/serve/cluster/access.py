"""Who may speak for the cluster: register workers, see their addresses and the metrics.

Holders of the cluster token, always. Where there is no token, programs on the same machine, as it was with the
original; "the same machine" is judged by the connection alone. `--insecure` opens it to everybody.
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
    """The rule of one controller."""

    token: ClusterToken | None
    insecure: bool

    def owner(self, request: HTTPConnection) -> str:
        """Whose workers this caller may register.

        Raises:
            Unauthorized: it may not speak for the cluster.
        """
        headers = request.headers
        if self.token is not None:
            owner = self.token.identify(headers)
            if owner is not None:
                return owner
            if headers.get(CLUSTER_TOKEN_HEADER) or bearer(headers):
                raise Unauthorized("the cluster token is not valid here. Worker and controller must share one.")
        if self.insecure or (self.token is None and is_local(request)):
            return TOKENLESS
        if self.token is None:
            raise Unauthorized(
                "without a cluster token only programs on this controller's own machine may do this. Start controller "
                "and worker with the same LLAVA_CLUSTER_TOKEN."
            )
        raise Unauthorized(
            f"the cluster token is needed, in the header {CLUSTER_TOKEN_HEADER}. Start the worker with the same "
            "LLAVA_CLUSTER_TOKEN or --cluster-token-file as the controller."
        )
