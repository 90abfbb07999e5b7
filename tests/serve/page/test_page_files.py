"""The files that the page gives: they hold what is shown, to the pixel."""

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
from panodetr.results.id_map import id_map_png
from panodetr.results.interchange import CocoInstances, label_tiff, to_csv, to_geojson
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
    return scene_of(ids, rng.integers(0, 256, ids.shape, np.uint8))


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
    return lambda kind: saved(page, kind, tmp_path)


def saved(page: Any, kind: str, folder: Path) -> bytes:
    with page.expect_download() as started:
        page.click(f"[data-kind={kind}]")
    started.value.save_as(folder / "file")
    return (folder / "file").read_bytes()


@pytest.fixture
def shown(scene: PanopticResult) -> list[PanopticResult]:
    """What the page shows of its images, as Python has it."""
    kept = replace(
        scene,
        segments=tuple(one for one in scene.segments if one.id != HIDDEN),
        segment_ids=np.where(scene.segment_ids == HIDDEN, 0, scene.segment_ids),
    )
    return [replace(kept, source=Path(name)) for name in ("cells.png", 'more, "cells".png')]


def test_files_are_those_of_the_command_line(
    download: Download, shown: list[PanopticResult]
) -> None:
    assert download("id_map") == id_map_png(shown[0].segment_ids)
    assert download("labels") == label_tiff(shown[0])
    assert download("csv").decode() == to_csv(measure(shown[0]))
    features = json.loads(download("geojson"))["features"]
    theirs: Any = to_geojson(shown[0])["features"]
    assert [one | {"id": ""} for one in features] == [
        one | {"id": ""} for one in json.loads(json.dumps(theirs))
    ]
    expected = CocoInstances()
    expected.add(shown[0])
    assert json.loads(download("coco")) == json.loads(json.dumps(expected.document()))


def test_several_images_make_one_file(download: Download, shown: list[PanopticResult]) -> None:
    expected = CocoInstances()
    for result in shown:
        expected.add(result)
    assert json.loads(download("all-coco")) == json.loads(json.dumps(expected.document()))
    rows = [row for result in shown for row in measure(result)]
    assert download("all-csv").decode() == to_csv(rows)


def test_the_overlay_colours_what_is_shown(download: Download, shown: list[PanopticResult]) -> None:
    image = np.asarray(Image.open(io.BytesIO(download("overlay"))))
    assert image.shape == (*shown[0].segment_ids.shape, 4)
    same = (image[..., :3] == shown[0].image).all(axis=-1)
    assert not same[7, 15]  # inside segment 2
    assert same[shown[0].segment_ids == 0].any()  # of segment 3, away from outlines
    assert (image[..., 3] == 255).all()


def test_boxes_have_files_too(site: Site, tmp_path: Path) -> None:
    page = site.open()
    upload(page, "cells.png")
    page.click("#tab-boxes")
    page.get_by_text("6 nucleus", exact=True).wait_for()
    page.uncheck("#segments li[data-id='1'] input")
    coco = json.loads(saved(page, "coco", tmp_path))["annotations"][0]
    x, y, width, height = coco["bbox"]
    (ring,) = json.loads(saved(page, "geojson", tmp_path))["features"][0]["geometry"]["coordinates"]
    row = next(csv.DictReader(io.StringIO(saved(page, "csv", tmp_path).decode())))
    table = [float(row[key]) for key in ("box_x0", "box_y0", "box_x1", "box_y1")]
    box = list(site.pool.scene(96, 64).segments[1].box)
    assert [[x, y, x + width, y + height], [*ring[0], *ring[2]], table] == [box] * 3
    assert row["id"] == "2"
    overlay = saved(page, "overlay", tmp_path)
    assert Image.open(io.BytesIO(overlay)).size == (96, 64)
