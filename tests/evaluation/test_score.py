from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hotcoco.panoptic import PanopticEval

from panodetr.data.samples import Sample
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import TWELVE, Overlap
from panodetr.evaluation.evaluate import score
from panodetr.evaluation.ground_truth import GroundTruth

from .conftest import Noisy

Save = Callable[[object], Path]
Edit = Callable[[Any], None]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a JSON of results."""

    def write(document: object) -> Path:
        path = tmp_path / "results.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture(scope="session")
def panoptic(shared_data: Path) -> GroundTruth:
    """COCO's panoptic truth of 13 images."""
    return GroundTruth.read(shared_data / "coco-panoptic" / "panoptic.json")


@pytest.fixture
def few(coco: GroundTruth) -> GroundTruth:
    """Three images with several objects each."""
    many = [image for image in coco.images if len(image.objects or ()) > 5]
    return replace(coco, images=tuple(many[:3]))


def few_results(truth: GroundTruth, noisy: Noisy, kind: Overlap) -> list[Any]:
    found = [result for image in truth.images for result in noisy(image, kind)]
    assert {result["image_id"] for result in found} == {i.image_id for i in truth.images}
    return copy.deepcopy(found)


@pytest.mark.parity
def test_boxes_and_masks_in_one_file_are_scored_apart(
    few: GroundTruth, noisy: Noisy, save: Save, pycocotools: Callable[..., Any]
) -> None:
    boxes, masks = (few_results(few, noisy, kind) for kind in ("bbox", "segm"))
    both = [{**mask, "bbox": box["bbox"]} for box, mask in zip(boxes, masks, strict=False)]
    figures = score(save(both), few).compute()
    ids = [image.image_id for image in few.images]
    for found, alone in (
        (figures.boxes, [{k: v for k, v in r.items() if k != "segmentation"} for r in both]),
        (figures.instances, masks[: len(both)]),
    ):
        expected = pycocotools(alone, ids).stats.tolist()
        stats = [-1 if getattr(found, n) is None else getattr(found, n) for n in TWELVE]
        assert stats == expected


@pytest.mark.parity
def test_panopticapi_and_hotcoco_give_the_same_panoptic_quality(
    panoptic: GroundTruth, shared_data: Path, golden: Path
) -> None:
    file = golden / "panoptic-eval" / "panoptic.json"
    figures = score(file, panoptic).compute().panoptic
    assert figures is not None
    expected = json.loads(file.with_name("panopticapi.json").read_text())
    reference = PanopticEval(str(shared_data / "coco-panoptic" / "panoptic.json"), str(file))
    reference.evaluate()
    theirs = reference.results()
    for name, mean in (("All", figures.all), ("Things", figures.things), ("Stuff", figures.stuff)):
        assert mean.classes == expected[name]["n"] == theirs[name]["n"]
        for key in ("pq", "sq", "rq"):
            assert getattr(mean, key) == pytest.approx(expected[name][key], rel=0, abs=1e-12)
            assert getattr(mean, key) == pytest.approx(theirs[name][key], rel=0, abs=1e-15)
    for category in panoptic.segment_categories:
        of = figures.per_class[category.name]
        for key, value in expected["per_class"][str(category.id)].items():
            assert getattr(of, key) == pytest.approx(value, rel=0, abs=1e-12)
        own = theirs["per_class"][category.id]
        assert (of.tp, of.fp, of.fn) == (own["tp"], own["fp"], own["fn"])
        assert of.iou == pytest.approx(own["iou"], rel=0, abs=1e-14)


def edit(*path: str | int, to: object = None, drop: bool = False) -> Edit:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        if drop:
            del document[path[-1]]
        else:
            document[path[-1]] = to

    return change


def repeat(*path: str | int) -> Edit:
    """List the first entry twice."""

    def change(document: Any) -> None:
        for key in path:
            document = document[key]
        document.append(document[0])

    return change


def nothing(document: Any) -> None:
    document.clear()


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("bbox", nothing, 'no entry with "bbox" or'),
        ("bbox", edit(0, to=3), r"json: \[0\]: expected object, got int"),
        ("bbox", edit(1, "image_id", to=9), r"json: \[1\] is for image 9; expected an image of"),
        (
            "bbox",
            edit(1, "image_id", to="a"),
            r"\[1\] is for image a; expected an image of the ground truth",
        ),
        ("bbox", edit(1, "category_id", to=12), "has category 12; expected a category of the"),
        ("bbox", edit(1, "score", drop=True), r"\[1\]: object missing required field score"),
        ("bbox", edit(1, "score", to=NAN), "is not valid JSON"),
        ("bbox", edit(1, "score", to=None), "score: expected float, got null"),
        ("bbox", edit(1, "bbox", to=[0, 0, NAN, 1]), "is not valid JSON"),
        ("bbox", edit(1, "bbox", to=[0, 0, -1, 1]), r"bbox\[2\]: expected float >= 0"),
        ("bbox", edit(1, "bbox", drop=True), r'\[1\] has no "bbox"'),
        ("bbox", edit(0, "bbox", drop=True), 'no entry with "bbox" or'),
        ("segm", edit(1, "segmentation", drop=True), 'has no "segmentation"; expected one'),
        ("segm", edit(1, "segmentation", to=[[1, 2, 3, 4, 5, 6]]), "got array"),
        ("segm", edit(1, "segmentation", "size", to=[4, 4]), r"has the size \[4, 4\]; expected"),
        ("segm", edit(1, "segmentation", "counts", to="garbage"), "are no string of run lengths"),
        ("segm", edit(1, "segmentation", "counts", to=[1, 2]), "run lengths don't fill it"),
        ("segm", edit(1, "segmentation", "counts", drop=True), "missing required field counts"),
    ],
)
def test_detections_that_cannot_be_meant_are_named(
    few: GroundTruth, noisy: Noisy, save: Save, kind: Overlap, change: Edit, message: str
) -> None:
    document = few_results(few, noisy, kind)
    change(document)
    with pytest.raises(DataError, match=message) as caught:
        score(save(document), few)
    assert "results.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def predicted(golden: Path, tmp_path: Path) -> Path:
    """A folder of panoptic results, to be broken."""
    return Path(shutil.copytree(golden / "panoptic-eval", tmp_path / "predicted"))


A = "annotations"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(A, drop=True), 'has no "annotations"; expected COCO\'s panoptic results'),
        (edit(A, 0, "segments_info", drop=True), "missing required field segments_info"),
        (edit(A, 1, "image_id", to=9), r"annotations\[1\] is for image 9; expected an image of"),
        (edit(A, 0, "file_name", to="../x.png"), "expected a file within"),
        (edit(A, 0, "file_name", to="x.png"), "x.png is missing"),
        (edit(A, 0, "segments_info", 0, "id", to=-1), r"segments_info\[0\].id: expected int >= 0"),
        (edit(A, 0, "segments_info", 0, "id", to=77), "which no segment has as its id"),
        (edit(A, 0, "segments_info", 0, "category_id", to=999), "has category 999, which the dat"),
        (repeat(A), "is a second result for image"),
        (repeat(A, 0, "segments_info"), "two predicted segments have id"),
    ],
)
def test_panoptic_results_that_cannot_be_meant_are_named(
    panoptic: GroundTruth, predicted: Path, change: Edit, message: str
) -> None:
    file = predicted / "panoptic.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        score(file, panoptic)
    assert "\n" not in str(caught.value)


def test_images_without_predictions_count_as_empty_where_that_is_allowed(
    few: GroundTruth, noisy: Noisy, save: Save
) -> None:
    found = few_results(few, noisy, "bbox")
    left = [result for result in found if result["image_id"] != few.images[0].image_id]
    with pytest.raises(DataError, match=r"no predictions for 1 of 3 images, .*--allow-mi"):
        score(save(left), few)
    scored = score(save(left), few, allow_missing=True)
    assert scored.missing == 1
    whole, part = score(save(found), few).compute().boxes, scored.compute().boxes
    assert whole is not None
    assert part is not None
    assert part.ar100 is not None
    assert part.ar100 < (whole.ar100 or 0)
    assert sum(c.truths for c in part.per_class.values()) == sum(
        c.truths for c in whole.per_class.values()
    )


def test_panoptic_images_without_predictions_are_misses(
    panoptic: GroundTruth, predicted: Path
) -> None:
    file = predicted / "panoptic.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({A: document[A][:1]}))
    with pytest.raises(DataError, match="no predictions for 12 of 13 images"):
        score(file, panoptic)
    scored = score(file, panoptic, allow_missing=True)
    assert scored.missing == 12
    figures = scored.compute().panoptic
    assert figures is not None
    segments = [s for i in panoptic.images if isinstance(i, Sample) for s in i.segments]
    assert sum(c.tp + c.fn for c in figures.per_class.values()) == sum(
        not s.is_crowd for s in segments
    )


def test_results_of_another_kind_than_the_truth_are_refused(
    few: GroundTruth, golden: Path, save: Save
) -> None:
    with pytest.raises(DataError, match="has no ground truth for panoptic; it has boxes, inst"):
        score(golden / "panoptic-eval" / "panoptic.json", few)
    with pytest.raises(DataError, match=r"expected object . array.*, got int"):
        score(save(3), few)
