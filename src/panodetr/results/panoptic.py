"""From the masks of queries to one segment a pixel: the paper's panoptic inference, and two more.

`merge_masks` is the paper's section 4.2 in the reference implementation's order of steps, which PQ
depends on. `paint_instances` finds things alone, and `classify_pixels` classes alone.

Q: queries, N: those that are kept, C: real classes, H, W: pixels of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from panodetr.results.decode import softmax
from panodetr.results.id_map import run_starts
from panodetr.results.masks import Masks
from panodetr.results.types import Category, Segment

SMALLEST_AREA = 5
"""Segments of fewer pixels are dropped, as in the original."""


SegmentMap = tuple[NDArray[np.int32], list[Segment]]
"""Segment ids (H, W), 0 = nothing, and what they are, in the ids' order."""


def merge_masks(
    masks: Masks, scores: NDArray[np.float32], categories: Sequence[Category]
) -> Callable[[], SegmentMap]:
    """Begin to give every pixel to the kept query whose mask is highest there.

    As in the original: masks are upsampled bilinearly to the model's input, each pixel goes to the
    highest, and the map goes to the target's size by the nearest pixel. Then segments of 4 pixels
    or fewer are dropped, and their pixels go to the next highest mask, until there are none. Of
    several segments of one stuff class the first counts the pixels of all in the first round, and
    the others are dropped in it. Their pixels do not go to the first one, though the paper reads
    so: the original gives them, too, to whichever mask is the next highest.

    Args:
        masks: N of them, over the image alone, without padding.
        scores: (N,).
        categories: N of them.

    Returns:
        A function that waits until it is done, where the masks are. It gives segment ids, from 1 in
        the order of the queries, 0 only where no segment is left at all; and the segments.
    """
    count = len(scores)
    if count == 0:
        return lambda: (np.zeros(masks.frame.target, np.int32), [])
    first = [n if c.is_thing else categories.index(c) for n, c in enumerate(categories)]
    merged = masks.merge(np.array(first), SMALLEST_AREA)

    def finish() -> SegmentMap:
        winner, kept = merged()
        new_id = np.zeros(count, np.int32)
        new_id[kept] = np.arange(1, len(kept) + 1)
        segment_ids = new_id.take(winner) if len(kept) else np.zeros(winner.shape, np.int32)
        named = [categories[query] for query in kept.tolist()]
        return segment_ids, describe_segments(segment_ids, named, scores[kept])

    return finish


def merge_weighted(
    masks: Masks,
    scores: NDArray[np.float32],
    categories: Sequence[Category],
    overlap: float,
    mask_threshold: float = 0.5,
) -> SegmentMap:
    """Give pixels to the query that is likeliest there, where it is likely at all: EoMT's rule.

    At each pixel of the target the query wins whose score times its mask's probability is the
    highest. A query is dropped that wins less than `overlap` of the pixels where its mask's is at
    least `mask_threshold`. Of the others' pixels those are kept where it is; stuff of one class is
    one segment. The other arguments are those of `merge_masks`.

    Returns:
        Segment ids, from 1 in the order of the queries, 0 = nothing; and the segments.
    """
    count = len(scores)
    if count == 0:
        return np.zeros(masks.frame.target, np.int32), []
    with np.errstate(divide="ignore"):  # of 0 and 1 the logits are infinite
        least = float(np.log(mask_threshold) - np.log1p(-mask_threshold))
    found = masks.compete(scores, least)
    won = _areas(found.winner, count)
    seen = _areas(found.winner[found.likely], count)
    new_id = np.zeros(count, np.int32)
    kept: list[int] = []
    stuff: dict[int, int] = {}  # the segment of each class
    for query in np.flatnonzero((seen > 0) & (won >= overlap * found.areas)).tolist():
        category = categories[query]
        if category.is_thing or category.id not in stuff:
            kept.append(query)
            stuff[category.id] = len(kept)
        new_id[query] = len(kept) if category.is_thing else stuff[category.id]
    segment_ids = new_id.take(found.winner) * found.likely
    return segment_ids, describe_segments(
        segment_ids, [categories[query] for query in kept], scores[kept]
    )


def paint_instances(
    masks: Masks, scores: NDArray[np.float32], categories: Sequence[Category]
) -> SegmentMap:
    """Paint the masks of things onto one map, the best score on top.

    Each mask is the original's: bilinear to the processed size, inside where it is above 0, then
    the nearest pixel. Where several claim a pixel the best score has it, and what no mask claims
    stays empty. An instance of which 4 pixels or fewer are to be seen is dropped, and leaves its
    pixels empty. Arguments are those of `merge_masks`.

    Returns:
        Segment ids, from 1 in the order of falling scores, 0 = nothing; and the segments.
    """
    if len(scores) == 0:
        return np.zeros(masks.frame.target, np.int32), []
    order = np.argsort(-scores, kind="stable")
    # H, W: places in order; N = none
    top = masks.choose(order).topmost()
    ordered = [categories[query] for query in order.tolist()]
    return _describe_seen(top, ordered, scores[order], SMALLEST_AREA)


def classify_pixels(
    masks: Masks, logits: NDArray[np.float32], categories: Sequence[Category]
) -> SegmentMap:
    """Give every pixel the class that all queries together make likeliest there.

    As transformers does: a class's value at a pixel is the sum, over all queries, of the
    probability of the class times that of the mask. Values are upsampled bilinearly to the target,
    where the highest wins.

    Args:
        masks: of all queries, over the image alone, without padding.
        logits: (Q, C + 1), "no object" last.
        categories: to choose from.

    Returns:
        Segment ids, from 1 in the order of `categories`, one for each that was found; and the
        segments. A segment's score is the best that any query gives its class.
    """
    probabilities = softmax(logits)[:, [category.index for category in categories]]  # Q, named
    mixed = masks.mix(probabilities).on(masks.frame.at(masks.frame.target))
    winner = mixed.highest()  # H, W
    return _describe_seen(winner, categories, probabilities.max(axis=0), 1)


def keep_largest_component(segment_ids: NDArray[np.int32], segments: list[Segment]) -> SegmentMap:
    """Leave of each thing its largest component, and nothing where the others were.

    Not in the paper: for objects of one piece only, such as nuclei; people behind a fence are not.
    Each pixel goes to the highest mask, however low that is, and so things get strays far from
    where they are. Components are separated by rows or columns without a pixel, which tells strays
    from an object, and keeps two halves that reach past each other together. (Components in the
    strict sense give other segments: `docs/decisions/023-largest-component.md`.)

    Args:
        segment_ids: (H, W), from 1.
        segments: what they are, in the ids' order.

    Returns:
        Segment ids, 0 where components are gone; and the segments.
    """
    ids, kept = segment_ids.copy(), list(segments)
    for place, segment in enumerate(segments):
        if not segment.is_thing:
            continue
        x0, y0, x1, y1 = map(int, segment.box)
        mask = segment_ids[y0:y1, x0:x1] == segment.id
        largest = _largest_component(mask)
        if np.count_nonzero(largest) < segment.area:
            ids[y0:y1, x0:x1][mask & ~largest] = 0
            ((area, (left, top, right, bottom)),) = measure_segments(largest.astype(np.int32), 1)
            box = x0 + left, y0 + top, x0 + right, y0 + bottom
            kept[place] = replace(segment, area=area, box=box)
    return ids, kept


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part (H, W) of the most pixels, of those that empty rows and columns separate."""
    largest, across, whole = mask, 1, 0
    while whole < 2:  # neither rows nor columns separate it any more
        counts = np.count_nonzero(largest, axis=across)  # K: pixels of each row, or column
        begins = counts > 0
        begins[1:] &= counts[:-1] == 0
        run = np.cumsum(begins)  # K, from 1: in which run of rows with pixels
        if run[-1] > 1:
            best = run == np.bincount(run, counts).argmax()
            largest, whole = largest & np.expand_dims(best, across), 0
        across, whole = 1 - across, whole + 1
    return largest


def measure_segments(
    segment_ids: NDArray[np.int32], count: int
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Measure area and tight box (x0, y0, x1, y1; the last two exclusive) of segments 1 to `count`.

    A segment without pixels has area 0 and the box 0, 0, 0, 0.
    """
    start = run_starts(segment_ids)  # of runs, which are far fewer than pixels
    length = np.diff(start, append=segment_ids.size)
    number = segment_ids.ravel()[start]
    areas = np.bincount(number, weights=length, minlength=count + 1).astype(np.int64)
    y, x = np.divmod(start, segment_ids.shape[1])
    low = np.full((2, count + 1), max(segment_ids.shape))
    high = np.zeros((2, count + 1), np.int64)
    for axis, (first, last) in enumerate(((x, x + length), (y, y + 1))):
        np.minimum.at(low[axis], number, first)
        np.maximum.at(high[axis], number, last)
    low[:, areas == 0] = 0
    boxes = np.concatenate([low, high]).T.tolist()
    return [(int(area), tuple(box)) for area, box in zip(areas[1:], boxes[1:], strict=True)]


def _areas(numbers: NDArray[np.integer], count: int) -> NDArray[np.intp]:
    """Count the pixels of each of the numbers 0 to `count` - 1 in a map."""
    return np.bincount(numbers.ravel(), minlength=count)[:count]


def describe_segments(
    segment_ids: NDArray[np.int32], categories: Sequence[Category], scores: Iterable[float]
) -> list[Segment]:
    """Describe the segments 1, 2, ... of a map (H, W), given their categories and scores."""
    measured = measure_segments(segment_ids, len(categories))
    return [
        Segment(
            id=number,
            label=category.name,
            category_id=category.id,
            is_thing=category.is_thing,
            score=float(score),
            box=box,
            area=area,
        )
        for number, (category, score, (area, box)) in enumerate(
            zip(categories, scores, measured, strict=True), start=1
        )
    ]


def _describe_seen(
    numbers: NDArray[np.integer],
    categories: Sequence[Category],
    scores: NDArray[np.float32],
    least_area: int,
) -> SegmentMap:
    """Turn numbers from 0 (H, W) into ids from 1 without gaps; others and small ones become 0."""
    count = len(categories)
    left = np.flatnonzero(_areas(numbers, count) >= least_area)
    new_id = np.zeros(count + 1, np.int32)
    new_id[left] = np.arange(1, len(left) + 1)
    segment_ids = new_id.take(numbers)
    return segment_ids, describe_segments(
        segment_ids, [categories[number] for number in left.tolist()], scores[left]
    )
