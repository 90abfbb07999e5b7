"""The service's page in a browser; a made scene stands in for what a model finds."""

from __future__ import annotations

import asyncio
import io
import math
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import uvicorn
from PIL import Image

from panodetr.images.read import read_image
from panodetr.results.panoptic import describe_segments
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Category, Detection
from panodetr.serve.api import ModelInfo
from panodetr.serve.app import Service
from panodetr.serve.model_process import write_answer, write_file
from panodetr.serve.options import ServiceOptions
from panodetr.serve.pool import Metrics

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, Playwright

    from panodetr.serve.api import Given, RequestError, Work
    from panodetr.serve.pool import Pool

CATEGORIES = (
    Category(index=0, id=7, name="nucleus", is_thing=True, color=(220, 20, 60)),
    Category(index=1, id=9, name="background", is_thing=False, color=(70, 70, 70)),
)

SIZE = (96, 64)
"""Width and height of the images that `upload` gives: six things and a background are in each."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Names of the browser, where it is installed."""

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


def find_chromium() -> str | None:
    """Give the browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def launch(playwright: Playwright) -> Browser:
    """Start Chromium without a window."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=list(_FLAGS))


def draw_scene(width: int, height: int, things: int) -> PanopticResult:
    """Put ellipses on a grid, with falling scores from 0.99 to 0.5, before a background."""
    columns = math.ceil(math.sqrt(things * width / height))
    rows = math.ceil(things / columns)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    column, row = x * columns // width, y * rows // height
    number = (row * columns + column).astype(np.int32) + 1
    across = (x + 0.5) * columns / width - column - 0.5
    down = (y + 0.5) * rows / height - row - 0.5
    inside = (across**2 + down**2 < 0.16) & (number <= things)
    shades = np.where(inside, 200 - 40 * np.hypot(across, down), 40).astype(np.uint8)
    return scene_of(np.where(inside, number, things + 1), shades)


def scene_of(ids: NDArray[np.int32], shades: NDArray[np.uint8]) -> PanopticResult:
    """Make things of ids (H, W) from 1, and background of the highest, over grey shades (H, W)."""
    things = int(ids.max()) - 1
    categories = [CATEGORIES[0]] * things + [CATEGORIES[1]]
    scores = [*np.linspace(0.99, 0.5, things).tolist(), 0.9]
    return PanopticResult(
        segments=tuple(describe_segments(ids, categories, scores)),
        segment_ids=ids,
        image=np.repeat(shades[..., None], 3, axis=2),
        source=None,
        categories=CATEGORIES,
    )


def file_of(scene: PanopticResult, kind: str = "PNG") -> bytes:
    """Write a scene's image as a file."""
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, kind)
    return file.getvalue()


class ScenePool:
    """Stands in for the model processes: finds scenes in images by their sizes.

    Attributes:
        works: what was asked for, in its order.
        refusals: errors that the next requests get instead of an answer.
        gate: while it is clear, answers wait.
    """

    ready = True

    def __init__(self, *scenes: PanopticResult, things: int = 6) -> None:
        """Know some scenes, and draw others with some things where they are asked for."""
        self.works: list[Work] = []
        self.refusals: list[RequestError] = []
        self.gate = threading.Event()
        self.gate.set()
        self.models = [
            ModelInfo(name="scene", task="panoptic", categories=list(CATEGORIES), threshold=0.5),
            ModelInfo(name="boxes", task="detection", categories=list(CATEGORIES), threshold=0.5),
        ]
        self._things = things
        self._scenes = {scene.segment_ids.shape: scene for scene in scenes}

    async def answer(self, work: Work, given: Given, pixels: int) -> bytes:
        """Answer as a pool does."""
        if self.refusals:
            raise self.refusals.pop(0)
        self.works.append(work)
        return await asyncio.to_thread(self._answer, work, given)

    def scene(self, width: int, height: int) -> PanopticResult:
        """Give what is found in images of a size."""
        if (height, width) not in self._scenes:
            self._scenes[height, width] = draw_scene(width, height, self._things)
        return self._scenes[height, width]

    def _answer(self, work: Work, given: Given) -> bytes:
        self.gate.wait()
        if work.action == "write":
            return write_file(given, read_image(given.image), CATEGORIES, work.form)
        scene = self.scene(*Image.open(io.BytesIO(given.image)).size)
        if work.action == "segment":
            return write_answer(scene, work)
        found = [
            Detection(label=s.label, category_id=s.category_id, score=s.score, box=s.box)
            for s in scene.segments
            if s.is_thing and s.score >= (0.5 if work.threshold is None else work.threshold)
        ]
        objects = DetectionResult(
            detections=tuple(found), image=scene.image, source=None, categories=CATEGORIES
        )
        return write_answer(objects, work)


@contextmanager
def serve_page(pool: ScenePool, api_key: str | None = None) -> Generator[str]:
    """Serve the page and the interface on a free port, and give the address."""
    app = Service(ServiceOptions(), api_key, cast("Pool", pool), Metrics()).app()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass(kw_only=True)
class Site:
    """A service with its page.

    Attributes:
        address: of the service.
        pool: what stands in for the model processes.
        browser: Chromium.
        faults: errors of scripts, violations of the policy, and requests that went elsewhere.
    """

    address: str
    pool: ScenePool
    browser: Any
    faults: list[str] = field(default_factory=list[str])

    def open(self, **options: Any) -> Any:
        """Open the page in a window of its own and wait until it knows the models."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", self._fail)
        page.on("console", self._note)
        page.on("request", self._check)
        page.goto(self.address)
        page.wait_for_selector("#samples img, #key:not([hidden])")
        return page

    def _fail(self, error: object) -> None:
        self.faults.append(str(error))

    def _note(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.faults.append(message.text)

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:")):
            self.faults.append(f"asked for {request.url}")


def upload(page: Any, *names: str, count: int = 7) -> None:
    """Choose images of `SIZE`, and wait until so many segments of the first are listed."""
    buffer = file_of(draw_scene(*SIZE, 6))
    files = [{"name": name, "mimeType": "image/png", "buffer": buffer} for name in names]
    page.set_input_files("#file", files)
    page.wait_for_selector(f"#segments li:nth-child({count})")
