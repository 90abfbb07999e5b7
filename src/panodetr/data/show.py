"""Ground truth drawn over images, and sheets of them with captions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from panodetr.data.dataset import Dataset, read_objects
from panodetr.data.samples import read_sample
from panodetr.data.targets import number_pixels
from panodetr.errors import DataError, ImageError
from panodetr.results.draw import draw_objects, draw_segments
from panodetr.results.types import Category, Detection, Segment

SIDE = 384
"""Of an image on the sheet, in pixels."""

_GAP = 8  # pixels between two images

Captioned: TypeAlias = tuple[str, Image.Image]
"""A caption, and the image below it."""


def draw_sheet(data: Dataset, count: int) -> Image.Image:
    """Draw images that lie evenly apart in a data set, with their objects.

    Args:
        data: the data set.
        count: how many images at most.

    Raises:
        DataError: none of these images can be read.
    """
    step = max(1, math.ceil(len(data.samples) / count))
    drawn: list[Captioned] = []
    for sample in data.samples[::step]:
        try:
            pixels = read_sample(sample)
            objects = read_objects(sample, data.index_of, with_masks=data.has_masks)
        except (DataError, ImageError):
            continue
        classes = [data.categories[index] for index in objects.classes.tolist()]
        places = None
        if objects.ids is not None:
            places = number_pixels(objects.segment_ids, objects.ids)
        picture = draw_truth(pixels, classes, places, objects.boxes, data.categories)
        picture.thumbnail((SIDE, SIDE))
        counts = Counter(category.name for category in classes).most_common()
        listed = ", ".join(f"{count} {name}" for name, count in counts)
        drawn.append((f"{sample.path.name[:24]}: {listed or 'no object'}", picture))
    if not drawn:
        raise DataError(f"{data.folder}: none of the images can be read; see panodetr data check")
    across = math.ceil(math.sqrt(len(drawn)))
    return lay_out([drawn[first : first + across] for first in range(0, len(drawn), across)])


def draw_truth(
    pixels: NDArray[np.uint8],
    classes: Sequence[Category],
    places: NDArray[np.int16] | None,
    boxes: NDArray[np.float32] | None,
    categories: Sequence[Category],
) -> Image.Image:
    """Draw N objects over an image (H, W, 3).

    Args:
        pixels: the image.
        classes: of the objects, (N,).
        places: (H, W), 1 + the place of each pixel's object, 0 where is none; None draws boxes.
        boxes: (N, 4) x0, y0, x1, y1 in pixels, where there are no places.
        categories: all of them, for their colours.
    """
    if places is None:
        assert boxes is not None
        found = [
            Detection(label=c.name, category_id=c.id, score=1.0, box=(x0, y0, x1, y1))
            for c, (x0, y0, x1, y1) in zip(classes, boxes.tolist(), strict=True)
        ]
        return draw_objects(pixels, found, categories, scores=False)
    areas = np.bincount(places.ravel(), minlength=len(classes) + 1).tolist()
    segments = [
        Segment(
            id=place, label=c.name, category_id=c.id, is_thing=c.is_thing, score=1.0,
            box=(0, 0, 0, 0), area=areas[place],
        )
        for place, c in enumerate(classes, start=1)
        if areas[place]
    ]  # fmt: skip
    return draw_segments(pixels, places.astype(np.int32), segments, categories, scores=False)


def lay_out(rows: Sequence[Sequence[Captioned]]) -> Image.Image:
    """Lay images out in rows, on white, each below its caption."""
    heights = [max(picture.height for _, picture in row) for row in rows]
    width = max(sum(picture.width + _GAP for _, picture in row) for row in rows) - _GAP
    font = ImageFont.load_default(max(12, width // 80))
    line = round(sum(font.getbbox("Åg")[1::2])) + _GAP // 2
    sheet = Image.new("RGB", (width, sum(heights) + (line + _GAP) * len(rows) - _GAP), "white")
    y = 0
    for row, tall in zip(rows, heights, strict=True):
        x = 0
        for caption, picture in row:
            strip = Image.new("RGB", (picture.width, line), "white")  # cuts a long caption off
            text = caption.encode("ascii", "replace").decode()
            ImageDraw.Draw(strip).text((2, 0), text, font=font, fill="black")
            sheet.paste(strip, (x, y))
            sheet.paste(picture, (x, y + line))
            x += picture.width + _GAP
        y += line + tall + _GAP
    return sheet
