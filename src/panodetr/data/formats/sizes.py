"""The size of each image: what its header says, and what the annotations say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from panodetr.data.formats import DRAGGED
from panodetr.errors import ImageError
from panodetr.images.read import MAX_PIXELS, read_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from panodetr.data.formats import Faults

MOST_HEADERS = 2_000
"""Of more images that all have a stated size, some are looked at, and all if one differs."""

Size = tuple[int, int]
"""Height, width in pixels."""


@dataclass(kw_only=True)
class Listed:
    """An image that annotations are for.

    Attributes:
        image_id: the data set's own.
        path: of its file; None where it is not there.
        named: what the annotations call it, for messages.
        size: as the annotations say, and in the end what it is; None where nobody says.
        header: as its file says, upright; None where that was not read.
    """

    image_id: int
    path: Path | None
    named: str
    size: Size | None
    header: Size | None = None

    @property
    def differs(self) -> bool:
        """Whether annotations and file give two sizes."""
        return self.size is not None and self.header is not None and self.size != self.header


def stated_size(height: float | None, width: float | None) -> Size | None:
    """Give the size that annotations state; None where it is missing or none."""
    if not height or not width or height < 1 or width < 1 or height * width > MAX_PIXELS:
        return None
    return int(height), int(width)


def read_headers(images: Sequence[Listed], faults: Faults) -> None:
    """Read the images' sizes from their headers, where they are missing or may be wrong."""
    there = [image for image in images if image.path is not None]
    known = [image for image in there if image.size is not None]
    looked_at = known[:: max(1, len(known) // MOST_HEADERS)]
    for image in looked_at:
        _read_header(image, faults)
    if any(image.differs for image in looked_at):
        looked_at = known
    done = set(map(id, looked_at))
    for image in there:
        if image.header is None and (image.size is None or id(image) in done):
            _read_header(image, faults)
        if image.size is None:
            image.size = image.header


def settle(image: Listed, extent: tuple[float, float], faults: Faults, place: str) -> None:
    """Decide which size holds where annotations and file give two.

    Args:
        image: whose sizes differ.
        extent: the largest y and x of its annotations.
        faults: where a fault goes.
        place: of the stated size, for the message.
    """
    assert image.size is not None
    assert image.header is not None
    height, width = image.header
    slack = [max(DRAGGED[0], DRAGGED[1] * side) for side in image.header]
    stated = f"{image.size[1]}x{image.size[0]}"
    if extent[0] <= height + slack[0] and extent[1] <= width + slack[1]:
        text = "the annotations give {n} images another size than they have; the images' own counts"
        faults.note("wrong size", text, f"{image.path} is {width}x{height}, not {stated}")
        image.size = image.header
        return
    faults.add(
        "wrong size",
        f"{image.path} is {width}x{height} pixels; expected {stated}, as {place} says, "
        f"whose objects reach to {extent[1]:g}, {extent[0]:g}; annotate it at its own size",
        image.image_id,
    )


def _read_header(image: Listed, faults: Faults) -> None:
    assert image.path is not None
    if image.header is not None or image.image_id in faults.bad:
        return
    try:
        image.header = read_size(image.path)
    except ImageError as error:
        if image.size is None:
            faults.add("broken file", str(error), image.image_id)
