"""A JSON Lines file that grows by whole records: what is in it survives whatever happens to the process.

Each record is on the disk before `append` returns. A record that was cut off, by a lost machine or a full disk, is
removed when the file is opened again. One run at a time may have a file open: one process, or several that share it.
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
"""How long a process of a larger run waits for another one that has the file to itself."""


class JsonlLog:
    """A file open for appending; a context manager."""

    def __init__(self, path: str | Path, *, shared: bool = False):
        """Opens or makes the file, and its folder.

        Args:
            shared: other processes of the same run have it open too; all of them say so.

        Raises:
            DataError: another run has it open.
            InvalidRequest: `path` is a folder.
        """
        self.path = Path(path)
        self._shared = shared
        if self.path.is_dir():
            raise InvalidRequest(f"{path}: is a folder. Give the name of the file to write.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Adds one record, whole or not at all; of a shared file, a part may stay until it is opened again.

        Raises:
            OSError: it could not be written; names the file. What was there before is unharmed.
        """
        line = (json.dumps(record) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # a disk that has just become full takes a part, and refuses the next
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            if not self._shared:  # others may have added theirs behind it
                with suppress(OSError):  # what is left of the record is removed when the file is opened again
                    self._file.truncate(before)
            reason = f"cannot be written: {error.strerror}. The records before this one are in it"
            raise OSError(error.errno or errno.EIO, reason, str(self.path)) from error

    def clear(self) -> None:
        """Removes all records."""
        self._file.truncate(0)

    def take_over(self) -> bool:
        """For the end of a shared run: whether every other process is done, so that this one may replace the file.

        A process that is told no must not write any more.
        """
        return _lock(self._file, exclusive=True)

    def _open(self) -> FileIO:
        deadline = time.monotonic() + (_WAIT_S if self._shared else 0)
        while True:
            file = self.path.open("ab", buffering=0)
            # Whoever comes first looks at how an earlier run ended; then those of one run write side by side.
            if _lock(file, exclusive=True):
                if self._is_current(file):
                    self._remove_cut_off_record(file)
                    if not self._shared or _lock(file, exclusive=False):
                        return file
            elif self._shared and _lock(file, exclusive=False) and self._is_current(file):
                return file
            elif time.monotonic() >= deadline:
                file.close()
                raise DataError(f"{self.path}: another run is writing this file. Let it finish, or give another name.")
            file.close()
            time.sleep(0.05)

    def _is_current(self, file: FileIO) -> bool:
        """Whether the path still leads to the open file: another process may have replaced it meanwhile."""
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
    """Takes a lock that ends with the process; always true where the system has none."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
