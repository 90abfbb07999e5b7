"""From what a user asks for to a run that can begin: data, configuration, and what validates it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panodetr.data.dataset import list_splits, open_data
from panodetr.data.idfolder import MaskImage
from panodetr.data.instances import InstanceCategory, InstanceData, InstanceImage
from panodetr.data.masks import mask_object
from panodetr.errors import PanodetrError, TrainingError, UsageError
from panodetr.evaluation.truth import DEFAULT_SPLIT, Truth
from panodetr.files import write_json
from panodetr.training.recipes import RecipeData, configure, find_recipe, preferred_format
from panodetr.training.transfer import check_start
from panodetr.training.validate import choose_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.data.dataset import AnySample, Dataset
    from panodetr.training.config import TrainConfig

NO_VALIDATION = "none"
"""Said in place of a split's name."""

EXTRAS = ("accelerate", "matplotlib", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; it is kept with the run, so that `--resume` needs no more.

    Attributes:
        recipe: a name in `RECIPES`.
        data: the data set's folder.
        split: what to learn from; None takes "train", or the only one.
        val: what to validate with; None takes "val" where it is there, `NO_VALIDATION` none.
        changes: "field=value", in the order in which they were asked for.
    """

    recipe: str
    data: Path
    split: str | None = None
    val: str | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin.

    Attributes:
        request: what was asked for.
        config: what follows from it.
        data: what to learn from.
        truth: what to validate with; None for nothing.
    """

    request: Request
    config: TrainConfig
    data: Dataset
    truth: Truth | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before the run begins, a line each."""
        idle = f", and patience={self.config.patience} does nothing" if self.config.patience else ""
        if self.truth is None:
            where = "--val none" if self.request.val == NO_VALIDATION else "no split is called val"
            return (f"there is no validation ({where}): no best model is kept{idle}",)
        if not self.config.validate_every and idle:
            return (f"validate_every is 0: there is one validation, at the end{idle}",)
        return ()


def prepare(request: Request) -> Prepared:
    """Open the data, and let the recipe say what the run is.

    Raises:
        UsageError: there is no such recipe or field, or a frozen part would be random.
        DataError: the data contradicts itself, or lacks what the recipe needs.
        PanodetrError: a package is missing.
    """
    check_extras()
    find_recipe(request.recipe)
    wanted = preferred_format(request.recipe, request.data)
    data = open_data(request.data, request.split, format=wanted)
    facts = RecipeData(categories=data.categories, photos=len(data.samples), masks=data.has_masks)
    config = configure(request.recipe, facts, request.changes)
    check_start(config)
    truth = _open_truth(request.data, data, request.val)
    if truth is not None:
        choose_tasks(config.spec, truth)  # refuses now what it would refuse after hours
    return Prepared(request=request, config=config, data=data, truth=truth)


def check_extras() -> None:
    """See that what only training needs is installed, before hours have gone into a run.

    Raises:
        PanodetrError: a package is missing.
    """
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing:
        raise PanodetrError(
            f"training needs {', '.join(missing)}, which is not installed; "
            "pip install 'panodetr[train]'"
        )


def write_request(path: Path, prepared: Prepared) -> None:
    """Keep what was asked for, with the configuration that follows from it.

    Raises:
        PanodetrError: the system refused to write.
    """
    asked = asdict(prepared.request) | {"data": str(prepared.request.data.resolve())}
    write_json(path, asked | {"config": asdict(prepared.config)})


def read_request(path: Path) -> tuple[Request, dict[str, Any]]:
    """Read what `write_request` wrote: the request, and the configuration's fields.

    Raises:
        TrainingError: there is no run, or its file is broken.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        request = Request(
            recipe=record["recipe"],
            data=Path(record["data"]),
            split=record["split"],
            val=record["val"],
            changes=tuple(record["changes"]),
        )
        return request, record["config"]
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path.parent} holds no run to resume: {path.name} is missing; "
            "start without --resume, or name the run's folder with --out"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}); write it anew, or start a new run"
        ) from error


def resumed(kept: Request, asked: Request | None, changes: Sequence[str]) -> Request:
    """Add changes to what a run was begun with, if nothing else is asked for.

    Raises:
        UsageError: another recipe or other data are asked for.
    """
    wider = replace(kept, changes=(*kept.changes, *changes))
    if asked is None:
        return wider
    for name in ("recipe", "split", "val"):
        one, other = getattr(kept, name), getattr(asked, name)
        if other is not None and other != one:
            raise UsageError(
                f"the run was begun with {name} {one!r}, not {other!r}; leave it out with "
                "--resume, or choose another --out"
            )
    if asked.data.resolve() != kept.data:
        raise UsageError(
            f"the run was begun with --data {kept.data}, not {asked.data}; leave it out with "
            "--resume, or choose another --out"
        )
    return wider


def changed_fields(config: TrainConfig, before: dict[str, Any]) -> list[str]:
    """Name the fields of a configuration that aren't as `write_request` had them."""
    now: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return [name for name, value in now.items() if before.get(name) != value]


def _open_truth(folder: Path, data: Dataset, val: str | None) -> Truth | None:
    """Open what to validate with, in the format of what is learned from."""
    if val == NO_VALIDATION:
        return None
    if val is None:
        splits = list_splits(folder, data.format)
        if not any(re.fullmatch(rf"{DEFAULT_SPLIT}(20\d\d)?", split) for split in splits):
            return None
        val = DEFAULT_SPLIT
    if data.format == "coco-panoptic":
        return Truth.open(folder, val)
    if data.format == "coco-instances":
        return Truth.of_instances(InstanceData.open(folder, val))
    held_out = open_data(folder, val, format=data.format)
    return Truth.of_instances(
        InstanceData(
            folder=held_out.folder,
            categories=tuple(InstanceCategory(id=c.id, name=c.name) for c in held_out.categories),
            images=tuple(
                _to_objects(sample, held_out.categories[0].id) for sample in held_out.samples
            ),
        )
    )


def _to_objects(sample: AnySample, category_id: int) -> InstanceImage:
    """Give a photo's objects one by one; those of an id map are all of one category."""
    if isinstance(sample, InstanceImage):
        return sample
    assert isinstance(sample, MaskImage)
    ids, present = sample.read_ids()
    columns = np.asfortranarray(ids)
    objects = tuple(
        mask_object(columns == number, place, sample.image_id, category_id)
        for place, number in enumerate(present.tolist(), start=1)
    )
    return InstanceImage(
        image_id=sample.image_id, photo=sample.photo, size=sample.size, objects=objects
    )
