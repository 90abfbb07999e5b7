"""Which image training sees next, and which view of it, drawn at random. NumPy and Pillow only.

Images are numbered without end: step * batch_size + place in the batch. What a number stands for is
a function of seed and number, and depends on no other number, process or worker, so a run goes on
from its step alone.

A view is a window of an image, resized, perhaps mirrored. Image, id map and boxes go through the
same few numbers, so they cannot come apart.

What is drawn depends on the image's size and the generator alone, so the size of a view is known
without reading the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import Annotated, Literal, TypeAlias, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from panodetr.images.preprocess import resized_size
from panodetr.validation import Positive, check_fields

Pixel = TypeVar("Pixel", bound=np.generic)
Sides: TypeAlias = Annotated[tuple[Positive, ...], Meta(min_length=1)]
Size: TypeAlias = tuple[int, int]
"""Height and width."""
Scale: TypeAlias = Annotated[float, Meta(gt=0)]
Change: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
"""Of brightness, contrast and each channel's gain, at most, as a fraction."""
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a view lies in its image, and how it is laid down.

    Attributes:
        window: y0, x0, y1, x1 in pixels of the image, within it; fractions of pixels are allowed.
        size: height and width that the window is resized to.
        mirror: left and right are exchanged.
        upside_down: top and bottom are exchanged.
        swap: at last rows and columns are exchanged.
    """

    window: tuple[float, float, float, float]
    size: tuple[int, int]
    mirror: bool = False
    upside_down: bool = False
    swap: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return (self.size[1], self.size[0]) if self.swap else self.size

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Show an image (H, W, 3): bilinear, antialiased where it shrinks."""
        y0, x0, y1, x1 = self.window
        top, left = floor(y0), floor(x0)
        part = image[top : ceil(y1), left : ceil(x1)]
        within = (x0 - left, y0 - top, x1 - left, y1 - top)
        height, width = self.size
        if part.shape[:2] != self.size or within != (0, 0, width, height):
            bilinear = Image.Resampling.BILINEAR
            part = np.asarray(Image.fromarray(part).resize((width, height), bilinear, box=within))
        return np.ascontiguousarray(self._turn(part))

    def ids(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Show an id map (H, W): an id is that of the pixel below the new pixel's centre."""
        y0, x0, y1, x1 = self.window
        rows = _centers(y0, y1, self.size[0], ids.shape[0])
        columns = _centers(x0, x1, self.size[1], ids.shape[1])
        return np.ascontiguousarray(self._turn(ids[rows[:, None], columns]))

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Show boxes (N, 4), x0, y0, x1, y1 in pixels, clipped to the view: some may be empty."""
        y0, x0, y1, x1 = self.window
        height, width = self.size
        scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
        shown = (boxes - np.array([x0, y0, x0, y0])) * scale
        shown = np.clip(shown, 0, np.array([width, height, width, height]))
        if self.mirror:
            shown[:, [0, 2]] = width - shown[:, [2, 0]]
        if self.upside_down:
            shown[:, [1, 3]] = height - shown[:, [3, 1]]
        if self.swap:
            shown = shown[:, [1, 0, 3, 2]]
        return shown.astype(np.float32)

    def _turn(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        if self.mirror:
            pixels = pixels[:, ::-1]
        if self.upside_down:
            pixels = pixels[::-1]
        return pixels.swapaxes(0, 1) if self.swap else pixels


def _centers(start: float, stop: float, count: int, limit: int) -> NDArray[np.intp]:
    """The pixels below the centres of `count` equal parts of a range within 0 to `limit`."""
    places = start + (np.arange(count) + 0.5) * ((stop - start) / count)
    return np.minimum(places.astype(np.intp), limit - 1)


@dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """Square crops at about the image's own resolution.

    For images larger than what the model sees at once.

    Attributes:
        size: pixels a side of what comes out; an image that is smaller gives smaller crops.
        least_scale: the strongest shrinking of the image's own pixels, 1 for none.
        most_scale: the strongest enlarging.
        flip: whether to flip left-right and top-bottom, each half of the time, and swap rows and
            columns.
        color: how far brightness, contrast and each channel's gain may go, as a fraction.
        paste: how often things of a second view, of an image drawn at random, are pasted on the
            first (Ghiasi et al. 2021, arXiv 2012.07177), as a fraction. Where objects have masks.
    """

    size: Positive
    least_scale: Scale = 1.0
    most_scale: Scale = 1.0
    flip: bool = True
    color: Change = 0.0
    paste: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing.

        Raises:
            ValueError: a field is out of bounds, or the range is upside down.
        """
        check_fields(self)
        _check_range("scale", self.least_scale, self.most_scale)


@dataclass(frozen=True, kw_only=True)
class PaperAugmentation:
    """Whole images and large crops at many sizes: the paper's appendix A.4 and its code.

    Half of the time the image is resized as a whole. Else it is resized to one of a few sizes, a
    part of it is cut out, and that is resized. The paper's numbers are the defaults.

    Attributes:
        short_sides: pixels, one of which the short side becomes at the end.
        long_side: pixels, most of the long side, but for the rounding of the short side, which
            becomes less where the long one would pass.
        crop: how often a part is cut out, as a fraction.
        crop_short_sides: pixels, one of which the image's short side becomes before the cut.
        least_crop: pixels, the least side of the cut; an image's side that is shorter stays whole.
        most_crop: pixels, the largest side of the cut.
        flip: whether to exchange left and right, half of the time.
        color: how far brightness, contrast and each channel's gain may go, as a fraction.
        least_jitter: large-scale jitter, instead of all sizes above: the image is fitted into a
            square of `long_side` times a factor, drawn from this one …
        most_jitter: … to this one, and what is larger than `long_side` is cut off at random. 0.1
            and 2 are usual (Ghiasi et al. 2021, arXiv 2012.07177); 1 and 1 switch it off.
        paste: as `CropAugmentation.paste`.
    """

    short_sides: Sides = tuple(range(480, 801, 32))
    long_side: Positive = 1333
    crop: Share = 0.5
    crop_short_sides: Sides = (400, 500, 600)
    least_crop: Positive = 384
    most_crop: Positive = 600
    flip: bool = True
    color: Change = 0.0
    least_jitter: Scale = 1.0
    most_jitter: Scale = 1.0
    paste: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes and ranges that hold nothing.

        Raises:
            ValueError: a field is out of bounds, or a range is upside down.
        """
        check_fields(self)
        _check_range("crop", self.least_crop, self.most_crop)
        _check_range("jitter", self.least_jitter, self.most_jitter)


def _check_range(name: str, least: float, most: float) -> None:
    if least > most:
        raise ValueError(f"{name} is {least} to {most}; expected least_{name} <= most_{name}")


Augmentation: TypeAlias = CropAugmentation | PaperAugmentation
"""How images become what the model sees."""


def draw_view(config: Augmentation, size: Size, rng: np.random.Generator) -> View:
    """Draw a view of an image of a size (H, W); all randomness comes from `rng`."""
    if isinstance(config, CropAugmentation):
        return _draw_crop(config, size, rng)
    return _draw_paper(config, size, rng)


def recolor(image: NDArray[np.uint8], most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image with another brightness, contrast and gain of each channel.

    It goes through one table a channel, which is faster than arithmetic on every pixel.
    """
    contrast, brightness = 1 + rng.uniform(-most, most), 255 * rng.uniform(-most, most) / 2
    gains = 1 + rng.uniform(-most, most, 3) / 2
    mean = image.mean()
    levels = (np.arange(256)[:, None] - mean) * contrast + mean + brightness
    table = np.clip(levels * gains, 0, 255).round().astype(np.uint8)  # 256, 3
    return table[image, np.arange(3)]


def _draw_crop(config: CropAugmentation, size: Size, rng: np.random.Generator) -> View:
    scale = float(np.exp(rng.uniform(np.log(config.least_scale), np.log(config.most_scale))))
    side = max(1, round(config.size / scale))
    height, width = min(side, size[0]), min(side, size[1])
    window = _place(size, size, (height, width), rng)
    # A window that the image doesn't limit becomes exactly `config.size`: rounding its scaled side
    # again would sometimes give a pixel less, and one smaller crop pads a whole batch.
    shown = [
        config.size if part == side else min(config.size, max(1, round(part * scale)))
        for part in (height, width)
    ]
    turns = rng.integers(0, 2, 3).astype(bool).tolist() if config.flip else [False] * 3
    return View(
        window=window, size=(shown[0], shown[1]),
        mirror=turns[0], upside_down=turns[1], swap=turns[2],
    )  # fmt: skip


def _draw_paper(config: PaperAugmentation, size: Size, rng: np.random.Generator) -> View:
    """Draw how the image is resized, which part of it is cut out, and how that is resized.

    The original resizes twice. Once is enough, and sharper: the window is found in the image.
    """
    mirror = bool(config.flip and rng.random() < 0.5)
    resized = part = size
    if (config.least_jitter, config.most_jitter) != (1, 1):
        factor = rng.uniform(config.least_jitter, config.most_jitter)
        scale = config.long_side * factor / max(size)
        resized = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        part = min(resized[0], config.long_side), min(resized[1], config.long_side)
        return View(window=_place(size, resized, part, rng), size=part, mirror=mirror)
    if rng.random() < config.crop:
        resized = resized_size(size, int(rng.choice(config.crop_short_sides)), None)
        height, width = (
            int(rng.integers(min(side, config.least_crop), min(side, config.most_crop) + 1))
            for side in resized
        )
        part = height, width
    window = _place(size, resized, part, rng)
    height, width = resized_size(part, int(rng.choice(config.short_sides)), config.long_side)
    return View(window=window, size=(max(1, height), max(1, width)), mirror=mirror)


def _place(
    size: Size, resized: Size, part: Size, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Place a part at random in a resized image; its window in the image's own pixels."""
    edges: list[tuple[float, float]] = []
    for whole, side, cut in zip(size, resized, part, strict=True):
        start = int(rng.integers(0, side - cut + 1))
        # Whole pixels times a fraction: the last edge may pass the image's by a rounding.
        edges.append((start * whole / side, min(float(whole), (start + cut) * whole / side)))
    (y0, y1), (x0, x1) = edges
    return y0, x0, y1, x1


Sampling: TypeAlias = Literal["area", "epochs", "buckets"]
"""How images are chosen: see `Sampler`."""

# Keys of different random numbers begin differently. Zeros at the end of a key change nothing.
_ORDER, _BATCHES, _VIEW, _PASTE = 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """An image's place in the data set, and where all randomness of its augmentation comes from.

    `pasted` is likewise of the image that lends objects to it, where one does.
    """

    index: int
    rng: np.random.Generator
    pasted: Draw | None = None


class Sampler:
    """Says what each number stands for.

    "area" draws images independently, with a probability that grows with the square root of their
    area: large images hold more to learn, but not in proportion. For crops; there are no epochs.

    "epochs" gives every image exactly once an epoch, in an order keyed by seed and epoch; its
    augmentation is keyed by seed, epoch and image. A batch may straddle two epochs.

    "buckets" is "epochs" with another order: batches are of images whose augmented sizes are alike,
    because what is smaller than the largest of its batch is padded. Batches that straddle two
    epochs stay mixed.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        sampling: Sampling,
    ) -> None:
        """`sizes` are the images' heights and widths, in their order."""
        self._sizes = sizes
        self._augmentation = augmentation
        self._seed = seed
        self._batch_size = batch_size
        self._sampling = sampling
        sides = np.sqrt([height * width for height, width in sizes])
        self._chances = sides / sides.sum()
        # Two epochs: those of a batch that straddles them, or of what is read ahead.
        self._order = lru_cache(maxsize=2)(self._make_order)

    def draw(self, number: int, attempt: int = 0) -> Draw:
        """Say what a number stands for; or, at a later attempt, what stands in for it."""
        pasted = None
        if self._augmentation.paste:
            lent = np.random.default_rng((_PASTE, self._seed, number, attempt))
            if lent.random() < self._augmentation.paste:
                pasted = Draw(index=int(lent.integers(len(self._sizes))), rng=lent)
        if self._sampling == "area":
            rng = np.random.default_rng((self._seed, number, attempt))
            index = int(rng.choice(len(self._sizes), p=self._chances))
            return Draw(index=index, rng=rng, pasted=pasted)
        epoch, place = divmod(number, len(self._sizes))
        index = int(self._order(epoch)[(place + attempt) % len(self._sizes)])
        return Draw(index=index, rng=self._view_rng(epoch, index, attempt), pasted=pasted)

    def _view_rng(self, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
        return np.random.default_rng((_VIEW, self._seed, epoch, index, attempt))

    def _make_order(self, epoch: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((_ORDER, self._seed, epoch))
        order = rng.permutation(len(self._sizes))
        if self._sampling == "buckets":
            # Whole batches of this epoch alone; its first images may end a batch of the one before.
            first = -epoch * len(order) % self._batch_size
            count = max(0, len(order) - first) // self._batch_size
            whole = slice(first, first + count * self._batch_size)
            order[whole] = self._group(order[whole], epoch)
        return order

    def _group(self, order: NDArray[np.intp], epoch: int) -> NDArray[np.intp]:
        """Put images of like augmented sizes together, and shuffle the batches."""
        shapes = np.array([
            draw_view(self._augmentation, self._sizes[i], self._view_rng(epoch, i)).shape
            for i in order.tolist()
        ]).reshape(-1, 2)  # fmt: skip
        # Shapes of a like aspect, a quarter of an octave, by their area: sorts keep the order.
        aspect = np.round(4 * np.log2(shapes[:, 1] / shapes[:, 0]))
        order = order[np.lexsort((shapes.prod(axis=1), aspect))]
        batches = order.reshape(-1, self._batch_size)
        rng = np.random.default_rng((_BATCHES, self._seed, epoch))
        return rng.permutation(batches).ravel()
