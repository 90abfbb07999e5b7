"""Images from files, bytes, PIL images, arrays and tensors: upright 8-bit RGB, or a one-line error.

`ImageSource` is all that may stand for an image; whatever takes an image reads it here.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from panodetr.errors import ImageError, ImageTypeError
from panodetr.threads import each_strip

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # in typing since Python 3.13

MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless the caller says otherwise: 600 MB as RGB."""

MOST_16_BIT = 65535
"""White in 16 bits."""

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
KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF or PPM"

_REMEDIES = {
    **dict.fromkeys(
        (".heic", ".heif", ".avif"), "images of phones must be converted, such as by ImageMagick"
    ),
    **dict.fromkeys(
        (".czi", ".nd2", ".lif", ".oib", ".lsm", ".vsi"),
        "files of microscopes must be exported as TIFF, such as by Fiji or the maker's program",
    ),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs"), "whole slides must be exported as TIFF tiles"),
}
"""What to do with files of formats that are well known and are not read here."""

_LARGE = 1_000_000
"""Pixels from which a second core is worth starting."""

_STRIP = 64
"""Rows that are copied at a time."""

_SUBFILE_TYPE = 254  # TIFF 6.0, section 8
_SIDES = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")

_pillow_globals = threading.Lock()


@runtime_checkable
class _BinaryFile(Protocol):
    """A file that is open for reading in binary mode, or anything that reads like one."""

    def read(self, size: int = -1, /) -> bytes: ...


@runtime_checkable
class _Tensor(Protocol):
    """What a `torch.Tensor` has: torch itself is not imported here."""

    def detach(self) -> Any: ...
    def numpy(self) -> NDArray[Any]: ...


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
    """An image that lies in no file of its own: in an archive, a table or a video, or at a URL.

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
  uint16 from 0 to 65535, or floating point from 0 to 1. Where both of the first two shapes fit,
  an array has its channels last and a tensor has them first.
"""

_FILE = (str, StoredImage, Page, NamedImage, os.PathLike, bytes, bytearray, memoryview, _BinaryFile)


def read_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    note: Callable[[str], None] = lambda _: None,
) -> NDArray[np.uint8]:
    """Read an image as upright RGB.

    Files and PIL images are turned as their EXIF orientation says. Of a file with several pages
    the first is taken, unless it is given as a `Page`. Alpha is dropped, not blended, as in the
    original: the colours under transparent pixels appear. 16-bit values are divided by 257 (65535
    becomes 255), without stretching the contrast; floating-point values from 0 to 1 are multiplied
    by 255 and rounded.

    Args:
        source: the image; `ImageSource` lists what it may be.
        max_pixels: a larger image is refused, by its header, before anything is decoded.
        note: called with a line where the image may not be read as it is meant: where further pages
            are left out, and where 16-bit values fill fewer bits, so that it comes out dark.

    Returns:
        (H, W, 3) uint8, red, green, blue; a copy that shares nothing with `source`.

    Raises:
        ImageError: `source` is missing, unreadable, broken, too large, empty, or not an image.
        ImageTypeError: `source` is an object of another type; it is a `TypeError`, too.
    """
    called = None
    if isinstance(source, NamedImage):
        called, source = source.name, source.image
    if isinstance(source, Image.Image):
        return _decode(source, "the PIL image", max_pixels, note)
    if isinstance(source, np.ndarray):
        return _from_array(source, called or "the array", max_pixels)
    if isinstance(source, _Tensor):
        values = source.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values  # not in NumPy
        return _from_array(values.numpy(), "the tensor", max_pixels, channels_first=True)
    file, name = _file_of(source.path if isinstance(source, StoredImage | Page) else source)
    name = called or name
    with _open(file, name) as image:
        pages = list_pages(image)
        if isinstance(source, Page):
            if source.number not in pages:
                raise ImageError(f"{name} has no page {source.number}; expected 1 to {pages[-1]}")
            image.seek(source.number - 1)
        elif len(pages) > 1:
            note(f"{name} has {len(pages)} pages, and the first is read; give a Page for another")
        return _decode(image, name, max_pixels, note, upright=not isinstance(source, StoredImage))


def find_pages(path: Path) -> list[int]:
    """List the pages of an image file by their numbers, from 1; see `list_pages`.

    Raises:
        ImageError: the file is missing, or not an image.
    """
    file, name = _file_of(path)
    with _open(file, name) as image:
        return list_pages(image)


def list_pages(image: Image.Image) -> list[int]:
    """List the pages of an open image by their numbers, from 1, and leave it at the first.

    Smaller versions of a page, which TIFFs of microscopes hold, are none. Pages end where a header
    is broken.
    """
    pages = [1]
    if image.format not in ("TIFF", "GIF", "WEBP"):
        return pages
    try:
        with quiet():
            count = getattr(image, "n_frames", 1)
            if count == 1 or not isinstance(image, TiffImagePlugin.TiffImageFile):
                return list(range(1, count + 1))
            for number in range(2, count + 1):
                image.seek(number - 1)
                if not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:  # 1: a reduced version of a page
                    pages.append(number)
    except Exception:  # as in _open
        pass
    image.seek(0)
    return pages


def origin_of(image: ImageSource) -> Path | str | None:
    """Give what results of an image are called after: its path, or its name; None without."""
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
    return read_header(path, max_pixels=max_pixels)[0]


def read_header(
    path: str | Path | bytes | StoredImage, *, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[int, int], bool]:
    """Read an image's height and width as `read_size`, and whether EXIF turns or mirrors it.

    Raises:
        ImageError: as `read_size`.
    """
    file, name = _file_of(path.path if isinstance(path, StoredImage) else path)
    with _open(file, name) as image:
        _check_size(image.size, max_pixels, name)
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
        swapped = orientation in (5, 6, 7, 8) and not isinstance(path, StoredImage)
        return ((width, height) if swapped else (height, width)), turned


def _may_have_exif(image: Image.Image, file: Path | Any) -> bool:
    """Whether an image may have EXIF: of a PNG without, Pillow decodes all to find that out."""
    if image.format != "PNG" or not isinstance(file, Path):
        return True
    if {"exif", "Raw profile type exif"} & image.info.keys():
        return True
    with file.open("rb") as chunks:
        chunks.seek(8)
        while len(head := chunks.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            chunks.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _file_of(source: object) -> tuple[Path | Any, str]:
    """Give what Pillow can open without blocking or an obscure error, and its name in errors."""
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        _check_file(name)
        return Path(name), name
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise ImageError(f"the bytes are empty; expected the bytes of a {KNOWN} file")
        return io.BytesIO(source), "the bytes"
    if isinstance(source, _BinaryFile) and not isinstance(source, io.TextIOBase):
        name = getattr(source, "name", None)
        return source, name if isinstance(name, str) else "the file object"
    what = "text file" if isinstance(source, io.TextIOBase) else type(source).__name__
    raise ImageTypeError(
        f"a {what} is not an image; expected a path, bytes, a file opened in binary mode, a PIL "
        "image, an array or a tensor"
    )


def _check_file(name: str) -> None:
    path = Path(name)
    try:
        if path.is_dir():
            raise ImageError(f"{name}: this is a folder; expected an image file")
        if not path.exists():
            raise ImageError(_missing(name, "no such file"))
        if not path.is_file():
            raise ImageError(f"{name}: this is a device or pipe; expected an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty; expected {KNOWN}")
    except ImageError:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error


def _missing(name: str, reason: str) -> str:
    if _URL.match(name):
        return f"{name}: this is a URL; download the image and give the path of the file"
    return f"{name}: {reason}"


@contextmanager
def quiet() -> Generator[None]:
    """Switch off Pillow's own size limit and warnings: they are global, so one thread at a time."""
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(file: Path | Any, name: str) -> Image.Image:
    try:
        with quiet():
            return Image.open(file, formats=_FORMATS)
    except PermissionError as error:
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error
    except Exception as error:  # decoders raise whatever a broken header makes them stumble over
        remedy = _REMEDIES.get(Path(name).suffix.lower())
        if remedy is not None:
            raise ImageError(f"{name}: {remedy}; expected {KNOWN}") from error
        raise ImageError(f"{name}: not an image, or broken; expected {KNOWN}") from error


def _decode(
    image: Image.Image,
    name: str,
    max_pixels: int,
    note: Callable[[str], None],
    *,
    upright: bool = True,
) -> NDArray[np.uint8]:
    """Check the size that the header gives, decode, turn upright and convert."""
    _check_size(image.size, max_pixels, name)
    try:
        image.load()
        with quiet():  # a broken EXIF block is warned about, and has no orientation
            if upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # it copies
                image = ImageOps.exif_transpose(image)
        return _to_rgb(image, name, max_pixels, note)
    except ImageError:
        raise
    except Exception as error:  # as in _open: struct.error, SyntaxError, KeyError, zlib.error …
        raise ImageError(
            f"{name}: the image is broken or cut short ({_reason(error)}); expected a whole file"
        ) from error


def _to_rgb(
    image: Image.Image, name: str, max_pixels: int, note: Callable[[str], None]
) -> NDArray[np.uint8]:
    if image.mode[0] in "FI":  # I;16 in either byte order, and I where a file says 32 bits
        values = np.asarray(image)
        if image.mode == "I":
            if values.min() < 0 or values.max() > 65535:
                raise ImageError(
                    f"{name}: 32-bit pixels go beyond 0 to 65535; expected 8 or 16 bits"
                )
            values = values.astype(np.uint16)
        highest = int(values.max(initial=0)) if values.dtype.kind == "u" else MOST_16_BIT
        if highest < 1 << 14:
            note(
                f"{name}: values reach {highest:,} of {MOST_16_BIT:,}, so the image is dark; "
                f"multiply them by {MOST_16_BIT // max(highest, 1)}"
            )
        return _from_array(values, name, max_pixels)
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()  # it may be the caller's, and is left alone
        del image.info["transparency"]  # alpha is dropped anyway, and Pillow would warn
    return copy_pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _from_array(
    array: NDArray[Any], name: str, max_pixels: int, *, channels_first: bool = False
) -> NDArray[np.uint8]:
    """Copy an array (H, W, 3), (3, H, W) or (H, W) as (H, W, 3) uint8."""
    known = array.dtype.type in (np.uint8, np.uint16) or np.issubdtype(array.dtype, np.floating)
    grey = array.ndim == 2
    first, last = (array.ndim == 3 and array.shape[axis] == 3 for axis in (0, 2))
    if not known or not (grey or first or last):
        raise ImageError(
            f"{name} is {array.dtype} of shape {array.shape}; expected uint8, uint16 or floating "
            "point of shape (H, W, 3), (3, H, W) or (H, W)"
        )
    if first and (channels_first or not last):
        array = array.transpose(1, 2, 0)
    _check_size((array.shape[1], array.shape[0]), max_pixels, name)
    if array.dtype.type is np.uint16:
        array = (array.astype(np.int32) + 128) // 257
    elif array.dtype.type is not np.uint8:
        array = array.astype(np.float32)
        if not bool(np.all((array >= 0) & (array <= 1))):  # NaN fails too
            raise ImageError(f"{name}: floating-point pixels must lie between 0 and 1")
        array = array * 255 + 0.5
    pixels = np.array(array, np.uint8, order="C")
    return np.repeat(pixels[:, :, None], 3, axis=2) if grey else pixels


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height:,} pixels, and the limit is "
            f"{max_pixels:,}; make it smaller, or raise max_pixels"
        )


def _reason(error: Exception) -> str:
    """Give the system's or the decoder's reason in one line, without the path."""
    reason = error.strerror if isinstance(error, OSError) else None
    return " ".join((reason or str(error) or type(error).__name__).split())
