"""Pictures of a run: what the model is fed, and what it makes of images that it doesn't learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.data.augment import View
from panodetr.data.dataset import read_objects
from panodetr.data.targets import view_target
from panodetr.files import atomic_write
from panodetr.images.read import read_image
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Detection, Segment
from panodetr.training.step import number_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    rule, targets = spec.preprocessing, batch.targets
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (rule.mean, rule.std))
    by_index = {category.index: category for category in spec.categories}
    drawn: list[_Drawn] = []
    first = 0
    for number, count in enumerate(targets.counts[:IMAGES]):
        pixels = batch.pixels[number].cpu().numpy() * std + mean  # 3, H, W
        pixels = (pixels.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)  # H, W, 3
        real = np.ones(pixels.shape[:2], np.bool_)
        if batch.padding is not None:
            real = ~batch.padding[number].cpu().numpy()
        size = [real[0].sum(), real[:, 0].sum()] * 2  # width, height, width, height
        own = slice(first, first + count)
        places = None if targets.index_map is None else targets.index_map[number].cpu().numpy()
        picture = _draw_objects(
            np.where(real[..., None], pixels, np.uint8(_PADDING)),
            [by_index[index] for index in targets.classes[own].tolist()],
            places,
            cxcywh_to_xyxy(targets.boxes[own]).cpu().numpy() * np.array(size),
            spec.categories,
        )
        drawn.append((f"image {batch.image_ids[number]}: {count} to learn", picture))
        first += count
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
    paths = [image.source for image in images]
    with_masks = predictor.spec.architecture.masks
    rows: list[list[_Drawn]] = []
    results = predictor.segment(paths) if with_masks else predictor.detect(paths)
    for image, result in zip(images, results, strict=True):
        found = result.segments if isinstance(result, PanopticResult) else result.detections
        caption = f"{image.path.name}, predicted: {len(found)}"
        true = _draw_truth(image, truth, predictor.categories, with_masks=with_masks)
        rows.append([(caption, result.draw()), true])
    return _grid(rows)


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture; raises a PanodetrError if the system refuses."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary)


def _draw_truth(
    image: GroundTruthImage, truth: GroundTruth, categories: Sequence[Category], *, with_masks: bool
) -> _Drawn:
    """Draw what is true of an image, in the form that the model answers in."""
    with_masks = with_masks and bool(truth.segment_categories)
    sample = (with_masks and image.panoptic) or image.instances or image.panoptic
    assert sample is not None
    drawn = truth.segment_categories if with_masks else truth.object_categories
    every = (*truth.segment_categories, *truth.object_categories)
    objects = read_objects(sample, {c.id: c.id for c in every}, with_masks=with_masks)
    target = view_target(objects, View(window=(0, 0, *image.size), size=image.size))
    by_id = {c.id: c for c in categories if c.id in {category.id for category in drawn}}
    kept = [place for place, number in enumerate(target.classes.tolist()) if number in by_id]
    places = None
    if with_masks and target.ids is not None:
        places = number_pixels(target.segment_ids[kept], target.ids)
    picture = _draw_objects(
        read_image(image.source),
        [by_id[number] for number in target.classes[kept].tolist()],
        places,
        target.boxes[kept],
        categories,
    )
    return f"true: {len(kept)}", picture


def _draw_objects(
    pixels: NDArray[np.uint8],
    found: Sequence[Category],
    places: NDArray[np.int16] | None,
    boxes: NDArray[np.float32],
    categories: Sequence[Category],
) -> NDArray[np.uint8]:
    """Draw N objects: by 1 + their place at each pixel (H, W), or by boxes (N, 4) in pixels."""
    if places is None:
        result = DetectionResult(
            detections=tuple(
                Detection(label=c.name, category_id=c.id, score=1.0, box=(x0, y0, x1, y1))
                for c, (x0, y0, x1, y1) in zip(found, boxes.tolist(), strict=True)
            ),
            image=pixels,
            source=None,
            categories=tuple(categories),
        )
        return result.draw(scores=False)
    areas = np.bincount(places.ravel(), minlength=len(found) + 1).tolist()
    result = PanopticResult(
        segments=tuple(
            Segment(
                id=place, label=c.name, category_id=c.id, is_thing=c.is_thing, score=1.0,
                box=(0, 0, 0, 0), area=areas[place],
            )
            for place, c in enumerate(found, start=1)
        ),
        segment_ids=places.astype(np.int32),
        image=pixels,
        source=None,
        categories=tuple(categories),
    )  # fmt: skip
    return result.draw(scores=False)


def _grid(laid: Sequence[Sequence[_Drawn]]) -> NDArray[np.uint8]:
    """Lay pictures out in rows, on white, each below its caption."""
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
