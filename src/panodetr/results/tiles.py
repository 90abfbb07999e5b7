"""One result from the results of overlapping tiles.

A tile sees an object whole, cut by one of its inner borders (those within the photo), or not at
all. Where neighbouring tiles overlap both have seen the same pixels, and from those it is decided
which of their segments are the same object:

1. Two segments of one class match when their IoU within the shared region is above one half. At
   most one segment of each tile can match a given one.
2. Whole segments that match are one object, seen several times: the most trusted is taken as it is.
3. A cut segment that lies mostly within a whole one is a fragment of it, and gives way.
4. What is left and matches is united: an object that no tile saw whole comes together from parts.
   It is dropped if tiles that see most of its pixels farther from their borders did not see it.
5. Objects are painted, whole ones first, each over what is still free; one that finds most of its
   pixels taken was a leftover and is dropped. Stuff fills what no object has claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from panodetr.results.panoptic import SMALLEST_AREA, ClassSegment, measure_segments

Box = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels of the photo, the last two exclusive."""

Tile = tuple[Box, NDArray[np.int32], list[ClassSegment]]
"""Where a tile lies, its map of segment ids from 1, and what they are, in the ids' order."""

_NEAR = 2  # pixels: a segment that ends so close to an inner border counts as cut by it


@dataclass(slots=True, eq=False)
class _Part:
    """A thing as one tile saw it; `matches` are the same object, seen by other tiles.

    `trust` says which of two views of an object to believe: the one with the better score, and of
    equals the one farther from its tile's borders.
    """

    tile: int
    segment: ClassSegment
    cut: bool
    trust: tuple[float, int]
    matches: list[_Part]
    fragment: bool = False


def join_tiles(
    tiles: Sequence[Tile], size: tuple[int, int]
) -> tuple[NDArray[np.int32], list[ClassSegment]]:
    """Join the panoptic results of overlapping tiles into that of the photo.

    Objects come first in the result, the most trusted first, then one segment for each class of
    stuff. The score of what was put together from several tiles is the mean of theirs, weighted by
    area. Ids are new, from 1. A single tile is given back as it is.

    Args:
        tiles: of one photo; together they cover it.
        size: height and width of the photo.

    Returns:
        Segment ids (H, W), 0 where no tile has found anything; and the segments.
    """
    if len(tiles) == 1:
        return tiles[0][1], list(tiles[0][2])
    parts = [_parts(tiles, number, size) for number in range(len(tiles))]
    _match(tiles, parts)
    depth = [_depth(box, size) for box, _, _ in tiles]
    segment_ids = np.zeros(size, np.int32)
    segments = _paint_things(segment_ids, tiles, _objects(parts), depth)
    segments += _paint_stuff(segment_ids, tiles, depth, first_id=len(segments) + 1)
    measured = measure_segments(segment_ids, len(segments))
    return segment_ids, [
        replace(segment, area=area, box=box)
        for segment, (area, box) in zip(segments, measured, strict=True)
    ]


def _inner(box: Box, size: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Say which borders of a tile (top, left, bottom, right) lie within the photo."""
    y0, x0, y1, x1 = box
    return y0 > 0, x0 > 0, y1 < size[0], x1 < size[1]


def _parts(tiles: Sequence[Tile], number: int, size: tuple[int, int]) -> dict[int, _Part]:
    """List the things of one tile by their ids, with what their distance to its borders says."""
    box, _, segments = tiles[number]
    parts: dict[int, _Part] = {}
    for segment in segments:
        if not segment.is_thing:
            continue
        x0, y0, x1, y1 = segment.box
        gaps = (y0, x0, box[2] - box[0] - y1, box[3] - box[1] - x1)
        inner = [gap for gap, within in zip(gaps, _inner(box, size), strict=True) if within]
        gap = min(inner, default=max(size))
        parts[segment.id] = _Part(number, segment, gap < _NEAR, (segment.score, gap), [])
    return parts


def _match(tiles: Sequence[Tile], parts: list[dict[int, _Part]]) -> None:
    """Compare all pairs of tiles that overlap, and note matches and fragments in `parts`."""
    boxes = np.array([box for box, _, _ in tiles])
    for first in range(len(tiles)):
        later = boxes[first + 1 :]
        apart = np.concatenate(
            [later[:, :2] >= boxes[first, 2:], later[:, 2:] <= boxes[first, :2]], axis=1
        ).any(axis=1)
        for second in (np.flatnonzero(~apart) + first + 1).tolist():
            if parts[first] and parts[second]:
                _match_pair(tiles[first], tiles[second], parts[first], parts[second])


def _match_pair(a: Tile, b: Tile, parts_a: dict[int, _Part], parts_b: dict[int, _Part]) -> None:
    y0, x0 = max(a[0][0], b[0][0]), max(a[0][1], b[0][1])
    y1, x1 = min(a[0][2], b[0][2]), min(a[0][3], b[0][3])
    ids_a, ids_b = (
        ids[y0 - top : y1 - top, x0 - left : x1 - left] for (top, left, _, _), ids, _ in (a, b)
    )
    columns = len(b[2]) + 1
    shared: NDArray[np.intp] = np.bincount(
        (ids_a * columns + ids_b).ravel(), minlength=(len(a[2]) + 1) * columns
    ).reshape(-1, columns)  # pixels by id in a and id in b
    area_a, area_b = shared.sum(axis=1).tolist(), shared.sum(axis=0).tolist()
    for id_a, id_b in zip(*np.nonzero(shared), strict=True):
        part_a, part_b = parts_a.get(int(id_a)), parts_b.get(int(id_b))
        if part_a is None or part_b is None:  # stuff, or nothing
            continue
        if part_a.segment.class_index != part_b.segment.class_index:
            continue
        common = int(shared[id_a, id_b])
        if 2 * common > area_a[id_a] + area_b[id_b] - common:
            part_a.matches.append(part_b)
            part_b.matches.append(part_a)
        for part, other in ((part_a, part_b), (part_b, part_a)):
            if part.cut and not other.cut and 2 * common > part.segment.area:
                part.fragment = True


def _objects(parts: list[dict[int, _Part]]) -> list[list[_Part]]:
    """Group the parts into objects, the most trusted object first; each is one part or a union."""
    everything = [part for tile in parts for part in tile.values()]
    seen_better: set[_Part] = set()
    # Sorting is stable and starts from the order of the tiles: every run gives the same result.
    for part in sorted(everything, key=lambda part: part.trust, reverse=True):
        if not part.cut and part not in seen_better:
            seen_better.update(match for match in part.matches if not match.cut)
    left = [part for part in everything if not part.fragment and part not in seen_better]
    objects = _united(left)
    objects.sort(
        key=lambda group: (any(not p.cut for p in group), max(p.trust for p in group)), reverse=True
    )
    return objects


def _united(parts: list[_Part]) -> list[list[_Part]]:
    """Group parts that match, directly or through others."""
    waiting = dict.fromkeys(parts)
    groups: list[list[_Part]] = []
    while waiting:
        group = [waiting.popitem()[0]]
        for part in group:  # grows while it is walked
            for match in part.matches:
                if match in waiting:
                    del waiting[match]
                    group.append(match)
        groups.append(group)
    return groups


def _paint_things(
    segment_ids: NDArray[np.int32],
    tiles: Sequence[Tile],
    objects: list[list[_Part]],
    depth: list[NDArray[np.int32]],
) -> list[ClassSegment]:
    deepest = np.zeros(segment_ids.shape, np.int32)  # any tile, whatever it saw there
    for ((y0, x0, y1, x1), _, _), depth_here in zip(tiles, depth, strict=True):
        np.maximum(deepest[y0:y1, x0:x1], depth_here, out=deepest[y0:y1, x0:x1])
    painted: list[ClassSegment] = []
    for group in objects:
        where, mask, seen_from = _mask(tiles, group, depth)
        if all(part.cut for part in group) and _most(mask & (seen_from < deepest[where]), mask):
            continue
        canvas = segment_ids[where]
        free = mask & (canvas == 0)
        if np.count_nonzero(free) < SMALLEST_AREA or not _most(free, mask):
            continue
        segment = _joined([part.segment for part in group], len(painted) + 1)
        canvas[free] = segment.id
        painted.append(segment)
    return painted


def _mask(
    tiles: Sequence[Tile], group: list[_Part], depth: list[NDArray[np.int32]]
) -> tuple[tuple[slice, slice], NDArray[np.bool_], NDArray[np.int32]]:
    """Give an object's place in the photo, its pixels there, and the depth they are seen from.

    Where several tiles have seen it, the one that sees a pixel farthest from its borders decides.
    """
    corners: list[tuple[int, int, int, int]] = []
    for part in group:
        top, left, _, _ = tiles[part.tile][0]
        x0, y0, x1, y1 = part.segment.box
        corners.append((top + y0, left + x0, top + y1, left + x1))
    y0, x0 = min(c[0] for c in corners), min(c[1] for c in corners)
    y1, x1 = max(c[2] for c in corners), max(c[3] for c in corners)
    mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
    deepest = np.zeros(mask.shape, np.int32)
    for number in dict.fromkeys(part.tile for part in group):
        (top, left, bottom, right), ids, segments = tiles[number]
        rows = slice(max(top, y0), min(bottom, y1))  # of the photo, as are columns
        columns = slice(max(left, x0), min(right, x1))
        there = (_moved(rows, top), _moved(columns, left))  # in the tile
        here = (_moved(rows, y0), _moved(columns, x0))  # in the mask
        deeper = depth[number][there] > deepest[here]
        own = np.zeros(len(segments) + 1, np.bool_)
        own[[part.segment.id for part in group if part.tile == number]] = True
        mask[here] = np.where(deeper, own.take(ids[there]), mask[here])
        deepest[here] = np.where(deeper, depth[number][there], deepest[here])
    return (slice(y0, y1), slice(x0, x1)), mask, deepest


def _most(some: NDArray[np.bool_], of: NDArray[np.bool_]) -> bool:
    return bool(2 * np.count_nonzero(some) > np.count_nonzero(of))


def _moved(along: slice, origin: int) -> slice:
    return slice(along.start - origin, along.stop - origin)


def _paint_stuff(
    segment_ids: NDArray[np.int32],
    tiles: Sequence[Tile],
    depth: list[NDArray[np.int32]],
    first_id: int,
) -> list[ClassSegment]:
    """Give free pixels the stuff of that tile which sees them farthest from its borders."""
    stuff = np.full(segment_ids.shape, -1, np.int32)  # class indices
    deepest = np.zeros(segment_ids.shape, np.int32)
    seen: dict[int, list[ClassSegment]] = {}
    for ((y0, x0, y1, x1), ids, segments), depth_here in zip(tiles, depth, strict=True):
        class_of = np.full(len(segments) + 1, -1, np.int32)
        for segment in segments:
            if not segment.is_thing:
                class_of[segment.id] = segment.class_index
                seen.setdefault(segment.class_index, []).append(segment)
        classes = class_of.take(ids)
        stuff_here, deepest_here = stuff[y0:y1, x0:x1], deepest[y0:y1, x0:x1]
        better = (classes >= 0) & (depth_here > deepest_here)
        stuff_here[better] = classes[better]
        deepest_here[better] = depth_here[better]
    stuff[segment_ids > 0] = -1
    painted: list[ClassSegment] = []
    for class_index in sorted(seen):
        pixels = stuff == class_index
        if np.count_nonzero(pixels) >= SMALLEST_AREA:
            painted.append(_joined(seen[class_index], first_id + len(painted)))
            segment_ids[pixels] = painted[-1].id
    return painted


def _depth(box: Box, size: tuple[int, int]) -> NDArray[np.int32]:
    """Give for each pixel of a tile its distance to the nearest inner border, 1 or more."""
    height, width = box[2] - box[0], box[3] - box[1]
    top, left, bottom, right = _inner(box, size)
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    far = np.int32(max(size))
    rows = np.minimum(y + 1 if top else far, height - y if bottom else far)
    columns = np.minimum(x + 1 if left else far, width - x if right else far)
    return np.minimum(np.broadcast_to(rows, height)[:, None], np.broadcast_to(columns, width))


def _joined(segments: list[ClassSegment], new_id: int) -> ClassSegment:
    """Describe segments of one class as one; area and box are measured once all are painted."""
    score = sum(s.score * s.area for s in segments) / sum(s.area for s in segments)
    return replace(segments[0], id=new_id, score=score)
