"""Images that are larger than memory: TIFFs and OME-Zarr, read region by region.

Both are opened as zarr arrays. Of a pyramid the finest level is read, of stacks the first image.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from panodetr.errors import ImageError, MissingExtra
from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import MAX_PIXELS, read_image
from panodetr.results.types import Box

CHANNELS_LAST = 4
"""Length of a last axis without a name from which it is no longer one of colours."""


@dataclass(frozen=True, kw_only=True)
class LargeImage:
    """An open image, of which regions can be read.

    Attributes:
        path: of its file or folder.
        size: height and width.
        axes: a letter for each axis of `values`: y, x, and c or s for channels; of all others, the
            first place is read.
        values: a zarr array.
        rule: says which channels are colours, and the bits of 16-bit values.
    """

    path: Path
    size: tuple[int, int]
    axes: str
    values: Any
    rule: Preprocessing

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Read a region as RGB (h, w, 3).

        Raises:
            ImageError: the file is damaged, or its channels must be chosen.
        """
        y0, x0, y1, x1 = box
        places = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(None), "s": slice(None)}
        try:
            values = np.asarray(self.values[tuple(places.get(axis, 0) for axis in self.axes)])
        except Exception as error:  # decoders raise whatever broken data make them stumble over
            raise ImageError(
                f"{self.path}: the region {box} is broken ({error}); expected a whole file"
            ) from error
        left = [axis for axis in self.axes if axis in places]
        channels = [place for place, axis in enumerate(left) if axis not in "yx"]
        values = np.transpose(values, [left.index("y"), left.index("x"), *channels])
        values = values.reshape(*values.shape[:2], -1)  # h, w, C
        if values.shape[2] == 4 and self.rule.channels is None:
            values = values[..., :3]  # alpha
        if values.shape[2] == 1:
            return read_image(values[..., 0], bits=self.rule.bits)
        return read_image(values, bits=self.rule.bits, channels=self.rule.channels)


@contextmanager
def open_large(
    path: Path, rule: Preprocessing, max_pixels: int = MAX_PIXELS
) -> Generator[LargeImage]:
    """Open a TIFF, an OME-Zarr or a zarr array to read it by regions.

    `max_pixels` bounds the pieces in which it is stored: each is decoded as a whole.

    Raises:
        ImageError: the file is missing, or neither, or its pieces are too large.
        MissingExtra: zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingExtra("reading an image by regions", "large") from error
    with ExitStack() as opened:
        try:
            if path.is_dir():
                opened_path: Any = zarr.open(path, mode="r")
                values, axes = _open_zarr(opened_path)
            else:
                series = opened.enter_context(tifffile.TiffFile(path)).series[0]
                values: Any = zarr.open(series.aszarr(level=0), mode="r")
                axes = series.axes.lower()
            size = values.shape[axes.index("y")], values.shape[axes.index("x")]
        except Exception as error:  # as above
            reason = "there is no such file" if not path.exists() else str(error)
            raise ImageError(
                f"{path}: cannot be read by regions ({reason}); expected a TIFF or an OME-Zarr"
            ) from error
        if prod(values.chunks) > 3 * max_pixels:
            pieces = "x".join(map(str, values.chunks))
            raise ImageError(
                f"{path}: its pieces are {pieces}, each is decoded whole, and the limit is "
                f"{max_pixels:,} pixels; store it in tiles, or raise --max-memory"
            )
        yield LargeImage(path=path, size=size, axes=axes, values=values, rule=rule)


def _open_zarr(opened: Any) -> tuple[Any, str]:
    """Give the finest array of a group, or an array itself, and a letter for each of its axes."""
    if hasattr(opened, "shape"):
        names = "yxc" if opened.ndim > 2 and opened.shape[-1] <= CHANNELS_LAST else "cyx"
        return opened, names if opened.ndim > 2 else "yx"
    described = opened.attrs.asdict()
    (image, *_) = described.get("ome", described)["multiscales"]  # 0.5 has it in "ome"
    array = opened[image["datasets"][0]["path"]]
    axes = image.get("axes", "tczyx")  # before 0.4 they had to be these
    return array, "".join(axis if isinstance(axis, str) else axis["name"] for axis in axes)
