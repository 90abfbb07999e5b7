"""One reader a format, and what the readers share.

Each reader runs in two ways. Opening a data set stops at the first fault; checking one collects
every fault. Both run the same lines: a reader hands each fault to its `Faults`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, TypeAlias

from panodetr.errors import DataError, ImageError
from panodetr.images.read import read_size

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

FaultKind: TypeAlias = Literal[
    "broken file", "broken entry", "missing file", "wrong size", "box outside", "empty box",
    "unknown category", "unknown image", "duplicate id", "unlisted pixels", "no pixels",
    "missing mask", "crowd", "empty image", "single id",
]  # fmt: skip
"""What can be found in a data set."""

OUTSIDE = 0.5
"""Pixels by which a box may reach out of its image: some tools round."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, or one fact worth knowing.

    Attributes:
        kind: of the fault.
        message: one line that names file and id.
        is_error: False for what is legal, such as crowds and images without objects.
    """

    kind: FaultKind
    message: str
    is_error: bool


@dataclass(kw_only=True)
class Faults:
    """Raises the first fault of a data set, or collects all of them.

    Attributes:
        collect: whether to collect.
        findings: what was collected, in the order of reading.
    """

    collect: bool = False
    findings: list[Finding] = field(default_factory=list[Finding])

    def add(self, kind: FaultKind, message: str) -> None:
        """Report a fault that makes the data unusable.

        Raises:
            DataError: faults are not collected.
        """
        if not self.collect:
            raise DataError(message)
        self.tolerate(kind, message)

    def tolerate(self, kind: FaultKind, message: str) -> None:
        """Report a fault that does not keep the data from being opened."""
        if self.collect:
            self.findings.append(Finding(kind=kind, message=one_line(message), is_error=True))

    def note(self, kind: FaultKind, message: str) -> None:
        """Report what is legal and worth knowing."""
        if self.collect:
            self.findings.append(Finding(kind=kind, message=one_line(message), is_error=False))

    @contextmanager
    def catching(self, kind: FaultKind) -> Generator[None, None, None]:
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
            self.tolerate(kind, str(error))

    def check_box(self, bbox: Sequence[float], size: tuple[int, int], place: str) -> None:
        """Report a box x, y, width, height that is empty or reaches out of its image (H, W)."""
        if not self.collect:  # nothing of it keeps data from being opened
            return
        x, y, width, height = bbox
        if width <= 0 or height <= 0:
            self.tolerate("empty box", f"{place} has a box of {width:g}x{height:g} pixels")
        beyond = max(-x, -y, x + width - size[1], y + height - size[0])
        if beyond > OUTSIDE:
            shown = ", ".join(f"{value:g}" for value in bbox)
            self.tolerate(
                "box outside",
                f"{place} has the box {shown}, which reaches {beyond:.3g} pixels out of its image "
                f"of {size[1]}x{size[0]}",
            )


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
        raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from error


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
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(images) + 1))


def read_sizes(
    images: Sequence[Path], faults: Faults
) -> tuple[list[tuple[int, int] | None], tuple[str, ...]]:
    """Read the sizes (H, W) of images from their headers, where no file gives them.

    Returns:
        The sizes in the images' order, None for images whose headers are broken, and a message
        about each of these.

    Raises:
        DataError: an image is missing, or none can be read, and faults are not collected.
    """
    sizes: list[tuple[int, int] | None] = []
    unreadable: list[str] = []
    for image in images:
        try:
            sizes.append(read_size(image))
        except ImageError as error:
            sizes.append(None)
            if image.exists():
                unreadable.append(str(error))
                faults.tolerate("broken file", str(error))
            else:
                faults.add("missing file", str(error))
    if len(unreadable) == len(images):
        faults.add(
            "broken file", f"none of {len(images)} images can be read, the first: {unreadable[0]}"
        )
    return sizes, tuple(unreadable)
