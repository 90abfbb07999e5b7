"""Pictures of a run: what the model is fed, and what it makes of images that it doesn't learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import View
from panodetr.data.dataset import read_objects
from panodetr.data.show import Captioned, draw_truth, lay_out
from panodetr.data.targets import number_pixels, view_target
from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage
from panodetr.images.read import read_image
from panodetr.objective.targets import Batch
from panodetr.predict import Predictor
from panodetr.results.result import PanopticResult
from panodetr.results.types import Category

IMAGES = 4
"""More of them on one picture could not be seen."""

_PADDING = 110  # grey: neither a dark image nor a bright one ends so


def draw_batch(batch: Batch, spec: ModelSpec) -> Image.Image:
    """Draw the first images of a batch, augmented and padded as they are, with their objects."""
    rule, targets = spec.preprocessing, batch.targets
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (rule.mean, rule.std))
    by_index = {category.index: category for category in spec.categories}
    drawn: list[Captioned] = []
    first = 0
    for number, count in enumerate(targets.counts[:IMAGES]):
        pixels = batch.pixels[number].cpu().numpy() * std + mean  # 3, H, W
        pixels = (pixels.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)  # H, W, 3
        real = np.ones(pixels.shape[:2], np.bool_)
        if batch.padding is not None:
            real = ~batch.padding[number].cpu().numpy()
        size = [real[0].sum(), real[:, 0].sum()] * 2  # width, height, width, height
        own = slice(first, first + count)
        picture = draw_truth(
            np.where(real[..., None], pixels, np.uint8(_PADDING)),
            [by_index[index] for index in targets.classes[own].tolist()],
            None if targets.index_map is None else targets.index_map[number].cpu().numpy(),
            cxcywh_to_xyxy(targets.boxes[own]).cpu().numpy() * np.array(size),
            spec.categories,
        )
        drawn.append((f"image {batch.image_ids[number]}: {count} to learn", picture))
        first += count
    return lay_out([drawn])


def draw_validation(predictor: Predictor, truth: GroundTruth) -> Image.Image:
    """Draw predictions for the first images of a data set, and the ground truth on their right.

    Raises:
        ImageError: an image cannot be read.
        DataError: an id map cannot be read.
    """
    images = truth.images[:IMAGES]
    paths = [image.source for image in images]
    with_masks = predictor.spec.architecture.masks
    rows: list[list[Captioned]] = []
    results = predictor.segment(paths) if with_masks else predictor.detect(paths)
    for image, result in zip(images, results, strict=True):
        found = result.segments if isinstance(result, PanopticResult) else result.detections
        caption = f"{image.path.name}, predicted: {len(found)}"
        true = _draw_true(image, truth, predictor.categories, with_masks=with_masks)
        rows.append([(caption, Image.fromarray(result.draw())), true])
    return lay_out(rows)


def _draw_true(
    image: GroundTruthImage, truth: GroundTruth, categories: Sequence[Category], *, with_masks: bool
) -> Captioned:
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
    classes = [by_id[number] for number in target.classes[kept].tolist()]
    pixels = read_image(image.source)
    picture = draw_truth(pixels, classes, places, target.boxes[kept], categories)
    return f"true: {len(kept)}", picture
