from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import InstanceCategory, ObjectTruth
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import (
    AveragePrecision,
    DetectionFigures,
    best_of_each_class,
    box_results,
)
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import TASKS, GroundTruth, Task
from panodetr.evaluation.metrics import Figures
from panodetr.evaluation.metrics import metrics as metrics_of
from panodetr.evaluation.submitted import score
from panodetr.results.types import Candidates

from .conftest import Annotator, precision


def measured(model: Annotator, truth: GroundTruth, *tasks: Task, **options: Any) -> Figures:
    return evaluate(model, truth, tasks or ["panoptic"], **options).counts.compute()


def test_the_truth_scores_one(nuclei: GroundTruth) -> None:
    evaluation = evaluate(Annotator(nuclei), nuclei, TASKS)
    figures = evaluation.counts.compute()
    metrics: dict[str, Any] = metrics_of(figures, nuclei, evaluation.seconds)
    for key, value in metrics.items():
        if key.startswith(("pq", "sq", "rq", "f1")):
            assert value == 1.0, key
    assert metrics["images"] == 3
    assert metrics["seconds_per_image"] > 0
    segments = [s for i in nuclei.images if i.panoptic for s in i.panoptic.segments]
    things = sum(s.category_id == 1 for s in segments)
    assert metrics["per_class"]["nucleus"] == {
        "pq": 1.0,
        "sq": 1.0,
        "rq": 1.0,
        "f1": 1.0,
        "tp": things,
        "fp": 0,
        "fn": 0,
        "iou": float(things),
    }
    for task in ("boxes", "instances"):
        assert metrics[task]["ap"] == pytest.approx(1)
        assert metrics[task]["per_class"]["nucleus"]["truths"] == things
        assert list(metrics[task]["per_class"]) == ["nucleus"]  # stuff is no object


def test_the_further_off_the_lower_the_figures(nuclei: GroundTruth) -> None:
    figures = [measured(Annotator(nuclei, shift=n), nuclei, *TASKS) for n in (0, 1, 3)]
    assert all(f.panoptic and f.boxes and f.instances for f in figures)
    sq = [f.panoptic.things.sq for f in figures if f.panoptic]
    ap = [f.instances.ap or 0 for f in figures if f.instances]
    assert sq[0] > sq[1] > sq[2] > 0
    assert ap[0] > ap[1] > ap[2] > 0


def test_the_threshold_reaches_the_model_and_not_average_precision(nuclei: GroundTruth) -> None:
    figures = measured(Annotator(nuclei), nuclei, "panoptic", "boxes", threshold=0.95)
    assert figures.panoptic is not None
    assert figures.boxes is not None
    assert figures.panoptic.all.pq == 0.0
    assert figures.boxes.ap == pytest.approx(1)


@pytest.mark.parametrize(
    ("tasks", "asked"),
    [
        (["panoptic"], "segments"),
        (["boxes"], "boxes"),
        (["instances", "boxes"], "masks"),
        (["panoptic", "boxes"], "segments and boxes"),
        (["panoptic", "instances"], "segments and masks"),
    ],
)
def test_the_model_runs_once_and_gives_no_more_than_is_asked(
    nuclei: GroundTruth, tasks: list[Task], asked: str
) -> None:
    model = Annotator(nuclei)
    figures = measured(model, nuclei, *tasks)
    assert model.asked == [asked]
    for task in TASKS:
        assert (getattr(figures, task) is not None) == (task in tasks)


def test_queries_that_nobody_ranks_cost_no_mask() -> None:
    rng = np.random.default_rng(0)
    candidates = Candidates(
        scores=rng.random(400, np.float32).round(1),  # many ties
        category_ids=rng.choice([3, 5, 8], 400, p=[0.6, 0.3, 0.1]),
        boxes=rng.uniform(0, 30, (400, 4)).astype(np.float32)
        + np.array([0, 0, 30, 30], np.float32),
        image_size=(60, 60),
    )
    chosen = np.flatnonzero(candidates.scores < 0.9)
    ranked = best_of_each_class(candidates, chosen)
    assert list(ranked) == sorted(ranked)
    assert np.isin(ranked, chosen).all()
    counts = [np.sum(candidates.category_ids[ranked] == c) for c in (3, 5, 8)]
    assert counts == [min(100, np.sum(candidates.category_ids[chosen] == c)) for c in (3, 5, 8)]
    categories = [InstanceCategory(id=c, name=str(c)) for c in (3, 5, 8)]
    truth: list[ObjectTruth] = [
        {
            "id": n,
            "image_id": 1,
            "category_id": c,
            "bbox": [8.0 * n, 8.0 * n, 30.0, 30.0],
            "area": 900.0,
            "iscrowd": 0,
        }
        for n, c in enumerate((3, 3, 5, 8), start=1)
    ]
    figures: list[DetectionFigures] = []
    for some in (chosen, ranked):
        counter = AveragePrecision(categories, "bbox")
        counter.update(1, (60, 60), truth, box_results(1, candidates, some))
        figures.append(counter.compute())
    assert figures[0].ap
    np.testing.assert_array_equal(precision(figures[0]), precision(figures[1]))


def test_masks_of_queries_below_a_score_are_not_asked_for(nuclei: GroundTruth) -> None:
    class Asked(Annotator):
        least: float | None = None

        def answer_each(self, images: Any, *, masks: bool = True, **options: Any) -> Any:
            self.least = options["least_score"]
            return super().answer_each(images, masks=masks, **options)

    model = Asked(nuclei)
    measured(model, nuclei, *TASKS, least_score=0.2)
    assert model.least == 0.2
    measured(model, nuclei, "panoptic", "boxes", least_score=0.2)
    assert model.least is None  # boxes cost nothing


def test_what_is_written_scores_the_same(nuclei: GroundTruth, tmp_path: Path) -> None:
    evaluation = evaluate(Annotator(nuclei, shift=1), nuclei, TASKS, out=tmp_path)
    figures = evaluation.counts.compute()
    for task in TASKS:
        scored = score(tmp_path / f"{task}.json", nuclei).counts.compute()
        found, again = getattr(figures, task), getattr(scored, task)
        assert found.per_class == again.per_class
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["boxes.json", "instances.json", "panoptic", "panoptic.json"]


def test_a_written_segment_is_described_as_coco_does(nuclei: GroundTruth, tmp_path: Path) -> None:
    evaluate(Annotator(nuclei), nuclei, ["panoptic"], out=tmp_path)
    annotations = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    info = annotations[0]["segments_info"][0]
    sample = nuclei.images[0].panoptic
    assert sample is not None
    ys, xs = np.nonzero(read_ids(sample) == info["id"])
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


def test_a_written_mask_has_no_box_and_a_box_no_mask(nuclei: GroundTruth, tmp_path: Path) -> None:
    evaluate(Annotator(nuclei), nuclei, ["boxes", "instances"], out=tmp_path)
    boxes = json.loads((tmp_path / "boxes.json").read_text())
    masks = json.loads((tmp_path / "instances.json").read_text())
    assert len(boxes) == len(masks) > 0
    assert all(set(b) == {"image_id", "category_id", "score", "bbox"} for b in boxes)
    assert all(set(m) == {"image_id", "category_id", "score", "segmentation"} for m in masks)
    assert {result["category_id"] for result in boxes} == {1}  # no stuff


def test_a_failure_leaves_what_was_written_before(nuclei: GroundTruth, tmp_path: Path) -> None:
    evaluate(Annotator(nuclei), nuclei, TASKS, out=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Annotator(nuclei, shift=1), nuclei, TASKS, out=tmp_path, progress=stop)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_predictions_never_overwrite_the_truth(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "coco-panoptic", tmp_path / "coco")
    truth = GroundTruth.open(tmp_path / "coco", "")
    before = (tmp_path / "coco" / "panoptic.json").read_bytes()
    out = tmp_path / "images" / ".." / "coco"
    with pytest.raises(DataError, match="holds the ground truth; choose another folder"):
        evaluate(Annotator(truth), truth, ["panoptic"], out=out)
    assert (tmp_path / "coco" / "panoptic.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cell"}, "category 1 is 'cell' in the model and 'nucleus' in"),
        ({"id": 9}, "category 1 is 'nothing' in the model and 'nucleus' in"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_other_classes_is_refused(
    nuclei: GroundTruth, task: Task, change: dict[str, Any], message: str
) -> None:
    model = Annotator(nuclei)
    first, *others = nuclei.segment_categories
    model.known = (replace(first, **change), *others)
    with pytest.raises(DataError, match=message):
        measured(model, nuclei, task)


class Broken(Annotator):
    """Answers with an id map that is cut off below, and with boxes that aren't numbers."""

    def segment_each(self, images: Any, **options: Any) -> Any:
        for result in super().segment_each(images, **options):
            yield replace(result, segment_ids=result.segment_ids[:100])

    def candidates_each(self, images: Any, *, masks: bool = False) -> Any:
        for found in super().candidates_each(images, masks=masks):
            boxes = found.boxes.copy()
            boxes[2, 1] = np.nan
            yield replace(found, boxes=boxes)


@pytest.mark.parametrize(
    ("task", "message"),
    [("panoptic", "the size of the ground truth"), ("boxes", "query 2 .* expected finite numbers")],
)
def test_a_result_that_cannot_be_counted_names_its_image(
    nuclei: GroundTruth, task: Task, message: str
) -> None:
    name = nuclei.images[0].path.name
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        measured(Broken(nuclei), nuclei, task)
