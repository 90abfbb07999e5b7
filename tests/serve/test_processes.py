"""Model processes that die, and services that end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.process import python, wait_until

from .conftest import Start, png

IMAGE = png(128, 128)


def test_a_model_process_that_dies_takes_only_what_it_held(start: Start, tiny_folder: Path) -> None:
    with start("--model", tiny_folder, "--workers", "2") as service:
        assert len(service.model_processes()) == 2
        expected = service.post("/v1/segment", IMAGE).body
        ends = time.monotonic() + 4

        def ask(_: int) -> Counter[int]:
            counts: Counter[int] = Counter()
            while time.monotonic() < ends:
                reply = service.post("/v1/segment", IMAGE)
                counts[reply.status] += 1
                assert reply.status in (200, 502), reply.body
                assert reply.status != 200 or reply.body == expected
            return counts

        with ThreadPoolExecutor(8) as pool:
            asking = pool.map(ask, range(8))
            time.sleep(1)
            service.model_processes()[0].kill()
            counts = sum(asking, Counter[int]())
        assert counts[200] > counts[502]
        assert counts[502] <= 8  # at most what eight clients had under way
        wait_until(lambda: service.figure("panodetr_model_processes") == 2)
        assert service.figure("panodetr_restarts_total") == 1
        for process in service.model_processes():  # while they hold nothing
            process.kill()
        wait_until(lambda: service.get("/readyz").status == 503)
        assert service.post("/v1/segment", IMAGE).body == expected  # it waits for the next one
        assert service.stop() == 0


def test_sigterm_ends_a_service_after_what_was_accepted(start: Start, tiny_folder: Path) -> None:
    with start("--model", tiny_folder) as service, ThreadPoolExecutor(2) as pool:
        children = service.model_processes()
        with service.suspended():
            answers = [pool.submit(service.post, "/v1/segment", IMAGE) for _ in range(2)]
            wait_until(lambda: service.figure("panodetr_accepted") == 2)
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: service.get("/readyz").status == 503, 5)
            late = service.post("/", IMAGE)
            assert (late.status, late.headers["retry-after"]) == (429, "1")
        assert [answer.result().status for answer in answers] == [200, 200]
        assert service.process.wait(timeout=20) == 0
        wait_until(lambda: not any(child.is_running() for child in children), 5)


def test_a_service_that_is_killed_leaves_no_process(start: Start, tiny_folder: Path) -> None:
    with start("--model", tiny_folder) as service:
        children = service.model_processes()
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        wait_until(lambda: not any(child.is_running() for child in children), 10)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--port", "0", "--model", "nowhere/model"], 1, "nowhere/model"),
        (["--model", "a=nuclei", "--model", "a=nuclei"], 2, "two models are named a"),
        (["--host", "192.0.2.1"], 2, "cannot listen on 192.0.2.1"),
        (["--port", "TAKEN"], 2, "cannot listen on 127.0.0.1"),
    ],
)
def test_a_service_that_cannot_start_says_why(options: list[str], code: int, words: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [port if option == "TAKEN" else option for option in options]
        done = python("-m", "panodetr", "serve", *given)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
