"""`deploy/ray_serve.py` answers clients as `panodetr serve` does: its tests, on Ray Serve."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.process import start

from .conftest import Running
from .test_api import *  # noqa: F403 - all of them
from .test_requests import test_a_wrong_request_gets_one_line as test_a_wrong_request_gets_one_line
from .test_requests import (
    test_no_path_reaches_the_file_system as test_no_path_reaches_the_file_system,
)
from .test_requests import (
    test_what_cannot_be_written_gets_one_line as test_what_cannot_be_written_gets_one_line,
)

pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

RUN = """
import json, sys, time, ray
from ray import serve
from deploy.ray_serve import build
port, arguments = json.loads(sys.argv[1])
ray.init("local", num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build(arguments))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def service(
    tiny_folder: Path, boxes_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Running]:
    """A replica of the service on a Ray cluster of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = {
        "model": f"tiny={tiny_folder},boxes={boxes_folder}",
        "max_bytes": "1000000",
        "max_pixels": "2000000",
    }
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as stderr:
        variables = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # else Ray writes a token into the home folder
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        given = json.dumps([port, arguments])
        process = start("-c", RUN, given, more=variables, stderr=stderr, cwd=ROOT)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines), log.read_text()
        yield Running(url=f"http://127.0.0.1:{port}", process=process, log=log)
    finally:
        process.terminate()
        process.communicate(timeout=30)
