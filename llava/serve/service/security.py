"""Controls access: the API keys of clients, the cluster tokens of workers, and what a service without either answers.

Secrets are compared in constant time and read from a file or the environment, because command lines are visible in the
list of processes. Messages and log lines name the owners of secrets, never the secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from starlette.requests import HTTPConnection
from starlette.types import Scope

from llava.errors import Forbidden, InvalidRequest, Unauthorized
from llava.serve.protocol.constants import API_KEY_VARIABLE
from llava.serve.protocol.original import CLUSTER_TOKEN_HEADER
from llava.serve.service.addresses import is_loopback

CLUSTER_TOKEN_VARIABLE: Final = "LLAVA_CLUSTER_TOKEN"
MIN_TOKEN_CHARACTERS: Final = 16
DEFAULT_OWNER: Final = "default"

Guard = Callable[[HTTPConnection], object]
"""The access rule of one path; raises to refuse a caller."""

S = TypeVar("S", bound="SecretSet")


class SecretSet:
    """A set of secrets, each with an owner. Several can be valid at once, so that one can replace another.

    A file holds one per line, as `secret` or `owner secret`. Empty lines and lines that begin with `#` are ignored.
    """

    kind = "secret"
    min_characters = 1

    def __init__(self, *secrets: str, owners: Mapping[str, str] | None = None):
        """
        Args:
            secrets: secrets of the default owner.
            owners: other owners, by secret.

        Raises:
            InvalidRequest: there is no secret, or one is not plain ASCII.
        """
        pairs = {**dict.fromkeys(secrets, DEFAULT_OWNER), **(owners or {})}
        if not pairs:
            raise InvalidRequest(f"at least one {self.kind} is needed.")
        for secret in pairs:
            if not re.fullmatch(r"[\x21-\x7e]+", secret):
                raise InvalidRequest(f"invalid {self.kind}: it must be plain ASCII without spaces, and not empty.")
        self._owners = {_digest(secret): owner for secret, owner in pairs.items()}
        self._secrets = pairs

    @classmethod
    def load(cls: type[S], file: str | os.PathLike[str] | None, variable: str) -> S | None:
        """Reads `file` if there is one, otherwise the environment variable. Returns None if neither is set.

        Raises:
            InvalidRequest: the file is unreadable or empty, or a secret is too short.
        """
        if file is not None:
            return cls._from_file(Path(file))
        secret = os.environ.get(variable, "").strip()
        if not secret:
            return None
        cls._check_length(secret, variable)
        return cls(secret)

    @classmethod
    def _from_file(cls: type[S], file: Path) -> S:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise InvalidRequest(
                f"{file}: cannot be read ({reason}). Give a file with one {cls.kind} per line."
            ) from error
        owners: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) > 2:
                raise InvalidRequest(f"{file}, line {number}: write `{cls.kind}` or `owner {cls.kind}`.")
            cls._check_length(words[-1], f"{file}, line {number}")
            owners[words[-1]] = words[0] if len(words) == 2 else DEFAULT_OWNER
        if not owners:
            raise InvalidRequest(f"{file}: contains no {cls.kind}. Write one per line.")
        return cls(owners=owners)

    @classmethod
    def _check_length(cls, secret: str, where: str) -> None:
        if len(secret) < cls.min_characters:
            raise InvalidRequest(
                f"{where}: a {cls.kind} must have at least {cls.min_characters} characters. "
                "`openssl rand -hex 32` prints a good one."
            )

    def owner_of(self, candidate: str) -> str | None:
        """Returns the owner of `candidate`, or None if it is not a known secret, in constant time."""
        digest, found = _digest(candidate), None
        for known, owner in self._owners.items():
            if hmac.compare_digest(known, digest):
                found = owner
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._owners)} of {sorted(set(self._owners.values()))})"


class ApiKeys(SecretSet):
    """The API keys of clients, sent as `Authorization: Bearer KEY`."""

    kind = "API key"

    @classmethod
    def from_settings(cls, file: str | os.PathLike[str] | None = None) -> ApiKeys | None:
        """Reads the file of `--api-key-file`, or else LLAVA_API_KEY. Returns None if no key is configured."""
        return cls.load(file, API_KEY_VARIABLE)

    def check(self, headers: Mapping[str, str]) -> str:
        """Returns the owner of the key in `headers`, whose names must be in lower case.

        Raises:
            Unauthorized: the key is missing or unknown.
        """
        key = bearer(headers)
        if key is None:
            raise Unauthorized("an API key is required. Send it as `Authorization: Bearer KEY`.")
        owner = self.owner_of(key)
        if owner is None:
            raise Unauthorized("the API key is not valid.")
        return owner


class ClusterToken(SecretSet):
    """The secrets that controller and workers share, sent as `x-llava-cluster-token`."""

    kind = "cluster token"
    min_characters = MIN_TOKEN_CHARACTERS

    @classmethod
    def from_settings(cls, file: str | os.PathLike[str] | None = None) -> ClusterToken | None:
        """Reads the file of `--cluster-token-file`, or else LLAVA_CLUSTER_TOKEN. Returns None if no token is set."""
        return cls.load(file, CLUSTER_TOKEN_VARIABLE)

    def headers(self) -> dict[str, str]:
        """Returns the header by which a worker identifies itself to its controller, with the first token."""
        return {CLUSTER_TOKEN_HEADER: next(iter(self._secrets))}

    def identify(self, headers: Mapping[str, str]) -> str | None:
        """Returns the owner of the token in `headers` (names in lower case), or None without a valid token.

        The token may also be sent as `Authorization: Bearer`, for Prometheus, which cannot send other headers.
        """
        token = headers.get(CLUSTER_TOKEN_HEADER) or bearer(headers)
        return None if token is None else self.owner_of(token)

    def prove(self, nonce: str) -> str:
        """Returns the answer to a challenge, which proves possession of the first token without revealing it."""
        return _proof(next(iter(self._secrets)), nonce)

    def verify(self, nonce: str, proof: str, owner: str) -> dict[str, str] | None:
        """Checks a worker's answer to a challenge.

        Returns:
            The headers that authorize requests to that worker, or None if no token of `owner` made the proof.
        """
        for secret, whose in self._secrets.items():
            if whose == owner and hmac.compare_digest(_proof(secret, nonce).encode(), proof.encode()):
                return {CLUSTER_TOKEN_HEADER: secret}
        return None


def bearer(headers: Mapping[str, str]) -> str | None:
    """Returns the token of an `Authorization: Bearer` header, or None."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _proof(secret: str, nonce: str) -> str:
    return hmac.new(secret.encode(), b"llava worker proof:" + nonce.encode(), hashlib.sha256).hexdigest()


# Access to a service


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Decides which callers a service answers."""

    keys: ApiKeys | None = None
    """API keys; None requires no key."""
    cluster_token: ClusterToken | None = None
    """Accepted from a controller in place of an API key."""
    public_paths: frozenset[str] = frozenset()
    """Paths that everybody may call."""
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """Paths with a rule of their own, which replaces the key check."""
    local_only: bool = False
    """Refuses callers on other machines if there are no keys."""

    def identify(self, request: HTTPConnection) -> str | None:
        """Returns the caller's name, or None if the path needs no key.

        Raises:
            Unauthorized: the key or token is missing or unknown.
            Forbidden: the caller is on another machine, and the service answers only its own.
            LlavaError: the path's guard refused the caller.
        """
        path = request.scope["path"]
        if path in self.guards:
            self.guards[path](request)
            return None
        headers = header_map(request.scope)
        if self.cluster_token is not None and (owner := self.cluster_token.identify(headers)) is not None:
            return f"cluster:{owner}"
        if path in self.public_paths:
            return None
        if self.keys is not None:
            return self.keys.check(headers)
        if self.local_only and not is_local(request):
            raise Forbidden(
                "this server has no API keys, so it answers only its own machine. Start it with --api-key-file FILE "
                "or LLAVA_API_KEY, or open it to everybody with --insecure."
            )
        return None


def header_map(scope: Scope) -> Mapping[str, str]:
    """Returns the headers by lower-case name. The last of several headers with one name counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def is_local(request: HTTPConnection) -> bool:
    """Whether a program on this machine sent the request itself, to a name of this machine.

    A local proxy forwards the requests of others, and a web page can make a browser call a domain that resolves to
    this machine; neither counts as local.
    """
    if request.client is None or not is_loopback(request.client.host):
        return False
    if any(name in request.headers for name in _FORWARDED):
        return False
    return is_loopback(request.url.hostname or "")


def for_this_machine_only(host: str, keys: ApiKeys | None, *, insecure: bool) -> bool:
    """Whether a service that listens on `host` must refuse callers on other machines.

    The original's `--host 0.0.0.0` therefore works unchanged, but exposes nothing to the network unless the operator
    sets API keys or asks for it with `--insecure`.
    """
    return keys is None and not insecure and not is_loopback(host)
