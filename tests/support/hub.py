"""A hub on loopback that speaks the Hugging Face protocol, for machines that cannot reach the real one.

``python -m tests.support.hub ROOT --port P`` offers every ``ROOT/owner/name/`` as a repository. Weights are
redirected to a second host, as the real hub redirects to its content network. Tests add faults: see ``Fault``.
"""

import argparse
import hashlib
import json
import re
import select
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

LARGE_FILE = re.compile(r"\.(safetensors|gguf|bin|pt|msgpack)$")
LARGE_BYTES = 10 << 20
PIECE_BYTES = 1 << 18
SLOW_PIECE_BYTES = 1 << 16
"""Sent at a time where the rate is limited: what is under way when a client is killed stays small."""
INVERTED = bytes(255 - value for value in range(256))
ROUTE = re.compile(
    r"/(?:(?P<api>api/models)/)?(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<verb>revision|tree|refs|resolve)(?:/(?P<revision>[^/]+))?(?:/(?P<name>.+))?)?$"
)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose path ends with ``path``."""

    path: str
    times: int = 1
    status: int = 0
    """Answer this instead; 0 answers normally."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    """Sent with ``status``."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    flip: bool = False
    """Send wrong bytes: every one is inverted."""
    ignore_range: bool = False
    """Answer 200 with the whole file."""
    bytes_per_second: int = 0
    location: str = ""
    """Redirect the request there."""


@dataclass(frozen=True)
class Request:
    """One request as a server saw it."""

    server: str
    """``hub`` or ``cdn``."""
    method: str
    path: str
    authorization: str
    range: tuple[int, int] | None
    """First and last byte asked for."""


@lru_cache(maxsize=4096)
def _digests(path: Path, size: int, changed_ns: int) -> tuple[str, str]:
    """sha256 and git's blob sha1; the last two arguments only key the cache."""
    del changed_ns
    sha, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(8 << 20):
            sha.update(piece)
            blob.update(piece)
    return sha.hexdigest(), blob.hexdigest()


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    path: Path
    name: str
    size: int
    sha256: str
    blob_id: str

    @property
    def large(self) -> bool:
        """Whether the hub keeps it outside git."""
        return self.size > LARGE_BYTES or LARGE_FILE.search(self.name) is not None

    @property
    def etag(self) -> str:
        """What identifies the content."""
        return self.sha256 if self.large else self.blob_id


class Hub:
    """The two servers and what they saw; a context manager."""

    def __init__(self, root: Path, port: int = 0, address: str = "127.0.0.1") -> None:
        self.root = root
        self.address = address
        """Address of this machine that both servers listen on."""
        self.token = "hf_loopback"
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.siblings: dict[str, list[dict[str, Any]]] = {}
        """Listings that replace the true one, for hubs that lie."""
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.sent: Counter[str] = Counter()
        """File name to the bytes of it that went to clients who were still there."""
        self.lock = threading.Lock()
        self._servers = [_Server((address, port), self, "hub"), _Server((address, 0), self, "cdn")]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]

    @property
    def endpoint(self) -> str:
        """Base address of the hub."""
        return f"http://{self.host}"

    @property
    def host(self) -> str:
        """``host:port`` of the hub."""
        return f"{self.address}:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        """``host:port`` that weights are redirected to."""
        return f"{self.address}:{self._servers[1].server_port}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def files(self, repo: str) -> list[HubFile]:
        """The repository's files as they are now."""
        folder = self.root / repo
        found = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder))
            if name.startswith("."):
                continue
            stat = path.stat()
            found.append(HubFile(path, name, stat.st_size, *_digests(path, stat.st_size, stat.st_mtime_ns)))
        return found

    def commit(self, repo: str) -> str:
        """Identity of the content, as long as git's."""
        text = "".join(f"{file.name} {file.etag}\n" for file in self.files(repo))
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def take_fault(self, path: str) -> Fault:
        """The fault that a request meets."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and path.endswith(fault.path):
                    fault.times -= 1
                    return fault
        return Fault("")

    def fetched(self, name: str) -> list[tuple[int, int]]:
        """Ranges of a file that were asked for where its bytes come from, in order."""
        asked = [r for r in self.requests if r.method == "GET" and r.path.endswith(name) and r.range is not None]
        return [r.range for r in asked if r.range and (r.server == "cdn" or not LARGE_FILE.search(name))]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub, role: str) -> None:
        self.hub = hub
        self.role = role
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Requests are kept in Hub.requests."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        bounds = (int(asked[1]), int(asked[2])) if asked else None
        seen = Request(self.server.role, self.command, path, self.headers.get("Authorization", ""), bounds)
        with hub.lock:
            hub.requests.append(seen)
        fault = hub.take_fault(path if self.server.role == "hub" else f"cdn:{path}")
        if fault.status:
            self._send(fault.status, fault.headers, fault.body)
        elif fault.location:
            self._send(302, {"Location": fault.location}, b"")
        elif self.server.role == "cdn":
            repo, name = re.fullmatch(r"/([^/]+/[^/]+)/(.+)", path).groups()  # type: ignore[union-attr]
            self._send_file(next(file for file in hub.files(repo) if file.name == name), bounds, fault, {})
        else:
            self._answer_hub(path, bounds, fault)

    def _answer_hub(self, path: str, bounds: tuple[int, int] | None, fault: Fault) -> None:
        hub, route = self.server.hub, ROUTE.fullmatch(path)
        repo = route["repo"] if route else ""
        allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if route is None or not (hub.root / repo).is_dir() or (repo in hub.private and not allowed):
            self._refuse(401 if repo in hub.private else 404, "RepoNotFound")
        elif (route["revision"] or "main") not in {"main", hub.commit(repo)}:
            self._refuse(404, "RevisionNotFound")
        elif route["api"]:
            self._describe(repo, route["verb"] or "revision")
        elif repo in hub.gated and not allowed:
            self._refuse(403, "GatedRepo")
        else:
            self._resolve(repo, route["name"] or "", bounds, fault)

    def _describe(self, repo: str, verb: str) -> None:
        hub, files = self.server.hub, self.server.hub.files(repo)
        document: Any
        if verb == "tree":
            document = [{"type": "file", "path": f.name, "size": f.size, "oid": f.blob_id, **_lfs(f)} for f in files]
        elif verb == "refs":
            document = {"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": hub.commit(repo)}]}
        else:
            true = [{"rfilename": f.name, "size": f.size, "blobId": f.blob_id, **_lfs(f)} for f in files]
            document = {
                "_id": "0", "id": repo, "modelId": repo, "sha": hub.commit(repo), "private": repo in hub.private,
                "gated": "manual" if repo in hub.gated else False, "siblings": hub.siblings.get(repo, true),
                "cardData": _card(hub.root / repo / "README.md"), "tags": [], "downloads": 0, "likes": 0,
            }  # fmt: skip
        self._send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _resolve(self, repo: str, name: str, bounds: tuple[int, int] | None, fault: Fault) -> None:
        hub = self.server.hub
        file = next((file for file in hub.files(repo) if file.name == name), None)
        if file is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": hub.commit(repo), "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.large:
            linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
            self._send(302, {**headers, **linked, "Location": f"http://{hub.cdn}/{repo}/{name}"}, b"")
        else:
            self._send_file(file, bounds, fault, headers)

    def _send_file(self, file: HubFile, bounds: tuple[int, int] | None, fault: Fault, headers: dict[str, str]) -> None:
        first, last = bounds if bounds and not fault.ignore_range else (0, file.size - 1)
        last = min(last, file.size - 1)
        length = max(0, last - first + 1)
        if bounds and not fault.ignore_range:
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{file.size}"}
        self._start(206 if "Content-Range" in headers else 200, headers, length)
        if self.command == "HEAD":
            return
        end = length if fault.cut_after is None else min(length, fault.cut_after)
        step = SLOW_PIECE_BYTES if fault.bytes_per_second else PIECE_BYTES
        with file.path.open("rb") as source:
            source.seek(first)
            while end > 0 and not self._client_is_gone() and (piece := source.read(min(step, end))):
                self.wfile.write(piece.translate(INVERTED) if fault.flip else piece)
                end -= len(piece)
                with self.server.hub.lock:
                    self.server.hub.sent[file.name] += len(piece)
                if fault.bytes_per_second:
                    time.sleep(len(piece) / fault.bytes_per_second)
        if fault.cut_after is not None and fault.cut_after < length:
            self.close_connection = True

    def _client_is_gone(self) -> bool:
        """Whether the other side has closed: a write would still succeed once."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _refuse(self, status: int, code: str) -> None:
        body = json.dumps({"error": code}).encode()
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._start(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _lfs(file: HubFile) -> dict[str, Any]:
    if not file.large:
        return {}
    return {"lfs": {"sha256": file.sha256, "oid": file.sha256, "size": file.size, "pointerSize": 130}}


def _card(readme: Path) -> dict[str, Any]:
    """The front matter of the model card."""
    text = readme.read_text() if readme.is_file() else ""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    return dict(yaml.safe_load(found[1])) if found else {}


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.hub",
        description="Offer ROOT/owner/name/ folders over the Hugging Face protocol.",
        epilog="example: python -m tests.support.hub build/demo/hub --port 8099",
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument(
        "--address", default="127.0.0.1", help="address of this machine to listen on (default: loopback)"
    )
    args = parser.parse_args()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with Hub(args.root, args.port, args.address) as hub:
        print(f"{hub.endpoint} offers {args.root}", flush=True)  # noqa: T201 - a command's answer
        stop.wait()


if __name__ == "__main__":
    main()
