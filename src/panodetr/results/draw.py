"""The picture of a result: coloured segments over the image, outlined and labelled."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.results.labels import Label, draw_box_labels, place_labels, write_labels
from panodetr.results.types import Category, DetectionResult, PanopticResult

COMFORTABLE_SIDE = 768
"""Images far smaller than this are drawn at 2 to 4 times their size, so that labels can be read."""

_THING_OPACITY, _STUFF_OPACITY = 100, 60  # of 255
_GOLDEN_ANGLE = 0.381966  # of a turn: hues of whatever number of steps stay well apart

Color = tuple[int, int, int]


def draw_overlay(result: PanopticResult, *, scores: bool = True) -> NDArray[np.uint8]:
    """Draw the segments over their image, and label them; the truth has no scores.

    Returns:
        (k H, k W, 3) uint8 RGB; k is 1, or 2 to 4 for images far below `COMFORTABLE_SIDE`.
    """
    picture = paint_segments(result)
    write_labels(picture, find_labels(result, scores=scores))
    return np.asarray(picture)


def paint_segments(result: PanopticResult) -> Image.Image:
    """Draw the segments over their image, in the size that `draw_overlay` tells.

    The first thing of a category has the category's colour, livened up; the next ones turn its hue,
    so that neighbours differ. Stuff has its category's colour, fainter. Outlines are opaque.
    """
    image, segment_ids = Image.fromarray(result.image), _enlarged_ids(result)
    if segment_ids.shape != result.segment_ids.shape:
        image = image.resize(segment_ids.shape[::-1], Image.Resampling.BICUBIC)
    return _paint(image, segment_ids, result, segment_colors(result))


def find_labels(result: PanopticResult, *, scores: bool = True) -> list[Label]:
    """Find room for labels in the picture of `paint_segments`; see `place_labels`."""
    colors = segment_colors(result)
    return place_labels(_enlarged_ids(result), result.segments, colors, scores=scores)


def draw_detections(result: DetectionResult, *, scores: bool = True) -> NDArray[np.uint8]:
    """Draw boxes with their labels over the image, and masks where there are any.

    Colours and size are as `draw_overlay` has them. Masks are laid over each other faintly, the
    best score last; labels stand above the boxes' upper left corners. The truth has no scores.

    Returns:
        (k H, k W, 3) uint8 RGB.
    """
    height, width = result.image.shape[:2]
    scale = _scale(height, width)
    colors = _colors(
        ((detection.category_id, True) for detection in result.detections), result.categories
    )
    image = Image.fromarray(_tinted(result, colors))
    if scale > 1:
        image = image.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    boxes = [
        (scale * d.box[0], scale * d.box[1], scale * d.box[2], scale * d.box[3])
        for d in result.detections
    ]
    texts = [f"{d.label} {d.score:.0%}" if scores else d.label for d in result.detections]
    return draw_box_labels(image, boxes, texts, colors)


def segment_colors(result: PanopticResult) -> list[Color]:
    """Choose a colour for each segment, in their order."""
    return _colors(((s.category_id, s.is_thing) for s in result.segments), result.categories)


def _enlarged_ids(result: PanopticResult) -> NDArray[np.int32]:
    """The segment ids (k H, k W) of the picture's pixels."""
    segment_ids, scale = result.segment_ids, _scale(*result.segment_ids.shape)
    if scale == 1:
        return segment_ids
    return np.repeat(np.repeat(segment_ids, scale, axis=0), scale, axis=1)


def _scale(height: int, width: int) -> int:
    return min(4, max(1, round(COMFORTABLE_SIDE / max(height, width))))


def _colors(found: Iterable[tuple[int, bool]], categories: Sequence[Category]) -> list[Color]:
    """Choose colours by category id and whether it is a thing."""
    base = {category.id: category.color for category in categories}
    met: dict[int, int] = {}
    colors: list[Color] = []
    for category_id, is_thing in found:
        color = base.get(category_id, (128, 128, 128))
        if is_thing:
            turns = met.get(category_id, 0)
            met[category_id] = turns + 1
            color = _turned(color, turns)
        colors.append(color)
    return colors


def _tinted(result: DetectionResult, colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Lay the masks over the image, the best score last."""
    pixels = result.image.copy()
    for detection, color in zip(reversed(result.detections), reversed(colors), strict=True):
        mask = detection.mask
        if mask is not None:
            under = pixels[mask].astype(np.float32)
            blended = under + (np.array(color, np.float32) - under) * (_THING_OPACITY / 255)
            pixels[mask] = blended.astype(np.uint8)
    return pixels


def _turned(color: Color, turns: int) -> Color:
    """Turn the hue of a colour, and make it bright enough to be told from the image."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    hue = (hue + turns * _GOLDEN_ANGLE) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, max(saturation, 0.65), max(value, 0.95))
    return round(red * 255), round(green * 255), round(blue * 255)


def _paint(
    image: Image.Image,
    segment_ids: NDArray[np.int32],
    result: PanopticResult,
    colors: list[Color],
) -> Image.Image:
    """Blend the segments' colours into the image in place; things' outlines at full strength."""
    # Colour and opacity of each id as the four bytes of one number, so that one look-up gives both.
    styles = np.zeros((max((s.id for s in result.segments), default=0) + 1, 4), np.uint8)
    for segment, color in zip(result.segments, colors, strict=True):
        styles[segment.id] = (*color, _THING_OPACITY if segment.is_thing else _STUFF_OPACITY)
    tint = (
        styles.view(np.uint32)[:, 0].take(segment_ids).view(np.uint8).reshape(*segment_ids.shape, 4)
    )
    opacity = tint[:, :, 3]
    opacity[_outlines(segment_ids) & (opacity == _THING_OPACITY)] = 255
    colored = Image.fromarray(tint)
    image.paste(colored, mask=colored)
    return image


def _outlines(segment_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mark the pixels whose neighbour to some side is of another segment."""
    outline = np.zeros(segment_ids.shape, np.bool_)
    across = segment_ids[:, 1:] != segment_ids[:, :-1]
    outline[:, 1:] |= across
    outline[:, :-1] |= across
    down = segment_ids[1:] != segment_ids[:-1]
    outline[1:] |= down
    outline[:-1] |= down
    return outline
