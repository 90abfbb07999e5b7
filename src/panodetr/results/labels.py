"""Labels and boxes on the picture of a result, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from panodetr.results.panoptic import runs_of
from panodetr.results.types import Segment

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

_MARGIN = 2  # pixels between the text and the rim of its plate


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A text, the plate it stands on, and the plate's colour."""

    text: str
    plate: Rectangle
    color: Color


def place_labels(
    segment_ids: NDArray[np.int32],
    segments: Sequence[Segment],
    colors: Sequence[Color],
    *,
    scores: bool = True,
) -> list[Label]:
    """Find room for name and score in each segment that is large enough, the largest ones first.

    Where both do not fit the score stands alone; where that does not fit either, or another label
    is in the way, there is none: hundreds of small segments stay readable.

    Args:
        segment_ids: (H, W) at the picture's size.
        segments: what the ids stand for.
        colors: of the plates, a segment each.
        scores: whether there are any; without them, a name that does not fit is left out.
    """
    height, width = segment_ids.shape
    font = _font_for(width, height)
    seats = _seats(segment_ids)
    labels: list[Label] = []
    for segment, color in sorted(
        zip(segments, colors, strict=True), key=lambda pair: (-pair[0].area, pair[0].id)
    ):
        if segment.id not in seats:
            continue
        x, y, wide, tall = _centered(segment_ids, *seats[segment.id])
        score = f"{segment.score:.0%}"
        for text in (f"{segment.label} {score}", score) if scores else (segment.label,):
            plate = _plate(font, text, x, y, (width, height))
            fits = plate[2] - plate[0] <= wide and (plate[3] - plate[1]) * 1.5 <= tall
            if fits and not any(_overlap(plate, other.plate) for other in labels):
                labels.append(Label(text=text, plate=plate, color=color))
                break
    return labels


def write_labels(picture: Image.Image, labels: Sequence[Label]) -> None:
    """Write labels into the picture that they were placed for."""
    font = _font_for(*picture.size)
    canvas = ImageDraw.Draw(picture)
    for label in labels:
        _write(canvas, font, label.text, label.plate, label.color)


def draw_box_labels(
    picture: Image.Image,
    boxes: Sequence[tuple[float, float, float, float]],
    texts: Sequence[str],
    colors: Sequence[Color],
) -> NDArray[np.uint8]:
    """Draw boxes, and their texts above the upper left corners; the first ones lie on top.

    Args:
        picture: drawn into.
        boxes: x0, y0, x1, y1 in the picture's pixels.
        texts: one a box; left out where an earlier one is in the way.
        colors: one a box, of its lines and of the plate that its text stands on.

    Returns:
        (H, W, 3) uint8.
    """
    font = _font_for(*picture.size)
    canvas = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 500))
    for (x0, y0, x1, y1), color in zip(reversed(boxes), reversed(colors), strict=True):
        # A box may have no extent, and the model may draw it out of the image.
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=line)
    taken: list[Rectangle] = []
    for (x0, y0, _, _), text, color in zip(boxes, texts, colors, strict=True):
        wide, tall = _extent(font, text)
        plate = _plate(font, text, round(x0) + wide // 2, round(y0) - tall // 2, picture.size)
        if not any(_overlap(plate, other) for other in taken):
            taken.append(plate)
            _write(canvas, font, text, plate, color)
    return np.asarray(picture)


def _seats(segment_ids: NDArray[np.int32]) -> dict[int, tuple[int, int]]:
    """Find a pixel, x and y, in the midst of each segment.

    That is the middle of a long run of pixels that lies near the segment's middle row.
    """
    runs = runs_of(segment_ids)
    y, x = np.divmod(runs.start, segment_ids.shape[1])
    count = int(runs.value.max()) + 1
    weight = np.bincount(runs.value, weights=runs.length, minlength=count)
    moment = np.bincount(runs.value, weights=runs.length * y, minlength=count)
    middle = moment / np.maximum(weight, 1)
    merit = runs.length - np.abs(y - middle[runs.value])
    order = np.argsort(runs.value, kind="stable")
    values, starts = np.unique(runs.value[order], return_index=True)
    most = np.maximum.reduceat(merit[order], starts)
    # Of each segment's runs of the most merit, the first one.
    is_best = merit[order] == np.repeat(most, np.diff(starts, append=len(order)))
    ranked = np.flatnonzero(is_best)
    best = order[ranked[np.searchsorted(ranked, starts)]]
    return {
        value: (int(x[n] + runs.length[n] // 2), int(y[n]))
        for value, n in zip(values.tolist(), best, strict=True)
        if value > 0
    }


def _centered(segment_ids: NDArray[np.int32], x: int, y: int) -> tuple[int, int, int, int]:
    """Move a pixel to the middle of its segment there, first along its column, then along its row.

    Returns:
        x, y, and the width and height that the segment has there.
    """
    top, bottom = _stretch(segment_ids[:, x], y)
    y = (top + bottom) // 2
    left, right = _stretch(segment_ids[y], x)
    return (left + right) // 2, y, right - left, bottom - top


def _stretch(line: NDArray[np.int32], at: int) -> tuple[int, int]:
    """Give the first and the last, exclusive, of the joined pixels around `at` that are like it."""
    other = np.flatnonzero(line != line[at])
    place = int(np.searchsorted(other, at))
    first = int(other[place - 1]) + 1 if place else 0
    return first, int(other[place]) if place < len(other) else len(line)


def _plate(
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    x: int,
    y: int,
    size: tuple[int, int],
) -> Rectangle:
    """Lay the text's plate around a point, moved into the picture."""
    wide, tall = _extent(font, text)
    left = min(max(0, x - wide // 2), max(0, size[0] - wide))
    top = min(max(0, y - tall // 2), max(0, size[1] - tall))
    return left, top, left + wide, top + tall


def _extent(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> tuple[int, int]:
    """Measure a text's plate."""
    x0, y0, x1, y1 = (round(side) for side in font.getbbox(text))
    return x1 - x0 + 2 * _MARGIN, y1 - y0 + 2 * _MARGIN


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write(
    canvas: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    plate: Rectangle,
    color: Color,
) -> None:
    x0, y0, x1, y1 = plate
    canvas.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    left, top = font.getbbox(text)[:2]
    canvas.text(
        (x0 + _MARGIN - left, y0 + _MARGIN - top),
        text,
        font=font,
        fill="black" if luminance > 128 else "white",
    )


def _font_for(width: int, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give the font for a picture of this size."""
    return _font(max(11, round(max(width, height) / 75)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
