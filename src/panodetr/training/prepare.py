"""From what a user asks for to a run that can begin: data, configuration, and what validates it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panodetr.checkpoints.names import preview
from panodetr.checkpoints.published import bundled
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import CLASS_NAME, Format, Frame, Source, open_data
from panodetr.data.formats import system_errors
from panodetr.data.tree import same_split
from panodetr.errors import DataError, PanodetrError, TrainingError, UsageError
from panodetr.evaluation.ground_truth import DEFAULT_SPLIT, GroundTruth
from panodetr.files import write_json
from panodetr.training.notes import NO_VALIDATION, list_notes
from panodetr.training.recipes import RecipeData
from panodetr.training.settings import (
    configure,
    find_recipe,
    preferred_format,
    read_start,
    split_change,
)
from panodetr.training.validate import HELD_OUT, choose_tasks, hold_out, open_held_out
from panodetr.validation import check, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.data.dataset import Dataset
    from panodetr.training.config import TrainConfig

EXTRAS = ("accelerate", "matplotlib", "tensorboard")

PATHS = ("data", "annotations", "images")
"""Of a request, which a run's file has as texts."""

_PATHS = ("start", "backbone_weights")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; it is kept with the run, so that `--resume` needs no more.

    Attributes:
        recipe: a name in `RECIPES`.
        data: the data set's folder.
        annotations, images, exif: as `panodetr.data.dataset.Source` has them.
        format: how it is written; None takes the recipe's choice of what is there.
        split: what to learn from; None takes "train", or the only one.
        val: what to validate with; None takes "val" where it is there, `NO_VALIDATION` none,
            `HELD_OUT` what is held out.
        changes: "field=value", in the order in which they were asked for.
        val_split: the share of the images to learn from that is held out, and validates; None holds
            out none.
        class_name: of the one class of label maps.
        start: what the checkpoint to start from said of itself when the run began, so that it need
            not be there any more; None where the recipe wants none, or it has not been read.
        scored: the split that the run's best model is the best of, by its full name, also while
            `val` is `NO_VALIDATION`; None where the run has had none to validate with.
    """

    recipe: str
    data: Path
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
        UsageError: there is no such recipe or field, a frozen part would be random, masks are to be
            learned that the data does not have, or a share or a class's name that the data
            has no need of is asked for.
        DataError: the data contradicts itself, or lacks what the recipe needs, or the model cannot
            be validated with it.
        PanodetrError: a package is missing.
    """
    _check_installed("training", EXTRAS, "pip install 'panodetr[train]'")
    find_recipe(request.recipe)
    request = replace(request, changes=tuple(map(_with_absolute_path, request.changes)))
    with system_errors():
        source = Source(
            request.data, annotations=request.annotations, images=request.images, exif=request.exif
        )
        wanted = request.format or preferred_format(request.recipe, source)
    class_name = request.class_name or CLASS_NAME
    data = open_data(source, request.split, format=wanted, class_name=class_name)
    _check_asked(request, source, data)
    if request.start is None:
        request = replace(request, start=read_start(request.recipe, request.changes))
    facts = RecipeData(
        categories=data.categories,
        images=len(data.samples),
        masks=data.has_masks,
        start=request.start,
    )
    config = configure(request.recipe, facts, request.changes)
    held = None
    if request.val_split is not None:
        data, held = hold_out(data, request.val_split, config.seed)
        config = configure(
            request.recipe, replace(facts, images=len(data.samples)), request.changes
        )
    if config.wandb:
        _check_installed("wandb=true", ["wandb"], "pip install wandb")
    _check_masks(config, data)
    if held is None:
        val, truth = _open_truth(source, data, request.val, class_name)
    else:
        val = held.split
        truth = None if request.val == NO_VALIDATION else open_held_out(held, source)
    if truth is not None:
        request = replace(request, scored=val if held is None else HELD_OUT)
        try:
            choose_tasks(config.spec, truth)
        except DataError as error:
            raise DataError(
                f"validation would fail: {error}; fix it, or train without: --val {NO_VALIDATION}"
            ) from error
    return Prepared(
        request=request,
        source=source,
        config=config,
        data=data,
        truth=truth,
        val=val,
        held_out=held,
        notes=(*data.notes, *list_notes(config, data, truth, request.val, request.start)),
    )


def _check_installed(what: str, names: Sequence[str], fix: str) -> None:
    """Find out before hours have gone into a run."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise PanodetrError(f"{what} needs {', '.join(missing)}, which is not installed; {fix}")


def _check_asked(request: Request, source: Source, data: Dataset) -> None:
    """Refuse what the data has no need of: a share to validate with, the name of a class."""
    name, names = request.class_name, [category.name for category in data.categories]
    if name is not None and names != [name]:
        raise UsageError(
            f"--class {name} is for label maps that name no class, and {data.folder} has "
            f"{preview(names)}; leave it out, and join names with --map"
        )
    if request.val_split is None:
        return
    others = [split for split in source.find(data.format) if split != data.split]
    val = same_split(others, DEFAULT_SPLIT)
    if request.val not in (None, NO_VALIDATION, HELD_OUT):
        val = request.val
    if val is not None:
        raise UsageError(
            f"--val-split {request.val_split:g} is for data without a split to validate with, and "
            f"there is {val!r}; leave one of them out"
        )


def _with_absolute_path(change: str) -> str:
    """Make a change that names a file or folder hold wherever the run is resumed from."""
    name, separator, text = change.partition("=")
    is_path = name in _PATHS and text not in bundled() and Path(text).exists()
    return f"{name}={Path(text).resolve()}" if separator and is_path else change


def _check_masks(config: TrainConfig, data: Dataset) -> None:
    """Refuse to learn from masks that the data does not have."""
    asked = {
        "spec.architecture.masks=false": config.spec.architecture.masks,
        "token_weight=0": config.token_weight,
        "attention_weight=0": config.attention_weight,
    }
    fix = " ".join(f"--set {change}" for change, wanted in asked.items() if wanted)
    if fix and not data.has_masks:
        raise UsageError(
            f"not every object in {data.folder} has a mask, and this run learns from masks; "
            f"without them: {fix}"
        )


def _open_truth(
    source: Source, data: Dataset, val: str | None, class_name: str
) -> tuple[str | None, GroundTruth | None]:
    """Open what to validate with, in the format of what is learned from; its split comes first."""
    if val == NO_VALIDATION:
        return None, None
    if val is None and same_split(source.find(data.format), DEFAULT_SPLIT) is None:
        return None, None
    val = source.choose(val or DEFAULT_SPLIT, data.format)[1]
    if data.format == "coco-panoptic":
        return val, GroundTruth.open(source, val)
    return val, GroundTruth.of_data(
        open_data(source, val, format=data.format, class_name=class_name)
    )


def write_request(path: Path, prepared: Prepared) -> None:
    """Keep what was asked for, with the configuration that follows from it.

    Raises:
        PanodetrError: the system refused to write.
    """
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
        for name in PATHS:
            if kept.get(name) is not None or name == "data":
                kept[name] = Path(check(kept.get(name), str, f"{path}: {name}", TrainingError))
        config = check(kept.get("config"), dict[str, Any], f"{path}: config", TrainingError)
        return check(kept, Request, str(path), TrainingError), config
    except TrainingError as error:
        raise TrainingError(
            f"the run cannot be read: {error}; write the file anew, or start a new run"
        ) from error


def resumed(
    kept: Request, asked: Request | None, changes: Sequence[str], val: str | None = None
) -> Request:
    """Add changes to what a run was begun with, if nothing else is asked for.

    Args:
        kept: what it was begun with.
        asked: what is asked for now, if anything.
        changes: to the configuration.
        val: what to validate with from now on. A run's best model is the best of one split, so it
            may only be left out, and that split taken up again.

    Raises:
        UsageError: another recipe or other data are asked for, or another split to validate with.
    """
    if val not in (None, NO_VALIDATION) and kept.scored is not None:
        if not _is_one_split(val, kept.scored):
            raise UsageError(
                f"the run was begun with val {kept.scored!r}, not {val!r}; leave it out with "
                f"--resume, or go on without validation with --val {NO_VALIDATION}"
            )
        val = kept.scored
    other_start = any(split_change(change)[0] == "start" for change in changes)
    wider = replace(
        kept,
        val=val or kept.val,
        changes=(*kept.changes, *changes),
        start=None if other_start else kept.start,
    )
    if asked is None:
        return wider
    for name in ("recipe", "format", "exif", "split", "val", "val_split", "class_name"):
        one, other = getattr(kept, name), getattr(asked, name)
        if other is not None and other != one:
            raise UsageError(
                f"the run was begun with {name} {one!r}, not {other!r}; leave it out with "
                "--resume, or choose another --out"
            )
    for name in PATHS:
        given, before = getattr(asked, name), getattr(kept, name)
        if given is not None and given.resolve() != before:
            raise UsageError(
                f"the run was begun with --{name} {before}, not {given}; leave it out with "
                "--resume, or choose another --out"
            )
    return wider


def _is_one_split(one: str, other: str) -> bool:
    """Whether two names mean one split: either may leave out COCO's year."""
    short, full = sorted((one, other), key=len)
    return re.fullmatch(rf"{re.escape(short)}(20\d\d)?", full) is not None


def changed_fields(config: TrainConfig, before: dict[str, Any]) -> list[str]:
    """Name the fields of a configuration that aren't as `write_request` had them."""
    now: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return [name for name, value in now.items() if before.get(name) != value]
