"""The queue of images, the model processes that take batches from it, and the service's figures.

All of it runs in the front process's event loop; threads only wait for the model processes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from panodetr.errors import PanodetrError
from panodetr.serve.api import Given, ModelInfo, RequestError, Work, overloaded
from panodetr.serve.model_process import run_models
from panodetr.serve.options import ServiceOptions
from panodetr.threads import pool_threads

LIKE_SIZED = 2
"""Images share a batch if none has more than this many times the pixels of another."""

PAUSES = (1, 2, 4, 8, 16, 30)
"""Seconds before a model process that keeps failing is started again; the last is repeated."""

T = TypeVar("T")

_log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")


class Metrics:
    """The figures of one service, which Prometheus reads at `/metrics`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.requests = counter("panodetr_requests", "Requests answered.", ["route", "status"])
        self.latency = histogram(
            "panodetr_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.errors = counter("panodetr_errors", "Errors by kind.", ["kind"])
        self.queue_pixels = gauge("panodetr_queue_pixels", "Pixels of the images that wait.")
        self.accepted = gauge("panodetr_accepted", "Images that wait or are worked on.")
        self.batch_images = histogram(
            "panodetr_batch_images", "Images of a batch.", buckets=(1, 2, 4, 8, 16, 32)
        )
        self.batch_pixels = histogram(
            "panodetr_batch_pixels", "Pixels of a batch.", buckets=(1e4, 1e5, 1e6, 1e7)
        )
        self.model_processes = gauge("panodetr_model_processes", "Model processes that are alive.")
        self.restarts = counter("panodetr_restarts", "Model processes that died.")

    def text(self) -> bytes:
        """Write them for Prometheus."""
        return generate_latest(self._registry)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """An image that waits, or that a model process holds.

    Attributes:
        work: what is to be done.
        given: what it is to be done with.
        pixels: of the image.
        answer: the future of the answer; cancelled when nobody waits any more.
    """

    work: Work
    given: Given
    pixels: int
    answer: asyncio.Future[bytes]


class Pool:
    """A bounded queue, and model processes that are started again when they die.

    Attributes:
        draining: whether no more images are taken, because the service is about to end.
        models: the models of the service, once it has started.
        accepted: images that wait or are worked on.
    """

    def __init__(
        self, sources: Mapping[str, str], options: ServiceOptions, metrics: Metrics
    ) -> None:
        self.models: list[ModelInfo] = []
        self.draining = False
        self.accepted = 0
        self._sources = sources
        self._options = options
        self._metrics = metrics
        self._waiting: dict[Entry, None] = {}  # in order; leaving it takes no search
        self._arrived = asyncio.Event()  # wakes those that wait for images
        self._threads = ThreadPoolExecutor(3 * options.workers)
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: dict[SpawnProcess, Connection[Any, Any]] = {}
        self._ready: set[SpawnProcess] = set()  # those that have loaded the models
        self._pixels_a_second = 1e6  # of one model process, measured as they work
        metrics.accepted.set_function(lambda: self.accepted)
        metrics.queue_pixels.set_function(self._waiting_pixels)
        metrics.model_processes.set_function(lambda: len(self._ready))

    async def start(self) -> None:
        """Start the model processes, and wait until all have loaded the models.

        Raises:
            PanodetrError: a model was refused.
        """
        started = await asyncio.gather(*(self._start() for _ in range(self._options.workers)))
        self._tasks = [asyncio.create_task(self._keep_running(process)) for process in started]

    @property
    def ready(self) -> bool:
        """Whether images are welcome."""
        return bool(self._ready) and not self.draining

    async def answer(self, work: Work, given: Given, pixels: int) -> bytes:
        """Wait for a model process's answer; cancelling takes the image out of the queue.

        Raises:
            RequestError: too much waits, none is taken any more (429), or there is no answer.
        """
        if self.draining:
            raise overloaded("the service is about to end; try again", "draining")
        waiting = self._waiting_pixels()
        if self._waiting and waiting + pixels > self._options.queue_pixels:
            seconds = waiting / self._pixels_a_second / self._options.workers
            raise overloaded(
                f"{waiting:,} pixels wait already, and the limit is "
                f"{self._options.queue_pixels:,}; try again later",
                "queue full",
                min(60, max(1, math.ceil(seconds))),
            )
        future = asyncio.get_running_loop().create_future()
        entry = Entry(work=work, given=given, pixels=pixels, answer=future)
        self._waiting[entry] = None
        self._arrived.set()
        self.accepted += 1
        try:
            return await entry.answer
        finally:
            self.accepted -= 1
            self._waiting.pop(entry, None)

    async def close(self) -> None:
        """End the model processes."""
        for task in self._tasks:
            task.cancel()
        for process in list(self._connections):
            self._end(process)
        self._threads.shutdown()

    def _waiting_pixels(self) -> int:
        return sum(entry.pixels for entry in self._waiting)

    async def _start(self) -> SpawnProcess:
        """Start a model process, and wait until it has loaded the models."""
        pipe: Any = _spawn.Pipe()  # typed by the platform that the checker runs on
        here, there = pipe
        threads = max(1, pool_threads() // self._options.workers)
        arguments = there, self._sources, self._options, threads
        process = _spawn.Process(target=run_models, args=arguments, daemon=True)
        await self._in_thread(process.start)
        there.close()
        self._connections[process] = here
        try:
            models = await self._in_thread(here.recv)
        except (EOFError, OSError):
            await self._in_thread(process.join, 1)
            models = PanodetrError(
                f"a model process ended with code {process.exitcode} while it loaded the models; "
                "the log has more, and -9 is often a lack of memory"
            )
        if isinstance(models, PanodetrError):
            self._end(process)
            raise models
        self.models = models
        self._ready.add(process)
        return process

    def _end(self, process: SpawnProcess) -> None:
        process.kill()
        if (connection := self._connections.pop(process, None)) is not None:
            connection.close()
        self._ready.discard(process)

    async def _keep_running(self, process: SpawnProcess) -> None:
        """Feed a model process, and start another when it has died."""
        while True:
            await self._feed(process)
            self._end(process)
            self._metrics.restarts.inc()
            _log.error("model process %d died, another is started", process.pid)
            for pause in chain(PAUSES, repeat(PAUSES[-1])):
                try:
                    process = await self._start()
                    break
                except PanodetrError as error:
                    _log.error("%s; it is tried again in %d s", error, pause)
                    await asyncio.sleep(pause)

    async def _feed(self, process: SpawnProcess) -> None:
        """Give a model process batches until it dies, or takes longer than any request may."""
        died = self._in_thread(wait, [process.sentinel])
        died.add_done_callback(lambda _: self._arrived.set())
        while batch := await self._take(died):
            began, failure = time.perf_counter(), None
            try:
                answers = await asyncio.wait_for(
                    self._in_thread(self._ask, process, batch), self._options.deadline
                )
            except TimeoutError:
                failure = RequestError(504, "the model took too long; send a smaller image")
                answers = [failure] * len(batch)
            except (EOFError, OSError):
                failure = RequestError(502, "the model process died; try again")
                answers = [failure] * len(batch)
            pixels = sum(entry.pixels for entry in batch)
            self._metrics.batch_images.observe(len(batch))
            self._metrics.batch_pixels.observe(pixels)
            rate = pixels / (time.perf_counter() - began)
            self._pixels_a_second += 0.2 * (rate - self._pixels_a_second)
            for entry, answer in zip(batch, answers, strict=True):
                if entry.answer.done():  # nobody waits any more
                    continue
                if isinstance(answer, bytes):
                    entry.answer.set_result(answer)
                else:
                    entry.answer.set_exception(answer)
            if failure is not None:
                return

    async def _take(self, died: asyncio.Future[Any]) -> list[Entry]:
        """Wait for images, and take the first with others that may share its batch.

        Gives none if the model process that they are for has died.
        """
        waiting: list[Entry] = []
        while not waiting:
            self._arrived.clear()
            waiting = [entry for entry in self._waiting if not entry.answer.done()]
            if died.done():
                return []
            if not waiting:
                await self._arrived.wait()
        batch, room = [waiting[0]], self._options.batch_pixels - waiting[0].pixels
        for entry in waiting[1:]:
            alike = 1 / LIKE_SIZED <= entry.pixels / batch[0].pixels <= LIKE_SIZED
            if alike and entry.pixels <= room and entry.work == batch[0].work:
                batch.append(entry)
                room -= entry.pixels
        # A power of two: PyTorch keeps memory for each size of batch that it meets.
        del batch[1 << (len(batch).bit_length() - 1) :]
        for entry in batch:
            del self._waiting[entry]
        return batch

    def _ask(self, process: SpawnProcess, batch: list[Entry]) -> list[bytes | RequestError]:
        connection = self._connections[process]
        connection.send((batch[0].work, [entry.given for entry in batch]))
        return connection.recv()

    def _in_thread(self, call: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
