"""The page in headless Chromium, where there is one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.page import ScenePool, Site, find_chromium, launch, serve_page


@pytest.fixture(scope="session")
def browser() -> Generator[Any]:
    """Headless Chromium; tests of the page skip where there is none."""
    if find_chromium() is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def site(browser: Any) -> Generator[Site]:
    """A service whose page runs without any fault."""
    pool = ScenePool()
    with serve_page(pool) as address:
        site = Site(address=address, pool=pool, browser=browser)
        yield site
        pool.gate.set()
        for context in browser.contexts:
            context.close()
    assert site.faults == []


@pytest.fixture
def page(site: Site) -> Any:
    """The page, before its first image."""
    return site.open()
