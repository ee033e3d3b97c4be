"""Who may open the page."""

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
            entries: `USER:PASSWORD` and where it was written, for messages, which never show it.

        Raises:
            InvalidRequest: one has no user or no password.
        """
        self._passwords: dict[str, bytes] = {}
        for entry, where in entries:
            user, colon, password = entry.partition(":")
            if not (user and colon and password):
                raise InvalidRequest(f"{where}: write USER:PASSWORD, neither of them empty.")
            self._passwords[user] = password.encode()

    @classmethod
    def from_settings(cls, entries: Iterable[str], file: str | None) -> Accounts | None:
        """Those of the command line and of a file, one a line; None where there are none at all.

        Raises:
            InvalidRequest: the file cannot be read, or an entry makes no sense.
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
                raise InvalidRequest(f"--auth-file {file}: nobody is in it. Write USER:PASSWORD, one a line.")
        return cls(found) if found else None

    def check(self, user: str, password: str) -> bool:
        """Whether the two belong together."""
        known = self._passwords.get(user)
        right = hmac.compare_digest(known or b"\0", password.encode())
        return right and known is not None
