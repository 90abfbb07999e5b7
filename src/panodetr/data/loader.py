"""Images and their objects for training, batch by batch, read ahead.

The same step gives the same batch, whatever came before it and whoever reads it: a run that was
stopped goes on with exactly the images it would have seen, and nothing has to be stored for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.data.augment import draw_view, recolor
from panodetr.data.dataset import Dataset, read_objects
from panodetr.data.samples import read_sample
from panodetr.data.sampling import Sampler, Sampling
from panodetr.data.targets import Objects, Target, view_target
from panodetr.errors import DataError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from panodetr.data.augment import Augmentation
    from panodetr.data.samples import AnySample
    from panodetr.data.sampling import Draw

CACHED_PIXELS = 150_000_000
"""A data set of up to this many pixels is kept in memory, 7 bytes a pixel, by a reading thread."""


class Example(NamedTuple):
    """What is learned from: an image (h, w, 3) uint8 RGB, its objects, and the image's id."""

    image: NDArray[np.uint8]
    target: Target
    image_id: int


Pair: TypeAlias = tuple[NDArray[np.uint8], Objects]


@dataclass(frozen=True, kw_only=True)
class ExampleReader:
    """Reads images and shows views of them; pickled with every image that a worker is to read.

    Attributes:
        augmentation: which views.
        index_of: the class index of each category id.
        with_masks: whether masks are read where objects are written one by one.
    """

    augmentation: Augmentation
    index_of: dict[int, int]
    with_masks: bool

    def read(self, sample: AnySample) -> Pair:
        """Read an image and its objects.

        Raises:
            ImageError: the image cannot be read.
            DataError: it has another size than is said of it, or its truth is broken.
        """
        image = read_sample(sample)
        return image, read_objects(sample, self.index_of, with_masks=self.with_masks)

    def show(self, pair: Pair, sample: AnySample, rng: np.random.Generator) -> Example:
        """Show a view of an image that was read."""
        image, objects = pair
        view = draw_view(self.augmentation, sample.size, rng)
        shown = view.image(image)
        if self.augmentation.color:
            shown = recolor(shown, self.augmentation.color, rng)
        return Example(shown, view_target(objects, view), sample.image_id)

    def __call__(self, sample: AnySample, rng: np.random.Generator) -> Example:
        """Read an image and show a view of it; raises as `read` does."""
        return self.show(self.read(sample), sample, rng)


class BatchReader:
    """Batches of a data set by their steps.

    An image that cannot be read, or whose ground truth cannot, is reported once and replaced by the
    next one that can: the same one in every run.
    """

    def __init__(
        self,
        data: Dataset,
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        sampling: Sampling,
        workers: int = 0,
        bad_images: int = 0,
        with_masks: bool = True,
        on_bad: Callable[[str], None] | None = None,
    ) -> None:
        """Get ready; nothing is read yet.

        Args:
            data: what to learn from.
            augmentation: how images become what the model sees.
            seed: of all randomness.
            batch_size: images a step, of all ranks together.
            sampling: how images are chosen.
            workers: processes that read images; 0 reads in a thread, which keeps a small data set
                in memory. They are spawned: a script that asks for them needs the usual
                `if __name__ == "__main__":`.
            bad_images: how many different images may turn out unreadable.
            with_masks: whether masks are read, where the data has them and objects are written one
                by one; without, a box stays also where nothing is left of its object's mask.
            on_bad: called with a line for each of them, in the process that takes the batches.
        """
        self._data = data
        self._batch_size = batch_size
        self._workers = workers
        self._bad_images = bad_images
        self._on_bad = on_bad
        self._bad: set[int | str] = set()  # places of images, and what is said of those left out
        sizes = [sample.size for sample in data.samples]
        self._sampler = Sampler(
            sizes, augmentation, seed=seed, batch_size=batch_size, sampling=sampling
        )
        self._read = ExampleReader(
            augmentation=augmentation,
            index_of=data.index_of,
            with_masks=with_masks and data.has_masks,
        )
        pixels = sum(height * width for height, width in sizes)
        self._keep = not workers and pixels <= CACHED_PIXELS
        self._cache: dict[int, Pair] = {}

    def batches(
        self, first_step: int, last_step: int, rank: int = 0, ranks: int = 1
    ) -> Generator[list[Example], None, None]:
        """Give the batches of some steps, `last_step` left out; of each, one rank's share.

        Closing the iterator ends the workers, as its end does.

        Raises:
            ValueError: a rank would have nothing of a batch.
            DataError: more images than `bad_images` cannot be read, or none can; or a worker died.
        """
        if not 0 <= rank < ranks <= self._batch_size:
            raise ValueError(
                f"rank {rank} of {ranks} has no part in batches of {self._batch_size}; "
                "expected a batch size of at least the number of ranks"
            )
        for message in self._data.unreadable:
            self._count(message, message)
        share = range(rank, self._batch_size, ranks)
        # Every worker has an image to read and one that waits, and the next batch is on its way.
        ahead = 1 + -(-2 * self._workers // len(share))
        waiting: deque[list[tuple[int, Draw, Future[Example]]]] = deque()
        pool = self._pool()
        try:
            for step in range(first_step, last_step + ahead):
                if step < last_step:
                    numbers = (step * self._batch_size + place for place in share)
                    waiting.append([self._ask(pool, number) for number in numbers])
                if waiting and step >= first_step + ahead:
                    yield [self._take(pool, *asked) for asked in waiting.popleft()]
        except BrokenProcessPool as error:
            raise DataError(
                f"a data worker was killed (out of memory?); use fewer workers than {self._workers}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _pool(self) -> Executor:
        if not self._workers:
            return ThreadPoolExecutor(max_workers=1)
        # Spawned: torch and hotcoco have threads, of which a fork keeps nothing but the locks.
        return ProcessPoolExecutor(
            self._workers, multiprocessing.get_context("spawn"), initializer=_begin_worker
        )

    def _ask(
        self, pool: Executor, number: int, attempt: int = 0
    ) -> tuple[int, Draw, Future[Example]]:
        draw = self._sampler.draw(number, attempt)
        sample = self._data.samples[draw.index]
        if self._workers:
            return number, draw, pool.submit(self._read, sample, draw.rng)
        return number, draw, pool.submit(self._read_here, draw)

    def _take(self, pool: Executor, number: int, draw: Draw, future: Future[Example]) -> Example:
        """Wait for an image, or for the first that can be read of those that stand in for it."""
        attempt = 0
        while True:
            try:
                return future.result()
            except (ImageError, DataError) as error:
                self._count(draw.index, str(error))
            attempt += 1
            number, draw, future = self._ask(pool, number, attempt)

    def _count(self, image: int | str, message: str) -> None:
        """Tell of an image that cannot be read, and give up where there are too many."""
        if image not in self._bad:
            self._bad.add(image)
            if self._on_bad is not None:
                self._on_bad(message)
        check_bad_images(len(self._bad), self._data, self._bad_images, message)

    def _read_here(self, draw: Draw) -> Example:
        sample = self._data.samples[draw.index]
        pair = self._cache.get(draw.index)
        if pair is None:
            pair = self._read.read(sample)
            if self._keep:
                self._cache[draw.index] = pair
        return self._read.show(pair, sample, draw.rng)


def check_bad_images(bad: int, data: Dataset, limit: int, last: str) -> None:
    """See that there are no more unreadable images than a run allows, and others besides.

    Args:
        bad: how many there are.
        data: of which data set.
        limit: how many there may be.
        last: what is said of the last one.

    Raises:
        DataError: there are too many.
    """
    images = len(data.samples) + len(data.unreadable)
    if bad > limit or bad == images:
        raise DataError(
            f"{bad} of {images} images cannot be read, the last: {last}; "
            f"`panodetr data check` lists them all, and bad_images allows more than {limit}"
        )


def _begin_worker() -> None:
    """Let an interrupt be the main process's affair, and leave when that dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
