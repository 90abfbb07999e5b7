from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.data.whole import panoptic_target

from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import encode_pixels
from panodetr.data.samples import ObjectTruth, Sample, read_sample
from panodetr.evaluation.average_precision import (
    DetectionFigures,
    ObjectResult,
    Overlap,
)
from panodetr.evaluation.ground_truth import GroundTruth, TruthImage
from panodetr.predict import Predictor
from panodetr.results.masks import Frame
from panodetr.results.result import PanopticResult
from panodetr.results.types import Candidates, Category, CoarseMask, Segment


class Annotator(Predictor):
    """Answers with the truth, moved to the right, less what scores too low."""

    def __init__(self, truth: GroundTruth, *, shift: int = 0) -> None:
        self.known = truth.segment_categories
        self.asked: list[str] = []
        self.least: float | None = None
        self._images = {image.path.name: image for image in truth.images}
        self._shift = shift

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.known

    def answer_each(
        self,
        images: Any,
        *,
        segments: bool = False,
        candidates: bool = True,
        masks: bool = False,
        threshold: float | None = None,
        least_score: float | None = None,
    ) -> Iterator[tuple[PanopticResult | None, Candidates | None]]:
        asked = {"segments": segments, "masks": masks, "boxes": candidates and not masks}
        self.asked.append(" and ".join(name for name, wanted in asked.items() if wanted))
        self.least = least_score
        for image in images:
            yield (
                self.answer(image, threshold or 0) if segments else None,
                _candidates(self.answer(image, 0), masks) if candidates else None,
            )

    def answer(self, path: Path, threshold: float) -> PanopticResult:
        sample = self._images[path.name]
        assert isinstance(sample, Sample)
        ids = np.roll(read_ids(sample), self._shift, axis=1)
        target = panoptic_target(ids, sample.segments, self.categories)
        segments: list[Segment] = []
        for number, index, box in zip(
            target.segment_ids.tolist(), target.classes.tolist(), target.boxes.tolist(), strict=True
        ):
            category = self.categories[index]
            x0, y0, x1, y1 = box
            segments.append(
                Segment(
                    id=number,
                    label=category.name,
                    category_id=category.id,
                    is_thing=category.is_thing,
                    score=0.9 if category.is_thing else 0.6,
                    box=(x0, y0, x1, y1),
                    area=int((ids == number).sum()),
                )
            )
        kept = tuple(s for s in segments if s.score > threshold)
        shown = np.isin(ids, [s.id for s in kept])
        return PanopticResult(
            segments=kept,
            segment_ids=np.where(shown, ids, np.int32(0)),
            image=read_sample(sample),
            source=sample.path,
            categories=self.categories,
        )


def _candidates(result: PanopticResult, masks: bool) -> Candidates:
    """The segments as if queries had found them, stuff too."""
    size: tuple[int, int] = result.segment_ids.shape  # pyright: ignore[reportAssignmentType]
    return Candidates(
        scores=np.array([s.score for s in result.segments], np.float32),
        category_ids=np.array([s.category_id for s in result.segments]),
        boxes=np.array([s.box for s in result.segments], np.float32).reshape(-1, 4),
        image_size=size,
        coarse_masks=tuple(
            CoarseMask(
                logits=np.where(result.segment_ids == s.id, np.float32(1), np.float32(-1)),
                frame=Frame(size, size),
                tile=(0, 0, *size),
                image_size=size,
            )
            for s in result.segments
            if masks
        ),
    )


@pytest.fixture(scope="session")
def nuclei(shared_data: Path) -> GroundTruth:
    """The first small images of the validation split."""
    truth = GroundTruth.open(shared_data / "nuclei", "val")
    small = [image for image in truth.images if image.size == (256, 256)]
    return replace(truth, images=tuple(small[:3]))


@pytest.fixture(scope="session")
def coco(shared_data: Path) -> GroundTruth:
    """Real images with COCO's own instance annotations, crowds among them."""
    return GroundTruth.open(shared_data / "coco-instances", "")


@pytest.fixture(scope="session")
def reference(shared_data: Path) -> COCO:
    """The same, as pycocotools reads it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(shared_data / "coco-instances" / "instances.json"))


def precision(figures: DetectionFigures) -> NDArray[np.float64]:
    """Precision over IoUs, recalls and categories, of all sizes."""
    assert figures.counted.eval is not None
    return figures.counted.eval["precision"][..., 0, 2]


def box(
    number: int, category_id: int, edges: tuple[int, int, int, int], crowd: int = 0
) -> ObjectTruth:
    """An object that fills its box, from x0, y0 to x1, y1, in image 1."""
    x0, y0, x1, y1 = edges
    return {
        "id": number,
        "image_id": 1,
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": crowd,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
    }


Noisy = Callable[[TruthImage, Overlap], list[ObjectResult]]


@pytest.fixture(scope="session")
def noisy(coco: GroundTruth, reference: COCO) -> Noisy:
    """Detections made from the truth: moved, doubled, relabelled, dropped, with equal scores."""
    categories = [category.id for category in coco.object_categories]

    def make(image: TruthImage, kind: Overlap) -> list[ObjectResult]:
        rng = np.random.default_rng(image.image_id)
        results: list[ObjectResult] = []
        for truth in image.objects or ():
            for _ in range(rng.integers(0, 4)):
                category_id = truth["category_id"]
                if rng.random() < 0.1:
                    category_id = int(rng.choice(categories))
                result: ObjectResult = {
                    "image_id": image.image_id,
                    "category_id": category_id,
                    "score": round(float(rng.random()), 1),  # many ties
                }
                if kind == "bbox":
                    x, y, width, height = np.array(truth["bbox"]) + rng.normal(0, 4, 4)
                    result["bbox"] = [x, y, max(width, 1.0), max(height, 1.0)]
                else:
                    pixels = reference.annToMask(reference.anns[truth["id"]])
                    moved = np.roll(pixels, rng.integers(-4, 5, 2), (0, 1))
                    result["segmentation"] = encode_pixels(moved.astype(np.bool_))
                results.append(result)
        return results

    return make


@pytest.fixture(scope="session")
def pycocotools(reference: COCO) -> Callable[[list[ObjectResult], list[int]], COCOeval]:
    """Counts as COCO does."""

    def count(results: list[ObjectResult], image_ids: list[int]) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            copies: Any = [dict(result) for result in results]  # it takes more than its stub says
            loaded = reference.loadRes(copies)
            kind = "bbox" if "bbox" in results[0] else "segm"
            counted = COCOeval(reference, loaded, kind)
            counted.params.imgIds = image_ids
            counted.evaluate()
            counted.accumulate()
            counted.summarize()
        return counted

    return count
