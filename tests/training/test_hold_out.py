"""A share of the images to learn from validates, where no split does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.data.convert import Target, convert_data
from panodetr.data.dataset import Dataset, Source, open_data
from panodetr.errors import UsageError
from panodetr.training.prepare import Request, prepare, read_request, resumed, write_request
from panodetr.training.validate import hold_out, list_images, open_truth

from .conftest import write_discs
from .test_prepare import SMALL


def request(folder: Path, share: float | None = 0.25, **more: object) -> Request:
    asked = Request(recipe="nuclei", data=folder, val_split=share, changes=SMALL)
    return replace(asked, **more)  # pyright: ignore[reportArgumentType]


def held_out(data: Dataset, share: float, seed: int) -> list[str]:
    return list_images(hold_out(data, share, seed)[1])


def test_the_same_images_are_held_out_wherever_the_data_lies(tmp_path: Path) -> None:
    data = write_discs(tmp_path / "discs", 10)
    held = held_out(data, 0.3, 0)
    assert len(held) == 3
    assert all(path.startswith("train/") for path in held)
    shutil.copytree(data.folder, tmp_path / "elsewhere")
    assert held_out(open_data(tmp_path / "elsewhere"), 0.3, 0) == held
    assert set(held) <= set(held_out(data, 0.5, 0))  # more of them are the same, and others
    assert held_out(data, 0.3, 1) != held


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 1.0, float("nan")])
def test_a_share_that_leaves_one_side_empty_is_refused(discs: Dataset, share: float) -> None:
    with pytest.raises(UsageError, match=r"--val-split .* of 4 images holds out") as caught:
        hold_out(discs, share, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["coco-panoptic", "coco-instances", "yolo", "id-maps"])
def test_images_of_every_format_are_held_out(discs: Dataset, tmp_path: Path, format: str) -> None:
    folder = discs.folder
    if format == "id-maps":
        folder = tmp_path / format
        shutil.copytree(discs.folder / "train", folder / "images")
        (folder / "masks").mkdir()
        for path in (discs.folder / "panoptic_train").iterdir():
            ids = np.asarray(Image.open(path))[..., 0] - 1  # without the background
            Image.fromarray(ids).save(folder / "masks" / path.name)
    elif format != "coco-panoptic":
        to: Target = format  # pyright: ignore[reportAssignmentType]
        convert_data(
            discs.folder, tmp_path / format, to, class_name="", progress=lambda done, total: None
        )
        folder = tmp_path / format
    learned, held = hold_out(open_data(folder), 0.5, 0)
    assert learned.format == format
    truth, unreadable = open_truth(held, Source(folder))
    assert unreadable == []
    paths = [image.path for image in truth.images]
    assert paths == [sample.path for sample in held.samples]
    assert len(paths) == len(learned.samples) == 2
    assert not set(paths) & {sample.path for sample in learned.samples}
    assert "panoptic" in truth.tasks()


def test_a_run_learns_from_the_others_and_keeps_its_share(discs: Dataset, tmp_path: Path) -> None:
    prepared = prepare(request(discs.folder))
    assert prepared.truth is not None
    assert (len(prepared.data.samples), len(prepared.truth.images)) == (3, 1)
    assert prepared.request.scored == "held-out"
    assert prepared.notes == ()  # no image is learned from and validated with
    write_request(tmp_path / "config.json", prepared)
    kept, _ = read_request(tmp_path / "config.json")
    without = prepare(resumed(kept, Request(val="none")))
    assert (len(without.data.samples), without.truth) == (3, None)
    again = prepare(resumed(without.request, Request(val="held-out")))
    assert again.truth == prepared.truth
    with pytest.raises(UsageError, match="begun with val 'held-out', not 'train'"):
        resumed(kept, Request(val="train"))
    with pytest.raises(UsageError, match=r"begun with val_split 0\.25, not 0\.5"):
        resumed(kept, request(discs.folder, 0.5))
    epochs = [change for change in SMALL if not change.startswith("steps")]
    start = ("start=nuclei", "epochs=10", *epochs)
    assert prepare(request(discs.folder, recipe="finetune", changes=start)).config.steps == 15


def test_a_share_is_refused_where_a_split_validates(discs: Dataset) -> None:
    with pytest.raises(UsageError, match="there is 'train'; leave one of them out"):
        prepare(request(discs.folder, val="train"))
    write_discs(discs.folder, 2, split="val2017")
    for val in (None, "val"):
        with pytest.raises(UsageError, match=r"--val-split 0.25 .* there is 'val") as caught:
            prepare(request(discs.folder, val=val))
        assert "\n" not in str(caught.value)
    prepared = prepare(request(discs.folder, 0.5, split="val"))  # what is parted is that split
    assert len(prepared.data.samples) == 1
