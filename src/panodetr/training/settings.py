"""From a recipe's name and `--set field=value` to a full configuration."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import UsageError, did_you_mean
from panodetr.training.config import TrainConfig
from panodetr.training.recipes import RECIPES, Recipe, RecipeData
from panodetr.validation import check

T = TypeVar("T")


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
    if data.start is None:
        data = replace(data, start=read_start(recipe, changes))
    given = _own_arguments(make, changes)
    rest = [change for change in changes if split_change(change)[0] not in given]
    return override(make(data, **given), rest, recipe_arguments(make))


def read_start(recipe: str, changes: Sequence[str]) -> ModelSpec | None:
    """What the checkpoint that a recipe starts from says of itself; None where it needs none.

    Raises:
        UsageError, CheckpointError: as in `configure`.
    """
    start = _own_arguments(find_recipe(recipe), changes).get("start")
    return None if start is None else load_spec(start)


def find_recipe(name: str) -> Recipe:
    """The recipe of a name; a UsageError where there is none."""
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, f"the recipes are {', '.join(RECIPES)}")
        raise UsageError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]


def recipe_arguments(recipe: Recipe) -> dict[str, object]:
    """What a recipe takes besides the data: names and defaults."""
    parameters = inspect.signature(recipe).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _own_arguments(recipe: Recipe, changes: Sequence[str]) -> dict[str, Any]:
    known, hints = recipe_arguments(recipe), get_type_hints(recipe, include_extras=True)
    asked = [(change, *split_change(change)) for change in changes]
    return {n: _parse(hints[n], text, change) for change, n, text in asked if n in known}


def override(config: T, changes: Sequence[str], others: Iterable[str] = ()) -> T:
    """A copy of a configuration with some fields changed, in whatever order they are given.

    Of two changes of one field the later one counts.

    Args:
        config: a frozen dataclass, whose fields may be such too.
        changes: "steps=100", "criterion.giou=1.5", "start=nuclei", "augmentation.short_sides=[480,
            512]"; a value is a number, true, false, null, a list, or text.
        others: names that may be given besides the fields, for the message.

    Raises:
        UsageError: a change has no "=", names no field, has a value of the wrong kind, or one that
            does not go with the others.
    """
    return _rebuild(config, [(change, *split_change(change)) for change in changes], others)


def list_fields(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a configuration by the name that `override` takes, and its value."""
    assert is_dataclass(config)
    for field in fields(config):
        value: object = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from list_fields(value, f"{name}.")
        else:
            yield name, value


def split_change(change: str) -> tuple[str, str]:
    """The name and the text of the value; a UsageError where there is no "="."""
    name, separator, text = change.partition("=")
    if not separator:
        raise UsageError(f"{change!r} changes nothing; expected field=value")
    return name, text


def _parse(hint: Any, text: str, change: str) -> object:
    """The value that a text stands for, of the type that an annotation says."""
    try:
        given: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        given = text
    try:
        return check(given, hint, repr(change), UsageError)
    except UsageError as error:
        with suppress(UsageError):  # a text that looks like a number: start=2024
            return check(text, hint, repr(change), UsageError)
        if get_origin(hint) is Literal:
            known = ", ".join(map(repr, get_args(hint)))
            raise UsageError(f"{change!r}: expected one of {known}") from error
        raise


def _rebuild(config: T, asked: Sequence[tuple[str, str, str]], others: Iterable[str]) -> T:
    """Make all changes at once, each as (change, name, text), so that they are checked together."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    hints = get_type_hints(type(config), include_extras=True)
    values: dict[str, object] = {}
    inner: dict[str, list[tuple[str, str, str]]] = {}
    for change, path, text in asked:
        name, _, rest = path.partition(".")
        if name not in hints:
            known = [*hints, *others]
            near = ", ".join(difflib.get_close_matches(name, known, n=3) or known)
            raise UsageError(f"{change!r}: there is no field {name!r}; near ones are {near}")
        old: object = getattr(config, name)
        if is_dataclass(old) and rest:
            inner.setdefault(name, []).append((change, rest, text))
        elif is_dataclass(old):
            own = ", ".join(field.name for field in fields(old))
            raise UsageError(f"{change!r}: {name} has fields of its own; name one of {own}")
        elif rest:
            raise UsageError(f"{change!r}: {name} has no fields of its own")
        else:
            values[name] = _parse(hints[name], text, change)
    for name, own_changes in inner.items():
        values[name] = _rebuild(getattr(config, name), own_changes, ())
    try:
        return replace(config, **values)
    except ValueError as error:
        words = set(re.findall(r"\w+", str(error)))
        named = [change for change, path, _ in asked if path.partition(".")[0] in words]
        blamed = ", ".join(map(repr, named or [change for change, _, _ in asked]))
        raise UsageError(f"{blamed}: {error}") from error
