"""What a model hub serves, on loopback: repositories with revisions, from folders.

``<root>/models/<owner>/<name>/<revision>/…`` and ``<root>/datasets/…``. The libraries are pointed
at it by HF_ENDPOINT. Knows as much of the protocol as they ask for.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


def commit(kind: str, repository: str, revision: str) -> str:
    """The commit that a revision stands for."""
    return hashlib.sha1(f"{kind} {repository} {revision}".encode()).hexdigest()


class Refused(Exception):
    """An error answer: status, and the hub's word for it."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self._answer(body)

    def _answer(self, body: str = "") -> None:
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        try:
            if parts == ["stop"]:
                self.server.closed = True
                threading.Thread(target=self.server.stop, daemon=True).start()
                self._json({})
            elif parts[0] == "api" and len(parts) >= 4:
                self._told(parts[1].removesuffix("s"), parts[2:], body)
            else:
                kind = "dataset" if parts[0] == "datasets" else "model"
                self._file(kind, parts[kind == "dataset" :])
        except Refused as refused:
            status, code = refused.args
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _told(self, kind: str, parts: list[str], body: str) -> None:
        """/api/<kind>s/<owner>/<name>[/revision|tree|paths-info/<revision>[/<path>]]."""
        repository, what = "/".join(parts[:2]), (parts[2:3] or ["revision"])[0]
        revision, folder = self._revision(kind, repository, (parts[3:4] or ["main"])[0])
        entries = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*"))}
        if what == "revision":
            files = [{"rfilename": name} for name, path in entries.items() if path.is_file()]
            about = {"id": repository, "sha": commit(kind, repository, revision)}
            self._json(about | {"siblings": files, "tags": [], "private": False, "gated": False})
        elif what == "tree":
            below = "/".join(parts[4:])
            deep = "recursive=true" in self.path.lower()
            inside = [
                entry(name, path)
                for name, path in entries.items()
                if (name.startswith(f"{below}/") if deep and below else True)
                and (deep or str(Path(name).parent) == (below or "."))
            ]
            if below and below not in entries:
                raise Refused(404, "EntryNotFound")
            self._json(inside)
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith("{") else []
            self._json([entry(name, entries[name]) for name in asked if name in entries])
        else:
            raise Refused(404, "EntryNotFound")

    def _file(self, kind: str, parts: list[str]) -> None:
        """/[datasets/]<owner>/<name>/resolve/<revision>/<path>."""
        if parts[2:3] != ["resolve"]:
            raise Refused(404, "RepoNotFound")
        repository = "/".join(parts[:2])
        revision, folder = self._revision(kind, repository, parts[3])
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            raise Refused(404, "EntryNotFound")
        data = file.read_bytes()
        self.server.asked.append(f"{repository}@{revision} {file.name}")
        headers = {
            "X-Repo-Commit": commit(kind, repository, revision),
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
        }
        cut = repository.endswith("/cut") and file.name.endswith(".safetensors")
        self._send(200, data, headers, half=cut)

    def _revision(self, kind: str, repository: str, asked: str) -> tuple[str, Path]:
        """The name and the folder of a revision, also where its commit is asked for."""
        if "gated" in repository:
            raise Refused(401, "GatedRepo")
        folder = self.server.root / f"{kind}s" / repository
        if not folder.is_dir():
            raise Refused(401, "RepoNotFound")
        for found in folder.iterdir():
            if asked in (found.name, commit(kind, repository, found.name)):
                return found.name, found
        raise Refused(404, "RevisionNotFound")

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = half or self.server.closed

    def log_message(self, *_: object) -> None: ...


def entry(name: str, path: Path) -> dict[str, Any]:
    """A file or a folder as a listing shows it."""
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": oid}
    return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.closed = root, False
        self.asked: list[str] = []

    def handle_error(self, *_: object) -> None: ...

    def stop(self) -> None:
        """Nobody is there any more."""
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    yield hub
    hub.stop()
