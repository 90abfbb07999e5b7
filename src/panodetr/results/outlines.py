"""Outlines of masks along the edges of their pixels: rings, and polygons with holes.

A point is x, y; pixel (row, column) covers x from column to column + 1 and y from row to row + 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Point: TypeAlias = tuple[int, int]
Ring: TypeAlias = list[Point]
"""A closed line without crossings; the first point is not repeated at the end."""


class Polygon(NamedTuple):
    """A connected area: its outer ring, and the rings of its holes."""

    outer: Ring
    holes: list[Ring]


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
