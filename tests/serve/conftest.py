"""A real service, in processes of its own, and a client that needs no library."""

from __future__ import annotations

import http.client
import io
import json
import signal
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tests.process import start as spawn

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.detr import Detr


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that runs."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(status=answer.status, headers=names, body=answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: bytes, **headers: str) -> Reply:
        return self.ask("POST", path, body, headers)

    def model_processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just died, and is none
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    @contextmanager
    def suspended(self) -> Generator[None, None, None]:
        """Let no model answer during the block, however fast the machine is."""
        processes = self.model_processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def figure(self, name: str, **headers: str) -> float:
        """Read one of the figures for Prometheus."""
        for line in self.get("/metrics", **headers).body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        raise AssertionError(f"no figure {name}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a service with some options, and end it after the block."""

    @contextmanager
    def run(*options: str | Path, **variables: str) -> Generator[Running, None, None]:
        log = tmp_path_factory.mktemp("service") / "log"
        words = ("-m", "panodetr", "serve", "--port", "0", *options)
        with log.open("w") as stderr:
            process = spawn(*words, more=variables, stderr=stderr)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://" in line, log.read_text()
            yield Running(url=line.split()[-1], process=process, log=log)
        finally:
            process.kill()
            process.communicate()

    return run


@pytest.fixture(scope="session")
def boxes_folder(tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model that finds boxes only."""
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    folder = tmp_path_factory.mktemp("boxes") / "boxes"
    torch.manual_seed(0)
    save_checkpoint(folder, spec, Detr(spec.architecture).state_dict())
    return folder


@pytest.fixture(scope="session")
def service(start: Start, tiny_folder: Path, boxes_folder: Path) -> Generator[Running, None, None]:
    """A service of a tiny model and of one without masks, that many tests share."""
    options = ("--model", f"tiny={tiny_folder}", "--model", f"boxes={boxes_folder}")
    with start(*options, "--max-bytes", "1000000", "--max-pixels", "2000000") as running:
        yield running


def png(height: int = 64, width: int = 64, seed: int = 0) -> bytes:
    """An image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    return file.getvalue()


def form(**fields: bytes) -> dict[str, Any]:
    """The body and the content type of a form of files."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
        + contents
        for name, contents in fields.items()
    ]
    body = b"\r\n".join([*parts, b"--b--\r\n"])
    return {"body": body, "Content-Type": "multipart/form-data; boundary=b"}
