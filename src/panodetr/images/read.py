"""Images from files, PIL images and arrays: upright 8-bit RGB, or one line that says why not."""

from __future__ import annotations

import glob
import threading
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from panodetr.errors import ImageError
from panodetr.threads import pool_threads

MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless the caller says otherwise: 600 MB as RGB."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm"}
)
"""Endings, in lower case, by which a folder's files are taken for images."""

# Decoders of images alone: Pillow would also run Ghostscript on an EPS file that came as a .png.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF or PPM"

_LARGE = 1_000_000
"""Pixels from which a second core is worth starting."""

_STRIP = 64
"""Rows that are copied at a time."""

_SIDES = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)

_pillow_globals = threading.Lock()


def read_image(
    source: str | Path | Image.Image | NDArray[np.uint8], *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read an image as upright RGB.

    Files and PIL images are turned as their EXIF orientation says. Of a file with several frames
    the first is taken. Alpha is dropped, not blended, as in the original: the colours under
    transparent pixels appear. 16-bit values are divided by 257 (65535 becomes 255), without
    stretching the contrast; floats are taken as 0 to 1.

    Args:
        source: a file, a PIL image, or an array: (H, W, 3) RGB or (H, W) grey, uint8.
        max_pixels: a larger image is refused, by its header, before anything is decoded.

    Returns:
        (H, W, 3) uint8, red, green, blue; a copy that shares nothing with `source`.

    Raises:
        ImageError: `source` is missing, unreadable, broken, too large, empty, or not an image.
    """
    image = open_image(source, max_pixels=max_pixels)
    return copy_pixels(image) if isinstance(image, Image.Image) else image


def open_image(
    source: str | Path | Image.Image | NDArray[np.uint8], *, max_pixels: int = MAX_PIXELS
) -> Image.Image | NDArray[np.uint8]:
    """Read an image as `read_image` does, and leave it as it is held: by Pillow, or in an array.

    Copying a large image out of Pillow takes as long as resizing it does; whoever needs the resized
    one first can have it without.

    Returns:
        An upright RGB image, which may be `source` itself; or an array, which is a copy.

    Raises:
        ImageError: as `read_image`.
    """
    if isinstance(source, Image.Image):
        name = "the PIL image"
        _check_size(source.size, max_pixels, name)
        return _decode(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    path = Path(source)
    _check_file(path)
    with _open(path, max_pixels) as image:
        return _decode(image, str(path))


def copy_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Copy an RGB image out of Pillow (H, W, 3), a large one in strips and on all cores.

    Pillow makes two more copies on the way, which for strips stay in the cache: half the time.
    """
    if image.width * image.height < _LARGE:
        return np.array(image, np.uint8)
    pixels = np.empty((image.height, image.width, 3), np.uint8)

    def copy(top: int) -> None:
        bottom = min(top + _STRIP, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))

    with ThreadPoolExecutor(pool_threads()) as pool:
        list(pool.map(copy, range(0, image.height, _STRIP)))
    return pixels


def read_size(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read an image's height and width, upright, from the file's header alone.

    Raises:
        ImageError: the file is missing, too large, or no image; its pixels may still be broken.
    """
    path = Path(source)
    _check_file(path)
    with _open(path, max_pixels) as image:
        try:
            with _quiet():
                turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # a broken EXIF block has no orientation
            turned = False
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # which Pillow gives upright already
            width, height = (int(image.tag_v2[tag]) for tag in _SIDES)
        return (width, height) if turned else (height, width)


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """List the images that files, folders and glob patterns stand for.

    A file is taken whatever it is called. A folder stands for every image in it and in its
    subfolders, by their endings (`SUFFIXES`), hidden ones left out; a pattern for every image and
    folder that matches, with `**` for any depth. What was given first comes first; within a folder
    or pattern paths are sorted. A file that is reached twice is listed once.

    Raises:
        ImageError: an input does not exist, or a folder or pattern holds no image.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        for path in _expand(given):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        images = _images_in(path)
        if not images:
            raise ImageError(f"{given}: no image in this folder; expected {_KNOWN} files")
        return images
    if path.exists():
        return [path]
    if not glob.has_magic(str(given)):
        raise ImageError(f"{given}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
    images = [image for match in matches for image in _images_in(match)]
    if not images:
        raise ImageError(f"{given}: this pattern matches no image; expected {_KNOWN} files")
    return images


def _images_in(path: Path) -> list[Path]:
    """List the images of a folder, or the one that `path` is, if it is one."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in SUFFIXES else []
    inside = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES)
    return [
        entry
        for entry in inside
        if entry.is_file()
        and not any(part.startswith(".") for part in entry.relative_to(path).parts)
    ]


def _check_file(path: Path) -> None:
    """Refuse what would block, or would give an obscure message, when opened."""
    try:
        if path.is_dir():
            raise ImageError(f"{path}: this is a folder; expected an image file")
        if not path.exists():
            raise ImageError(f"{path}: no such file")
        if not path.is_file():
            raise ImageError(f"{path}: this is a device or pipe; expected an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty; expected {_KNOWN}")
    except ImageError:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{path!s}: cannot be read: {_reason(error)}") from error


@contextmanager
def _quiet() -> Generator[None]:
    """Switch off Pillow's own size limit and warnings: they are global, so one thread at a time."""
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(path: Path, max_pixels: int) -> Image.Image:
    """Read the header of a file and check the size that it gives."""
    try:
        with _quiet():
            image = Image.open(path, formats=_FORMATS)
    except PermissionError as error:
        raise ImageError(f"{path}: cannot be read: {_reason(error)}") from error
    except Exception as error:  # decoders raise whatever a broken header makes them stumble over
        raise ImageError(f"{path}: not an image, or broken; expected {_KNOWN}") from error
    try:
        _check_size(image.size, max_pixels, str(path))
    except ImageError:
        image.close()
        raise
    return image


def _decode(image: Image.Image, name: str) -> Image.Image | NDArray[np.uint8]:
    """Decode, turn upright and convert; `name` is for the message."""
    try:
        image.load()
        with _quiet():  # a broken EXIF block is warned about, and has no orientation
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would copy
                image = ImageOps.exif_transpose(image)
        return _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # as in _open: struct.error, SyntaxError, KeyError, zlib.error …
        raise ImageError(
            f"{name}: the image is broken or cut short ({_reason(error)}); expected a whole file"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image | NDArray[np.uint8]:
    if image.mode == "F":
        values = np.asarray(image, np.float32)
        if not bool(np.all((values >= 0) & (values <= 1))):  # NaN fails too
            raise ImageError(f"{name}: floating-point pixels must lie between 0 and 1")
        return _from_grey((values * 255 + 0.5).astype(np.uint8))
    if image.mode.startswith("I"):  # I;16 in either byte order, and I where a file says 32 bits
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageError(f"{name}: 32-bit pixels go beyond 0 to 65535; expected 8 or 16 bits")
        return _from_grey(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()  # it may be the caller's, and is left alone
        del image.info["transparency"]  # alpha is dropped anyway, and Pillow would warn
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"the array is {array.dtype} of shape {array.shape}; "
            "expected uint8 of shape (H, W, 3), red, green, blue, or (H, W), grey"
        )
    _check_size((array.shape[1], array.shape[0]), max_pixels, "the array")
    return _from_grey(array) if grey else array.copy(order="C")


def _from_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


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
    """Say in one line, without the path again, what the system or the decoder said."""
    said = error.strerror if isinstance(error, OSError) else None
    return " ".join((said or str(error) or type(error).__name__).split())
