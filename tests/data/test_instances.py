from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from panodetr.data.masks import decode_counts
from panodetr.errors import DataError
from panodetr.results.masks import run_lengths

from .conftest import edit, instance_images, read_strictly

Write = Callable[[object], Path]
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def document() -> dict[str, Any]:
    """The JSON of a split of two images, 4 pixels high and 6 wide."""
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cell"}],
        "images": [
            {"id": 20, "file_name": "b.png", "height": 4, "width": 6},
            {"id": 10, "file_name": "a.png", "height": 4, "width": 6},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 10,
                "category_id": 3,
                "bbox": [1, 1, 2, 2.5],
                "area": 4.5,
                "iscrowd": 0,
                "segmentation": [[1, 1, 3, 1, 3, 3.5]],
            },
            {
                "id": 2,
                "image_id": 10,
                "category_id": 7,
                "bbox": [0, 0, 6, 4],
                "area": 24,
                "iscrowd": 1,
                "segmentation": {"size": [4, 6], "counts": [20, 4]},
            },
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a JSON beside the two images of a split "val"; gives the folder."""
    (tmp_path / "val").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / "val" / name)

    def save(document: object) -> Path:
        (tmp_path / "instances_val.json").write_text(json.dumps(document))
        return tmp_path

    return save


def test_a_split_is_read_in_the_order_of_its_json(document: dict[str, Any], write: Write) -> None:
    folder = write(document)
    categories = read_strictly(folder, "val", "coco-instances").categories
    assert [(c.id, c.name) for c in categories] == [(3, "cell"), (7, "dog")]
    one, other = instance_images(folder, "val")
    assert (one.image_id, list(one.objects), other.image_id) == (20, [], 10)
    first, second = other.objects
    assert first == document["annotations"][0]
    assert second == document["annotations"][1]
    assert (other.size, other.path) == ((4, 6), folder / "val" / "a.png")


def test_masks_and_crowds_may_be_left_out(document: dict[str, Any], write: Write) -> None:
    bare = document["annotations"][0]
    del bare["segmentation"], bare["iscrowd"]
    bare["area"] = "4.5"  # some tools write numbers as text
    (found, _) = instance_images(write(document), "val")[1].objects
    assert "segmentation" not in found
    assert (found["iscrowd"], found["area"]) == (0, 4.5)


@given(
    npst.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.booleans())
)
def test_strings_of_run_lengths_are_read_as_they_were_written(mask: NDArray[np.bool_]) -> None:
    text = hotcoco.mask.encode(np.asfortranarray(mask))["counts"].decode("ascii")
    assert decode_counts(text) == run_lengths(mask)


A = "annotations"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("categories", 0, "id", to=3), r"categories\[1\] repeats id 3 of 'cell'"),
        (edit(A, 0, "category_id", to=5), "has category 5, which categories doesn't list"),
        (edit(A, 0, "bbox", to=[1, 2, 3]), "bbox: expected array of length 4"),
        (edit(A, 0, "bbox", to=[1, 2, 3, -1]), r"bbox\[3\]: expected float >= 0"),
        (edit(A, 0, "bbox", to=[1, 2, 3, float("nan")]), "expected float, got null"),
        (edit(A, 0, "bbox", to=[1, 2, 3, "nan"]), r"bbox\[3\]: expected float >= 0"),
        (edit(A, 0, "bbox", to=[1, 2, 3, 10**400]), r"bbox\[3\]: number out of range"),
        (edit(A, 0, "area", to=-1), "area: expected float >= 0"),
        (edit(A, 0, "area", to=1e300), "area: expected float <= 1e"),
        (edit(A, 0, "iscrowd", to="no"), r"iscrowd: expected bool \| null, got str"),
        (edit(A, 0, "segmentation", to=[[1, 2, 3, 4, 5, 6, 7]]), "invalid polygon of 7 numbers"),
        (edit(A, 0, "segmentation", to=["RLE"]), r"segmentation\[0\]: expected"),
        (edit(A, 0, "segmentation", to=[[1, 2, 3, 4, 5, "inf"]]), r"\[0\]\[5\]: expected float <="),
        (edit(A, 1, "segmentation", "counts", to="no RLE"), "are no string of run lengths"),
        (edit(A, 1, "segmentation", "counts", to=""), "that add up to 24"),
        (edit(A, 1, "segmentation", "counts", to="d0"), "that add up to 24"),
        (edit(A, 1, "segmentation", "counts", to="d045"), "that add up to 24"),
        (edit(A, 1, "segmentation", "counts", to="N8N"), "that add up to 24"),
        (edit(A, 1, "segmentation", "counts", to="d0T"), "are no string of run lengths"),
        (edit(A, 1, "segmentation", "counts", to="oooooooooooo0"), "one of them is too long"),
        (edit(A, 1, "segmentation", "size", to=[6, 4]), r"the size \[6, 4\]; expected \[4, 6\]"),
        (edit(A, 1, "segmentation", "counts", to=[20]), "that add up to 24"),
        (edit(A, 1, "segmentation", "counts", to=[-4, 28]), r"counts\[0\]: expected int >= 0"),
    ],
)
def test_what_contradicts_itself_is_named(
    document: dict[str, Any], write: Write, change: Edit, message: str
) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(DataError, match=message) as caught:
        instance_images(write(changed), "val")
    assert "\n" not in str(caught.value)
