"""Categories, segments and detections, in the image's own pixels. NumPy only, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from panodetr.results.masks import Frame, NumpyMasks, run_lengths

Box: TypeAlias = tuple[int, int, int, int]
"""A tile's place: y0, x0, y1, x1 in pixels of the image, the last two exclusive."""

Task = Literal["panoptic", "instances", "semantic"]
"""What a segmentation tells apart: objects and regions, objects alone, or classes alone."""

TASKS: tuple[Task, ...] = ("panoptic", "instances", "semantic")

_MOST_ID = 2**31 - 1  # result arrays hold category ids as int32
_Channel: TypeAlias = Annotated[int, Meta(ge=0, le=255)]


@dataclass(frozen=True, kw_only=True)
class Category:
    """One class of a model.

    Attributes:
        index: position in the model's class logits, 0 to num_classes - 1.
        id: the data set's own id, given back in every result.
        name: the data set's own name.
        is_thing: True for countable objects, False for stuff (merged into one segment an image).
        color: red, green, blue, 0 to 255.
    """

    index: Annotated[int, Meta(ge=0)]
    id: Annotated[int, Meta(ge=-_MOST_ID, le=_MOST_ID)]
    name: str
    is_thing: bool
    color: tuple[_Channel, _Channel, _Channel]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of a panoptic result.

    Attributes:
        id: its value in the result's map of segment ids, 1 or more.
        label: the category's name.
        category_id: the category's id in the data set.
        is_thing: whether the category is a thing.
        score: probability of the class, 0 to 1.
        box: x0, y0, x1, y1 in pixels of the image, tight around the segment's pixels; x1 and y1
            are exclusive.
        area: pixels.
        track: the object's number among those of its class in all frames of a video; else None.
        segment_ids: the result's map of segment ids, (H, W); a `PanopticResult` sets it.
    """

    id: int
    label: str
    category_id: int
    is_thing: bool
    score: float
    box: tuple[float, float, float, float]
    area: int
    track: int | None = None
    segment_ids: NDArray[np.int32] | None = field(default=None, repr=False, compare=False)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The segment's pixels, (H, W); it is made at each use.

        Raises:
            ValueError: the segment is not one of a result.
        """
        if self.segment_ids is None:
            raise ValueError(f"segment {self.id} has no pixels; take it from a PanopticResult")
        return self.segment_ids == self.id


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseMask:
    """A mask as the model gives it, a fraction of the image's size.

    Attributes:
        logits: (h, w) float32 over one tile of the image, above 0 where the object is.
        frame: how it lies over the tile.
        tile: y0, x0, y1, x1 of the tile, often the whole image.
        image_size: height and width.
    """

    logits: NDArray[np.float32] = field(repr=False)
    frame: Frame
    tile: Box
    image_size: tuple[int, int]

    def tile_pixels(self) -> NDArray[np.bool_]:
        """Give the object's pixels in the tile, upsampled as `results.masks.Masks.topmost` does."""
        return NumpyMasks(self.logits[None], self.frame).topmost() == 0

    def pixels(self) -> NDArray[np.bool_]:
        """Give the object's pixels (H, W)."""
        return self.place(self.tile_pixels())

    def place(self, pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Put pixels of the tile into the image (H, W)."""
        y0, x0, y1, x1 = self.tile
        whole = np.zeros(self.image_size, np.bool_)
        whole[y0:y1, x0:x1] = pixels
        return whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """One object that was found.

    Attributes:
        label: the category's name.
        category_id: the category's id in the data set.
        score: probability of the class, 0 to 1.
        box: x0, y0, x1, y1 in pixels of the image, as the model predicts it: not tight around
            the mask, and it may reach out of the image.
        coarse_mask: the mask at the model's size, which `mask` enlarges; None where masks were
            not asked for.
        id: its place among the detections of a `DetectionResult`, from 1, which sets it.
        track: as in `Segment`.
    """

    label: str
    category_id: int
    score: float
    box: tuple[float, float, float, float]
    id: int = 0
    track: int | None = None
    coarse_mask: CoarseMask | None = field(default=None, repr=False)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The object's pixels, (H, W); None where masks were not asked for.

        Masks of different objects may overlap. They are kept as a bit a pixel: as arrays the masks
        of all objects of a large image would not fit into memory.
        """
        pixels, mask = self.tile_mask, self.coarse_mask
        return None if mask is None or pixels is None else mask.place(pixels)

    @property
    def tile_mask(self) -> NDArray[np.bool_] | None:
        """The same within the tile that found it, `coarse_mask.tile`: nothing of it is beyond."""
        if self.coarse_mask is None:
            return None
        y0, x0, y1, x1 = self.coarse_mask.tile
        pixels = np.unpackbits(self._bits, count=(y1 - y0) * (x1 - x0))
        return pixels.view(np.bool_).reshape(y1 - y0, x1 - x0)

    def run_lengths(self) -> list[int] | None:
        """Give its pixels as `results.masks.run_lengths`; None where masks were not asked for."""
        pixels, mask = self.tile_mask, self.coarse_mask
        if mask is None or pixels is None:
            return None
        return run_lengths(pixels, mask.image_size, mask.tile[:2])

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        assert self.coarse_mask is not None
        return np.packbits(self.coarse_mask.tile_pixels())


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Candidates:
    """Every query's best class and its box: what average precision ranks.

    For an image in tiles, those of all tiles, with each object once.

    Attributes:
        scores: (N,) float32, 0 to 1.
        category_ids: (N,) int64, the data set's own.
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the image, unclipped.
        image_size: height and width.
        coarse_masks: N of them, or none where masks were not asked for.
    """

    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    image_size: tuple[int, int]
    coarse_masks: tuple[CoarseMask, ...] = ()

    def __repr__(self) -> str:
        height, width = self.image_size
        found = f"{len(self.scores)} boxes, {len(self.coarse_masks)} masks"
        return f"Candidates({found}; {width}x{height} pixels)"
