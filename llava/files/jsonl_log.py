"""Appends complete records to a JSON Lines file that survives crashes.

Each record is on the disk before `append` returns. A record that was cut off, by a power failure or a full disk, is
removed when the file is next opened. Only one run at a time can open a file: one process, or several that share it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest

_WAIT_S = 30.0
"""Seconds that a process of a shared run waits while another process has exclusive access."""


class JsonlLog:
    """A JSON Lines file that is open for appending; also a context manager."""

    def __init__(self, path: str | Path, *, shared: bool = False):
        """Opens or creates the file and its folder.

        Args:
            path: the file.
            shared: several processes of one run open the file; each of them must pass True.

        Raises:
            DataError: another run has the file open.
            InvalidRequest: `path` is a folder.
        """
        self.path = Path(path)
        self._shared = shared
        if self.path.is_dir():
            raise InvalidRequest(f"{path}: this is a folder. Give the name of a file.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and releases its lock."""
        self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Appends one record, completely or not at all; in a shared file, part of it can stay until the next opening.

        Raises:
            OSError: the record could not be written; the error names the file. Earlier records are unharmed.
        """
        line = (json.dumps(record) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # A disk that becomes full accepts a part and refuses the next one.
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            if not self._shared:  # In a shared file, records of others may follow.
                with suppress(OSError):  # The next opening removes the rest of the record.
                    self._file.truncate(before)
            reason = f"cannot be written: {error.strerror}. Earlier records are unharmed"
            raise OSError(error.errno or errno.EIO, reason, str(self.path)) from error

    def clear(self) -> None:
        """Removes all records."""
        self._file.truncate(0)

    def take_over(self) -> bool:
        """Tells whether all other processes of a shared run are done, so that this one may replace the file.

        A process that gets False must not write any more.
        """
        return _lock(self._file, exclusive=True)

    def _open(self) -> FileIO:
        deadline = time.monotonic() + (_WAIT_S if self._shared else 0)
        while True:
            file = self.path.open("ab", buffering=0)
            # The first process repairs what an earlier run left; then the processes of one run share the lock.
            if _lock(file, exclusive=True):
                if self._is_current(file):
                    self._remove_cut_off_record(file)
                    if not self._shared or _lock(file, exclusive=False):
                        return file
            elif self._shared and _lock(file, exclusive=False) and self._is_current(file):
                return file
            elif time.monotonic() >= deadline:
                file.close()
                raise DataError(f"{self.path}: another run is writing this file. Let it finish, or use another file.")
            file.close()
            time.sleep(0.05)

    def _is_current(self, file: FileIO) -> bool:
        """Tells whether the path still is the open file; another process may have replaced it."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _remove_cut_off_record(self, file: FileIO) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        rest = content[whole:]
        if not rest.strip():
            return
        try:
            json.loads(rest)
        except ValueError:
            print(
                f"note: {self.path}: the last record was cut off; it is removed and will be made again", file=sys.stderr
            )
            file.truncate(whole)
        else:
            file.write(b"\n")


def _lock(file: FileIO, *, exclusive: bool) -> bool:
    """Takes a lock that ends with the process; returns True on systems without locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
