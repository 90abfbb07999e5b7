from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from panodetr.data.dataset import open_data
from panodetr.data.formats.yolo import find_yolo, label_file
from panodetr.data.samples import InstanceImage
from panodetr.data.tree import Tree
from panodetr.errors import DataError, PanodetrError

from .conftest import write_image

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise("abcdefghi")
)
"""A few lines that stand for a list of half a billion words."""


def images_of(folder: Path, split: str = "train") -> tuple[InstanceImage, ...]:
    samples = open_data(folder, split, may_be_empty=True).samples
    return tuple(sample for sample in samples if isinstance(sample, InstanceImage))


def names_of(folder: Path) -> dict[int, str] | None:
    return find_yolo(Tree(folder))["train"].names


def test_polygons_are_read_in_pixels(yolo_folder: Path) -> None:
    first, second = images_of(yolo_folder)
    assert (first.image_id, second.image_id) == (7, 9)  # images are called by their ids
    assert first.size == (40, 80)
    square, triangle = first.objects
    assert square.get("segmentation") == [[20, 10, 40, 10, 40, 30, 20, 30]]
    assert (square["bbox"], square["area"]) == ([20, 10, 20, 20], 400)
    assert triangle["category_id"] == 1
    assert triangle["area"] == pytest.approx(24 * 16 / 2)
    assert second.objects == ()  # no label file: an image without objects
    data = open_data(yolo_folder)
    assert [category.name for category in data.categories] == ["cat", "dog: big"]
    assert data.has_masks


@pytest.mark.parametrize(
    "names",
    [
        "names:\n  0: cat\n  1: 'dog: big'\n",
        "names: {0: cat, 1: 'dog: big'} # a comment\n",
        "nc: 2\nnames:\n- cat\n- 'dog: big'\n",
        "names: !!python/tuple [!!int cat, 'dog: big']\n",
        "names: {cat: 0, 'dog: big': 1}\n",
        "nc: 2\nnames: 'cat, dog: big'\n",
    ],
)
def test_names_are_read_however_they_are_written(yolo_folder: Path, names: str) -> None:
    (yolo_folder / "data.yaml").unlink()
    (yolo_folder / "data.yml").write_text(f"train: images/train\n{names}")
    assert names_of(yolo_folder) == {0: "cat", 1: "dog: big"}
    assert len(images_of(yolo_folder)) == 2


def test_images_are_found_however_they_are_named(yolo_folder: Path) -> None:
    images = yolo_folder / "images/train"
    expected = [image.path for image in images_of(yolo_folder)]
    listed = yolo_folder / "train.txt"
    listed.write_text("./images/train/000000000009.jpg\nimages/train/000000000007.png\n\n")
    named_otherwise = ("../images/train", "train.txt", str(images), "[train.txt, images/train]")
    for named in (*named_otherwise, "../another name/images/train"):
        (yolo_folder / "data.yaml").write_text(f"train: {named}\nnames: [cat, dog]\n")
        found = [image.path.resolve() for image in images_of(yolo_folder)]
        assert found == [path.resolve() for path in expected]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a/images/train/x.y.jpg", "images/a/labels/train/x.y.txt"),
        ("a/train/images.jpg", "a/train/images.txt"),
        ("train/photos/x.jpg", "train/labels/x.txt"),
        ("photos/x.jpg", "labels/x.txt"),
        ("a/x.jpg", "a/labels/x.txt"),
        ("images/x.jpg", None),
    ],
)
def test_labels_lie_where_a_folder_becomes_labels(
    tmp_path: Path, image: str, label: str | None
) -> None:
    if label:
        (tmp_path / label).parent.mkdir(parents=True)
        (tmp_path / label).touch()
    expected = None if label is None else tmp_path / label
    assert label_file(tmp_path / image, Tree(tmp_path)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "has 3 numbers after its class; expected 4 for a box"),
        ("0 0.5 0.5 0.1 0.1 0.2", "has 5 numbers"),
        ("0 0.5 0.5 0.1 x", "expected numbers"),
        ("2 0.5 0.5 0.1 0.1", "has class 2, which names doesn't list"),
        ("0.5 0.5 0.5 0.1 0.1", r"has class 0\.5; expected a whole"),
        ("0 120 80 20 30", "coordinate outside 0 to 1; expected fractions"),
        ("0 nan 0.5 0.1 0.1", "coordinate outside 0 to 1"),
    ],
)
def test_broken_lines_are_named(yolo_folder: Path, line: str, message: str) -> None:
    (yolo_folder / "labels/train/000000000007.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    (yolo_folder / "labels/train/000000000009.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = open_data(yolo_folder)
    assert [image.image_id for image in data.samples] == [9]
    (said,) = data.unreadable
    assert re.search(rf"000000000007\.txt:2.*{message}", said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\n", 'has no "names"'),
        ("train: images/train\nnc: 1\n", "has class 1, which"),
        ("names: [a]\n", "has class 1, which names doesn.t list"),
        ("[1, 2]", "holds no fields"),
        ("train: [\n", "is not YAML"),
        ("train: images/train\nnames: [a, a]\n", "repeats the name 'a': 0 and 1 both have"),
        ("train: images/train\nnames: gone.names\n", 'has no "names"'),
        ("train: images/train\nnames: {x: 0, y: 0}\n", "a key of names: expected int, got str"),
        ("train: images/train\nnames: {x: a}\n", "a key of names: expected int, got str"),
        ("train: nowhere\nnames: [a]\n", "nowhere is missing"),
        ("train: labels\nnames: [a]\n", "labels is missing; data.yaml names it"),
        ("train: gone.txt\nnames: [a]\n", r"0 of 1 images that .* lists are there, .*gone\.png"),
        ("!!python/object/apply:os.getcwd []", "holds no fields"),
        ("train: 2024-99-99\nnames: [a]\n", "2024-99-99 is missing"),
        (f"{BOMB}train: *i\nnames: [a]\n", r'"train": \[0\]: expected str, got array'),
        (f"{BOMB}path: *i\ntrain: images/train\nnames: [a]\n", "path: expected str, got array"),
        (f"{BOMB}train: images/train\nnames: [*i]\n", r"names\[0\]: expected str, got array"),
        (f"train: images/train\nnames: {{? '{'9' * 5000}' : a}}\n", "a key of names: integer"),
        (f"train: {'a' * 5000}\nnames: [a]\n", "aaa is missing"),
        (
            "train: [labels/no.txt]\nnames: [a]\n",
            r"cannot read .*no\.txt: .*expected text in UTF-8",
        ),
    ],
)
def test_broken_data_yaml_is_refused(yolo_folder: Path, text: str, message: str) -> None:
    (yolo_folder / "data.yaml").write_text(text)
    (yolo_folder / "gone.txt").write_text("images/train/gone.png\n")
    (yolo_folder / "labels/no.txt").write_bytes(b"\xff")
    with pytest.raises(PanodetrError, match=message):
        open_data(yolo_folder)


def test_a_split_without_images_is_said_where_another_has_some(yolo_folder: Path) -> None:
    (yolo_folder / "empty.txt").write_text("")
    text = (yolo_folder / "data.yaml").read_text().replace("val: images/val", "val: empty.txt")
    (yolo_folder / "data.yaml").write_text(f"nc: 5\n{text}")
    notes = "\n".join(open_data(yolo_folder).notes)
    assert "has no image in its split 'val'" in notes
    assert "has nc 5 and 2 names; the names count" in notes


def test_labels_that_are_no_text_are_refused(yolo_folder: Path) -> None:
    (yolo_folder / "labels/train/000000000007.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read .*000000000007\.txt"):
        open_data(yolo_folder)


def test_the_folder_may_be_called_otherwise_than_the_yaml_says(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", (20, 30))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: ../coins/images/\nval: ../coins/images/\nnc: 1\n")
    assert [len(images_of(tmp_path, split)) for split in ("train", "val")] == [1, 1]
