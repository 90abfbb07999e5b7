"""A fresh process that does one piece of work as often as it is told to.

Sides that live beside each other can be run in turns (A B A B …), so that whatever else the machine
does falls on both, and the memory of each is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, cast

from numpy.typing import NDArray

from panodetr.errors import PanodetrError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from typing import Self

Laps: TypeAlias = dict[str, float]
"""Seconds by what took them."""

Answer: TypeAlias = dict[str, NDArray[Any]]
"""What came out, by name: `harness.compare` says which names it knows."""

Value = TypeVar("Value")

_EXIT_SECONDS = 10


class SideFailed(PanodetrError):
    """A process could not do its work."""


class Work(Protocol):
    """A piece of work that is ready to be done."""

    def run(self) -> Laps:
        """Do it once, and say how long it took."""
        ...

    def answer(self) -> Answer:
        """Do it once, and give what came out, to be compared."""
        ...


Job: TypeAlias = Callable[[], Work]
"""Makes work ready, in the process that does it: a class at a module's top level, or a partial."""


class Side:
    """A process that has made one job ready."""

    def __init__(self, job: Job, threads: int) -> None:
        """Start the process and wait until it is ready.

        Raises:
            SideFailed: the job could not be made ready.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        with _threads_in_environment(threads):
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Give the side, for `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def run(self) -> Laps:
        """Let it do its work once.

        Raises:
            SideFailed: it could not, or the process has died.
        """
        return cast("Laps", self._ask("run"))

    def answer(self) -> Answer:
        """Let it do its work once and tell what came out; errors as for `run`."""
        return cast("Answer", self._ask("answer"))

    def peak(self) -> int:
        """Most memory that the process has had until now, in bytes; errors as for `run`."""
        return cast("int", self._ask("peak"))

    def close(self) -> None:
        """End the process, by force where it does not end by itself."""
        self._connection.close()  # the process reads the end of its orders, and leaves
        self._process.join(_EXIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, order: Literal["run", "answer", "peak"]) -> object:
        try:
            self._connection.send(order)
        except OSError as error:
            raise SideFailed(self._cause_of_death()) from error
        return self._receive()

    def _receive(self) -> object:
        try:
            good, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise SideFailed(self._cause_of_death()) from error
        if not good:
            raise SideFailed(value)
        return value

    def _cause_of_death(self) -> str:
        self._process.join(_EXIT_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = ", as where memory runs out" if name == "SIGKILL" else ""
            return f"the process was ended by {name}{hint}"
        return f"the process ended with exit code {code}"


def in_fresh_process(function: Callable[[], Value], threads: int) -> Value:
    """Call a function in a process of its own, so that this one stays small.

    Raises:
        SideFailed: it raised, or the process died.
    """
    with Side(partial(_Call, function), threads) as side:
        return cast("Value", side.answer())


def peak_memory() -> int:
    """Most memory that this process has had, in bytes."""
    # getrusage(2) would begin with what the process had that started this one.
    if (status := Path("/proc/self/status")).is_file():
        fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024  # the kernel's kB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Call:
    """A function as work: what it returns is the answer."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.answer = function

    def run(self) -> Laps:
        """Call it, for the time alone."""
        start = time.perf_counter()
        self.answer()
        return {"whole": time.perf_counter() - start}


def _serve(connection: Connection[Any, Any], job: Job) -> None:
    """Make a job ready, and then follow orders until there are no more."""
    try:
        work = job()
        connection.send((True, None))
    except Exception as error:
        connection.send((False, _one_line(error)))
        return
    orders: dict[str, Callable[[], object]] = {
        "run": work.run,
        "answer": work.answer,
        "peak": peak_memory,
    }
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        try:
            reply = True, orders[order]()
        except Exception as error:
            reply = False, _one_line(error)
        connection.send(reply)


@contextmanager
def _threads_in_environment(count: int) -> Generator[None]:
    """Say it to the OpenMP of a process that starts meanwhile.

    There it would be too late: a job that comes with a model has imported torch as it arrives.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _one_line(error: Exception) -> str:
    """Put an error in one line; of one that nobody foresaw, the traceback goes to stderr."""
    if isinstance(error, PanodetrError):
        return str(error)
    traceback.print_exception(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
