from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from panodetr.data.dataset import open_data
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import GroundTruthSegment, Sample, read_sample
from panodetr.errors import DataError

from .conftest import edit, panoptic_samples, read_strictly

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
    {"id": 3, "name": "cell", "isthing": 1, "color": [255, 0, 0]},
]


def save_ids(path: Path, ids: NDArray[np.int32]) -> None:
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors.astype(np.uint8)).save(path)


@pytest.fixture
def document() -> dict[str, Any]:
    """The JSON of a split of two images, 4 pixels high and 6 wide."""
    return {
        "categories": CATEGORIES,
        "images": [
            {"id": 20, "file_name": "b.png", "height": 4, "width": 6},
            {"id": 10, "file_name": "a.png", "height": 4, "width": 6},
        ],
        "annotations": [
            {
                "image_id": 10,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 70000, "category_id": 3, "area": 6, "iscrowd": 1},
                    {"id": 2, "category_id": 7, "area": 12},
                ],
            },
            {"image_id": 20, "file_name": "b.png", "segments_info": []},
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a JSON beside the two images of a split "val"; gives the folder."""
    ids = np.zeros((4, 6), np.int32)
    ids[0], ids[1:3] = 70000, 2
    save_ids(tmp_path / "panoptic_val" / "a.png", ids)
    save_ids(tmp_path / "panoptic_val" / "b.png", np.zeros((4, 6), np.int32))
    (tmp_path / "val").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "val" / name)

    def write_json(document: object) -> Path:
        (tmp_path / "panoptic_val.json").write_text(json.dumps(document))
        return tmp_path

    return write_json


@pytest.fixture
def data(write: Callable[[object], Path], document: dict[str, Any]) -> list[Sample]:
    return panoptic_samples(write(document), "val")


def test_categories_are_numbered_by_rising_id(
    write: Callable[[object], Path], document: dict[str, Any]
) -> None:
    data = read_strictly(write(document), "val", "coco-panoptic")
    assert [(c.index, c.id, c.name, c.is_thing, c.color) for c in data.categories] == [
        (0, 3, "cell", True, (255, 0, 0)),
        (1, 7, "sky", False, (0, 0, 255)),
    ]


def test_annotations_are_joined_to_images_by_id(data: list[Sample], tmp_path: Path) -> None:
    b, a = data
    assert (b.image_id, b.name, b.size, b.segments) == (20, "b", (4, 6), ())
    assert a.path == tmp_path / "val" / "a.png"
    assert a.id_map == tmp_path / "panoptic_val" / "a.png"
    assert a.segments == (
        GroundTruthSegment(id=70000, category_id=3, area=6, is_crowd=True),
        GroundTruthSegment(id=2, category_id=7, area=12, is_crowd=False),
    )
    assert read_sample(a).shape == (4, 6, 3)
    ids = read_ids(a)
    assert ids.dtype == np.int32
    assert [row[0] for row in ids.tolist()] == [70000, 2, 2, 0]


def test_id_maps_are_found_where_the_folder_of_images_is_named(data: list[Sample]) -> None:
    folder = data[0].path.parent.parent
    (folder / "val").rename(folder.with_name("elsewhere"))
    found = open_data(folder, images=folder.with_name("elsewhere"))
    assert [sample.path.parent.name for sample in found.samples] == ["elsewhere", "elsewhere"]


def test_an_id_map_may_have_a_palette(data: list[Sample]) -> None:
    path = data[1].id_map
    before = read_ids(data[1])
    with Image.open(path) as picture:
        palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(path)
    np.testing.assert_array_equal(read_ids(data[1]), before)


def test_names_keep_their_folders(write: Callable[[object], Path], document: Any) -> None:
    folder = write(document)
    for kind in ("val", "panoptic_val"):
        (folder / kind / "day").mkdir()
        (folder / kind / "b.png").rename(folder / kind / "day" / "a.png")
    document["images"][0]["file_name"] = document["annotations"][1]["file_name"] = "day/a.png"
    data = panoptic_samples(write(document), "val")
    assert [sample.name for sample in data] == ["day/a", "a"]


SEGMENTS = ("annotations", 0, "segments_info")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("images", to=None), "missing required field images"),
        (edit("images", to=5), r"images: expected object \| array, got int"),
        (edit("images", to=[]), "has no images; expected at least one"),
        (edit("images", 0, to=[]), r"images\[0\]: expected object, got array"),
        (edit("images", 0, "id", to="x"), "has no annotation for image 1"),
        (edit("images", 0, "id", to=True), r"id: expected int \| str, got bool"),
        (edit("images", 0, "id", to=10), r"images\[1\] repeats image id 10"),
        (edit("annotations", 1, to=None), "no annotation for image 20"),
        (edit("annotations", 1, "image_id", to=10), "second annotation for image 10"),
        (edit("annotations", 1, "file_name", to="a.png"), "id map a.png of another image"),
        (edit("annotations", 1, "file_name", to="c.png"), "c.png is missing"),
        (edit("annotations", 1, "file_name", to=""), "file_name: expected str of length >= 1"),
        (edit(*SEGMENTS, 0, "id", to=2), "repeats segment id 2 within its image"),
        (edit(*SEGMENTS, 0, "id", to=0), r"segments_info\[0\]: id: expected int >= 1"),
        (edit(*SEGMENTS, 0, "id", to=2**24), "id: expected int <= 16777215"),
        (edit(*SEGMENTS, 0, "category_id", to=4), "has category 4, which categories doesn't list"),
        (edit(*SEGMENTS, 0, "iscrowd", to=2), r"iscrowd: expected bool \| null, got int"),
        (edit("categories", to=[]), "has no categories"),
        (edit("categories", "+", to=CATEGORIES[0] | {"name": "x"}), "repeats id 7"),
        (edit("categories", 0, "isthing", to="no"), "isthing: expected bool, got str"),
    ],
)
def test_a_json_that_contradicts_itself_is_refused(
    write: Callable[[object], Path],
    document: dict[str, Any],
    change: Callable[[Any], None],
    message: str,
) -> None:
    document = json.loads(json.dumps(document))
    change(document)
    with pytest.raises(DataError, match=message) as caught:
        panoptic_samples(write(document), "val")
    assert "\n" not in str(caught.value)
    assert "panoptic_val.json" in str(caught.value) or ".png" in str(caught.value)


def test_id_maps_are_found_elsewhere_and_images_are_never_taken_for_them(
    data: list[Sample],
) -> None:
    folder = data[1].path.parent.parent
    (folder / "panoptic_val").rename(folder / "elsewhere")
    found = panoptic_samples(folder, "val")[1]
    assert (found.id_map, found.path) == (folder / "elsewhere/a.png", folder / "val/a.png")
    shutil.rmtree(folder / "elsewhere")
    with pytest.raises(DataError, match=r"panoptic_val/a.png is missing; it is the id map of"):
        panoptic_samples(folder, "val")


@pytest.mark.parametrize("color", [None, [1, 2], [1, 2, 256], "#09c809"])
def test_colours_are_made_up_and_areas_measured_where_they_are_missing(
    write: Callable[[object], Path], document: dict[str, Any], color: object
) -> None:
    document = json.loads(json.dumps(document))
    document["categories"][0]["color"] = color
    first, second = document["annotations"][0]["segments_info"]
    del first["area"]
    second["area"] = 11.5
    folder = write(document)
    data = panoptic_samples(folder, "val")
    categories = read_strictly(folder, "val", "coco-panoptic").categories
    assert len({category.color for category in categories}) == 2
    assert [segment.area for segment in data[1].segments] == [6, 12]


def test_a_broken_id_map_is_named(data: list[Sample]) -> None:
    a = data[1]
    whole = a.id_map.read_bytes()
    for contents in (b"", b"no picture", whole[: len(whole) // 2]):
        a.id_map.write_bytes(contents)
        with pytest.raises(DataError, match=r"a.png cannot be read as an id map"):
            read_ids(a)
    Image.new("I;16", (6, 4)).save(a.id_map)
    with pytest.raises(DataError, match=r"a.png has I;16 pixels; expected 8-bit RGB"):
        read_ids(a)
    a.id_map.unlink()
    with pytest.raises(DataError, match=r"a.png is missing"):
        read_ids(a)
