"""A JSON Lines file that grows by whole records: what is in it survives whatever happens to the process.

Each record is on the disk before `append` returns. A record that was cut off, by a lost machine or a full disk, is
removed when the file is opened again. One process at a time may have a file open.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from llava.errors import DataError, InvalidRequest


class JsonlLog:
    """A file open for appending; a context manager."""

    def __init__(self, path: str | Path):
        """Opens or makes the file, and its folder.

        Raises:
            DataError: another process has it open.
            InvalidRequest: `path` is a folder.
        """
        self.path = Path(path)
        if self.path.is_dir():
            raise InvalidRequest(f"{path}: is a folder. Give the name of the file to write.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DataError(f"{path}: another run is writing this file. Let it finish, or give another name.") from None
        self._remove_cut_off_record()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Adds one record, whole or not at all.

        Raises:
            OSError: it could not be written; names the file.
        """
        line = (json.dumps(record) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):  # what a disk that has just become full does
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # what is left of the record is removed when the file is opened again
                self._file.truncate(before)
            raise OSError(error.errno, f"cannot be written: {error.strerror}", str(self.path)) from error

    def _remove_cut_off_record(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        rest = content[whole:]
        if not rest.strip():
            return
        try:
            json.loads(rest)
        except ValueError:
            print(f"note: {self.path}: the last record was cut off; it is removed", file=sys.stderr)
            self._file.truncate(whole)
        else:
            self._file.write(b"\n")
