"""Read damaged files again and again: `python -m tests.fuzz.run --seconds 60` (`make fuzz`).

Each must give a result or errors of one line, within `SECONDS` and `BYTES`. Workers are processes
that are used again, and started again where one is killed. A failure names its kind and seed; the
same seed damages the same file in the same way. `tests/corpus/KIND/CASE` holds files that failed
once: they replace those of their kind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeAlias

from tests.fuzz.damage import damage

CORPUS = Path(__file__).parents[1] / "corpus"

SECONDS = 10
"""Of processor time, for one case."""

HANGS = 40
"""Seconds after which a worker is killed: it waits for something, or the machine is busy."""

BYTES = 2 << 30
"""Of memory, beyond what the process took before."""

LIMIT = 12 << 30
"""Bytes that a worker may map; beyond, it gets a MemoryError instead of the machine's memory."""

Job: TypeAlias = tuple[str, int | str]
"""A kind, and a seed or the name of a case of the corpus."""


@dataclass
class Report:
    """What came out.

    Attributes:
        tried: cases of each kind.
        failures: what went wrong, by kind and seed.
        slowest: seconds of processor time that a case took.
        peak: bytes that a worker took at most, beyond what it took before.
    """

    tried: Counter[str] = field(default_factory=Counter[str])
    failures: dict[Job, str] = field(default_factory=dict[Job, str])
    slowest: float = 0
    peak: int = 0


def _peak() -> int:
    """Give the most memory that this process has had, in bytes.

    On Linux getrusage(2) tells that of the process that forked, where it was more.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of each
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work(connection: Connection, whole: Path, scratch: Path) -> None:
    """Be a worker: answer each job with what went wrong, seconds and bytes."""
    from tests.fuzz.kinds import KINDS

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    scratch.mkdir()
    (scratch / "models").symlink_to(whole / "models")
    before = 0
    while (job := connection.recv()) is not None:
        kind, case = job
        folder = scratch / "case"
        shutil.copytree(whole / kind, folder)
        if not before:  # what is imported counts as taken before
            KINDS[kind].run(folder)
            before = _peak()
        if isinstance(case, str):
            shutil.copytree(CORPUS / kind / case, folder, dirs_exist_ok=True)
        else:
            chance = random.Random(f"{kind} {case}")
            found = {path for pattern in KINDS[kind].damaged for path in folder.glob(pattern)}
            files = sorted(path for path in found if path.is_file())
            for path in chance.sample(files, min(len(files), chance.choice((1, 1, 2)))):
                path.write_bytes(damage(path.read_bytes(), chance))
        began, wrong = time.process_time(), ""
        try:
            KINDS[kind].run(folder)
        except Exception:
            wrong = traceback.format_exc()
        seconds, taken = time.process_time() - began, _peak() - before
        if seconds > SECONDS:
            wrong = wrong or f"took {seconds:.0f} s"
        if taken > BYTES:
            wrong = wrong or f"took {taken / 2**30:.1f} GiB"
        shutil.rmtree(folder)
        connection.send((wrong, seconds, taken))
        if taken > BYTES:  # it will never take less
            return


class _Worker:
    """A process, and what it is at."""

    def __init__(self, whole: Path, scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.scratch = scratch
        self.process = context.Process(target=work, args=(other, whole, scratch), daemon=True)
        self.process.start()
        other.close()
        self.job: Job | None = None
        self.began = 0.0

    def give(self, job: Job) -> None:
        self.job, self.began = job, time.monotonic()
        self.connection.send(job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        shutil.rmtree(self.scratch, ignore_errors=True)


def run(
    jobs: Iterable[Job],
    seconds: float = float("inf"),
    workers: int = 2,
    kinds: Collection[str] = (),
) -> Report:
    """Run jobs until they or the seconds are over, and print what fails; only of some kinds."""
    report, left = Report(), (job for job in jobs if not kinds or job[0] in kinds)
    with tempfile.TemporaryDirectory() as made:
        whole, numbers = Path(made) / "whole", count()
        _make(whole, kinds)
        end = time.monotonic() + seconds
        pool: list[_Worker] = []
        job = next(left, None)
        while job is not None or pool:
            while job is not None and len(pool) < workers:
                pool.append(_Worker(whole, Path(made) / str(next(numbers))))
                pool[-1].give(job)
                job = _next(left, end)
            ready = wait([worker.connection for worker in pool], timeout=1)
            for worker in [*pool]:
                assert worker.job is not None
                gone = not worker.process.is_alive()
                if worker.connection in ready:
                    try:
                        wrong, taken, peak = worker.connection.recv()
                    except EOFError:
                        wrong, taken, peak, gone = "the process died", 0, 0, True
                elif time.monotonic() - worker.began > HANGS:
                    wrong, taken, peak, gone = f"hung for {HANGS} s", HANGS, 0, True
                else:
                    continue
                report.tried[worker.job[0]] += 1
                report.slowest, report.peak = max(report.slowest, taken), max(report.peak, peak)
                if wrong:
                    report.failures[worker.job] = wrong
                    print(f"== {worker.job}\n{wrong}", flush=True)
                if gone or peak > BYTES or job is None:
                    worker.stop()
                    pool.remove(worker)
                else:
                    worker.give(job)
                    job = _next(left, end)
    return report


def _next(jobs: Iterator[Job], end: float) -> Job | None:
    return next(jobs, None) if time.monotonic() < end else None


def _make(whole: Path, chosen: Collection[str]) -> None:
    """Write whole files of every kind, or of those chosen."""
    from tests.fuzz.kinds import KINDS, make_models

    make_models(whole / "models", chosen)
    for name, kind in KINDS.items():
        if not chosen or name in chosen:
            (whole / name).mkdir()
            kind.make(whole / name)


def corpus() -> Iterator[Job]:
    """Give the files that failed once."""
    for case in sorted(CORPUS.glob("*/*")):
        yield case.parent.name, case.name


def mutations(first: int = 0, kinds: Iterable[str] = ()) -> Iterator[Job]:
    """Give seeds of all kinds, one after the other, without end."""
    from tests.fuzz.kinds import KINDS

    chosen = [*kinds] or [*KINDS]
    for seed in count(first):
        for kind in chosen:
            yield kind, seed


def main() -> int:
    """Run the corpus and then mutations, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--kinds", nargs="*", default=(), help="only these")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    jobs = (job for part in (corpus(), mutations(asked.seed, asked.kinds)) for job in part)
    report = run(jobs, asked.seconds, asked.workers, asked.kinds)
    for kind, tried in sorted(report.tried.items()):
        failed = sum(1 for job in report.failures if job[0] == kind)
        print(f"{kind:20}{tried:8} tried {failed:6} failed")
    print(f"slowest {report.slowest:.1f} s, at most {report.peak / 2**20:.0f} MiB more")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
