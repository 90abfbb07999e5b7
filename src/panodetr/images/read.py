"""Images from files, bytes, PIL images, arrays and tensors: upright 8-bit RGB, or a one-line error.

`ImageSource` is all that may stand for an image; whatever takes an image reads it here.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, TiffImagePlugin

from panodetr.errors import ChannelError, ImageError, ImageTypeError, reason_of
from panodetr.images.depth import (
    BYTES_PER_PIXEL,
    MOST_COPIED,
    MOST_PAGES,
    ChannelTiff,
    choose_channels,
    copy_page,
    has_channels,
    low_mode,
    most_bytes,
    needed_bits,
    read_low_bytes,
    read_ppm,
    to_bytes,
)
from panodetr.threads import each_strip

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # in typing since Python 3.13

MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless the caller says otherwise: 600 MB as RGB."""

MOST_16_BIT = 65535
"""White in 16 bits."""

SAMPLED = 64
"""Images of a data set that are read to find the bits that they use."""

Note: TypeAlias = Callable[[str], None]
"""Called with a line where an image may not be read as it is meant."""

SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
    }
)
"""Suffixes, in lower case, of the files in a folder that are images."""

# Decoders of images alone: Pillow would also run Ghostscript on an EPS file that came as a .png.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"II", b"MM", b"BM", b"GIF8", b"P")
"""First bytes of files that may be one of these."""

KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF or PPM"

_REMEDIES = {
    **dict.fromkeys(
        (".heic", ".heif", ".avif"),
        "images of phones must be converted, such as by ImageMagick: magick NAME.heic NAME.png",
    ),
    **dict.fromkeys(
        (".czi", ".nd2", ".lif", ".oib", ".lsm", ".vsi"),
        "files of microscopes must be exported as TIFF, such as by Fiji or the maker's program",
    ),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs"), "whole slides must be exported as TIFF tiles"),
}
"""What to do with files of formats that are well known and are not read here."""

MOST_READS = 2_000_000
"""Reads of a file before its pixels, a second's worth: Pillow looks for what it misses in a header
byte by byte, and for pixels behind any number of empty parts."""

_MOST_A_BYTE = 8 * 64
"""Pixels a byte: a JPEG has at least a bit for each block of 64."""

_MOST_SCANNED = 10_000_000_000
"""Pixels of a JPEG times its scans, of which a progressive one has ten: some seconds."""

_MOST_PIECES = 500_000
"""Strips or tiles of a TIFF that is not compressed: some seconds."""

_LARGE = 1_000_000
"""Pixels from which a second core is worth starting."""

_STRIP = 64
"""Rows that are copied at a time."""

_SUBFILE_TYPE = 254  # TIFF 6.0, section 8
_SIDES = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_HEADER = 24
"""Bytes up to the end of width and height."""
_PADDED = f"it has more than {MOST_COPIED:,} bytes beside its pixels; expected a PNG without them"

_pillow_globals = threading.RLock()
if hasattr(os, "register_at_fork"):  # a thread that holds the lock is not in a forked process
    os.register_at_fork(
        before=_pillow_globals.acquire,
        after_in_parent=_pillow_globals.release,
        after_in_child=_pillow_globals.release,
    )


@runtime_checkable
class _BinaryFile(Protocol):
    """A file that is open for reading in binary mode, or anything that reads like one."""

    def read(self, size: int = -1, /) -> bytes: ...


@runtime_checkable
class _Tensor(Protocol):
    """What a `torch.Tensor` has: torch itself is not imported here."""

    def detach(self) -> Any: ...
    def numpy(self) -> NDArray[Any]: ...


class CountedFile:
    """A file that is read a limited number of times, and has all else of the file that it wraps."""

    def __init__(self, file: Any) -> None:
        self._file, self.left = file, MOST_READS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *size: int) -> bytes:
        """Read as the file does; an `OSError` says that it was too often."""
        self.left -= 1
        if self.left < 0:
            raise OSError("it has too many small parts")
        return self._file.read(*size)


@dataclass(frozen=True)
class Page:
    """One page of an image file of several, such as a TIFF or a GIF.

    Attributes:
        path: of the file.
        number: of the page, from 1.
    """

    path: Path
    number: int

    @property
    def name(self) -> Path:
        """The path that names its results: that of the file, with `_page` and the number."""
        return self.path.with_stem(f"{self.path.stem}_page{self.number}")


@dataclass(frozen=True)
class StoredImage:
    """An image file that is read as it is stored, whatever its EXIF orientation says."""

    path: Path


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image without a file of its own: in an archive, a table or a video, or at a URL.

    Attributes:
        name: what it is called in results, such as "shard.tar/0001.jpg" or a URL.
        image: its bytes, or its pixels (H, W, 3) uint8.
    """

    name: str
    image: bytes | NDArray[np.uint8]


ImageSource: TypeAlias = (
    str
    | StoredImage
    | Page
    | NamedImage
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | _BinaryFile
    | Image.Image
    | NDArray[np.number[Any]]
    | _Tensor
)
"""What may stand for an image:

- a path; a `StoredImage`, which is not turned as its EXIF orientation says; or a `Page` of a file
  that has several; or a `NamedImage` from elsewhere;
- the bytes of an image file, or a file object in binary mode (read from its start where it can
  be rewound);
- a PIL image;
- an array or a tensor, RGB or grey: (H, W, 3), (3, H, W) or (H, W), as uint8 from 0 to 255,
  uint16 from 0 to 65535, or floating point from 0 to 1; of other numbers of channels where they
  are chosen. Where both of the first two shapes fit, an array has its channels last and a tensor
  has them first.
"""

_FILE = (str, StoredImage, Page, NamedImage, os.PathLike, bytes, bytearray, memoryview, _BinaryFile)


def read_image(
    source: ImageSource,
    *,
    bits: int | None = None,
    channels: Sequence[int] | None = None,
    max_pixels: int = MAX_PIXELS,
    note: Note = lambda _: None,
) -> NDArray[np.uint8]:
    """Read an image as upright RGB.

    Files and PIL images are turned as their EXIF orientation says. Of a file with several pages
    the first is taken, unless it is given as a `Page`. Alpha is dropped, not blended, as in the
    original: the colours under transparent pixels appear. 16-bit values are divided by 257 (65535
    becomes 255), or scaled from fewer `bits`, the same for all images; floating-point values from 0
    to 1 are multiplied by 255 and rounded.

    Args:
        source: the image; `ImageSource` lists what it may be.
        bits: that values of 16-bit images fill: of 12, 4095 and more become 255. None: all 16.
        channels: of TIFFs and arrays of more than three channels, those that are red, green and
            blue, or the one that is grey, from 0.
        max_pixels: a larger image is refused, by its header, before anything is decoded.
        note: called with a line where the image may not be read as it is meant: where further pages
            are left out, and where 16-bit values fill fewer bits, or more, so that it comes out
            dark, or parts of it white.

    Returns:
        (H, W, 3) uint8, red, green, blue; a copy that shares nothing with `source`.

    Raises:
        ImageError: `source` is missing, unreadable, broken, too large, empty, or not an image; or
            it has channels that must be chosen.
        ImageTypeError: `source` is an object of another type; it is a `TypeError`, too.
    """
    values, name = _read_values(source, channels, max_pixels, note)
    if values.dtype.type is not np.uint16:
        return _to_rgb(values, name)
    highest = int(values.max(initial=0))
    if bits is None and isinstance(source, _FILE) and (enough := needed_bits(highest)) is not None:
        note(
            f"{name}: values reach {highest:,} of {MOST_16_BIT:,}, so the image is dark; "
            f"--bits {enough} (bits={enough}) makes {(1 << enough) - 1:,} white"
        )
    elif bits is not None and highest >= 1 << bits:
        note(
            f"{name}: values reach {highest:,}, and what is above {(1 << bits) - 1:,} ({bits} bits)"
            " is white; raise --bits (bits=)"
        )
    return _to_rgb(to_bytes(values, bits or 16), name)


def find_bits(paths: Sequence[Path], channels: Sequence[int] | None = None) -> int | None:
    """Find how many bits the 16-bit images of a data set fill, by the brightest of some.

    Returns:
        One of `depth.USUAL_BITS`, or 16; None where none of the images has 16 bits.

    Raises:
        ChannelError: the images have channels that must be chosen.
    """
    highest = 0
    for path in paths[:: max(1, len(paths) // SAMPLED)]:
        try:
            values, _ = _read_values(path, channels, MAX_PIXELS, lambda _: None, wide_only=True)
        except ChannelError:
            raise
        except ImageError:  # who learns from it says so
            continue
        if values.dtype.type is np.uint16:
            highest = max(highest, int(values.max(initial=0)))
    return (needed_bits(highest) or 16) if highest else None


def _read_values(
    source: ImageSource,
    channels: Sequence[int] | None,
    max_pixels: int,
    note: Note,
    *,
    wide_only: bool = False,
) -> tuple[NDArray[Any], str]:
    """Read an image's values as they are stored, upright, and its name.

    They are (H, W, 3) or (H, W), of 8 or 16 bits or floating point. With `wide_only`, images of 8
    bits are not decoded, and have no values.
    """
    called = None
    if isinstance(source, NamedImage):
        called, source = source.name, source.image
    if isinstance(source, Image.Image):
        return _decode(source, "the PIL image", max_pixels), "the PIL image"
    if isinstance(source, np.ndarray):
        name = called or "the array"
        return _from_array(source, name, max_pixels, channels), name
    if isinstance(source, _Tensor):
        values = source.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values  # not in NumPy
        pixels = _from_array(values.numpy(), "the tensor", max_pixels, channels, first=True)
        return pixels, "the tensor"
    file, name = _file_of(source.path if isinstance(source, StoredImage | Page) else source, called)
    if isinstance(file, Path):
        with _broken(name):
            file = copy_tiff(file)
    with _open(file, name, channels) as image:
        pages = list_pages(image, name)
        place = 0
        if isinstance(source, Page):
            if source.number not in pages:
                raise ImageError(f"{name} has no page {source.number}; expected 1 to {pages[-1]}")
            place = source.number - 1
        elif len(pages) > 1:
            note(f"{name} has {len(pages)} pages, and the first is read; give a Page for another")
        with _broken(name), quiet():
            # A GIF may grow from page to page, and the pages before are decoded.
            for before in range(place) if getattr(image, "format", None) == "GIF" else ():
                image.seek(before)
                _check_size(image.size, max_pixels, name)
            image.seek(place)
        if isinstance(image, ChannelTiff):
            _check_size(image.size, max_pixels, name)
            with _broken(name):
                values = image.values(channels, 3 * max_pixels, name)
            return _from_array(values, name, max_pixels), name
        if wide_only and image.mode[0] != "I" and low_mode(image) is None:
            return np.zeros((0, 0), np.uint8), name
        upright = not isinstance(source, StoredImage)
        if not isinstance(file, Path) or not isinstance(image, TiffImagePlugin.TiffImageFile):
            return _decode(image, name, max_pixels, file, place, upright=upright), name
        _check_size(image.size, max_pixels, name)
        with _broken(name), copy_page(file, place) as page:
            with quiet():
                alone = Image.open(page, formats=("TIFF",))
            return _decode(alone, name, max_pixels, page, upright=upright), name


def find_pages(path: Path) -> list[int]:
    """List the pages of an image file by their numbers, from 1; see `list_pages`.

    Raises:
        ImageError: the file is missing, or not an image.
    """
    file, name = _file_of(path)
    with _open(file, name) as image:
        return list_pages(image, name)


def pixels_within(memory: int | None = None) -> int:
    """Give how many pixels an image may have that is segmented within some bytes of memory.

    None: within all that this machine or container has, and `MAX_PIXELS` at most.
    """
    if memory is not None:
        return memory // BYTES_PER_PIXEL
    found = [MAX_PIXELS * BYTES_PER_PIXEL]
    with suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found) // BYTES_PER_PIXEL


def list_pages(image: Image.Image | ChannelTiff, name: str) -> list[int]:
    """List the pages of an open image by their numbers, from 1, and leave it at the first.

    Smaller versions of a page, which TIFFs of microscopes hold, are none. Pages end where a header
    is broken.

    Raises:
        ImageError: there are more than `MOST_PAGES`.
    """
    with _broken(name):
        pages = image.pages if isinstance(image, ChannelTiff) else _list_pages(image)
    if pages[-1] > MOST_PAGES:
        raise ImageError(f"{name} has more than {MOST_PAGES:,} pages; split it into smaller files")
    return pages


def _list_pages(image: Image.Image) -> list[int]:
    pages = [1]
    if image.format not in ("TIFF", "GIF", "WEBP"):
        return pages
    try:
        with quiet():
            if not isinstance(image, TiffImagePlugin.TiffImageFile):
                return list(range(1, getattr(image, "n_frames", 1) + 1))
            for number in range(2, MOST_PAGES + 2):  # all of them are counted by their square
                image.seek(number - 1)
                if not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:  # 1: a reduced version of a page
                    pages.append(number)
    except Exception:  # as in _open; EOFError behind the last one
        pass
    image.seek(0)
    return pages


def origin_of(image: ImageSource) -> Path | str | None:
    """Give the path or name that names an image's results; None if it has neither."""
    if isinstance(image, Page | NamedImage):
        return image.name
    return Path(os.fsdecode(image)) if isinstance(image, str | os.PathLike) else None


def is_one_image(images: object) -> TypeIs[ImageSource]:
    """Whether an argument is one image and not several, as in a list.

    What is neither counts as one image: reading it then says what was expected.
    """
    return isinstance(images, (*_FILE, Image.Image, np.ndarray, _Tensor)) or not isinstance(
        images, Iterable
    )


def copy_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Copy an RGB image out of Pillow (H, W, 3), a large one in strips and on all cores.

    Pillow makes two more copies on the way, which for strips stay in the cache: half the time.
    """
    if image.width * image.height < _LARGE:
        return np.array(image, np.uint8)
    pixels = np.empty((image.height, image.width, 3), np.uint8)

    def copy(rows: slice) -> None:
        pixels[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))

    each_strip(copy, image.height, _STRIP)
    return pixels


def read_size(
    path: str | Path | bytes | StoredImage, *, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Read an image's height and width from the header of a file, or of its bytes.

    Upright, but for those of a `StoredImage`.

    Raises:
        ImageError: the file is missing, too large, or not an image; its pixels may still be broken.
    """
    file, name = _file_of(path.path if isinstance(path, StoredImage) else path)
    with _open(file, name) as image:
        _check_size(image.size, max_pixels, name)
        return _read_frame(image, file, upright=not isinstance(path, StoredImage))[0]


def read_header(path: Path) -> tuple[tuple[int, int], bool, int]:
    """Read an image's height and width, whether EXIF turns or mirrors it, and its count of pages.

    Raises:
        ImageError: as `read_size`.
    """
    file, name = _file_of(path)
    with _open(file, name) as image:
        _check_size(image.size, MAX_PIXELS, name)
        return (*_read_frame(image, file, upright=True), len(list_pages(image, name)))


def _read_frame(
    image: Image.Image | ChannelTiff, file: Path | Any, *, upright: bool
) -> tuple[tuple[int, int], bool]:
    """Give an open image's height and width, and whether EXIF turns or mirrors it."""
    if isinstance(image, ChannelTiff):
        return (image.size[1], image.size[0]), False
    try:
        with quiet():
            exif = image.getexif() if _may_have_exif(image, file) else {}
            orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block has no orientation
        orientation = 1
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # which Pillow gives upright already
        width, height = (int(image.tag_v2[tag]) for tag in _SIDES)
        turned = False
    else:
        turned = orientation in range(2, 9)
    swapped = orientation in (5, 6, 7, 8) and upright
    return ((width, height) if swapped else (height, width)), turned


def _may_have_exif(image: Image.Image, file: Path | Any) -> bool:
    """Whether an image may have EXIF: of a PNG without, Pillow decodes all to find that out."""
    if image.format != "PNG" or not isinstance(file, Path):
        return True
    if {"exif", "Raw profile type exif"} & image.info.keys():
        return True
    with file.open("rb") as opened:
        chunks: Any = CountedFile(opened)
        chunks.seek(8)
        while len(head := chunks.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            chunks.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def remedy_for(name: str) -> str | None:
    """Say what to do with a file of a format that is well known and not read here."""
    return _REMEDIES.get(os.path.splitext(name)[1].lower())


def _file_of(source: object, called: str | None = None) -> tuple[Path | Any, str]:
    """Give what Pillow can open without blocking or an obscure error, and its name in errors."""
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        _check_file(name)
        return Path(name), name
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise ImageError(f"the bytes are empty; expected the bytes of a {KNOWN} file")
        if is_padded(bytes(source[:_PNG_HEADER]), len(source)):
            raise ImageError(f"{called or 'the bytes'}: {_PADDED}")
        return io.BytesIO(source), called or "the bytes"
    if isinstance(source, _BinaryFile) and not isinstance(source, io.TextIOBase):
        name = getattr(source, "name", None)
        file = source if hasattr(source, "seek") else io.BytesIO(source.read())
        return file, name if isinstance(name, str) else "the file object"
    what = "text file" if isinstance(source, io.TextIOBase) else type(source).__name__
    raise ImageTypeError(
        f"{what} is not an image; expected a path, bytes, a file opened in binary mode, a PIL "
        "image, an array or a tensor"
    )


def _check_file(name: str) -> None:
    path = Path(name)
    try:
        if path.is_dir():
            raise ImageError(f"{name}: this is a folder; expected an image file")
        if not path.exists():
            reason = "no such file"
            if _URL.match(name):
                reason = "this is a URL; download the image and give the path of the file"
            raise ImageError(f"{name}: {reason}")
        if not path.is_file():
            raise ImageError(f"{name}: this is a device or pipe; expected an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty; expected {KNOWN}")
    except ImageError:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{name}: cannot be read: {reason_of(error)}") from error


def copy_tiff(path: Path, place: int | None = None) -> Path | IO[bytes]:
    """Give what a file is decoded from: itself, or a copy in memory of a TIFF.

    libtiff maps files into memory, and where one is cut off meanwhile the system kills the process.
    Of a large TIFF one page is copied, by its place from 0; None gives the file itself.
    """
    with path.open("rb") as file:
        start, size = file.read(_PNG_HEADER), path.stat().st_size
        if is_padded(start, size):
            raise ImageError(f"{path}: {_PADDED}")
        is_large = size > MOST_COPIED
        if start[:4] not in _TIFF or (is_large and place is None):
            return path
        if is_large and place is not None:
            return copy_page(path, place)
        file.seek(0)
        return io.BytesIO(file.read())


def is_padded(start: bytes, size: int) -> bool:
    """Whether a PNG, by how it begins, is far larger than its pixels: all of it may be read."""
    if not start.startswith(b"\x89PNG") or len(start) < _PNG_HEADER:
        return False
    width, height = struct.unpack(">II", start[16:_PNG_HEADER])
    return size > most_bytes(width, height)


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing on stderr what Pillow raises, from the first image on."""
    with suppress(OSError, AttributeError):  # a Pillow without libtiff, or one that hides it
        ctypes.CDLL(import_module("PIL._imaging").__file__).TIFFSetErrorHandler(None)


@contextmanager
def quiet() -> Generator[None]:
    """Switch off Pillow's own size limit and warnings: they are global, so one thread at a time."""
    _silence_libtiff()
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _open(
    file: Path | Any, name: str, channels: Sequence[int] | None = None
) -> Generator[Image.Image | ChannelTiff]:
    with ExitStack() as opened:
        yield opened.enter_context(_open_in(opened, file, name, channels))


def _open_in(
    opened: ExitStack, file: Path | Any, name: str, channels: Sequence[int] | None
) -> Image.Image | ChannelTiff:
    """Open an image, and close with the stack what is opened for it."""
    try:
        with quiet():
            raw = opened.enter_context(file.open("rb")) if isinstance(file, Path) else file
            counted: Any = CountedFile(raw)
            image = Image.open(counted, formats=_FORMATS)
            counted.left += 2 * image.width * image.height  # runs of a BMP are read by themselves
            if not has_channels(image, channels):
                return image
            return ChannelTiff(file)
    except PermissionError as error:
        raise ImageError(f"{name}: cannot be read: {reason_of(error)}") from error
    except Exception as error:  # decoders raise whatever a broken header makes them stumble over
        with suppress(Exception), quiet():
            return ChannelTiff(file)
        remedy = remedy_for(name)
        if remedy is not None:
            raise ImageError(f"{name}: {remedy}; expected {KNOWN}") from error
        raise ImageError(f"{name}: not an image, or broken; expected {KNOWN}") from error


@contextmanager
def _broken(name: str) -> Generator[None]:
    """Say in one line what a decoder stumbles over."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # as in _open: struct.error, SyntaxError, KeyError, zlib.error …
        raise ImageError(
            f"{name}: the image is broken or cut short ({reason_of(error)}); expected a whole file"
        ) from error


def _decode(
    image: Image.Image,
    name: str,
    max_pixels: int,
    file: Path | Any = None,
    page: int = 0,
    *,
    upright: bool = True,
) -> NDArray[Any]:
    """Check the size that the header gives, decode, and turn upright; 16 bits stay so."""
    _check_size(image.size, max_pixels, name)

    def turned(image: Image.Image) -> Image.Image:
        if upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # it copies
            return ImageOps.exif_transpose(image)
        return image

    with _broken(name):
        _check_jpeg(image)
        if (values := read_ppm(image)) is not None:
            return values
        mode = None if file is None else low_mode(image)
        if (pieces := len(getattr(image, "tile", ()))) > _MOST_PIECES:
            raise OSError(f"it is stored in {pieces:,} pieces; expected {_MOST_PIECES:,} at most")
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            with quiet():  # which ends before the image is decoded
                image.load_prepare()
        image.load()
        with quiet():  # a broken EXIF block is warned about, and has no orientation
            values = _values_of(turned(image), name)
            if mode is None:
                return values
            with read_low_bytes(file, page, mode) as low:
                return values.astype(np.uint16) << 8 | _values_of(turned(low), name)


def _check_jpeg(image: Image.Image) -> None:
    """Refuse a JPEG of which libjpeg would make up most, or decode all again and again."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.tile or not image.fp:
        return
    pixels = image.width * image.height
    image.fp.seek(0)
    contents = image.fp.read(MOST_COPIED + 4 * pixels)
    if pixels > _MOST_A_BYTE * len(contents):
        raise OSError(f"{len(contents):,} bytes cannot hold {image.width}x{image.height}")
    if pixels * (scans := contents.count(b"\xff\xda")) > _MOST_SCANNED:
        raise OSError(f"it has {scans:,} scans")


def _values_of(image: Image.Image, name: str) -> NDArray[Any]:
    """Copy the values of a decoded image: (H, W) of 16 bits or floating point, or RGB (H, W, 3)."""
    if image.mode[0] in "FI":  # I;16 in either byte order, and I where a file says 32 bits
        values = np.asarray(image)
        if image.mode == "I":
            if values.min() < 0 or values.max() > MOST_16_BIT:
                raise ImageError(
                    f"{name}: 32-bit pixels go beyond 0 to 65535; expected 8 or 16 bits"
                )
            return values.astype(np.uint16)
        return values
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()  # it may be the caller's, and is left alone
        del image.info["transparency"]  # alpha is dropped anyway, and Pillow would warn
    return copy_pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _from_array(
    array: NDArray[Any],
    name: str,
    max_pixels: int,
    channels: Sequence[int] | None = None,
    *,
    first: bool = False,
) -> NDArray[Any]:
    """Copy an array as (H, W, 3) or (H, W); `first` says where channels are if both fit."""
    known = array.dtype.type in (np.uint8, np.uint16) or np.issubdtype(array.dtype, np.floating)
    before, after = (array.ndim == 3 and array.shape[axis] == 3 for axis in (0, 2))
    chosen = channels is not None and array.ndim == 3 and not (before or after)
    if chosen:
        before = array.shape[0] < array.shape[2] + first  # the shorter side, else as usual
        after = not before
    if not known or not (array.ndim == 2 or before or after):
        raise ImageError(
            f"{name} is {array.dtype} of shape {array.shape}; expected uint8, uint16 or floating "
            "point of shape (H, W, 3), (3, H, W) or (H, W), or channels to choose (channels=)"
        )
    if before and (first or not after):
        array = array.transpose(1, 2, 0)
    _check_size((array.shape[1], array.shape[0]), max_pixels, name)
    return np.array(choose_channels(array, channels, name) if chosen else array, order="C")


def _to_rgb(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Give values of 8 bits, or from 0 to 1, (H, W, 3) or (H, W), as RGB."""
    if values.dtype.type is not np.uint8:
        values = values.astype(np.float32)
        if not bool(np.all((values >= 0) & (values <= 1))):  # NaN fails too
            raise ImageError(f"{name}: floating-point pixels must lie between 0 and 1")
        values = (values * 255 + 0.5).astype(np.uint8)
    return np.repeat(values[:, :, None], 3, axis=2) if values.ndim == 2 else values


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width}x{height})")
    if width * height > max_pixels:
        memory = float(f"{width * height * BYTES_PER_PIXEL / 2**30:.2g}")  # 1.1e+02 becomes 110
        raise ImageError(
            f"{name}: {width}x{height} is {width * height:,} pixels, which take about {memory:.9g} "
            f"GiB, and the limit is {max_pixels:,}; make it smaller, raise --max-memory "
            "(max_pixels=), or read it by regions: panodetr segment --large"
        )
