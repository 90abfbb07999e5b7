"""What a model finds is counted: in one process or several, in memory or from files."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.process import python

from panodetr.data.formats import things
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import Sample
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import (
    AveragePrecision,
    DetectionFigures,
)
from panodetr.evaluation.evaluate import best_of_each_class, box_results, evaluate, score
from panodetr.evaluation.ground_truth import TASKS, GroundTruth, Task
from panodetr.evaluation.metrics import Counts, Figures, Prediction
from panodetr.evaluation.metrics import metrics as metrics_of
from panodetr.results.types import Candidates

from .conftest import Annotator, box, precision


def measured(model: Annotator, truth: GroundTruth, *tasks: Task, **options: Any) -> Figures:
    return evaluate(model, truth, tasks or ["panoptic"], **options).compute()


def test_the_truth_scores_one(nuclei: GroundTruth) -> None:
    counts = evaluate(Annotator(nuclei), nuclei, TASKS)
    metrics: dict[str, Any] = metrics_of(counts.compute(), counts.seconds)
    for key, value in metrics.items():
        if key.startswith(("pq", "sq", "rq", "f1")):
            assert value == 1.0, key
    assert metrics["images"] == 3
    assert metrics["seconds_per_image"] > 0
    segments = [s for i in nuclei.images if isinstance(i, Sample) for s in i.segments]
    things = sum(s.category_id == 1 for s in segments)
    ones = dict.fromkeys(("pq", "sq", "rq", "f1"), 1.0)
    whole = {**ones, "tp": things, "fp": 0, "fn": 0, "iou": float(things)}
    assert metrics["per_class"]["nucleus"] == whole
    for task in ("boxes", "instances"):
        assert metrics[task]["ap"] == pytest.approx(1)
        assert metrics[task]["per_class"]["nucleus"]["truths"] == things
        assert list(metrics[task]["per_class"]) == ["nucleus"]  # stuff is no object


def test_the_further_off_the_lower_the_figures(nuclei: GroundTruth) -> None:
    figures = [measured(Annotator(nuclei, shift=n), nuclei, *TASKS) for n in (0, 1, 3)]
    sq = [f.panoptic.things.sq for f in figures if f.panoptic]
    ap = [f.instances.ap or 0 for f in figures if f.instances]
    assert sq[0] > sq[1] > sq[2] > 0
    assert ap[0] > ap[1] > ap[2] > 0


@pytest.mark.parametrize(
    ("tasks", "asked", "least"),
    [
        (["panoptic"], "segments", None),
        (["boxes"], "boxes", None),
        (["instances", "boxes"], "masks", None),
        (["panoptic", "boxes"], "segments and boxes", None),  # boxes cost nothing
        (["panoptic", "instances"], "segments and masks", 0.2),
    ],
)
def test_the_model_runs_once_and_gives_no_more_than_is_asked(
    nuclei: GroundTruth, tasks: list[Task], asked: str, least: float | None
) -> None:
    model = Annotator(nuclei)
    figures = measured(model, nuclei, *tasks, least_score=0.2, threshold=0.95)
    assert model.asked == [asked]
    assert model.least == least
    for task in TASKS:
        assert (getattr(figures, task) is not None) == (task in tasks)
    if figures.panoptic is not None:
        assert figures.panoptic.all.pq == 0.0  # the threshold is of segments
    for found in (figures.boxes, figures.instances):
        assert found is None or found.ap == pytest.approx(1)


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
    assert best_of_each_class(candidates, chosen[:0]).size == 0
    truth = [
        box(n, c, (8 * n, 8 * n, 8 * n + 30, 8 * n + 30))
        for n, c in enumerate((3, 3, 5, 8), start=1)
    ]
    figures: list[DetectionFigures] = []
    for some in (chosen, ranked):
        counter = AveragePrecision(things({3: "a", 5: "b", 8: "c"}), "bbox")
        counter.update(1, (60, 60), truth, box_results(1, candidates, some))
        figures.append(counter.compute())
    assert figures[0].ap
    np.testing.assert_array_equal(precision(figures[0]), precision(figures[1]))


def test_what_is_written_is_coco_s_and_scores_the_same(nuclei: GroundTruth, tmp_path: Path) -> None:
    figures = measured(Annotator(nuclei, shift=1), nuclei, *TASKS, out=tmp_path)
    for task in TASKS:
        scored = score(tmp_path / f"{task}.json", nuclei).compute()
        assert getattr(figures, task).per_class == getattr(scored, task).per_class
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["boxes.json", "instances.json", "panoptic", "panoptic.json"]
    boxes, masks = (json.loads((tmp_path / f"{task}.json").read_text()) for task in TASKS[:2])
    assert len(boxes) == len(masks) > 0
    common = {"image_id", "category_id", "score"}
    assert all(set(box) == {*common, "bbox"} for box in boxes)
    assert all(set(mask) == {*common, "segmentation"} for mask in masks)
    assert {result["category_id"] for result in boxes} == {1}  # no stuff
    info = json.loads((tmp_path / "panoptic.json").read_text())["annotations"][0]["segments_info"][
        0
    ]
    sample = nuclei.images[0]
    assert isinstance(sample, Sample)
    ys, xs = np.nonzero(np.roll(read_ids(sample), 1, axis=1) == info["id"])
    assert info == {
        "id": info["id"],
        "category_id": 1,
        "area": len(xs),
        "bbox": [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1],
        "iscrowd": 0,
        "score": 0.9,
        "label": "nucleus",
        "isthing": 1,
    }


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
    with pytest.raises(DataError, match="holds the ground truth; choose another folder"):
        evaluate(Annotator(truth), truth, ["panoptic"], out=tmp_path / "images" / ".." / "coco")
    assert (tmp_path / "coco" / "panoptic.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cell"}, "category 1 is 'cell' in the model and 'nucleus' in"),
        ({"id": 9}, "category 1 is 'nothing' in the model and 'nucleus' in"),
    ],
)
def test_a_model_of_other_classes_is_refused(
    nuclei: GroundTruth, change: dict[str, Any], message: str
) -> None:
    model = Annotator(nuclei)
    first, *others = nuclei.segment_categories
    model.known = (replace(first, **change), *others)
    for task in TASKS:
        with pytest.raises(DataError, match=message):
            measured(model, nuclei, task)


class Broken(Annotator):
    """Answers with an id map that is cut off below, and with boxes that aren't numbers."""

    def answer_each(self, images: Any, **options: Any) -> Any:
        for result, found in super().answer_each(images, **options):
            if found is not None:
                found.boxes[2, 1] = np.nan
            yield result and replace(result, segment_ids=result.segment_ids[:100]), found


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


def test_parts_add_up_to_the_whole(nuclei: GroundTruth) -> None:
    model = Annotator(nuclei, shift=1)
    whole = measured(model, nuclei, *TASKS)
    shares = [nuclei.share(rank, 3) for rank in (2, 0, 1)]
    assert {i.image_id for s in shares for i in s.images} == {i.image_id for i in nuclei.images}
    merged, *parts = (evaluate(model, share, TASKS) for share in shares)
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    figures = merged.compute()
    assert (figures.images, figures.panoptic) == (whole.images, whole.panoptic)
    for one, other in ((figures.boxes, whole.boxes), (figures.instances, whole.instances)):
        assert one is not None
        assert other is not None
        assert one.per_class == other.per_class
        np.testing.assert_array_equal(precision(one), precision(other))  # to the last bit


def test_no_image_is_counted_twice_and_no_other_task_added(nuclei: GroundTruth) -> None:
    one, other = (evaluate(Annotator(nuclei), nuclei, ["boxes"]) for _ in range(2))
    with pytest.raises(ValueError, match="3 images were counted by both, first"):
        one.merge(other)
    with pytest.raises(ValueError, match="was counted before"):
        one.update(nuclei.images[0], Prediction(boxes=[]))
    assert one.compute().images == 3
    fewer = replace(nuclei, segment_categories=nuclei.segment_categories[:1])
    for another in (Counts(nuclei, ["instances"]), Counts(fewer, ["boxes"])):
        with pytest.raises(ValueError, match="counts of the same tasks and categories"):
            Counts(nuclei, ["boxes"]).merge(another)


@pytest.mark.slow
def test_memory_grows_by_less_than_20_kilobytes_an_image() -> None:
    """In a process of its own: this one has memory to spare from other tests."""
    done = python(Path(__file__).with_name("memory.py"), "600")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20_000


def test_objects_of_the_instance_truth_are_taken_before_panoptic_ones(nuclei: GroundTruth) -> None:
    counts = Counts(nuclei, ["boxes"])
    counts.update(replace(nuclei.images[0], objects=()), Prediction(boxes=[]))
    boxes = counts.compute().boxes
    assert boxes is not None
    assert boxes.per_class["nucleus"].truths == 0
