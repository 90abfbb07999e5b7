"""Images as the model sees them: whole or in tiles, resized, and those of one size together.

They are read ahead, and batches are halved where a device's memory ends.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from panodetr.errors import ImageError, ImageWarning, PanodetrError, UsageError
from panodetr.images.preprocess import Preprocessing, resize, resized_size
from panodetr.images.read import MAX_PIXELS, ImageSource, origin_of, pixels_within, read_image
from panodetr.results.masks import Frame
from panodetr.results.types import Box
from panodetr.threads import prefetch

T = TypeVar("T")

READ_AHEAD = 2
"""Images that are read while the network works on earlier ones."""

BATCH_PIXELS = 1 << 20
"""Pixels of views of one size that run together on a processor."""

GPU_BATCH_PIXELS = 1 << 24
"""The same on a GPU."""

MOST_ENLARGED = 1 << 22
"""Pixels that a model may add to an image or tile: more is a mistake of its resize rule."""

THIN = 4
"""An image of less than this fraction of a tile in one direction gets longer tiles."""

Place: TypeAlias = tuple[int, Box]
"""Which of several images, and a tile of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledImage:
    """An image, and the tiles that cover it, often a single one.

    Attributes:
        pixels: all of it (H, W, 3).
        source: its path, or the name of a `NamedImage`; None for an image that has neither.
        tiles: of the whole image.
    """

    pixels: NDArray[np.uint8]
    source: Path | str | None
    tiles: list[Box]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One input of the model.

    Attributes:
        places: the tiles that look like this: which of the images each is of, and its box there.
            Several where they are of one colour, else one.
        pixels: the tile, resized, in the upper left corner of a black canvas; or as it is, for a
            runtime that resizes.
        size: height and width of the resized tile.
        canvas: height and width as the model's input.
        region: the part of the image that the views of a batch share the features of, its tiles
            then being as they are; None where each view is an input of its own.
    """

    places: list[Place]
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    canvas: tuple[int, int]
    region: Box | None = None

    @property
    def image(self) -> int:
        """Which of the images it is of, the first if there are several."""
        return self.places[0][0]

    @property
    def box(self) -> Box:
        """The tile of that image."""
        return self.places[0][1]

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width in the image."""
        return _tile_size(self.box)

    @property
    def frame(self) -> Frame:
        """How the masks of the view lie over the tile."""
        return Frame(self.size, self.tile_size, self.canvas)


def warn(text: str) -> None:
    """Warn of an image in one line."""
    warnings.warn(text, ImageWarning, stacklevel=2)


def read_tiled(image: ImageSource, rule: Preprocessing, max_pixels: int = MAX_PIXELS) -> TiledImage:
    """Read an image and lay its tiles.

    Raises:
        ImageError: it cannot be read, or has more than `max_pixels`, or is enlarged by too many.
    """
    pixels = read_image(
        image, bits=rule.bits, channels=rule.channels, max_pixels=max_pixels, note=warn
    )
    height, width, _ = pixels.shape
    tiles = lay_tiles((height, width), rule)
    tile = _tile_size(tiles[0])
    if math.prod(canvas := _canvas_size(tile, rule)) > math.prod(tile) + MOST_ENLARGED:
        raise ImageError(
            f"{origin_of(image) or 'the image'}: the model would enlarge {tile[1]}x{tile[0]} "
            f"pixels to {canvas[1]}x{canvas[0]}, by more than {MOST_ENLARGED:,}; give it a smaller "
            "size in its preprocessing"
        )
    return TiledImage(pixels=pixels, source=origin_of(image), tiles=tiles)


def lay_tiles(size: tuple[int, int], rule: Preprocessing) -> list[Box]:
    """Lay the tiles that cover an image of a size (H, W), one where it is seen as a whole.

    Those of a thin image are longer, with as many pixels as others: it costs what its pixels cost.
    """
    tile = rule.tile or max(size)
    if rule.short_side is None and THIN * min(size) < tile:
        tile = tile * tile // min(size)
    boxes = tile_boxes(size, tile, rule.tile_overlap)
    if _share(len(boxes), rule):
        return tile_boxes(size, tile, rule.tile_overlap, equal_steps=True)
    return boxes


def _share(tiles: int, rule: Preprocessing) -> bool:
    """Whether an image of so many tiles is one whose tiles share features."""
    return rule.short_side is None and rule.share_from is not None and tiles >= rule.share_from


def view_batches(
    images: Sequence[TiledImage],
    rule: Preprocessing,
    streams: int = 1,
    *,
    count: int | None = None,
    pixels: int = BATCH_PIXELS,
    resized: bool = True,
    cell: int | None = None,
) -> Iterator[list[View]]:
    """Cut images into views, and put those of one size together, up to a count or their pixels.

    No view is padded for another's sake, so that an image gives the same whatever images stand
    beside it. All tiles of one size and one colour, of which large images have many, are one view.
    Other views of one image come in the order of its tiles. A batch is cut when it is asked for:
    all views of an image in tiles that overlap are many times as large as the image.

    Args:
        images: of any sizes.
        rule: how the model sees them.
        streams: batches that run side by side, and share the pixels.
        count: of views that run together; None goes by their pixels.
        pixels: that views may have together; a larger one runs alone.
        resized: False leaves tiles as they are, and puts those of one size together; the rule must
            not ask for a canvas.
        cell: pixels of the model's input that tiles lie apart, or a multiple, if they are to share
            features as the rule says; those of one image that do are batches of their own. None: no
            tile shares any.
    """
    by_size: dict[tuple[int, ...], dict[object, list[Place]]] = {}
    for index, image in enumerate(images):
        for box in image.tiles:
            size = _tile_size(box)
            color = _only_color(_tile(image, box)) if len(image.tiles) > 1 else None
            alike = (index, box) if color is None else (size, color)
            seen = processed_size(size, rule)
            together = by_size.setdefault(seen if resized else (*seen, *size), {})
            together.setdefault(alike, []).append((index, box))
    large = {n for n, image in enumerate(images) if _share(len(image.tiles), rule)}
    for (height, width, *_), together in sorted(by_size.items(), key=lambda item: item[0]):
        shared = -(-len(together) // streams)  # rounded up
        at_once = count or max(1, min(pixels // streams // (height * width), shared))
        views = list(together.values())
        if cell and large:
            # Neither cores nor other images may change what an image gives: no streams here, and
            # tiles of one colour are left out.
            side = math.isqrt(count or pixels // (2 * height * width))
            alone = [
                own[0] for key, own in together.items() if key == own[0] and own[0][0] in large
            ]
            blocks = list(_blocks(alone, rule, max(1, side), cell))
            shared_places = set(chain.from_iterable(blocks))
            views = [places for places in views if places[0] not in shared_places]
            for block in blocks:
                tops, lefts, bottoms, rights = zip(*(box for _, box in block), strict=True)
                region = min(tops), min(lefts), max(bottoms), max(rights)
                yield [
                    replace(cut_view(images[place[0]], [place], rule, resized=False), region=region)
                    for place in block
                ]
        for start in range(0, len(views), at_once):
            yield [
                cut_view(images[places[0][0]], places, rule, resized=resized)
                for places in views[start : start + at_once]
            ]


def _blocks(
    places: Sequence[Place], rule: Preprocessing, side: int, cell: int
) -> Iterator[list[Place]]:
    """Put tiles of one size together that share features, at most `side` in a row or column.

    Tiles that share none with another are left out.
    """
    if not places or any(side * rule.enlarge % cell for side in _tile_size(places[0][1])):
        return
    by_image: dict[int, list[Box]] = {}
    for image, box in places:
        by_image.setdefault(image, []).append(box)
    by_block: dict[tuple[int, int, int], list[Place]] = {}
    for image, boxes in by_image.items():
        rows, columns = (
            _runs(sorted({box[axis] for box in boxes}), rule, side, cell) for axis in (0, 1)
        )
        for box in boxes:
            by_block.setdefault((image, rows[box[0]], columns[box[1]]), []).append((image, box))
    yield from (block for block in by_block.values() if len(block) > 1)


def _runs(starts: list[int], rule: Preprocessing, most: int, cell: int) -> dict[int, int]:
    """Number runs of starts that lie whole cells apart, of at most so many; each start's run."""
    aligned: list[list[int]] = []
    for start in starts:
        if not aligned or (start - aligned[-1][0]) * rule.enlarge % cell:
            aligned.append([])
        aligned[-1].append(start)
    parts = [part for run in aligned for part in np.array_split(run, -(-len(run) // most))]
    return {int(start): number for number, part in enumerate(parts) for start in part}


def cut_view(
    image: TiledImage, places: list[Place], rule: Preprocessing, *, resized: bool = True
) -> View:
    """Cut the first of some tiles that look alike, and resize it; its image is `image`."""
    _, box = places[0]
    size, pixels = processed_size(_tile_size(box), rule), _tile(image, box)
    canvas = _canvas_size(_tile_size(box), rule)
    if resized:
        pixels = resize(pixels, size)
    if canvas != size:
        whole = np.zeros((*canvas, 3), np.uint8)
        whole[: size[0], : size[1]] = pixels
        pixels = whole
    return View(places=places, pixels=pixels, size=size, canvas=canvas)


def _tile(image: TiledImage, box: Box) -> NDArray[np.uint8]:
    y0, x0, y1, x1 = box
    return image.pixels[y0:y1, x0:x1]


def _only_color(pixels: NDArray[np.uint8]) -> bytes | None:
    """Give the colour of pixels (h, w, 3) that are all alike; None where they are not."""
    color = pixels[0, 0]
    alike = (pixels[0] == color).all() and (pixels == color).all()  # most differ in the first row
    return color.tobytes() if alike else None


def processed_size(size: tuple[int, int], rule: Preprocessing) -> tuple[int, int]:
    """Give the height and width that the model sees an image, or a tile, of a size (H, W) in."""
    if rule.short_side is None:
        height, width = (max(1, round(side * rule.enlarge)) for side in size)
        return height, width
    if rule.multiple == 1:
        return resized_size(size, rule.short_side, rule.long_side)
    # As EoMT's original: to fill the canvas, the long side must be exactly so.
    scale = min(rule.short_side / min(size), (rule.long_side or math.inf) / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def _canvas_size(size: tuple[int, int], rule: Preprocessing) -> tuple[int, int]:
    """Give the size of the model's input for an image, or a tile, of a size (H, W)."""
    multiple, seen = rule.multiple, processed_size(size, rule)
    height, width = (-(-side // multiple) * multiple for side in seen)
    return height, width


def most_streams(rule: Preprocessing) -> int:
    """Give how many views of the largest size under a rule have `BATCH_PIXELS` together."""
    if rule.tile is not None:
        height, width = processed_size((rule.tile, rule.tile), rule)
    elif rule.short_side is not None and rule.long_side is not None:
        height, width = rule.short_side, rule.long_side
    else:
        return 1  # the image itself says how large it is
    return max(1, BATCH_PIXELS // (height * width))


def _tile_size(box: Box) -> tuple[int, int]:
    y0, x0, y1, x1 = box
    return y1 - y0, x1 - x0


def tile_boxes(
    size: tuple[int, int], tile: int, overlap: int, *, equal_steps: bool = False
) -> list[Box]:
    """Cover an image with the fewest square tiles that overlap enough, evenly spread.

    Args:
        size: height and width of the image.
        tile: side of a tile; an image that is smaller in one direction has tiles as low or narrow.
        overlap: pixels that neighbours share at least, 0 to `tile` - 1.
        equal_steps: whether they share just these, and only the last ones more, so that features
            which tiles share lie at whole multiples of a step.

    Returns:
        Boxes of one size, row by row; a single one, of the whole image, where that fits a tile.
    """
    height, width = size
    rows, columns = (_starts(length, tile, overlap, equal_steps) for length in size)
    tall, wide = min(tile, height), min(tile, width)
    return [(y, x, y + tall, x + wide) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int, equal_steps: bool) -> list[int]:
    if length <= tile:
        return [0]
    steps = -((tile - length) // (tile - overlap))  # rounded up
    if equal_steps:
        return [min(index * (tile - overlap), length - tile) for index in range(steps + 1)]
    # Starts are cut to whole pixels: no step is above the mean one rounded up, tile - overlap.
    return [index * (length - tile) // steps for index in range(steps + 1)]


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
        for together in self._together(read() if alone else prefetch(read(), READ_AHEAD)):
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
            refused = isinstance(found, Refused)
            if waiting and (refused or self._filled([*waiting, found]) > 1):
                yield waiting  # a small one need not wait
                waiting = []
            if refused:
                yield found
                continue
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
