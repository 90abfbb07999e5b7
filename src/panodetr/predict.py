"""From images to results: read, resize or tile, run, decode. This is what a user calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, ImageError, UsageError, preview
from panodetr.images.preprocess import Preprocessing, resize
from panodetr.images.read import ImageSource, is_one_image
from panodetr.images.sources import Source, open_images
from panodetr.images.views import (
    Batch,
    Batching,
    Refused,
    TiledImage,
    View,
    most_streams,
    processed_size,
    warn,
)
from panodetr.results.decode import (
    best_classes,
    cut_borders,
    drop_duplicates,
    keep_queries,
    scale_boxes,
)
from panodetr.results.masks import Masks, NumpyMasks, mask_boxes
from panodetr.results.panoptic import (
    SegmentMap,
    classify_pixels,
    keep_largest_component,
    merge_masks,
    merge_weighted,
    paint_instances,
)
from panodetr.results.result import DetectionResult, PanopticResult, name_detections
from panodetr.results.tiles import Tile, join_candidates, join_tiles
from panodetr.results.types import TASKS, Box, Candidates, Category, CoarseMask, Segment, Task
from panodetr.runtimes.base import DeviceRuntime, Prediction, Runtime
from panodetr.threads import stop_if_cancelled

_Answer: TypeAlias = tuple[list[Candidates] | None, SegmentMap | None]
"""Of a view: candidates of each of its places, and its segments, if they are asked for."""

_Kept: TypeAlias = tuple[NDArray[np.float32], Masks, NDArray[np.float32], NDArray[np.intp]]
"""All logits (Q, C + 1) of a view; masks, scores and classes (N,) of the queries to segment."""

Refuse: TypeAlias = Callable[[ImageSource, ImageError], None]
"""Called with an image that cannot be read, and why."""

ManyImages: TypeAlias = str | os.PathLike[str] | Iterable[ImageSource | Source]
"""Images, and what holds images; or one of the latter."""

SURE = 0.8
"""Score from which a find counts for warnings: of a low threshold most finds are none."""

NEARLY_ALL = 0.9
"""Part of the queries that have found something, from which there may be more to find."""

_ANY_MASK = NumpyMasks(np.zeros((1, 1, 1), np.float32))
"""Stands for a mask that need not be computed."""

DETECTION_THRESHOLD = 0.5
"""Least score of a detected object, unless the caller says otherwise."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked for of each image.

    Attributes:
        task: of a segmentation; None makes no segments.
        threshold: least score of a segment; None takes the model's own.
        candidates: whether there are candidates.
        least_score: above which a query is a candidate, or each class's own (C,), if it is a thing;
            None takes all, stuff as well.
        masks: whether each candidate gets its mask.
    """

    task: Task | None = None
    threshold: float | None = None
    candidates: bool = False
    least_score: float | NDArray[np.float32] | None = None
    masks: bool = False


class Predictor:
    """A model with everything around it: what an image must look like, and what the answers mean.

    A list of images gives what its images give one at a time: only images and tiles of equal size
    share a batch, so none is ever padded.

    Attributes:
        spec: of the model.
        runtime: what runs it.
        batching: how many images or tiles run together, and how large an image may be.
        on_tiles: called after each batch with how many tiles of the images at hand are done, and
            how many these have; None calls nothing.
    """

    def __init__(
        self,
        spec: ModelSpec,
        runtime: Runtime,
        batching: Batching | None = None,
        *,
        mask_threshold: float = 0.5,
    ) -> None:
        self.spec = spec
        self.runtime = runtime
        self.batching = Batching() if batching is None else batching
        self._decoder = _Decoder(spec, mask_threshold)
        self.on_tiles: Callable[[int, int], None] | None = None

    def __repr__(self) -> str:
        return f"Predictor({self.spec.name}: {preview(c.name for c in self.categories)})"

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that the model tells apart."""
        return self.spec.categories

    def with_rule(self, rule: Preprocessing) -> Predictor:
        """Give the same model with another rule for its images, such as other tiles."""
        spec = replace(self.spec, preprocessing=rule)
        likely_from = self._decoder.mask_threshold
        return Predictor(spec, self.runtime, self.batching, mask_threshold=likely_from)

    def with_merge(self, *, mask_threshold: float = 0.5, overlap: float = 0.8) -> Predictor:
        """Give the same model with another way to merge the masks of a panoptic segmentation.

        The paper's merge gives each pixel to the highest mask. This one leaves pixels empty where
        no mask is likely, and drops segments that others mostly cover
        (`panodetr.results.panoptic.merge_weighted`, EoMT's rule).

        Args:
            mask_threshold: probability from which a mask is likely, 0 to 1.
            overlap: the least part of where its mask is likely that a segment must win, 0 to 1.

        Raises:
            UsageError: one of them is not from 0 to 1.
        """
        for name, given in (("mask_threshold", mask_threshold), ("overlap", overlap)):
            if not 0 <= given <= 1:
                raise UsageError(f"{name} is {given}; expected a number from 0 to 1")
        spec = replace(self.spec, overlap=overlap)
        return Predictor(spec, self.runtime, self.batching, mask_threshold=mask_threshold)

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
            return next(self._segment([image], threshold, task))
        return list(self._segment(image, threshold, task))

    def segment_each(
        self,
        images: ManyImages,
        *,
        threshold: float | None = None,
        task: Task = "panoptic",
        refuse: Refuse | None = None,
    ) -> Iterator[PanopticResult]:
        """Segment images as `segment` does, in their order, reading a few ahead in a thread.

        Args:
            images: images as there, and folders, patterns, URLs, archives, tables and videos; or
                one of these (`panodetr.images.sources.open_images`).
            threshold: as `segment`.
            task: as `segment`.
            refuse: called for an image that cannot be read, which is then skipped; None raises.

        Raises:
            PanodetrError: as `segment`, or a source of images cannot be read.
        """
        return self._segment(open_images(images), threshold, task, refuse)

    def _segment(
        self,
        images: Iterable[ImageSource],
        threshold: float | None,
        task: Task,
        refuse: Refuse | None = None,
    ) -> Iterator[PanopticResult]:
        if task not in TASKS:
            raise UsageError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
        if task == "semantic" and threshold is not None:
            raise UsageError("a semantic segmentation has no threshold: every pixel gets a class")
        asked = _Asked(task=task, threshold=threshold)
        for image, tiles, _ in self._run(images, asked, refuse):
            if task != "semantic":
                sure = [(box, _sure_boxes(box, found)) for box, _, found in tiles]
                self._warn_of_limits(image, sure)
            yield self._panoptic_result(image, tiles, task)

    @overload
    def detect(
        self, image: ImageSource, *, threshold: float | None = None, masks: bool = False
    ) -> DetectionResult: ...

    @overload
    def detect(
        self,
        image: Sequence[ImageSource],
        *,
        threshold: float | None = None,
        masks: bool = False,
    ) -> list[DetectionResult]: ...

    def detect(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
        masks: bool = False,
    ) -> DetectionResult | list[DetectionResult]:
        """Find the objects of one image, or of each image of a list, as boxes.

        Things only: a box says little of a region such as the sky. An object that several tiles of
        the image have found is given once (`panodetr.results.decode.suppress_non_maxima`), and one
        that several queries have found where the model's `duplicate_iou` says so.

        Args:
            image: a path, bytes, a file object, a PIL image, an array or a tensor
                (`panodetr.images.read.ImageSource`), or a list of these.
            threshold: scores up to and including it are dropped; None takes 0.5, or what was chosen
                for the model's classes.
            masks: whether each object gets its mask, too.

        Raises:
            ImageError: an image cannot be read; a `TypeError`, too, for other objects.
            UsageError: the threshold is not from 0 to 1.
            CheckpointError: masks are asked for, and the model has no mask head.
        """
        if is_one_image(image):
            return next(self._detect([image], threshold, masks=masks))
        return list(self._detect(image, threshold, masks=masks))

    def detect_each(
        self,
        images: ManyImages,
        *,
        threshold: float | None = None,
        masks: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[DetectionResult]:
        """Detect as `detect` does, image by image, with images and `refuse` as `segment_each`."""
        return self._detect(open_images(images), threshold, masks=masks, refuse=refuse)

    def _detect(
        self,
        images: Iterable[ImageSource],
        threshold: float | None,
        *,
        masks: bool,
        refuse: Refuse | None = None,
    ) -> Iterator[DetectionResult]:
        usual = self._decoder.thresholds(DETECTION_THRESHOLD)
        least = usual if threshold is None else threshold
        asked = _Asked(candidates=True, least_score=least, masks=masks)
        twice = self.spec.duplicate_iou
        for image, _, tiles in self._run(images, asked, refuse):
            own = [(tile[0], join_candidates([tile], image.size, twice)) for tile in tiles]
            self._warn_of_limits(image, [(box, f.boxes[f.scores >= SURE]) for box, f in own])
            found = join_candidates(tiles, image.size, twice)
            yield DetectionResult(
                detections=name_detections(found, self.categories),
                image=image.pixels,
                source=image.source,
                categories=self.categories,
            )

    def answer_each(
        self,
        images: Iterable[ImageSource],
        *,
        segments: bool = False,
        candidates: bool = True,
        masks: bool = False,
        threshold: float | None = None,
        least_score: float | None = None,
    ) -> Iterator[tuple[PanopticResult | None, Candidates | None]]:
        """Give what a model is measured by, image by image, each run through the network once.

        Candidates are every query's best class and box, which average precision ranks: as in the
        original's evaluation no query is left out, and stuff is in as well.

        Args:
            images: to read.
            segments: whether there is a panoptic result; else it is None.
            candidates: whether there are candidates; else they are None.
            masks: whether each candidate gets its mask, too.
            threshold: least score of a segment; None takes the model's own.
            least_score: above which a query is a candidate, if it is a thing; None takes all, stuff
                as well. Most queries score next to nothing, and a mask costs as much for them.

        Raises:
            ImageError: an image cannot be read; a `TypeError`, too, for other objects.
            UsageError: the threshold is not from 0 to 1.
            CheckpointError: segments or masks are asked for, and the model has no mask head.
        """
        asked = _Asked(
            task="panoptic" if segments else None,
            threshold=threshold,
            candidates=candidates,
            least_score=least_score,
            masks=masks,
        )
        for image, tiles, found in self._run(images, asked):
            # Average precision counts duplicates against the model: they stay.
            yield (
                self._panoptic_result(image, tiles) if segments else None,
                join_candidates(found, image.size) if candidates else None,
            )

    def _warn_of_limits(
        self, image: TiledImage, sure: Sequence[tuple[Box, NDArray[np.floating]]]
    ) -> None:
        """Warn of more objects than a tile's queries, and of objects larger than a tile.

        Args:
            image: which image.
            sure: its tiles, and the boxes (N, 4) of what was surely found there.
        """
        queries = self.spec.architecture.num_queries
        name, (y0, x0, y1, x1) = image.source or "the image", sure[0][0]
        side, seen = max(y1 - y0, x1 - x0), "a tile" if len(sure) > 1 else "it"
        most = max(len(boxes) for _, boxes in sure)
        if most >= NEARLY_ALL * queries:
            warn(
                f"{name}: {most} objects were found in {seen}, and the model has {queries} "
                f"queries, so it cannot find many more; take smaller tiles: --tiles {side // 2}"
            )
        cut = [cut_borders(boxes, np.array([box]), image.size) for box, boxes in sure]
        larger = sum(np.count_nonzero((c[:, :2] & c[:, 2:]).any(axis=1)) for c in cut)
        if larger:
            warn(
                f"{name}: {larger} objects reach across their whole tile of {x1 - x0}x{y1 - y0} "
                "pixels, and larger ones are found in parts or not at all; take larger tiles: "
                f"--tiles {2 * side}"
            )

    def _run(
        self, images: Iterable[ImageSource], asked: _Asked, refuse: Refuse | None = None
    ) -> Iterator[tuple[TiledImage, list[Tile], list[tuple[Box, Candidates]]]]:
        """Read images and run the network; give each with its tiles' segments and candidates."""
        if (asked.task is not None or asked.masks) and not self.spec.architecture.masks:
            raise CheckpointError(
                f"model {self.spec.name} has no mask head, it finds boxes only; "
                "use a panoptic model"
            )
        for given in (asked.threshold, asked.least_score):
            if isinstance(given, float | int) and not 0 <= given <= 1:
                raise UsageError(f"threshold is {given}; expected a score from 0 to 1")
        rule = self.spec.preprocessing

        def answer(work: Batch | Refused) -> list[_Answer]:
            if isinstance(work, Refused):
                return []
            return self.batching.run(work.views, partial(self._run_batch, work.images, asked))

        alone = isinstance(images, list) and len(images) == 1 and rule.tile is None
        with self.runtime.streams(1 if alone else most_streams(rule)) as streams:
            read = self.batching.read(
                images,
                rule,
                refused=refuse is not None,
                streams=streams.count,
                resized=not self._resizes,
                cell=self.runtime.cell if isinstance(self.runtime, DeviceRuntime) else None,
            )
            left, count = 0, 0
            tiles, parts = list[list[Tile]](), list[list[tuple[Box, Candidates]]]()
            for work, found in streams.map(answer, read):
                stop_if_cancelled()
                if isinstance(work, Refused):
                    assert refuse is not None  # else it was raised
                    refuse(*work)
                    continue
                if not left:
                    left = count = sum(len(image.tiles) for image in work.images)
                    tiles, parts = [[] for _ in work.images], [[] for _ in work.images]
                for view, (own, segments) in zip(work.views, found, strict=True):
                    for number, (image, box) in enumerate(view.places):
                        if own is not None:
                            parts[image].append((box, own[number]))
                        if segments is not None:
                            tiles[image].append((box, *segments))
                    left -= len(view.places)
                if self.on_tiles is not None:
                    self.on_tiles(count - left, count)
                if not left:
                    for own in (*tiles, *parts):
                        own.sort(key=itemgetter(0))  # those of one colour came together
                    yield from zip(work.images, tiles, parts, strict=True)

    def _run_batch(
        self, images: list[TiledImage], asked: _Asked, views: list[View]
    ) -> list[_Answer]:
        """Run the network on views of one size, and decode what it says of each."""
        prediction = self._run_network(images, views)
        candidates: list[list[Candidates]] = []
        if asked.candidates:
            candidates = self._decoder.candidates(images, views, prediction, asked)
        kept = self._decoder.keep(views, prediction, asked)  # nothing without a task
        del prediction  # it is the most that is held
        begun = [self._decoder.begin_merge(one, asked.task) for one in kept]
        return list(zip_longest(candidates, [finish() for finish in begun]))

    @property
    def _resizes(self) -> bool:
        """Whether the runtime resizes images, and not this."""
        resizes = isinstance(self.runtime, DeviceRuntime) and self.runtime.resizes
        return resizes and self.spec.preprocessing.multiple == 1

    def _run_network(self, images: list[TiledImage], views: list[View]) -> Prediction:
        runtime, rule, first = self.runtime, self.spec.preprocessing, views[0]
        if not isinstance(runtime, DeviceRuntime):
            return runtime.detect(np.stack([view.pixels for view in views]), None)
        if first.region is None:
            size = first.size if self._resizes else None
            return runtime.detect(np.stack([view.pixels for view in views]), None, size)
        y0, x0, y1, x1 = first.region
        pixels = images[first.image].pixels[y0:y1, x0:x1]
        whole = processed_size((y1 - y0, x1 - x0), rule)
        corners = [
            (round((view.box[0] - y0) * rule.enlarge), round((view.box[1] - x0) * rule.enlarge))
            for view in views
        ]
        if not self._resizes:
            pixels, whole = resize(pixels, whole), None
        return runtime.detect_tiles(pixels, corners, first.size, whole)

    def _panoptic_result(
        self, image: TiledImage, tiles: list[Tile], task: Task = "panoptic"
    ) -> PanopticResult:
        segment_ids, found = join_tiles(tiles, image.size, things_apart=task != "semantic")
        return PanopticResult(
            segments=tuple(found),
            segment_ids=segment_ids,
            image=image.pixels,
            source=image.source,
            categories=self.categories,
        )


def _sure_boxes(tile: Box, segments: Sequence[Segment]) -> NDArray[np.floating]:
    """Give the boxes (N, 4) of the things that were surely found in a tile, in the image."""
    boxes = [segment.box for segment in segments if segment.is_thing and segment.score >= SURE]
    return np.array(boxes).reshape(-1, 4) + np.array([tile[1], tile[0]] * 2)


class _Decoder:
    """Turns the network's outputs into candidates and segments in image pixels, view by view."""

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

    def thresholds(self, usual: float) -> NDArray[np.float32]:
        """Each class's least score (C,): what was chosen for it, or the usual one."""
        least = np.full(len(self._ids), usual, np.float32)
        for index, category in self._by_index.items():
            least[index] = self.spec.class_thresholds.get(category.name, usual)
        return least

    def keep(self, views: list[View], prediction: Prediction, asked: _Asked) -> list[_Kept]:
        """Compute the masks of each view, only of the queries that can become segments."""
        task = asked.task
        if task is None:
            return []
        usual = self.thresholds(self.spec.threshold)
        least = usual if asked.threshold is None else asked.threshold
        chosen: list[NDArray[np.intp]] = []
        found: list[tuple[NDArray[np.float32], NDArray[np.intp]]] = []
        for logits in prediction.logits:
            queries, scores, classes = keep_queries(logits, least, self._named)
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
        wanted = [own[:0] if one else own for own, one in zip(chosen, alone, strict=True)]
        masks = [
            _ANY_MASK.on(own.frame) if one else own
            for own, one in zip(_masks_of(views, prediction, wanted), alone, strict=True)
        ]
        kept = zip(prediction.logits, masks, found, strict=True)
        return [(logits, own, *best) for logits, own, best in kept]

    def begin_merge(self, kept: _Kept, task: Task | None) -> Callable[[], SegmentMap]:
        """Begin to merge the masks of a view; the result waits for its segments."""
        logits, masks, scores, classes = kept
        if task == "semantic":
            return partial(classify_pixels, masks, logits, self.spec.categories)
        if self.spec.duplicate_iou is not None:
            own = drop_duplicates(masks.logits(), scores, classes, self.spec.duplicate_iou)
            masks, scores, classes = masks.choose(own), scores[own], classes[own]
        categories = [self._by_index[index] for index in classes.tolist()]
        given = masks, scores, categories
        if task == "instances":
            merge = partial(paint_instances, *given)
        elif self.spec.overlap is not None:
            merge = partial(merge_weighted, *given, self.spec.overlap, self.mask_threshold)
        else:
            merge = merge_masks(*given)
        single = self.spec.single_component
        return lambda: keep_largest_component(*merge()) if single else merge()

    def candidates(
        self,
        images: list[TiledImage],
        views: list[View],
        prediction: Prediction,
        asked: _Asked,
    ) -> list[list[Candidates]]:
        """Give the candidates of each of a view's places."""
        shape = self.spec.architecture
        apart = shape.num_logits == shape.num_classes
        best = [best_classes(logits, self._named, apart=apart) for logits in prediction.logits]
        kept: list[NDArray[np.intp]] = []  # of those
        for _, scores, classes in best:
            wanted = np.ones(scores.shape, np.bool_)
            if asked.least_score is not None:
                least = np.broadcast_to(asked.least_score, self._ids.shape)[classes]
                wanted = (scores > least) & self._is_thing[classes]
            kept.append(np.flatnonzero(wanted))
        found = None
        if asked.masks or prediction.boxes is None:
            chosen = [queries[own] for (queries, _, _), own in zip(best, kept, strict=True)]
            found = _masks_of(views, prediction, chosen)
        candidates: list[list[Candidates]] = []
        for number, (view, (queries, scores, classes)) in enumerate(zip(views, best, strict=True)):
            own = kept[number]
            if prediction.boxes is not None:
                boxes = prediction.boxes[number, queries[own]]
            else:  # where the masks are; a query whose mask is empty has found nothing
                assert found is not None
                boxes = mask_boxes(found[number])
                seen = np.flatnonzero(boxes[:, 2] > 0)
                found[number] = found[number].choose(seen)
                own, boxes = own[seen], boxes[seen]
            logits = found[number].logits() if asked.masks and found is not None else ()
            corners = scale_boxes(boxes, view.tile_size)
            candidates.append([])
            for image, box in view.places:
                make = partial(
                    CoarseMask,
                    frame=view.frame,
                    tile=box,
                    image_size=images[image].size,
                )
                top, left, _, _ = box
                candidates[-1].append(
                    Candidates(
                        scores=scores[own],
                        category_ids=self._ids[classes[own]],
                        boxes=corners + np.array([left, top, left, top], np.float32),
                        image_size=images[image].size,
                        coarse_masks=tuple(make(logits=mask) for mask in logits),
                    )
                )
        return candidates


def _masks_of(
    views: list[View], prediction: Prediction, queries: list[NDArray[np.intp]]
) -> list[Masks]:
    """Compute masks of queries of each view."""
    found = prediction.masks(queries)
    return [masks.on(view.frame) for view, masks in zip(views, found, strict=True)]
