"""Which mask is the highest at each pixel once all have grown bilinearly, without growing them.

Growing every mask to the image's size and comparing there costs N full-size float maps. But within
four neighbouring values of the masks, bilinear weights are the same for all masks: a mask that is
the highest at all four is the highest everywhere between them. So only the pixels between values
where the winner changes are interpolated, along the borders of segments, and there only the masks
that can win. The result is that of the plain way; `tests/results/test_grow.py` holds them equal.

N: masks, h, w: values of a mask, H, W: pixels of the target, K: pixels asked for, M: cells, that is
pixels between four neighbouring values, R, C: rows and columns of pixels in the largest cell, P:
pairs of a cell and a mask that can win in it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.threads import pool_threads

Index = NDArray[np.intp]

CACHED_CELLS = 4096
"""Cells that are interpolated at a time: their pixels stay in the cache."""

MANY_CELLS = 2000
"""Cells that keep one core busy for longer than it takes to start another one."""

MOST_THREADS = 2
"""More get in each other's way: NumPy's steps are short, and between them only one thread runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Where the rows (or columns) of the target lie between those of the masks.

    Attributes:
        cell: (H,) between which rows of the masks: 0 is above the first, h below the last.
        weight: (H,) float32, how far from the one above to the one below, 0 to 1.
        length: rows of the masks, h.
    """

    cell: Index
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
        above = np.floor(place)
        return cls(cell=above.astype(np.intp) + 1, weight=place - above, length=length)

    def ends(self, cell: Index) -> tuple[Index, Index]:
        """Give the rows of the masks above and below some cells; beyond the edge, the edge."""
        return np.maximum(cell - 1, 0), np.minimum(cell, self.length - 1)

    def pixels(self) -> tuple[Index, Index]:
        """Give the first row of the target in each cell (h + 1,), and how many there are."""
        first = np.searchsorted(self.cell, np.arange(self.length + 2))
        return first[:-1], np.diff(first)


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

    def cells(self) -> tuple[int, int]:
        """Count the rows and columns of cells."""
        return self.rows.length + 1, self.columns.length + 1


def highest(masks: NDArray[np.float32], grid: Grid) -> NDArray[np.integer]:
    """Give the index of the highest mask at every pixel of the target, the first of equals.

    Args:
        masks: (N, h, w), one or more.
        grid: from the masks to the target.

    Returns:
        (H, W) indices into `masks`, of the smallest type that holds them: pages of memory that are
        taken anew cost more than what is written there.
    """
    height, width = grid.cells()
    above, below = grid.rows.ends(np.arange(height))
    before, after = grid.columns.ends(np.arange(width))
    winner = _argmax(masks)  # h, w
    upper, lower = winner[above], winner[below]
    cells = upper[:, before]
    agreed = (cells == upper[:, after]) & (cells == lower[:, before]) & (cells == lower[:, after])
    grown = cells.take(grid.columns.cell, axis=1).take(grid.rows.cell, axis=0)  # H, W
    _look_inside(masks, grid, np.flatnonzero(~agreed), grown)
    return grown


def highest_at(masks: NDArray[np.float32], grid: Grid, pixels: Index) -> NDArray[np.integer]:
    """Give the index of the highest mask at some pixels of the target, the first of equals.

    Args:
        masks: (N, h, w), one or more.
        grid: from the masks to the target.
        pixels: (K,) positions in the flattened target.

    Returns:
        (K,) indices into `masks`.
    """
    y, x = np.divmod(pixels, len(grid.columns.cell))
    asked = np.zeros(grid.cells(), np.bool_)
    asked[grid.rows.cell[y], grid.columns.cell[x]] = True
    shape = len(grid.rows.cell), len(grid.columns.cell)
    grown = np.empty(shape, np.min_scalar_type(len(masks) - 1))
    _look_inside(masks, grid, np.flatnonzero(asked), grown)
    return grown.ravel()[pixels]


def _look_inside(
    masks: NDArray[np.float32], grid: Grid, cells: Index, grown: NDArray[np.integer]
) -> None:
    """Write the winners at the pixels of some cells (M,), in a few threads where there are many."""
    parts = np.array_split(cells, min(pool_threads(), MOST_THREADS, len(cells) // MANY_CELLS + 1))

    def look(part: Index) -> None:
        _Inside.of(masks, grid, part).write(grown)

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(look, parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inside:
    """The winners inside of some cells, those with the most choices first.

    Attributes:
        grid: whose cells these are.
        row: (M,) of the cells.
        column: (M,).
        mask: (P,) the masks that can win, cell by cell.
        starts: (M,) where a cell's choices start.
        turns: (R, C, M) which of its choices wins, counted from 0; pixels that a cell does not have
            are of no use.
    """

    grid: Grid
    row: Index
    column: Index
    mask: NDArray[np.int32]
    starts: Index
    turns: NDArray[np.integer]

    @classmethod
    def of(cls, masks: NDArray[np.float32], grid: Grid, cells: Index) -> _Inside:
        """Look for the winners in some of the flattened cells."""
        row, column = np.divmod(cells, grid.cells()[1])
        (above, below), (before, after) = grid.rows.ends(row), grid.columns.ends(column)
        above, below = above * masks.shape[2], below * masks.shape[2]
        at = np.stack([above + before, above + after, below + before, below + after])  # 4, M
        corners = masks.reshape(len(masks), -1).take(at, axis=1)  # N, 4, M
        margin = 1e-6 * float(max(masks.max(), -masks.min()))  # more than rounding can take back
        choices = ~_outdone(corners, margin)  # N, M
        counts = choices.sum(axis=0)  # M
        order = np.argsort(-counts, kind="stable")
        row, column, counts = row[order], column[order], counts[order]
        mask = np.nonzero(choices.T[order])[1].astype(np.int32)  # P
        of_choices = corners[mask, :, np.repeat(order, counts)].T  # 4, P
        starts = np.cumsum(counts) - counts
        turns = _highest_choice(
            np.ascontiguousarray(of_choices),
            starts,
            counts,
            _weights(grid.rows)[:, row],
            _weights(grid.columns)[:, column],
        )
        return cls(grid=grid, row=row, column=column, mask=mask, starts=starts, turns=turns)

    def write(self, grown: NDArray[np.integer]) -> None:
        """Write the winners (H, W) at the pixels of these cells, and nowhere else."""
        (top, rows), (left, columns) = self.grid.rows.pixels(), self.grid.columns.pixels()
        corner = top[self.row] * grown.shape[1] + left[self.column]  # M
        rows, columns = rows[self.row], columns[self.column]
        flat = grown.reshape(-1)
        for r in range(self.turns.shape[0]):
            for c in range(self.turns.shape[1]):
                has = np.flatnonzero((rows > r) & (columns > c))  # the cells with such a pixel
                choice = self.starts[has] + self.turns[r, c, has]
                flat[corner[has] + (r * grown.shape[1] + c)] = self.mask[choice]


def _weights(axis: Axis) -> NDArray[np.float32]:
    """Give the weights (R, h + 1) of each cell's rows; past its last one they are of no use."""
    first, count = axis.pixels()
    rows = first + np.arange(count.max())[:, None]
    return axis.weight[np.minimum(rows, len(axis.weight) - 1)]


def _outdone(corners: NDArray[np.float32], margin: float) -> NDArray[np.bool_]:
    """Say which masks (N, M) cannot win in a cell: another is higher at all four corners.

    Only the masks that are the highest at some corner are tried as the other.

    Args:
        corners: (N, 4, M).
        margin: by how much the other must be higher.
    """
    count, cells = corners.shape[0], corners.shape[2]
    flat, places = corners.reshape(-1), np.arange(4 * cells).reshape(4, cells)
    outdone = np.zeros((count, cells), np.bool_)
    for winner in _argmax(corners):  # M
        other = flat.take(winner.astype(np.intp) * (4 * cells) + places) - margin  # 4, M
        beneath = corners < other  # N, 4, M
        outdone |= beneath[:, 0] & beneath[:, 1] & beneath[:, 2] & beneath[:, 3]
    return outdone


def _highest_choice(
    corners: NDArray[np.float32],
    starts: Index,
    counts: Index,
    weight_y: NDArray[np.float32],
    weight_x: NDArray[np.float32],
) -> NDArray[np.integer]:
    """Say which of a cell's choices is the highest at each of its pixels (R, C, M), from 0.

    Cells come last, so that arithmetic runs along memory: there are many, and few pixels in each.

    Args:
        corners: (4, P) values of the choices of all cells, one cell after the other: upper left,
            upper right, then the lower.
        starts: (M,) where a cell's choices start.
        counts: (M,) how many there are, falling, 1 or more.
        weight_y: (R, M), of the rows of pixels.
        weight_x: (C, M), of the columns.
    """
    turn_type = np.min_scalar_type(int(counts.max(initial=1)))
    turns = np.zeros((len(weight_y), len(weight_x), len(counts)), turn_type)
    for begin in range(0, len(counts), CACHED_CELLS):
        some = slice(begin, begin + CACHED_CELLS)
        start, count, found = starts[some], counts[some], turns[:, :, some]
        y, x = weight_y[:, None, some], weight_x[:, some]  # R, 1, S and C, S
        best = np.full(found.shape, -np.inf, np.float32)
        for turn in range(int(count[0])):
            so_many = int(np.searchsorted(-count, -turn))  # cells, the first ones
            now = (..., slice(so_many))
            a, b, c, d = corners[:, start[now] + turn]  # each S
            upper, lower = a + x[now] * (b - a), c + x[now] * (d - c)  # C, S
            value = y[now] * (lower - upper)  # R, C, S
            value += upper
            # The turn where it is higher, else 0; without branches, which borders would mislead.
            higher = (value > best[now]) * turn_type.type(turn)
            np.maximum(found[now], higher, out=found[now])
            np.maximum(best[now], value, out=best[now])
    return turns


def _argmax(values: NDArray[np.float32]) -> NDArray[np.integer]:
    """Do as `values.argmax(axis=0)`, three times as fast: it walks memory in its own order."""
    best = values[0].copy()
    winner = np.zeros(best.shape, np.min_scalar_type(len(values) - 1))
    for n, mask in enumerate(values[1:], start=1):
        np.copyto(winner, n, where=mask > best)
        np.maximum(best, mask, out=best)
    return winner
