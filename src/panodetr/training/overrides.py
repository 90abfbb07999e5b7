"""Changes to a configuration from the command line: `field=value`, nested fields with dots."""

from __future__ import annotations

import difflib
import json
import math
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from panodetr.errors import UsageError
from panodetr.validation import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One change: as it was asked for, the way to its field, and the text of the value."""

    text: str
    path: tuple[str, ...]
    value: str

    def __str__(self) -> str:
        return repr(self.text)


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
    asked: list[_Change] = []
    for text in changes:
        name, value = split_change(text)
        asked.append(_Change(text=text, path=tuple(name.split(".")), value=value))
    return _rebuild(config, asked, others) if asked else config


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
    if isinstance(given, float) and not math.isfinite(given):
        raise UsageError(f"{change!r}: expected a finite number")
    try:
        return check(given, cast("type[object]", hint), repr(change), UsageError)
    except UsageError as error:
        try:  # a text that looks like a number: start=2024
            return check(text, cast("type[object]", hint), repr(change), UsageError)
        except UsageError:
            if get_origin(hint) is Literal:
                known = ", ".join(map(repr, get_args(hint)))
                raise UsageError(f"{change!r}: expected one of {known}") from error
            raise error from None


def _rebuild(config: T, changes: Sequence[_Change], others: Iterable[str]) -> T:
    """A copy with all changes made at once, so that each is checked beside the others."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    names = [field.name for field in fields(config)]
    values: dict[str, object] = {}
    asked: dict[str, str] = {}
    inner: dict[str, list[_Change]] = {}
    for change in changes:
        name, *rest = change.path
        if name not in names:
            known = [*names, *others]
            near = ", ".join(difflib.get_close_matches(name, known, n=3) or known)
            raise UsageError(f"{change}: there is no field {name!r}; near ones are {near}")
        old: object = getattr(config, name)
        if is_dataclass(old):
            if not rest:
                own = ", ".join(field.name for field in fields(old))
                raise UsageError(f"{change}: {name} has fields of its own; name one of {own}")
            inner.setdefault(name, []).append(replace(change, path=tuple(rest)))
        elif rest:
            raise UsageError(f"{change}: {name} has no fields of its own")
        else:
            values[name] = parse_value(
                get_type_hints(type(config))[name], change.value, change.text
            )
            asked[name] = str(change)
    for name, own_changes in inner.items():
        values[name] = _rebuild(getattr(config, name), own_changes, ())
        asked[name] = ", ".join(map(str, own_changes))
    try:
        return replace(config, **values)
    except ValueError as error:
        blamed = [name for name in asked if re.search(rf"\b{name}\b", str(error))] or [*asked]
        raise UsageError(f"{', '.join(asked[name] for name in blamed)}: {error}") from error
