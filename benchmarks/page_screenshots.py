"""Take the documentation's screenshots of the service's page: docs/images/page-*.png.

    python benchmarks/page_screenshots.py

The bundled model finds the segments; headless Chromium draws the page.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import ViewportSize, sync_playwright

from harness.page import launch
from panodetr.files import write_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "src" / "panodetr" / "assets" / "samples"
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Start a service and take the screenshots."""
    command = [sys.executable, "-m", "panodetr", "serve", "--port", "0", "--deadline", "900"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        address = service.stdout.readline().split()[-1]
        with sync_playwright() as playwright:
            browser = launch(playwright)
            window = ViewportSize(width=1040, height=660)
            page = browser.new_page(viewport=window)
            _open(page, address)
            _shoot(page, "start")
            _show(page, "fluorescence-large.png")
            _point(page, 0.363, 0.355)
            _shoot(page, "segments")
            page = browser.new_page(viewport=window, color_scheme="dark")
            _open(page, address)
            _show(page, "stained-tissue.png", "fluorescence.png")
            page.click("#tab-boxes")
            page.wait_for_selector("#segments li", timeout=900_000)
            _shoot(page, "dark")
            phone = ViewportSize(width=390, height=780)
            page = browser.new_page(viewport=phone, device_scale_factor=1.5)
            _open(page, address)
            _show(page, "stained-tissue.png")
            _shoot(page, "phone")
            browser.close()
        service.terminate()


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#samples img")


def _show(page: Page, *names: str) -> None:
    page.set_input_files("#file", [SAMPLES / name for name in names])
    page.wait_for_selector("#segments li", timeout=900_000)


def _point(page: Page, across: float, down: float) -> None:
    """Move the pointer to a place of the view, each from 0 to 1."""
    box = page.locator("#view").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])


def _shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(500)
    write_bytes(IMAGES / f"page-{name}.png", page.screenshot())


if __name__ == "__main__":
    main()
