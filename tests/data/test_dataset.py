from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.data.dataset import Format, Source, open_data, read_objects
from panodetr.data.masks import present_ids
from panodetr.data.targets import Objects
from panodetr.errors import DataError, PanodetrError

from .conftest import write_image

TRIANGLE = [[2, 2, 12, 2, 2, 12]]
SQUARE = {"size": [20, 20], "counts": [0, 100, 300]}  # the five columns at the left


def objects_of(folder: Path, place: int = 0, format: Format | None = None) -> Objects:
    data = open_data(folder, format=format)
    return read_objects(data.samples[place], data.index_of, with_masks=data.has_masks)


def write_overlap(folder: Path) -> Path:
    """One image with a large object, a small one on its rim, and a crowd over all of it."""
    annotations = [
        {"segmentation": TRIANGLE, "bbox": [2, 2, 10, 10], "area": 50},
        {"segmentation": SQUARE, "bbox": [0, 0, 5, 20], "area": 100},
        {"segmentation": {"size": [20, 20], "counts": [0, 400]}, "bbox": [0, 0, 20, 20],
         "area": 400, "iscrowd": 1},
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, start=1):
        annotation |= {"id": number, "image_id": 5, "category_id": 3}
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(folder / "images" / "a.png")
    document = {
        "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 20}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def test_every_format_is_found_by_what_is_there(
    id_folder: Path, yolo_folder: Path, boxes_folder: Path, shared_data: Path
) -> None:
    opened = {
        "id-maps": open_data(id_folder),
        "yolo": open_data(yolo_folder),
        "coco-instances": open_data(boxes_folder),
        "coco-panoptic": open_data(shared_data / "nuclei"),
    }
    assert {name: data.format for name, data in opened.items()} == {name: name for name in opened}
    assert opened["coco-panoptic"].split == "train"
    assert opened["coco-instances"].split == "val2017"  # the only one
    assert open_data(boxes_folder, "val").split == "val2017"
    assert open_data(shared_data / "nuclei", "val").split == "val"
    assert list(Source(yolo_folder).find("yolo")) == ["train", "val"]


def test_boxes_without_masks_have_no_id_map_and_leave_crowds_out(boxes_folder: Path) -> None:
    data = open_data(boxes_folder)
    assert not data.has_masks
    objects = objects_of(boxes_folder)
    assert objects.ids is None
    assert objects.boxes is not None
    assert objects.boxes.tolist() == [[1, 2, 7.5, 9]]
    assert objects.classes.tolist() == [1]
    assert objects_of(boxes_folder, 2).classes.shape == (0,)  # an image without objects is legal


def test_the_smaller_object_is_on_top_and_boxes_stay_as_annotated(tmp_path: Path) -> None:
    objects = objects_of(write_overlap(tmp_path / "data"))
    assert objects.ids is not None
    assert objects.boxes is not None
    assert objects.boxes.tolist() == [[2, 2, 12, 12], [0, 0, 5, 20]]
    assert present_ids(objects.ids).tolist() == [0, 1, 2]  # the crowd is not drawn
    assert objects.ids[3, 3] == 1  # where both are: the triangle has half the pixels
    assert (objects.ids[:, :5] != 0).all()
    assert objects.ids[15, 15] == 0


def test_an_object_without_a_mask_is_drawn_as_its_box_where_most_have_masks(
    tmp_path: Path,
) -> None:
    folder = write_overlap(tmp_path / "data")
    document = json.loads((folder / "instances.json").read_text())
    document["annotations"][1]["segmentation"] = []
    (folder / "instances.json").write_text(json.dumps(document))
    data = open_data(folder)
    assert data.has_masks
    assert ["1 of 2 objects have no mask" in note for note in data.notes] == [True]
    ids = objects_of(folder).ids
    assert ids is not None
    assert (ids == 2).sum() == 100 - (ids[:, :5] == 1).sum()
    document["annotations"][0]["segmentation"] = None
    (folder / "instances.json").write_text(json.dumps(document))
    assert not open_data(folder).has_masks
    assert objects_of(folder).ids is None


def test_id_maps_of_16_bits_are_objects_of_the_class_that_their_folder_names(
    id_folder: Path,
) -> None:
    data = open_data(id_folder)
    assert [category.name for category in data.categories] == ["cell"]
    assert [sample.image_id for sample in data.samples] == [1, 2, 3]
    objects = objects_of(id_folder)
    assert objects.boxes is None
    assert objects.segment_ids.tolist() == [3, 7, 300]
    assert objects.classes.tolist() == [0, 0, 0]
    (id_folder / "masks" / "cell").rename(id_folder / "other")
    (id_folder / "masks").rmdir()
    (id_folder / "other").rename(id_folder / "masks")
    assert [c.name for c in open_data(id_folder, class_name="blob").categories] == ["blob"]


@pytest.mark.parametrize("mode", ["L", "P", "I", "1"])
def test_id_maps_may_have_other_kinds_of_whole_numbers(tmp_path: Path, mode: str) -> None:
    ids = np.zeros((8, 9), np.uint8)
    ids[2:4] = 1
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "masks").mkdir()
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "images" / "a.jpg")
    picture = Image.fromarray(ids)
    if mode == "P":
        picture.putpalette([0, 0, 0, 200, 10, 10])
    elif mode == "1":
        picture = Image.fromarray(ids > 0)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "train" / "masks" / "a.tif")
    objects = objects_of(tmp_path)
    assert objects.ids is not None
    np.testing.assert_array_equal(objects.ids, ids)


def test_a_folder_with_both_truths_of_coco_gives_the_one_that_is_asked_for(
    shared_data: Path, tmp_path: Path
) -> None:
    for name in ("images", "panoptic", "panoptic.json"):
        (tmp_path / name).symlink_to(shared_data / "coco-panoptic" / name)
    panoptic = json.loads((tmp_path / "panoptic.json").read_text())
    categories = [{"id": 1, "name": "person"}]
    box = {"id": 1, "image_id": panoptic["images"][0]["id"], "category_id": 1}
    box |= {"bbox": [1, 1, 5, 5], "area": 25}
    document = {"images": panoptic["images"], "annotations": [box], "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(document))
    assert open_data(tmp_path).format == "coco-panoptic"
    data = open_data(tmp_path, format="coco-instances")
    assert (data.format, len(data.categories)) == ("coco-instances", 1)


def test_what_is_not_there_is_refused_with_what_is(
    tmp_path: Path, yolo_folder: Path, id_folder: Path
) -> None:
    (tmp_path / "empty").mkdir()
    refused: tuple[tuple[Path, str | None, Format | None, str], ...] = (
        (tmp_path / "nowhere", None, None, "is no folder"),
        (tmp_path / "empty", None, None, "holds no data set; expected one of these"),
        (yolo_folder, "test", None, r"there is no split 'test'; it has train, val"),
        (yolo_folder, None, "coco-panoptic", "holds no data set"),
        (id_folder, "train", None, r'no split \'train\'; it has "" \(no split\)'),
    )
    for folder, split, format, message in refused:
        with pytest.raises(DataError, match=message):
            open_data(folder, split, format=format)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda f: [p.write_bytes(b"GIF") for p in (f / "images").iterdir()],
        r"none of 3 images can be read, the first: .*1\.png: not an image",
    ),
    (lambda f: (f / "images/2.jpg").write_bytes(b""), "several images called 2"),
    (
        lambda f: shutil.copytree(f / "masks/cell", f / "masks/wall"),
        "has folders for cell, wall; expected one class",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_folders_of_id_maps_are_refused(
    id_folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(id_folder)
    with pytest.raises(PanodetrError, match=message):
        open_data(id_folder)


def test_images_that_are_not_id_maps_are_refused_when_they_are_read(id_folder: Path) -> None:
    path = id_folder / "masks/cell/1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1\.png cannot be read as an id map"):
        objects_of(id_folder)
    path.unlink()
    for picture, message in (
        (Image.new("L", (5, 5)), "is 5x5 pixels; expected 30x20"),
        (Image.new("RGB", (30, 20), (1, 2, 3)), "has 1 colours, of objects or of classes"),
        (Image.new("I", (30, 20), -4), "has negative ids"),
    ):
        picture.save(path.with_suffix(".tif"))
        with pytest.raises(DataError, match=message):
            objects_of(id_folder)


@pytest.mark.parametrize("name", ["yolo", "cells"])
def test_images_with_broken_headers_are_left_out_and_named(
    id_folder: Path, yolo_folder: Path, name: str
) -> None:
    folder = {"yolo": yolo_folder, "cells": id_folder}[name]
    if name == "yolo":
        (folder / "labels/train/000000000009.txt").write_text("0 0.2 0.2 0.8 0.2 0.8 0.8\n")
    whole = open_data(folder)
    image = whole.samples[0].path
    image.write_bytes(image.read_bytes()[:20])
    data = open_data(folder)
    kept = [(sample.image_id, sample.path, sample.size) for sample in whole.samples[1:]]
    assert [(s.image_id, s.path, s.size) for s in data.samples] == kept
    assert [message.startswith(f"{image}: not an image") for message in data.unreadable] == [True]


@pytest.mark.parametrize("name", ["images/a.jpg", "labels/a.txt", "package.json"])
def test_a_file_that_is_no_annotation_is_refused_beside_a_data_set(
    tmp_path: Path, name: str
) -> None:
    write_image(tmp_path / "images" / "a.jpg", (48, 64))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .3 .3 .2 .2\n")
    (tmp_path / "package.json").write_text('{"name": "a"}')
    assert len(open_data(tmp_path).samples) == 1
    with pytest.raises(DataError, match=rf"{name} holds no annotations; expected a JSON"):
        open_data(tmp_path / name)
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "marks.xml").write_text("<annotations>")
    with pytest.raises(
        DataError, match=r"marks\.xml is CVAT's own XML, not COCO 1\.0: datum convert"
    ):
        open_data(tmp_path / "marks.xml")


def test_a_broken_annotation_file_that_is_named_is_said_to_be_broken(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    file.write_text('{"images": [')
    for folder, named in ((file, None), (tmp_path, file)):
        with pytest.raises(DataError, match=r"all\.json: it is not valid JSON"):
            open_data(folder, annotations=named)
