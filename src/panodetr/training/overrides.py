"""Changes to a configuration from the command line: `field=value`, nested fields with dots."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from panodetr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def override(config: T, changes: Sequence[str]) -> T:
    """A copy of a configuration with some fields changed.

    Args:
        config: a frozen dataclass, whose fields may be such too.
        changes: "steps=100", "criterion.giou=1.5"; a value is a number, true, false, null, or text.

    Raises:
        UsageError: a change has no "=", names no field, or has a value of the wrong kind.
    """
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator:
            raise UsageError(f"{change!r} changes nothing; expected field=value")
        config = _replace(config, name.split("."), _value(text), change)
    return config


def _replace(config: T, path: list[str], value: object, change: str) -> T:
    assert is_dataclass(config)
    assert not isinstance(config, type)
    names = [field.name for field in fields(config)]
    name, *rest = path
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or names
        raise UsageError(f"{change!r}: there is no field {name!r}; near ones are {', '.join(near)}")
    old: object = getattr(config, name)
    if is_dataclass(old):
        if not rest:
            inner = ", ".join(field.name for field in fields(old))
            raise UsageError(f"{change!r}: {name} has fields of its own; name one of {inner}")
        value = _replace(old, rest, value, change)
    elif rest:
        raise UsageError(f"{change!r}: {name} has no fields of its own")
    elif not _fits(value, old):
        raise UsageError(f"{change!r}: expected a value like {old!r}")
    try:
        return replace(config, **{name: value})
    except ValueError as error:
        raise UsageError(f"{change!r}: {error}") from error


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fits(value: object, old: object) -> bool:
    """Whether a value is of the kind of the one before; a whole number may stand for a fraction."""
    if isinstance(old, bool) or isinstance(value, bool):
        return isinstance(old, bool) and isinstance(value, bool)
    if isinstance(old, float):
        return isinstance(value, int | float)
    return old is None or value is None or type(value) is type(old)
