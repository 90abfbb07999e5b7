"""Which mask is the highest at each pixel once all have grown bilinearly, without growing them.

Growing every mask to the photo's size and comparing there costs N full-size float maps. But within
four neighbouring values of the masks, bilinear weights are the same for all masks: a mask that is
the highest at all four is the highest everywhere between them. So only the pixels between values
where the winner changes are interpolated, along the borders of segments, and there only the masks
that can win. The result is that of the plain way; `tests/results/test_grow.py` holds them equal.

N: masks, h, w: pixels of a mask, H, W: pixels of the target, K: pixels asked for, M: cells, that is
groups of four neighbouring values, named after the upper left one, R, C: rows and columns of pixels
in the largest cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Index = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Where the rows (or columns) of the target lie between those of the masks.

    Attributes:
        before: (H,) the row of the masks at or above each row of the target.
        weight: (H,) float32, how far towards the next row, 0 to 1.
        length: rows of the masks.
    """

    before: Index
    weight: NDArray[np.float32]
    length: int

    @classmethod
    def between(cls, length: int, processed: int, target: int) -> Axis:
        """Grow `length` values to `processed`, then pick the nearest `target` of them."""
        # Pillow itself says which row is the nearest, so that its rounding is the original's.
        rows = Image.fromarray(np.arange(processed, dtype=np.int32)[None])
        picked = np.asarray(rows.resize((target, 1), Image.Resampling.NEAREST))[0]
        return cls.at(picked, length, processed)

    @classmethod
    def at(cls, picked: NDArray[np.integer], length: int, processed: int) -> Axis:
        """Grow `length` values to `processed`, of which only some are wanted, by their indices."""
        # Pixel centres are aligned, not corners; in float32, as in torch.
        scale = np.float32(length) / np.float32(processed)
        place = (picked.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        place = np.maximum(place, np.float32(0))
        before = np.minimum(place.astype(np.intp), length - 1)
        return cls(before=before, weight=place - before.astype(np.float32), length=length)

    def cells(self) -> tuple[Index, NDArray[np.float32]]:
        """Where the rows of the target begin that lie in each cell, and their weights.

        Returns:
            (h,) the first row, and (h, R) weights of R rows from it on, as many as the largest
            cell has; where a cell has fewer, the last ones are of no use.
        """
        first = np.searchsorted(self.before, np.arange(self.length + 1))
        most = int(np.diff(first).max())
        rows = first[:-1, None] + np.arange(most)
        return first[:-1], self.weight[np.minimum(rows, len(self.weight) - 1)]

    def after(self, before: Index) -> Index:
        """Give the row behind each of `before`; the last one has none and stands for itself."""
        return np.minimum(before + 1, self.length - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where the pixels of the target lie between the values of the masks."""

    rows: Axis
    columns: Axis

    @classmethod
    def between(
        cls,
        mask_size: tuple[int, ...],
        processed_size: tuple[int, int],
        target_size: tuple[int, int],
    ) -> Grid:
        """Grow masks bilinearly to `processed_size`, then to `target_size` by the nearest pixel."""
        rows, columns = (
            Axis.between(*sides)
            for sides in zip(mask_size, processed_size, target_size, strict=True)
        )
        return cls(rows=rows, columns=columns)


def highest(masks: NDArray[np.float32], grid: Grid) -> NDArray[np.int32]:
    """Give the index of the highest mask at every pixel of the target, the first of equals.

    Args:
        masks: (N, h, w), one or more.
        grid: from the masks to the target.

    Returns:
        (H, W) indices into `masks`.
    """
    winner = _argmax(masks)  # h, w
    down = winner[grid.rows.after(np.arange(masks.shape[1]))]
    right_of = grid.columns.after(np.arange(masks.shape[2]))
    agreed = (winner == down) & (winner == winner[:, right_of]) & (winner == down[:, right_of])
    cells = np.where(agreed, winner, np.int32(-1))  # h, w
    grown = cells.take(grid.columns.before, axis=1).take(grid.rows.before, axis=0)  # H, W
    pixels = np.flatnonzero(grown < 0)
    grown.ravel()[pixels] = highest_at(masks, grid, pixels)
    return grown


def highest_at(masks: NDArray[np.float32], grid: Grid, pixels: Index) -> NDArray[np.int32]:
    """Give the index of the highest mask at some pixels of the target, the first of equals.

    Args:
        masks: (N, h, w), one or more.
        grid: from the masks to the target.
        pixels: (K,) positions in the flattened target.

    Returns:
        (K,) indices into `masks`.
    """
    count, height, width = masks.shape
    y, x = np.divmod(pixels, len(grid.columns.before))
    row_of, column_of = grid.rows.before[y], grid.columns.before[x]
    cells, cell_of = _distinct(row_of * width + column_of, height * width)  # M and K
    row, column = np.divmod(cells, width)
    below, beside = grid.rows.after(row) * width, grid.columns.after(column)
    flat = masks.reshape(count, -1)
    corners = np.stack(
        [flat.take(at, 1) for at in (cells, row * width + beside, below + column, below + beside)],
        axis=1,
    )  # N, 4, M
    can_win = ~_outdone(corners)  # N, M
    top, weights_y = grid.rows.cells()
    left, weights_x = grid.columns.cells()
    inside = _highest_inside(corners, can_win, weights_y[row], weights_x[column])  # M, R, C
    return inside[cell_of, y - top[row_of], x - left[column_of]]


def _outdone(corners: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which masks (N, M) cannot win in a cell: another is higher at all four corners.

    Only the masks that are the highest at some corner are tried as the other. It must be higher by
    more than rounding can take back.

    Args:
        corners: (N, 4, M).
    """
    margin = 1e-6 * np.abs(corners).max(axis=(0, 1))  # M
    outdone = np.zeros((corners.shape[0], corners.shape[2]), np.bool_)
    for winner in corners.argmax(axis=0):  # M
        other = np.take_along_axis(corners, winner[None, None], axis=0) - margin  # 1, 4, M
        outdone |= (corners < other).all(axis=1)
    return outdone


def _highest_inside(
    corners: NDArray[np.float32],
    can_win: NDArray[np.bool_],
    weight_y: NDArray[np.float32],
    weight_x: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Give the highest mask at the pixels of each cell (M, R, C), all cells at a time.

    Args:
        corners: (N, 4, M) values at the cells' corners: upper left, upper right, then the lower.
        can_win: (N, M) which masks need looking at.
        weight_y: (M, R), of the rows of pixels.
        weight_x: (M, C), of the columns.
    """
    cell, mask = np.nonzero(can_win.T)  # P pairs, by cell and then by mask
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    turn = np.arange(len(cell)) - np.repeat(starts, np.diff(starts, append=len(cell)))
    winner = np.zeros((can_win.shape[1], weight_y.shape[1], weight_x.shape[1]), np.int32)
    best = np.full(winner.shape, -np.inf, np.float32)
    for number in range(int(turn.max(initial=-1)) + 1):
        now = np.flatnonzero(turn == number)  # S: each cell at most once
        at, n = cell[now], mask[now]
        a, b, c, d = corners[n, :, at].T[:, :, None]  # each S, 1
        upper, lower = a + weight_x[at] * (b - a), c + weight_x[at] * (d - c)  # S, C
        value = upper[:, None] + weight_y[at][:, :, None] * (lower - upper)[:, None]  # S, R, C
        before = best[at]
        winner[at] = np.where(value > before, n[:, None, None].astype(np.int32), winner[at])
        best[at] = np.maximum(value, before)
    return winner


def _argmax(masks: NDArray[np.float32]) -> NDArray[np.int32]:
    """Do as `masks.argmax(axis=0)`, three times as fast: it walks memory in its own order."""
    best = masks[0].copy()
    winner = np.zeros(best.shape, np.int32)
    for n, mask in enumerate(masks[1:], start=1):
        np.copyto(winner, n, where=mask > best)
        np.maximum(best, mask, out=best)
    return winner


def _distinct(values: Index, limit: int) -> tuple[Index, Index]:
    """List the distinct values below `limit`, rising, and where each value stands in the list."""
    present = np.zeros(limit, np.bool_)
    present[values] = True
    distinct = np.flatnonzero(present)
    place = np.empty(limit, np.intp)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[values]
