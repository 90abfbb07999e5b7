"""From the masks of the kept queries to one segment a pixel: the paper's panoptic inference.

The paper's section 4.2 in the reference implementation's order of steps, which PQ depends on.
N: kept queries, h, w: pixels of a mask, H, W: pixels of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from panodetr.results.decode import softmax
from panodetr.results.grow import Grid, highest, highest_at

SMALLEST_AREA = 5
"""Segments of fewer pixels are dropped, as in the original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSegment:
    """A segment as the model knows it, before its class has got a name.

    Attributes:
        id: its value in the map of segment ids, 1 or more.
        class_index: position in the model's class logits.
        is_thing: whether its class is a thing.
        score: probability of the class, 0 to 1.
        area: pixels.
        box: x0, y0, x1, y1, tight around its pixels, the last two exclusive.
    """

    id: int
    class_index: int
    is_thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]


def keep_queries(
    logits: NDArray[np.float32], threshold: float, named: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Find the queries that can become segments, so that no other mask needs computing.

    Args:
        logits: (Q, C + 1), "no object" last.
        threshold: scores up to and including it are dropped (the paper's 0.85).
        named: (C,), the classes that the data knows; others keep their share of the probability,
            and are never chosen. None: all.

    Returns:
        Indices (N,) of the queries whose likeliest class is a real one and whose score is above
        `threshold`, in rising order; their scores (N,) and classes (N,).
    """
    probabilities = softmax(logits)
    if named is not None:
        probabilities = np.where(np.append(named, True), probabilities, np.float32(-1))
    classes = probabilities.argmax(axis=1)
    scores = np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]
    keep = np.flatnonzero((classes != logits.shape[1] - 1) & (scores > threshold))
    return keep, scores[keep], classes[keep]


def drop_duplicates(
    masks: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    most: float,
) -> NDArray[np.intp]:
    """Find the queries that stand for objects of their own.

    Not in the paper: a DETR that has seen few objects in training lets several queries answer for
    one, and they would share its pixels. The one with the highest score is kept.

    Args:
        masks: (N, h, w) logits, above 0 inside.
        scores: (N,).
        classes: (N,) class indices.
        most: greatest IoU of two masks of one class.

    Returns:
        Indices of the queries to keep, rising.
    """
    count, height, width = masks.shape
    inside = (masks > 0).reshape(count, height * width).astype(np.float32)
    both = inside @ inside.T  # N, N: pixels
    area = both.diagonal()
    # both / (area + area - both) > most, without dividing by empty masks
    same = both > most * (area[:, None] + area - both)
    same &= classes[:, None] == classes
    kept: list[int] = []
    for query in np.argsort(-scores, kind="stable").tolist():
        if not same[query, kept].any():
            kept.append(query)
    return np.sort(np.array(kept, np.intp))


def merge_masks(
    masks: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    is_thing: NDArray[np.bool_],
    processed_size: tuple[int, int],
    target_size: tuple[int, int],
) -> tuple[NDArray[np.int32], list[ClassSegment]]:
    """Give every pixel to the kept query whose mask is highest there.

    As in the original: masks grow bilinearly to the processed size, each pixel goes to the highest
    (the first of equals), and the map goes to the target size by the nearest pixel. Then segments
    of 4 pixels or fewer are dropped, and their pixels go to the next highest mask, until there are
    none. Of several segments of one stuff class the first counts the pixels of all in the first
    round, and the others are dropped in it. Their pixels are not the first one's by right, though
    the paper reads so: the original hands them, too, to whichever mask is the next highest.

    Args:
        masks: (N, h, w) logits over the image alone, without padding.
        scores: (N,).
        classes: (N,) class indices.
        is_thing: by class index.
        processed_size: height and width that the image had as the model's input.
        target_size: height and width of the result.

    Returns:
        Segment ids (H, W), from 1 in the order of the queries, 0 only where no segment is left at
        all; and the segments.
    """
    if len(masks) == 0:
        return np.zeros(target_size, np.int32), []
    count = len(masks)
    grid = Grid.between(masks.shape[1:], processed_size, target_size)
    winner = highest(masks, grid)  # H, W, indices into masks
    first = [n if is_thing[c] else int(np.argmax(classes == c)) for n, c in enumerate(classes)]
    runs = runs_of(winner)
    areas = np.bincount(first, weights=runs.areas(count), minlength=count)
    kept = np.arange(count)
    while len(kept) and (areas[kept] < SMALLEST_AREA).any():
        kept = kept[areas[kept] >= SMALLEST_AREA]
        gone = np.ones(count, np.bool_)
        gone[kept] = False
        orphans = np.flatnonzero(gone.take(winner))
        if len(kept):
            winner.ravel()[orphans] = kept[highest_at(masks[kept], grid, orphans)]
        runs = runs_of(winner)
        areas = runs.areas(count)
    new_ids = np.zeros(count, np.int32)
    new_ids[kept] = np.arange(1, len(kept) + 1)
    segment_ids = new_ids.take(winner, mode="clip")  # nothing to clip, and quicker to look up
    runs = replace(runs, value=new_ids.take(runs.value))
    measured = _measure_runs(runs, segment_ids.shape, len(kept))
    segments = [
        ClassSegment(
            id=index,
            class_index=int(classes[n]),
            is_thing=bool(is_thing[classes[n]]),
            score=float(scores[n]),
            area=area,
            box=box,
        )
        for index, (n, (area, box)) in enumerate(zip(kept, measured, strict=True), start=1)
    ]
    return segment_ids, segments


def keep_largest_component(
    segment_ids: NDArray[np.int32], segments: list[ClassSegment]
) -> tuple[NDArray[np.int32], list[ClassSegment]]:
    """Leave of each thing its main piece, and nothing where the others were.

    Not in the paper: for objects of one piece only, such as nuclei; people behind a fence are not.
    Each pixel goes to the highest mask, however low that is, and so things get strays far from
    where they are. Pieces are parted by rows or columns without a pixel, which tells strays from an
    object, and not two halves that lie into each other. The one with the most pixels stays.

    Args:
        segment_ids: (H, W), from 1.
        segments: what they are, in the ids' order.

    Returns:
        Segment ids (H, W), 0 in the pieces that are gone; and the segments.
    """
    ids, kept = segment_ids.copy(), list(segments)
    for place, segment in enumerate(segments):
        if not segment.is_thing:
            continue
        x0, y0, x1, y1 = segment.box
        mask = segment_ids[y0:y1, x0:x1] == segment.id
        main = _main_piece(mask)
        if np.count_nonzero(main) < segment.area:
            ids[y0:y1, x0:x1][mask & ~main] = 0
            ((area, (left, top, right, bottom)),) = measure_segments(main.astype(np.int32), 1)
            box = x0 + left, y0 + top, x0 + right, y0 + bottom
            kept[place] = replace(segment, area=area, box=box)
    return ids, kept


def _main_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The piece (H, W) of the most pixels, of those that empty rows and columns part."""
    main, across, whole = mask, 1, 0
    while whole < 2:  # neither rows nor columns part it any more
        counts = np.count_nonzero(main, axis=across)  # K: pixels of each row, or column
        begins = counts > 0
        begins[1:] &= counts[:-1] == 0
        run = np.cumsum(begins)  # K, from 1: in which run of rows with pixels
        if run[-1] > 1:
            main, whole = main & np.expand_dims(run == np.bincount(run, counts).argmax(), across), 0
        across, whole = 1 - across, whole + 1
    return main


def measure_segments(
    segment_ids: NDArray[np.int32], count: int
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Measure area and tight box (x0, y0, x1, y1; the last two exclusive) of segments 1 to `count`.

    A segment without pixels has area 0 and the box 0, 0, 0, 0.
    """
    return _measure_runs(runs_of(segment_ids), segment_ids.shape, count)


def _measure_runs(
    runs: Runs, shape: tuple[int, ...], count: int
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Measure segments as `measure_segments` does, from the runs of a map of some shape."""
    areas = runs.areas(count + 1)
    y, x = np.divmod(runs.start, shape[1])
    low = np.full((2, count + 1), max(shape))
    high = np.zeros((2, count + 1), np.int64)
    for axis, (first, last) in enumerate(((x, x + runs.length), (y, y + 1))):
        np.minimum.at(low[axis], runs.value, first)
        np.maximum.at(high[axis], runs.value, last)
    low[:, areas == 0] = 0
    boxes = np.concatenate([low, high]).T.tolist()
    return [(int(area), tuple(box)) for area, box in zip(areas[1:], boxes[1:], strict=True)]


@dataclass(frozen=True, slots=True)
class Runs:
    """Pixels of one value that follow each other in a row: far fewer than pixels.

    Attributes:
        value: what the pixels of each run have in common, 0 or more.
        start: its first pixel, in the flattened map.
        length: pixels.
    """

    value: NDArray[np.integer]
    start: NDArray[np.intp]
    length: NDArray[np.intp]

    def areas(self, count: int) -> NDArray[np.int64]:
        """Count the pixels of each of the values 0 to `count` - 1."""
        return np.bincount(self.value, weights=self.length, minlength=count).astype(np.int64)


def runs_of(values: NDArray[np.integer]) -> Runs:
    """Cut each row of a map (H, W) into runs."""
    starts = np.ones(values.shape, np.bool_)
    np.not_equal(values[:, 1:], values[:, :-1], out=starts[:, 1:])
    start = np.flatnonzero(starts)
    length = np.diff(start, append=values.size)
    return Runs(value=values.ravel()[start], start=start, length=length)
