from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.data.dataset import Dataset
from panodetr.errors import DataError, TrainingError, UsageError
from panodetr.training.config import TrainConfig
from panodetr.training.dry_run import dry_run, warn_of_few_steps
from panodetr.training.prepare import (
    Request,
    changed_fields,
    prepare,
    read_request,
    resumed,
    write_request,
)
from panodetr.training.run import newest_run

from .conftest import write_discs

SMALL = (
    "steps=4", "batch_size=2", "augmentation.size=48", "spec.architecture.encoder_layers=1",
    "spec.architecture.decoder_layers=1",
)  # fmt: skip


def request(data: Dataset, *changes: str, val: str | None = None) -> Request:
    return Request(recipe="nuclei", data=data.folder, val=val, changes=changes)


def test_a_request_is_kept_and_read_again(discs: Dataset, tmp_path: Path) -> None:
    prepared = prepare(request(discs, *SMALL))
    write_request(tmp_path / "config.json", prepared)
    kept, fields = read_request(tmp_path / "config.json")
    assert kept == replace(prepared.request, data=discs.folder.resolve())
    assert fields["steps"] == 4
    assert changed_fields(prepared.config, fields) == []
    assert changed_fields(replace(prepared.config, clip=7.0), fields) == ["clip"]


def test_a_resumed_run_takes_more_changes_and_nothing_else(discs: Dataset) -> None:
    kept = replace(request(discs, "steps=4"), data=discs.folder.resolve(), split="train")
    assert resumed(kept, None, ()) == kept
    assert resumed(kept, request(discs), ["steps=8"]).changes == ("steps=4", "steps=8")
    for other in (
        replace(kept, recipe="finetune"),
        replace(kept, split="val"),
        replace(kept, data=discs.folder.parent),
    ):
        with pytest.raises(UsageError, match="begun with"):
            resumed(kept, other, ())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": "nuclei"}', None])
def test_a_run_that_cannot_be_resumed_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainingError, match=r"holds no run|cannot be read") as caught:
        read_request(path)
    assert "\n" not in str(caught.value)


def test_the_split_val_validates_where_it_is_there(discs: Dataset) -> None:
    assert prepare(request(discs, *SMALL)).truth is None
    for path in list(discs.folder.iterdir()):
        path.rename(path.with_name(path.name.replace("train", "val")))
    data = replace(discs, split="val")
    prepared = prepare(replace(request(data, *SMALL), split="val"))
    assert prepared.truth is not None
    assert len(prepared.truth.images) == 4
    assert prepare(replace(request(data, *SMALL, val="none"), split="val")).truth is None
    with pytest.raises(DataError):
        prepare(replace(request(data, *SMALL, val="test"), split="val"))


def test_a_run_without_validation_says_so(discs: Dataset) -> None:
    (note,) = prepare(request(discs, *SMALL)).notes
    assert note == "there is no validation (no split is called val): no best model is kept"
    (note,) = prepare(request(discs, *SMALL, "patience=3", val="none")).notes
    assert "(--val none)" in note
    assert note.endswith("and patience=3 does nothing")
    write_discs(discs.folder, 1, split="val")
    assert prepare(request(discs, *SMALL, "patience=3")).notes == ()
    (note,) = prepare(request(discs, *SMALL, "patience=3", "validate_every=0")).notes
    assert "one validation, at the end, and patience=3 does nothing" in note


def test_other_classes_to_validate_with_are_refused_before_the_run(discs: Dataset) -> None:
    write_discs(discs.folder, 1, split="val")
    path = discs.folder / "panoptic_val.json"
    path.write_text(path.read_text().replace('"disc"', '"coin"'))
    with pytest.raises(DataError, match="category 10 is 'disc' in the model and 'coin' in"):
        prepare(request(discs, *SMALL))


def test_photos_with_id_maps_are_validated_by_their_objects(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for number in range(2):
            ids = np.zeros((64, 64), np.uint8)
            ids[4:20, 4:20], ids[30:50, 30:60] = 1, 2
            photo = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / split / "images" / f"{number}.png")
            Image.fromarray(ids).save(tmp_path / split / "masks" / f"{number}.png")
    truth = prepare(Request(recipe="nuclei", data=tmp_path, changes=SMALL)).truth
    assert truth is not None
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    (first, second) = truth.images[0].instances.objects  # pyright: ignore[reportOptionalMemberAccess]
    assert first["bbox"] == [4, 4, 16, 16]
    assert second["area"] == 600


def test_the_newest_run_is_the_one_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to resume"):
        newest_run(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name / "states").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "a" / "states" / "last").write_text("later")
    assert newest_run(tmp_path).name in ("a", "c")  # clocks may be coarse


def test_a_rehearsal_measures_and_writes_nothing(discs: Dataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in discs.folder.rglob("*")}
    found = dry_run(request(discs, *SMALL), device="cpu")
    assert found.photos == 4
    assert found.val_photos == 0
    assert found.checked
    assert found.errors == ()
    assert "no best model is kept" in found.notes[0]
    assert found.seconds > 0
    assert found.total_seconds == pytest.approx(4 * found.seconds)
    assert found.parameters > 1_000_000
    assert found.peak_bytes is None or found.peak_bytes > 50e6
    assert "4 steps of 2 photos are very few" in found.warnings[0]
    assert {path: path.stat().st_mtime_ns for path in discs.folder.rglob("*")} == before


def test_few_steps_are_measured_by_where_they_begin(tiny_run: TrainConfig) -> None:
    scratch = replace(tiny_run, token_weight=0.0, steps=20_000)
    assert "554000 of 64 photos in the paper" in warn_of_few_steps(scratch)[0]
    assert warn_of_few_steps(replace(scratch, steps=60_000)) == []
    assert warn_of_few_steps(replace(scratch, token_weight=1.0)) == []
    assert warn_of_few_steps(replace(scratch, start="nuclei")) == []
    assert warn_of_few_steps(replace(scratch, start="nuclei", steps=100))
    masks = replace(
        tiny_run, start="boxes", learned="masks", token_weight=0.0, mask_start=0, query_groups=1
    )
    assert "the mask head took 46000 of 64 photos" in warn_of_few_steps(masks)[0]
    assert warn_of_few_steps(replace(masks, steps=5_000)) == []
