"""How time and peak memory grow with the image, with the queries kept, and with images in a call.

    python benchmarks/scaling.py                          # PyTorch alone
    python benchmarks/scaling.py --runtimes torch openvino --theirs

DETR R101 with masks and random weights; every point is a process of its own. On every image each
side keeps as many queries as are asked for, by a threshold set for it: an image of another size has
other scores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from harness.machine import describe_machine
from harness.ours import Segmenting
from harness.process import Job, Side, SideFailed
from harness.rows import Scale
from harness.run import Workshop
from harness.theirs import TheirSegmenting
from panodetr.files import atomic_write, write_json
from panodetr.images.preprocess import Preprocessing
from panodetr.runtimes.base import RUNTIMES, RuntimeName

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
AS_IT_IS = Preprocessing(short_side=None, long_side=None)
USUAL = (800, 1066)
SMALLER = (480, 640)  # of which several fit into a batch
SIZES = ((240, 320), (480, 640), (600, 800), (800, 1066), (960, 1280), (1200, 1600))
THEIR_SIZES = SIZES[:4]  # a larger one would not fit into 23 GiB
KEPT = (0, 5, 15, 30, 60, 100)
IMAGES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Place:
    """Where a point lies in the plot.

    Attributes: `line` is whose it is; `kept`, queries an image; the others as in the plot.
    """

    line: str
    panel: str
    x: float
    kept: int


@dataclass(frozen=True)
class Point(Place):
    """One measurement."""

    seconds: float
    peak_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtimes", nargs="+", default=["torch"], choices=RUNTIMES)
    parser.add_argument("--theirs", action="store_true", help="transformers, by image size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT, help="where scaling.json and .png go")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), Scale(rule=AS_IT_IS), options.threads)
        jobs = make_jobs(workshop, options.runtimes, options.theirs)
        points = measure(jobs, options.threads, options.repeats)
    report = {
        "machine": describe_machine(),
        "threads": options.threads,
        "repeats": options.repeats,
        "runtimes": options.runtimes,
        "theirs": options.theirs,
        "points": [asdict(point) for point in points],
    }
    write_json(options.out / "scaling.json", report)
    with atomic_write(options.out / "scaling.png") as temporary:
        draw(points).savefig(temporary, dpi=120)
    return 0 if len(points) == len(jobs) else 1


def measure(jobs: list[tuple[Place, Job]], threads: int, repeats: int) -> list[Point]:
    """Time each job in a process of its own; one that fails is told, and left out."""
    points: list[Point] = []
    for place, job in jobs:
        name = f"{place.line}, {place.panel} {place.x:g}"
        try:
            with Side(job, threads) as side:
                side.run()
                seconds = statistics.median(side.run()["whole"] for _ in range(repeats))
                point = Point(**asdict(place), seconds=seconds, peak_bytes=side.peak())
        except SideFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        points.append(point)
        gib = point.peak_bytes / 2**30
        print(f"{name}: {point.seconds:.2f} s, {gib:.2f} GiB", flush=True)
    return points


def make_jobs(
    workshop: Workshop, runtimes: list[RuntimeName], theirs: bool
) -> list[tuple[Place, Job]]:
    """Say what is measured at every place."""
    kept = workshop.scale.kept
    by_size = f"megapixels, {kept} kept"
    found: list[tuple[Place, Job]] = []
    for runtime in runtimes:
        ours = partial(Segmenting, workshop.segmenter.folder, runtime=runtime)
        line = f"panodetr, {runtime}"
        for size in SIZES:
            job = partial(ours, workshop.image(size), kept=kept)
            found.append((Place(line, by_size, _megapixels(size), kept), job))
        for count in KEPT:
            job = partial(ours, workshop.image(USUAL), kept=count)
            found.append((Place(line, "queries kept, 800 by 1066", count, count), job))
        for count in IMAGES:
            job = partial(ours, workshop.image(SMALLER), kept=kept, images=count)
            found.append((Place(line, "images in a call, 480 by 640", count, kept), job))
    for size in THEIR_SIZES if theirs else ():
        job = partial(TheirSegmenting, workshop.segmenter, workshop.image(size), kept)
        found.append((Place("transformers", by_size, _megapixels(size), kept), job))
    return found


def _megapixels(size: tuple[int, int]) -> float:
    return size[0] * size[1] / 1e6


def draw(points: list[Point]) -> Figure:
    """Times above, memory below, a column for each thing that grows."""
    panels = list(dict.fromkeys(point.panel for point in points))
    picture = Figure(figsize=(4 * len(panels), 6), layout="constrained")
    axes = picture.subplots(2, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        own = [point for point in points if point.panel == panel]
        for line in dict.fromkeys(point.line for point in own):
            chosen = [point for point in own if point.line == line]
            x = [point.x for point in chosen]
            axes[0, column].plot(x, [p.seconds for p in chosen], "o-", label=line)
            axes[1, column].plot(x, [p.peak_bytes / 2**30 for p in chosen], "o-", label=line)
        axes[0, column].set(ylabel="seconds")
        axes[1, column].set(ylabel="peak memory, GiB", xlabel=panel)
        for axis in axes[:, column]:
            axis.set(xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0, column].legend(fontsize="small")
    return picture


if __name__ == "__main__":
    sys.exit(main())
