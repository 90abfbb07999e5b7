"""A mask as one closed polygon that COCO's rule fills with exactly its pixels again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Point: TypeAlias = tuple[float, float]


def outline(mask: NDArray[np.bool_]) -> list[float]:
    """Give the outline x0, y0, x1, y1, … of a mask (H, W) along the edges of its pixels.

    Parts and holes are joined as `join` does. An empty mask has no points.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    inner = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    loops = [[(x + left, y + top) for x, y in loop] for loop in _loops(inner)]
    return join(loops)


def join(loops: Sequence[Sequence[Point]]) -> list[float]:
    """Join closed loops to one polygon, by lines that are gone along there and back.

    Such lines enclose nothing, and what an even number of loops encloses is outside.
    """
    first = loops[0][0]
    points = [*loops[0], first]
    for loop in loops[1:]:
        points += [*loop, loop[0], first]
    if len(loops) == 1:
        points.pop()
    return [value for point in points for value in point]


def _loops(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Follow the edges of a mask whose rim is empty; coordinates are those within the rim."""
    following: dict[Point, list[Point]] = {}
    # Each edge has the mask at its right hand, as seen on the screen.
    for axis, forward in ((0, (1, 0)), (1, (0, 1))):
        change = np.diff(mask.astype(np.int8), axis=axis)
        for sign in (1, -1):
            ys, xs = np.nonzero(change == sign)
            ys, xs = (ys, xs - 1) if axis == 0 else (ys - 1, xs)
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                start, end = (x, y), (x + forward[0], y + forward[1])
                if (sign == 1) != (axis == 0):
                    start, end = end, start
                following.setdefault(start, []).append(end)
    loops: list[list[Point]] = []
    while following:
        start = point = next(iter(following))
        loop: list[Point] = []
        while True:
            ends = following[point]
            end = ends.pop()
            if not ends:
                del following[point]
            if len(loop) > 1 and _straight(loop[-2], loop[-1], point):
                loop[-1] = point
            else:
                loop.append(point)
            point = end
            if point == start:
                break
        # It may have begun in the middle of an edge.
        closed = [loop[-1], *loop, loop[0]]
        corners = zip(closed, loop, closed[2:], strict=False)
        loops.append([b for a, b, c in corners if not _straight(a, b, c)])
    return loops


def _straight(a: Point, b: Point, c: Point) -> bool:
    return a[0] == b[0] == c[0] or a[1] == b[1] == c[1]
