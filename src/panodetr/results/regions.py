"""Segments and detected objects alike, one at a time: their pixels, outlines and measurements."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from panodetr.results.masks import run_lengths
from panodetr.results.outlines import Polygon, polygons

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from panodetr.results.types import Category


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """One segment, or one detected object, of an image.

    Attributes:
        id: the segment's own; of detections the place among them, from 1.
        label: the category's name.
        category_id: the category's id in the data set.
        is_thing: whether the category is a thing.
        score: probability of the class, 0 to 1.
        box: x0, y0, x1, y1 in pixels of the image; of detections as predicted.
        window: the rows and columns of the image that hold all its pixels.
        pixels: its pixels within the window; None where a detection has no mask.
        track: as in `Segment`.
    """

    id: int
    label: str
    category_id: int
    is_thing: bool
    score: float
    box: tuple[float, float, float, float]
    window: tuple[slice, slice]
    pixels: NDArray[np.bool_] | None
    track: int | None = None

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Give its pixels in the image of `size` (height, width); None where it has no mask."""
        if self.pixels is None:
            return None
        whole = np.zeros(size, np.bool_)
        whole[self.window] = self.pixels
        return whole

    def run_lengths(self, size: tuple[int, int]) -> list[int] | None:
        """Give its pixels in the image of `size` as `results.masks.run_lengths`; None as `mask`."""
        if self.pixels is None:
            return None
        rows, columns = self.window
        return run_lengths(self.pixels, size, (rows.start, columns.start))

    def outline(self) -> list[Polygon]:
        """Give its components as polygons with holes, in pixels of the image; or the box as one."""
        if self.pixels is None:
            x0, y0, x1, y1 = (round(edge) for edge in self.box)
            return [Polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], [])]
        y, x = (lines.start for lines in self.window)
        return polygons(self.pixels, at=(x, y))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(ABC):
    """What a model found in one image: segments or objects.

    Attributes:
        image: (H, W, 3) uint8 RGB, what the result was made from, upright.
        source: the image's path where it came from a file; the name of one from an archive, a
            table, a video or a URL, such as "shard.tar/0001.jpg"; else None.
        categories: the model's categories, for names and colours.
    """

    image: NDArray[np.uint8]
    source: Path | str | None
    categories: tuple[Category, ...]

    @abstractmethod
    def regions(self) -> Iterator[Region]:
        """Give the segments or objects in their order; only one is held at a time.

        An object's pixels may lie under those of others. Objects whose mask is empty are left out.
        """

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The pixels of each region, (N, H, W); it is made at each use.

        N is 0 where detections have no masks.
        """
        size = self.image.shape[0], self.image.shape[1]
        masks = [mask for region in self.regions() if (mask := region.mask(size)) is not None]
        return np.stack(masks) if masks else np.zeros((0, *size), np.bool_)

    @property
    def name(self) -> str:
        """The name of the image's file, "" where it has none."""
        return "" if self.source is None else PurePath(self.source).name


def measure(
    result: Result, *, name: str | None = None, pixel_size: float | None = None
) -> list[dict[str, object]]:
    """Measure each segment or object of an image, as `measure_region` does."""
    name = result.name if name is None else name
    regions = result.regions()
    return [measure_region(r, result.image[r.window], name, pixel_size) for r in regions]


def measure_region(
    region: Region, window: NDArray[np.uint8], name: str, pixel_size: float | None
) -> dict[str, object]:
    """Measure one segment or object.

    Args:
        region: of an image.
        window: (h, w, 3) RGB, the image's part within `region.window`.
        name: of the image.
        pixel_size: micrometres that a pixel is wide and high; None gives no lengths in them.

    Returns:
        A row: `image` (its name), `id`, `class`, `score`, `area` (pixels that are
        its own; of a detection without a mask the box's), `centroid_x`, `centroid_y` (the mean of
        its pixels' centres), `box_x0`, `box_y0`, `box_x1`, `box_y1`, `equivalent_diameter` (of a
        circle of that area), `mean_red`, `mean_green`, `mean_blue` (0 to 255). Lengths are in
        pixels. With a pixel size follow `area_um2`, `centroid_x_um`, `centroid_y_um` and
        `equivalent_diameter_um`.
    """
    pixels = np.ones(window.shape[:2], np.bool_) if region.pixels is None else region.pixels
    ys, xs = np.nonzero(pixels)
    area = len(ys)
    x = region.window[1].start + float(xs.mean()) + 0.5
    y = region.window[0].start + float(ys.mean()) + 0.5
    means = window[pixels].mean(axis=0).tolist()
    diameter = 2 * math.sqrt(area / math.pi)
    row: dict[str, object] = {
        "image": name,
        "id": region.id,
        **({} if region.track is None else {"track": region.track}),
        "class": region.label,
        "score": round(region.score, 6),
        "area": area,
        "centroid_x": x,
        "centroid_y": y,
        **dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), region.box, strict=True)),
        "equivalent_diameter": diameter,
        **dict(zip(("mean_red", "mean_green", "mean_blue"), means, strict=True)),
    }
    if pixel_size is not None:
        row |= {
            "area_um2": area * pixel_size**2,
            "centroid_x_um": x * pixel_size,
            "centroid_y_um": y * pixel_size,
            "equivalent_diameter_um": diameter * pixel_size,
        }
    return row


def crop(result: Result) -> Iterator[tuple[Region, NDArray[np.uint8]]]:
    """Cut each segment or object out of its image.

    Yields:
        The region, and (h, w, 4) uint8 red, green, blue and alpha of its window; alpha is 255 on
        its own pixels, else 0.
    """
    for region in result.regions():
        window = result.image[region.window]
        alpha = np.full(window.shape[:2], 255, np.uint8)
        if region.pixels is not None:
            alpha *= region.pixels
        yield region, np.dstack([window, alpha])


def window_of(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Give the rows and columns between the first and the last pixel of a mask (H, W), if any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
