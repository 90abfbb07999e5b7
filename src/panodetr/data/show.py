"""A contact sheet of a data set: images with their ground truth drawn over them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panodetr.data.dataset import read_objects
from panodetr.data.samples import read_sample
from panodetr.errors import DataError, ImageError
from panodetr.results.draw import draw_objects, draw_segments
from panodetr.results.types import Detection, Segment

if TYPE_CHECKING:
    from panodetr.data.dataset import Dataset
    from panodetr.data.samples import AnySample

SIDE = 384
"""Of a cell of the sheet, in pixels."""

_GAP, _CAPTION = 8, 18


def draw_sheet(data: Dataset, count: int) -> Image.Image:
    """Draw images that lie evenly apart in a data set, with their objects.

    Args:
        data: the data set.
        count: how many images at most.

    Raises:
        DataError: none of these images can be read.
    """
    step = max(1, math.ceil(len(data.samples) / count))
    drawn: list[tuple[str, Image.Image]] = []
    for sample in data.samples[::step]:
        try:
            objects, picture = _draw(data, sample)
        except (DataError, ImageError):
            continue
        picture.thumbnail((SIDE, SIDE))
        drawn.append((f"{sample.path.name}: {objects}", picture))
    if not drawn:
        raise DataError(f"{data.folder}: none of the images can be read; see panodetr data check")
    across = math.ceil(math.sqrt(len(drawn)))
    cell = SIDE + _GAP, SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (across * cell[0], math.ceil(len(drawn) / across) * cell[1]), "white")
    canvas = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for place, (caption, picture) in enumerate(drawn):
        x, y = place % across * cell[0], place // across * cell[1]
        canvas.text(
            (x + 2, y), caption.encode("ascii", "replace").decode(), font=font, fill="black"
        )
        sheet.paste(picture, (x, y + _CAPTION))
    return sheet


def _draw(data: Dataset, sample: AnySample) -> tuple[int, Image.Image]:
    """Draw an image with its objects; give how many there are, too."""
    pixels = read_sample(sample)
    objects = read_objects(sample, data.index_of, with_masks=data.has_masks)
    classes = [data.categories[index] for index in objects.classes.tolist()]
    if objects.ids is None:
        assert objects.boxes is not None
        found = [
            Detection(label=c.name, category_id=c.id, score=1.0, box=(x0, y0, x1, y1))
            for c, (x0, y0, x1, y1) in zip(classes, objects.boxes.tolist(), strict=True)
        ]
        return len(found), draw_objects(pixels, found, data.categories, scores=False)
    ids = np.zeros(sample.size, np.int32)  # with small numbers: drawing keeps a table of them
    segments: list[Segment] = []
    for place, (number, c) in enumerate(zip(objects.segment_ids, classes, strict=True), start=1):
        rows, columns = np.nonzero(objects.ids == number)
        if rows.size:
            ids[rows, columns] = place
            box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            segments.append(
                Segment(
                    id=place,
                    label=c.name,
                    category_id=c.id,
                    is_thing=c.is_thing,
                    score=1.0,
                    box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                    area=int(rows.size),
                )
            )
    return len(segments), draw_segments(pixels, ids, segments, data.categories, scores=False)
