"""Who may do what: API keys of clients, tokens of workers, and whom a service without either answers.

Secrets are compared in constant time, come from a file or the environment (a command line shows in the list of
processes), and are never part of a message or a log line; their owners' names are.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from starlette.requests import HTTPConnection

from llava.errors import InvalidRequest, Unauthorized
from llava.serve.protocol.original import CLUSTER_TOKEN_HEADER
from llava.serve.service.addresses import AddressPolicy, WorkerAddress, is_loopback, parse_worker_address

CLUSTER_TOKEN_VARIABLE: Final = "LLAVA_CLUSTER_TOKEN"
API_KEY_VARIABLE: Final = "LLAVA_API_KEY"
MIN_TOKEN_CHARACTERS: Final = 16
DEFAULT_OWNER: Final = "default"

__all__ = [
    "AddressPolicy",
    "ApiKeys",
    "ClusterToken",
    "WorkerAddress",
    "bearer",
    "for_this_machine_only",
    "is_local",
    "is_loopback",
    "parse_worker_address",
]


S = TypeVar("S", bound="SecretSet")


class SecretSet:
    """Several secrets, each of an owner; so that one can be replaced while the other still works.

    In a file: one a line, `secret` or `owner secret`; empty lines and lines that begin with `#` do not count.
    """

    kind = "secret"
    min_characters = 1

    def __init__(self, *secrets: str, owners: Mapping[str, str] | None = None):
        """Args: `secrets` of the default owner, and `owners`, from secret to owner."""
        pairs = {**dict.fromkeys(secrets, DEFAULT_OWNER), **(owners or {})}
        if not pairs:
            raise InvalidRequest(f"a set of {self.kind}s needs at least one.")
        for secret in pairs:
            if not re.fullmatch(r"[\x21-\x7e]+", secret):
                raise InvalidRequest(f"a {self.kind} is empty, or has spaces or characters other than plain ASCII.")
        self._owners = {_digest(secret): owner for secret, owner in pairs.items()}
        self._secrets = pairs

    @classmethod
    def load(cls: type[S], file: str | os.PathLike[str] | None, variable: str) -> S | None:
        """From `file` if one is named, else from the environment's `variable`; None where neither is given.

        Raises:
            InvalidRequest: the file cannot be read or is empty, or a secret is too short.
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
                f"{file}: cannot be read ({reason}). Give a file with one {cls.kind} a line."
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
            raise InvalidRequest(f"{file}: holds no {cls.kind}. Write one a line.")
        return cls(owners=owners)

    @classmethod
    def _check_length(cls, secret: str, where: str) -> None:
        if len(secret) < cls.min_characters:
            raise InvalidRequest(
                f"{where}: a {cls.kind} has at least {cls.min_characters} characters. "
                "`openssl rand -hex 32` makes a good one."
            )

    def owner_of(self, candidate: str) -> str | None:
        """Whose secret `candidate` is, None if nobody's. Takes as long for a near miss as for a far one."""
        digest, found = _digest(candidate), None
        for known, owner in self._owners.items():
            if hmac.compare_digest(known, digest):
                found = owner
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._owners)} of {sorted(set(self._owners.values()))})"


class ApiKeys(SecretSet):
    """What clients show as `Authorization: Bearer KEY`."""

    kind = "API key"

    @classmethod
    def from_settings(cls, file: str | os.PathLike[str] | None = None) -> ApiKeys | None:
        """From the file of `--api-key-file`, else from LLAVA_API_KEY, else None: no key is asked for."""
        return cls.load(file, API_KEY_VARIABLE)

    def check(self, headers: Mapping[str, str]) -> str:
        """The owner of the key in `headers` (their names in lower case).

        Raises:
            Unauthorized: no key, or one that is not ours.
        """
        key = bearer(headers)
        if key is None:
            raise Unauthorized("an API key is needed. Send it as `Authorization: Bearer KEY`.")
        owner = self.owner_of(key)
        if owner is None:
            raise Unauthorized("the API key is not valid here.")
        return owner


class ClusterToken(SecretSet):
    """What controller and workers share, sent as `x-llava-cluster-token`."""

    kind = "cluster token"
    min_characters = MIN_TOKEN_CHARACTERS

    @classmethod
    def from_settings(cls, file: str | os.PathLike[str] | None = None) -> ClusterToken | None:
        """From the file of `--cluster-token-file`, else from LLAVA_CLUSTER_TOKEN, else None."""
        return cls.load(file, CLUSTER_TOKEN_VARIABLE)

    def headers(self) -> dict[str, str]:
        """What a worker sends along to its controller: the first token."""
        return {CLUSTER_TOKEN_HEADER: next(iter(self._secrets))}

    def identify(self, headers: Mapping[str, str]) -> str | None:
        """The owner of the token in `headers` (names in lower case), None where there is none or a wrong one.

        A token may also come as `Authorization: Bearer`, which is what Prometheus can send.
        """
        token = headers.get(CLUSTER_TOKEN_HEADER) or bearer(headers)
        return None if token is None else self.owner_of(token)

    def prove(self, nonce: str) -> str:
        """The answer to a challenge: shows that one has the first token, without showing it."""
        return _proof(next(iter(self._secrets)), nonce)

    def verify(self, nonce: str, proof: str, owner: str) -> dict[str, str] | None:
        """The headers that open the service which answered `nonce`, None when `proof` is not by a token of `owner`."""
        for secret, whose in self._secrets.items():
            if whose == owner and hmac.compare_digest(_proof(secret, nonce).encode(), proof.encode()):
                return {CLUSTER_TOKEN_HEADER: secret}
        return None


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of an `Authorization: Bearer` header."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _proof(secret: str, nonce: str) -> str:
    return hmac.new(secret.encode(), b"llava worker proof:" + nonce.encode(), hashlib.sha256).hexdigest()


# Whom a service without keys answers

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def is_local(request: HTTPConnection) -> bool:
    """Whether a program on this machine asks, by itself and by one of this machine's own names.

    A proxy on this machine speaks for others, and a web page can be made to ask for a name of its own that leads here.
    """
    if request.client is None or not is_loopback(request.client.host):
        return False
    if any(name in request.headers for name in _FORWARDED):
        return False
    return is_loopback(request.url.hostname or "")


def for_this_machine_only(host: str, keys: ApiKeys | None, *, insecure: bool) -> bool:
    """The rule of every service: beyond loopback it asks for keys, or answers its own machine alone.

    So the original's `--host 0.0.0.0` works as it is, and opens nothing to the network that the operator did not open
    in so many words (`insecure`).
    """
    return keys is None and not insecure and not is_loopback(host)
