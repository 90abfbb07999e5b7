"""What is found in a data set when all of it is looked at: every fault, not the first one only."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from panodetr.data.panoptic import read_sample
from panodetr.data.records import Record, system_errors
from panodetr.errors import DataError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from panodetr.data.dataset import AnySample

Kind: TypeAlias = Literal[
    "broken file", "broken entry", "missing file", "wrong size", "box outside", "empty box",
    "unknown category", "unknown image", "duplicate id", "unlisted pixels", "no pixels",
    "missing mask", "crowd", "empty image", "single id",
]  # fmt: skip
"""What can be found."""

OUTSIDE = 0.5
"""Pixels by which a box may reach out of its image: some tools round."""

Progress: TypeAlias = "Callable[[int, int], None]"
"""Told how many images are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: what sort of thing.
        message: one line that names file and id.
        is_error: False for what is legal, as crowds and images without objects.
    """

    kind: Kind
    message: str
    is_error: bool


@dataclass(kw_only=True)
class Inspection:
    """What was found in one split, gathered as it is read.

    Attributes:
        findings: in the order in which they were found.
        images: how many there are.
        objects: how many of each class, by its name; crowds are not among them.
        crowds: segments and objects that stand for many.
    """

    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    crowds: int = 0

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.is_error for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """Describe it for JSON."""
        return {**asdict(self), "objects": dict(self.objects), "errors": self.errors}

    def error(self, kind: Kind, message: str) -> None:
        """Note something wrong."""
        self.findings.append(Finding(kind=kind, message=one_line(message), is_error=True))

    def note(self, kind: Kind, message: str) -> None:
        """Note something worth knowing."""
        self.findings.append(Finding(kind=kind, message=one_line(message), is_error=False))

    @contextmanager
    def catching(self, kind: Kind) -> Generator[None, None, None]:
        """Note an error that is raised within, and go on after it."""
        try:
            with system_errors():
                yield
        except (DataError, ImageError) as error:
            self.error(kind, str(error))

    def records(self, record: Record, key: str) -> Iterator[Record]:
        """Give the objects of a list that are objects, and note the others."""
        items: Sequence[object] = ()
        with self.catching("broken entry"):
            items = record.items(key)
        for number, item in enumerate(items):
            place = f"{record.place}: {key}[{number}]"
            if isinstance(item, dict):
                yield Record(place, cast("dict[str, object]", item))
            else:
                self.error("broken entry", f"{place} is no object with named fields")

    def identified(
        self, records: Iterator[Record], key: str = "id"
    ) -> Iterator[tuple[int, Record]]:
        """Give records whose id is new, and note the others."""
        places: dict[int, str] = {}
        for record in records:
            with self.catching("broken entry"):
                number = record.integer(key)
                if number in places:
                    self.error(
                        "duplicate id", f"{record.place} repeats {key} {number} of {places[number]}"
                    )
                    continue
                places[number] = record.place
                yield number, record

    def box(self, bbox: Sequence[float], size: tuple[int, int], place: str) -> None:
        """Note a box x, y, width, height that is empty or lies outside its image (H, W)."""
        x, y, width, height = bbox
        if width <= 0 or height <= 0:
            self.error("empty box", f"{place} has a box of {width:g}x{height:g} pixels")
        beyond = max(-x, -y, x + width - size[1], y + height - size[0])
        if beyond > OUTSIDE:
            shown = ", ".join(f"{value:g}" for value in bbox)
            self.error(
                "box outside",
                f"{place} has the box {shown}, which reaches {beyond:.3g} pixels out of its image "
                f"of {size[1]}x{size[0]}",
            )

    def image(self, sample: AnySample) -> None:
        """Read an image, and note whether it is missing, broken, or of another size."""
        with self.catching("missing file"):
            if not sample.path.is_file():
                message = f"{sample.path} is missing; it is image {sample.image_id}"
                self.error("missing file", message)
                return
        try:
            read_sample(sample)
        except ImageError as error:
            self.error("broken file", f"{error} (image {sample.image_id})")
        except DataError as error:
            self.error("wrong size", str(error))


def one_line(message: str) -> str:
    """Escape what would break a line or steer a terminal: names are whatever a file says."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message
    )
