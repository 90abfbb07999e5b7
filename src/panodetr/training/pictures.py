"""Pictures of a run: what the model is fed, and what it makes of images that it doesn't learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import panoptic_objects
from panodetr.evaluation.panoptic_quality import object_segments
from panodetr.images.read import read_image
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Detection, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage
    from panodetr.objective.targets import Batch
    from panodetr.predict import Predictor
    from panodetr.results.types import Category

IMAGES = 4
"""More of them on one picture could not be seen."""

_GAP = 8  # pixels between two images

_PADDING = 110  # grey: neither a dark image nor a bright one ends so

_Drawn: TypeAlias = "tuple[str, NDArray[np.uint8]]"
"""A caption, and the picture below it."""


def draw_batch(batch: Batch, spec: ModelSpec) -> NDArray[np.uint8]:
    """Draw the first images of a batch, augmented and padded as they are, with their objects.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rule = spec.preprocessing
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (rule.mean, rule.std))
    drawn: list[_Drawn] = []
    for number in range(min(IMAGES, len(batch.pixels))):
        pixels = batch.pixels[number].cpu().numpy() * std + mean  # 3, H, W
        pixels = (pixels.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)  # H, W, 3
        real = np.ones(pixels.shape[:2], np.bool_)
        if batch.padding is not None:
            real = ~batch.padding[number].cpu().numpy()
        shown = np.where(real[..., None], pixels, np.uint8(_PADDING))
        caption = f"image {batch.image_ids[number]}: {batch.targets.counts[number]} to learn"
        drawn.append((caption, _draw_target(batch, number, shown, real, spec.categories)))
    return _grid([drawn])


def draw_validation(predictor: Predictor, truth: GroundTruth) -> NDArray[np.uint8]:
    """Draw predictions for the first images of a data set, on the left, and the truth beside them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: an image cannot be read.
        DataError: an id map cannot be read.
    """
    images = truth.images[:IMAGES]
    paths = [image.path for image in images]
    with_masks = predictor.spec.architecture.masks
    found: list[_Drawn] = []
    if with_masks:
        for result in predictor.segment(paths):
            found.append((f"predicted: {len(result.segments)}", result.draw()))
    else:
        for result in predictor.detect(paths):
            found.append((f"predicted: {len(result.detections)}", result.draw()))
    return _grid(
        [
            (f"{image.path.name}, {caption}", answer),
            _draw_truth(image, truth, predictor.categories, with_masks=with_masks),
        ]
        for image, (caption, answer) in zip(images, found, strict=True)
    )


def _draw_target(
    batch: Batch,
    number: int,
    pixels: NDArray[np.uint8],
    real: NDArray[np.bool_],
    categories: Sequence[Category],
) -> NDArray[np.uint8]:
    """Draw one image of a batch with its objects: masks where there are any, else boxes."""
    targets = batch.targets
    first = sum(targets.counts[:number])
    own = slice(first, first + targets.counts[number])
    by_index = {category.index: category for category in categories}
    classes = [by_index[index] for index in targets.classes[own].tolist()]
    if targets.index_map is not None:
        ids = targets.index_map[number].cpu().numpy().astype(np.int32)
        pairs = list(enumerate(classes, start=1))
        return _draw_ids(pixels, ids, pairs, categories)
    size = np.array([*np.flatnonzero(real.any(0))[-1:], *np.flatnonzero(real.any(1))[-1:]] * 2) + 1
    boxes = cxcywh_to_xyxy(targets.boxes[own]).cpu().numpy() * size
    return _draw_boxes(pixels, zip(classes, boxes.tolist(), strict=True), categories)


def _draw_truth(
    image: GroundTruthImage, truth: GroundTruth, categories: Sequence[Category], *, with_masks: bool
) -> _Drawn:
    """Draw what is true of an image, in the form that the model answers in."""
    pixels = read_image(image.path)
    by_id = {category.id: category for category in categories}
    if with_masks and truth.segment_categories:
        if image.panoptic is not None:
            ids, segments = read_ids(image.panoptic), image.panoptic.segments
        else:
            assert image.instances is not None
            ids, segments = object_segments(image.instances)
        pairs = [(s.id, by_id[s.category_id]) for s in segments if s.category_id in by_id]
        return f"true: {len(pairs)}", _draw_ids(pixels, ids, pairs, categories)
    if image.instances is not None:
        objects = list(image.instances.objects)
    else:
        assert image.panoptic is not None
        things = {category.id for category in truth.object_categories}
        objects = panoptic_objects(image.panoptic, read_ids(image.panoptic), things)
    boxes = [
        (by_id[one["category_id"]], [x, y, x + width, y + height])
        for one in objects
        if one["category_id"] in by_id
        for x, y, width, height in [one["bbox"]]
    ]
    return f"true: {len(boxes)}", _draw_boxes(pixels, boxes, categories)


def _draw_ids(
    pixels: NDArray[np.uint8],
    ids: NDArray[np.int32],
    pairs: Iterable[tuple[int, Category]],
    categories: Sequence[Category],
) -> NDArray[np.uint8]:
    """Draw an id map, of which each pair says an id and what it is."""
    segments: list[Segment] = []
    shown = np.zeros(ids.shape, np.int32)  # with small ids: drawing keeps a table of them
    for place, (number, category) in enumerate(pairs, start=1):
        rows, columns = np.nonzero(ids == number)
        if rows.size:
            shown[rows, columns] = place
            y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            segments.append(
                Segment(
                    id=place,
                    label=category.name,
                    category_id=category.id,
                    is_thing=category.is_thing,
                    score=1.0,
                    box=(float(x0), float(y0), float(x1), float(y1)),
                    area=int(rows.size),
                )
            )
    result = PanopticResult(
        segments=tuple(segments),
        segment_ids=shown,
        image=pixels,
        source=None,
        categories=tuple(categories),
    )
    return result.draw(scores=False)


def _draw_boxes(
    pixels: NDArray[np.uint8],
    boxes: Iterable[tuple[Category, Sequence[float]]],
    categories: Sequence[Category],
) -> NDArray[np.uint8]:
    result = DetectionResult(
        detections=tuple(
            Detection(
                label=category.name,
                category_id=category.id,
                score=1.0,
                box=(box[0], box[1], box[2], box[3]),
            )
            for category, box in boxes
        ),
        image=pixels,
        source=None,
        categories=tuple(categories),
    )
    return result.draw(scores=False)


def _grid(rows: Iterable[Sequence[_Drawn]]) -> NDArray[np.uint8]:
    """Lay pictures out in rows, on white, each below its caption."""
    laid = list(rows)
    heights = [max(picture.shape[0] for _, picture in row) for row in laid]
    width = max(sum(picture.shape[1] + _GAP for _, picture in row) for row in laid) - _GAP
    font = ImageFont.load_default(max(12, width // 80))
    line = round(sum(font.getbbox("Åg")[1::2])) + _GAP // 2
    height = sum(heights) + (line + _GAP) * len(laid) - _GAP
    sheet = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(sheet)
    y = 0
    for row, tall in zip(laid, heights, strict=True):
        x = 0
        for caption, picture in row:
            canvas.text((x + 2, y), caption, font=font, fill="black")
            sheet.paste(Image.fromarray(picture), (x, y + line))
            x += picture.shape[1] + _GAP
        y += line + tall + _GAP
    return np.asarray(sheet)
