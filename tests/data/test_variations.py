"""What tools write beside the usual: each is read as it is meant, noted, or refused in one line."""

from __future__ import annotations

import base64
import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from panodetr.data.check import Inspection, check_split
from panodetr.data.dataset import Source
from panodetr.data.samples import InstanceImage
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth

from .conftest import write_image

SIZE = (48, 64)
BOXES = ((4, 5, 20, 15), (30, 20, 16, 12))
"""Of the two objects of each image, a cat and a dog: x, y, width, height."""


def inspect(folder: Path) -> dict[str, Inspection]:
    """Check all splits of a folder."""
    source = Source(folder)
    format, splits = source.splits(None)
    return {split: check_split(source, split, format, lambda done, of: None) for split in splits}


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Count each split's images and objects, and see that nothing is wrong."""
    found = inspect(folder)
    assert [error for one in found.values() for error in one.faults.errors] == []
    return {split: (one.images, one.objects.total()) for split, one in found.items()}


def said(folder: Path) -> str:
    """Give all that is said of a folder."""
    found = inspect(folder).values()
    return "\n".join(finding.message for one in found for finding in one.findings)


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def coco(names: list[str]) -> dict[str, Any]:
    """Make a COCO JSON of boxes."""
    images = [
        {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(names)
    ]
    annotations = [
        {"id": 2 * image + place, "image_id": image, "category_id": place, "bbox": list(box)}
        for image in range(len(names))
        for place, box in enumerate(BOXES)
    ]
    classes = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": classes}


def voc(name: str) -> str:
    """Make an XML of VOC's boxes."""
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
        f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
        for label, (x, y, width, height) in zip(("cat", "dog"), BOXES, strict=True)
    )
    return f"<annotation><filename>{name}</filename>{objects}</annotation>"


def labelme(name: str | None) -> dict[str, Any]:
    """Make a labelme JSON."""
    shapes = [
        {"label": label, "points": [[x, y], [x + width, y + height]], "shape_type": "rectangle"}
        for label, (x, y, width, height) in zip(("cat", "dog"), BOXES, strict=True)
    ]
    return {"imagePath": name, "shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}


@pytest.mark.parametrize("names", ["p{}_jpg.rf.a{}", "my photo {}{}", "{}{}"])
def test_split_lists_of_voc_name_images_with_dots_spaces_and_numbers(
    tmp_path: Path, names: str
) -> None:
    for number in range(3):
        name = names.format(number, number)
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg", SIZE)
        put(tmp_path / "Annotations" / f"{name}.xml", voc(f"{name}.jpg"))
    lines = [names.format(number, number) for number in range(3)]
    put(tmp_path / "ImageSets" / "Main" / "train.txt", f"{lines[0]}\r\n{lines[1]}.jpg\r\n")
    put(tmp_path / "ImageSets" / "Main" / "val.txt", f"{lines[2]} -1\n")
    assert counts(tmp_path) == {"train": (2, 4), "val": (1, 2)}


@pytest.mark.parametrize("suffix", ["xml", "json"])
def test_files_of_splits_may_have_copies_elsewhere(tmp_path: Path, suffix: str) -> None:
    for name, split in (("a", "train"), ("b", "val")):
        write_image(tmp_path / split / f"{name}.jpg", SIZE)
        image = f"{name}.jpg"
        text = voc(image) if suffix == "xml" else json.dumps(labelme(image))
        put(tmp_path / split / f"{name}.{suffix}", text)
        put(tmp_path / "Annotations" / f"{name}.{suffix}", text)
    assert counts(tmp_path) == {"train": (1, 2), "val": (1, 2)}
    put(tmp_path / "Annotations" / f"b.{suffix}", text.replace("dog", "cow"))
    assert set(inspect(tmp_path)) == {"train", "val", ""}


def test_roboflow_adds_one_to_each_corner(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    edges = "<xmin>45</xmin><ymin>1</ymin><xmax>65</xmax><ymax>49</ymax>"
    source = "<source><database>roboflow.com</database></source>"
    box = f"<object><name>cat</name><bndbox>{edges}</bndbox></object>"
    put(tmp_path / "a.xml", f"<annotation><filename>a.jpg</filename>{source}{box}</annotation>")
    assert inspect(tmp_path)[""].smallest == (20 * 48, f"{tmp_path / 'a.jpg'} (image 1)")
    assert "cut at the border" not in said(tmp_path)


def test_corners_of_voc_may_be_in_any_order(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    text = voc("a.jpg").replace("min>", "m>").replace("max>", "min>").replace("m>", "max>")
    put(tmp_path / "a.xml", text.replace("mimax>", "min>"))
    found = inspect(tmp_path)[""]
    assert found.smallest is not None
    assert found.smallest[0] == 17 * 13
    assert "2 boxes have their corners in another order" in said(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "label"),
    [("iso-8859-1", "Kätzchen"), ("utf-16", "Kätzchen"), ("utf-8-sig", "猫"), ("gb2312", "猫")],
)
def test_xmls_are_read_as_they_say_they_are_encoded(
    tmp_path: Path, encoding: str, label: str
) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    put(tmp_path / "a.xml", head + voc("a.jpg").replace("cat", label), encoding)
    assert set(inspect(tmp_path)[""].objects) == {label, "dog"}


def test_cvats_own_xml_is_none_of_voc(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg", SIZE)
    put(tmp_path / "annotations.xml", "<annotations><image name='a.jpg'/></annotations>")
    with pytest.raises(DataError, match="convert with datumaro"):
        inspect(tmp_path)


def test_an_object_without_a_box_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "a.xml", voc("a.jpg").replace("xmin", "left"))
    assert "no xmin" in said(tmp_path)


@pytest.mark.parametrize("name", ["", None, "renamed.jpg"])
def test_labelmes_image_may_be_called_as_the_json(tmp_path: Path, name: str | None) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "a.json", json.dumps(labelme(name)))
    assert counts(tmp_path) == {"": (1, 2)}
    assert "1 images have another name than stated" in said(tmp_path)


def test_shapes_of_labelme_without_a_label_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = labelme("a.jpg")
    document["shapes"].append(document["shapes"][0] | {"label": ""})
    put(tmp_path / "a.json", json.dumps(document))
    assert counts(tmp_path) == {"": (1, 2)}
    assert "1 shapes have no label, and are left out" in said(tmp_path)


def test_rotated_boxes_of_labelme_are_polygons(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = labelme("a.jpg")
    points = [[4, 5], [24, 9], [22, 20], [2, 16]]
    document["shapes"][0] |= {"shape_type": "rotation", "points": points, "label": 7}
    put(tmp_path / "a.json", json.dumps(document))
    assert inspect(tmp_path)[""].objects == {"7": 1, "dog": 1}


@pytest.mark.parametrize("broken", [False, True])
def test_an_image_may_be_in_labelmes_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_image(tmp_path / "x" / "a.png", SIZE)
    image = base64.b64encode((tmp_path / "x" / "a.png").read_bytes()).decode()
    document = labelme("a.png") | {"imageData": image[: 9 if broken else None]}
    put(tmp_path / "set" / "a.json", json.dumps(document))
    if broken:
        assert "its imageData is broken" in said(tmp_path / "set")
        return
    assert counts(tmp_path / "set") == {"": (1, 2)}
    assert "1 images are in their JSONs alone" in said(tmp_path / "set")


def test_an_image_that_two_files_annotate_is_noted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "a.json", json.dumps(labelme("a.jpg")))
    put(tmp_path / "b.json", json.dumps(labelme("a.jpg")))
    assert "1 image files are listed twice" in said(tmp_path)


def test_a_json_may_be_utf_16(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "train.json", json.dumps(coco(["a.jpg"])), "utf-16")
    assert counts(tmp_path) == {"train": (1, 2)}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("{}_set", "test"), ("{} (1)", "test"), ("dataset-{}", "test"), ("coco_{}", "test")),
        *(("{}_v2", "test"), ("01_{}", "test"), ("{}ing", "test"), ("{}_images", "test")),
        *(
            ("task_{}", "test"),
            ("{} annot", "test"),
            ("{}", "dev"),
            ("{}", "eval"),
            ("{}_set", "evaluation"),
        ),
    ],
)
def test_folders_of_splits_have_more_words(tmp_path: Path, name: str, other: str) -> None:
    for split in ("train", other):
        write_image(tmp_path / name.format(split) / f"{split}.jpg", SIZE)
        document = json.dumps(coco([f"{split}.jpg"]))
        put(tmp_path / name.format(split) / "_annotations.coco.json", document)
    assert counts(tmp_path) == {"train": (1, 2), "test" if other == "test" else "val": (1, 2)}


@pytest.mark.parametrize(
    ("own", "other"),
    [
        *(("labelme", other) for other in ("coco", "panoptic", "yaml")),
        *(("voc", other) for other in ("coco", "panoptic", "yaml", "labelme", "via")),
        *(("yolo", other) for other in ("coco", "panoptic")),
    ],
)
def test_annotations_of_other_images_give_way(tmp_path: Path, own: str, other: str) -> None:
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.jpg", SIZE)
        if own == "yolo":
            put(tmp_path / "labels" / f"{name}.txt", "0 .3 .3 .2 .2\n1 .6 .6 .2 .2\n")
        else:
            text = voc(f"{name}.jpg") if own == "voc" else json.dumps(labelme(f"{name}.jpg"))
            put(tmp_path / "images" / f"{name}.{'xml' if own == 'voc' else 'json'}", text)
    document = coco(["x.jpg", "y.jpg"])
    if other == "panoptic":
        document["annotations"] = [{"image_id": 0, "file_name": "x.png", "segments_info": []}]
    foreign: dict[str, str] = {
        "via": via("x.jpg", "cat"),
        "labelme": json.dumps(labelme("x.jpg")),
        "yaml": "train: ../coco128/train2017\nnames: [cat]\n",
    }
    name = "data.yaml" if other == "yaml" else "z/panoptic.json"
    put(tmp_path / name, foreign.get(other, json.dumps(document)))
    assert counts(tmp_path) == {"": (3, 6)}
    text = "1 annotation files list images that are not there, and are left out"
    assert f"{text}; it is: {tmp_path / name}" in said(tmp_path)
    assert len(GroundTruth.open(tmp_path, None).images) == 3


def test_of_two_annotation_files_that_counts_whose_images_are_there(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg", SIZE)
    put(tmp_path / "one.json", json.dumps(coco(["a.jpg"])))
    put(tmp_path / "other.json", json.dumps(coco(["b.jpg", "c.jpg"])))
    assert counts(tmp_path) == {"": (1, 2)}
    write_image(tmp_path / "images" / "b.jpg", SIZE)
    assert "expected one file a split: say which" in said(tmp_path)


def test_an_image_lies_below_folders_of_the_words_that_are_written(tmp_path: Path) -> None:
    for folder in ("prepared train", "prepared test"):
        write_image(tmp_path / folder / "a.jpg", SIZE, len(folder))
    put(tmp_path / "marks" / "a.json", json.dumps(labelme("train\\a.jpg")))
    assert counts(tmp_path) == {"": (1, 2)}
    put(tmp_path / "marks" / "a.json", json.dumps(labelme("photos\\a.jpg")))
    assert "which may be" in said(tmp_path)


@pytest.mark.parametrize("lists", [("images",), ("annotations",), ("images", "annotations")])
def test_lists_of_coco_may_be_mappings(tmp_path: Path, lists: tuple[str, ...]) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"])
    for name in lists:
        document[name] = {str(entry["id"]): entry for entry in document[name]}
    put(tmp_path / "train.json", json.dumps(document))
    assert counts(tmp_path) == {"train": (1, 2)}


def test_splits_that_are_read_as_one_are_noted(tmp_path: Path) -> None:
    names = ["train/a.jpg", "test/b.jpg"]
    for name in names:
        write_image(tmp_path / "data" / name, SIZE)
    put(tmp_path / "metadata.jsonl", "".join(line(f"data/{n}", labels=[0, 1]) for n in names))
    assert counts(tmp_path) == {"": (2, 4)}
    assert "images in folders of test and train are read as one split" in said(tmp_path)


@pytest.mark.parametrize("cut", ["truncated", "Infinity"])
def test_a_broken_json_of_one_split_is_named(tmp_path: Path, cut: str) -> None:
    write_image(tmp_path / "images" / "a.jpg", SIZE)
    text = json.dumps(coco(["a.jpg"]))
    put(tmp_path / "train.json", text)
    put(tmp_path / "val.json", text[:-9] if cut == "truncated" else text.replace("64", "Infinity"))
    assert "val.json: it is not valid JSON" in said(tmp_path)


def test_nan_in_a_json_is_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"])
    document["images"][0]["width"] = document["annotations"][0]["area"] = float("nan")
    put(tmp_path / "train.json", json.dumps(document))
    assert counts(tmp_path) == {"train": (1, 2)}


@pytest.mark.parametrize("form", ["corners", "parts", "parts with masks", "centres"])
def test_boxes_of_another_form_are_an_error(tmp_path: Path, form: str) -> None:
    document = coco(["a.jpg", "b.jpg"])
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        if form == "corners":
            entry["bbox"] = [x, y, x + width, y + height]
        elif form == "centres":
            entry["bbox"] = [x + 26, y + 22, width, height]
        else:
            entry["bbox"] = [x / SIZE[1], y / SIZE[0], width / SIZE[1], height / SIZE[0]]
        if form == "parts with masks":
            left, top, across, down = entry["bbox"]
            entry["segmentation"] = [[left, top, left + across, top, left, top + down]]
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name, SIZE)
    put(tmp_path / "train.json", json.dumps(document))
    expected = {"corners": "all fit as corners", "centres": "none if each is moved by half"}
    assert expected.get(form, "all 4 objects lie within 1 pixel") in said(tmp_path)


@pytest.mark.parametrize("reach", [1, 2])
def test_images_that_may_be_enlarged_are_an_error(tmp_path: Path, reach: int) -> None:
    document = coco(["a.jpg", "b.jpg"])
    for entry in document["annotations"]:
        entry["bbox"] = [reach * number for number in entry["bbox"]]
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name, (2 * SIZE[0], 2 * SIZE[1]))
    put(tmp_path / "train.json", json.dumps(document))
    enlarged = "2 of 2 images are larger than stated, by one factor" in said(tmp_path)
    assert enlarged == (reach == 1)


@pytest.mark.parametrize("box", ["0.05 0.1 0.35 0.4", "0.5 0.4 0.9 0.9"])
def test_boxes_of_yolo_that_are_corners_are_an_error(tmp_path: Path, box: str) -> None:
    for name in ("a", "b"):
        yolo(tmp_path, f"{name}.jpg", f"{name}.txt", f"0 {box}\n")
    expected = "2 of 2 boxes reach far out of their images" if box < "0.1" else "cut at the border"
    assert expected in said(tmp_path)


LISTED = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]


@pytest.mark.parametrize(
    ("ids", "categories"),
    [
        (("cat", "dog"), LISTED),
        (("cat", "dog"), [{"id": "cat", "name": "cat"}, {"id": "dog", "name": "dog"}]),
        (("cat", "dog"), ["cat", "dog"]),
        ((0, 1), ["cat", "dog"]),
        ((1, 2), ["cat", "dog"]),
        ((7, 9), {"7": "cat", "9": "dog"}),
        ((7, 9), {"cat": 7, "dog": 9}),
        (("7", "9"), {"cat": "7", "dog": "9"}),
        ((7, 9), {"cat": LISTED[0], "dog": LISTED[1]}),
        ((7, 9), [{"id": 7, "name": 0}, {"id": 9, "name": 1}]),
        ((7, 9), {"7": {"name": "cat"}, "9": {"name": "dog"}}),
    ],
)
def test_categories_of_coco_may_be_names(
    tmp_path: Path, ids: tuple[object, object], categories: object
) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document: dict[str, Any] = coco(["a.jpg"]) | {"categories": categories}
    for entry in document["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]
    put(tmp_path / "train.json", json.dumps(document))
    numbers = isinstance(categories, list) and categories[0] == {"id": 7, "name": 0}
    names = ("0", "1") if numbers else ("cat", "dog")
    assert inspect(tmp_path)["train"].objects == dict.fromkeys(names, 1)


def test_an_empty_list_of_categories_is_one_fault(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "train.json", json.dumps(coco(["a.jpg"]) | {"categories": []}))
    (fault,) = [f.message for f in inspect(tmp_path)["train"].findings if f.is_error]
    assert "has no categories; expected at least one" in fault


def test_names_that_may_count_from_0_or_1_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"]) | {"categories": ["cat", "dog"]}
    document["annotations"] = document["annotations"][1:]
    put(tmp_path / "train.json", json.dumps(document))
    assert r"the ids of objects (1) may count from 0 or 1" in said(tmp_path)


def test_images_of_coco_may_be_named_by_a_url_or_for_their_id(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "a.jpg", SIZE)
    document = coco([""])
    document["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/a.jpg"
    put(tmp_path / "lvis_v1_val.json", json.dumps(document))
    document = coco(["val2017/a.jpg"])
    for entry in document["annotations"]:
        entry["image_id"] = "val2017/a.jpg"
    put(tmp_path / "train.json", json.dumps(document))
    assert counts(tmp_path) == {"train": (1, 2), "val": (1, 2)}


def line(name: str, **objects: object) -> str:
    """Make a line of Hugging Face's imagefolder."""
    return json.dumps({"file_name": name, "objects": {"bbox": BOXES, **objects}}) + "\n"


@pytest.mark.parametrize("key", ["categories", "category", "category_id", "labels", "class_labels"])
def test_classes_of_an_imagefolder_have_several_keys(tmp_path: Path, key: str) -> None:
    write_image(tmp_path / "train" / "a.jpg", SIZE)
    write_image(tmp_path / "train" / "b.jpg", SIZE)
    lines = (
        line("a.jpg", id=[1, 2], **{key: ["cat", "dog"]}) + '{"file_name":"b.jpg","objects":null}'
    )
    put(tmp_path / "train" / "metadata.jsonl", lines, "utf-8-sig")
    assert counts(tmp_path) == {"train": (2, 2)}
    assert set(inspect(tmp_path)["train"].objects) == {"cat", "dog"}


OBJECTS = [
    {"bbox": list(box), "category": name} for box, name in zip(BOXES, ("cat", "dog"), strict=True)
]
COLUMNS = {"bboxes": list(map(list, BOXES)), "labels": ["cat", "dog"]}


@pytest.mark.parametrize("suffix", ["jsonl", "json.csv", "python.csv", "parquet"])
@pytest.mark.parametrize(
    "row", [{"objects": OBJECTS}, {"annotations": OBJECTS}, {"objects": COLUMNS}, COLUMNS]
)
def test_rows_of_an_imagefolder_have_several_forms(
    tmp_path: Path, suffix: str, row: dict[str, Any]
) -> None:
    write_image(tmp_path / "train" / "a.jpg", SIZE)
    path = tmp_path / "train" / f"metadata.{suffix.split('.')[-1]}"
    row = {"file_name": "a.jpg", **row}
    if suffix == "jsonl":
        put(path, json.dumps(row))
    elif suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        write = json.dumps if suffix == "json.csv" else str
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([row, [v if isinstance(v, str) else write(v) for v in row.values()]])
    assert counts(tmp_path) == {"train": (1, 2)}
    assert inspect(tmp_path)["train"].objects == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("objects", [{"categories": [0]}, {"kinds": [0, 1]}])
def test_boxes_without_a_class_each_are_a_fault(tmp_path: Path, objects: dict[str, Any]) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    put(tmp_path / "metadata.jsonl", line("a.jpg", **objects))
    assert "expected a list categories with a class a box" in said(tmp_path)


def test_an_imagefolder_may_have_several_lists(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / f"{name}.jpg", SIZE)
        put(tmp_path / name / "metadata.jsonl", line(f"{name}.jpg", categories=[0, 1]))
    assert counts(tmp_path) == {"": (2, 4)}


def yolo(
    folder: Path, image: str, label: str, text: str = "0 .3 .3 .2 .2\n1 .6 .6 .2 .2\n"
) -> None:
    """Write an image, its labels and the YAML."""
    write_image(folder / "images" / image, SIZE)
    put(folder / "labels" / label, text)
    put(folder / "data.yaml", "train: images\nnames: [cat, dog]\n")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("A.JPG", "a.TXT"),
        (unicodedata.normalize("NFD", "ü.jpg"), "ü.txt"),
        ("0a1b-my photo.jpg", "0a1b-my%20photo.txt"),
    ],
)
def test_labels_are_found_in_any_case_and_writing(tmp_path: Path, image: str, label: str) -> None:
    yolo(tmp_path, image, label)
    assert counts(tmp_path) == {"train": (1, 2)}


def row(form: str, box: tuple[float, ...]) -> str:
    """Make a row of YOLO's: a box with keypoints after it, or an oriented box."""
    x, y, width, height = (value / SIZE[1 - i % 2] for i, value in enumerate(box))
    numbers = [x + width / 2, y + height / 2, width, height]
    if form == "oriented":
        numbers = [x, y, x + width, y, x + width, y + height, x, y + height]
    else:
        count, each = map(int, form.split("x"))
        for number in range(1, count + 1):
            share = number / (count + 1)
            numbers += [x + share * width, y + share * height, number % 3][:each]
    return " ".join(map(str, numbers))


@pytest.mark.parametrize(
    ("form", "masks"), [("5x3", False), ("4x3", False), ("4x2", False), ("oriented", True)]
)
def test_rows_tell_keypoints_and_polygons_apart(tmp_path: Path, form: str, masks: bool) -> None:
    rows = "".join(f"{number} {row(form, box)}\n" for number, box in enumerate(BOXES))
    yolo(tmp_path, "a.jpg", "a.txt", rows)
    (found,) = inspect(tmp_path).values()
    assert (found.errors, found.objects, found.has_masks) == (0, {"cat": 1, "dog": 1}, masks)
    assert found.largest is not None
    assert found.largest[0] == pytest.approx(300)
    assert ("taken for keypoints" in said(tmp_path)) is not masks


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels.txt"])
def test_names_of_classes_are_those_nearest_to_the_labels(tmp_path: Path, name: str) -> None:
    yolo(tmp_path, "a.jpg", "a.txt")
    (tmp_path / "data.yaml").unlink()
    put(tmp_path / name, "x\ny\n")
    put(tmp_path / "labels" / "classes.txt", "0: cat\n1: dog\n")
    assert set(inspect(tmp_path)[""].objects) == {"cat", "dog"}
    assert f"labels/classes.txt; {tmp_path / name} lists others" in said(tmp_path)


def test_faults_that_are_alike_are_said_once(tmp_path: Path) -> None:
    for number in range(30):
        yolo(tmp_path, f"{number}.jpg", f"{number}.txt", "0 .3 .3 .2 .2 .9\n")
    (found,) = inspect(tmp_path).values()
    (error,) = [finding.message for finding in found.findings if finding.is_error]
    assert "has 5 numbers after its class (is the fifth a score, or an angle?" in error
    assert error.endswith("(30 faults are like this)")
    assert found.errors == 30


def test_an_image_that_lies_with_another_split_is_noted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "train" / "images" / f"{name}.jpg", SIZE)
        put(tmp_path / "train" / "labels" / f"{name}.txt", "0 .3 .3 .2 .2\n")
    put(tmp_path / "train.txt", "train/images/a.jpg")
    put(tmp_path / "val.txt", "val/images/b.jpg")
    put(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    assert "1 images of val are in the folder of another split" in said(tmp_path)


def test_labels_of_two_images_are_noted(tmp_path: Path) -> None:
    yolo(tmp_path, "a.jpg", "a.txt")
    write_image(tmp_path / "images" / "a.png", SIZE)
    assert "1 label files are of several images" in said(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("train", "train_labels", "train"),
        ("val_images", "val_labels", "val"),
        ("Images", "Labels", ""),
        ("Testing/Images", "Testing/Labels", "test"),
        ("images", "annotations", ""),
        ("images/train2017", "yolo_labels/train2017", "train2017"),
        ("images/val", "labels", "val"),
    ],
)
def test_labels_lie_in_folders_that_are_called_alike(
    tmp_path: Path, images: str, labels: str, split: str
) -> None:
    write_image(tmp_path / images / "a.jpg", SIZE)
    put(tmp_path / labels / "a.txt", "0 .3 .3 .2 .2\n")
    put(tmp_path / "other_labels" / "a.txt", "0 .3 .3 .2 .2\n0 .6 .6 .2 .2\n")
    write_image(tmp_path / "masks" / "a.png", SIZE)
    write_image(tmp_path / "noise" / "photos" / "a.png", SIZE)
    put(tmp_path / "names.yaml", "names: [cat]\n")
    assert counts(tmp_path) == {split: (1, 1)}
    assert set(inspect(tmp_path)[split].objects) == {"cat"}


def test_yamls_that_name_no_images_may_differ(tmp_path: Path) -> None:
    yolo(tmp_path, "a.jpg", "a.txt")
    (tmp_path / "data.yaml").unlink()
    for name in ("one", "other"):
        put(tmp_path / f"{name}.yaml", f"names: [{name}]\n")
    assert counts(tmp_path) == {"": (1, 2)}
    put(tmp_path / "data.yaml", "train: images\ntrain_labels: labels\nnames: [cat, dog]\n")
    assert counts(tmp_path) == {"train": (1, 2)}


@pytest.mark.parametrize("same", [True, False])
def test_copies_of_a_yaml_that_name_other_images_are_refused(tmp_path: Path, same: bool) -> None:
    for folder in ("a", "b"):
        put(tmp_path / folder / "data.yaml", "train: ../train\nnames: [cat]\n")
        train = tmp_path / ("." if same else folder) / "train"
        write_image(train / "images" / "c.jpg", SIZE)
        put(train / "labels" / "c.txt", "0 .3 .3 .2 .2\n")
    if same:
        assert counts(tmp_path) == {"train": (1, 1)}
    else:
        with pytest.raises(DataError, match="both name classes and images; say which"):
            inspect(tmp_path)


def test_pairs_of_cellpose_may_be_one_in_a_split(tmp_path: Path) -> None:
    for path in ("train/ä 0", "train/ö 1", "test/ä 0"):
        write_image(tmp_path / f"{path}_img.png", SIZE)
        Image.fromarray(np.eye(*SIZE, dtype=np.uint16)).save(tmp_path / f"{path}_masks.png")
    assert counts(tmp_path) == {"train": (2, 2), "test": (1, 1)}


@pytest.mark.parametrize(("image", "id_map"), [("img_{}", "mask_{}"), ("{}-image", "{}-Labels")])
def test_id_maps_have_other_words_in_their_names(tmp_path: Path, image: str, id_map: str) -> None:
    (tmp_path / "mask").mkdir()
    for name in ("a", "é 2"):
        write_image(tmp_path / "image" / f"{image.format(name)}.jpg", SIZE)
        pixels = np.eye(*SIZE, dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "mask" / f"{id_map.format(name)}.png")
    assert counts(tmp_path) == {"": (2, 2)}


@pytest.mark.parametrize("form", ["voc", "labelme"])
def test_an_image_that_is_called_as_another_ones_annotations_is_noted(
    tmp_path: Path, form: str
) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        write_image(tmp_path / f"{name}.jpg", SIZE)
        image = f"{other}.jpg"
        text = voc(image) if form == "voc" else json.dumps(labelme(image))
        put(tmp_path / f"{name}.{'xml' if form == 'voc' else 'json'}", text)
    assert "2 annotation files name another image" in said(tmp_path)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_mask_is_not_taken_for_an_image_that_is_gone(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.{ending}", SIZE)
        write_image(tmp_path / "masks" / f"{name}.png", SIZE)
    put(tmp_path / "train.json", json.dumps(coco([f"{name}.{ending}" for name in "abc"])))
    assert counts(tmp_path) == {"train": (3, 6)}
    (tmp_path / "images" / f"c.{ending}").unlink()
    assert counts(tmp_path) == {"train": (2, 4)}
    assert "1 of 3 listed images are not there" in said(tmp_path)


def test_splits_below_those_of_a_folder_are_another_data_set(tmp_path: Path) -> None:
    for folder in ("train", "val", "more/train"):
        write_image(tmp_path / folder / "images" / "a.jpg", SIZE)
        put(tmp_path / folder / "labels" / "a.txt", "0 .3 .3 .2 .2\n")
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1)}
    assert "1 images, first" in said(tmp_path)


def test_lists_of_other_classes_for_other_labels_are_refused(tmp_path: Path) -> None:
    for folder, names in (("a", "cat\ndog\n"), ("b", "cat\n")):
        write_image(tmp_path / folder / "images" / f"{folder}.jpg", SIZE)
        put(tmp_path / folder / "labels" / f"{folder}.txt", "1 .3 .3 .2 .2\n")
        put(tmp_path / folder / "classes.txt", names)
    assert inspect(tmp_path)[""].objects == {"cat": 0, "dog": 2}
    put(tmp_path / "b" / "classes.txt", "dog\n")
    with pytest.raises(DataError, match=r"classes\.txt list other classes; take one away"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("point", "boxed", "size"),
    [
        ("<x{0}>{1}</x{0}><y{0}>{2}</y{0}>", True, "<size><height>48</height></size>"),
        ("<pt><x>{1}</x><y>{2}</y></pt>", False, "<imagesize><nrows>48</nrows></imagesize>"),
    ],
)
def test_polygons_of_xmls_are_masks(tmp_path: Path, point: str, boxed: bool, size: str) -> None:
    write_image(tmp_path / "default" / "a.jpg", SIZE)
    _, *objects = voc("a.jpg").split("<object>")
    written = ["<annotation><filename>a.jpg</filename>", size]
    for text, (x, y, width, height) in zip(objects, BOXES, strict=True):
        corners = ((x, y), (x + width, y), (x + width, y + height))
        points = "".join(point.format(n, *corner) for n, corner in enumerate(corners, start=1))
        label, box = text.split("<bndbox>")
        drawn = f"<object>{label}<polygon>{points}</polygon>"
        written += [drawn, f"<bndbox>{box}" if boxed else "</object>"]
    written = [text.removesuffix("</annotation>") for text in written]
    gone = written[2] + "<deleted>1</deleted></object>"
    put(tmp_path / "default" / "a.xml", "".join([*written, gone, "</annotation>"]))
    (found,) = inspect(tmp_path).values()
    assert (found.errors, found.objects, found.has_masks) == (0, {"cat": 1, "dog": 1}, True)
    assert found.smallest is not None
    assert found.smallest[0] == 16 * 12 / 2


def test_masks_of_labelmes_xmls_in_other_files_are_noted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    text = voc("a.jpg").replace("bndbox", "box").replace("<box>", "<segm><box>")
    put(tmp_path / "a.xml", text.replace("</box>", "</box><mask>a_mask_0.png</mask></segm>"))
    assert counts(tmp_path) == {"": (1, 2)}
    assert "2 objects have masks in other files, which are not read" in said(tmp_path)


def test_a_negative_width_is_a_fault(tmp_path: Path) -> None:
    yolo(tmp_path, "a.jpg", "a.txt", "0 .3 .3 -.005 .2\n")
    assert "has a coordinate outside 0 to 1" in said(tmp_path)


def test_maps_of_classes_are_none_of_objects(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "train" / f"{name}.jpg", SIZE)
        write_image(tmp_path / "train" / f"{name}_mask.png", SIZE)
    put(tmp_path / "train" / "_classes.csv", "Pixel Value, Class\n1, cat\n")
    with pytest.raises(DataError, match="holds no data set"):
        inspect(tmp_path)


def test_attributes_of_via_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    shape = {"name": "rect", "x": 4, "y": 5, "width": 20, "height": 15}
    region = {"shape_attributes": shape, "region_attributes": {"type": "cat", "light": "dim"}}
    put(tmp_path / "via.json", json.dumps({"a1": {"filename": "a.jpg", "regions": [region]}}))
    assert "the attribute 'type' is taken for the class; others are not read" in said(tmp_path)


@pytest.mark.parametrize("attribute", ["type", "kind"])
def test_labels_of_via_may_be_in_another_attribute_of_each_file(
    tmp_path: Path, attribute: str
) -> None:
    for split, key in (("train", "type"), ("val", attribute)):
        write_image(tmp_path / split / "a.jpg", SIZE)
        text = via("a.jpg", "cat").replace('"name": "cat"', f'"{key}": "cat", "light": "dim"')
        put(tmp_path / split / "via_region_data.json", text)
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1)}
    assert "others are not read" in said(tmp_path)


def test_regions_of_a_file_without_labels_are_of_the_only_class(tmp_path: Path) -> None:
    shape = {"name": "rect", "x": 4, "y": 5, "width": 20, "height": 15}
    for split, attributes in (("train", {"type": "cat"}), ("val", {})):
        write_image(tmp_path / split / "a.jpg", SIZE)
        region = {"shape_attributes": shape, "region_attributes": attributes}
        entries = {"a1": {"filename": "a.jpg", "regions": [region]}}
        put(tmp_path / split / "via_region_data.json", json.dumps(entries))
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1)}
    assert "on any region, read as 'cat', the only class" in said(tmp_path)


def test_copies_of_annotations_are_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    shape = {"name": "rect", "x": 4, "y": 5, "width": 20, "height": 15}
    entries = {"a1": {"filename": "a.jpg", "regions": [{"shape_attributes": shape}]}}
    put(tmp_path / "via" / "export.json", json.dumps(entries))
    put(tmp_path / "via" / "project.json", json.dumps({"_via_img_metadata": entries}, indent=1))
    assert counts(tmp_path) == {"": (1, 1)}
    for name in ("one.json", "two/one.json"):
        put(tmp_path / name, json.dumps(coco(["a.jpg"])))
    assert counts(tmp_path) == {"": (1, 2)}
    assert "1 annotation files are copies of the one that is read" in said(tmp_path)


@pytest.mark.parametrize("ending", ["", "PNG"])
def test_maps_of_vocs_masks_may_be_in_folders_called_png(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / "JPEGImages" / "a.jpg", SIZE)
    ids = np.zeros(SIZE, np.uint8)
    for number, (x, y, width, height) in enumerate(BOXES, start=1):
        ids[y : y + height, x : x + width] = number
    for name in ("SegmentationClass", "SegmentationObject"):
        (tmp_path / f"{name}{ending}").mkdir()
        Image.fromarray(ids).save(tmp_path / f"{name}{ending}" / "a.png")
    put(tmp_path / "class_names.txt", "_background_\ncat\ndog\n")
    assert inspect(tmp_path)[""].objects == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("label", ["cat", "kitten"])
def test_maps_of_vocs_own_classes_have_their_names(tmp_path: Path, label: str) -> None:
    for name, code in (("a", 8), ("b", 12)):
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg", SIZE)
        pixels = np.zeros(SIZE, np.uint8)
        pixels[4:9, 4:9] = 1
        for folder, ids in (("SegmentationObject", pixels), ("SegmentationClass", pixels * code)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(ids).save(tmp_path / folder / f"{name}.png")
    put(tmp_path / "Annotations" / "a.xml", voc("a.jpg").replace("cat", label))
    put(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "a\n")
    put(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "b\n")
    train, val = (dict(inspect(tmp_path)[split].objects) for split in ("train", "val"))
    assert (train.keys() == val.keys(), len(train)) == (True, 20 if label == "cat" else 2)
    assert train["cat" if label == "cat" else "8"] == 1
    assert val["dog" if label == "cat" else "12"] == 1


@pytest.mark.parametrize(
    ("images", "maps", "split"),
    [
        ("train_images", "train_masks", "train"),
        ("tissue images", "label masks", ""),
        ("BBBC006_images", "BBBC006_labels", ""),
        ("train", "train_masks", "train"),
        ("Training_Images", "Ground_Truth", ""),
    ],
)
@pytest.mark.parametrize("ending", ["png", "gif", "bmp"])
def test_id_maps_lie_in_folders_that_are_called_alike(
    tmp_path: Path, images: str, maps: str, split: str, ending: str
) -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids[4:9, 4:9], ids[20:30, 20:30] = 1, 2
    for where, pixels in ((images, ids * 9), (maps, ids), ("other_masks", ids * 0)):
        (tmp_path / where).mkdir()
        Image.fromarray(pixels).save(tmp_path / where / f"a.{ending}")
    assert counts(tmp_path) == {split: (1, 2)}


CORNERS = [[4, 5], [24, 5], [24, 20], [4, 20]]
RUNS = [4 * 48 + 5, *[15, 33] * 19, 15, 41 * 48 - 20]


@pytest.mark.parametrize(
    ("written", "has_masks"),
    [
        ({"segmentation": CORNERS}, True),
        ({"segmentation": [CORNERS]}, True),
        ({"segmentation": [[corner] for corner in CORNERS]}, True),
        ({"segmentation": [{"x": x, "y": y} for x, y in CORNERS]}, True),
        ({"segmentation": [{"size": SIZE, "counts": RUNS}]}, True),
        ({"segmentation": {}}, False),
        ({"segmentation": [[4, 5, 24, 5, 24, 20, 4, 20]], "bbox": []}, True),
        ({"bbox": {"x": 4, "y": 5, "width": 20, "height": 15}}, False),
        ({"iscrowd": 0.0, "id": 1.0}, False),
    ],
)
def test_boxes_and_masks_of_coco_have_several_forms(
    tmp_path: Path, written: dict[str, Any], has_masks: bool
) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"])
    document["annotations"] = [document["annotations"][0] | written]
    put(tmp_path / "train.json", json.dumps(document))
    (found,) = inspect(tmp_path).values()
    assert (found.errors, found.has_masks) == (0, has_masks)
    assert found.smallest is not None
    assert found.smallest[0] == 300


def test_boxes_that_cvat_rotated_are_those_around_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"])
    for entry, turn in zip(document["annotations"], (90.0, 0.0), strict=True):
        entry["attributes"] = {"occluded": False, "rotation": turn}
    put(tmp_path / "train.json", json.dumps(document))
    data = Source(tmp_path).open("coco-instances", "train")
    (image,) = (sample for sample in data.samples if isinstance(sample, InstanceImage))
    boxes = [truth["bbox"] for truth in image.objects]
    assert np.allclose(boxes, [[6.5, 2.5, 15, 20], BOXES[1]])
    assert "1 boxes are rotated; read as those around them" in said(tmp_path)


@pytest.mark.parametrize("brush", [True, False])
def test_crowds_of_cvats_brush_are_objects(tmp_path: Path, brush: bool) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    document = coco(["a.jpg"])
    first, second = document["annotations"]
    first |= {"iscrowd": 1, "segmentation": {"size": SIZE, "counts": RUNS}}
    first |= {"attributes": {"occluded": False}} if brush else {}
    second["segmentation"] = [[30, 20, 46, 20, 46, 32, 30, 32]]
    put(tmp_path / "train.json", json.dumps(document))
    assert counts(tmp_path) == {"train": (1, 1 + brush)}
    text = "1 crowds are masks of CVAT's brush" if brush else "1 crowds are left out of training"
    assert text in said(tmp_path)


def test_a_refusal_lists_the_files_of_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg", SIZE)
    put(tmp_path / "labels" / "b-a.txt", "0 .3 .3 .2 .2")
    put(tmp_path / "train" / "objects.csv", "a,b")
    with pytest.raises(DataError, match=r"1 \.txt in labels/, 1 \.csv in train/"):
        inspect(tmp_path)


def test_pages_that_are_not_read_are_noted(tmp_path: Path) -> None:
    pages = np.zeros((5, *SIZE), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    put(tmp_path / "train.json", json.dumps(coco(["a.tif"])))
    assert "1 images have several pages, of which the first is read" in said(tmp_path)


def test_lists_of_splits_are_told_from_labels(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_image(tmp_path / f"obj_{split}_data" / f"{split}.jpg", SIZE)
        put(tmp_path / f"obj_{split}_data" / f"{split}.txt", "0 .3 .3 .2 .2\n")
        put(tmp_path / f"{split}.txt", f"data/obj_{split}_data/{split}.jpg\n")
    assert counts(tmp_path) == {"train": (1, 1), "val": (1, 1)}


@pytest.mark.parametrize("number", ["_{}", "_mask_{}", "-{}", " obj{}"])
@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("Imgs", "Masks")])
def test_masks_of_an_image_may_be_numbered(
    tmp_path: Path, number: str, images: str, masks: str
) -> None:
    (tmp_path / masks).mkdir()
    for name in ("a", "b 7"):
        write_image(tmp_path / images / f"{name}.jpg", SIZE)
        for place in range(2):
            pixels = np.zeros(SIZE, np.uint8)
            pixels[9 * place : 9 * place + 5, 3:9] = 255
            path = tmp_path / masks / f"{name}{number.format(place)}.png"
            Image.fromarray(pixels).save(path)
    assert counts(tmp_path) == {"": (2, 4)}


@pytest.mark.parametrize("pages", [1, 2, 3, 4])
def test_id_maps_are_grey_and_of_one_page(tmp_path: Path, pages: int) -> None:
    write_image(tmp_path / "images" / "a.png", SIZE)
    (tmp_path / "masks").mkdir()
    ids = np.zeros((*SIZE, 3), np.uint8)
    for number, (x, y, width, height) in enumerate(BOXES, start=1):
        ids[y : y + height, x : x + width] = number
    more = [Image.fromarray(ids * (page == 2 and pages == 3)) for page in range(1, pages)]
    if pages == 4:  # the third one, of another size, is not decoded
        more[1] = more[1].resize((2000, 2000))
    Image.fromarray(ids).save(tmp_path / "masks" / "a.tif", save_all=True, append_images=more)
    if pages >= 3:
        assert "has objects on page 3, too" in said(tmp_path)
    else:
        assert counts(tmp_path) == {"": (1, 2)}


def test_masks_with_soft_edges_are_noted(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", SIZE)
    (tmp_path / "masks").mkdir()
    ids = np.zeros(SIZE, np.uint8)
    ids[5:30, 5:30] = 255
    shades = Image.fromarray(ids).rotate(30, Image.Resampling.BICUBIC)
    shades.save(tmp_path / "masks" / "a.png")
    assert "are their numbers the shades of soft edges?" in said(tmp_path)


def test_masks_of_colours_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.jpg", SIZE)
        (tmp_path / "masks").mkdir(exist_ok=True)
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[4:9, 4:9], pixels[20:30, 20:30] = (250, 10, 30), (7, 200, 99)
        Image.fromarray(pixels).save(tmp_path / "masks" / f"{name}.png")
    assert "a.png has 3 colours, of objects or of classes; expected one whole" in said(tmp_path)


@pytest.mark.parametrize("maps", ["gt", "masks", "Instance_Masks", "segmentations"])
def test_id_maps_are_those_of_the_only_folder_with_their_names(tmp_path: Path, maps: str) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "raw" / f"{name}.png", SIZE)
        write_map(tmp_path / maps / f"{name}.tif", 3)
    assert counts(tmp_path) == {"": (2, 6)}
    for name in ("a", "b"):
        write_image(tmp_path / "shown" / f"{name}.png", SIZE)
    with pytest.raises(DataError, match="holds no data set"):
        inspect(tmp_path)


def test_masks_may_lie_beside_the_only_image_of_a_folder(tmp_path: Path) -> None:
    for name in ("train/1000", "val/1001"):
        write_image(tmp_path / name / "photo.jpg", SIZE)
        for place in range(2):
            write_map(tmp_path / name / "masks" / f"{place}.png", 1)
    assert counts(tmp_path) == {"train": (1, 2), "val": (1, 2)}


@pytest.mark.parametrize(("image", "maps"), [("images/{}", "masks/{}"), ("{}_rgb", "{}")])
def test_two_id_maps_of_one_image_are_refused(tmp_path: Path, image: str, maps: str) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{image.format(name)}.png", SIZE)
        write_map(tmp_path / f"{maps.format(name)}_label.tif", 3)
    assert counts(tmp_path) == {"": (2, 6)}
    write_map(tmp_path / f"{maps.format('a')}_mask.tif", 2)
    assert "may have its id map in" in said(tmp_path)


@pytest.mark.parametrize("layout", ["{}/masks/x{}.png", "annotations/{}_big_cat_{}.png"])
def test_masks_lie_below_images_or_name_their_classes(tmp_path: Path, layout: str) -> None:
    for name in ("1000", "1001"):
        write_image(tmp_path / "train" / "images" / f"{name}.jpg", SIZE)
        for place in range(2):
            inner = "images" if "masks" in layout else ""
            path = tmp_path / "train" / inner / layout.format(name, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros(SIZE, np.uint8)
            pixels[9 * place : 9 * place + 5, 3:9] = 255
            Image.fromarray(pixels).save(path)
    data = Source(tmp_path).open("mask-files", "train")
    assert counts(tmp_path) == {"train": (2, 4)}
    assert [c.name for c in data.categories] == ["object" if "masks" in layout else "big_cat"]


def write_map(path: Path, ids: int) -> None:
    """Write an id map of some objects."""
    pixels = np.zeros(SIZE, np.uint16)
    for number in range(ids):
        pixels[9 * number : 9 * number + 5, 3:9] = number + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels) if path.suffix == ".tif" else Image.fromarray(pixels).save(path)


def test_frames_of_the_cell_tracking_challenge_have_their_maps(tmp_path: Path) -> None:
    for sequence in ("01", "02"):
        for frame in range(3):
            write_image(tmp_path / sequence / f"t00{frame}.tif", SIZE)
            write_map(tmp_path / f"{sequence}_GT" / "TRA" / f"man_track00{frame}.tif", 4)
        write_map(tmp_path / f"{sequence}_GT" / "SEG" / "man_seg001.tif", 3)
        write_map(tmp_path / f"{sequence}_GT" / "SEG" / "man_seg002.tif", 2)
    assert counts(tmp_path) == {"01": (2, 5), "02": (2, 5)}
    assert "1 frames have no id map" in said(tmp_path)


def test_no_folder_of_id_maps_is_passed_over(tmp_path: Path) -> None:
    for name in ("left", "right"):
        write_image(tmp_path / f"{name}_images" / "a.png", SIZE)
        write_map(tmp_path / f"{name}_masks" / "a.tif", 2)
    assert counts(tmp_path) == {"left_images": (1, 2), "right_images": (1, 2)}
    write_map(tmp_path / "left_labels" / "a.tif", 3)
    assert "may have its id maps in left_labels or left_masks" in said(tmp_path)


def via(name: str, label: str = "", reach: int = 20) -> str:
    """Make a JSON of VIA's: an image, and a region that reaches so far down in it."""
    shape = {"name": "rect", "x": 4, "y": 5, "width": 20, "height": reach - 5}
    region = {"shape_attributes": shape, "region_attributes": {"name": label} if label else {}}
    return json.dumps({f"{name}1": {"filename": name, "size": 1, "regions": [region]}})


@pytest.mark.parametrize("label", ["cat", "not_defined", ""])
def test_files_of_via_may_be_of_other_images(tmp_path: Path, label: str) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg", SIZE)
        put(tmp_path / f"{name}.json", via(f"{name}.jpg", label))
    assert counts(tmp_path) == {"": (2, 2)}
    put(tmp_path / "c.json", via("a.jpg", "dog"))
    assert "a.json and" in said(tmp_path)


def test_files_of_via_with_and_without_labels_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg", SIZE)
        put(tmp_path / f"{name}.json", via(f"{name}.jpg", "cat" if name == "a" else ""))
    assert "a.json and" in said(tmp_path)


@pytest.mark.parametrize("reach", [20, 60])
def test_objects_tell_the_frame_where_sizes_do_not(tmp_path: Path, reach: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (SIZE[1], SIZE[0])).save(tmp_path / "a.jpg", exif=exif)
    put(tmp_path / "a.json", via("a.jpg", "cat", reach))
    (sample,) = Source(tmp_path).open("via", "").samples
    assert isinstance(sample, InstanceImage)
    assert sample.as_stored == (reach == 20)
    assert [truth["bbox"][3] for truth in sample.objects] == [reach - 5]


def test_rotated_boxes_of_xmls_are_those_around_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", SIZE)
    box = "<cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963</angle>"
    entry = f"<object><name>ship</name><robndbox>{box}</robndbox></object>"
    put(tmp_path / "a.xml", voc("a.jpg").replace("</annotation>", f"{entry}</annotation>"))
    data = Source(tmp_path).open("voc-xml", "")
    (sample,) = data.samples
    turned = list(sample.objects or ())[-1]
    assert np.allclose(turned["bbox"], (25, 10, 10, 20), atol=1.01)
    assert "1 boxes are rotated" in said(tmp_path)


def test_a_json_of_roboflow_may_have_lost_its_underscore(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.jpg", SIZE)
    put(tmp_path / "train" / ".annotations.coco.json", json.dumps(coco(["a.jpg"])))
    put(tmp_path / "train" / "._annotations.coco.json", "Mac")
    assert [images for images, _ in counts(tmp_path).values()] == [1]


def test_images_are_turned_if_one_with_swapped_sides_is(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.jpg", SIZE)
    document = coco(["a.jpg", "b.jpg", "c.jpg"])
    for image in document["images"][:2]:
        image |= {"height": SIZE[1], "width": SIZE[0]}
    document["annotations"][0]["bbox"] = [4, 45, 9, 15]
    put(tmp_path / "a.json", json.dumps(document))
    found = inspect(tmp_path)[""]
    assert sorted(map(str, found.faults.bad)) == ["0", "1"]
    assert "b.jpg has its sides swapped" in said(tmp_path)
