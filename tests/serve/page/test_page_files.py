"""The files that the page makes in the browser: they hold what is shown, to the pixel."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from harness.page import ScenePool, Site, file_of, scene_of, serve_page, upload
from panodetr.results.id_map import decode_ids
from panodetr.results.interchange import CocoInstances, to_geojson
from panodetr.results.regions import measure
from panodetr.results.result import PanopticResult

pytestmark = pytest.mark.browser

Download: TypeAlias = Callable[[str], bytes]

HIDDEN = 3


@pytest.fixture(scope="module")
def scene() -> PanopticResult:
    """Segments of noise: with holes, in many pieces, and touching at corners."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 6, (31, 44)).astype(np.int32)
    ids[:, 22:] = np.kron(rng.integers(1, 6, (31, 11)), np.ones((1, 2))).astype(np.int32)
    ids[5:20, 8:30] = 2
    ids[8:12, 10:20] = 4
    ids[9, 12:15] = 2
    ids[25:, :] = 5
    return scene_of(ids, np.full(ids.shape, 90, np.uint8))


@pytest.fixture(scope="module")
def page(browser: Any, scene: PanopticResult) -> Generator[Any]:
    """The page with two images of the scene, in each of which segment 3 is switched off."""
    pool = ScenePool(scene)
    with serve_page(pool) as address:
        site = Site(address=address, pool=pool, browser=browser)
        page = site.open()
        buffer = file_of(scene)
        names = ("cells.png", 'more, "cells".png')
        files = [{"name": name, "mimeType": "image/png", "buffer": buffer} for name in names]
        page.set_input_files("#file", files)
        for name in names:
            page.click(f"#strip li:nth-child({1 + names.index(name)}) button")
            page.wait_for_selector("#segments li")
            page.uncheck(f"#segments li[data-id='{HIDDEN}'] input")
        page.click("#strip li:nth-child(1) button")
        yield page
        page.context.close()
    assert site.faults == []


@pytest.fixture
def download(page: Any, tmp_path: Path) -> Download:
    def save(kind: str) -> bytes:
        with page.expect_download() as started:
            page.click(f"[data-kind={kind}]")
        path = tmp_path / "file"
        started.value.save_as(path)
        return path.read_bytes()

    return save


@pytest.fixture
def shown(scene: PanopticResult) -> PanopticResult:
    """What the page shows of the first image, as Python has it."""
    return replace(
        scene,
        segments=tuple(one for one in scene.segments if one.id != HIDDEN),
        segment_ids=np.where(scene.segment_ids == HIDDEN, 0, scene.segment_ids),
        source=Path("cells.png"),
    )


def test_the_id_map_is_coco_s(download: Download, shown: PanopticResult) -> None:
    image = Image.open(io.BytesIO(download("idmap")))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(decode_ids(np.asarray(image)), shown.segment_ids)


def test_the_label_tiff_has_an_id_a_pixel(download: Download, shown: PanopticResult) -> None:
    image = Image.open(io.BytesIO(download("tiff")))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), shown.segment_ids)


def test_the_overlay_colours_what_is_shown(download: Download, shown: PanopticResult) -> None:
    image = np.asarray(Image.open(io.BytesIO(download("overlay"))))
    assert image.shape == (*shown.segment_ids.shape, 4)
    assert image[7, 15, :3].tolist() != [90, 90, 90]  # inside segment 2
    assert (image[..., 3] == 255).all()


def test_the_coco_file_is_that_of_the_command_line(
    download: Download, shown: PanopticResult
) -> None:
    expected = CocoInstances()
    expected.add(shown)
    one = json.loads(download("coco"))
    assert one == json.loads(json.dumps(expected.document()))
    expected.add(replace(shown, source=Path('more, "cells".png')))
    assert json.loads(download("all-coco")) == json.loads(json.dumps(expected.document()))


def test_the_geojson_has_the_polygons_of_the_command_line(
    download: Download, shown: PanopticResult
) -> None:
    features = json.loads(download("geojson"))["features"]
    expected: Any = to_geojson(shown)["features"]
    assert len(features) == len(expected)
    for feature, theirs in zip(features, expected, strict=True):
        assert normal(feature["geometry"]) == normal(theirs["geometry"])
        own, other = feature["properties"], theirs["properties"]
        for key in ("objectType", "name", "classification"):
            assert own[key] == other[key]
        for key, value in own["measurements"].items():
            assert value == pytest.approx(other["measurements"][key], abs=1e-4)


def test_the_csv_has_the_columns_of_the_command_line(
    download: Download, shown: PanopticResult
) -> None:
    names = ["cells.png", 'more, "cells".png']
    expected = [row for name in names for row in measure(replace(shown, source=Path(name)))]
    for kind, count in (("csv", 1), ("all-csv", 2)):
        rows = list(csv.DictReader(io.StringIO(download(kind).decode(), newline="")))
        assert len(rows) == count * len(shown.segments)
        for row, theirs in zip(rows, expected, strict=False):
            for key, value in row.items():
                wanted = theirs[key]
                if isinstance(wanted, str):
                    assert value == wanted
                else:
                    assert float(value) == pytest.approx(wanted, abs=1e-4)


def test_boxes_have_files_too(site: Site, tmp_path: Path) -> None:
    page = site.open()
    upload(page, "cells.png")
    page.click("#tab-boxes")
    page.get_by_text("6 nucleus", exact=True).wait_for()
    boxes: dict[str, list[float]] = {}
    for kind in ("coco", "geojson", "csv", "overlay"):
        with page.expect_download() as started:
            page.click(f"[data-kind={kind}]")
        started.value.save_as(tmp_path / kind)
    first = json.loads((tmp_path / "coco").read_text())["annotations"][0]
    x, y, width, height = first["bbox"]
    boxes["coco"] = [x, y, x + width, y + height]
    feature = json.loads((tmp_path / "geojson").read_text())["features"][0]
    boxes["geojson"] = [
        *feature["geometry"]["coordinates"][0][0],
        *feature["geometry"]["coordinates"][0][2],
    ]
    row = next(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    boxes["csv"] = [float(row[key]) for key in ("box_x0", "box_y0", "box_x1", "box_y1")]
    scene = site.pool.scene(96, 64)
    assert list(boxes.values()) == [list(scene.segments[0].box)] * 3
    with Image.open(tmp_path / "overlay") as image:
        assert image.size == (96, 64)


def normal(geometry: dict[str, Any]) -> list[list[list[tuple[int, int]]]]:
    """Order parts and rings, and let each ring start at its least corner."""
    one = geometry["type"] == "Polygon"
    parts = [geometry["coordinates"]] if one else geometry["coordinates"]
    ordered: list[list[list[tuple[int, int]]]] = []
    for outer, *holes in parts:
        rings = [[(x, y) for x, y in ring[1:]] for ring in (outer, *holes)]
        turned = [ring[(at := ring.index(min(ring))) :] + ring[:at] for ring in rings]
        ordered.append([turned[0], *sorted(turned[1:])])
    return sorted(ordered)
