"""Videos: the numbers of objects that stay the same from frame to frame, and files of overlays.

Objects of a class are matched by the intersection over union of their masks, or boxes where there
are none, each shifted by its last motion. The pairs of a frame are chosen together, for the largest
sum (Kuhn 1955).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from panodetr.errors import PanodetrError, import_extra
from panodetr.files import atomic_write
from panodetr.results.regions import Region
from panodetr.results.result import DetectionResult, ImageResult, PanopticResult

LEAST_IOU = 0.1
"""Least IoU of an object with its expected place; with less it is another object."""

PATIENCE = 10
"""Frames for which an object that is not seen is still expected."""

CODECS = ("libx264", "mpeg4")
"""The first one that PyAV has is used; browsers play H.264."""


@dataclass(kw_only=True, eq=False)
class _Track:
    number: int  # among those of its class, from 1
    region: Region
    velocity: NDArray[np.float64]  # y, x in pixels a frame
    unseen: int = 0

    @property
    def shift(self) -> tuple[int, int]:
        """Expected motion since its region was seen, y and x in pixels."""
        y, x = np.rint(self.velocity * (self.unseen + 1)).astype(int).tolist()
        return y, x


class Tracker:
    """Numbers the objects of a video's frames, which come one after the other."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._counts: Counter[int] = Counter()

    def add(self, result: ImageResult) -> ImageResult:
        """Give the result with `track` set: one number for an object of a class in all frames.

        Stuff is one region a class, and its number is 1.
        """
        regions = list(result.regions())
        numbers = self._match(regions)
        if isinstance(result, PanopticResult):
            segments = tuple(replace(s, track=numbers.get(s.id)) for s in result.segments)
            return replace(result, segments=segments)
        assert isinstance(result, DetectionResult)
        found = tuple(replace(one, track=numbers.get(one.id)) for one in result.detections)
        return replace(result, detections=found)

    def _match(self, regions: list[Region]) -> dict[int, int]:
        """Match regions with tracks, begin tracks for the rest; give track numbers by region id."""
        likeness = np.array(
            [[_likeness(track, region) for region in regions] for track in self._tracks]
        ).reshape(len(self._tracks), len(regions))
        rows, columns = linear_sum_assignment(likeness, maximize=True)
        numbers: dict[int, int] = {}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if likeness[row, column] >= LEAST_IOU:
                track, region = self._tracks[row], regions[column]
                frames = track.unseen + 1
                track.velocity = (_center(region) - _center(track.region)) / frames
                track.region, track.unseen = region, -1
                numbers[region.id] = track.number
        for track in self._tracks:
            track.unseen += 1
        self._tracks = [track for track in self._tracks if track.unseen <= PATIENCE]
        for region in regions:
            if region.id not in numbers:
                self._counts[region.category_id] += 1
                number = numbers[region.id] = self._counts[region.category_id]
                self._tracks.append(_Track(number=number, region=region, velocity=np.zeros(2)))
        return numbers


def _center(region: Region) -> NDArray[np.float64]:
    """Give the middle of a region's pixels, or box: y, x."""
    top, left = (lines.start for lines in region.window)
    if region.pixels is None:
        x0, y0, x1, y1 = region.box
        return np.array([(y0 + y1) / 2, (x0 + x1) / 2])
    ys, xs = np.nonzero(region.pixels)
    return np.array([top + ys.mean(), left + xs.mean()])


def _likeness(track: _Track, region: Region) -> float:
    """Give the intersection over union of a region and where a track expects its own; 0 to 1."""
    if track.region.category_id != region.category_id:
        return 0.0
    if not region.is_thing:
        return 1.0
    mine = [slice(lines.start + by, lines.stop + by) for lines, by in zip(
        track.region.window, track.shift, strict=True
    )]  # fmt: skip
    shared = [
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(mine, region.window, strict=True)
    ]
    if any(lines.start >= lines.stop for lines in shared):
        return 0.0
    one, other = (
        _pixels(of)[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(
            shared, window, strict=True
        ))]
        for of, window in ((track.region, mine), (region, region.window))
    )  # fmt: skip
    both = np.count_nonzero(one & other)
    either = np.count_nonzero(_pixels(track.region)) + np.count_nonzero(_pixels(region)) - both
    return both / either


def _pixels(region: Region) -> NDArray[np.bool_]:
    """Give a region's pixels within its window; all of it where it is a box."""
    if region.pixels is not None:
        return region.pixels
    rows, columns = region.window
    return np.ones((rows.stop - rows.start, columns.stop - columns.start), np.bool_)


@contextmanager
def video_writer(path: Path, rate: float) -> Generator[Callable[[NDArray[np.uint8]], None]]:
    """Write an MP4 by PyAV (the extra `video`), which appears when the block ends without an error.

    Args:
        path: of the MP4.
        rate: frames a second.

    Yields:
        A function that adds a frame (H, W, 3); all have one size. An odd side loses a row or
        column.

    Raises:
        MissingExtra: PyAV is not installed.
        PanodetrError: the system refuses to write, or a frame cannot be encoded.
    """
    av = import_extra("av")
    stream: Any = None

    def encode(frame: Any) -> None:
        try:
            file.mux(stream.encode(frame))
        except av.FFmpegError as error:
            raise PanodetrError(f"cannot write {path}: {error}") from error

    def add(frame: NDArray[np.uint8]) -> None:
        nonlocal stream
        height, width = (side - side % 2 for side in frame.shape[:2])
        if stream is None:
            codec = next(name for name in CODECS if name in av.codecs_available)
            stream = file.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p"
        pixels = np.ascontiguousarray(frame[:height, :width])
        encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))

    with atomic_write(path) as temporary, av.open(str(temporary), "w") as file:
        yield add
        if stream is not None:
            encode(None)
