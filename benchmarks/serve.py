"""What a service does under load, beside a loop in one process that also encodes the answers.

    python benchmarks/serve.py --clients 32 --seconds 60 --workers 2 --turns 2

The two take turns, so that whatever else the machine does falls on both. Clients ask again as soon
as they are answered, and wait as a 429 says. Every answer is compared with the loop's. The exit
code is 1 where one differs, or is neither 200 nor 429, or where memory grows by more than --growth.
"""

from __future__ import annotations

import argparse
import http.client
import io
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import psutil
from PIL import Image

import panodetr
from harness.machine import describe_machine
from panodetr.serve.api import Work
from panodetr.serve.model_process import write_answer

SAMPLES = ("fluorescence.png", "fluorescence-large.png", "stained-tissue.png")
SIDE = 128  # pixels of their upper left corners that are sent


@dataclass
class Load:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list[float])
    statuses: Counter[int] = field(default_factory=Counter[int])
    wrong: int = 0
    took: float = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="of load, in all")
    parser.add_argument("--loop-seconds", type=float, default=20, help="of the loop, in all")
    parser.add_argument("--warm-up", type=float, default=60)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--growth", type=float, default=30, help="MiB, in all")
    options = parser.parse_args()

    images = [crop(files("panodetr.assets").joinpath("samples").joinpath(name)) for name in SAMPLES]
    loop = Loop(options.model)
    expected = [loop.answer(image) for image in images]
    command = [sys.executable, "-m", "panodetr", "serve", "--port", "0"]
    command += ["--model", options.model, "--workers", str(options.workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as service:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().decode().split()[-1]
            # Every size of batch that is new to PyTorch costs it some memory, once.
            ask(Load(), url, images, expected, options.clients, options.warm_up)
            memory, load = list[float](), Load()
            for _ in range(options.turns):
                loop.run(images, options.loop_seconds / options.turns)
                seconds = options.seconds / options.turns
                with sampling(service.pid, memory):
                    ask(load, url, images, expected, options.clients, seconds)
        finally:
            service.terminate()
    # One batch more or less in memory is several MiB: medians of many samples tell growth.
    quarter = -(-len(memory) // 4)
    ends = statistics.median(memory[:quarter]), statistics.median(memory[-quarter:])
    report(options, loop, load, ends)
    other = set(load.statuses) - {200, 429}
    return 1 if load.wrong or other or ends[1] - ends[0] > options.growth else 0


def crop(file: Traversable) -> bytes:
    """Give the corner of an image as a PNG."""
    corner = io.BytesIO()
    with file.open("rb") as opened:
        Image.open(opened).convert("RGB").crop((0, 0, SIDE, SIDE)).save(corner, "PNG")
    return corner.getvalue()


class Loop:
    """Segments and encodes in this process, one image after the other."""

    def __init__(self, model: str) -> None:
        self._predictor = panodetr.load(model)
        self._work = Work(model=model, action="segment", form="json", masks="png")
        self.took, self.count = 0.0, 0

    def answer(self, image: bytes) -> bytes:
        return write_answer(self._predictor.segment(image), self._work)

    def run(self, images: list[bytes], seconds: float) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for image in images:
                self.answer(image)
            self.count += len(images)
        self.took += time.perf_counter() - began


def ask(
    load: Load, url: str, images: list[bytes], expected: list[bytes], clients: int, seconds: float
) -> None:
    """Let clients ask for a while."""
    port, start = urlsplit(url).port, time.perf_counter()
    ends = start + seconds

    def client(number: int) -> None:
        connection: Any = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (began := time.perf_counter()) < ends:
            number += 1
            connection.request("POST", "/v1/segment", images[number % len(images)])
            answer = connection.getresponse()
            body = answer.read()
            load.statuses[answer.status] += 1
            if answer.status == 200:
                load.seconds.append(time.perf_counter() - began)
                load.wrong += body != expected[number % len(images)]
            elif answer.status == 429:
                time.sleep(float(answer.headers["Retry-After"]))
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    load.took += time.perf_counter() - start


@contextmanager
def sampling(pid: int, memory: list[float]) -> Generator[None]:
    """Note every second what a service and its processes hold for themselves, in MiB."""
    service, ended = psutil.Process(pid), Event()

    def sample() -> None:
        while not ended.wait(1):
            everyone = [service, *service.children(recursive=True)]
            memory.append(sum(one.memory_full_info().uss for one in everyone) / 2**20)

    with ThreadPoolExecutor(1) as pool:
        sampled = pool.submit(sample)
        try:
            yield
        finally:
            ended.set()
            sampled.result()


def report(
    options: argparse.Namespace, loop: Loop, load: Load, memory: tuple[float, float]
) -> None:
    machine = describe_machine()
    rate, loops = load.statuses[200] / load.took, loop.count / loop.took
    cuts = statistics.quantiles(load.seconds, n=100)
    growth = memory[1] - memory[0]
    minutes = (load.took + loop.took) * 3 / 4 / 60  # between the middles of the quarters
    print(f"{machine['date']}, {machine['processor']}, {machine['cores']} cores")
    print(f"{options.clients} clients, {options.workers} processes, {SIDE}x{SIDE} pixels")
    print(f"answers: {dict(load.statuses)}, different from the loop's: {load.wrong}")
    print(
        f"in {load.took:.0f} s: {rate:.2f} images/s, {rate / loops:.0%} of the loop's {loops:.2f}"
    )
    print(f"latency: p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, p99 {cuts[98]:.2f} s")
    print(
        f"memory: {memory[0]:.0f} MiB in the first quarter, {memory[1]:.0f} MiB in the last: "
        f"{growth:+.1f} MiB, {growth / minutes:+.2f} a minute"
    )


if __name__ == "__main__":
    sys.exit(main())
