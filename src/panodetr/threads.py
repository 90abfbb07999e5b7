"""How many threads to use, for every runtime and for our own pools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

from panodetr.errors import UsageError

T = TypeVar("T")
U = TypeVar("U")

_POLL = 0.1
"""Seconds after which a waiting thread checks whether it is cancelled."""

_GRACE = 1.0
"""Seconds that a cancelled thread has to end in."""

_CANCELLED: ContextVar[Event | None] = ContextVar("cancelled", default=None)
"""Set in a thread of `prefetch` once its items are no longer asked for."""


class Cancelled(Exception):
    """The caller has gone that a thread works for."""


def stop_if_cancelled() -> None:
    """End long work in a thread of `prefetch` whose caller has gone, as after Ctrl-C.

    Raises:
        Cancelled: it has.
    """
    cancelled = _CANCELLED.get()
    if cancelled is not None and cancelled.is_set():
        raise Cancelled


def omp_threads() -> int | None:
    """Give the number in OMP_NUM_THREADS, or None where it is not set or is not a number.

    PyTorch reads the variable itself. OpenVINO and ONNX Runtime do not, so they get this number.
    With None each library chooses, and takes all cores.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the rest: nested loops
    return int(first) if first.isdecimal() and int(first) > 0 else None


def pool_threads() -> int:
    """Give the size of a thread pool: `omp_threads`, else the cores that this process may use."""
    if (threads := omp_threads()) is not None:
        return threads
    if sys.platform == "linux":  # a container or `taskset` may allow fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each_strip(work: Callable[[slice], None], length: int, step: int) -> None:
    """Call `work` with strips of at most `step` of `length` rows or columns, on `pool_threads`."""
    strips = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    threads = min(pool_threads(), len(strips))
    if threads == 1:  # to start one takes longer than a small strip
        for strip in strips:
            work(strip)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, strips))


@dataclass(frozen=True)
class Streams:
    """Threads that compute side by side, each on one core; without a pool, the caller's own."""

    count: int = 1
    pool: Executor | None = None

    def map(self, work: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
        """Give items, in their order, with what `work` makes of them."""
        if self.pool is None:
            yield from ((item, work(item)) for item in items)
            return
        begun = ((item, self.pool.submit(work, item)) for item in items)
        for item, made in prefetch(begun, self.count):
            yield item, made.result()


def refuse_fork(library: str) -> None:
    """Refuse to use a library whose threads another process has: a forked one would wait for ever.

    Raises:
        UsageError: this process was forked from one that has called this for the library.
    """
    if os.getpid() != _first_process(library):
        raise UsageError(
            f"{library} was loaded before this process was forked, and cannot run in it; load the "
            "model here alone, or start processes by multiprocessing.get_context('spawn')"
        )


@cache
def _first_process(library: str) -> int:
    return os.getpid()


def prefetch(items: Iterable[T], most: int) -> Iterator[T]:
    """Give items in their order, which another thread makes while the caller works on earlier ones.

    Args:
        items: to make; an error among them is raised in its place.
        most: how many may wait to be asked for, 1 or more.
    """
    ready: Queue[tuple[T | None, BaseException | None]] = Queue(most)
    end = StopIteration()
    cancelled = Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not cancelled.is_set():
            try:
                return ready.put((item, error), timeout=_POLL)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if cancelled.is_set():
                    break
        except BaseException as error:
            put(None, error)
        else:
            put(None, end)

    context = copy_context()
    context.run(_CANCELLED.set, cancelled)
    thread = Thread(target=context.run, args=(make,), daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = ready.get(timeout=_POLL)  # so that Ctrl-C is noticed on Windows
            except Empty:
                continue
            if error is end:
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        cancelled.set()
        thread.join(_GRACE)  # a process that ends around a working thread may crash
