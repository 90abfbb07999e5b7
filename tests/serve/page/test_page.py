"""The page at /: what a user does, and what is shown of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.page import SIZE, ScenePool, Site, draw_scene, file_of, serve_page, upload
from panodetr.serve.api import overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.browser

FIRST = (16, 16)
"""A pixel of segment 1, which has the best score."""
LAST = (80, 48)
"""A pixel of segment 6, whose score is 0.5."""

READ = """async ([canvas, x, y]) => {
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return [...document.querySelector(canvas).getContext("2d").getImageData(x, y, 1, 1).data];
}"""
"""A canvas's red, green, blue and opacity at a place, after the next frame."""


def place(page: Any, pixel: tuple[int, int]) -> tuple[float, float]:
    """Where on the screen a pixel of the image is, while the image fits into the view."""
    box = page.locator("#view").bounding_box()
    scale = min(box["width"] / SIZE[0], box["height"] / SIZE[1]) * 0.94
    x = box["x"] + box["width"] / 2 + (pixel[0] + 0.5 - SIZE[0] / 2) * scale
    return x, box["y"] + box["height"] / 2 + (pixel[1] + 0.5 - SIZE[1] / 2) * scale


def color(page: Any, pixel: tuple[int, int]) -> list[int]:
    """The overlay's colour at a pixel of the image: red, green, blue, opacity."""
    x, y = place(page, pixel)
    box = page.locator("#view").bounding_box()
    return page.evaluate(READ, ["#overlay", x - box["x"], y - box["y"]])


def data_transfer(page: Any) -> Any:
    return page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
            return data;
        }""",
        list(file_of(draw_scene(*SIZE, 6))),
    )


def rows(page: Any) -> list[str]:
    return page.locator("#segments .number").all_text_contents()


@pytest.mark.parametrize("way", ["drop", "paste", "camera"])
def test_images_come_by_drop_paste_and_camera(page: Any, way: str) -> None:
    if way == "drop":
        page.dispatch_event("body", "drop", {"dataTransfer": data_transfer(page)})
    elif way == "paste":
        page.evaluate(
            "(data) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))",
            data_transfer(page),
        )
    else:
        page.click("#welcome [data-action=camera]")
        page.click("[data-action=take]")
        assert not page.locator("dialog").is_visible()
    page.wait_for_selector("#segments li")


def test_a_sample_is_segmented_by_a_click_and_progress_is_shown(site: Site, page: Any) -> None:
    site.pool.gate.clear()
    page.click("#samples button >> nth=0")
    page.get_by_text("Finding segments").wait_for()
    assert page.locator("#progress").is_visible()
    site.pool.gate.set()
    page.wait_for_selector("#segments li")
    assert not page.locator("#progress").is_visible()
    assert page.inner_text("#status") == "6 nucleus, background"
    assert [(work.model, work.task) for work in site.pool.works] == [("scene", "panoptic")]


def test_segments_have_colours_and_light_up_under_the_pointer(site: Site, page: Any) -> None:
    upload(page, "cells.png")
    before = color(page, FIRST)
    assert before == pytest.approx([242, 22, 66, 102], abs=3)  # the category's, vivid
    assert color(page, LAST)[:3] != before[:3]
    page.mouse.move(*place(page, FIRST))
    area = site.pool.scene(*SIZE).segments[0].area
    assert page.inner_text("#tip") == f"nucleus 99 % · {area} px"
    assert page.text_content("#segments .lit .number") == "1"
    assert color(page, FIRST)[3] > before[3]
    page.mouse.move(5, 5)
    assert not page.locator("#tip").is_visible()
    assert color(page, FIRST) == before


def test_a_tap_lights_one_up_on_a_touch_screen(site: Site) -> None:
    page = site.open(has_touch=True)
    upload(page, "cells.png")
    page.touchscreen.tap(*place(page, FIRST))
    assert page.text_content("#segments .lit .number") == "1"
    assert page.locator("#tip").is_visible()


def test_sliders_hide_and_fade_segments_without_a_request(site: Site, page: Any) -> None:
    upload(page, "cells.png")
    for least, shown in ((60, False), (50, True)):
        page.fill("#least", str(least))
        assert (color(page, LAST)[3] > 0) == shown
        assert color(page, FIRST)[3] > 0
        below = page.locator("#segments .below .number").all_text_contents()
        assert below == ([] if shown else ["5", "6"])
    for percent, alpha in ((0, 0), (100, 255)):
        page.fill("#opacity", str(percent))
        assert color(page, FIRST)[3] == alpha
    assert len(site.pool.works) == 1


def test_the_list_is_sorted_filtered_and_switched(page: Any) -> None:
    upload(page, "cells.png")
    assert rows(page) == ["1", "7", "2", "3", "4", "5", "6"]  # 7 is the background, 0.9
    page.select_option("#sort", "area")
    assert rows(page)[0] == "7"
    page.select_option("#sort", "label")
    assert rows(page) == ["7", "1", "2", "3", "4", "5", "6"]
    page.uncheck("#segments li >> nth=1 >> input")
    assert color(page, FIRST)[3] == 0
    page.fill("#filter", "NUC")
    assert rows(page) == ["1", "2", "3", "4", "5", "6"]
    page.click("[data-action=none]")
    assert color(page, LAST)[3] == 0
    assert color(page, (0, 0))[3] > 0  # the background is not in the list
    page.click("[data-action=all]")
    assert color(page, FIRST)[3] > 0
    page.fill("#filter", "horse")
    assert page.inner_text("#nothing") == "Nothing matches."


def test_each_tab_asks_once_and_keeps_what_it_got(site: Site, page: Any) -> None:
    upload(page, "cells.png")
    page.click("#tab-instances")
    page.wait_for_selector("#segments li")
    page.press("[role=tab][aria-selected=true]", "ArrowRight")
    page.get_by_text("6 nucleus", exact=True).wait_for()
    assert page.inner_text("#status") == "6 nucleus"
    assert page.locator("[data-kind=id_map]").is_disabled()
    page.mouse.move(*place(page, FIRST))
    assert page.text_content("#segments .lit .number") == "1"
    page.click("#tab-panoptic")
    assert len(rows(page)) == 7
    asked = [(work.action, work.task) for work in site.pool.works]
    assert asked == [("segment", "panoptic"), ("segment", "instances"), ("detect", "panoptic")]


def test_a_model_without_masks_has_boxes_alone(site: Site, page: Any) -> None:
    upload(page, "cells.png")
    page.select_option("#model", "boxes")
    page.get_by_text("6 nucleus", exact=True).wait_for()
    assert page.locator("#tab-panoptic").is_disabled()
    assert page.get_attribute("#tab-boxes", "aria-selected") == "true"
    assert site.pool.works[-1].model == "boxes"


def test_the_view_zooms_and_moves_by_wheel_drag_buttons_and_keys(page: Any) -> None:
    upload(page, "cells.png")

    def magnification() -> int:
        return int(page.inner_text("#zoom output").removesuffix(" %"))

    fitted, background = magnification(), color(page, (0, 0))
    page.mouse.move(*place(page, FIRST))
    page.mouse.wheel(0, -300)
    page.locator("#zoom output").get_by_text(f"{fitted} %").wait_for(state="detached")
    assert page.text_content("#segments .lit .number") == "1"  # it is still under the pointer
    page.click("[data-action=fit]")
    assert magnification() == fitted
    page.click("[aria-label='Zoom in']")
    page.focus("#view")
    page.keyboard.press("-")
    assert magnification() == pytest.approx(fitted, abs=1)
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    assert magnification() == fitted
    page.keyboard.press("+")
    page.mouse.move(*place(page, FIRST))
    page.mouse.down()
    page.mouse.move(*place(page, LAST), steps=4)
    page.mouse.up()
    assert color(page, LAST) != background
    assert page.locator("#segments .lit").count() <= 1  # dragging is not a tap


def test_several_images_wait_in_a_strip_and_can_be_removed(site: Site, page: Any) -> None:
    upload(page, "a.png", "b.png", "c.png")
    for name in ("c.png", "b.png"):
        page.click(f"[aria-label='{name}']")
        page.wait_for_selector("#segments li:nth-child(7)")
        assert page.get_attribute("#view", "aria-label") == f"Image {name}"
    for name in ("b.png", "c.png", "a.png"):
        page.hover(f"[aria-label='{name}']")
        page.click(f"[aria-label='Remove {name}']")
    assert page.locator("#welcome").is_visible()
    assert len(site.pool.works) == 3


def test_an_image_that_the_browser_cannot_read_is_drawn_by_the_server(
    site: Site, page: Any
) -> None:
    file = file_of(draw_scene(*SIZE, 6), "TIFF")
    page.set_input_files("#file", {"name": "a.tif", "mimeType": "image/tiff", "buffer": file})
    page.wait_for_selector("#segments li")
    x, y = place(page, FIRST)
    box = page.locator("#view").bounding_box()
    shade = page.evaluate(READ, ["#picture", x - box["x"], y - box["y"]])
    assert shade == pytest.approx([199, 199, 199, 255], abs=3)


def test_a_bad_file_is_explained_in_place_and_holds_up_no_other(page: Any) -> None:
    bad = {"name": "notes.png", "mimeType": "image/png", "buffer": b"these are words"}
    page.set_input_files("#file", bad)
    page.wait_for_selector("#problem:not([hidden])")
    assert "not an image" in page.inner_text("#problem")
    upload(page, "cells.png")
    assert not page.locator("#problem").is_visible()
    page.click("[aria-label='notes.png']")
    assert page.locator("#problem").is_visible()
    page.click("[data-action=again]")
    page.wait_for_selector("#problem:not([hidden])")


def test_offline_what_is_there_works_and_the_rest_can_be_tried_again(page: Any) -> None:
    upload(page, "cells.png")
    page.context.set_offline(True)
    page.click("#tab-instances")
    page.wait_for_selector("#problem:not([hidden])")
    assert "panodetr serve" in page.inner_text("#problem")
    page.click("#tab-panoptic")
    assert not page.locator("#problem").is_visible()
    assert color(page, FIRST)[3] > 0
    with page.expect_download():
        page.click("[data-kind=overlay]")
    page.click("[data-kind=csv]")
    page.get_by_text("CSV could not be made").wait_for()
    page.context.set_offline(False)
    page.click("#tab-instances")
    page.click("[data-action=again]")
    page.wait_for_selector("#segments li")


def test_a_busy_server_is_asked_again(site: Site, page: Any) -> None:
    site.pool.refusals.append(overloaded("too many pixels wait", "queue full", 1))
    upload(page, "cells.png")
    assert not page.locator("#problem").is_visible()


def test_two_tabs_do_not_meddle(site: Site, page: Any) -> None:
    other = page.context.new_page()
    other.goto(site.address)
    other.wait_for_selector("#samples img")
    site.pool.gate.clear()
    for tab in (page, other):
        tab.click("#samples button >> nth=0")
    site.pool.gate.set()
    for tab in (page, other):
        tab.wait_for_selector("#segments li")
    assert rows(page) == rows(other)
    page.fill("#least", "60")
    for tab, below in ((page, 2), (other, 0)):
        assert tab.locator("#segments .below").count() == below


def test_a_service_with_a_key_asks_for_it(browser: Any) -> None:
    pool = ScenePool()
    with serve_page(pool, api_key="secret") as address:
        site = Site(address=address, pool=pool, browser=browser)
        page = site.open()
        assert "API key" in page.inner_text("#service-problem")
        page.fill("#key input", "secret")
        page.press("#key input", "Enter")
        page.wait_for_selector("#samples img")
        upload(page, "cells.png")
        page.context.close()
    assert site.faults == []


def test_everything_is_reached_by_the_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")  # the model
    for _ in range(3):
        page.keyboard.press("Tab")  # choose, camera, the first sample
    page.keyboard.press("Enter")
    page.wait_for_selector("#segments li")
    page.focus("#view")
    for _ in range(6):
        page.keyboard.press("+")
    page.focus("#segments input")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#segments .lit .number") == "7"
    page.keyboard.press("Space")
    assert page.locator("#segments input:not(:checked)").count() == 1
    page.keyboard.press("End")
    assert page.text_content("#segments .lit .number") == "6"
    before = page.inner_text("#zoom output")
    page.keyboard.press("Enter")
    assert page.inner_text("#zoom output") != before  # the whole segment is brought into the view
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.kind") == "overlay"


def start_with_nothing(page: Any) -> None:
    assert page.locator("#welcome").is_visible()


def show_segments(page: Any) -> None:
    upload(page, "a.png", "b.png")
    page.focus("#segments input")


def show_a_problem(page: Any) -> None:
    page.set_input_files("#file", {"name": "x", "mimeType": "image/png", "buffer": b"x"})
    page.wait_for_selector("#problem:not([hidden])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("prepare", [start_with_nothing, show_segments, show_a_problem])
def test_nothing_keeps_anyone_out(site: Site, scheme: str, prepare: Callable[[Any], None]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for width in (1280, 390):
        viewport = {"width": width, "height": 800}
        page = site.open(color_scheme=scheme, viewport=viewport, reduced_motion="reduce")
        prepare(page)
        found = axe.run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_zoom_and_pan_stay_below_50_ms_a_frame_at_12_megapixels(browser: Any) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "page_frames.py"
    done = subprocess.run([sys.executable, script, "--seconds", "2"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
