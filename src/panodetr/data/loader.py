"""Images and their objects for training, read ahead by a thread or by processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data as torch_data

from panodetr.data.augment import Augmentation, draw_view, recolor
from panodetr.data.dataset import read_objects
from panodetr.data.samples import AnySample, read_sample
from panodetr.data.targets import Objects, Target, paste_target, view_target
from panodetr.errors import DataError, ImageError
from panodetr.images.preprocess import Preprocessing


class Example(NamedTuple):
    """What is learned from: an image (h, w, 3) uint8 RGB, its objects, and the image's id."""

    image: NDArray[np.uint8]
    target: Target
    image_id: int


Drawn: TypeAlias = "tuple[AnySample, np.random.Generator]"
Asked: TypeAlias = "tuple[AnySample, np.random.Generator, Drawn | None]"
"""An image, the random numbers of its view, and the same of what lends objects to it."""

Read: TypeAlias = "Example | ImageError | DataError"
"""An example, or why there is none: as a value, because torch rewrites a worker's exceptions."""


@dataclass(frozen=True, kw_only=True)
class ExampleReader(torch_data.Dataset[Read]):
    """Reads images and shows views of them, in whatever process asks for them.

    Attributes:
        augmentation: which views.
        index_of: the class index of each category id.
        things: of each class index, whether it is of things: stuff is not pasted.
        with_masks: whether masks are read where objects are written one by one.
        rule: the model's, which says how values are read; None reads them as they are stored.
        cache: what was read, by the image's id; None keeps nothing.
    """

    augmentation: Augmentation
    index_of: dict[int, int]
    things: tuple[bool, ...] = ()
    with_masks: bool
    rule: Preprocessing | None = None
    cache: dict[int, tuple[NDArray[np.uint8], Objects]] | None = None

    def __getitem__(self, asked: Asked) -> Read:
        """Read an image and show a view of it; or return what is wrong with it."""
        sample, rng, lender = asked
        try:
            shown, target = self._view(sample, rng)
            if lender is not None:
                # An image that cannot be read lends nothing, and is told of at its own turn.
                with suppress(ImageError, DataError):
                    shown, target = paste((shown, target), self._view(*lender), self.things, rng)
        except (ImageError, DataError) as error:
            return error
        return Example(shown, target, sample.image_id)

    def _view(
        self, sample: AnySample, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Target]:
        cache = {} if self.cache is None else self.cache
        if sample.image_id not in cache:
            image = read_sample(sample, self.rule)
            objects = read_objects(sample, self.index_of, with_masks=self.with_masks)
            cache[sample.image_id] = image, objects
        image, objects = cache[sample.image_id]
        view = draw_view(self.augmentation, sample.size, rng)
        shown = view.image(image)
        if self.augmentation.color:
            shown = recolor(shown, self.augmentation.color, rng)
        return shown, view_target(objects, view)


def paste(
    under: tuple[NDArray[np.uint8], Target],
    over: tuple[NDArray[np.uint8], Target],
    things: Sequence[bool],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], Target]:
    """Paste about half of a view's things on another view, each view an image and its objects.

    Only things that are whole in their view are pasted, so that no edge is straight. The view lies
    somewhere within the other, or is cut to its size.
    """
    (image, target), (lent, lender) = under, over
    if target.ids is None or lender.ids is None:
        return under
    height, width = map(min, image.shape[:2], lent.shape[:2])
    lent, lender = lent[:height, :width], replace(lender, ids=lender.ids[:height, :width])
    y = int(rng.integers(image.shape[0] - height + 1))
    x = int(rng.integers(image.shape[1] - width + 1))
    (x0, y0, x1, y1), boxes = (0.5, 0.5, width - 0.5, height - 0.5), lender.boxes
    whole = (boxes[:, :2] > (x0, y0)).all(1) & (boxes[:, 2:] < (x1, y1)).all(1)
    chosen = whole & np.array(things, bool)[lender.classes] & (rng.random(len(boxes)) < 0.5)
    result, covers = paste_target(target, lender, chosen, (y, x))
    image = image.copy()
    image[y : y + height, x : x + width][covers] = lent[covers]
    return image, result


def read_ahead(
    reader: ExampleReader, asked: Iterator[Asked], ahead: int, workers: int = 0
) -> Generator[Read, None, None]:
    """Read examples in the order in which they are asked for; close it to end the workers.

    Args:
        reader: what reads one.
        asked: samples, each with the random numbers of its view.
        ahead: how many are read before they are wanted, besides two for each worker.
        workers: processes that read; 0 reads in a thread. They are spawned: a script that asks for
            them needs the usual `if __name__ == "__main__":`.

    Raises:
        DataError: a worker died.
    """
    if workers:
        yield from _in_workers(reader, asked, ahead, workers)
        return
    pool, waiting = ThreadPoolExecutor(max_workers=1), deque[Future[Read]]()
    try:
        while True:
            coming = islice(asked, 1 + ahead - len(waiting))
            waiting.extend(pool.submit(reader.__getitem__, one) for one in coming)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_workers(
    reader: ExampleReader, asked: Iterator[Asked], ahead: int, workers: int
) -> Generator[Read, None, None]:
    before = signal.getsignal(signal.SIGCHLD) if sys.platform != "win32" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of more workers than cores
        loader = torch_data.DataLoader(
            reader,
            batch_size=None,  # one by one
            sampler=asked,  # pyright: ignore[reportArgumentType]  # it has no length
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=2 + -(-ahead // workers),
            # Spawned: torch and hotcoco have threads, of which a fork keeps nothing but the locks.
            multiprocessing_context="spawn",
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # the global one is the step's
        )
    reading = iter(loader)
    if sys.platform != "win32" and signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)  # torch's raises in the midst of a step
    try:
        yield from reading
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise DataError(
            f"a data worker was killed (out of memory?); use fewer workers than {workers}"
        ) from error


def _unchanged(read: Any) -> Any:
    """Keep torch from turning arrays into tensors."""
    return read


def _begin_worker(worker: int) -> None:
    """Ignore signals that a terminal sends to all processes; leave when the main one is dead.

    torch's worker would wait for somebody to take its results.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
