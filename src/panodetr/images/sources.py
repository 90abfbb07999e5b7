"""Where images come from: files, folders, patterns, URLs, standard input, archives, tables, videos.

`find_sources` looks at names alone; a `Source` opens its file, and gives its images one at a time,
in the order in which they are stored. What a format needs is imported when such a file is opened.
"""

from __future__ import annotations

import glob
import io
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.errors import ImageError, PanodetrError, import_extra, reason_of
from panodetr.images.arrow import check_batches, check_pages
from panodetr.images.read import (
    KNOWN,
    STARTS,
    SUFFIXES,
    ImageSource,
    NamedImage,
    Page,
    find_pages,
    is_padded,
)

STDIN = "/dev/stdin"
"""The input, like "-", that means standard input on every system: an image or a tar."""

MOST_BYTES = 1 << 30
"""Largest image in an archive or at a URL; a larger one is refused before it is read."""

_PART = 1 << 20
"""Bytes that are read at a time."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
SEVERAL_PAGES = (".tif", ".tiff", ".gif", ".webp")
_WRITTEN = (
    r"(?s)(.*)(_overlay\.\w+|_detections\.\w+|_panoptic\.png|_labels\.tif|_crops[/\\][^/\\]*)"
)
"""Files of results beside NAME.json, which are no input when their folder is below the images'."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, eq=False)
class Frame(NamedImage):
    """A frame of a video.

    Attributes:
        video: its path or URL.
        number: its place in the video, from 0.
        time: seconds from the video's start.
        rate: frames of the video a second.
    """

    video: str
    number: int
    time: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file, URL or standard input that holds images; not opened yet, so processes can share it.

    Attributes:
        path: of the file, a URL, or `STDIN`.
        page: the only page to take of a file with several; None takes all.
        every: of a video, take every n-th frame.
    """

    path: str
    page: int | None = None
    every: int = 1

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its name."""
        return self.path.lower().endswith(VIDEOS)

    def images(self) -> Iterator[ImageSource]:
        """Give the images in their order; each is read from the file when it is asked for.

        Raises:
            ImageError: the file cannot be read, from here on; an image that is broken says so when
                it is decoded.
            PanodetrError: a library is missing; the message says which to install.
        """
        read = _reader(self.path)
        if read is None and self.path != STDIN and not _URL.match(self.path):
            yield from self._pages()
            return
        with _one_line(self.path), ExitStack() as opened:
            if read is None:
                file = _open(self.path, opened)
                yield NamedImage(_name(self.path), _bounded(file, self.path))
            elif os.path.exists(self.path) and self.path != STDIN and not _has_size(self.path):
                raise ImageError(f"{self.path}: this is empty, a device or a pipe; expected a file")
            else:
                is_empty = True
                for image in read(self, opened):
                    is_empty = False
                    yield image
                if is_empty:
                    raise ImageError(f"{self.path}: no image in it; expected {KNOWN} files or rows")

    def count(self) -> int | None:
        """Count the images; None where that would take reading all of it."""
        if self.path != STDIN and _reader(self.path) is not None:
            return None
        many = self.page is None and self.path.lower().endswith(SEVERAL_PAGES)
        return len(self._pages()) if many and not _URL.match(self.path) else 1

    def _pages(self) -> list[ImageSource]:
        """List the pages of a file, or the file where it is one image."""
        path = Path(self.path)
        try:
            pages = find_pages(path)
        except PanodetrError:  # said when it is read
            pages = [1]
        if pages == [self.page or 1]:
            return [path]
        return [Page(path, number) for number in ([self.page] if self.page else pages)]


def find_sources(
    inputs: Iterable[str | Path],
    *,
    recursive: bool = True,
    page: int | None = None,
    every: int = 1,
    refuse: Callable[[str, ImageError], None] | None = None,
    passed_over: list[str] | None = None,
) -> list[Source]:
    """List what inputs name: each file once, in the order of the inputs.

    A file is taken whatever its name is. A folder gives its images, by their suffixes, without
    hidden ones; one without images gives its archives, tables and videos. A pattern, with `**` for
    any depth, gives the images and folders that match. Within a folder or pattern paths are sorted.

    Args:
        inputs: files, folders, patterns, URLs of anything that fsspec opens, or `STDIN`.
        recursive: whether folders within folders are looked into.
        page: as in `Source`.
        every: as in `Source`.
        refuse: called for an input that names nothing, which is then skipped; None raises.
        passed_over: gets the files of folders and patterns that are not images.

    Raises:
        ImageError: an input does not exist, or a folder or pattern has nothing in it.
    """
    found: dict[str, Source] = {}
    for given in map(str, inputs):
        try:
            left = [] if passed_over is None else passed_over
            paths = _expand_url(given) if _URL.match(given) else _expand(given, recursive, left)
        except ImageError as error:
            if refuse is None:
                raise
            refuse(given, error)
            continue
        for path in paths:
            is_local = path != STDIN and not _URL.match(path)
            key = os.path.realpath(path) if is_local else path
            found.setdefault(key, Source(path=path, page=page, every=every))
    return list(found.values())


def each_image(
    sources: Iterable[Source], refuse: Callable[[str, PanodetrError], None] | None = None
) -> Iterator[ImageSource]:
    """Give the images of sources, one source after the other.

    Args:
        sources: as `find_sources` lists them.
        refuse: called for a source that cannot be read, or not to its end; None raises.

    Raises:
        PanodetrError: as `Source.images`.
    """
    for source in sources:
        try:
            yield from source.images()
        except PanodetrError as error:
            if refuse is None:
                raise
            refuse(source.path, error)


def open_images(
    images: str | os.PathLike[str] | Iterable[ImageSource | Source],
) -> Iterator[ImageSource]:
    """Give the images of inputs and sources; an argument that is one image is given unchanged.

    Args:
        images: an input of `find_sources`; or images, among which may be sources, and paths of
            folders, patterns, URLs, archives, tables and videos.

    Raises:
        PanodetrError: as `find_sources` and `Source.images`.
    """
    if isinstance(images, str | os.PathLike):
        yield from each_image(find_sources([os.fsdecode(images)]))
        return
    for image in images:
        if isinstance(image, Source):
            yield from image.images()
        elif isinstance(image, str | os.PathLike) and _holds_images(os.fsdecode(image)):
            yield from each_image(find_sources([os.fsdecode(image)]))
        else:
            yield image


def _holds_images(path: str) -> bool:
    """Whether a path stands for several images, or for one that is not a file."""
    if path in ("-", STDIN) or _URL.match(path) or _reader(path) is not None:
        return True
    return os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path))


def _expand(given: str, recursive: bool, passed_over: list[str]) -> list[str]:
    if given in ("-", STDIN):
        return [STDIN]
    matches, what = [given], "no image in this folder"
    try:
        there = Path(given).exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a null character
        raise ImageError(f"{given}: {reason_of(error)}") from error
    if not there:
        if not glob.has_magic(given):
            raise ImageError(f"{given}: no such file or folder")
        what = "this pattern matches no image"
        matches = sorted(glob.glob(given, recursive=True))
    elif not os.path.isdir(given):
        return matches  # whatever its suffix
    files = [str(file) for match in matches for file in _files_in(Path(match), recursive)]
    known = set(files)
    written = {f for f in files if (m := re.fullmatch(_WRITTEN, f)) and f"{m[1]}.json" in known}
    images = [f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES and f not in written]
    images = images or [file for file in files if _reader(file) is not None]
    passed_over += sorted(set(files).difference(images))
    if not images:
        raise ImageError(f"{given}: {what}; expected {KNOWN} files, archives, tables or videos")
    return images


def _files_in(path: Path, recursive: bool) -> list[Path]:
    """List a folder's files without hidden ones; a file gives itself."""
    if not path.is_dir():
        return [path]
    return [
        entry
        for entry in sorted(path.rglob("*") if recursive else path.iterdir())
        if entry.is_file() and not any(p.startswith(".") for p in entry.relative_to(path).parts)
    ]


def _expand_url(given: str) -> list[str]:
    """List the files of a folder or pattern at a URL; the URL of a file gives itself."""
    with _one_line(given):
        files, path = _file_system(given)
        if glob.has_magic(path) and "?" not in path:  # which begins a query in a URL
            found = files.glob(path)
        elif given.startswith("http") or not files.isdir(path):
            return [given]
        else:
            found = files.find(path)
        named = sorted(str(files.unstrip_protocol(name)) for name in found)
    images = [name for name in named if PurePath(name).suffix.lower() in SUFFIXES]
    images = images or [name for name in named if _reader(name) is not None]
    if not images:
        raise ImageError(f"{given}: no image there; expected {KNOWN} files, archives or tables")
    return images


def _file_system(url: str) -> tuple[Any, str]:
    """Give fsspec's file system of a URL, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:  # it says which library to install
        raise ImageError(f"{url}: {error}") from error
    except ValueError as error:
        raise ImageError(f"{url}: {error}; expected http(s), s3, gs, hf or another") from error


def _open(path: str, opened: ExitStack) -> IO[bytes]:
    """Open a file, a URL or standard input, until the stack is closed."""
    if path == STDIN:
        return sys.stdin.buffer
    if not _URL.match(path):
        return opened.enter_context(open(path, "rb"))
    files, inner = _file_system(path)
    return opened.enter_context(files.open(inner, "rb"))


def _has_size(path: str) -> bool:
    """Whether a path is a file with contents; pipes, and some files of the system, never end."""
    return os.path.isfile(path) and os.path.getsize(path) > 0


def _name(path: str) -> str:
    return "stdin" if path == STDIN else path


def _bounded(file: IO[bytes], name: str) -> bytes:
    """Read an image; of what is none only the start, which is refused when it is decoded.

    A few kB of an archive may unpack to gigabytes, and a URL may never end.
    """
    contents, start = io.BytesIO(), b""
    while part := file.read(_PART):
        contents.write(part)
        start = start or part
        if not start.startswith(STARTS) or is_padded(start, contents.tell()):
            break
        if contents.tell() > MOST_BYTES:
            raise ImageError(f"{name}: it is larger than {MOST_BYTES:,} bytes; expected one image")
    return contents.getvalue()


@contextmanager
def _one_line(path: str) -> Generator[None]:
    """Turn what libraries raise into one line that names the file."""
    try:
        yield
    except PanodetrError:
        raise
    except Exception as error:
        raise ImageError(f"{path}: cannot be read: {reason_of(error)}") from error


_Reader: TypeAlias = Callable[[Source, ExitStack], Iterator[NamedImage]]


def _reader(path: str) -> _Reader | None:
    """Choose how a file of several images is read, by its name; None where it is an image."""
    name = path.lower()
    if path == STDIN:
        start = sys.stdin.buffer.peek(512)  # type: ignore[attr-defined]
        return _read_tar if start[257:262] == b"ustar" else None
    if name.endswith(TARS):
        return _read_tar
    if name.endswith(VIDEOS):
        return _read_video
    return {".zip": _read_zip, ".parquet": _read_parquet, ".arrow": _read_arrow}.get(
        PurePath(name).suffix
    )


def _is_image(name: str) -> bool:
    path = PurePath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _read_tar(source: Source, opened: ExitStack) -> Iterator[NamedImage]:
    """Read an archive from start to end, as WebDataset writes its shards."""
    file = _open(source.path, opened)
    archive = opened.enter_context(tarfile.open(fileobj=file, mode="r|*"))  # noqa: SIM115
    for member in archive:
        archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # it would keep all
        if member.isreg() and _is_image(member.name):
            name = f"{_name(source.path)}/{member.name}"
            contents = archive.extractfile(member)
            assert contents is not None  # it is a regular file
            yield NamedImage(name, _bounded(contents, name))


def _read_zip(source: Source, opened: ExitStack) -> Iterator[NamedImage]:
    archive = opened.enter_context(zipfile.ZipFile(_open(source.path, opened)))
    for member in archive.infolist():
        if not member.is_dir() and _is_image(member.filename):
            name = f"{source.path}/{member.filename}"
            with archive.open(member) as contents:
                yield NamedImage(name, _bounded(contents, name))


def _read_parquet(source: Source, opened: ExitStack) -> Iterator[NamedImage]:
    """Read the rows of a table's column of images: bytes, or bytes and path as `datasets` has."""
    parquet = import_extra("pyarrow.parquet")
    file = _open(source.path, opened)
    table = parquet.ParquetFile(file)
    column = _image_column(source.path, table.schema_arrow)

    def batches() -> Iterator[Any]:
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            for part in (group.column(place) for place in range(group.num_columns)):
                if part.path_in_schema.split(".")[0] == column:
                    start = part.data_page_offset
                    start = min(start, part.dictionary_page_offset or start)
                    check_pages(file, start, part.total_compressed_size, source.path)
            # A row at a time: a few kB may unpack to rows of 1 GiB.
            yield from table.iter_batches(1, row_groups=[number], columns=[column])

    yield from _read_rows(source, column, batches())


def _read_arrow(source: Source, opened: ExitStack) -> Iterator[NamedImage]:
    """Read a file of a Hugging Face data set on disk, as `save_to_disk` writes it."""
    ipc = import_extra("pyarrow.ipc")
    file = _open(source.path, opened)
    check_batches(file, source.path)
    table = opened.enter_context(ipc.open_stream(file))
    yield from _read_rows(source, _image_column(source.path, table.schema), table)


def _read_rows(source: Source, column: str, batches: Iterable[Any]) -> Iterator[NamedImage]:
    number = 0
    for batch in batches:
        for cell in batch.column(column):
            value = cell.as_py()
            named = value.get("path") if isinstance(value, dict) else None
            contents = value.get("bytes") if isinstance(value, dict) else value
            if contents is None and named and os.path.isfile(named):
                with open(named, "rb") as file:
                    contents = _bounded(file, named)
            row = f"{number:06}-{PurePath(named).name}" if named else f"{number:06}"
            yield NamedImage(f"{source.path}/{row}", contents or b"")
            number += 1


def _image_column(path: str, schema: Any) -> str:
    """Find the column of images: bytes, or a structure with bytes; one called "image" first."""
    fitting = [
        field.name
        for field in schema
        if "binary" in str(field.type) and not str(field.type).startswith(("list", "map"))
    ]
    if not fitting:
        names = ", ".join(schema.names)
        raise ImageError(f"{path}: no column holds images; expected bytes in one of {names}")
    return min(fitting, key=lambda name: name not in ("image", "img", "jpg", "png"))


def _read_video(source: Source, opened: ExitStack) -> Iterator[Frame]:
    """Read every n-th frame of the first video stream, turned as the file says."""
    av = import_extra("av")
    local = not _URL.match(source.path)
    file = source.path if local else _open(source.path, opened)
    video = opened.enter_context(av.open(file))
    if not video.streams.video:
        raise ImageError(f"{source.path}: no video stream in it; expected one")
    stream = video.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or 25)
    for number, frame in enumerate(video.decode(stream)):
        if number % source.every == 0:
            turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counterclockwise
            pixels: NDArray[np.uint8] = np.rot90(frame.to_ndarray(format="rgb24"), turns)
            time = number / rate if frame.time is None else float(frame.time)
            yield Frame(
                name=f"{source.path}/frame{number:06}",
                image=np.ascontiguousarray(pixels),
                video=source.path,
                number=number,
                time=time,
                rate=rate,
            )
