"""Images read ahead, and as many together as a batch holds; halved where a device's memory ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from panodetr.errors import ImageError, PanodetrError, UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import ImageSource, pixels_within
from panodetr.images.views import (
    BATCH_PIXELS,
    TiledImage,
    View,
    read_tiled,
    view_batches,
    warn,
)
from panodetr.threads import ahead

T = TypeVar("T")

READ_AHEAD = 2
"""Images that are read while the network works on earlier ones."""


class Batch(NamedTuple):
    """Views of one size, which run together, and the images that were read together."""

    images: list[TiledImage]
    views: list[View]


class Refused(NamedTuple):
    """An image that cannot be read."""

    image: ImageSource
    error: ImageError


@dataclass(kw_only=True)
class Batching:
    """How many images or tiles run together.

    Attributes:
        count: of one size that run together; None goes by their pixels.
        pixels: what these may have together then.
        max_pixels: a larger image is refused before it is decoded
            (`panodetr.images.read.pixels_within`).

    """

    count: int | None = None
    pixels: int = BATCH_PIXELS
    max_pixels: int = field(default_factory=pixels_within)
    _fitting: int | None = None  # views that the device's memory holds, once it was full

    def __post_init__(self) -> None:
        """Refuse a count below 1.

        Raises:
            UsageError: it is.
        """
        if self.count is not None and self.count < 1:
            raise UsageError(f"batch is {self.count}; expected 1 image or tile, or more")

    def read(
        self,
        images: Iterable[ImageSource],
        rule: Preprocessing,
        *,
        refused: bool,
        streams: int,
        resized: bool,
        cell: int | None = None,
    ) -> Iterator[Batch | Refused]:
        """Read images in their order, and cut as many at a time as fit a batch into views.

        Args:
            images: to read.
            rule: how the model sees them.
            refused: whether those that cannot be read are given out; else they are raised.
            streams: as in `view_batches`.
            resized: as there.
            cell: as there.
        """

        def read() -> Iterator[TiledImage | Refused]:
            for image in images:
                try:
                    yield read_tiled(image, rule, self.max_pixels)
                except ImageError as error:
                    if not refused:
                        raise
                    yield Refused(image, error)

        # A thread would gain nothing for one image, or for arrays.
        alone = isinstance(images, list) and (
            len(images) == 1 or all(isinstance(image, np.ndarray) for image in images)
        )
        for together in self._together(read() if alone else ahead(read(), READ_AHEAD)):
            if isinstance(together, Refused):
                yield together
                continue
            batches = view_batches(
                together,
                rule,
                streams,
                count=self.count,
                pixels=self.pixels,
                resized=resized,
                cell=cell,
            )
            for views in batches:
                yield Batch(together, views)

    def run(self, views: list[View], run: Callable[[list[View]], list[T]]) -> list[T]:
        """Run a batch; in parts where the device's memory does not hold all of it.

        Raises:
            PanodetrError: it does not hold a single view.
        """
        answers: list[T] = []
        while len(answers) < len(views):
            some = views[len(answers) :][: self._fitting]
            try:
                answers += run(some)
                continue
            except MemoryError:
                pass  # what has failed is let go of before the next attempt
            if len(some) == 1:
                height, width = some[0].size
                raise PanodetrError(
                    f"the device's memory does not hold what the model needs for {width}x{height} "
                    "pixels; use smaller tiles (--tiles) or --device cpu"
                )
            if self._fitting is None:
                warn(
                    f"the device's memory does not hold {len(some)} images or tiles at a time: "
                    "half as many run together until they fit; --batch N (batch=) says how many"
                )
            self._fitting = len(some) // 2
        return answers

    def _together(
        self, read: Iterable[TiledImage | Refused]
    ) -> Iterator[list[TiledImage] | Refused]:
        """Put as many images together as fit a batch."""
        waiting: list[TiledImage] = []
        for found in read:
            if isinstance(found, Refused):
                if waiting:
                    yield waiting
                    waiting = []
                yield found
                continue
            if waiting and self._filled([*waiting, found]) > 1:  # a small one need not wait
                yield waiting
                waiting = []
            waiting.append(found)
            if self._filled(waiting) >= 1:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _filled(self, images: Sequence[TiledImage]) -> float:
        """Say what part of a batch images fill: 1 all of it, more if they are too many."""
        if self.count is not None:
            return sum(len(image.tiles) for image in images) / self.count
        return sum(math.prod(image.size) for image in images) / self.pixels
