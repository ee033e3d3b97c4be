"""A `python` that starts in a tenth of a second: it forks from a process that has imported everything.

Commands of the documentation are many, and most of what a short one costs is importing PyTorch and transformers. Here
one process of a test session imports them once. `warm_environment()` puts a `python`, a `torchrun` and a `llava` before
those of the environment; each is a small client that passes its arguments, environment, folder and standard streams on,
waits, and ends as its fork ends. A fork runs the code that a fresh interpreter would, and dies with its client.
What tests of starting times, of imports and of coverage measure, they measure with the real interpreter.

As a program, it is the process that forks: `python -m tests.support.warm_python SOCKET`.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOCKET = "LLAVA_TEST_WARM_PYTHON"
_IMPORTED = (
    *("torch.distributed.run", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"),
    *("transformers.trainer", "peft", "accelerate.commands.launch", "safetensors.torch", "PIL.Image", "fastapi"),
    *("uvicorn", "llava.train.train", "llava.model.builder", "llava.engine", "llava.eval.run_llava"),
)
_CLIENT = """#!{python} -SE
import json, os, signal, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["{variable}"])
request = json.dumps([{prefix!r} + sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(request).to_bytes(8, "little")], [0, 1, 2])
connection.sendall(request)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
code = int.from_bytes(connection.recv(4), "little", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def warm_environment() -> dict[str, str]:
    """Returns the environment of a command that may be run by forks of one process, which ends with this one.

    While coverage is measured it is that of the real interpreter, because forks report nothing.
    """
    bin_folder = Path(sys.executable).parent
    if os.environ.get("COVERAGE_PROCESS_CONFIG") or os.environ.get("COVERAGE_PROCESS_START"):
        return {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    return {**os.environ, **_warm_python().environment}


@cache
def _warm_python() -> WarmPython:
    folder = tempfile.TemporaryDirectory(prefix="llava-warm-")
    warm = WarmPython(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(warm.close)
    return warm


class WarmPython:
    """Starts the forking process when it is made; `close` ends it."""

    def __init__(self, folder: Path):
        self.path = folder / "bin"
        self._socket = folder / "socket"
        self.path.mkdir()
        programs = {"python": [], "python3": [], "torchrun": ["-m", "torch.distributed.run"], "llava": ["-m", "llava"]}
        for name, prefix in programs.items():
            client = self.path / name
            client.write_text(_CLIENT.format(python=sys.executable, variable=SOCKET, prefix=prefix))
            client.chmod(0o755)
        command = [sys.executable, "-m", "tests.support.warm_python", str(self._socket)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
        while not self._socket.exists():
            assert self._process.poll() is None, "the process that forks has ended"
            time.sleep(0.02)

    @property
    def environment(self) -> dict[str, str]:
        """What a command's environment needs. torchrun starts its processes with PYTHON_EXEC."""
        path = f"{self.path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "PYTHON_EXEC": str(self.path / "python"), SOCKET: str(self._socket)}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def _serve(path: str) -> None:
    """Forks for each client until it is told to end."""
    for name in _IMPORTED:
        importlib.import_module(name)
    import gc

    gc.collect()
    gc.freeze()
    children: dict[int, socket.socket] = {}
    waiting = selectors.DefaultSelector()
    # A byte arrives here when a child has ended.
    ended, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    Path(path + ".new").rename(path)
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(ended, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                child = _start(connection, [listener, ended, told, *children.values()])
                children[child] = connection
                waiting.register(connection, selectors.EVENT_READ, child)
            elif key.fileobj is ended:
                ended.recv(4096)
                _report(children, waiting)
            elif key.data in children:
                said = key.fileobj.recv(64)  # type: ignore[union-attr]
                for number in said or [signal.SIGKILL]:
                    os.kill(key.data, number)
                if not said:
                    waiting.unregister(key.fileobj)


def _report(children: dict[int, socket.socket], waiting: selectors.BaseSelector) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        connection = children.pop(child)
        if connection in {key.fileobj for key in waiting.get_map().values()}:
            waiting.unregister(connection)
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
        connection.close()


def _start(connection: socket.socket, others: list[socket.socket]) -> int:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    size, request = int.from_bytes(head, "little"), b""
    while len(request) < size:
        request += connection.recv(size - len(request))
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        return child
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for other in (connection, *others):
            other.close()
        _open_streams()
        code = _run(*json.loads(request))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _open_streams() -> None:
    """Makes the standard streams anew: the inherited ones remember what kind of file they were opened on."""
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # type: ignore[misc]


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Does what the interpreter does with its arguments; returns the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    while arguments and arguments[0] in ("-u", "-B"):
        arguments = arguments[1:]
    kind, rest = arguments[0], arguments[1:]
    extra = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    try:
        if kind == "-m":
            sys.argv, sys.path[0:1] = ["-m", *rest[1:]], [folder, *extra]
            sys.modules.pop(rest[0], None)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind in ("-c", "-"):
            source = rest[0] if kind == "-c" else sys.stdin.read()
            sys.argv, sys.path[0:1] = [kind, *rest[kind == "-c" :]], ["", *extra]
            exec(compile(source, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0:1] = [kind, *rest], [str(Path(kind).resolve().parent), *extra]
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as ended:
        return _code_of(ended)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    _end_threads()
    return 0


def _code_of(ended: SystemExit) -> int:
    _end_threads()
    if ended.code is None or isinstance(ended.code, int):
        return (ended.code or 0) & 0xFF
    print(ended.code, file=sys.stderr)
    return 1


def _end_threads() -> None:
    """Ends as the interpreter does: waits for threads, then runs what was registered for the end."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _serve(sys.argv[1])
