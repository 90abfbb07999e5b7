"""Changes to a configuration from the command line: `field=value`, nested fields with dots."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from panodetr.checkpoints.fields import convert
from panodetr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")


def override(config: T, changes: Sequence[str], others: Iterable[str] = ()) -> T:
    """A copy of a configuration with some fields changed.

    Args:
        config: a frozen dataclass, whose fields may be such too.
        changes: "steps=100", "criterion.giou=1.5", "start=nuclei", "augmentation.short_sides=[480,
            512]"; a value is a number, true, false, null, a list, or text.
        others: names that may be given besides the fields, for the message.

    Raises:
        UsageError: a change has no "=", names no field, or has a value of the wrong kind.
    """
    for change in changes:
        name, text = split_change(change)
        config = _replace(config, name.split("."), text, change, others)
    return config


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
    """The name and the text of the value.

    Raises:
        UsageError: there is no "=".
    """
    name, separator, text = change.partition("=")
    if not separator:
        raise UsageError(f"{change!r} changes nothing; expected field=value")
    return name, text


def parse_value(hint: object, text: str, change: str) -> object:
    """The value that a text stands for, of the type that an annotation says.

    Raises:
        UsageError: it is of another type.
    """
    try:
        given: object = json.loads(text)
    except ValueError:
        given = text
    name = change.partition("=")[0]
    try:
        return convert(hint, given, name)
    except ValueError as error:
        try:
            return convert(hint, text, name)  # a text that looks like a number: start=2024
        except ValueError:
            raise UsageError(f"{change!r}: {error}") from error


def _replace(config: T, path: list[str], text: str, change: str, others: Iterable[str]) -> T:
    assert is_dataclass(config)
    assert not isinstance(config, type)
    names = [field.name for field in fields(config)]
    name, *rest = path
    if name not in names:
        known = [*names, *others]
        near = difflib.get_close_matches(name, known, n=3) or known
        raise UsageError(f"{change!r}: there is no field {name!r}; near ones are {', '.join(near)}")
    old: object = getattr(config, name)
    if is_dataclass(old):
        if not rest:
            inner = ", ".join(field.name for field in fields(old))
            raise UsageError(f"{change!r}: {name} has fields of its own; name one of {inner}")
        value = _replace(old, rest, text, change, ())
    elif rest:
        raise UsageError(f"{change!r}: {name} has no fields of its own")
    else:
        value = parse_value(get_type_hints(type(config))[name], text, change)
    try:
        return replace(config, **{name: value})
    except ValueError as error:
        raise UsageError(f"{change!r}: {error}") from error
