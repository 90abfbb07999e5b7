from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panodetr.data.masks import panoptic_objects
from panodetr.data.panoptic import read_ids
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth


@pytest.fixture
def panoptic(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of a real panoptic data set without splits."""
    return Path(shutil.copytree(shared_data / "coco-panoptic", tmp_path / "coco"))


def add_instances(folder: Path, **changes: Any) -> None:
    """Give a panoptic data set an instance JSON of the same images, without objects."""
    document = json.loads((folder / "panoptic.json").read_text())
    things = [{"id": c["id"], "name": c["name"]} for c in document["categories"] if c["isthing"]]
    images = document["images"]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": [], "categories": things, **changes})
    )


def test_panoptic_truth_alone_serves_every_task(panoptic: Path) -> None:
    truth = GroundTruth.open(panoptic, None)
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    assert len(truth.segment_categories) == 133
    assert len(truth.object_categories) == 80
    assert all(image.instances is None for image in truth.images)


def test_instance_truth_alone_serves_two(coco: GroundTruth) -> None:
    assert coco.tasks() == ("boxes", "instances")
    assert coco.segment_categories == ()


def test_both_are_joined_by_image(panoptic: Path) -> None:
    add_instances(panoptic)
    truth = GroundTruth.open(panoptic, None)
    assert len(truth.images) == 13
    assert all(image.panoptic and image.instances for image in truth.images)


def test_both_must_have_the_same_images(panoptic: Path) -> None:
    images = json.loads((panoptic / "panoptic.json").read_text())["images"]
    add_instances(panoptic, images=images[1:])
    odd = images[0]["id"]
    with pytest.raises(DataError, match=f"image {odd} is in only one of the panoptic and the inst"):
        GroundTruth.open(panoptic, None)
    images[0]["height"] += 1
    add_instances(panoptic, images=images)
    with pytest.raises(DataError, match=f"image {odd} is .* expected one height and width"):
        GroundTruth.open(panoptic, None)


def test_the_objects_of_a_panoptic_truth_are_its_things(nuclei: GroundTruth) -> None:
    sample = nuclei.images[0].panoptic
    assert sample is not None
    ids = read_ids(sample)
    found = panoptic_objects(sample, ids, {1})
    assert len(found) == len(sample.segments) - 1  # all but the background
    for truth, segment in zip(found, sample.segments, strict=False):
        ys, xs = np.nonzero(ids == segment.id)
        size = [np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert truth["bbox"] == [xs.min(), ys.min(), *size]
        assert truth["area"] == segment.area == len(xs)


def test_missing_images_are_counted(panoptic: Path) -> None:
    for image in sorted((panoptic / "images").iterdir())[:3]:
        image.unlink()
    with pytest.raises(DataError, match=r"3 of 13 images are missing, first .*--allow-missing"):
        GroundTruth.open(panoptic, None)
    truth = GroundTruth.open(panoptic, None, allow_missing=True)
    assert (len(truth.images), truth.left_out) == (10, 3)


def test_a_data_set_without_any_image_is_refused(panoptic: Path) -> None:
    shutil.rmtree(panoptic / "images")
    with pytest.raises(DataError, match="13 of 13 images are missing"):
        GroundTruth.open(panoptic, None, allow_missing=True)


def test_a_file_is_read_without_its_images(panoptic: Path, shared_data: Path) -> None:
    shutil.rmtree(panoptic / "images")
    truth = GroundTruth.read(panoptic / "panoptic.json")
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    instances = GroundTruth.read(shared_data / "coco-instances" / "instances.json")
    assert instances.tasks() == ("boxes", "instances")


def test_what_is_no_truth_is_named(golden: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text('{"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]}')
    with pytest.raises(DataError, match=r'results.json has no "images"; expected the ground truth'):
        GroundTruth.read(results)
    results.write_text("[]")
    with pytest.raises(DataError, match="holds a list; expected a JSON object"):
        GroundTruth.read(results)


def test_a_folder_without_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"panoptic_val.json is missing; splits in .*: none"):
        GroundTruth.open(tmp_path, None)
