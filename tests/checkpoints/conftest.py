"""A hub on this machine, which speaks as much of the hub's protocol as its client needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PATH = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What it holds and how it misbehaves.

    Attributes:
        address: for `HF_ENDPOINT`.
        files: by repository, name to contents.
        gated: repositories that want a token, and which.
        drops: how often each file's transfer still breaks, and after how many bytes.
        status: answer everything with this error, if it is not 0.
        requests: method, file, range and authorization of each request.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    drops: dict[str, list[int]] = field(default_factory=dict)
    status: int = 0
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        """List the files whose contents were asked for, each request."""
        return [name for method, name, _, _ in self.requests if method == "GET"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub, None, None]:
    """An empty hub, an empty cache, no token, and no waiting between tries."""
    from huggingface_hub import constants

    running = Hub()

    class Handler(_Handler):
        state = running

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        # The client puts its addresses together when it is imported.
        pattern = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        name = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"  # of 0.x
        monkeypatch.setattr(name, pattern, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        for module in ("file_download", "utils._http"):
            monkeypatch.setattr(f"huggingface_hub.{module}.time", Mock())
        monkeypatch.delenv("HF_TOKEN", raising=False)
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(contents=False)

    def do_GET(self) -> None:
        self._answer(contents=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, *, contents: bool) -> None:
        path = _PATH.fullmatch(self.path)
        if path is None or self.state.status:
            self._refuse(self.state.status or 404)
            return
        repository, revision, name = path.groups()
        authorization = self.headers["Authorization"]
        self.state.requests.append((self.command, name, self.headers["Range"], authorization))
        wanted = self.state.gated.get(repository)
        if repository not in self.state.files:
            self._refuse(401, "RepoNotFound")
        elif wanted is not None and authorization != f"Bearer {wanted}":
            self._refuse(403, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif name not in self.state.files[repository]:
            self._refuse(404, "EntryNotFound")
        else:
            self._give(name, self.state.files[repository][name], contents=contents)

    def _give(self, name: str, data: bytes, *, contents: bool) -> None:
        start = 0
        if self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not contents:
            return
        drops = self.state.drops.get(name)
        if drops:
            self.wfile.write(data[start : start + drops.pop(0)])
            self.close_connection = True  # before all that was promised
        else:
            self.wfile.write(data[start:])

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()
