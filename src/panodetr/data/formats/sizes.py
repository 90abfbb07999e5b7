"""Images while they are read, and their sizes and frames: as headers and annotations say.

A camera stores a turned image and its EXIF orientation. Annotations are for the image as it is
shown, or for the stored one: their sizes tell, or else the objects that fit one of them alone.
Where they can't tell, it is as for the images of the data set that do; else as a setting says, or
as the format's tools do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panodetr.data.formats import Faults, slack
from panodetr.data.samples import ObjectTruth, RunLengths
from panodetr.errors import ImageError
from panodetr.images.read import MAX_PIXELS, StoredImage, read_header, read_size

MOST_HEADERS = 2_000
"""Of more images that all have a stated size, some are looked at, and all if one differs."""

Size = tuple[int, int]
"""Height, width in pixels."""


@dataclass(slots=True)
class Shape:
    """One object as it is written.

    Attributes:
        label: its class.
        place: of it, for messages.
        box: x, y, width, height; None means that of the mask.
        rings: its mask as polygons x0, y0, x1, y1, …
        mask: its mask as run lengths.
        number: its own id, where it has one.
        area: as a COCO JSON says, 0 where that says nothing; None in other formats.
        is_crowd: whether it stands for many objects.
    """

    label: int | str
    place: str = ""
    box: Sequence[float] | None = None
    rings: list[list[float]] = field(default_factory=list[list[float]])
    mask: RunLengths | None = None
    number: int | None = None
    area: float | None = None
    is_crowd: bool = False


@dataclass(kw_only=True, slots=True)
class Marked:
    """One image that annotations are for, and what they draw on it.

    Attributes:
        named: what the annotations call it; where it would be, if it is not there.
        place: of its annotations, for messages.
        file: its annotations'; where it names the image, it counts from there.
        image_id: the data set's own, or a number where that is text.
        key: the data set's own, where that is text.
        path: of its file; None where it is not there.
        size: as the annotations say, and in the end what it is; None where nobody says.
        header: as its file says, upright or as stored; None where that was not read.
        turned: whether the file's EXIF orientation turns or mirrors it.
        as_stored: whether annotations are for the stored image.
        shapes: those to be checked, in the annotations' order.
        plain: how many objects with masks there are beside the shapes.
        read: reads the objects each time they are asked for, given the image's id, its size, and
            the number of the first one; None keeps those of the shapes.
        count: how many objects `read` gives; None if that is not known.
        id_map: holds all objects, if they are in one.
    """

    named: str
    place: str = ""
    file: Path = Path()
    image_id: int = 0
    key: str | None = None
    path: Path | None = None
    size: Size | None = None
    header: Size | None = None
    turned: bool = False
    as_stored: bool = False
    shapes: list[Shape] = field(default_factory=list[Shape])
    plain: int = 0
    read: Callable[[int, Size, int], list[ObjectTruth]] | None = None
    count: int | None = None
    id_map: Path | None = None

    @property
    def differs(self) -> bool:
        """Whether annotations and file give two sizes."""
        return self.size is not None and self.header is not None and self.size != self.header

    def is_bad(self, faults: Faults) -> bool:
        """Whether a fault was found by which the image cannot be used."""
        bad = faults.bad
        return bool(bad) and not bad.keys().isdisjoint((self.place, self.path, self.image_id))


def stated_size(height: float | None, width: float | None) -> Size | None:
    """Give the size that annotations state; None where it is missing or none."""
    if not height or not width or height < 1 or width < 1 or height * width > MAX_PIXELS:
        return None
    return int(height), int(width)


def extent(shapes: Iterable[Shape]) -> tuple[float, float]:
    """Give the largest y and x of shapes."""
    across, down = [0.0], [0.0]
    for shape in shapes:
        if shape.box is not None:
            across.append(shape.box[0] + shape.box[2])
            down.append(shape.box[1] + shape.box[3])
        across += [max(ring[::2]) for ring in shape.rings]
        down += [max(ring[1::2]) for ring in shape.rings]
        if shape.mask is not None:
            down.append(shape.mask["size"][0])
            across.append(shape.mask["size"][1])
    return max(down), max(across)


def choose_file(
    found: Mapping[str, Sequence[Path]], name: str, place: str, faults: Faults, image: Hashable
) -> Path | None:
    """Give the file that an image's name means; that it may mean several is a fault of the image.

    Args:
        found: the files that names may mean.
        name: the image's, as it is written.
        place: where it is written.
        faults: where a fault goes.
        image: the image's id in it.
    """
    files = found.get(name, ())
    if len(files) > 1:
        faults.add(
            "duplicate id",
            f"{place} names {name}, which may be {files[0]} or {files[1]}; write the folder into "
            "the name, or say --images",
            image,
        )
    return files[0] if len(files) == 1 else None


def note_repeated(images: Iterable[Marked], faults: Faults) -> None:
    """Count files that several images have."""
    for path, count in Counter(image.path for image in images if image.path).items():
        if count > 1:
            faults.note("duplicate id", "{n} image files are listed twice", str(path), count - 1)


def read_headers(images: Sequence[Marked], faults: Faults, *, stored: bool = False) -> None:
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


def _choose_frames(turned: Sequence[Marked], faults: Faults, *, stored: bool) -> None:
    """Decide for which frame turned images are annotated."""
    told: set[bool] = set()
    silent: list[Marked] = []
    for image in turned:
        assert image.path is not None
        sizes = {False: image.header, True: read_size(StoredImage(image.path))}
        frames = [frame for frame, size in sizes.items() if size == image.size]
        if not frames:
            down, across = extent(image.shapes)
            frames = [
                frame
                for frame, size in sizes.items()
                if size and down <= size[0] + slack(size[0]) and across <= size[1] + slack(size[1])
            ]
        if len(frames) != 1:
            silent.append(image)
        else:
            (image.as_stored,) = frames
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


def settle(image: Marked, fits: bool, expected: str, faults: Faults) -> None:
    """Decide which size holds where annotations and file give two: the file's, if they fit it.

    Args:
        image: whose sizes differ.
        fits: whether its annotations lie within the size that the file has.
        expected: the size that is expected otherwise, and why, for the message.
        faults: where faults and notes go.
    """
    assert image.size is not None
    assert image.header is not None
    found = f"{image.path} is {image.header[1]}x{image.header[0]}"
    if fits:
        text = "the annotations give {n} images another size than they have; the images' own counts"
        faults.note("wrong size", text, f"{found}, not {image.size[1]}x{image.size[0]}")
        image.size = image.header
    else:
        faults.add("wrong size", f"{found} pixels; expected {expected}", image.image_id)


def _read_header(image: Marked, faults: Faults) -> None:
    assert image.path is not None
    if image.header is not None or image.is_bad(faults):
        return
    try:
        image.header, image.turned, pages = read_header(image.path)
        if pages > 1:
            text = "{n} images have several pages, of which the first is read; write a file a page"
            faults.note("left out", text, str(image.path))
    except ImageError as error:
        if image.size is None:
            faults.add("broken file", str(error), image.image_id)
