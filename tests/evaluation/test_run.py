from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from panodetr.data.idmaps import read_id_map
from panodetr.data.panoptic import PanopticData, Sample, TruthSegment, read_ids, read_photo
from panodetr.data.targets import panoptic_target
from panodetr.errors import DataError
from panodetr.evaluation.panoptic import PanopticQuality
from panodetr.evaluation.run import evaluate
from panodetr.results.types import Category, PanopticResult, Segment


class Annotator:
    """Answers with the truth, moved to the right, cut off below, less what scores too low."""

    def __init__(self, data: PanopticData, *, shift: int = 0, height: int | None = None) -> None:
        self.categories: tuple[Category, ...] = data.categories
        self._samples = {sample.photo: sample for sample in data.samples}
        self._shift = shift
        self._height = height

    def segment(self, photo: Path, /, *, threshold: float | None = None) -> PanopticResult:
        sample = self._samples[photo]
        ids = np.roll(read_ids(sample), self._shift, axis=1)[: self._height]
        segments = self._segments(sample, ids)
        kept = tuple(s for s in segments if s.score > (threshold or 0))
        shown = np.isin(ids, [s.id for s in kept])
        return PanopticResult(
            segments=kept,
            segment_ids=np.where(shown, ids, np.int32(0)),
            photo=read_photo(sample),
            source=photo,
            categories=self.categories,
        )

    def _segments(self, sample: Sample, ids: NDArray[np.int32]) -> list[Segment]:
        target = panoptic_target(ids, sample.segments, self.categories)
        found: list[Segment] = []
        for number, index, box in zip(
            target.segment_ids.tolist(), target.classes.tolist(), target.boxes.tolist(), strict=True
        ):
            category = self.categories[index]
            x0, y0, x1, y1 = box
            found.append(
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
        return found


@pytest.fixture(scope="module")
def nuclei(shared_data: Path) -> PanopticData:
    """The first small photos of the validation split."""
    data = PanopticData.open(shared_data / "nuclei", "val")
    small = [sample for sample in data.samples if sample.size == (256, 256)]
    return replace(data, samples=tuple(small[:3]))


def test_the_truth_scores_one(nuclei: PanopticData) -> None:
    report = evaluate(Annotator(nuclei), nuclei)
    metrics = report.metrics
    for key, value in metrics.items():
        if key.startswith(("pq", "sq", "rq", "f1")):
            assert value == 1.0, key
    assert metrics["images"] == 3
    assert metrics["seconds_per_image"] > 0
    segments = [s for sample in nuclei.samples for s in sample.segments]
    assert metrics["per_class"]["nucleus"] == {
        "pq": 1.0,
        "sq": 1.0,
        "rq": 1.0,
        "f1": 1.0,
        "tp": sum(s.category_id == 1 for s in segments),
        "fp": 0,
        "fn": 0,
        "iou": float(sum(s.category_id == 1 for s in segments)),
    }


def test_the_further_off_the_lower_the_figures(nuclei: PanopticData) -> None:
    figures = [evaluate(Annotator(nuclei, shift=n), nuclei).metrics for n in (0, 1, 3)]
    assert figures[0]["sq_things"] > figures[1]["sq_things"] > figures[2]["sq_things"]
    assert figures[1]["pq_things"] > figures[2]["pq_things"] > 0
    assert figures[1]["pq"] == (figures[1]["pq_things"] + figures[1]["pq_stuff"]) / 2


def test_the_threshold_reaches_the_model(nuclei: PanopticData) -> None:
    metrics = evaluate(Annotator(nuclei), nuclei, threshold=0.7).metrics
    assert (metrics["pq_things"], metrics["pq_stuff"]) == (1.0, 0.0)


def test_progress_counts_the_photos(nuclei: PanopticData) -> None:
    told: list[tuple[int, int]] = []
    evaluate(Annotator(nuclei), nuclei, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_is_written_scores_the_same(nuclei: PanopticData, tmp_path: Path) -> None:
    report = evaluate(Annotator(nuclei, shift=1), nuclei)
    report.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == report.metrics

    annotations = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    quality = PanopticQuality(nuclei.categories)
    for sample, annotation in zip(nuclei.samples, annotations, strict=True):
        assert annotation["image_id"] == sample.image_id
        assert annotation["file_name"] == sample.id_map.name
        ids = read_id_map(tmp_path / "panoptic" / annotation["file_name"], sample.size)
        segments = [
            TruthSegment(id=s["id"], category_id=s["category_id"], area=s["area"], is_crowd=False)
            for s in annotation["segments_info"]
        ]
        quality.update(read_ids(sample), sample.segments, ids, segments)
    figures = quality.compute()
    assert figures.things.pq == report.metrics["pq_things"]
    assert figures.stuff.pq == report.metrics["pq_stuff"]


def test_a_written_segment_is_described_as_coco_does(nuclei: PanopticData, tmp_path: Path) -> None:
    evaluate(Annotator(nuclei), nuclei).write(tmp_path)
    annotations = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    info = annotations[0]["segments_info"][0]
    ys, xs = np.nonzero(read_ids(nuclei.samples[0]) == info["id"])
    size = [np.ptp(xs) + 1, np.ptp(ys) + 1]
    assert info == {
        "id": info["id"],
        "category_id": 1,
        "area": len(xs),
        "bbox": [xs.min(), ys.min(), *size],
        "iscrowd": 0,
        "score": 0.9,
        "label": "nucleus",
        "isthing": 1,
    }


def test_predictions_never_overwrite_the_truth(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "coco-panoptic", tmp_path / "coco")
    data = PanopticData.open(tmp_path / "coco", "")
    report = evaluate(Annotator(data), replace(data, samples=data.samples[:1]))
    before = (tmp_path / "coco" / "panoptic.json").read_bytes()
    with pytest.raises(DataError, match="holds the truth; choose another folder"):
        report.write(tmp_path / "images" / ".." / "coco")
    assert (tmp_path / "coco" / "panoptic.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cell"}, "category 1 is 'cell' in the model and 'nucleus' in"),
        ({"id": 9}, "category 1 is 'nothing' in the model and 'nucleus' in"),
    ],
)
def test_a_model_of_other_classes_is_refused(
    nuclei: PanopticData, change: dict[str, Any], message: str
) -> None:
    model = Annotator(nuclei)
    first, *others = nuclei.categories
    model.categories = (replace(first, **change), *others)
    with pytest.raises(DataError, match=message):
        evaluate(model, nuclei)


def test_a_result_that_cannot_be_counted_names_its_photo(nuclei: PanopticData) -> None:
    with pytest.raises(DataError, match=rf"{nuclei.samples[0].photo.name}: .* expected one size"):
        evaluate(Annotator(nuclei, height=100), nuclei)
