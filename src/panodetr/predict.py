"""From images to results: read, resize or tile, run, decode. This is what a user calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, overload

import numpy as np

from panodetr.errors import CheckpointError, UsageError
from panodetr.images.read import is_one_image
from panodetr.images.views import BATCH_PIXELS, read_tiled, view_batches
from panodetr.results.candidates import TileCandidates, join_candidates
from panodetr.results.decode import decode_detections
from panodetr.results.masks import paint_instances
from panodetr.results.panoptic import (
    drop_duplicates,
    keep_largest_component,
    keep_queries,
    merge_masks,
)
from panodetr.results.result import (
    DetectionResult,
    PanopticResult,
    name_detections,
    name_segments,
)
from panodetr.results.semantic import classify_pixels
from panodetr.results.tiles import join_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.images.read import ImageSource
    from panodetr.images.views import TiledImage, View
    from panodetr.results.panoptic import ClassSegment
    from panodetr.results.types import Box, Candidates, Category
    from panodetr.runtimes.base import Found, Runtime

    KeptQueries: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]
    ViewSegments: TypeAlias = tuple[NDArray[np.int32], list[ClassSegment]]
    TileResult: TypeAlias = tuple[Box, NDArray[np.int32], list[ClassSegment]]

Task = Literal["panoptic", "instances", "semantic"]
"""What a segmentation tells apart: objects and regions, objects alone, or classes alone."""

TASKS: tuple[Task, ...] = ("panoptic", "instances", "semantic")

DETECTION_THRESHOLD = 0.5
"""Least score of a detected object, unless the caller says otherwise."""

Result = TypeVar("Result")


class Predictor:
    """A model with everything around it: what an image must look like, and what the answers mean.

    A list of images gives what its images give one at a time: only images and tiles of equal size
    share a batch, so none is ever padded.
    """

    def __init__(self, spec: ModelSpec, runtime: Runtime) -> None:
        self.spec = spec
        self.runtime = runtime
        self._by_index: dict[int, Category] = {c.index: c for c in spec.categories}
        classes = range(spec.architecture.num_classes)
        self._named = np.array([i in self._by_index for i in classes])
        self._is_thing = np.array(
            [i in self._by_index and self._by_index[i].is_thing for i in classes]
        )

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that the model tells apart."""
        return self.spec.categories

    @overload
    def segment(
        self, image: ImageSource, *, threshold: float | None = None, task: Task = "panoptic"
    ) -> PanopticResult: ...

    @overload
    def segment(
        self,
        image: Sequence[ImageSource],
        *,
        threshold: float | None = None,
        task: Task = "panoptic",
    ) -> list[PanopticResult]: ...

    def segment(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
        task: Task = "panoptic",
    ) -> PanopticResult | list[PanopticResult]:
        """Find every segment of one image, or of each image of a list.

        Args:
            image: a path, bytes, a file object, a PIL image, an array or a tensor
                (`panodetr.images.read.ImageSource`), or a list of these.
            threshold: least score of a segment, 0 to 1; None takes the model's own.
            task: "panoptic" gives every pixel to one object or region, as the paper does;
                "instances" finds things alone, each where its own mask is, and leaves the rest
                empty; "semantic" gives every pixel a class, one segment a class, and has no
                threshold.

        Raises:
            ImageError: an image cannot be read; a `TypeError`, too, for other objects.
            UsageError: the threshold is not from 0 to 1, or there is none for this task, or there
                is no such task.
            CheckpointError: the model has no mask head.
        """
        if is_one_image(image):
            return next(self.segment_each([image], threshold=threshold, task=task))
        return list(self.segment_each(image, threshold=threshold, task=task))

    def segment_each(
        self,
        images: Iterable[ImageSource],
        *,
        threshold: float | None = None,
        task: Task = "panoptic",
    ) -> Iterator[PanopticResult]:
        """Segment images as `segment` does, in their order, reading only a few ahead."""
        if task not in TASKS:
            raise UsageError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
        if task == "semantic" and threshold is not None:
            raise UsageError("a semantic segmentation has no threshold: every pixel gets a class")
        self._need_masks()
        least = _checked(self.spec.threshold if threshold is None else threshold)
        yield from self._each(images, lambda read: self._segment(read, least, task))

    @overload
    def detect(
        self, image: ImageSource, *, threshold: float = DETECTION_THRESHOLD, masks: bool = False
    ) -> DetectionResult: ...

    @overload
    def detect(
        self,
        image: Sequence[ImageSource],
        *,
        threshold: float = DETECTION_THRESHOLD,
        masks: bool = False,
    ) -> list[DetectionResult]: ...

    def detect(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float = DETECTION_THRESHOLD,
        masks: bool = False,
    ) -> DetectionResult | list[DetectionResult]:
        """Find the objects of one image, or of each image of a list, as boxes.

        Things only: a box says little of a region such as the sky. An object that several tiles of
        the image have found is given once (`panodetr.results.repeats.drop_repeats`), and one that
        several queries have found where the model's `duplicate_iou` says so.

        Args:
            image: a path, bytes, a file object, a PIL image, an array or a tensor
                (`panodetr.images.read.ImageSource`), or a list of these.
            threshold: scores up to and including it are dropped.
            masks: whether each object gets its mask, too.

        Raises:
            ImageError: an image cannot be read; a `TypeError`, too, for other objects.
            UsageError: the threshold is not from 0 to 1.
            CheckpointError: masks are asked for, and the model has no mask head.
        """
        if is_one_image(image):
            return next(self.detect_each([image], threshold=threshold, masks=masks))
        return list(self.detect_each(image, threshold=threshold, masks=masks))

    def detect_each(
        self,
        images: Iterable[ImageSource],
        *,
        threshold: float = DETECTION_THRESHOLD,
        masks: bool = False,
    ) -> Iterator[DetectionResult]:
        """Detect as `detect` does, image by image in their order, reading only a few ahead."""
        if masks:
            self._need_masks()
        least = _checked(threshold)
        yield from self._each(
            images,
            lambda read: [
                DetectionResult(
                    detections=name_detections(found, self.categories),
                    image=image.pixels,
                    source=image.source,
                    categories=self.categories,
                )
                for image, found in zip(read, self._candidates(read, least, masks), strict=True)
            ],
        )

    def candidates_each(
        self, images: Iterable[ImageSource], *, masks: bool = False
    ) -> Iterator[Candidates]:
        """Give every query's best class and box, image by image: what average precision ranks.

        As in the original's evaluation no query is left out, and stuff is in as well.

        Raises:
            ImageError: an image cannot be read.
            CheckpointError: masks are asked for, and the model has no mask head.
        """
        if masks:
            self._need_masks()
        yield from self._each(images, lambda read: self._candidates(read, None, masks))

    def answer_each(
        self,
        images: Iterable[ImageSource],
        *,
        masks: bool = True,
        threshold: float | None = None,
        least_score: float | None = None,
    ) -> Iterator[tuple[PanopticResult, Candidates]]:
        """Segment as `segment_each` does, with the candidates of the same run of the network.

        Args:
            images: as there.
            masks: whether each candidate gets its mask, too.
            threshold: least score of a segment; None takes the model's own.
            least_score: above which a query is a candidate, if it is a thing; None takes all, stuff
                as well. Most queries score next to nothing, and a mask costs as much for them.

        Raises:
            ImageError: an image cannot be read; a `TypeError`, too, for other objects.
            UsageError: the threshold is not from 0 to 1.
            CheckpointError: the model has no mask head.
        """
        self._need_masks()
        least = _checked(self.spec.threshold if threshold is None else threshold)
        yield from self._each(images, lambda read: self._answers(read, least, masks, least_score))

    def _need_masks(self) -> None:
        if not self.spec.architecture.masks:
            raise CheckpointError(
                f"model {self.spec.name} has no mask head, it finds boxes only; "
                "use a panoptic model"
            )

    def _each(
        self,
        images: Iterable[ImageSource],
        run: Callable[[list[TiledImage]], list[Result]],
    ) -> Iterator[Result]:
        """Run on images in their order, as many at a time as fit a batch."""
        waiting: list[TiledImage] = []
        for image in images:
            waiting.append(read_tiled(image, self.spec.preprocessing))
            if sum(math.prod(read.size) for read in waiting) >= BATCH_PIXELS:
                yield from run(waiting)
                waiting = []
            else:  # the next image may come in this one's PIL image, as frames of a file do
                waiting[-1] = waiting[-1].kept()
        yield from run(waiting)

    def _found(self, images: list[TiledImage]) -> Iterator[tuple[list[View], Found]]:
        """Run all views of some images, those of one size together."""
        rule = self.spec.preprocessing
        for views in view_batches(images, rule):
            yield views, self.runtime.detect(np.stack([view.pixels for view in views]), None)

    def _segment(
        self, images: list[TiledImage], threshold: float, task: Task
    ) -> list[PanopticResult]:
        """Segment all views, and put each image together."""
        parts: list[list[TileResult]] = [[] for _ in images]
        for views, found in self._found(images):
            if task == "semantic":
                segmented = self._classified(views, found)
            else:
                segmented = self._merged(views, self._kept(found, threshold, task), task)
                del found  # features are the most that is held: nothing needs them any more
            for view, (segment_ids, segments) in zip(views, segmented, strict=True):
                parts[view.image].append((view.box, segment_ids, segments))
        return [self._panoptic_result(*one) for one in zip(images, parts, strict=True)]

    def _kept(self, found: Found, threshold: float, task: Task) -> list[KeptQueries]:
        """Masks, scores and classes in each view, only of the queries that can become segments."""
        kept = [keep_queries(logits, threshold, self._named) for logits in found.logits]
        if task == "instances":
            things = [self._is_thing[classes] for _, _, classes in kept]
            kept = [
                (queries[of], scores[of], classes[of])
                for of, (queries, scores, classes) in zip(things, kept, strict=True)
            ]
        masks = _masks(found, [queries for queries, _, _ in kept])
        return [
            (own, scores, classes) for own, (_, scores, classes) in zip(masks, kept, strict=True)
        ]

    def _merged(
        self, views: list[View], kept: list[KeptQueries], task: Task
    ) -> Iterator[ViewSegments]:
        """Segment ids and segments of each view."""
        for view, (own, scores, classes) in zip(views, kept, strict=True):
            if self.spec.duplicate_iou is not None:
                one_each = drop_duplicates(own, scores, classes, self.spec.duplicate_iou)
                own, scores, classes = own[one_each], scores[one_each], classes[one_each]
            if task == "instances":
                merged = paint_instances(own, scores, classes, view.size, view.tile_size)
            else:
                sizes = view.size, view.tile_size
                merged = merge_masks(own, scores, classes, self._is_thing, *sizes)
            yield keep_largest_component(*merged) if self.spec.single_component else merged

    def _classified(self, views: list[View], found: Found) -> Iterator[ViewSegments]:
        """One segment a class in each view, from the masks of all queries."""
        for number, view in enumerate(views):
            every = np.arange(found.logits.shape[1])
            masks = found.masks(np.full_like(every, number), every)
            yield classify_pixels(found.logits[number], masks, self._named, view.tile_size)

    def _panoptic_result(self, image: TiledImage, tiles: list[TileResult]) -> PanopticResult:
        """The segments of an image, named."""
        if len(tiles) == 1:
            _, segment_ids, found = tiles[0]
        else:
            segment_ids, found = join_tiles(tiles, image.size)
        return PanopticResult(
            segments=name_segments(found, self._by_index),
            segment_ids=segment_ids,
            image=image.pixels,
            source=image.source,
            categories=self.spec.categories,
        )

    def _candidates(
        self, images: list[TiledImage], threshold: float | None, masks: bool
    ) -> list[Candidates]:
        """Every query of each image; above a threshold, if there is one, and then things only."""
        parts: list[list[TileCandidates]] = [[] for _ in images]
        for views, found in self._found(images):
            for view, own in zip(views, self._decoded(views, found, threshold, masks), strict=True):
                parts[view.image].append(own)
        # Average precision counts duplicates against the model: only what is shown goes without.
        duplicate_iou = None if threshold is None else self.spec.duplicate_iou
        return [
            join_candidates(tiles, image.size, self._by_index, duplicate_iou)
            for image, tiles in zip(images, parts, strict=True)
        ]

    def _answers(
        self,
        images: list[TiledImage],
        threshold: float,
        masks: bool,
        least_score: float | None,
    ) -> list[tuple[PanopticResult, Candidates]]:
        """Both from one run of each view, of which no more than a batch is kept."""
        tiles: list[list[TileResult]] = [[] for _ in images]
        parts: list[list[TileCandidates]] = [[] for _ in images]
        for views, found in self._found(images):
            merged = self._merged(views, self._kept(found, threshold, "panoptic"), "panoptic")
            decoded = self._decoded(views, found, least_score, masks)
            for view, segmented, own in zip(views, merged, decoded, strict=True):
                tiles[view.image].append((view.box, *segmented))
                parts[view.image].append(own)
        return [
            (
                self._panoptic_result(image, tiles[number]),
                join_candidates(parts[number], image.size, self._by_index),
            )
            for number, image in enumerate(images)
        ]

    def _decoded(
        self, views: list[View], found: Found, threshold: float | None, masks: bool
    ) -> Iterator[TileCandidates]:
        """The queries of each view, with the class, the box and the mask that they stand for."""
        decoded = [
            decode_detections(logits, boxes, view.tile_size, self._named)
            for logits, boxes, view in zip(found.logits, found.boxes, views, strict=True)
        ]
        kept = [
            np.arange(len(scores))
            if threshold is None
            else np.flatnonzero((scores > threshold) & self._is_thing[classes])
            for scores, classes, _ in decoded
        ]
        own = _masks(found, kept) if masks else [None] * len(views)
        for number, (view, queries) in enumerate(zip(views, kept, strict=True)):
            scores, classes, boxes = decoded[number]
            yield TileCandidates(
                tile=view.box,
                processed_size=view.size,
                scores=scores[queries],
                classes=classes[queries],
                boxes=boxes[queries],
                masks=own[number],
            )


def _masks(found: Found, queries: list[NDArray[np.intp]]) -> list[NDArray[np.float32]]:
    """Mask logits (N, h, w) of some queries (N,) of each image of a batch, computed together."""
    counts = [len(chosen) for chosen in queries]
    image = np.repeat(np.arange(len(queries)), counts)
    return np.split(found.masks(image, np.concatenate(queries)), np.cumsum(counts)[:-1])


def _checked(threshold: float) -> float:
    """Give the threshold back.

    Raises:
        UsageError: it is not from 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold}; expected a score from 0 to 1")
    return threshold
