"""From a recipe's name and `--set` to a full configuration."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_type_hints

from panodetr.checkpoints.load import load_spec
from panodetr.data.dataset import list_splits
from panodetr.errors import UsageError
from panodetr.training.overrides import override, parse_value, split_change
from panodetr.training.recipes import RECIPES, Recipe, RecipeData

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.dataset import Format
    from panodetr.training.config import TrainConfig


def configure(recipe: str, data: RecipeData, changes: Sequence[str] = ()) -> TrainConfig:
    """The full configuration of a run.

    Args:
        recipe: a name in `RECIPES`.
        data: what is learned from.
        changes: "name=value", of the recipe's own arguments (`recipe_arguments`) or of fields of
            the configuration.

    Raises:
        UsageError: there is no such recipe, argument or field, or a value is refused.
        CheckpointError: the checkpoint to start from cannot be read.
    """
    make = find_recipe(recipe)
    given, rest = _split_arguments(make, changes)
    for name, least in (
        ("epochs", 1),
        ("validate_epochs", 0),
        ("batch_size", 1),
        ("short_side", 1),
    ):
        if name in given and given[name] is not None and cast("int", given[name]) < least:
            raise UsageError(f"{name} is {given[name]}; expected at least {least}")
    if data.start is None:
        data = replace(data, start=read_start(recipe, changes))
    return override(make(data, **given), rest, recipe_arguments(make))


def read_start(recipe: str, changes: Sequence[str]) -> ModelSpec | None:
    """What the checkpoint that a recipe starts from says of itself; None where it needs none.

    Raises:
        UsageError: there is no such recipe, or an argument is refused.
        CheckpointError: the checkpoint cannot be read.
    """
    start = _split_arguments(find_recipe(recipe), changes)[0].get("start")
    return None if start is None else load_spec(cast("str", start))


def _split_arguments(recipe: Recipe, changes: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """The recipe's own arguments among the changes, and the changes that are left.

    Raises:
        UsageError: a change has no "=", or an argument has a value of the wrong kind.
    """
    known, hints = recipe_arguments(recipe), get_type_hints(recipe)
    given: dict[str, object] = {}
    rest: list[str] = []
    for change in changes:
        name, text = split_change(change)
        if name in known:
            given[name] = parse_value(hints[name], text, change)
        else:
            rest.append(change)
    return given, rest


def preferred_format(recipe: str, folder: Path) -> Format | None:
    """The format in which a recipe reads a folder that may have several; None for the usual one.

    COCO's own folder has panoptic and instance truth. Its detectors learn the instances.

    Raises:
        DataError: the folder's description is broken.
    """
    wants_instances = recipe == "coco-detection"
    return "coco-instances" if wants_instances and list_splits(folder, "coco-instances") else None


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]


def recipe_arguments(recipe: Recipe) -> dict[str, object]:
    """What a recipe takes besides the data: names and defaults."""
    parameters = inspect.signature(recipe).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
