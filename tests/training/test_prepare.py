from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from panodetr.checkpoints.spec import ModelSpec, spec_from_json, spec_to_json
from panodetr.data.dataset import Dataset
from panodetr.errors import ChannelError, DataError, PanodetrError, TrainingError, UsageError
from panodetr.loading import load
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig
from panodetr.training.folder import held, newest_run
from panodetr.training.prepare import (
    EXTRAS,
    Request,
    changed_fields,
    prepare,
    read_request,
    resumed,
    write_request,
)
from panodetr.training.run import dry_run, train, warn_of_few_steps
from panodetr.training.step import read_steps

from .conftest import save_start, write_discs, write_instances

SMALL = (
    "steps=4", "batch_size=2", "augmentation.size=48", "spec.architecture.encoder_layers=1",
    "spec.architecture.decoder_layers=1", "warmup=0", "decay=0", "mask_start=0",
)  # fmt: skip


def request(data: Dataset, *changes: str, val: str | None = None) -> Request:
    return Request(recipe="nuclei", data=data.folder, val=val, changes=changes)


@pytest.fixture
def boxes(discs: Dataset) -> Path:
    """The folder of the same images with boxes alone, as COCO writes them."""
    folder = write_instances(discs)
    (folder / "panoptic_train.json").unlink()
    return folder


def test_a_resumed_run_takes_more_changes_and_nothing_else(discs: Dataset) -> None:
    kept = replace(request(discs, "steps=4"), data=discs.folder.resolve(), split="train")
    assert resumed(kept, Request()) == kept
    assert resumed(kept, request(discs, "steps=8")).changes == ("steps=4", "steps=8")
    for other in (
        replace(kept, recipe="finetune"),
        replace(kept, split="val"),
        replace(kept, format="coco-panoptic"),
        replace(kept, data=discs.folder.parent),
    ):
        with pytest.raises(UsageError, match="begun with"):
            resumed(kept, other)


def test_scores_are_of_one_split_also_after_steps_without_validation(discs: Dataset) -> None:
    write_discs(discs.folder, 1, split="val2017")
    write_discs(discs.folder, 1, split="test")
    without = prepare(request(discs, *SMALL, val="none")).request
    assert resumed(without, Request(val="test")).val == "test"  # none was begun with: any may come
    kept = prepare(request(discs, *SMALL)).request
    assert kept.scored == "val2017"
    kept = prepare(resumed(kept, Request(val="none"))).request
    assert (kept.val, kept.scored) == ("none", "val2017")
    for val in ("val", "val2017"):  # the split that was found may be named
        assert resumed(kept, Request(val=val)).val == "val2017"
    with pytest.raises(UsageError, match="begun with val 'val2017', not 'test'"):
        resumed(kept, Request(val="test"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": "nuclei"}', None])
def test_a_run_that_cannot_be_resumed_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainingError, match=r"holds no run|the run cannot be read") as caught:
        read_request(path)
    assert "\n" not in str(caught.value)


def test_the_split_val_validates_where_it_is_there_and_its_classes_fit(discs: Dataset) -> None:
    assert prepare(request(discs, *SMALL)).truth is None
    (note,) = prepare(request(discs, *SMALL, val="train")).notes
    assert "4 of the 4 images to validate with are also learned from" in note
    write_discs(discs.folder, 5, split="val")
    prepared = prepare(request(discs, *SMALL))
    assert prepared.notes == ()
    assert prepared.truth is not None
    assert len(prepared.truth.images) == 5
    (discs.folder / "val" / "5.png").unlink()
    prepared = prepare(request(discs, *SMALL))
    assert prepared.truth is not None
    assert len(prepared.truth.images) == 4
    assert prepared.notes[0].startswith("val: 1 of 5 listed images are not there")
    with pytest.raises(DataError):
        prepare(request(discs, *SMALL, val="test"))
    described = discs.folder / "panoptic_val.json"
    described.write_text(described.read_text().replace('"disc"', '"ring"'))
    with pytest.raises(DataError, match=r"category 10 is 'disc' .* 'ring' .* --val none") as caught:
        prepare(request(discs, *SMALL))
    assert "\n" not in str(caught.value)
    assert prepare(request(discs, *SMALL, val="none")).truth is None


def test_stage_2_on_fewer_classes_is_refused_unless_it_is_not_validated(
    discs: Dataset, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    write_discs(discs.folder, 1, split="val")
    more = Category(index=2, id=30, name="ring", is_thing=True, color=(0, 0, 0))
    start = save_start(tmp_path / "start", tiny_spec, categories=(*discs.categories, more))
    asked = Request(recipe="coco-panoptic-masks", data=discs.folder, changes=(start,))
    with pytest.raises(DataError, match="validation would fail: category 30 is 'ring'"):
        prepare(asked)
    assert prepare(replace(asked, val="none")).truth is None


def test_boxes_alone_are_refused_where_masks_are_learned_with_advice_that_runs(
    boxes: Path, tmp_path: Path
) -> None:
    every = ["spec.architecture.masks=false", "attention_weight=0"]
    asked = Request(recipe="nuclei", data=boxes, changes=SMALL)
    for given in ([], every[:1], every[1:]):
        with pytest.raises(UsageError, match=r"not every object in .* has a mask") as caught:
            prepare(replace(asked, changes=(*SMALL, *given)))
        assert "\n" not in str(caught.value)
        advised = str(caught.value).partition("without them: --set ")[2].split(" --set ")
        assert advised == [change for change in every if change not in given]
    outcome = train(replace(asked, changes=(*SMALL, *every)), tmp_path / "run", device="cpu")
    assert outcome is not None
    assert (outcome.steps, outcome.masks) == (4, False)


def test_paths_are_kept_so_that_a_run_can_be_resumed_from_anywhere(
    discs: Dataset, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    asked = Request(
        recipe="finetune", data=discs.folder, changes=(f"start={tiny_folder.name}", "clip=1")
    )
    prepared = prepare(asked)
    assert prepared.request.changes == (f"start={tiny_folder.resolve()}", "clip=1")
    write_request(tmp_path / "config.json", prepared)
    monkeypatch.chdir(tmp_path)
    kept, fields = read_request(tmp_path / "config.json")
    again = prepare(kept).config
    assert again.start == str(tiny_folder.resolve())
    assert kept == replace(prepared.request, data=discs.folder.resolve())
    assert changed_fields(again, fields) == []
    assert changed_fields(replace(again, clip=7.0), fields) == ["clip"]
    (tmp_path / "nuclei").mkdir()  # a bundled name wins over a folder
    bundled = replace(asked, changes=("start=nuclei",))
    assert prepare(bundled).request.changes == ("start=nuclei",)


def test_a_missing_extra_is_one_line(discs: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing, fix in (
        ("accelerate", "training needs libraries .*; pip install 'panodetr.train.'"),
        ("wandb", "wandb=true needs wandb, .*; pip install wandb"),
    ):
        found = dict.fromkeys((*EXTRAS, "wandb"), True) | {missing: None}
        monkeypatch.setattr("panodetr.training.prepare.find_spec", found.get)
        with pytest.raises(PanodetrError, match=fix):
            prepare(request(discs, *SMALL, "wandb=true"))


def test_of_cocos_two_truths_the_one_that_is_asked_for_is_learned(
    discs: Dataset, tmp_path: Path
) -> None:
    folder = write_instances(discs, segmentation=[[1, 1, 10, 1, 10, 10, 1, 10]])
    asked = request(discs, *SMALL, val="train")
    assert prepare(asked).data.format == "coco-panoptic"
    for recipe in ("coco-detection", "coco-panoptic-boxes"):
        found = prepare(Request(recipe=recipe, data=folder, changes=("workers=0",))).data.format
        assert (found == "coco-instances") is (recipe == "coco-detection")
    prepared = prepare(replace(asked, format="coco-instances"))
    assert [category.name for category in prepared.config.spec.categories] == ["disc"]
    assert prepared.truth is not None
    assert prepared.truth.of_objects  # not the panoptic truth beside it
    assert prepared.truth.tasks() == ("boxes", "instances", "panoptic")
    write_request(tmp_path / "config.json", prepared)
    kept, _ = read_request(tmp_path / "config.json")
    assert kept.format == "coco-instances"
    assert prepare(resumed(kept, Request())).data.format == "coco-instances"


def test_a_run_without_validation_says_so(discs: Dataset) -> None:
    (note,) = prepare(request(discs, *SMALL)).notes
    assert note == (
        "there is no validation (no split is called val; --val-split 0.2 holds images out): "
        "no best model is kept"
    )
    (note,) = prepare(request(discs, *SMALL, "patience=3", val="none")).notes
    assert "(--val none)" in note
    assert note.endswith("and patience=3 does nothing")
    write_discs(discs.folder, 1, split="val")
    assert prepare(request(discs, *SMALL, "patience=3")).notes == ()
    (note,) = prepare(request(discs, *SMALL, "patience=3", "validate_every=0")).notes
    assert "one validation, at the end, and patience=3 does nothing" in note


def test_a_run_too_short_for_its_schedule_says_so(discs: Dataset) -> None:
    def told(*changes: str) -> list[str]:
        return [*prepare(request(discs, *SMALL, *changes, val="none")).notes[1:]]

    for fits in (("mask_start=3", "warmup=1", "decay=3"), ("warmup=2", "drop=3")):
        assert told(*fits) == []
    assert told("mask_start=4", "spec.architecture.masks=false") == []
    for changes, part in (
        (["mask_start=4"], "no step learns masks: there are 4, and mask_start is 4;"),
        (["warmup=4"], "never reaches its peak: there are 4 steps, and warmup is 4, decay 0;"),
        (["warmup=2", "decay=3"], "4 steps, and warmup is 2, decay 3; let"),
        (["warmup=2", "drop=2"], "4 steps, and warmup is 2, decay 0 and drop 2; let"),
    ):
        (note,) = told(*changes)
        assert part in note
        assert "\n" not in note


def write_label_maps(folder: Path, objects: int = 2) -> None:
    """Two images of noise, with so many objects each in id maps beside them."""
    noise = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(2):
        ids = np.zeros((64, 64), np.uint8)
        for n in range(objects):
            ids[4 * (n // 16) : 4 * (n // 16) + 3, 4 * (n % 16) : 4 * (n % 16) + 3] = n + 1
        image = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(ids).save(folder / "masks" / f"{number}.png")


def test_id_maps_are_validated_by_objects_without_those_that_cannot_be_read(
    tmp_path: Path,
) -> None:
    for split in ("train", "val"):
        write_label_maps(tmp_path / split)
    truth = prepare(Request(recipe="nuclei", data=tmp_path, changes=SMALL)).truth
    assert truth is not None
    assert truth.tasks() == ("boxes", "instances", "panoptic")
    first, second = list(truth.images[0].objects or ())
    assert (first["bbox"], second["bbox"], second["area"]) == ([0, 0, 3, 3], [4, 0, 3, 3], 9)
    for split in ("train", "val"):
        (tmp_path / split / "images" / "1.png").write_bytes(b"nothing")
    prepared = prepare(Request(recipe="nuclei", data=tmp_path, changes=SMALL))
    assert len(prepared.data.unreadable) == 1
    assert prepared.truth is not None
    assert [image.path.name for image in prepared.truth.images] == ["0.png"]
    assert any("left out of validation: " in n and "val/images/1.png" in n for n in prepared.notes)
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read, the last: .*bad_images"):
        prepare(Request(recipe="nuclei", data=tmp_path, changes=(*SMALL, "bad_images=0")))
    (tmp_path / "val" / "masks" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError):  # nothing is left
        prepare(Request(recipe="nuclei", data=tmp_path, changes=SMALL))


def test_label_maps_hold_what_class_says(discs: Dataset, tmp_path: Path) -> None:
    write_label_maps(tmp_path / "maps")
    asked = Request(recipe="nuclei", data=tmp_path / "maps", changes=SMALL, val_split=0.5)
    for given, name in ((None, "object"), ("cell", "cell")):
        prepared = prepare(replace(asked, class_name=given))
        assert prepared.truth is not None
        for categories in (
            prepared.config.spec.categories,
            prepared.truth.object_categories,
            prepared.truth.segment_categories,
        ):
            assert [category.name for category in categories] == [name]
    with pytest.raises(UsageError, match=r"--class cell is for id maps .* has disc, backgr"):
        prepare(replace(request(discs, *SMALL), class_name="cell"))


def test_images_with_more_objects_than_queries_are_told_with_both_numbers(
    discs: Dataset, tmp_path: Path
) -> None:
    few, tiles = "spec.architecture.num_queries=3", "spec.preprocessing.tile=63"
    whole = "spec.preprocessing.tile=64"
    overlap = "spec.preprocessing.tile_overlap=0"
    (_, note) = prepare(request(discs, *SMALL, few, whole, overlap)).notes
    assert "train/1.png has 4 objects, and the model has 3 queries" in note
    assert len(prepare(request(discs, *SMALL, few, tiles, overlap)).notes) == 1
    (note,) = prepare(
        request(discs, *SMALL, "spec.architecture.num_queries=2", tiles, overlap)
    ).notes[1:]
    assert re.search(r"a tile of .*train/\d.png has 3 objects, and the model has 2 queries", note)
    small = "spec.preprocessing.tile=12"
    (note,) = prepare(request(discs, *SMALL, small, overlap)).notes[1:]
    assert re.match(r"1\d of 12 objects are larger than a tile of 12 pixels, up to 1\d: ", note)
    write_label_maps(tmp_path / "maps", 130)
    asked = Request(recipe="nuclei", data=tmp_path / "maps", changes=(*SMALL, whole, overlap))
    (_, note) = prepare(asked).notes
    queries = prepare(asked).config.spec.architecture.num_queries
    assert f"has 130 objects, and the model has {queries} queries" in note


def test_what_a_model_of_tiles_keeps_is_said_where_it_knows_no_such_objects(
    discs: Dataset,
) -> None:
    start = ("start=nuclei", "steps=4", "warmup=0", "decay=0")
    asked = Request(recipe="finetune", data=discs.folder, val="none", changes=start)
    (*_, note) = prepare(asked).notes
    assert "nuclei knows no such objects; kept of it are tiles of 128 pixels, enlarged 1.5" in note
    assert "queries a tile; " in note
    for more in ("short_side=200", 'class_map={"disc":"nucleus"}'):
        notes = prepare(replace(asked, changes=(*start, more))).notes
        assert not any("kept of it" in note for note in notes)


def test_the_bits_that_images_fill_are_found_kept_and_used_alike(
    discs: Dataset, tmp_path: Path
) -> None:
    write_discs(discs.folder, 4, split="val")
    for path in [*discs.folder.glob("train/*.png"), *discs.folder.glob("val/*.png")]:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"), np.uint16)
        Image.fromarray(grey * 16).save(path)
    prepared = prepare(request(discs, *SMALL))
    assert prepared.config.spec.preprocessing.bits == 12
    assert "16-bit images fill 12 bits, so 4,095 is white" in prepared.notes[0]
    example = next(read_steps(prepared.config, prepared.data))[0]
    assert example.image.max() > 150
    outcome = train(request(discs, *SMALL), tmp_path / "run", device="cpu")
    assert outcome is not None
    model = load(outcome.model)  # no warning of a dark image: warnings are errors
    assert model.spec.preprocessing.bits == 12
    assert model.segment(discs.folder / "train" / "1.png").image.max() > 150
    changed = prepare(request(discs, *SMALL, "spec.preprocessing.bits=14")).config
    assert changed.spec.preprocessing.bits == 14


def test_of_many_channels_those_are_learned_that_are_chosen(discs: Dataset) -> None:
    for path in discs.folder.glob("train/*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        channels = np.dstack([pixels[..., 1:] * 0, pixels])  # the colours are 2, 3 and 4
        tifffile.imwrite(
            path.with_suffix(".tif"), channels, photometric="minisblack", planarconfig="contig"
        )
        path.unlink()
    with pytest.raises(ChannelError, match=r"5 channels, 0 to 4; .*preprocessing\.channels="):
        prepare(request(discs, *SMALL))
    prepared = prepare(request(discs, *SMALL, "spec.preprocessing.channels=[2,3,4]"))
    spec = prepared.config.spec
    assert spec.preprocessing.channels == (2, 3, 4)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec
    example = next(read_steps(prepared.config, prepared.data))[0]
    assert example.image.reshape(-1, 3).max(axis=0).min() > 150
    with pytest.raises(UsageError, match="expected three, or one for grey"):
        prepare(request(discs, *SMALL, "spec.preprocessing.channels=[2,3]"))


def test_the_newest_run_that_is_not_in_use_is_the_one_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to resume"):
        newest_run(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name / "states").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "a" / "states" / "last").write_text("later")
    for hour, places in enumerate((["b", "b/states"], ["a", "c/states"], ["c"], ["a/states"])):
        for place in places:
            os.utime(tmp_path / place, (3600 * hour, 3600 * hour))
    assert newest_run(tmp_path).name == "a"
    assert newest_run(tmp_path, "b").name == "b"
    (tmp_path / "c").rename(tmp_path / "b-2")
    os.utime(tmp_path / "b-2", (9 * 3600, 9 * 3600))
    assert newest_run(tmp_path, "b").name == "b-2"
    with pytest.raises(TrainingError, match="holds no run called d to resume"):
        newest_run(tmp_path, "d")
    (tmp_path / "b-2").rename(tmp_path / "c")
    os.utime(tmp_path / "c", (9 * 3600, 9 * 3600))
    assert newest_run(tmp_path).name == "c"
    with held(tmp_path / "c"):
        assert newest_run(tmp_path).name == "a"
        in_use = pytest.raises(TrainingError, match="all in use by other processes")
        with held(tmp_path / "a"), held(tmp_path / "b"), in_use:
            newest_run(tmp_path)


def test_a_rehearsal_measures_reads_everything_and_writes_nothing(discs: Dataset) -> None:
    found = dry_run(replace(request(discs, *SMALL), val_split=0.25), device="cpu")
    assert (found.images, found.val_images, found.errors) == (3, 1, ())
    write_discs(discs.folder, 4, split="val")
    image = discs.folder / "val" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    before = {path: path.stat().st_mtime_ns for path in discs.folder.rglob("*")}
    found = dry_run(request(discs, *SMALL), device="cpu")
    assert found.checked
    assert found.val_images == 4
    assert (found.errors, "3.png" in found.notes[-1]) == ((), True)  # left out, as the run does
    (error,) = dry_run(request(discs, *SMALL, "bad_images=0"), device="cpu").errors
    assert "3.png" in error
    assert found.seconds > 0
    assert found.total_seconds == pytest.approx(4 * found.seconds)
    assert found.parameters > 1_000_000
    assert found.peak_bytes is None or found.peak_bytes > 50e6
    assert "4 steps of 2 images are very few" in found.warnings[0]
    assert {path: path.stat().st_mtime_ns for path in discs.folder.rglob("*")} == before


def test_few_steps_are_measured_by_where_they_begin(tiny_run: TrainConfig) -> None:
    scratch = replace(tiny_run, token_weight=0.0, steps=20_000)
    masks = replace(scratch, start="boxes", learned="masks", mask_start=0)
    for config, warning in (
        (scratch, "554000 of 64 images in the paper"),
        (replace(scratch, steps=60_000), None),
        (replace(scratch, token_weight=1.0), None),
        (replace(scratch, start="nuclei"), None),
        (replace(scratch, start="nuclei", steps=100), "some thousands"),
        (masks, None),
        (replace(masks, steps=600), "the mask head took 46000 of 64 images"),
    ):
        found = warn_of_few_steps(config)
        assert (warning in found[0]) if warning else (found == [])


def test_a_data_set_whose_parts_are_elsewhere_is_named_by_options(
    boxes: Path, tmp_path: Path
) -> None:
    """And a run that is resumed finds them again."""
    moved, elsewhere = tmp_path / "all.json", tmp_path / "elsewhere"
    shutil.copy(boxes / "instances_train.json", moved)
    shutil.copytree(boxes / "train", elsewhere)
    without = ("spec.architecture.masks=false", "attention_weight=0")
    asked = Request(
        recipe="nuclei",
        data=tmp_path,
        annotations=moved,
        images=elsewhere,
        changes=(*SMALL, *without),
    )
    prepared = prepare(asked)
    assert {sample.path.parent for sample in prepared.data.samples} == {elsewhere}
    write_request(tmp_path / "config.json", prepared)
    kept, _ = read_request(tmp_path / "config.json")
    assert (kept.annotations, kept.images) == (moved.resolve(), elsewhere.resolve())
    with pytest.raises(UsageError, match="was begun with --annotations"):
        resumed(kept, Request(annotations=tmp_path / "other.json"))
