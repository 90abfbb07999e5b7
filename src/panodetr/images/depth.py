"""Images beyond 8-bit RGB: up to 16 bits per value, channels that are not colours, pixel sizes.

Microscopes and satellites write both. Pillow gives the high byte of 16-bit colours alone, and most
TIFFs of many channels not at all; those are read by tifffile.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from panodetr.errors import ChannelError, ImageError

for _name in ("tifffile", "PIL"):  # errors are raised, too
    logging.getLogger(_name).addHandler(logging.NullHandler())

BYTES_PER_PIXEL = 32
"""What an image takes from its file to its overlay; 25 were measured for a PNG of 25 megapixels."""

MOST_COPIED = 1 << 26
"""Bytes of the largest TIFF of which all is read before a page of it is decoded. And of what a file
may have beside its pixels."""

MOST_PAGES = 10_000
"""Of a file: to find one page, all before it are looked at."""

USUAL_BITS = (8, 10, 12, 14)
"""How many of a file's 16 bits cameras use."""

# TIFF 6.0, section 8
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA = 258, 262, 277, 284, 338
_GREY, _RGB, _SEPARATE = (0, 1), 2, 2
_ALPHA = (1, 2)
_MICROMETRES = {
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # the micro sign
    "μm": 1.0,  # the Greek letter
    "micron": 1.0,
    "microns": 1.0,
    "mm": 1e3,
    "cm": 1e4,
}
_OTHER_BYTE = {
    ";16B": ";16L",
    ";16L": ";16B",
    ";16N": ";16B" if sys.byteorder == "little" else ";16L",
}


def needed_bits(highest: int) -> int | None:
    """Give the least of `USUAL_BITS` that hold a value; None where they don't."""
    return next((bits for bits in USUAL_BITS if highest < 1 << bits), None)


def to_bytes(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Scale values to 0 to 255, rounded: 2^bits - 1 and more are white."""
    white = (1 << bits) - 1
    table = (np.minimum(np.arange(1 << 16), white) * 255 + white // 2) // white
    return table.astype(np.uint8).take(values)


def low_mode(image: Image.Image) -> str | None:
    """Give the raw mode that reads the low bytes of an open image's 16-bit colours.

    Returns:
        None where its values have 8 bits, or are grey.
    """
    tiles: list[Any] = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    raw = args if isinstance(args, str) else str(next(iter(args or ()), ""))
    known = raw.startswith(("RGB;", "RGBA;", "RGBX;")) and raw[-4:] in _OTHER_BYTE
    return raw[:-4] + _OTHER_BYTE[raw[-4:]] if known else None


def read_low_bytes(file: Path | Any, page: int, mode: str) -> Image.Image:
    """Read a page, from 0, of 16-bit colours with their low bytes in place of the high ones."""
    if not isinstance(file, Path):
        file.seek(0)
    low: Any = Image.open(file, formats=("PNG", "TIFF"))
    low.seek(page)
    low.tile = [
        tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
        for tile in low.tile
    ]
    low.load()
    return low


def read_ppm(image: Image.Image) -> NDArray[Any] | None:
    """Read an open PPM whose values are text, or fill no whole bytes, for which Pillow is slow.

    Returns:
        (H, W) or (H, W, 3), uint8 or uint16, scaled to all bits; None for other images.

    Raises:
        ValueError: the contents are broken or cut short.
    """
    tile: Any = next(iter(getattr(image, "tile", ())), None)
    if tile is None or tile.codec_name not in ("ppm", "ppm_plain"):
        return None
    if image.mode not in ("1", "L", "I", "RGB"):
        raise ValueError(f"{image.mode} is no kind of PPM")
    file: Any = image.fp  # pyright: ignore[reportAttributeAccessIssue]  # it is open
    white = 1 if image.mode == "1" else tile.args[-1]
    kind = np.dtype(np.uint8 if white < 256 else ">u2")
    shape = (image.height, image.width, *([3] if image.mode == "RGB" else []))
    count = math.prod(shape)
    file.seek(tile.offset)
    contents = file.read(most_bytes(*image.size))
    if tile.codec_name == "ppm":
        values = np.frombuffer(contents, kind, count)
    else:
        text = re.sub(rb"#[^\r\n]*", b"", contents)
        if image.mode == "1":  # digits may stand together, and 1 is black
            values = ord("1") - np.frombuffer(b"".join(text.split()), np.uint8)[:count]
        else:
            values = np.fromstring(text, np.uint32, sep=" ")[:count]
        if values.max(initial=0) > white:
            raise ValueError(f"a value is above {white}")
    most = (1 << 8 * kind.itemsize) - 1
    table = (np.minimum(np.arange(most + 1), white) * most + white // 2) // white
    return table.astype(kind.newbyteorder("=")).take(values.reshape(shape))


class ChannelTiff:
    """A TIFF whose channels are not colours, with the interface of Pillow's images.

    Attributes:
        pages: those that hold images, by their numbers from 1.
    """

    def __init__(self, file: Path | Any) -> None:
        """Open a path, or a file in binary mode; raises whatever a broken header makes it raise."""
        if not isinstance(file, Path):
            file.seek(0)
        self._file = tifffile.TiffFile(file)
        try:
            every: Any = self._file.pages
            self.pages, seen = list[int](), set[int]()
            for number, page in enumerate(every, start=1):
                # In a broken file they may lead back to an earlier one.
                if page.offset in seen or number > MOST_PAGES + 1:
                    break
                seen.add(page.offset)
                if not page.subfiletype & 1:
                    self.pages.append(number)
            self.seek(0)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ChannelTiff:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seek(self, place: int) -> None:
        """Turn to a page, from 0."""
        self._page: Any = self._file.pages[place].aspage()
        self.channels: int = self._page.samplesperpixel
        self.size: tuple[int, int] = (self._page.imagewidth, self._page.imagelength)

    def values(self, channels: Sequence[int] | None, most: int, name: str) -> NDArray[Any]:
        """Decode the chosen channels: (H, W, 3), or (H, W) of a single one.

        Raises:
            ImageError: `choose_channels` refused, or all channels have more than `most` values.
        """
        width, height = self.size
        if width * height * self.channels > most:
            raise ImageError(
                f"{name}: {self.channels} channels of {width}x{height} are more than {most:,} "
                "values; keep the channels that are needed, or raise max_pixels"
            )
        if channels is None and self._page.photometric == _RGB and self.channels == 4:
            channels = (0, 1, 2)  # and alpha
        values: NDArray[Any] = self._page.asarray()
        if self.channels > 1 and self._page.planarconfig == _SEPARATE:
            values = values.transpose(1, 2, 0)
        return choose_channels(values.reshape(height, width, -1), channels, name)


def most_bytes(width: int, height: int) -> int:
    """Give how many bytes a file may have for an image; all of them may be read to decode it."""
    return MOST_COPIED + BYTES_PER_PIXEL * width * height


def copy_page(path: Path, place: int) -> IO[bytes]:
    """Copy what a page of a TIFF, from 0, is decoded from, to where it lies in the file.

    The copy is in memory on Linux, and takes no more than the page; that page is its first and only
    one.

    Raises:
        ImageError: it is far larger than its pixels.
    """
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page = tiff.pages[place].aspage()
        layout, order = tiff.tiff, "little" if tiff.byteorder == "<" else "big"
        file.seek(page.offset)
        count = int.from_bytes(file.read(layout.tagnosize), order)
        end = page.offset + layout.tagnosize + count * layout.tagsize
        parts = [(0, layout.offsetsize), (page.offset, end - page.offset)]
        parts += [(tag.valueoffset, tag.valuebytecount) for tag in page.tags]
        parts += zip(page.dataoffsets, page.databytecounts, strict=True)
        size = sum(length for _, length in parts)
        if size > (most := most_bytes(page.imagewidth, page.imagelength)):
            raise ImageError(
                f"{path}: page {place + 1} has {size:,} bytes; expected {most:,} or less"
            )
        copy: Any = (
            open(os.memfd_create("page"), "w+b")  # noqa: SIM115
            if hasattr(os, "memfd_create")
            else tempfile.TemporaryFile()  # noqa: SIM115
        )
        for offset, length in parts:
            file.seek(offset)
            copy.seek(offset)
            copy.write(file.read(length))
        for offset, value in ((layout.offsetsize, page.offset), (end, 0)):  # first page, and next
            copy.seek(offset)
            copy.write(value.to_bytes(layout.offsetsize, order))
        copy.seek(0)
        return copy


def has_channels(image: Image.Image, chosen: Sequence[int] | None) -> bool:
    """Whether a TIFF's channels must be chosen, or are; or are such that Pillow mixes them up."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    samples, kind = tags.get(_SAMPLES, 1), tags.get(_PHOTOMETRIC)
    if kind in _GREY:
        alpha = samples == 2 and tags.get(_EXTRA, (0,))[0] in _ALPHA
        return samples > 1 and not alpha
    mixed = tags.get(_PLANAR) == _SEPARATE and tags.get(_BITS, (8,))[0] == 16
    return kind == _RGB and (mixed or samples > (4 if chosen is None else 3))


def choose_channels(
    values: NDArray[Any], channels: Sequence[int] | None, name: str
) -> NDArray[Any]:
    """Take the channels that are red, green and blue, or one for grey, of an image (H, W, C).

    Returns:
        (H, W, 3), or (H, W) of one channel.

    Raises:
        ImageError: there are no channels.
        ChannelError: none are chosen where there are others than three, or there are no such ones.
    """
    count = values.shape[2]
    if count == 0:
        raise ImageError(f"{name} has no channels; expected three, or one")
    if channels is None:
        if count == 3:
            return values
        raise ChannelError(
            f"{name} has {count} channels, 0 to {count - 1}; say which are red, green and blue, or "
            "which one is grey: --channels 0,1,2 (in Python channels=(0, 1, 2), in training --set "
            "spec.preprocessing.channels=[0,1,2])"
        )
    if not all(0 <= channel < count for channel in channels) or len(channels) not in (1, 3):
        raise ChannelError(
            f"{name} has {count} channels, and channels are {', '.join(map(str, channels))}; "
            f"expected three, or one, from 0 to {count - 1}"
        )
    return values[..., list(channels)] if len(channels) > 1 else values[..., channels[0]]


def read_pixel_size(path: Path) -> float | None:
    """Read the width of a pixel in micrometres from a TIFF.

    OME-TIFF and ImageJ say it in the description; other TIFFs by a resolution per centimetre. One
    per inch is that of a printer, and is not taken.

    Returns:
        None where the file is no TIFF, or says nothing.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            described: str = page.description
            per_unit: float = page.resolution[0] if "XResolution" in page.tags else 0
            in_centimetres = page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        ome = re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', described)
        across = float(ome[1]) if ome else None
    except Exception:  # decoders raise whatever a broken tag makes them stumble over
        return None
    if across is not None:
        named = re.search(r'PhysicalSizeXUnit="([^"]+)"', described)
        return _scaled(across, named[1] if named else "µm")
    if not per_unit > 0:
        return None
    if described.startswith("ImageJ="):
        named = re.search(r"^unit=(.+)$", described, re.MULTILINE)
        return _scaled(1 / per_unit, named[1].strip()) if named else None
    return _scaled(1 / per_unit, "cm") if in_centimetres else None


def _scaled(value: float, unit: str) -> float | None:
    unit = unit.replace(r"\u00B5", "µ")  # as ImageJ writes it
    size = value * _MICROMETRES.get(unit, 0)
    return size if 0 < size < math.inf else None
