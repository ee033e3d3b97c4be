"""Checks who may open the page."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path

from llava.errors import InvalidRequest


class Accounts:
    """User names and passwords, compared in constant time."""

    def __init__(self, entries: Iterable[tuple[str, str]]):
        """
        Args:
            entries: `USER:PASSWORD`, and the place it comes from. Messages name the place and never the password.

        Raises:
            InvalidRequest: an entry has no user or no password.
        """
        self._passwords: dict[str, bytes] = {}
        for entry, where in entries:
            user, colon, password = entry.partition(":")
            if not (user and colon and password):
                raise InvalidRequest(f"{where}: expected USER:PASSWORD, neither of them empty.")
            self._passwords[user] = password.encode()

    @classmethod
    def from_settings(cls, entries: Iterable[str], file: str | None) -> Accounts | None:
        """Returns the accounts of the command line and of a file with one account per line; None if there are none.

        Raises:
            InvalidRequest: the file cannot be read or is empty, or an entry has no user or no password.
        """
        found = [(entry, "--auth") for entry in entries]
        if file is not None:
            try:
                lines = Path(file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidRequest(f"--auth-file {file}: cannot be read ({error}).") from error
            numbered = [(line.strip(), f"{file}, line {number}") for number, line in enumerate(lines, 1)]
            found += [(line, where) for line, where in numbered if line and not line.startswith("#")]
            if not found:
                raise InvalidRequest(f"--auth-file {file}: contains no accounts. Write one USER:PASSWORD per line.")
        return cls(found) if found else None

    def check(self, user: str, password: str) -> bool:
        """Whether `password` is the password of `user`."""
        known = self._passwords.get(user)
        right = hmac.compare_digest(known or b"\0", password.encode())
        return right and known is not None
