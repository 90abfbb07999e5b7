from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from tests.process import python

from panodetr.blocks import open_large, segment_large
from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import ImageError, PanodetrError, UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.predict import Predictor
from panodetr.results.masks import Masks, NumpyMasks
from panodetr.runtimes.base import Runtime

QUERIES = 30
TILED = Preprocessing(short_side=None, long_side=None, tile=64, tile_overlap=32)


def components(image: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """The bright components of an image (H, W, 3), from 1, and how many there are."""
    found: Any = ndimage.label(image[..., 0] > 128)
    return found


class Bright(Runtime):
    """A runtime that finds each bright component of a tile."""

    def detect(self, images: NDArray[np.uint8], padding: object) -> Bright:
        found = [components(image) for image in images]
        self.maps = [numbers for numbers, _ in found]
        self.logits = np.full((len(images), QUERIES, 4), -9, np.float32)
        self.logits[..., 3] = 9
        for logits, (_, count) in zip(self.logits, found, strict=True):
            logits[:count] = (9, -9, -9, -9)
        self.boxes = np.full((len(images), QUERIES, 4), 0.2, np.float32)
        return self

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        return [
            NumpyMasks(np.where(numbers == own[:, None, None] + 1, 1, -1).astype(np.float32))
            for numbers, own in zip(self.maps, queries, strict=True)
        ]


@pytest.fixture(scope="module")
def bright(tiny_spec: ModelSpec) -> Predictor:
    architecture = replace(tiny_spec.architecture, num_queries=QUERIES)
    return Predictor(replace(tiny_spec, architecture=architecture, preprocessing=TILED), Bright())


@pytest.fixture(scope="module")
def discs() -> NDArray[np.uint8]:
    """White discs of 4 to 20 pixels that do not touch, on grey; a quarter of it is empty."""
    image = np.full((500, 700, 3), 90, np.uint8)
    y, x = np.mgrid[:500, :700]
    rng = np.random.default_rng(1)
    for top in range(5, 470, 25):
        for left in range(5, 670, 25):
            radius = rng.integers(2, 11)
            if top < 250 or left < 350:
                image[np.hypot(y - top - 10, x - left - 10) <= radius] = 255
    return image


def write_tiff(path: Path, image: NDArray[np.uint8]) -> Path:
    tifffile.imwrite(path, image, tile=(64, 64), compression="zlib")
    return path


def write_ome_zarr(path: Path, image: NDArray[np.uint8]) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for level in range(2):
        own = image[:: 2**level, :: 2**level].transpose(2, 0, 1)[None, :, None]  # t, c, z, y, x
        group.create_array(str(level), data=np.ascontiguousarray(own), chunks=(1, 1, 1, 64, 64))
    axes = [{"name": name} for name in "tczyx"]
    datasets = [{"path": str(level)} for level in range(2)]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return path


def write_zarr(path: Path, image: NDArray[np.uint8]) -> Path:
    zarr.create_array(path, data=image, chunks=(64, 64, 3))
    return path


@pytest.mark.parametrize(
    ("write", "name"), [(write_tiff, "a.tif"), (write_ome_zarr, "a.zarr"), (write_zarr, "a.zarr")]
)
def test_a_large_image_gives_what_it_gives_whole_as_labels_and_geojson(
    bright: Predictor,
    discs: NDArray[np.uint8],
    write: Callable[[Path, NDArray[np.uint8]], Path],
    name: str,
    tmp_path: Path,
) -> None:
    counted: list[tuple[int, int]] = []

    def told(done: int, count: int) -> None:
        counted.append((done, count))

    out = tmp_path / "out"
    found = segment_large(
        bright,
        write(tmp_path / name, discs),
        out,
        task="instances",
        block=256,
        progress=told,
    )
    assert (found.labels, found.geojson) == (out / "a_labels.tif", out / "a.geojson")
    assert {file.name for file in out.iterdir()} == {"a_labels.tif", "a.geojson"}
    assert counted == sorted(counted)
    assert counted[-1][0] == counted[-1][1]
    with tifffile.TiffFile(found.labels) as file:
        assert file.pages.first.is_tiled
        labels = file.asarray()
    expected, count = components(discs)
    assert labels.dtype == np.uint16
    assert found.objects == count == len(np.unique(labels)) - 1
    np.testing.assert_array_equal(labels > 0, expected > 0)
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1  # each id is one disc
    features = json.loads(found.geojson.read_text())["features"]
    assert len(features) == count
    for feature in features:
        polygon = shapely.from_geojson(json.dumps(feature))
        number = int(feature["properties"]["name"])
        place = shapely.point_on_surface(polygon)
        assert labels[int(place.y), int(place.x)] == number
        assert feature["properties"]["measurements"]["area"] == (labels == number).sum()


def test_what_cannot_be_read_by_regions_is_refused(
    bright: Predictor, discs: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "folder").mkdir()
    for name in ("text.tif", "folder", "missing.tif"):
        with pytest.raises(ImageError, match=f"{name}: cannot be read by regions"):
            segment_large(bright, tmp_path / name, tmp_path)
    whole = bright.with_rule(Preprocessing())
    with pytest.raises(UsageError, match="give it tiles"):
        segment_large(whole, tmp_path / "text.tif", tmp_path)
    file = write_tiff(tmp_path / "cut.tif", discs)
    with pytest.raises(ImageError, match=r"pieces are 64x64x3, .* limit is 100 pixels"):
        open_large(file, TILED, 100).__enter__()
    file.write_bytes(file.read_bytes()[:-900])
    with pytest.raises(PanodetrError, match=r"cut\.tif"):
        segment_large(bright, file, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def large_tiles() -> Iterator[NDArray[np.uint8]]:
    """The tiles of an image of 20,000 by 20,000 pixels: 80 of 1,600 have 64 discs each."""
    tile = np.full((512, 512, 3), 90, np.uint8)
    some = tile.copy()
    y, x = np.mgrid[:512, :512]
    some[np.hypot(y % 64 - 32, x % 64 - 32) <= 9] = 255
    for row, column in np.ndindex(40, 40):
        yield some if 12 <= row < 20 and 17 <= column < 27 else tile


@pytest.mark.soak
@pytest.mark.skipif(int(os.environ.get("PANODETR_SOAK", "10")) < 100, reason="takes two minutes")
def test_memory_does_not_depend_on_the_size_of_the_image(tmp_path: Path, tiny_folder: Path) -> None:
    file, side = tmp_path / "a.tif", 20_000
    shape, stored = (side, side, 3), (512, 512)
    tifffile.imwrite(
        file, large_tiles(), shape=shape, dtype=np.uint8, tile=stored, compression="zlib",
        photometric="rgb",
    )  # fmt: skip
    done = python(__file__, file, tiny_folder)
    assert done.returncode == 0, done.stderr
    objects, peak = map(int, done.stdout.split())
    assert objects == 80 * 64
    assert peak < 2 << 30


def main(file: Path, model: Path) -> None:
    """Segment an image in a process of its own; print how many objects, and the peak memory."""
    spec = replace(load_spec(model), preprocessing=TILED)
    spec = replace(spec, architecture=replace(spec.architecture, num_queries=QUERIES))
    found = segment_large(Predictor(spec, Bright()), file, file.parent / "out", task="instances")
    print(found.objects, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
