"""What a service does under load, beside a loop in one process that also encodes the answers.

    python benchmarks/serve.py --clients 32 --seconds 60 --workers 2

Clients ask again as soon as they are answered, and wait as a 429 says. Every answer is compared
with the loop's. The exit code is 1 where one differs, or is neither 200 nor 429, or where memory
grows by more than --growth.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import panodetr
from harness.machine import describe_machine
from panodetr.serve.answers import write_answer
from panodetr.serve.api import Work

SAMPLES = ("fluorescence.png", "stained-tissue.png")


@dataclass
class Load:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list[float])
    statuses: Counter[int] = field(default_factory=Counter[int])
    wrong: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--loop-seconds", type=float, default=20)
    parser.add_argument("--growth", type=float, default=30, help="MiB, in all")
    options = parser.parse_args()

    folder = Path(str(files("panodetr.assets").joinpath("samples")))
    images = [(folder / name).read_bytes() for name in SAMPLES]
    loop, expected = run_loop(options.model, images, options.loop_seconds)
    print(f"loop in one process: {loop:.2f} images/s", flush=True)
    command = [sys.executable, "-m", "panodetr", "serve", "--port", "0"]
    command += ["--model", options.model, "--workers", str(options.workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as service:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().decode().split()[-1]
            ask(url, images, expected, options.clients, 5)  # everything is loaded, and warm
            memory = [memory_of(service.pid)]
            began = time.perf_counter()
            load = ask(url, images, expected, options.clients, options.seconds)
            took = time.perf_counter() - began
            memory.append(memory_of(service.pid))
        finally:
            service.terminate()
    report(options, loop, load, took, memory)
    other = set(load.statuses) - {200, 429}
    return 1 if load.wrong or other or memory[1] - memory[0] > options.growth else 0


def run_loop(model: str, images: list[bytes], seconds: float) -> tuple[float, list[bytes]]:
    """Segment and encode in this process; give images a second, and the answers."""
    predictor = panodetr.load(model)
    work = Work(model=model, action="segment", form="application/json", masks="png")

    def answer(image: bytes) -> bytes:
        return write_answer(predictor.segment(image), work)

    expected = [answer(image) for image in images]
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for image in images:
            answer(image)
            count += 1
    return count / (time.perf_counter() - began), expected


def ask(url: str, images: list[bytes], expected: list[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask for a while."""
    port, ends, load = urlsplit(url).port, time.perf_counter() + seconds, Load()

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
    return load


def memory_of(pid: int) -> float:
    """Give what a service and its processes hold for themselves, in MiB."""
    service = psutil.Process(pid)
    everyone = [service, *service.children(recursive=True)]
    return sum(process.memory_full_info().uss for process in everyone) / 2**20


def report(
    options: argparse.Namespace, loop: float, load: Load, took: float, memory: list[float]
) -> None:
    machine = describe_machine()
    rate = load.statuses[200] / took
    cuts = statistics.quantiles(load.seconds, n=100)
    growth = memory[1] - memory[0]
    print(f"{machine['date']}, {machine['processor']}, {machine['cores']} cores")
    print(f"{options.clients} clients, {options.workers} model processes, {took:.0f} s")
    print(f"answers: {dict(load.statuses)}, different from the loop's: {load.wrong}")
    print(f"throughput: {rate:.2f} images/s, {rate / loop:.0%} of the loop's")
    print(f"latency: p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, p99 {cuts[98]:.2f} s")
    print(
        f"memory: {memory[0]:.0f} MiB, then {memory[1]:.0f} MiB: {growth:+.1f} MiB, "
        f"{growth / took * 60:+.2f} a minute"
    )


if __name__ == "__main__":
    sys.exit(main())
