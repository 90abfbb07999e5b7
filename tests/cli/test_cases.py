"""Single situations from public bug reports, each with what must come out, on the command line."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("input", "boxes,instances", {"boxes": 0.308, "instances": 0.365}),
        ("input-square-o1", "boxes,instances", {"boxes": 0.424, "instances": 0.462}),
        ("input-panoptic", "panoptic", {"pq": 0.770}),
    ],
)
def test_annotations_of_stored_images_that_exif_turns_are_scored_in_their_frame(
    panodetr: Program, cases: Path, tmp_path: Path, name: str, task: str, expected: dict[str, float]
) -> None:
    """pycocotools and panopticapi's rules give these on the same predictions."""
    run = "eval", "--data", cases / "B1" / name, "--model", "nuclei", "--task", task
    done = panodetr(*run, "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    if "pq" in expected:
        assert found["pq"] == pytest.approx(expected["pq"], abs=0.0006)
        return
    for key, value in expected.items():
        assert found[key]["ap"] == pytest.approx(value, abs=0.0006)


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
    assert "has 150 objects, and the model has 50 queries: it cannot find more" in done.stdout
