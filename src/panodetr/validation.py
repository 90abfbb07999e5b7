"""JSON and other plain data, checked against a type: one line for each fault, with its place.

Types are annotated dataclasses, `msgspec.Struct`s or plain annotations; bounds are
`msgspec.Meta`. Every reader of JSON uses this file, so that a fault reads the same everywhere.
"""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

import msgspec

from panodetr.errors import CheckpointError, PanodetrError, reason_of
from panodetr.files import read_bytes

T = TypeVar("T")

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]

_LARGE = 1 << 24
"""Bytes of JSON from which it is looked through first: a file that is cut off takes no memory."""

MOST_OF_CHECKPOINT = 1 << 24
"""Bytes of the largest JSON of a checkpoint: in memory it may take sixty times as much."""

_MOST_UNPACKED = 100
"""Bytes that one byte may unpack to."""

_AT = re.compile(r"(?s)(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$(?P<place>[^`]*)`)?$")

_WITHIN = re.compile(r" - at `(key` in `)?\$([^`]*)` - at `\$([^`]*)`$")
"""A place, and the place that it is counted from."""


def read_json(
    path: Path, expected: type[T], error: type[PanodetrError], *, strict: bool = True
) -> T:
    """Read a JSON file of UTF-8 and check it.

    Args:
        path: the file.
        expected: what it must hold.
        error: what to raise.
        strict: whether text may not stand for a number.

    Raises:
        error: the file cannot be read, is not JSON, or does not hold what was expected; one line
            names the file, the place and the fault.
    """
    try:
        if error is CheckpointError and (size := path.stat().st_size) > MOST_OF_CHECKPOINT:
            raise OSError(f"it has {size:,} bytes; expected {MOST_OF_CHECKPOINT:,} at most")
        contents = read_bytes(path)
    except OSError as failure:
        raise error(f"{path} cannot be read: {reason_of(failure)}") from failure
    except MemoryError as failure:
        raise error(f"{path} cannot be read: it is larger than the memory") from failure
    return decode_json(contents, expected, str(path), error, strict=strict)


def decode_json(
    contents: bytes | msgspec.Raw,
    expected: type[T],
    source: str,
    error: type[PanodetrError],
    *,
    strict: bool = True,
) -> T:
    """Check JSON that is in memory; `source` names it in the error. Otherwise as `read_json`."""
    try:
        if len(contents) > _LARGE:
            msgspec.json.decode(contents, type=msgspec.Raw)
        return msgspec.json.decode(contents, type=expected, strict=strict, dec_hook=_from_plain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise error(f"{source}: {explain(failure)}") from failure


def check(
    value: object,
    expected: type[T],
    source: str,
    error: type[PanodetrError],
    *,
    strict: bool = True,
) -> T:
    """Check plain data, as from YAML or `dataclasses.asdict`. Otherwise as `read_json`."""
    try:
        converted: Any = msgspec.convert(value, type=expected, strict=strict, dec_hook=_from_plain)
    except (msgspec.ValidationError, RecursionError) as failure:
        raise error(f"{source}: {explain(failure)}") from failure
    return converted


def check_fields(values: object) -> None:
    """Check the fields of a dataclass that are not dataclasses themselves, for its `__post_init__`.

    Dataclasses within tuples are checked, too.

    Raises:
        ValueError: a field is of another type or out of bounds; the line names it.
    """
    for name, hint in get_type_hints(type(values), include_extras=True).items():
        value = getattr(values, name)
        try:
            if not is_dataclass(value):
                msgspec.convert(msgspec.to_builtins(value), type=hint, dec_hook=_from_plain)
        except msgspec.ValidationError as failure:
            raise ValueError(f"{name} is {value!r}; {explain(failure)}") from failure


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether something would unpack to far more bytes than it has: a few kB may to gigabytes."""
    return unpacked > _MOST_UNPACKED * max(packed, 1 << 16)


def _from_plain(kind: Any, value: Any) -> object:
    """Take a path as text; let a class that stands for several, as of networks, choose one."""
    if isinstance(value, kind):
        return value
    try:
        if kind is Path:
            return Path(msgspec.convert(value, str))
        return kind.from_plain(msgspec.convert(value, dict[str, Any]))
    except msgspec.ValidationError as failure:
        raise ValueError(str(failure)) from failure  # to which msgspec adds the place of all of it


def explain(failure: Exception) -> str:
    """Give a fault as "PLACE: expected WHAT, got WHAT", in one line."""
    if isinstance(failure, RecursionError):
        return "it is nested too deeply"
    if not isinstance(failure, msgspec.ValidationError):
        return f"it is not valid JSON ({reason_of(failure)})"
    found = _AT.match(_WITHIN.sub(r" - at `\1$\3\2`", str(failure)))
    assert found is not None  # every part of the pattern may be empty
    what = " ".join(found["what"].replace("`", "").split())
    what = what[:1].lower() + what[1:]
    place = (found["place"] or "").removeprefix(".")
    if found["key"]:
        place = f"a key of {place or 'the document'}"
    return f"{place}: {what}" if place else what
