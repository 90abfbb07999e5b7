"""Things in images that are larger than memory: block by block, into a label map and GeoJSON.

A block is seen with a margin around it, in which its neighbours' tiles lie as they lie there. So an
object at a border is found by both alike, and belongs to the block that has the middle of its box.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
import tifffile
from numpy.typing import NDArray

from panodetr.errors import ImageError, UsageError, import_extra
from panodetr.files import atomic_write
from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import MAX_PIXELS, read_image
from panodetr.images.views import lay_tiles
from panodetr.predict import Predictor
from panodetr.results.interchange import MOST_IDS_16, to_feature
from panodetr.results.regions import Region
from panodetr.results.types import Box

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many tiles are done, and of how many."""

BLOCK = 2048
"""Pixels of the side of a block, without its margin: what it takes to join its tiles is held."""

MARGIN = 2
"""Tiles that the margin around a block is wide: an object as large as a tile is seen whole."""

STORED_TILE = 512
"""Pixels of the side of a tile of the label map's file."""

CHANNELS_LAST = 4
"""Length of a last axis without a name from which it is no longer one of colours."""


@dataclass(frozen=True, kw_only=True)
class LargeFiles:
    """What was found in a large image.

    Attributes:
        labels: a tiled TIFF, 16 or 32 bits; a pixel's value is its object's id, 0 where none is.
        geojson: the objects' outlines and measurements, as `results.interchange.to_geojson`.
        objects: how many there are.
    """

    labels: Path
    geojson: Path
    objects: int


def segment_large(
    model: Predictor,
    path: str | Path,
    folder: str | Path,
    *,
    threshold: float | None = None,
    task: Literal["panoptic", "instances"] = "panoptic",
    pixel_size: float | None = None,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> LargeFiles:
    """Find the things in an image that is read by regions; write a label map and GeoJSON.

    Memory depends on `block` and not on the image. Stuff is left out, and a block of one colour is
    taken to hold nothing. Objects of more than a tile may be cut where a block's margin ends.

    Args:
        model: sees images in tiles.
        path: of a TIFF or an OME-Zarr.
        folder: where `NAME_labels.tif` and `NAME.geojson` go.
        threshold: as for `Predictor.segment`.
        task: as there.
        pixel_size: micrometres that a pixel is wide; None gives measurements in pixels alone.
        block: pixels of the side of what is worked on at a time.
        progress: called with how many tiles are done, and of how many.

    Raises:
        ImageError: the file cannot be read by regions, or is damaged.
        MissingExtra: zarr is not installed.
        UsageError: the model sees images as a whole, or as `Predictor.segment`.
        PanodetrError: the system refused to write.
    """
    zarr = import_extra("zarr")
    path, folder = Path(path), Path(folder)
    rule = model.spec.preprocessing
    if rule.tile is None:
        raise UsageError(
            f"model {model.spec.name} sees an image as a whole, and would shrink a large one; give "
            "it tiles (--tiles)"
        )
    labels, geojson = (folder / f"{path.stem}{end}" for end in ("_labels.tif", ".geojson"))
    count = 0
    with (
        open_large(path, rule, model.batching.max_pixels) as image,
        atomic_write(labels) as labels_file,
        atomic_write(geojson) as geojson_file,
        TemporaryDirectory(dir=folder) as scratch,
        geojson_file.open("w", encoding="utf-8") as features,
    ):
        # Objects reach beyond their blocks, and a TIFF cannot be written out of order.
        store = zarr.create_array(
            scratch, shape=image.size, chunks=(STORED_TILE, STORED_TILE), dtype="int32"
        )
        features.write('{"type": "FeatureCollection", "features": [')
        regions = _find(model, image, threshold, task, block, progress)
        for seen, regions_there, pixels in regions:
            y0, x0, y1, x1 = seen
            canvas: NDArray[np.int32] = store[y0:y1, x0:x1]
            for region in regions_there:
                assert region.pixels is not None
                there = canvas[region.window]
                own = region.pixels & (there == 0)
                # What a neighbour has found, too, is there already.
                if 2 * np.count_nonzero(own) <= np.count_nonzero(region.pixels):
                    continue
                count += 1
                there[own] = count
                moved = _moved(replace(region, id=count), y0, x0)
                feature = to_feature(moved, pixels[region.window], model.categories, pixel_size)
                features.write(f"{',' * (count > 1)}\n{json.dumps(feature, ensure_ascii=False)}")
            store[y0:y1, x0:x1] = canvas
        features.write("\n]}\n")
        dtype = np.uint16 if count <= MOST_IDS_16 else np.int32
        tifffile.imwrite(
            labels_file,
            (
                store[y : y + STORED_TILE, x : x + STORED_TILE].astype(dtype)
                for y in range(0, image.size[0], STORED_TILE)
                for x in range(0, image.size[1], STORED_TILE)
            ),
            shape=image.size,
            dtype=dtype,
            tile=(STORED_TILE, STORED_TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
        )
    return LargeFiles(labels=labels, geojson=geojson, objects=count)


def _find(
    model: Predictor,
    image: LargeImage,
    threshold: float | None,
    task: Literal["panoptic", "instances"],
    block: int,
    progress: Progress | None,
) -> Iterator[tuple[Box, list[Region], NDArray[np.uint8]]]:
    """Give each block that has objects: where it lies with its margin, its own objects, its pixels.

    Objects are in pixels of the block with its margin.
    """
    rule = model.spec.preprocessing
    assert rule.tile is not None
    step = rule.tile - rule.tile_overlap
    side, margin = (-(-length // step) * step for length in (block, MARGIN * rule.tile))
    height, width = image.size
    cores: list[Box] = [
        (y, x, min(y + side, height), min(x + side, width))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    blocks = [
        (max(0, y - margin), max(0, x - margin), min(height, y1 + margin), min(width, x1 + margin))
        for y, x, y1, x1 in cores
    ]
    counts = [len(lay_tiles((y1 - y0, x1 - x0), rule)) for y0, x0, y1, x1 in blocks]
    done, count = 0, sum(counts)
    own = model.with_rule(rule)
    for core, seen, tiles in zip(cores, blocks, counts, strict=True):
        if progress is not None:
            own.on_tiles = lambda n, _, before=done: progress(before + n, count)
        done += tiles
        pixels = image.read(seen)
        if (pixels == pixels[0, 0]).all():
            if progress is not None:
                progress(done, count)
            continue
        result = own.segment(pixels, threshold=threshold, task=task)
        found: list[Region] = []
        for region in result.regions():
            x0, y0, x1, y1 = _moved(region, *seen[:2]).box
            inside = core[0] <= (y0 + y1) / 2 < core[2] and core[1] <= (x0 + x1) / 2 < core[3]
            if region.is_thing and inside:
                found.append(region)
        if found:
            yield seen, found, pixels


def _moved(region: Region, y: int, x: int) -> Region:
    """Give a region of a block that begins at y, x as one of the whole image."""
    rows, columns = region.window
    x0, y0, x1, y1 = region.box
    return replace(
        region,
        window=(
            slice(rows.start + y, rows.stop + y),
            slice(columns.start + x, columns.stop + x),
        ),
        box=(x0 + x, y0 + y, x1 + x, y1 + y),
    )


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
    zarr = import_extra("zarr")
    with ExitStack() as opened:
        try:
            if path.is_dir():
                values, axes = _open_zarr(zarr.open(path, mode="r"))
            elif path.exists() and not path.stat().st_size:
                raise OSError("it is empty, a device or a pipe")
            else:
                series = opened.enter_context(tifffile.TiffFile(path)).series[0]
                values = zarr.open(series.aszarr(level=0), mode="r")
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
