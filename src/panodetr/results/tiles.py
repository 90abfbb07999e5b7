"""One result from the results of overlapping tiles.

A tile sees an object whole, cut by one of its inner borders (those within the image), or not at
all. Where neighbouring tiles overlap both have seen the same pixels, and from those it is decided
which of their segments are the same object:

1. Two segments match when their IoU within the shared region is above one half. At most one segment
   of each tile can match a given one.
2. Whole segments of one class that match are one object, seen several times: its pixels are those
   that most of its views have. It is dropped if too few of the tiles that see all of its place
   have found something there: their mean score, nothing counting 0, is below `LEAST_MEAN`.
3. A cut segment that lies mostly within a whole one of its class is a fragment of it, and gives
   way.
4. What is left and matches is united: an object that no tile saw whole comes together from parts.
   It is dropped if tiles that see most of its pixels farther from their borders did not see it.
5. Objects are painted, whole ones first, each over what is still free; one that finds most of its
   pixels taken was a leftover and is dropped. Stuff fills what no object has claimed.

Votes make tiles that overlap far worth their time: where the most trusted view of an object is
taken as it is, whatever one tile has made up stays. `benchmarks/quality.py` measures the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from panodetr.results.decode import suppress_non_maxima
from panodetr.results.panoptic import SMALLEST_AREA, SegmentMap, measure_segments
from panodetr.results.types import Box, Candidates, Segment

Tile = tuple[Box, NDArray[np.integer], list[Segment]]
"""Where a tile lies, its map of segment ids from 1, and what they are, in the ids' order."""

Place = tuple[slice, slice]
"""Rows and columns."""

LEAST_MEAN = 0.4
"""Where two tiles see a place whole, a find of one of them stands if its score is 0.8 or more."""


@dataclass(slots=True, eq=False)
class _Tile:
    """A tile, each pixel's distance to its nearest inner border (1 or more), and things by id."""

    box: Box
    ids: NDArray[np.integer]
    segments: list[Segment]
    depth: NDArray[np.int32]
    parts: dict[int, _Part] = field(default_factory=dict["int", "_Part"])


@dataclass(slots=True, eq=False)
class _Part:
    """A thing as one tile saw it.

    Attributes:
        tile: the tile.
        segment: the thing there.
        place: its box in the image.
        trust: which of two views of an object to believe: the one with the better score, and of
            equals the one farther from its tile's inner borders.
        matches: what other tiles saw in its place, of whatever class.
        fragment: whether another tile saw all of the object.
    """

    tile: _Tile
    segment: Segment
    place: Box
    trust: tuple[float, int]
    matches: list[_Part]
    fragment: bool = False

    @property
    def cut(self) -> bool:
        """Whether it touches an inner border of the tile."""
        return self.trust[1] == 1

    def like(self) -> list[_Part]:
        """The matches of its class: the same object, seen by other tiles."""
        kind = self.segment.category_id
        return [match for match in self.matches if match.segment.category_id == kind]


_Object = tuple[bool, list[_Part]]
"""True and views that show the whole object, the most trusted first; or False and its parts."""


def join_tiles(
    tiles: Sequence[Tile], size: tuple[int, int], *, things_apart: bool = True
) -> SegmentMap:
    """Join the panoptic results of overlapping tiles into that of the image.

    Objects come first in the result, the most trusted first, then one segment for each class of
    stuff. The score of what was put together from several tiles is the mean of theirs, weighted by
    area. Ids are new, from 1. A single tile is given back as it is.

    Args:
        tiles: of one image; together they cover it.
        size: height and width of the image.
        things_apart: False joins things as stuff, where no tile has told objects apart.

    Returns:
        Segment ids (H, W), 0 where no tile has found anything; and the segments.
    """
    if len(tiles) == 1:
        return tiles[0][1].astype(np.int32, copy=False), list(tiles[0][2])
    seen = [_Tile(*tile, _depth(tile[0], size)) for tile in tiles]
    for tile in seen if things_apart else ():
        _add_parts(tile)
    _match(seen)
    segment_ids = np.zeros(size, np.int32)
    segments = _paint_things(segment_ids, seen, size)
    segments += _paint_stuff(segment_ids, seen, first_id=len(segments) + 1)
    measured = measure_segments(segment_ids, len(segments))
    return segment_ids, [
        replace(segment, area=area, box=box)
        for segment, (area, box) in zip(segments, measured, strict=True)
    ]


def _inner(box: Box, size: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Say which borders of a tile (top, left, bottom, right) lie within the image."""
    y0, x0, y1, x1 = box
    return y0 > 0, x0 > 0, y1 < size[0], x1 < size[1]


def _depth(box: Box, size: tuple[int, int]) -> NDArray[np.int32]:
    return _depth_of(box[2] - box[0], box[3] - box[1], max(size), *_inner(box, size))


@lru_cache(maxsize=16)  # the tiles of an image have nine depths at most
def _depth_of(
    height: int, width: int, far: int, top: bool, left: bool, bottom: bool, right: bool
) -> NDArray[np.int32]:
    y = np.arange(1, height + 1, dtype=np.int32)[:, None]
    x = np.arange(1, width + 1, dtype=np.int32)
    most = np.int32(far)
    rows = np.minimum(y if top else most, y[::-1] if bottom else most)
    columns = np.minimum(x if left else most, x[::-1] if right else most)
    return np.broadcast_to(np.minimum(rows, columns), (len(y), len(x)))


def _add_parts(tile: _Tile) -> None:
    top, left, _, _ = tile.box
    for segment in tile.segments:
        if segment.is_thing:
            x0, y0, x1, y1 = map(int, segment.box)
            place = top + y0, left + x0, top + y1, left + x1
            depth = int(min(tile.depth[y0, x0], tile.depth[y1 - 1, x1 - 1]))  # the box's least
            tile.parts[segment.id] = _Part(tile, segment, place, (segment.score, depth), [])


class _Index:
    """Tiles by where they lie: a large image has 100,000, and asking all for each takes minutes."""

    def __init__(self, boxes: NDArray[np.int64]) -> None:
        """Sort boxes (T, 4) into the cells of a grid, of the side of the largest."""
        self.boxes = boxes
        self.side = max(1, int((boxes[:, 2:] - boxes[:, :2]).max()))
        self.cells: dict[tuple[int, int], list[int]] = {}
        for number, (y, x) in enumerate((boxes[:, :2] // self.side).tolist()):
            self.cells.setdefault((y, x), []).append(number)

    def near(self, box: Box) -> NDArray[np.int64]:
        """The numbers of all that a box overlaps, rising, and of some that it does not."""
        rows, columns = (
            range(box[side] // self.side - 1, (box[side + 2] - 1) // self.side + 1)
            for side in (0, 1)
        )
        found = [n for y in rows for x in columns for n in self.cells.get((y, x), ())]
        return np.array(sorted(found), np.int64)


def _match(tiles: list[_Tile]) -> None:
    """Compare all pairs of tiles that overlap, and note matches and fragments in their parts."""
    index = _Index(np.array([tile.box for tile in tiles]))
    for number, first in enumerate(tiles):
        near = index.near(first.box) if first.parts else np.array([], np.int64)
        near = near[near > number]
        boxes = index.boxes[near]
        beyond = (boxes[:, :2] >= first.box[2:]) | (boxes[:, 2:] <= first.box[:2])  # N, 2
        for other in near[~beyond.any(axis=1)].tolist():
            if tiles[other].parts:
                _match_pair(first, tiles[other])


def _match_pair(a: _Tile, b: _Tile) -> None:
    in_a, in_b = _shared(a.box, b.box)
    rows, columns = len(a.segments) + 1, len(b.segments) + 1
    pair = a.ids[in_a].astype(np.int32) * columns + b.ids[in_b]
    shared: NDArray[np.intp] = np.bincount(pair.ravel(), minlength=rows * columns)
    shared = shared.reshape(rows, columns)  # pixels by id in a and id in b
    area_a, area_b = shared.sum(axis=1).tolist(), shared.sum(axis=0).tolist()
    for id_a, id_b in zip(*np.nonzero(shared), strict=True):
        part_a, part_b = a.parts.get(int(id_a)), b.parts.get(int(id_b))
        if part_a is None or part_b is None:  # stuff, or nothing
            continue
        common = int(shared[id_a, id_b])
        if 2 * common > area_a[id_a] + area_b[id_b] - common:
            part_a.matches.append(part_b)
            part_b.matches.append(part_a)
        if part_a.segment.category_id != part_b.segment.category_id:
            continue
        for part, other in ((part_a, part_b), (part_b, part_a)):
            if part.cut and not other.cut and 2 * common > part.segment.area:
                part.fragment = True


def _objects(tiles: list[_Tile]) -> list[_Object]:
    """Group the parts into objects, the most trusted object first."""
    everything = [part for tile in tiles for part in tile.parts.values()]
    seen: set[_Part] = set()
    objects: list[_Object] = []
    # Sorting is stable and starts from the order of the tiles: every run gives the same result.
    for part in sorted(everything, key=lambda part: part.trust, reverse=True):
        if not part.cut and part not in seen:
            views = [part, *(match for match in part.like() if not match.cut)]
            seen.update(views)
            objects.append((True, views))
    left = [part for part in everything if part.cut and not part.fragment]
    objects += [(False, group) for group in _united(left)]
    return sorted(
        objects, key=lambda found: (found[0], max(part.trust for part in found[1])), reverse=True
    )


def _united(parts: list[_Part]) -> list[list[_Part]]:
    """Group parts that match, directly or through others."""
    waiting = dict.fromkeys(parts)
    groups: list[list[_Part]] = []
    while waiting:
        group = [waiting.popitem()[0]]
        for part in group:  # grows while it is walked
            for match in part.like():
                if match in waiting:
                    del waiting[match]
                    group.append(match)
        groups.append(group)
    return groups


def _paint_things(
    segment_ids: NDArray[np.int32], tiles: list[_Tile], size: tuple[int, int]
) -> list[Segment]:
    deepest = np.zeros(size, np.int32)  # any tile, whatever it saw there
    for tile in tiles:
        here = deepest[_slices(tile.box)]
        np.maximum(here, tile.depth, out=here)
    # Boxes (T, 4) within which a tile sees a thing whole: it touches no inner border.
    inner = np.array([_inner(tile.box, size) for tile in tiles], np.int64)
    fields = _Index(np.array([tile.box for tile in tiles]) + inner * [1, 1, -1, -1])
    painted: list[Segment] = []
    for whole, parts in _objects(tiles):
        if whole:
            if _mean_score(tiles, parts[0], fields) < LEAST_MEAN:
                continue
            where, mask = _voted(parts)
        else:
            where, mask, seen_from = _united_mask(parts)
            if _most(mask & (seen_from < deepest[where]), mask):
                continue
        canvas = segment_ids[where]
        free = mask & (canvas == 0)
        if np.count_nonzero(free) < SMALLEST_AREA or not _most(free, mask):
            continue
        segment = _joined([part.segment for part in parts], len(painted) + 1)
        canvas[free] = segment.id
        painted.append(segment)
    return painted


def _mean_score(tiles: list[_Tile], part: _Part, fields: _Index) -> float:
    """The score of what is seen in a part's place, a mean over the tiles that see all of it.

    Whatever its class, for whether there is an object is the question; nothing counts 0.
    """
    near = fields.near(part.place)
    boxes = fields.boxes[near]
    around = (boxes[:, :2] <= part.place[:2]) & (boxes[:, 2:] >= part.place[2:])
    scores = {tiles[number]: 0.0 for number in near[around.all(axis=1)]}
    for view in (part, *part.matches):
        if view.tile in scores or not view.cut:
            scores[view.tile] = view.segment.score
    return sum(scores.values()) / len(scores)


def _voted(views: list[_Part]) -> tuple[Place, NDArray[np.bool_]]:
    """Give an object's place in the image, and its pixels there: those of most views."""
    region = _extent(views)
    votes = np.zeros((region[2] - region[0], region[3] - region[1]), np.int32)
    for part in views:
        there, here = _shared(part.tile.box, region)
        inside = part.tile.ids[there] == part.segment.id
        votes[here] += np.where(inside, np.int32(1), np.int32(-1))
    return _slices(region), votes > 0


def _united_mask(group: list[_Part]) -> tuple[Place, NDArray[np.bool_], NDArray[np.int32]]:
    """Give an object's place in the image, its pixels there, and the depth they are seen from.

    Where several tiles have seen it, the one that sees a pixel farthest from its borders decides.
    """
    region = _extent(group)
    mask = np.zeros((region[2] - region[0], region[3] - region[1]), np.bool_)
    deepest = np.zeros(mask.shape, np.int32)
    for tile in dict.fromkeys(part.tile for part in group):
        there, here = _shared(tile.box, region)
        deeper = tile.depth[there] > deepest[here]
        own = np.zeros(len(tile.segments) + 1, np.bool_)
        own[[part.segment.id for part in group if part.tile is tile]] = True
        mask[here] = np.where(deeper, own.take(tile.ids[there]), mask[here])
        deepest[here] = np.maximum(deepest[here], tile.depth[there])
    return _slices(region), mask, deepest


def _extent(parts: list[_Part]) -> Box:
    """The box in the image around some parts."""
    y0, x0, y1, x1 = zip(*(part.place for part in parts), strict=True)
    return min(y0), min(x0), max(y1), max(x1)


def _shared(a: Box, b: Box) -> tuple[Place, Place]:
    """Where two boxes overlap, in the pixels of each."""
    both = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return _slices(both, a[:2]), _slices(both, b[:2])


def _slices(box: Box, origin: tuple[int, int] = (0, 0)) -> Place:
    y, x = origin
    return slice(box[0] - y, box[2] - y), slice(box[1] - x, box[3] - x)


def _most(some: NDArray[np.bool_], of: NDArray[np.bool_]) -> bool:
    return bool(2 * np.count_nonzero(some) > np.count_nonzero(of))


def _paint_stuff(
    segment_ids: NDArray[np.int32], tiles: list[_Tile], first_id: int
) -> list[Segment]:
    """Give free pixels the stuff of that tile which sees them farthest from its borders."""
    seen: dict[int, list[Segment]] = {}  # by category
    for tile in tiles:
        for segment in tile.segments:
            if segment.id not in tile.parts:
                seen.setdefault(segment.category_id, []).append(segment)
    kinds = sorted(seen)
    stuff = np.zeros(segment_ids.shape, np.int32)  # places in kinds, from 1
    deepest = np.zeros(segment_ids.shape, np.int32)
    for tile in tiles:
        kind_of = np.zeros(len(tile.segments) + 1, np.int32)
        for segment in tile.segments:
            if segment.id not in tile.parts:
                kind_of[segment.id] = kinds.index(segment.category_id) + 1
        found, where = kind_of.take(tile.ids), _slices(tile.box)
        better = (found > 0) & (tile.depth > deepest[where])
        stuff[where][better] = found[better]
        deepest[where][better] = tile.depth[better]
    stuff[segment_ids > 0] = 0
    painted: list[Segment] = []
    for number, kind in enumerate(kinds, start=1):
        pixels = stuff == number
        if np.count_nonzero(pixels) >= SMALLEST_AREA:
            painted.append(_joined(seen[kind], first_id + len(painted)))
            segment_ids[pixels] = painted[-1].id
    return painted


def _joined(segments: list[Segment], new_id: int) -> Segment:
    """Describe segments of one class as one; area and box are measured once all are painted."""
    score = sum(s.score * s.area for s in segments) / sum(s.area for s in segments)
    return replace(segments[0], id=new_id, score=score)


def join_candidates(
    tiles: Sequence[tuple[Box, Candidates]],
    size: tuple[int, int],
    duplicate_iou: float | None = None,
) -> Candidates:
    """Put what an image's tiles have found together, in the order of the tiles.

    What several tiles have found is given once, and what several queries have found where the
    model is known to do so (`suppress_non_maxima`).

    Args:
        tiles: of one image: where each lies, and its candidates, in pixels of the image.
        size: height and width of the image.
        duplicate_iou: above it, boxes of one tile and class are one object; None never.
    """
    boxes = np.concatenate([found.boxes for _, found in tiles])
    scores = np.concatenate([found.scores for _, found in tiles])
    category_ids = np.concatenate([found.category_ids for _, found in tiles])
    masks = [mask for _, found in tiles for mask in found.coarse_masks]
    kept = np.arange(len(scores))
    if len(tiles) > 1 or duplicate_iou is not None:
        owner = np.repeat(np.arange(len(tiles)), [len(found.scores) for _, found in tiles])
        places = np.array([box for box, _ in tiles])  # T, 4
        kept = suppress_non_maxima(boxes, scores, category_ids, owner, places, size, duplicate_iou)
    return Candidates(
        scores=scores[kept],
        category_ids=category_ids[kept],
        boxes=boxes[kept],
        image_size=size,
        coarse_masks=tuple(masks[index] for index in kept) if masks else (),
    )
