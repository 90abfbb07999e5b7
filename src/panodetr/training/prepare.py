"""From what a user asks for to a run that can begin: data, configuration, and what validates it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from panodetr.checkpoints.published import bundled
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import CLASS_NAME, Dataset, Format, Frame, Source, open_data
from panodetr.data.formats import system_errors
from panodetr.data.tree import same_split
from panodetr.errors import (
    DataError,
    MissingExtra,
    PanodetrError,
    TrainingError,
    UsageError,
    preview,
)
from panodetr.evaluation.ground_truth import DEFAULT_SPLIT, GroundTruth
from panodetr.files import write_json
from panodetr.images.read import find_bits
from panodetr.training.config import TrainConfig, split_change
from panodetr.training.notes import NO_VALIDATION, list_notes, measure_objects
from panodetr.training.recipes import RecipeData, configure, find_recipe, read_start
from panodetr.training.step import check_bad_images
from panodetr.training.validate import choose_tasks, hold_out, open_truth
from panodetr.validation import check, read_json

EXTRAS = ("accelerate", "matplotlib", "tensorboard")

HELD_OUT = "held-out"
"""Stands for the images that `val_split` holds out, in place of a split's name."""

PATHS = ("data", "annotations", "images")
"""Fields of a request that a run's file holds as text."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; it is kept with the run, so that `--resume` needs no other options.

    Attributes:
        recipe: a name in `RECIPES`; None only where a run is resumed, and so is `data`.
        data: the data set's folder.
        annotations, images, exif: as `panodetr.data.dataset.Source` has them.
        format: how it is written; None takes the recipe's choice of what is there.
        split: what to learn from; None takes "train", or the only one.
        val: what to validate with; None takes "val" where it is there, `NO_VALIDATION` none,
            `HELD_OUT` what is held out.
        changes: "field=value", in the order in which they were asked for.
        val_split: the share of the images to learn from that is held out, and validates; None holds
            out none.
        class_name: of the one class of id maps.
        start: what the checkpoint to start from said of itself when the run began, so that it need
            not be there any more; None where the recipe wants none, or it has not been read.
        scored: the split that the run's best model is the best of, by its full name, also while
            `val` is `NO_VALIDATION`; None where the run has had none to validate with.
    """

    recipe: str | None = None
    data: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    exif: Frame | None = None
    format: Format | None = None
    split: str | None = None
    val: str | None = None
    val_split: float | None = None
    class_name: str | None = None
    changes: tuple[str, ...] = ()
    start: ModelSpec | None = None
    scored: str | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin.

    Attributes:
        request: what was asked for.
        source: what was found in the data's folder.
        config: what follows from it.
        data: what to learn from.
        truth: what to validate with; None for nothing.
        val: the split that it is, or is a share of.
        held_out: the images that `val_split` holds out.
        notes: what a person should know of it, a line each.
    """

    request: Request
    source: Source
    config: TrainConfig
    data: Dataset
    truth: GroundTruth | None
    val: str | None
    held_out: Dataset | None
    notes: tuple[str, ...]


def prepare(request: Request) -> Prepared:
    """Open the data, and let the recipe say what the run is.

    Raises:
        UsageError: there is no such recipe or field, masks are to be learned that the data does not
            have, or a share or a class's name that the data has no need of is asked for.
        ChannelError: images have channels that must be chosen.
        DataError: the data contradicts itself, or lacks what the recipe needs, or the model cannot
            be validated with it.
        PanodetrError: a package is missing.
    """
    if any(find_spec(name) is None for name in EXTRAS):
        raise MissingExtra("training", "train")
    if request.recipe is None or request.data is None:
        raise UsageError("expected RECIPE and --data FOLDER, or --resume without both")
    recipe, folder = request.recipe, request.data
    find_recipe(recipe)
    request = replace(request, changes=tuple(map(_with_absolute_path, request.changes)))
    wanted = request.format
    with system_errors():
        source = Source(
            folder, annotations=request.annotations, images=request.images, exif=request.exif
        )
        # COCO's own folder has panoptic and instance truth; its detectors learn the instances.
        if recipe == "coco-detection" and source.find("coco-instances"):
            wanted = wanted or "coco-instances"
    class_name = request.class_name or CLASS_NAME
    data = open_data(source, request.split, format=wanted, class_name=class_name)
    _check_asked(request, source, data)
    if request.start is None:
        request = replace(request, start=read_start(recipe, request.changes))

    facts = RecipeData(
        categories=data.categories,
        images=len(data.samples),
        masks=data.has_masks,
        start=request.start,
        objects=None if request.start is None else measure_objects(data),
    )
    changes, held = request.changes, None
    config = configure(recipe, facts, changes)
    bits = find_bits([s.path for s in data.samples], config.spec.preprocessing.channels)
    if bits is not None:
        changes = (f"spec.preprocessing.bits={bits}", *changes)  # the user's comes later
    if request.val_split is not None:
        data, held = hold_out(data, request.val_split, config.seed)
        facts = replace(facts, images=len(data.samples))
    config = configure(recipe, facts, changes)
    if config.wandb and find_spec("wandb") is None:
        raise PanodetrError("wandb=true needs wandb, which is not installed; pip install wandb")
    _check_masks(config, data)
    validated = None
    if request.val != NO_VALIDATION:
        there = same_split(source.find(data.format), DEFAULT_SPLIT) is not None
        validated = held
        if held is None and (request.val or there):
            val = request.val or DEFAULT_SPLIT
            validated = open_data(source, val, format=data.format, class_name=class_name)
    truth, notes = None, [*data.notes]
    if validated is not None:
        truth, unreadable = open_truth(validated, source)
        if unreadable:
            check_bad_images(len(unreadable), validated, config.bad_images, unreadable[-1])
        if held is None:
            notes += [f"{validated.split or 'val'}: {note}" for note in validated.notes]
        notes += [f"left out of validation: {message}" for message in unreadable]
        request = replace(request, scored=HELD_OUT if held else validated.split)
        try:
            choose_tasks(config.spec, truth)
        except DataError as error:
            raise DataError(
                f"validation would fail: {error}; fix it, or train without: --val {NO_VALIDATION}"
            ) from error
    source.tree.forget()  # other annotations than those that are learned
    return Prepared(
        request=request,
        source=source,
        config=config,
        data=data,
        truth=truth,
        val=None if validated is None else validated.split,
        held_out=held,
        notes=(*notes, *list_notes(config, data, truth, request.val, request.start)),
    )


def _check_asked(request: Request, source: Source, data: Dataset) -> None:
    """Refuse what the data has no need of: a share to validate with, the name of a class."""
    name, names = request.class_name, [category.name for category in data.categories]
    if name is not None and names != [name]:
        raise UsageError(
            f"--class {name} is for id maps that name no class, and {data.folder} has "
            f"{preview(names)}; leave it out, and join names with --map"
        )
    if request.val_split is None:
        return
    others = [split for split in source.find(data.format) if split != data.split]
    val = request.val
    if val in (None, NO_VALIDATION, HELD_OUT):
        val = same_split(others, DEFAULT_SPLIT)
    if val is not None:
        raise UsageError(
            f"--val-split {request.val_split:g} is for data without a split to validate with, and "
            f"there is {val!r}; leave one of them out"
        )


def _with_absolute_path(change: str) -> str:
    """Make a change that names a file or folder hold wherever the run is resumed from."""
    name, separator, text = change.partition("=")
    may_be_path = separator and name in ("start", "backbone_weights") and text not in bundled()
    return f"{name}={Path(text).resolve()}" if may_be_path and Path(text).exists() else change


def _check_masks(config: TrainConfig, data: Dataset) -> None:
    """Refuse to learn from masks that the data does not have."""
    asked = {
        "spec.architecture.masks=false": config.spec.architecture.masks,
        "attention_weight=0": config.attention_weight,
    }
    fix = " ".join(f"--set {change}" for change, wanted in asked.items() if wanted)
    if fix and not data.has_masks:
        raise UsageError(
            f"not every object in {data.folder} has a mask, and this run learns from masks; "
            f"without them: {fix}"
        )


def write_request(path: Path, prepared: Prepared) -> None:
    """Keep what was asked for, with the configuration that follows from it."""
    asked = asdict(prepared.request)
    asked |= {name: str(given.resolve()) for name in PATHS if (given := asked[name]) is not None}
    write_json(path, asked | {"config": asdict(prepared.config)})


def read_request(path: Path) -> tuple[Request, dict[str, Any]]:
    """Read what `write_request` wrote: the request, and the configuration's fields.

    Raises:
        TrainingError: there is no run, or its file is broken.
    """
    if not path.exists():
        raise TrainingError(
            f"{path.parent} holds no run to resume: {path.name} is missing; "
            "start without --resume, or name the run's folder with --out"
        )
    try:
        kept = read_json(path, dict[str, Any], TrainingError)
        for name in ("recipe", "data"):
            check(kept.get(name), str, f"{path}: {name}", TrainingError)
        config = check(kept.get("config"), dict[str, Any], f"{path}: config", TrainingError)
        return check(kept, Request, str(path), TrainingError), config
    except TrainingError as error:
        raise TrainingError(
            f"the run cannot be read: {error}; write the file anew, or start a new run"
        ) from error


def resumed(kept: Request, asked: Request) -> Request:
    """Add changes to what a run was begun with, if nothing else is asked for.

    A run's best model is the best of one split, so validation may only be left out, and that split
    taken up again.

    Raises:
        UsageError: another recipe or other data are asked for, or another split to validate with.
    """
    val = asked.val
    if val not in (None, NO_VALIDATION) and kept.scored is not None:
        short, full = sorted((val, kept.scored), key=len)
        if not re.fullmatch(rf"{re.escape(short)}(20\d\d)?", full):  # COCO's year may be left out
            raise UsageError(
                f"the run was begun with val {kept.scored!r}, not {val!r}; leave it out with "
                f"--resume, or go on without validation with --val {NO_VALIDATION}"
            )
        val = kept.scored
    for name in (*PATHS, "recipe", "format", "exif", "split", "val_split", "class_name"):
        before, given = getattr(kept, name), getattr(asked, name)
        if given not in (None, before) and (name not in PATHS or given.resolve() != before):
            option = f"--{name}" if name in PATHS else name
            was, now = (repr(it) if isinstance(it, str) else it for it in (before, given))
            raise UsageError(
                f"the run was begun with {option} {was}, not {now}; leave it out with --resume, or "
                "choose another --out"
            )
    other_start = any(split_change(change)[0] == "start" for change in asked.changes)
    return replace(
        kept,
        val=val or kept.val,
        changes=(*kept.changes, *asked.changes),
        start=None if other_start else kept.start,
    )


def changed_fields(config: TrainConfig, before: dict[str, Any]) -> list[str]:
    """Name the fields of a configuration that aren't as `write_request` had them."""
    now: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return [name for name, value in now.items() if before.get(name) != value]
