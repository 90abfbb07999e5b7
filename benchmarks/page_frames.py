"""How smoothly the service's page zooms and pans: frames of headless Chromium, rendered by the CPU.

    python benchmarks/page_frames.py

An image of 12 megapixels with 500 segments and a background. A frame's time is what passes between
two of the browser's callbacks before painting, while the wheel turns, or the pointer drags or
hovers. The exit code is 1 if a median is above 50 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from playwright.sync_api import FilePayload, ViewportSize, sync_playwright

from harness.machine import describe_machine
from harness.page import ScenePool, draw_scene, file_of, launch, serve_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

LIMIT = 50.0  # ms

_RECORD = """() => {
    const times = (window.frames_ = []);
    const note = (now) => times.push(now) && requestAnimationFrame(note);
    requestAnimationFrame(note);
}"""


def main() -> int:
    """Measure, and print one line a motion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("W", "H"))
    parser.add_argument("--segments", type=int, default=500)
    parser.add_argument("--window", type=int, nargs=2, default=(1280, 800), metavar=("W", "H"))
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    width, height = options.size
    scene = draw_scene(width, height, options.segments)
    with serve_page(ScenePool(scene)) as address, sync_playwright() as playwright:
        browser = launch(playwright)
        window = ViewportSize(width=options.window[0], height=options.window[1])
        page = browser.new_page(viewport=window)
        page.goto(address)
        page.set_input_files(
            "#file",
            FilePayload(name="scene.jpg", mimeType="image/jpeg", buffer=file_of(scene, "JPEG")),
        )
        page.wait_for_selector("#segments li", timeout=120_000)
        print(f"{width}x{height} pixels, {options.segments} segments, window {window}")
        print(describe_machine())
        medians = [
            _measure(page, motion, options.seconds) for motion in (_zoom, _pan, _hover, _slide)
        ]
        browser.close()
    return int(max(medians) > LIMIT)


def _measure(page: Page, motion: Callable[[Page, int], None], seconds: float) -> float:
    """Repeat a motion for some seconds, and give the median frame in ms."""
    page.evaluate(_RECORD)
    begun, step = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        motion(page, step)
        step += 1
    page.mouse.up()
    times: list[float] = page.evaluate("() => window.frames_.splice(0)")
    frames = sorted(later - sooner for sooner, later in pairwise(times))
    median, late = statistics.median(frames), frames[int(0.95 * len(frames))]
    print(
        f"{motion.__name__.strip('_'):6} {step:4} steps, {len(frames):4} frames, "
        f"{median:5.1f} ms in the median, 95 % {late:5.1f} ms"
    )
    return median


def _zoom(page: Page, step: int) -> None:
    if step == 0:
        _center(page)
    page.mouse.wheel(0, -60 if step % 80 < 40 else 60)


def _pan(page: Page, step: int) -> None:
    x, y = _center(page) if step == 0 else _middle(page)
    if step == 0:
        page.mouse.down()
    page.mouse.move(x + 150 * (step % 20 - 10) / 10, y + 100 * (step % 14 - 7) / 7)


def _hover(page: Page, step: int) -> None:
    x, y = _middle(page)
    page.mouse.move(x + 200 * (step % 20 - 10) / 10, y + 150 * (step % 14 - 7) / 7)


def _slide(page: Page, step: int) -> None:
    if step == 0:
        page.focus("#least")
    page.keyboard.press("ArrowRight" if step % 80 < 40 else "ArrowLeft")


def _center(page: Page) -> tuple[float, float]:
    x, y = _middle(page)
    page.mouse.move(x, y)
    return x, y


def _middle(page: Page) -> tuple[float, float]:
    box = page.locator("#view").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


if __name__ == "__main__":
    sys.exit(main())
