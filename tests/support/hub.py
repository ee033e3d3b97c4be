"""A model hub on loopback: what huggingface.co's HTTP interface does for fetching and uploading model repositories.

Two servers, as there: the hub knows repositories and tokens; large files lie in a store of their own, to which the hub
redirects with signed addresses, and which takes no tokens. Repositories live in memory. A test may look at every
request that came in, and may have the next ones of a kind refused, cut off or hung up on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_SUFFIXES = (".bin", ".model", ".onnx", ".pkl", ".png", ".pt", ".pth", ".safetensors")
LARGE_BYTES = 10 << 20
"""Of other kinds, files beyond this size are large files too."""
ATTRIBUTES = {
    ".gitattributes": "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()
}
"""What every repository has from the start."""
_REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
_SIGNATURE = "signed"


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path within."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_large(path: str, num_bytes: int) -> bool:
    """Whether the hub wants a file in the store; an empty one never, as the store takes none."""
    return num_bytes > LARGE_BYTES or (num_bytes > 0 and path.endswith(LARGE_SUFFIXES))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_id(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(data: bytes) -> bytes:
    """What git itself keeps of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n".encode()


class Repository:
    """The files of one repository at each of its commits."""

    def __init__(self, files: Mapping[str, bytes], *, private: bool = False):
        self.private = private
        self.commits: list[str] = []
        """Their ids, oldest first."""
        self.summaries: list[str] = []
        """Their messages."""
        self._files: dict[str, dict[str, bytes]] = {}
        self.commit("initial commit", files)

    @property
    def files(self) -> dict[str, bytes]:
        """By path, as of the last commit."""
        return self._files[self.commits[-1]]

    def commit(self, summary: str, files: Mapping[str, bytes]) -> str:
        """Makes these the files; gives the commit's id."""
        listing = [f"{path} {blob_id(data)}" for path, data in sorted(files.items())]
        name = hashlib.sha1("\n".join([*self.commits, summary, *listing]).encode()).hexdigest()
        self._files[name] = dict(files)
        self.commits.append(name)
        self.summaries.append(summary)
        return name

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Commit id and files of a revision: `main`, or a commit id.

        Raises:
            Refusal: there is no such revision.
        """
        name = self.commits[-1] if revision == "main" else revision
        if name not in self._files:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return name, self._files[name]


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    """Without the query, percent signs resolved."""
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @property
    def token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    @property
    def first_byte(self) -> int:
        """Of the wanted part of a file."""
        match = re.fullmatch(r"bytes=(\d+)-", str(self.headers.get("Range", "")))
        return int(match[1]) if match else 0

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, status: int = 200) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Refusal(Exception):
    """An answer that says no; `code` is what the hub's client tells some of them apart by."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def answer(self) -> Answer:
        named = {"X-Error-Message": str(self), **({"X-Error-Code": self.code} if self.code else {})}
        body = json.dumps({"error": str(self)}).encode()
        return Answer(self.status, body, {"Content-Type": "application/json", **named, **self.headers})


@dataclass(frozen=True)
class Seen:
    """One request, and how it was answered."""

    server: str
    """`hub` or `store`."""
    method: str
    path: str
    status: int
    """0: hung up on."""
    first_byte: int
    with_token: bool


@dataclass
class Fault:
    """What befalls the next requests of one kind."""

    method: str
    part: str
    """Of the path."""
    times: int
    status: int = 0
    """Answer with this; 0: break the connection instead."""
    after_bytes: int | None = None
    """Of the body; None: before the answer."""


class Hub:
    """A hub and its store, running between `with Hub() as hub:` and the end of the block."""

    def __init__(self, *, token: str = "hf_a_token_for_tests", user: str = "lab"):
        self.token, self.user = token, user
        """The one account: it reads everything, and writes what begins with its name."""
        self.repositories: dict[str, Repository] = {}
        self.seen: list[Seen] = []
        self.mistakes: list[BaseException] = []
        """Of the hub itself; the end of the block raises them."""
        self._stored: dict[str, bytes] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = {"hub": _Server(self, "hub"), "store": _Server(self, "store")}

    def __enter__(self) -> Hub:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
        if self.mistakes:
            raise AssertionError("the hub could not answer a request") from self.mistakes[0]

    @property
    def url(self) -> str:
        return self._servers["hub"].url

    def environment(self, home: Path, *, token: str = "") -> dict[str, str]:
        """Settings that send a child process here and nowhere else; without a token it is nobody.

        Args:
            home: where the child keeps its cache.
            token: `hub.token` to be the account.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_TOKEN": token,
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            # Xet is a protocol of its own, in compiled code; files take the way of clients without it.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def add(self, repo_id: str, files: Mapping[str, bytes], *, private: bool = False) -> Repository:
        """Puts a repository there without a request."""
        self.repositories[repo_id] = Repository({**ATTRIBUTES, **files}, private=private)
        self._stored.update({sha256(data): data for path, data in files.items() if is_large(path, len(data))})
        return self.repositories[repo_id]

    def fail(self, method: str, part: str, *, status: int, times: int = 1) -> None:
        """Answers the next requests whose path has `part` with an error of the server's."""
        self._faults.append(Fault(method, part, times, status=status))

    def cut(self, method: str, part: str, *, after_bytes: int | None = None, times: int = 1) -> None:
        """Breaks the connection of the next such requests amid the body, or before any answer."""
        self._faults.append(Fault(method, part, times, after_bytes=after_bytes))

    def count(self, method: str, part: str = "") -> int:
        """How many requests of one kind came in."""
        return sum(seen.method == method and part in seen.path for seen in self.seen)

    def answer(self, server: str, request: Request) -> tuple[Answer | None, int | None]:
        """What a server says, and after how many bytes of it it breaks off; None instead of an answer: it hangs up."""
        with self._lock:
            fault = self._next_fault(request)
            answer: Answer | None
            if fault is not None and fault.status:
                answer = Refusal(fault.status, "Try again later").answer()
            elif fault is not None and fault.after_bytes is None:
                answer = None
            else:
                answer = self._routed(server, request)
            status = answer.status if answer else 0
            self.seen.append(
                Seen(server, request.method, request.path, status, request.first_byte, bool(request.token))
            )
            return answer, fault.after_bytes if fault is not None else None

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if fault.times and fault.method == request.method and fault.part in request.path:
                fault.times -= 1
                return fault
        return None

    def _routed(self, server: str, request: Request) -> Answer:
        try:
            for of_server, methods, pattern, handler in self._ROUTES:
                match = re.fullmatch(pattern, request.path)
                if of_server == server and request.method in methods and match:
                    return handler(self, request, **match.groupdict())
            raise Refusal(404, f"Cannot {request.method} {request.path}")
        except Refusal as refusal:
            return refusal.answer()

    def _readable(self, request: Request, repo_id: str) -> Repository:
        """The repository, for whoever may know that it exists."""
        if request.token and request.token != self.token:
            raise Refusal(401, "Invalid credentials in Authorization header")
        repository = self.repositories.get(repo_id)
        if repository is not None and (request.token or not repository.private):
            return repository
        if request.token:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        # The client takes a bare 401 for a missing repository as well, but at https addresses only.
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")

    def _check_writer(self, request: Request, repo_id: str) -> None:
        if not request.token:
            raise Refusal(401, "Invalid username or password.")
        if request.token != self.token:
            raise Refusal(401, "Invalid credentials in Authorization header")
        namespace = repo_id.split("/")[0]
        if namespace != self.user:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')

    def _writable(self, request: Request, repo_id: str) -> Repository:
        self._check_writer(request, repo_id)
        return self._readable(request, repo_id)

    def _signed(self, digest: str) -> str:
        return f"{self._servers['store'].url}/{digest}?signature={_SIGNATURE}"

    def _info(self, request: Request, repo_id: str, revision: str | None) -> Answer:
        repository = self._readable(request, repo_id)
        commit, files = repository.at(revision or "main")
        return Answer.of(
            {
                "id": repo_id,
                "modelId": repo_id,
                "author": repo_id.split("/")[0],
                "sha": commit,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def _tree(self, request: Request, repo_id: str, revision: str) -> Answer:
        _, files = self._readable(request, repo_id).at(revision)
        folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "oid": blob_id(folder.encode()), "size": 0, "path": folder}
            for folder in sorted(folders)
        ]
        for path, data in sorted(files.items()):
            entry = {"type": "file", "oid": blob_id(data), "size": len(data), "path": path}
            if is_large(path, len(data)):
                kept = pointer(data)
                entry["oid"] = blob_id(kept)
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(kept)}
            entries.append(entry)
        return Answer.of(entries)

    def _file(self, request: Request, repo_id: str, revision: str, path: str) -> Answer:
        commit, files = self._readable(request, repo_id).at(revision)
        named = {"X-Repo-Commit": commit}
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound", named)
        data = files[path]
        if not is_large(path, len(data)):
            return _content(request, data, {**named, "ETag": f'"{blob_id(data)}"'})
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256(data)}"'}
        return Answer(302, headers={**named, **linked, "Location": self._signed(sha256(data))})

    def _create(self, request: Request) -> Answer:
        wanted = request.json()
        repo_id = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        self._check_writer(request, repo_id)
        if wanted.get("type", "model") != "model":
            raise Refusal(400, "only model repositories here")
        url = f"{self.url}/{repo_id}"
        if repo_id in self.repositories:
            return Answer.of({"error": f"You already created this model repo: {repo_id}", "url": url}, 409)
        # Older clients say `private`, newer ones `visibility`.
        self.add(repo_id, {}, private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return Answer.of({"url": url, "name": repo_id})

    def _preupload(self, request: Request, repo_id: str, revision: str) -> Answer:
        commit, files = self._writable(request, repo_id).at(revision)
        told = []
        for file in request.json()["files"]:
            large = is_large(file["path"], file["size"])
            told.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
            if file["path"] in files:
                data = files[file["path"]]
                told[-1]["oid"] = sha256(data) if large else blob_id(data)
        return Answer.of({"files": told, "commitOid": commit})

    def _batch(self, request: Request, repo_id: str) -> Answer:
        self._writable(request, repo_id)
        wanted = request.json()
        if wanted["operation"] != "upload" or wanted["hash_algo"] != "sha256" or "basic" not in wanted["transfers"]:
            raise Refusal(422, "only basic uploads named by sha256 here")
        objects = []
        for one in wanted["objects"]:
            objects.append({"oid": one["oid"], "size": one["size"], "authenticated": True})
            if one["oid"] not in self._stored:
                verify = f"{self.url}/{repo_id}.git/info/lfs/objects/verify"
                objects[-1]["actions"] = {"upload": {"href": self._signed(one["oid"])}, "verify": {"href": verify}}
        return Answer.of({"transfer": "basic", "objects": objects})

    def _verify(self, request: Request, repo_id: str) -> Answer:
        self._writable(request, repo_id)
        wanted = request.json()
        if len(self._stored.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "Object not found")
        return Answer.of({})

    def _commit(self, request: Request, repo_id: str, revision: str) -> Answer:
        repository = self._writable(request, repo_id)
        if request.headers.get_content_type() != "application/x-ndjson":
            raise Refusal(400, "A commit is one JSON object a line")
        files = dict(repository.at(revision)[1])
        header, *operations = [json.loads(line) for line in request.body.splitlines()]
        if header["key"] != "header" or not header["value"]["summary"]:
            raise Refusal(400, "A commit begins with its header, which has a summary")
        for operation in operations:
            path = operation["value"]["path"]
            if operation["key"] == "file" and operation["value"]["encoding"] == "base64":
                files[path] = base64.b64decode(operation["value"]["content"], validate=True)
            elif operation["key"] == "lfsFile" and operation["value"]["oid"] in self._stored:
                files[path] = self._stored[operation["value"]["oid"]]
            elif operation["key"] == "lfsFile":
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            else:
                raise Refusal(400, f"Not a commit's line here: {operation['key']}")
        name = repository.commit(header["value"]["summary"], files)
        return Answer.of({"success": True, "commitOid": name, "commitUrl": f"{self.url}/{repo_id}/commit/{name}"})

    def _check_signature(self, request: Request) -> None:
        if request.headers.get("Authorization"):
            raise Refusal(400, "Only one auth mechanism allowed")
        if request.query.get("signature") != [_SIGNATURE]:
            raise Refusal(403, "Access denied")

    def _load(self, request: Request, digest: str) -> Answer:
        self._check_signature(request)
        if digest not in self._stored:
            raise Refusal(404, "No such key")
        return _content(request, self._stored[digest], {"ETag": f'"{digest}"'})

    def _store(self, request: Request, digest: str) -> Answer:
        self._check_signature(request)
        if sha256(request.body) != digest:
            raise Refusal(400, "The digest is not that of what was received")
        self._stored[digest] = request.body
        return Answer(headers={"ETag": f'"{digest}"'})

    _ROUTES: ClassVar[Iterable[tuple[str, tuple[str, ...], str, Callable[..., Answer]]]] = (
        ("hub", ("GET",), rf"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?", _info),
        ("hub", ("GET",), rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", _tree),
        ("hub", ("GET", "HEAD"), rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _file),
        ("hub", ("POST",), r"/api/repos/create", _create),
        ("hub", ("POST",), rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _preupload),
        ("hub", ("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _batch),
        ("hub", ("POST",), rf"/{_REPO}\.git/info/lfs/objects/verify", _verify),
        ("hub", ("POST",), rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _commit),
        ("store", ("GET", "HEAD"), r"/(?P<digest>[0-9a-f]{64})", _load),
        ("store", ("PUT",), r"/(?P<digest>[0-9a-f]{64})", _store),
    )


def _content(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    """A file, or the end of it from the byte that was asked for."""
    first = request.first_byte
    if not first:
        return Answer(200, data, {**headers, "Accept-Ranges": "bytes"})
    if first >= len(data):
        raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[first:], {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection open for as long as it lives

    def __init__(self, hub: Hub, name: str):
        self.hub, self.name = hub, name
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):  # clients may end amid a request
            self.hub.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        if self.headers.get("Transfer-Encoding"):  # the real store refuses bodies of unknown length as well
            return self._send(Refusal(501, "Transfer-Encoding is not implemented").answer(), None)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        request = Request(self.command, unquote(address.path), parse_qs(address.query), self.headers, body)
        return self._send(*self.server.hub.answer(self.server.name, request))

    def _send(self, answer: Answer | None, after_bytes: int | None) -> None:
        self.close_connection = self.close_connection or answer is None or after_bytes is not None
        if answer is None:
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:after_bytes])

    do_GET = do_HEAD = do_POST = do_PUT = _serve
