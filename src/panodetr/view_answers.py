"""From what the network gives for views to candidates and segments of each, in image pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.views import TiledImage, View
from panodetr.results.decode import best_classes, drop_duplicates, keep_queries, scale_boxes
from panodetr.results.masks import Masks, NumpyMasks, mask_boxes
from panodetr.results.panoptic import (
    SegmentMap,
    classify_pixels,
    keep_largest_component,
    merge_weighted,
    paint_instances,
    start_merge,
)
from panodetr.results.types import Candidates, CoarseMask, Task
from panodetr.runtimes.base import Prediction

Kept: TypeAlias = tuple[NDArray[np.float32], Masks, NDArray[np.float32], NDArray[np.intp]]
"""All logits (Q, C + 1) of a view; masks, scores and classes (N,) of the queries to segment."""

ANY_MASK = NumpyMasks(np.zeros((1, 1, 1), np.float32))
"""Stands for a mask that need not be computed."""


class ViewAnswers:
    """What a model's outputs mean, view by view.

    Attributes:
        spec: of the model.
        mask_threshold: probability from which a mask is likely, for models with an `overlap`.
    """

    def __init__(self, spec: ModelSpec, mask_threshold: float) -> None:
        self.spec = spec
        self.mask_threshold = mask_threshold
        self._by_index = {category.index: category for category in spec.categories}
        count = spec.architecture.num_classes
        self._named, self._is_thing = np.zeros((2, count), np.bool_)
        self._ids = np.full(count, -1, np.int64)
        for index, category in self._by_index.items():
            self._named[index], self._is_thing[index] = True, category.is_thing
            self._ids[index] = category.id

    def keep(
        self, views: list[View], prediction: Prediction, threshold: float, task: Task | None
    ) -> list[Kept]:
        """Compute the masks of each view, only of the queries that can become segments."""
        if task is None:
            return []
        chosen: list[NDArray[np.intp]] = []
        found: list[tuple[NDArray[np.float32], NDArray[np.intp]]] = []
        for logits in prediction.logits:
            queries, scores, classes = keep_queries(logits, threshold, self._named)
            if task == "semantic":  # every query has its part in every class
                queries = np.arange(len(logits))
            elif task == "instances":
                things = self._is_thing[classes]
                queries, scores, classes = queries[things], scores[things], classes[things]
            chosen.append(queries)
            found.append((scores, classes))
        # A query alone gets every pixel, whatever its mask: so in most tiles of a sparse image.
        every_pixel = task == "panoptic" and self.spec.overlap is None
        alone = [every_pixel and len(own) == 1 for own in chosen]
        asked = [own[:0] if one else own for own, one in zip(chosen, alone, strict=True)]
        masks = _masks_of(views, prediction, asked)
        masks = [ANY_MASK if one else own for own, one in zip(masks, alone, strict=True)]
        kept = zip(prediction.logits, masks, found, strict=True)
        return [(logits, own, *best) for logits, own, best in kept]

    def begin(self, view: View, kept: Kept, task: Task | None) -> Callable[[], SegmentMap]:
        """Begin to find segment ids and segments of a view, in pixels of the image."""
        logits, masks, scores, classes = kept
        if task == "semantic":
            return partial(classify_pixels, masks, logits, self.spec.categories, view.tile_size)
        if self.spec.duplicate_iou is not None:
            own = drop_duplicates(masks.logits(), scores, classes, self.spec.duplicate_iou)
            masks, scores, classes = masks.choose(own), scores[own], classes[own]
        categories = [self._by_index[index] for index in classes.tolist()]
        given = masks, scores, categories, view.size, view.tile_size
        if task == "instances":
            merge = partial(paint_instances, *given)
        elif self.spec.overlap is not None:
            merge = partial(merge_weighted, *given, self.spec.overlap, self.mask_threshold)
        else:
            merge = start_merge(*given)
        single = self.spec.single_component
        return lambda: keep_largest_component(*merge()) if single else merge()

    def candidates(
        self,
        images: list[TiledImage],
        views: list[View],
        prediction: Prediction,
        threshold: float | None,
        *,
        masks: bool,
    ) -> list[list[Candidates]]:
        """Give the queries of each view's places: above a threshold, if any, and then things."""
        best = [best_classes(logits, self._named) for logits in prediction.logits]
        kept: list[NDArray[np.intp]] = []
        for scores, classes in best:
            wanted = True if threshold is None else (scores > threshold) & self._is_thing[classes]
            kept.append(np.flatnonzero(np.broadcast_to(wanted, scores.shape)))
        found = None
        if masks or prediction.boxes is None:
            found = _masks_of(views, prediction, kept)
        candidates: list[list[Candidates]] = []
        for number, (view, (scores, classes)) in enumerate(zip(views, best, strict=True)):
            queries = kept[number]
            if prediction.boxes is not None:
                boxes = prediction.boxes[number, queries]
            else:  # where the masks are; a query whose mask is empty has found nothing
                assert found is not None
                boxes = mask_boxes(found[number], view.size)
                seen = np.flatnonzero(boxes[:, 2] > 0)
                found[number] = found[number].choose(seen)
                queries, boxes = queries[seen], boxes[seen]
            logits = found[number].logits() if masks and found is not None else ()
            corners = scale_boxes(boxes, view.tile_size)
            candidates.append([])
            for image, box in view.places:
                make = partial(
                    CoarseMask,
                    processed_size=view.size,
                    tile=box,
                    image_size=images[image].size,
                    canvas=None if view.canvas == view.size else view.canvas,
                )
                top, left, _, _ = box
                candidates[-1].append(
                    Candidates(
                        scores=scores[queries],
                        category_ids=self._ids[classes[queries]],
                        boxes=corners + np.array([left, top, left, top], np.float32),
                        image_size=images[image].size,
                        coarse_masks=tuple(make(logits=mask) for mask in logits),
                    )
                )
        return candidates


def _masks_of(
    views: list[View], prediction: Prediction, queries: list[NDArray[np.intp]]
) -> list[Masks]:
    """Compute masks of queries of each view, over its image alone."""
    found = prediction.masks(queries)
    return [
        masks if view.canvas == view.size else masks.within(view.canvas, view.size)
        for view, masks in zip(views, found, strict=True)
    ]
