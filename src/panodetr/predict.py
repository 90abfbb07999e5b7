"""From photos to results: read, resize or tile, run, decode. This is what a user calls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np

from panodetr.checkpoints.build import load_model
from panodetr.checkpoints.catalogue import resolve
from panodetr.errors import CheckpointError, UsageError
from panodetr.images.batch import normalize
from panodetr.images.read import read_image
from panodetr.images.resize import resize, resized_size
from panodetr.images.tiles import tile_boxes
from panodetr.results.panoptic import keep_queries, merge_masks
from panodetr.results.tiles import join_tiles
from panodetr.results.types import Category, PanopticResult, Segment
from panodetr.runtimes.torch import TorchRuntime, choose_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.images.tiles import Box
    from panodetr.results.panoptic import ClassSegment
    from panodetr.runtimes.base import Runtime

    Photo: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
    TileResult: TypeAlias = tuple[Box, NDArray[np.int32], list[ClassSegment]]

BATCH_PIXELS = 1 << 20
"""Views of one size run together up to this many pixels; a larger one runs alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Photo:
    """A photo (H, W, 3), where it came from, and the tiles that cover it: often one, of all of it."""

    pixels: NDArray[np.uint8]
    source: Path | None
    tiles: list[Box]


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """One input of the model: a tile of the photo at this place of its list, resized to (h, w, 3)."""

    photo: int
    box: Box
    pixels: NDArray[np.uint8]


class Predictor:
    """A model with everything around it: what a photo must look like, and what the answers mean."""

    def __init__(self, spec: ModelSpec, runtime: Runtime) -> None:
        self.spec = spec
        self.runtime = runtime
        named = {category.index: category for category in spec.categories}
        self._by_index = [
            named.get(i) or Category(index=i, id=i, name="N/A", is_thing=True, color=(128, 128, 128))
            for i in range(spec.architecture.num_classes)
        ]
        self._is_thing = np.array([category.is_thing for category in self._by_index])

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that the model tells apart."""
        return self.spec.categories

    @overload
    def segment(self, photo: Photo, *, threshold: float | None = None) -> PanopticResult: ...

    @overload
    def segment(
        self, photo: Sequence[Photo], *, threshold: float | None = None
    ) -> list[PanopticResult]: ...

    def segment(
        self, photo: Photo | Sequence[Photo], *, threshold: float | None = None
    ) -> PanopticResult | list[PanopticResult]:
        """Find every segment of one photo, or of each photo of a list.

        A list gives what its photos give one at a time: only photos and tiles of equal size share
        a batch, so none is ever padded.

        Args:
            photo: a path, a PIL image, an (H, W, 3) uint8 array, or a list of these.
            threshold: least score of a segment, 0 to 1; None takes the model's own.

        Raises:
            ImageError: a photo cannot be read.
            UsageError: the threshold is not from 0 to 1.
            CheckpointError: the model has no mask head.
        """
        if isinstance(photo, list | tuple):
            return list(self.segment_each(photo, threshold=threshold))
        return next(self.segment_each([photo], threshold=threshold))

    def segment_each(
        self, photos: Iterable[Photo], *, threshold: float | None = None
    ) -> Iterator[PanopticResult]:
        """Segment photos as `segment` does, in their order, reading only a few ahead."""
        if not self.spec.architecture.masks:
            raise CheckpointError(
                f"model {self.spec.name} has no mask head, it finds boxes only; use a panoptic model"
            )
        threshold = self.spec.threshold if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold}; expected a score from 0 to 1")
        waiting: list[_Photo] = []
        for photo in photos:
            waiting.append(self._read(photo))
            if sum(read.pixels.size // 3 for read in waiting) >= BATCH_PIXELS:
                yield from self._segment(waiting, threshold)
                waiting = []
        yield from self._segment(waiting, threshold)

    def _read(self, photo: Photo) -> _Photo:
        rule = self.spec.preprocessing
        pixels = read_image(photo)
        size = _size(pixels)
        return _Photo(
            pixels=pixels,
            source=Path(photo) if isinstance(photo, str | Path) else None,
            tiles=tile_boxes(size, rule.tile or max(size), rule.tile_overlap),
        )

    def _segment(self, photos: list[_Photo], threshold: float) -> list[PanopticResult]:
        """Run all views of some photos, those of one size together, and put each photo together."""
        parts: list[list[TileResult]] = [[] for _ in photos]
        views = [
            self._view(index, photo, box) for index, photo in enumerate(photos) for box in photo.tiles
        ]
        for batch in _batches(views):
            for view, (segment_ids, segments) in zip(batch, self._run(batch, threshold), strict=True):
                parts[view.photo].append((view.box, segment_ids, segments))
        return [self._result(photo, tiles) for photo, tiles in zip(photos, parts, strict=True)]

    def _view(self, index: int, photo: _Photo, box: Box) -> _View:
        rule = self.spec.preprocessing
        y0, x0, y1, x1 = box
        pixels = photo.pixels[y0:y1, x0:x1]
        size = resized_size(_size(pixels), rule.short_side, rule.long_side)
        return _View(photo=index, box=box, pixels=resize(pixels, size))

    def _run(
        self, views: list[_View], threshold: float
    ) -> Iterator[tuple[NDArray[np.int32], list[ClassSegment]]]:
        """Segment ids and segments of each view; masks only of the queries that can be kept."""
        rule = self.spec.preprocessing
        pixels = np.stack([normalize(view.pixels, rule.mean, rule.std) for view in views])
        found = self.runtime.detect(pixels, None)
        kept = [keep_queries(logits, threshold) for logits in found.logits]
        counts = [len(queries) for queries, _, _ in kept]
        image = np.repeat(np.arange(len(views)), counts)
        masks = found.masks(image, np.concatenate([queries for queries, _, _ in kept]))
        each = np.split(masks, np.cumsum(counts)[:-1])
        for view, (_, scores, classes), own in zip(views, kept, each, strict=True):
            y0, x0, y1, x1 = view.box
            yield merge_masks(
                own, scores, classes, self._is_thing, _size(view.pixels), (y1 - y0, x1 - x0)
            )

    def _result(self, photo: _Photo, tiles: list[TileResult]) -> PanopticResult:
        """The segments of a photo, named."""
        if len(tiles) == 1:
            _, segment_ids, found = tiles[0]
        else:
            segment_ids, found = join_tiles(tiles, _size(photo.pixels))
        segments: list[Segment] = []
        for segment in found:
            category = self._by_index[segment.class_index]
            segments.append(
                Segment(
                    id=segment.id,
                    label=category.name,
                    category_id=category.id,
                    is_thing=category.is_thing,
                    score=segment.score,
                    box=segment.box,
                    area=segment.area,
                )
            )
        return PanopticResult(
            segments=tuple(segments),
            segment_ids=segment_ids,
            photo=photo.pixels,
            source=photo.source,
            categories=self.spec.categories,
        )


def load(model: str | Path = "nuclei", *, device: str = "auto") -> Predictor:
    """Load a model with its weights.

    Args:
        model: the name of a bundled model, or a checkpoint's folder.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
        UsageError: there is no such device.
    """
    spec, network = load_model(resolve(model))
    return Predictor(spec, TorchRuntime(network, choose_device(device)))


def _batches(views: list[_View]) -> Iterator[list[_View]]:
    """Views of one size together, each photo's own still in order, up to `BATCH_PIXELS`."""

    def size(view: _View) -> tuple[int, int]:
        return _size(view.pixels)

    for (height, width), same in groupby(sorted(views, key=size), key=size):
        together = list(same)
        at_once = max(1, BATCH_PIXELS // (height * width))
        for start in range(0, len(together), at_once):
            yield together[start : start + at_once]


def _size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]
