"""Segments and detected objects alike, one at a time: their pixels, outlines and measurements."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.results.masks import run_lengths
from panodetr.results.types import Category

Point: TypeAlias = tuple[int, int]
Ring: TypeAlias = list[Point]
"""A closed line without crossings; the first point is not repeated at the end."""


class Polygon(NamedTuple):
    """A connected area: its outer ring, and the rings of its holes."""

    outer: Ring
    holes: list[Ring]


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


def polygons(mask: NDArray[np.bool_], *, at: Point = (0, 0)) -> list[Polygon]:
    """Give a mask (H, W) as polygons, one for each component (pixels that share an edge).

    `at` is where the mask's first pixel lies in the image.

    Rings touch themselves nowhere and each other at single points only, so that the polygons are
    valid as the OGC's simple features, which GeoJSON, QuPath and shapely expect, define it.
    """
    from scipy import ndimage  # the service's and exported models' installs may lack it

    labels: NDArray[np.int32] = ndimage.label(mask)[0]  # pyright: ignore[reportIndexIssue, reportAssignmentType]
    found: list[Polygon] = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        own = rings(labels[rows, columns] == number)
        left, top = at[0] + columns.start, at[1] + rows.start
        placed = [[(x + left, y + top) for x, y in ring] for ring in own]
        # Holes run against the sense of the outer ring.
        outer = next(ring for ring in placed if signed_area(ring) > 0)
        found.append(Polygon(outer, [ring for ring in placed if ring is not outer]))
    return found


def rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """Give the rings around the pixels of a mask (H, W), corners only.

    A pixel inside an odd number of rings belongs to the mask. Outer rings run clockwise as seen on
    the screen (`signed_area` is positive), rings of holes counter-clockwise.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    following: dict[Point, list[Point]] = {}
    # Each edge has the mask at its right hand, as seen on the screen.
    for axis, (right, down) in ((0, (1, 0)), (1, (0, 1))):
        change = np.diff(padded, axis=axis)
        for sign in (1, -1):
            ys, xs = np.nonzero(change == sign)
            ys, xs = (ys, xs - 1) if axis == 0 else (ys - 1, xs)
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                start, end = (x, y), (x + right, y + down)
                if (sign == 1) != (axis == 0):
                    start, end = end, start
                following.setdefault(start, []).append(end)
    found: list[Ring] = []
    while following:
        point = next(iter(following))
        path: Ring = []
        place: dict[Point, int] = {}
        while point in following or point in place:
            if point in place:  # where the line meets itself, a ring is cut off
                ring = path[place[point] :]
                del path[place[point] :]
                for passed in ring:
                    del place[passed]
                found.append(_corners(ring))
                if point not in following:
                    break
            place[point] = len(path)
            path.append(point)
            ends = following[point]
            end = ends.pop()
            if not ends:
                del following[point]
            point = end
    return found


def signed_area(ring: Ring) -> float:
    """Give the area inside a ring in pixels, positive where it runs clockwise on the screen."""
    x, y = np.array(ring, np.int64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _corners(ring: Ring) -> Ring:
    """Leave out the points at which a ring goes straight on."""
    around = zip([ring[-1], *ring], ring, [*ring[1:], ring[0]], strict=False)
    return [b for a, b, c in around if not (a[0] == b[0] == c[0] or a[1] == b[1] == c[1])]
