"""Frozen dataclasses from JSON; every failure names its place, such as `backbone.depths`."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def from_json(cls: type[T], value: object, where: str) -> T:
    """Build a dataclass from a parsed JSON object that has exactly its fields.

    Fields may be bool, int, float, str, a `Literal`, a tuple, one of these or None,
    or another dataclass.

    Args:
        cls: the dataclass.
        value: what the JSON parser gave.
        where: its place in the file, for the messages; empty at the top.

    Raises:
        ValueError: a key is missing or unknown, or a value has the wrong type or is refused by the
            dataclass.
    """
    hints = get_type_hints(cls)
    given = json_object(value, hints, where)
    arguments = {key: convert(hint, given[key], _place(where, key)) for key, hint in hints.items()}
    return cls(**arguments)


def json_object(value: object, keys: Iterable[str], where: str) -> dict[str, Any]:
    """Check that `value` is a JSON object with exactly these keys.

    Raises:
        ValueError: it is something else, or a key is missing or unknown.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the file'} is {_shown(value)}; expected an object")
    given, expected = cast("dict[str, Any]", value), list(keys)
    for key in given:
        if key not in expected:
            near = difflib.get_close_matches(key, expected, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(expected)}"
            raise ValueError(f"unknown key {_place(where, key)!r}; {hint}")
    for key in expected:
        if key not in given:
            raise ValueError(f"missing key {_place(where, key)!r}")
    return given


def convert(hint: Any, value: object, where: str) -> object:
    """Make a parsed JSON value what a type annotation says.

    Args:
        hint: one that `from_json` knows.
        value: what the JSON parser gave.
        where: its place, for the messages.

    Raises:
        ValueError: it is of another type.
    """
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in arguments:
            known = ", ".join(map(repr, arguments))
            raise ValueError(f"{where} is {_shown(value)}; expected one of {known}")
        return value
    if get_origin(hint) is types.UnionType:  # X | None
        return None if value is None else convert(arguments[0], value, where)
    if get_origin(hint) is tuple:
        return _tuple(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return from_json(cast("type[Any]", hint), value, where)
    return scalar(hint, value, where)


def scalar(kind: type[T], value: Any, where: str) -> T:
    """Check that `value` is a bool, int, finite float or str, as `kind` says.

    A whole number is a float too; true and false are not numbers.

    Raises:
        ValueError: it is something else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(value):
        return cast("T", float(value))
    if kind is float or type(value) is not kind:
        raise ValueError(f"{where} is {_shown(value)}; expected {_KINDS[kind]}")
    return cast("T", value)


def _tuple(hints: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    """Make a tuple from a JSON list: of a fixed length, or of any number of one type."""
    items = cast("list[object]", value) if isinstance(value, list) else None
    if items is not None and hints[1:] == (Ellipsis,):
        hints = (hints[0],) * len(items)
    if items is None or len(items) != len(hints):
        many = "" if hints[1:] == (Ellipsis,) else f" of {len(hints)}"
        raise ValueError(f"{where} is {_shown(value)}; expected a list{many}")
    pairs = enumerate(zip(hints, items, strict=True))
    return tuple(convert(hint, item, f"{where}[{i}]") for i, (hint, item) in pairs)


def _place(where: str, key: str) -> str:
    """Name a key by the way to it."""
    return f"{where}.{key}" if where else key


def _shown(value: object) -> str:
    """Show a value in a message, on one line and not endlessly."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
