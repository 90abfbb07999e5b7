"""Time and memory of large images with many objects, by what takes them.

    python benchmarks/large.py --data ../shared/data/nuclei
    python benchmarks/large.py --data ../shared/data/nuclei --whole 2048

The first makes images of several sizes from the fullest parts of nuclei/val, and writes
`objects.json` and `objects.png`; the second takes the largest images of it side by side. Every
image is segmented in a process of its own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import panodetr
from harness.ours import Watched
from panodetr.files import write_json

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SIDES = (512, 1024, 1448, 2048)
CELL = 256


def mosaic(data: Path, side: int, *, largest: bool) -> tuple[NDArray[np.uint8], int]:
    """An image from the fullest or the largest ones of val, again and again; and its objects."""
    truth = json.loads((data / "panoptic_val.json").read_text())
    things = {c["id"] for c in truth["categories"] if c["isthing"]}
    ids = {image["id"]: image for image in truth["images"]}
    found: list[tuple[float, str, int, int]] = []
    for one in truth["annotations"]:
        image = ids[one["image_id"]]
        count = sum(s["category_id"] in things for s in one["segments_info"])
        cell = min(image["height"], image["width"])
        area = image["height"] * image["width"]
        found.append((cell if largest else count / area, image["file_name"], count, area))
    found.sort(reverse=True)
    cell = CELL if not largest else int(found[0][0])
    cells = -(-side // cell)
    if largest:
        found = [one for one in found if one[0] == cell]
    whole = np.zeros((cells * cell, cells * cell, 3), np.uint8)
    objects = 0.0
    for number, (row, column) in enumerate(np.ndindex(cells, cells)):
        _, name, count, area = found[number % min(len(found), 16)]
        pixels = np.asarray(Image.open(data / "val" / name).convert("RGB"))[:cell, :cell]
        whole[row * cell :, column * cell :][:cell, :cell] = pixels
        objects += count * cell * cell / area
    return whole[:side, :side], round(objects * side * side / whole[..., 0].size)


def measure(data: Path, side: int, model: str, *, largest: bool) -> dict[str, float]:
    """Segment one image; give seconds, objects and peak memory."""
    predictor = panodetr.load(model, device="cpu")
    watched = Watched(predictor.runtime)
    if not largest:  # else as users run it
        predictor.runtime = watched
    image, objects = mosaic(data, side, largest=largest)
    predictor.segment(image[:128, :128])  # warms up
    watched.intervals.clear()
    seconds: dict[str, float] = {"side": side, "objects there": objects}

    def step(name: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = act()
        seconds[name] = round(time.perf_counter() - began, 3)
        return done

    busy = time.process_time()
    result = step("segment", lambda: predictor.segment(image))
    seconds["CPU"] = round(time.process_time() - busy, 3)
    seconds["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    step("drawing", result.draw)
    step("JSON", lambda: json.dumps(result.to_dict()))
    seconds["objects"] = sum(segment.is_thing for segment in result.segments)
    if not largest:
        seconds["network"] = round(sum(end - start for start, end in watched.intervals), 3)
        seconds["merging"] = round(seconds["segment"] - seconds["network"], 3)
        beside = seconds["merging"] + seconds["drawing"] + seconds["JSON"]
        seconds["beside the network"] = round(beside / seconds["network"], 3)
    return seconds


def plot(rows: Sequence[dict[str, float]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    objects = [row["objects"] for row in rows]
    for name in ("network", "merging", "drawing", "JSON"):
        left.plot(objects, [row[name] for row in rows], marker="o", label=name)
    left.set(xlabel="objects found", ylabel="seconds", yscale="log")
    left.legend()
    right.plot(objects, [row["MiB"] for row in rows], marker="o")
    right.set(xlabel="objects found", ylabel="peak memory, MiB", ylim=(0, None))
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--whole", type=int, help="side of one image of the largest ones of val")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="others are kept")
    parser.add_argument("--one", type=int, help="side of one image; measured in this process")
    options = parser.parse_args()
    if options.one or options.whole:
        side, largest = options.one or options.whole, options.one is None
        print(json.dumps(measure(options.data, side, options.model, largest=largest)))
        return
    file = OUT / "objects.json"
    rows: list[dict[str, float]] = json.loads(file.read_text()) if file.exists() else []
    rows = [row for row in rows if row["side"] not in options.sides]
    for side in options.sides:
        command = [sys.executable, __file__, "--data", options.data, "--model", options.model]
        done = subprocess.run(
            [*command, "--one", str(side)], check=True, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout, end="", flush=True)
        rows = sorted([*rows, json.loads(done.stdout)], key=lambda row: row["side"])
        write_json(file, rows)
        plot(rows, OUT / "objects.png")


if __name__ == "__main__":
    main()
