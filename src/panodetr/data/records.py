"""JSON from outside, read field by field: every complaint names the file and the place in it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from panodetr.errors import DataError
from panodetr.images.read import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One JSON object of a file.

    Attributes:
        place: the file and where in it, for messages.
        fields: the object itself.
    """

    place: str
    fields: dict[str, object]

    def integer(self, key: str, *, least: int | None = None) -> int:
        """Give a whole number.

        Raises:
            DataError: the field is missing, not a whole number, or below `least`.
        """
        value = self._value(key)
        if isinstance(value, float) and value.is_integer():  # some tools write every number as 3.0
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, value, "a whole number")
        if least is not None and value < least:
            raise self._wrong(key, value, f"at least {least}")
        return value

    def number(self, key: str, *, least: float | None = None) -> float:
        """Give a finite number.

        Raises:
            DataError: the field is missing, not a finite number, or below `least`.
        """
        value = self._value(key)
        number = finite_number(value)
        if number is None:
            raise self._wrong(key, value, "a finite number")
        if least is not None and number < least:
            raise self._wrong(key, value, f"at least {least:g}")
        return number

    def box(self, key: str) -> list[float]:
        """Give COCO's x, y, width, height.

        Raises:
            DataError: the field is missing, not four finite numbers, or a side is negative.
        """
        values = [n for v in self.items(key) if (n := finite_number(v)) is not None]
        if len(values) != 4 or len(self.items(key)) != 4 or min(values[2:]) < 0:
            shown = json.dumps(self.items(key))
            raise DataError(
                f'{self.place}: "{key}" is {shown if len(shown) <= 80 else "a list"}; '
                "expected x, y, width and height as finite numbers, none of the sides negative"
            )
        return values

    def color(self, key: str) -> tuple[int, int, int]:
        """Give red, green and blue.

        Raises:
            DataError: the field is missing, or not three whole numbers from 0 to 255.
        """
        values = [v for v in self.items(key) if isinstance(v, int) and 0 <= v <= 255]
        if len(values) != 3 or len(self.items(key)) != 3:
            raise DataError(f'{self.place}: "{key}" must be three whole numbers from 0 to 255')
        return values[0], values[1], values[2]

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Give a yes or no, which COCO writes as 1 or 0.

        Raises:
            DataError: the field is neither, or missing without a `default`.
        """
        value = self.fields.get(key, default)
        if value not in (0, 1):
            raise self._wrong(key, self._value(key), "0 or 1")
        return bool(value)

    def text(self, key: str) -> str:
        """Give a string of at least one character.

        Raises:
            DataError: the field is missing, empty, or not a string.
        """
        value = self._value(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "some text")
        return value

    def items(self, key: str) -> list[object]:
        """Give a list, whatever is in it.

        Raises:
            DataError: the field is missing or not a list.
        """
        value = self._value(key)
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return cast("list[object]", value)

    def records(self, key: str) -> Iterator[Record]:
        """Give the objects of a list, one by one.

        Raises:
            DataError: the field is missing, not a list, or holds something that is not an object.
        """
        for number, item in enumerate(self.items(key)):
            place = f"{self.place}: {key}[{number}]"
            if not isinstance(item, dict):
                raise DataError(f"{place} is {_short(item)}; expected an object with named fields")
            yield Record(place, cast("dict[str, object]", item))

    def _value(self, key: str) -> object:
        if key not in self.fields:
            raise DataError(f'{self.place} has no "{key}"; the COCO format requires it')
        return self.fields[key]

    def _wrong(self, key: str, value: object, expected: str) -> DataError:
        return DataError(f'{self.place}: "{key}" is {_short(value)}; expected {expected}')


def finite_number(value: object) -> float | None:
    """Give a finite number of a JSON; None for anything else, true and false too."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        return None
    return number if isfinite(number) else None


def image_size(record: Record) -> tuple[int, int]:
    """Give the height and width that a record says of its image.

    Raises:
        DataError: a side is missing, no whole number or below 1, or no such image could be read.
    """
    height, width = record.integer("height", least=1), record.integer("width", least=1)
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{record.place} is {width}x{height} pixels; expected {MAX_PIXELS:,} at most in all"
        )
    return height, width


@contextmanager
def system_errors() -> Generator[None, None, None]:
    """Say in one line what the system refuses: a name that is too long, or a closed folder.

    Raises:
        DataError: it has refused to look something up or to read it.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from error


def named_file(record: Record, folder: Path) -> Path:
    """Give the path of the file in a folder that a record names; it need not be there.

    Raises:
        DataError: the field `file_name` is missing, names no file, or leads out of the folder.
    """
    name = PurePosixPath(record.text("file_name"))
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise DataError(f"{record.place} names {name}; expected a file within {folder}")
    return folder / name


def read_json(path: Path) -> object:
    """Read a JSON file, whatever it holds.

    Raises:
        DataError: the file is missing, unreadable, or not JSON.
    """
    try:
        return cast("object", json.loads(path.read_bytes()))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise DataError(f"{path} is not JSON ({reason}); write it again") from error


def read_record(path: Path) -> Record:
    """Read a file that holds one JSON object.

    Raises:
        DataError: the file is missing, unreadable, not JSON, or not an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds {_short(value)}; expected a JSON object")
    return Record(str(path), cast("dict[str, object]", value))


def _short(value: object) -> str:
    """Show a value in a message of one line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else shown[:37] + "..."
