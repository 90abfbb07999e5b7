"""The queue of images, and the model processes that take batches from it.

All of it runs in the front process's event loop; threads only wait for the model processes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

from panodetr.errors import PanodetrError
from panodetr.serve.errors import RequestError, overloaded
from panodetr.serve.model_process import Answer, run_models
from panodetr.threads import pool_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from panodetr.serve.api import ModelInfo, Work
    from panodetr.serve.metrics import Metrics
    from panodetr.serve.options import ServiceOptions

LIKE_SIZED = 2
"""Images share a batch if none has more than this many times the pixels of another."""

LONGEST_PAUSE = 30.0
"""Seconds before a model process that keeps failing is started again."""

T = TypeVar("T")

_log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """An image that waits, or that a model process holds.

    Attributes:
        work: what is to be done.
        image: an image file.
        pixels: of the image.
        answer: what whoever asked waits for; done early if nobody waits any more.
    """

    work: Work
    image: bytes
    pixels: int
    answer: asyncio.Future[Answer]


class Pool:
    """A bounded queue, and model processes that are started again when they die.

    Attributes:
        draining: whether no more images are taken, because the service is about to end.
        models: the models of the service, once it has started.
        accepted: images that wait or are worked on.
        waiting_pixels: of those that wait.
    """

    def __init__(
        self, sources: Mapping[str, str], options: ServiceOptions, metrics: Metrics
    ) -> None:
        self.models: list[ModelInfo] = []
        self.draining = False
        self.accepted = 0
        self.waiting_pixels = 0
        self._sources = sources
        self._options = options
        self._metrics = metrics
        self._waiting: dict[Entry, None] = {}  # in order; leaving it takes no search
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(3 * options.workers)
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: dict[SpawnProcess, Connection[Any, Any]] = {}
        self._ready: set[SpawnProcess] = set()  # those that have loaded the models
        self._pixels_a_second = 1e6  # of one model process, measured as they work

    async def start(self) -> None:
        """Start the model processes, and wait until all have loaded the models.

        Raises:
            PanodetrError: a model was refused.
        """
        started = [asyncio.create_task(self._start()) for _ in range(self._options.workers)]
        for process in await asyncio.gather(*started):
            self._tasks.append(asyncio.create_task(self._keep_running(process)))

    @property
    def ready(self) -> bool:
        """Whether images are welcome."""
        return bool(self._ready) and not self.draining

    def put(self, work: Work, image: bytes, pixels: int) -> asyncio.Future[Answer]:
        """Let an image wait for a model process; to cancel what is returned takes it back.

        Raises:
            RequestError: too many pixels wait already, or none are taken any more (429).
        """
        if self.draining:
            raise overloaded("the service is about to end; try again", "draining")
        if self._waiting and self.waiting_pixels + pixels > self._options.queue_pixels:
            seconds = self.waiting_pixels / self._pixels_a_second / self._options.workers
            raise overloaded(
                f"{self.waiting_pixels:,} pixels wait already, and the limit is "
                f"{self._options.queue_pixels:,}; try again later",
                "queue full",
                min(60, max(1, math.ceil(seconds))),
            )
        answer = asyncio.get_running_loop().create_future()
        entry = Entry(work=work, image=image, pixels=pixels, answer=answer)
        answer.add_done_callback(lambda _: self._done(entry))
        self.accepted += 1
        self._enter(entry)
        return answer

    async def close(self) -> None:
        """End the model processes."""
        for task in self._tasks:
            task.cancel()
        for process in list(self._connections):
            self._end(process)
        self._threads.shutdown()

    def _done(self, entry: Entry) -> None:
        """Forget an entry that was answered, or that nobody waits for any more."""
        self.accepted -= 1
        self._report()
        self._leave(entry)

    def _enter(self, entry: Entry) -> None:
        self._waiting[entry] = None
        self.waiting_pixels += entry.pixels
        self._report()
        self._arrived.set()

    def _leave(self, entry: Entry) -> None:
        """Take an entry out of the queue, if it is there."""
        if entry not in self._waiting:
            return
        del self._waiting[entry]
        self.waiting_pixels -= entry.pixels
        self._report()
        if not self._waiting:
            self._arrived.clear()

    async def _take(self) -> list[Entry]:
        """Wait for images, and take the first with others that may share its batch."""
        while not self._waiting:
            await self._arrived.wait()
        first = next(iter(self._waiting))
        batch, room = [first], self._options.batch_pixels - first.pixels
        for entry in list(self._waiting)[1:]:
            alike = 1 / LIKE_SIZED <= entry.pixels / first.pixels <= LIKE_SIZED
            if alike and entry.pixels <= room and entry.work == first.work:
                batch.append(entry)
                room -= entry.pixels
        for entry in batch:
            self._leave(entry)
        return batch

    async def _start(self) -> SpawnProcess:
        """Start a model process, and wait until it has loaded the models.

        Raises:
            PanodetrError: a model was refused, or the process died.
        """
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
            models = (
                f"a model process ended with code {process.exitcode} while it loaded the models; "
                "the log has more, and -9 is often a lack of memory"
            )
        if isinstance(models, str):
            self._end(process)
            raise PanodetrError(models)
        self.models = models
        self._ready.add(process)
        self._report()
        return process

    def _end(self, process: SpawnProcess) -> None:
        process.kill()
        if (connection := self._connections.pop(process, None)) is not None:
            connection.close()
        self._ready.discard(process)
        self._report()

    def _report(self) -> None:
        self._metrics.accepted.set(self.accepted)
        self._metrics.queue_pixels.set(self.waiting_pixels)
        self._metrics.model_processes.set(len(self._ready))

    async def _keep_running(self, process: SpawnProcess) -> None:
        """Feed a model process, and start another when it has died."""
        while True:
            await self._feed(process)
            self._end(process)
            self._metrics.restarts.inc()
            _log.error("model process %d died, another is started", process.pid)
            pause = 1.0
            while True:
                try:
                    process = await self._start()
                    break
                except PanodetrError as error:
                    _log.error("%s; it is tried again in %.0f s", error, pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def _feed(self, process: SpawnProcess) -> None:
        """Give a model process batches until it dies, or takes longer than any request may."""
        gone = self._in_thread(wait, [process.sentinel])
        while True:
            take = asyncio.create_task(self._take())
            await asyncio.wait({take, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                for entry in take.result() if take.done() else ():
                    self._enter(entry)  # it has not been sent
                take.cancel()
                return
            batch = [entry for entry in take.result() if not entry.answer.done()]
            if not batch:
                continue
            began, failure = time.perf_counter(), None
            answers: list[Answer] = []
            try:
                answers = await asyncio.wait_for(
                    self._in_thread(self._ask, process, batch), self._options.deadline
                )
            except TimeoutError:
                failure = RequestError(504, "the model took too long; send a smaller image")
            except (EOFError, OSError):
                failure = RequestError(502, "the model process died; try again")
            pixels = sum(entry.pixels for entry in batch)
            self._metrics.batch_images.observe(len(batch))
            self._metrics.batch_pixels.observe(pixels)
            rate = pixels / (time.perf_counter() - began)
            self._pixels_a_second += 0.2 * (rate - self._pixels_a_second)
            for index, entry in enumerate(batch):
                if entry.answer.done():
                    continue
                if failure is None:
                    entry.answer.set_result(answers[index])
                else:
                    entry.answer.set_exception(failure)
            if failure is not None:
                return

    def _ask(self, process: SpawnProcess, batch: list[Entry]) -> list[Answer]:
        connection = self._connections[process]
        connection.send((batch[0].work, [entry.image for entry in batch]))
        return connection.recv()

    def _in_thread(self, call: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
