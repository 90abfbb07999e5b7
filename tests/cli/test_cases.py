"""Single situations from public bug reports, each with what must come out, on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panodetr.data.dataset import open_data
from panodetr.data.samples import InstanceImage

from .conftest import Program


@pytest.fixture
def cases(shared_data: Path) -> Path:
    return shared_data / "quirks" / "cases"


def test_a_category_id_beyond_a_float_and_an_id_that_is_a_text(tmp_path: Path) -> None:
    number = 2**53 + 1
    found = {
        "id": str(uuid.UUID(int=7)), "image_id": 1, "category_id": number, "area": 0,
        "bbox": [499, 121, 177, 80], "segmentation": None, "iscrowd": 0,
    }  # fmt: skip
    image = {"id": 1, "file_name": "a.png", "width": 800, "height": 600}
    document = {"images": [image], "annotations": [found]}
    document["categories"] = [{"id": number, "name": "blob"}]
    Image.new("RGB", (800, 600)).save(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(json.dumps(document))
    data = open_data(tmp_path)
    assert [(category.id, category.name) for category in data.categories] == [(number, "blob")]
    (sample,) = data.samples
    assert isinstance(sample, InstanceImage)
    (truth,) = sample.objects
    assert (truth["bbox"], truth["area"]) == ([499, 121, 177, 80], 177 * 80)
    assert truth["category_id"] == number


@pytest.mark.parametrize("name", ["input", "input-square-o1"])
def test_boxes_and_masks_of_turned_images_are_scored_in_their_annotations_frame(
    panodetr: Program, cases: Path, tmp_path: Path, name: str
) -> None:
    """The written predictions score the same in pycocotools, which knows no EXIF."""
    run = "eval", "--data", cases / "B1" / name, "--model", "nuclei", "--task", "boxes,instances"
    done = panodetr(*run, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    for task in ("boxes", "instances"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(cases / "B1" / name / "instances.json")
            predicted = truth.loadRes(str(tmp_path / f"{task}.json"))
            counted = COCOeval(truth, predicted, "bbox" if task == "boxes" else "segm")
            counted.evaluate()
            counted.accumulate()
            counted.summarize()
        assert found[task]["ap"] == pytest.approx(counted.stats[0], abs=1e-6)
        assert found[task]["ap"] > 0.3  # in another frame nearly nothing matches


def test_segments_of_a_turned_image_are_scored_in_their_annotations_frame(
    panodetr: Program, cases: Path, tmp_path: Path
) -> None:
    run = "eval", "--data", cases / "B1" / "input-panoptic", "--model", "nuclei"
    done = panodetr(*run, "--task", "panoptic", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["pq_things"] > 0.5  # in another frame nearly nothing matches


def test_each_page_is_an_image(panodetr: Program, cases: Path, tmp_path: Path) -> None:
    inputs = [cases / "B8" / "input" / name for name in ("stack.tif", "moving.gif")]
    done = panodetr("segment", *inputs, "--json", "--model", "nuclei")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [sum(s["isthing"] for s in one["segments_info"]) for one in found]
    assert counts == [1, 2, 3, 1, 2, 3]


def test_a_run_warns_first_of_more_objects_than_queries(panodetr: Program, cases: Path) -> None:
    run = "train", "finetune", "--data", cases / "D4" / "input", "--set", "start=nuclei"
    done = panodetr(*run, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "has 150 objects, and the model has 90 queries: it cannot find more" in done.stdout


def test_ids_of_other_programs_are_scored_where_only_0_is_void(
    panodetr: Program, cases: Path, tmp_path: Path
) -> None:
    case = cases / "C3" / "input"
    run = "eval", "--predictions", case / "pred.json", "--ground-truth", case / "truth.json"
    done = panodetr(*run, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["pq"] == 1
