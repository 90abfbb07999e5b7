"""One reader a format, and what the readers share: faults and notes, boxes, and images' sizes.

Each reader runs in two ways. What compares results stops at the first fault; opening and checking a
data set collect all faults. Both run the same lines: a reader hands each fault to its `Faults`.
"""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn, TypeAlias

from panodetr.errors import DataError, ImageError, reason_of
from panodetr.results.types import Category

FaultKind: TypeAlias = Literal[
    "broken file", "broken entry", "missing file", "wrong size", "box outside", "empty box",
    "unknown category", "unknown image", "duplicate id", "unlisted pixels", "no pixels",
    "missing mask", "crowd", "empty image", "single id", "class", "nothing to learn", "format",
    "turned image", "repaired", "left out", "overlap", "many objects",
]  # fmt: skip
"""What can be found in a data set."""

OUTSIDE = 0.5
"""Pixels by which a box may reach out of its image without a word: some tools round."""

DRAGGED = (3, 0.01)
"""Pixels, and part of the image's side, by which annotators drag boxes over the border."""

MOST_OF_A_KIND = 20
"""Faults of one kind that are listed, alike ones once."""

MOST_ALIKE = 3
"""Faults that differ in places and numbers alone: of more the first is listed, with their count."""

_VARYING = re.compile(r"'[^']*'|\S*[\d/\\]\S*")
"""What differs where faults are alike: quoted texts, numbers and paths."""


class AbsentError(DataError):
    """Nothing that an annotation file names is there."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, or one fact worth knowing.

    Attributes:
        kind: of the fault.
        message: one line that names file and id.
        is_error: False for what is legal or repaired, such as crowds and boxes that were cut.
    """

    kind: FaultKind
    message: str
    is_error: bool


@dataclass(kw_only=True)
class Faults:
    """Raises the first fault of a data set, or collects all of them.

    Attributes:
        collect: whether to collect.
        fatal: the faults that are not of a single image.
        bad: a message for each image that cannot be used, by its id or path.
        as_stored: whether images that EXIF turns are annotated as they are stored, where their
            sizes don't tell; None leaves it to the format.
    """

    collect: bool = False
    fatal: list[str] = field(default_factory=list[str])
    bad: dict[Hashable, str] = field(default_factory=dict["Hashable", str])
    as_stored: bool | None = None
    _notes: dict[str, tuple[FaultKind, int, str]] = field(
        default_factory=dict[str, tuple[FaultKind, int, str]]
    )
    _alike: dict[tuple[FaultKind, str], list[str]] = field(
        default_factory=dict[tuple[FaultKind, str], list[str]]
    )
    _counts: Counter[tuple[FaultKind, str]] = field(default_factory=Counter[tuple[FaultKind, str]])
    _forms: Counter[FaultKind] = field(default_factory=Counter[FaultKind])

    def add(self, kind: FaultKind, message: str, image: Hashable = None) -> None:
        """Report a fault.

        Args:
            kind: of the fault.
            message: one line that names file and place.
            image: the image that cannot be used for it; None where it is all of the data set.

        Raises:
            DataError: faults are not collected.
        """
        if not self.collect:
            raise DataError(message)
        message = one_line(message)
        form = kind, _VARYING.sub("", message)
        if form not in self._alike and self._forms[kind] == MOST_OF_A_KIND:
            form = kind, ""
        elif form not in self._alike:
            self._forms[kind] += 1
        alike = self._alike.setdefault(form, [])
        if len(alike) < MOST_ALIKE:
            alike.append(message)
        self._counts[form] += 1
        if image is None:
            self.fatal.append(message)
        else:
            self.bad.setdefault(image, message)

    def note(self, kind: FaultKind, text: str, example: str = "", count: int = 1) -> None:
        """Count what is legal, or was repaired; it is said once, with the first example."""
        kind, known, example = self._notes.get(text, (kind, 0, example))
        self._notes[text] = kind, known + count, example

    @property
    def notes(self) -> list[Finding]:
        """What is worth knowing, a line a kind."""
        found: list[Finding] = []
        for text, (kind, count, example) in self._notes.items():
            message = text.replace("{n}", str(count))
            if example:
                message += f"; {'first' if count > 1 else 'it is'}: {example}"
            found.append(Finding(kind=kind, message=one_line(message), is_error=False))
        return found

    @property
    def errors(self) -> list[Finding]:
        """The faults; of many that are alike the first one, with their count."""
        found: list[Finding] = []
        for (kind, form), alike in self._alike.items():
            count = self._counts[kind, form]
            if not form:
                alike = [f"{count} more faults of the kind {kind!r} are not listed"]
            elif count > MOST_ALIKE:
                alike = [f"{alike[0]} ({count} faults are like this)"]
            found += [Finding(kind=kind, message=text, is_error=True) for text in alike]
        return found

    @property
    def findings(self) -> list[Finding]:
        """All faults, and after them the notes."""
        return [*self.errors, *self.notes]

    @property
    def count(self) -> int:
        """How many faults there are."""
        return self._counts.total()

    @contextmanager
    def catching(self, kind: FaultKind, image: Hashable = None) -> Generator[None, None, None]:
        """Report an error that is raised within.

        Raises:
            DataError: faults are not collected.
            ImageError: likewise.
        """
        try:
            with system_errors():
                yield
        except (DataError, ImageError) as error:
            if not self.collect:
                raise
            self.add(kind, str(error), image)

    def fit_box(
        self, bbox: Sequence[float], size: tuple[int, int], place: str
    ) -> list[float] | None:
        """Cut a box x, y, width, height where it reaches out of its image (H, W), and say so.

        Returns:
            The box, as it is where it reaches out by `OUTSIDE` at most; None where nothing is left.
        """
        x, y, width, height = bbox
        beyond = max(-x, -y, x + width - size[1], y + height - size[0])
        if beyond <= OUTSIDE and width and height:
            return list(bbox)
        kept: list[float] | None = list(bbox)
        if beyond > OUTSIDE:
            left, top = max(x, 0.0), max(y, 0.0)
            right, bottom = min(x + width, float(size[1])), min(y + height, float(size[0]))
            inside = right > left and bottom > top
            kept = [left, top, right - left, bottom - top] if inside else None
        shown = ", ".join(f"{value:g}" for value in bbox)
        example = f"{place} has the box {shown} in an image of {size[1]}x{size[0]}"
        if kept is None:
            text = "{n} objects are outside their images, and are left out"
            self.note("box outside", text, example)
        elif not width or not height:
            text = "{n} boxes have no width or height; nothing is learned from them"
            self.note("empty box", text, example)
        elif beyond > OUTSIDE:
            far = beyond > slack(max(size))
            how = (
                "reach far out of their images" if far else "reach out of their images by a little"
            )
            self.note("box outside", f"{{n}} boxes {how}, and are cut at the border", example)
        return kept


def slack(side: float) -> float:
    """Give by how many pixels annotators drag boxes over the border of an image's side."""
    return max(DRAGGED[0], DRAGGED[1] * side)


def one_line(message: str) -> str:
    """Escape what would break a line or steer a terminal: names are whatever a file says."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message
    )


@contextmanager
def system_errors() -> Generator[None, None, None]:
    """Turn an error of the system into one line: a name that is too long, a closed folder.

    Raises:
        DataError: the system refused to look something up or to read it.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {reason_of(error)}") from error


def refuse_second(path: Path, other: Path, split: str) -> NoReturn:
    """Refuse two annotation files of one split.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{path} and {other} are both of {f'split {split!r}' if split else 'no split'}; expected "
        "one file a split: say which with --annotations FILE, or take one away"
    )


def named_file(name: str, folder: Path, place: str) -> Path:
    """Give the path of a file in a folder; it need not be there.

    Raises:
        DataError: the name is empty, or leads out of the folder; `place` is for the message.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise DataError(f"{place} names {name!r}; expected a file within {folder}")
    return folder / parts


def number_images(images: Sequence[Path]) -> list[int]:
    """Give images ids where no file does: the numbers they are called by, or else 1 and up.

    COCO's images are called by their ids, which so survive formats that have no place for them.
    """
    stems = [image.stem for image in images]
    if all(stem.isascii() and stem.isdecimal() and len(stem) < 19 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(images) + 1))


def things(names: Mapping[int, str]) -> tuple[Category, ...]:
    """Make things of the categories of a format that has no stuff and no colours, by their ids."""
    return tuple(
        Category(index=index, id=number, name=name, is_thing=True, color=made_up_color(index))
        for index, (number, name) in enumerate(sorted(names.items()))
    )


def made_up_color(index: int) -> tuple[int, int, int]:
    """A colour for a class: hues a golden section apart are never near each other."""
    red, green, blue = colorsys.hsv_to_rgb((0.97 + index * 0.618034) % 1, 0.7, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
