"""Outlines of masks: one polygon along the edges of the pixels, which fills the same pixels."""

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
    """Join closed loops to one polygon, by lines from the first loop to each other one and back.

    Such lines enclose no area. A pixel inside an even number of loops is outside the polygon.
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
    inside = mask[1:-1, 1:-1]
    for beside, (x0, y0), (x1, y1) in (  # each edge has the mask at its right hand
        (mask[:-2, 1:-1], (0, 0), (1, 0)),  # nothing above
        (mask[2:, 1:-1], (1, 1), (0, 1)),  # below
        (mask[1:-1, :-2], (0, 1), (0, 0)),  # at the left
        (mask[1:-1, 2:], (1, 0), (1, 1)),  # at the right
    ):
        for y, x in np.argwhere(inside & ~beside).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    loops: list[list[Point]] = []
    while following:
        loop = [next(iter(following))]
        while len(loop) == 1 or loop[-1] != loop[0]:
            ends = following[loop[-1]]
            if len(ends) == 1:
                del following[loop[-1]]
            loop.append(ends.pop())
        corners = np.array(loop[:-1])
        before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
        straight = ((before == corners) & (corners == after)).any(axis=1)
        loops.append([(x, y) for x, y in corners[~straight].tolist()])
    return loops
