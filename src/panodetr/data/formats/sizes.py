"""The size and the frame of each image: what its header says, and what the annotations say of it.

A camera stores a turned image and its EXIF orientation. Annotations are for the image as it is
shown, or for the stored one: their sizes tell, image by image. Where they can't tell, it is as for
the images of the data set that do; else as a setting says, or as the format's tools do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from panodetr.data.formats import DRAGGED, number_images
from panodetr.errors import ImageError
from panodetr.images.read import MAX_PIXELS, StoredImage, read_header, read_size

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from pathlib import Path

    from panodetr.data.formats import Faults
    from panodetr.data.tree import Found

MOST_HEADERS = 2_000
"""Of more images that all have a stated size, some are looked at, and all if one differs."""

Size = tuple[int, int]
"""Height, width in pixels."""


@dataclass(kw_only=True)
class Listed:
    """An image that annotations are for.

    Attributes:
        named: what the annotations call it; where it would be, if it is not there.
        image_id: the data set's own, or a number where that is text.
        key: the data set's own, where that is text.
        path: of its file; None where it is not there.
        size: as the annotations say, and in the end what it is; None where nobody says.
        header: as its file says, upright or as stored; None where that was not read.
        turned: whether the file's EXIF orientation turns or mirrors it.
        as_stored: whether annotations are for the stored image.
    """

    named: str
    image_id: int = 0
    path: Path | None = None
    size: Size | None = None
    header: Size | None = None
    turned: bool = False
    as_stored: bool = False
    key: str | None = None

    @property
    def differs(self) -> bool:
        """Whether annotations and file give two sizes."""
        return self.size is not None and self.header is not None and self.size != self.header


def stated_size(height: float | None, width: float | None) -> Size | None:
    """Give the size that annotations state; None where it is missing or none."""
    if not height or not width or height < 1 or width < 1 or height * width > MAX_PIXELS:
        return None
    return int(height), int(width)


def choose_file(
    found: Found, name: str, place: str, faults: Faults, image: Hashable
) -> Path | None:
    """Give the file that an image's name means; that it may mean several is a fault of the image.

    Args:
        found: what names mean.
        name: the image's, as it is written.
        place: where it is written.
        faults: where a fault goes.
        image: the image's id in it.
    """
    if name in found.several:
        one, other, *_ = found.several[name]
        faults.add(
            "duplicate id",
            f"{place} names {name}, which may be {one} or {other}; write the folder into the "
            "name, or say --images",
            image,
        )
    return found.paths.get(name)


def note_repeated(images: Iterable[Listed], faults: Faults) -> None:
    """Count files that several images have."""
    for path, count in Counter(image.path for image in images if image.path).items():
        if count > 1:
            faults.note("duplicate id", "{n} image files are listed twice", str(path), count - 1)


def list_images(paths: Sequence[Path], faults: Faults) -> list[Listed]:
    """List images of which nothing but the files says anything, with their sizes."""
    listed = [
        Listed(image_id=number, path=path, named=str(path))
        for number, path in zip(number_images(paths), paths, strict=True)
    ]
    read_headers(listed, faults)
    return listed


def read_headers(images: Sequence[Listed], faults: Faults, *, stored: bool = False) -> None:
    """Read the images' sizes from their headers, where they are missing or may be wrong.

    Args:
        images: their sizes and frames are filled in.
        faults: where faults go.
        stored: whether the format's tools show images as they are stored.
    """
    there = [image for image in images if image.path is not None]
    known = [image for image in there if image.size is not None]
    looked_at = known[:: max(1, len(known) // MOST_HEADERS)]
    for image in looked_at:
        _read_header(image, faults)
    if any(image.differs or image.turned for image in looked_at):
        looked_at = known
    done = set(map(id, looked_at))
    for image in there:
        if image.header is None and (image.size is None or id(image) in done):
            _read_header(image, faults)
    _choose_frames([image for image in there if image.turned], faults, stored=stored)
    for image in there:
        if image.size is None:
            image.size = image.header


def _choose_frames(turned: Sequence[Listed], faults: Faults, *, stored: bool) -> None:
    """Decide for which frame turned images are annotated."""
    told: set[bool] = set()
    silent: list[Listed] = []
    for image in turned:
        assert image.path is not None
        as_stored = read_size(StoredImage(image.path))
        if image.size is None or image.header == as_stored or image.size not in (
            image.header, as_stored
        ):  # fmt: skip
            silent.append(image)
        else:
            image.as_stored = image.size == as_stored
            told.add(image.as_stored)
    if silent:
        known = faults.as_stored if len(told) != 1 else next(iter(told))
        chosen = stored if known is None else known
        frame = "as it is stored" if chosen else "as it is shown"
        for image in silent:
            image.as_stored = chosen
            if known is None:
                text = (
                    "EXIF turns {n} images, and sizes don't tell which frame is annotated; taken "
                    f"{frame}, say otherwise with --exif"
                )
                faults.note("turned image", text, str(image.path))
    for image in turned:
        if image.as_stored and image.path is not None:
            image.header = read_size(StoredImage(image.path))
    count = sum(image.as_stored for image in turned)
    if count and told:
        text = "EXIF turns {n} images, whose annotations are for the stored ones; read so"
        faults.note("turned image", text, count=count)


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
        image.header, image.turned = read_header(image.path)
    except ImageError as error:
        if image.size is None:
            faults.add("broken file", str(error), image.image_id)
