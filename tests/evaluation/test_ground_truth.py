from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panodetr.data.convert import Target, convert_data
from panodetr.data.dataset import Dataset
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import panoptic_objects
from panodetr.data.samples import InstanceImage, Sample
from panodetr.errors import DataError
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.panoptic_quality import object_segments

from .conftest import Annotator, box


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


def test_panoptic_truth_serves_every_task_and_is_joined_with_instances_by_image(
    panoptic: Path,
) -> None:
    truth = GroundTruth.open(panoptic, None)
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    assert len(truth.segment_categories) == 133
    assert len(truth.object_categories) == 80
    assert all(image.objects is None for image in truth.images)
    add_instances(panoptic)
    truth = GroundTruth.open(panoptic, None)
    assert len(truth.images) == 13
    assert all(isinstance(i, Sample) and i.objects is not None for i in truth.images)


def test_both_must_have_the_same_images(panoptic: Path) -> None:
    images = json.loads((panoptic / "panoptic.json").read_text())["images"]
    add_instances(panoptic, images=images[1:])
    odd = images[0]["id"]
    with pytest.raises(DataError, match=f"image {odd} is in only one of the panoptic and the inst"):
        GroundTruth.open(panoptic, None)
    images[0]["height"] += 1  # the image's own counts
    add_instances(panoptic, images=images)
    truth = GroundTruth.open(panoptic, None).images[0]
    assert truth.size == (images[0]["height"] - 1, images[0]["width"])


def test_the_objects_of_a_panoptic_truth_are_its_things(nuclei: GroundTruth) -> None:
    sample = nuclei.images[0]
    assert isinstance(sample, Sample)
    ids = read_ids(sample)
    found = panoptic_objects(sample, ids, {1})
    assert len(found) == len(sample.segments) - 1  # all but the background
    for truth, segment in zip(found, sample.segments, strict=False):
        ys, xs = np.nonzero(ids == segment.id)
        size = [np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert truth["bbox"] == [xs.min(), ys.min(), *size]
        assert truth["area"] == segment.area == len(xs)


def test_missing_images_are_counted_and_a_file_is_read_without_any(
    panoptic: Path, shared_data: Path
) -> None:
    for image in sorted((panoptic / "images").iterdir())[:3]:
        image.unlink()
    with pytest.raises(DataError, match=r"3 of 13 images are missing, first .*--allow-missing"):
        GroundTruth.open(panoptic, None)
    truth = GroundTruth.open(panoptic, None, allow_missing=True)
    assert (len(truth.images), truth.left_out) == (10, 3)
    shutil.rmtree(panoptic / "images")
    with pytest.raises(DataError, match="13 of 13 images are missing"):
        GroundTruth.open(panoptic, None, allow_missing=True)
    truth = GroundTruth.read(panoptic / "panoptic.json")
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    instances = GroundTruth.read(shared_data / "coco-instances" / "instances.json")
    assert instances.tasks() == ("boxes", "instances")


def test_what_is_no_truth_is_named(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    for text, message in (
        ('{"annotations": []}', "object missing required field images"),
        ("[]", "expected object, got array"),
    ):
        results.write_text(text)
        with pytest.raises(DataError, match=message):
            GroundTruth.read(results)
    with pytest.raises(DataError, match="holds no data set; expected one of these: panoptic_NAME"):
        GroundTruth.open(tmp_path, None)


@pytest.fixture(scope="session")
def id_maps(nuclei: GroundTruth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nuclei as a folder of id maps."""
    folder = tmp_path_factory.mktemp("id-maps")
    masks = folder / "val" / "masks" / "nucleus"
    masks.mkdir(parents=True)
    (folder / "val" / "images").mkdir()
    for image in nuclei.images:
        shutil.copy(image.path, folder / "val" / "images")
        assert isinstance(image, Sample)
        ids = read_ids(image)
        background = [s.id for s in image.segments if s.category_id != 1]
        ids[np.isin(ids, background)] = 0
        Image.fromarray(ids.astype(np.uint16)).save(masks / f"{image.path.stem}.png")
    return folder


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_id_maps_give_the_figures_of_panoptic_things(
    nuclei: GroundTruth, id_maps: Path, shift: int
) -> None:
    truth = GroundTruth.open(id_maps, None)
    assert truth.tasks() == TASKS
    # The model also finds background, which such truth says nothing of.
    model = Annotator(nuclei, shift=shift)
    figures = evaluate(model, truth, TASKS).compute()
    expected = evaluate(model, nuclei, TASKS).compute()
    assert figures.instances is not None
    assert expected.instances is not None
    assert figures.instances.ap == expected.instances.ap
    assert figures.panoptic is not None
    assert expected.panoptic is not None
    assert figures.panoptic.things == expected.panoptic.things
    assert figures.panoptic.stuff.classes == 0


@pytest.mark.parametrize("to", ["yolo", "coco-instances"])
def test_every_format_gives_the_same_ground_truth(
    id_maps: Path, to: Target, tmp_path: Path
) -> None:
    convert_data(id_maps, tmp_path / "out", to, class_name="", progress=lambda done, of: None)
    before, after = GroundTruth.open(id_maps, None), GroundTruth.open(tmp_path / "out", None)
    assert [category.name for category in after.object_categories] == ["nucleus"]
    for image, its in zip(before.images, after.images, strict=True):
        ids, its_ids = (object_segments(i.objects or (), i.size)[0] for i in (image, its))
        np.testing.assert_array_equal(ids, its_ids)


def test_unreadable_images_are_named(id_maps: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(id_maps, tmp_path / "broken"))
    image = min((folder / "val" / "images").iterdir())
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"1 images of .* cannot be read, first: .*{image.name}"):
        GroundTruth.open(folder, None)


def test_objects_without_masks_are_no_segments(nuclei: GroundTruth) -> None:
    bare = box(1, 1, (0, 0, 4, 4))
    del bare["segmentation"]
    image = InstanceImage(image_id=1, path=Path("1.png"), size=(20, 20), objects=(bare,))
    data = Dataset(
        folder=nuclei.folder,
        split="",
        format="coco-instances",
        categories=nuclei.segment_categories[:1],
        samples=(image,),
        has_masks=False,
    )
    assert GroundTruth.of_data(data).tasks() == ("boxes",)
