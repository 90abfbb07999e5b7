from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panodetr.data.check import Inspection, check_split
from panodetr.data.convert import convert_data
from panodetr.data.dataset import Format, Source, open_data
from panodetr.errors import DataError

from .conftest import write_image


def check(folder: Path, format: Format, split: str = "") -> Inspection:
    return check_split(folder, split, format, lambda done, total: None)


def kinds(found: Inspection, *, errors: bool = True) -> list[tuple[str, str]]:
    return [(f.kind, f.message) for f in found.findings if f.is_error == errors]


def assert_found(found: Inspection, expected: list[tuple[str, str]]) -> None:
    """Each expected kind and part of a message is found, and nothing else."""
    left = kinds(found)
    for kind, part in expected:
        match = next((f for f in left if f[0] == kind and part in f[1]), None)
        assert match is not None, (kind, part, left)
        left.remove(match)
    assert left == []
    assert all("\n" not in message for _, message in kinds(found))


@pytest.fixture
def panoptic(id_folder: Path, tmp_path: Path) -> Path:
    """The three images as panoptic data, whose ids are 3, 7 and 300."""
    out = tmp_path / "panoptic"
    convert_data(id_folder, out, "coco-panoptic", class_name="", progress=lambda d, t: None)
    return out


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "images", "objects", "crowds", "empty"),
    [("nuclei", 93, 4542, 0, 0), ("coco-panoptic", 13, 138, 3, 0),
     ("coco-instances", 158, 1372, 17, 3)],
)  # fmt: skip
def test_the_real_data_is_clean(
    shared_data: Path, name: str, images: int, objects: int, crowds: int, empty: int
) -> None:
    format: Format = "coco-instances" if name == "coco-instances" else "coco-panoptic"
    splits = ["val"] if name == "nuclei" else list(Source(shared_data / name).find(format))
    found = [check(shared_data / name, format, split) for split in splits]
    assert [message for one in found for message in kinds(one)] == []
    assert sum(one.images for one in found) == images
    assert sum(one.objects.total() for one in found) == objects
    assert sum(one.crowds for one in found) == crowds
    assert sum(one.empty for one in found) == empty


def test_all_that_is_wrong_with_panoptic_data_is_listed(panoptic: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        document["categories"].append({"id": 1, "name": "x", "isthing": 1, "color": [0, 0, 0]})
        document["categories"].append({"id": 9, "name": "y", "isthing": 2, "color": [0, 0, 0]})
        document["images"].append({"id": 4, "file_name": "4.png", "height": 8, "width": 8})
        document["images"].append(dict(document["images"][0]))
        document["images"].append("nonsense")
        first, second, third = document["annotations"]
        first["segments_info"] += [
            {"id": 8, "category_id": 1, "area": 4, "bbox": [-3, 0, 4, 4]},
            {"id": 12, "category_id": 1, "area": 4, "iscrowd": 1},
            {"id": 7, "category_id": 1, "area": 4},
            {"id": 0, "category_id": 1, "area": 0},
        ]
        del second["segments_info"][:2]
        third["file_name"] = "gone.tif"
        document["annotations"].append({"image_id": 50, "file_name": "a.png", "segments_info": []})
        document["annotations"].append(dict(first))

    edit(panoptic / "panoptic.json", damage)
    image = panoptic / "images" / "2.png"
    image.write_bytes(image.read_bytes()[:300])
    Image.new("RGB", (3, 3)).save(panoptic / "images" / "3.png")
    found = check(panoptic, "coco-panoptic")
    assert_found(
        found,
        [
            ("duplicate id", "categories[1] repeats id 1 of"),
            ("broken entry", "isthing: expected bool"),
            ("duplicate id", "images[4] repeats image id 1"),
            ("broken entry", "images[5]: expected object"),
            ("duplicate id", "annotations[4] is a second annotation for image 1"),
            ("duplicate id", "repeats segment id 7 within"),
            ("broken entry", "segments_info[6]: id: expected int >= 1"),
            ("broken file", "2.png: the image is broken"),
            ("unlisted pixels", "pixels of segment 3, which segments_info of image 2"),
            ("unlisted pixels", "2.png has 17 pixels of segment 7, which segments_info of image 2"),
            ("missing file", "gone.tif is missing; it is the id map of image 3"),
            ("broken entry", "has no annotation for image 4"),
        ],
    )


def test_what_segments_lack_and_id_maps_show_is_listed(panoptic: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        first, second, third = document["annotations"]
        first["segments_info"] += [
            {"id": 8, "category_id": 1, "area": 4},
            {"id": 12, "category_id": 1, "area": 4, "iscrowd": 1},
        ]
        second["segments_info"][0]["category_id"] = 77
        third["image_id"] = 50

    edit(panoptic / "panoptic.json", damage)
    found = check(panoptic, "coco-panoptic")
    assert_found(
        found,
        [
            ("unknown category", "(segment 3 of image 2) has category 77"),
            ("no pixels", "1.png has no pixel of segment 8 of image 1"),
            ("no pixels", "1.png has no pixel of segment 12 of image 1"),
            ("broken entry", "has no annotation for image 3"),
        ],
    )
    assert [kind for kind, _ in kinds(found, errors=False)] == ["unknown image", "crowd"]


def test_images_that_share_an_id_map_are_listed_and_refused(panoptic: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        first, second, _ = document["annotations"]
        second["file_name"] = first["file_name"]
        second["segments_info"] = first["segments_info"]
        document["images"][1] |= {"height": 20, "width": 30}
        write_image(panoptic / "images" / "2.png", (20, 30))

    edit(panoptic / "panoptic.json", damage)
    message = "annotations[1] has the id map 1.png of another image, 1"
    assert_found(check(panoptic, "coco-panoptic"), [("duplicate id", message)])
    assert [message in said for said in open_data(panoptic).unreadable] == [True]


def test_broken_id_maps_are_listed(panoptic: Path) -> None:
    path = panoptic / "panoptic" / "1.png"
    path.write_bytes(path.read_bytes()[:70])
    Image.new("RGB", (7, 7)).save(panoptic / "panoptic" / "2.png")
    Image.new("RGB", (3, 3)).save(panoptic / "images" / "3.png")
    assert_found(
        check(panoptic, "coco-panoptic"),
        [
            ("broken file", "1.png cannot be read"),
            ("broken file", "2.png is 7x7 pixels"),
            ("wrong size", "3.png is 3x3 pixels; expected 16x16, the size of its"),
        ],
    )


def test_all_that_is_wrong_with_instances_is_listed(boxes_folder: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        first, second, third = document["annotations"]
        first["segmentation"] = [[1, 1, 5, 5]]
        second["category_id"] = 2
        second["bbox"] = [25, 2, 6.5, 7]
        third["image_id"] = 8
        document["images"].append({"id": 4, "file_name": "4.png"})
        write_image(boxes_folder / "val2017" / "4.png", (9, 9))
        more = [
            {"bbox": [1, 1, 0, 4], "segmentation": {"size": [9, 9], "counts": [81]}},
            {"bbox": [1, 1, None, 4], "segmentation": [[1, 1, 5, 5, 1, 5]]},
            {"bbox": [1, 1, 2, 4], "id": 3, "image_id": 4},
            {"bbox": [1, 1, 2, 4], "iscrowd": 5},
            {"bbox": [1, 1, 2, 4]},
        ]
        for number, annotation in enumerate(more, start=10):
            document["annotations"].append(
                {"id": number, "image_id": 2, "category_id": 90, "area": 3} | annotation
            )
        document["images"][2]["file_name"] = "1.png"
        document["images"][2]["height"] = "tall"

    edit(boxes_folder / "annotations/instances_val2017.json", damage)
    found = check(boxes_folder, "coco-instances", "val2017")
    assert_found(
        found,
        [
            ("broken entry", "height: expected float | null, got str"),
            ("unknown category", "(annotation 2 of image 1) has category 2"),
            ("broken entry", "has the size [9, 9]"),
            ("broken entry", "bbox[2]: expected float, got null"),
            ("broken entry", "iscrowd: expected bool"),
        ],
    )
    notes = kinds(found, errors=False)
    assert [kind for kind, _ in notes] == ["repaired"]
    assert "1 polygons of fewer than three points" in notes[0][1]


def test_an_image_with_a_fault_is_not_called_unlisted(boxes_folder: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        document["annotations"][0]["category_id"] = 2

    write_image(boxes_folder / "val2017" / "0.png", (9, 9))
    write_image(boxes_folder / "val2017" / "4.png", (9, 9))
    edit(boxes_folder / "annotations/instances_val2017.json", damage)
    notes = kinds(check(boxes_folder, "coco-instances", "val2017"), errors=False)
    (left_out,) = [message for kind, message in notes if kind == "left out"]
    assert left_out.startswith("2 images are listed by no annotation")
    assert left_out.endswith("0.png")


def test_what_is_repaired_is_said_once_a_kind(boxes_folder: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        first, second, third = document["annotations"]
        first["bbox"] = [28.5, 2, 3, 7]
        second |= {"bbox": [-20, 2, 30, 7], "iscrowd": 0}
        third |= {"bbox": [50, 2, 3, 7], "area": 0}
        document["annotations"] += [
            {"id": 3, "image_id": 1, "category_id": 90, "bbox": [4, 4, 0, 3]},
            {"id": 9, "image_id": 77, "category_id": 90, "bbox": [4, 4, 2, 3]},
            dict(first),
        ]
        document["images"][2] |= {"file_name": "1.png"}

    edit(boxes_folder / "annotations/instances_val2017.json", damage)
    found = check(boxes_folder, "coco-instances", "val2017")
    assert_found(found, [])
    expected = {
        "by a little, and are cut": "has the box 28.5, 2, 3, 7 in an image of 30x20",
        "far out of their images": "-20, 2, 30, 7",
        "1 objects are outside their images": "(annotation 3 of image 2) has the box 50, 2, 3, 7",
        "1 boxes have no width or height": "4, 4, 0, 3",
        "1 annotations are of images that the JSON doesn't list": "is for image 77",
        "1 annotations repeat the id of another": "repeats annotation id 3",
        "1 annotations are written twice": "(annotation 1 of image 1)",
        "1 image files are listed twice": "1.png",
        "2 images have no object": "2.png",
    }
    notes = [message for _, message in kinds(found, errors=False)]
    for text, example in expected.items():
        assert [text in note and example in note for note in notes].count(True) == 1, (text, notes)


def test_many_faults_of_a_kind_are_counted(boxes_folder: Path) -> None:
    def damage(document: dict[str, Any]) -> None:
        bad = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 1, 2, 2]}
        document["annotations"] += [bad | {"id": 100 + n, "image_id": f"x{n}"} for n in range(5)]
        document["images"] += [{"id": f"x{n}", "file_name": f"x{n}.png"} for n in range(50)]
        document["annotations"] += [bad | {"id": n, "image_id": f"x{n}"} for n in range(50)]

    edit(boxes_folder / "annotations/instances_val2017.json", damage)
    for number in range(50):
        write_image(boxes_folder / "val2017" / f"x{number}.png", (8, 8))
    found = check(boxes_folder, "coco-instances", "val2017")
    assert (len(kinds(found)), found.errors) == (1, 50)
    assert kinds(found)[0][1].endswith("(50 faults are like this)")


def test_all_that_is_wrong_with_yolo_is_listed(yolo_folder: Path) -> None:
    labels = yolo_folder / "labels/train/000000000007.txt"
    labels.write_text(
        "0 0.5 0.5 0.2 0.2\n5 0.5 0.5 0.2 0.2\n0 0.9 0.5 0.23 0.2\n0 1 2 3\n"
        "0 0.5 0.5 0.2 0.2\n1 0.6 0.1 0.9 0.1 0.75 0.5\n0 40 20 10 10\n0 0.5 0.5 0 0.1\n"
    )
    (yolo_folder / "labels/train/stray.txt").write_text("")
    image = yolo_folder / "images/train/000000000009.jpg"
    image.write_bytes(image.read_bytes()[:1500])
    found = check(yolo_folder, "yolo", "train")
    assert_found(
        found,
        [
            ("unknown category", ":2 has class 5"),
            ("broken entry", ":4 has 3 numbers"),
            ("broken entry", ":7 has a coordinate outside"),
            ("broken file", "000000000009.jpg: the image is broken"),
        ],
    )
    notes = dict(kinds(found, errors=False))
    assert ":5" in notes["duplicate id"]
    assert "stray.txt" in notes["missing file"]
    assert list(notes) == ["duplicate id", "missing file", "empty image"]


def test_all_that_is_wrong_with_id_maps_is_listed(id_folder: Path) -> None:
    masks = id_folder / "masks/cell"
    Image.fromarray(np.full((5, 5), 3, np.uint8)).save(masks / "1.png")
    (masks / "2.png").unlink()
    (masks / "9.png").write_bytes(b"")
    (id_folder / "images/3.png").write_bytes(b"nothing")
    assert_found(
        check(id_folder, "id-maps"),
        [
            ("broken file", "1.png is 5x5 pixels; expected 30x20"),
            ("missing file", "2.png is missing; it is the id map of"),
            ("broken file", "3.png: not an image"),
        ],
    )
    notes = dict(kinds(check(id_folder, "id-maps"), errors=False))
    assert "9.png" in notes["missing file"]


@pytest.mark.parametrize("classes", [1, 2])
def test_masks_of_all_objects_together_are_noted(id_folder: Path, classes: int) -> None:
    for path in (id_folder / "masks/cell").iterdir():
        ids = np.asarray(Image.open(path)).copy()
        ids[8:15:3, 0:9:3] = 1
        pixels = np.where(ids == 7, 256 - classes, np.where(ids > 0, 255, 0))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    found = check(id_folder, "id-maps")
    assert found.errors == 0
    assert kinds(found, errors=False)[0][0] == "single id"


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (lambda d: d["images"][0].update(file_name="a" * 999 + ".png"), "missing file", "is missing"),
    (lambda d: d["images"][0].update(file_name="a\0.png"), "missing file", "a\\x00.png is missing"),
    (lambda d: d["images"][0].update(file_name="\u043b\n\x1b[1m"), "missing file",
     "\u043b\\n\\x1b[1m is missing"),
    (lambda d: d["images"][0].update(file_name="\ud800"), "broken file", "is not valid JSON"),
    (lambda d: d["images"][0].update(file_name="."), "missing file", "are not there"),
    (lambda d: d["images"][0].update(id=10**40), "broken entry", "id: expected int <="),
    (lambda d: d["categories"][1].update(id=-2), "broken entry", "id: expected int >= 0"),
    (lambda d: d["annotations"][0].update(bbox=[0, 0, 10**400, 1]), "broken entry", "out of range"),
    (lambda d: d["annotations"][0].update(iscrowd={}), "broken entry", "iscrowd: expected bool"),
    (lambda d: d["annotations"][0].update(segmentation=[[1, 1, 5, "nan", 5, 5]]), "broken entry",
     "segmentation[0][3]: expected float"),
    (lambda d: d["annotations"].append(d["annotations"][0]), "duplicate id", "are written twice"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "part"), HOSTILE)
def test_hostile_entries_are_findings_of_one_line(
    boxes_folder: Path, damage: Callable[[dict[str, Any]], object], kind: str, part: str
) -> None:
    edit(boxes_folder / "annotations/instances_val2017.json", damage)
    inspection = check(boxes_folder, "coco-instances", "val2017")
    found = kinds(inspection) + kinds(inspection, errors=False)
    assert [message for name, message in found if name == kind and part in message] != []
    assert all(message.isprintable() for _, message in found)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [Path.mkdir, make_loop, make_pipe])
@pytest.mark.parametrize(
    "name", ["images/train/000000000007.png", "labels/train/000000000007.txt", "train.txt"]
)
@pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and links")
def test_what_is_no_file_is_a_finding(
    yolo_folder: Path, name: str, make: Callable[[Path], object]
) -> None:
    if name == "train.txt":
        text = (yolo_folder / "data.yaml").read_text().replace("images/train", name)
        (yolo_folder / "data.yaml").write_text(text)
    (yolo_folder / name).unlink(missing_ok=True)
    make(yolo_folder / name)
    found = check(yolo_folder, "yolo", "train")
    if name == "train.txt" and make is Path.mkdir:  # the folder is where that of val is
        assert "images/train is taken" in found.findings[0].message
        return
    assert found.errors > 0
    if not name.startswith("images"):  # what is no image is none of the split
        with pytest.raises(DataError, match="train"):
            open_data(yolo_folder, "train")


@pytest.mark.parametrize("format", ["JPEG", "EPS"])
def test_id_maps_that_lose_ids_or_run_programs_are_refused(panoptic: Path, format: str) -> None:
    path = panoptic / "panoptic" / "1.png"
    Image.open(path).save(path, format=format)
    assert_found(
        check(panoptic, "coco-panoptic"),
        [("broken file", "1.png cannot be read as an id map: it is broken, or not PNG, TIFF")],
    )


@pytest.mark.parametrize("contents", [b"{", b"[]", b"\xff", b'{"images": 3}', b"[" * 100_000])
def test_a_broken_json_is_a_finding(boxes_folder: Path, contents: bytes) -> None:
    (boxes_folder / "annotations/instances_val2017.json").write_bytes(contents)
    found = check(boxes_folder, "coco-instances", "val2017")
    assert found.errors > 0
    assert all("instances_val2017.json" in message for _, message in kinds(found))
