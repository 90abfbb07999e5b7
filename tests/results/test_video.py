"""Objects of a made-up video, whose paths are known, keep their numbers and their colours."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from panodetr.results.draw import colors_of
from panodetr.results.result import DetectionResult, ImageResult, PanopticResult
from panodetr.results.types import Category, Detection, Segment
from panodetr.results.video import PATIENCE, Tracker

CATEGORIES = (
    Category(index=0, id=1, name="ball", is_thing=True, color=(200, 30, 30)),
    Category(index=1, id=2, name="floor", is_thing=False, color=(30, 30, 30)),
)
SIDE = 120
STARTS = {"right": (20, 8), "down": (8, 60), "left": (100, 110), "still": (60, 30)}
SPEEDS = {"right": (0, 6), "down": (7, 0), "left": (0, -5), "still": (0, 0)}
RADIUS = 7


def place(name: str, frame: int) -> tuple[int, int]:
    (y, x), (down, right) = STARTS[name], SPEEDS[name]
    return y + down * frame, x + right * frame


def disc(center: tuple[int, int]) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return (ys - center[0]) ** 2 + (xs - center[1]) ** 2 <= RADIUS**2


def panoptic(names: list[str], frame: int) -> PanopticResult:
    """A frame whose segments come in another order each time."""
    order = np.random.default_rng(frame).permutation(names).tolist()
    ids = np.full((SIDE, SIDE), len(order) + 1, np.int32)
    segments = [segment(len(order) + 1, 2, (0, 0, SIDE, SIDE), SIDE * SIDE)]
    for number, name in enumerate(order, start=1):
        y, x = place(name, frame)
        mask = disc((y, x))
        ids[mask] = number
        box = (x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1)
        segments.append(segment(number, 1, box, int(mask.sum())))
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return PanopticResult(
        segments=tuple(segments),
        segment_ids=ids,
        image=image,
        source=None,
        categories=CATEGORIES,
    )


def segment(number: int, category: int, box: tuple[float, ...], area: int) -> Segment:
    x0, y0, x1, y1 = box
    return Segment(
        id=number,
        label=CATEGORIES[category - 1].name,
        category_id=category,
        is_thing=category == 1,
        score=0.9,
        box=(max(x0, 0), max(y0, 0), min(x1, SIDE), min(y1, SIDE)),
        area=area,
    )


def detections(found: PanopticResult) -> DetectionResult:
    """The same as boxes without masks."""
    boxes = tuple(
        Detection(label=s.label, category_id=s.category_id, score=s.score, box=s.box)
        for s in found.segments
        if s.is_thing
    )
    return DetectionResult(detections=boxes, image=found.image, source=None, categories=CATEGORIES)


def objects_of(result: ImageResult) -> tuple[Segment, ...] | tuple[Detection, ...]:
    assert isinstance(result, PanopticResult | DetectionResult)
    return result.segments if isinstance(result, PanopticResult) else result.detections


def name_of(box: tuple[float, float, float, float], frame: int) -> str:
    """The object that is truly there."""
    middle = np.array([(box[1] + box[3]) / 2, (box[0] + box[2]) / 2])
    return min(STARTS, key=lambda name: float(np.abs(middle - place(name, frame)).sum()))


@pytest.mark.parametrize("boxes", [False, True])
def test_no_identity_is_switched(boxes: bool) -> None:
    tracker = Tracker()
    known: dict[str, int] = {}
    colors: dict[str, tuple[int, int, int]] = {}
    for frame in range(12):
        names = [n for n in STARTS if not (n == "left" and frame in (4, 5))]  # hidden for a while
        found = panoptic(names, frame)
        result = tracker.add(detections(found)) if boxes else tracker.add(found)
        listed = objects_of(result)
        things = [one for one in listed if one.category_id == 1]
        assert len(things) == len(names)
        for one, color in zip(listed, colors_of(listed, CATEGORIES), strict=True):
            assert one.track is not None
            if one.category_id == 1:
                name = name_of(one.box, frame)
                assert known.setdefault(name, one.track) == one.track
                assert colors.setdefault(name, color) == color
            else:
                assert one.track == 1
    assert sorted(known.values()) == [1, 2, 3, 4]
    assert len(set(colors.values())) == 4


def test_an_object_that_returns_too_late_gets_a_new_number() -> None:
    tracker = Tracker()
    before = objects_of(tracker.add(panoptic(["still"], 0)))
    for frame in range(PATIENCE + 1):
        tracker.add(panoptic([], frame))
    after = objects_of(tracker.add(panoptic(["still"], 0)))
    tracks = [[s.track for s in found if s.category_id == 1] for found in (before, after)]
    assert tracks == [[1], [2]]


def test_results_name_the_track() -> None:
    result = Tracker().add(panoptic(["still"], 0))
    assert [s["track"] for s in result.to_dict()["segments_info"]] == [1, 1]
    assert [region.track for region in result.regions()] == [1, 1]
    assert "track" not in panoptic(["still"], 0).to_dict()["segments_info"][0]
