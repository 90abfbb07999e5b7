"""Whether the recipe for small objects needs fewer steps than the paper's: box AP over steps.

    python benchmarks/fewer_steps.py --folder FOLDER       # goes on where it was stopped
    python benchmarks/fewer_steps.py --folder FOLDER --steps 6000

A stand-in for COCO that two cores can learn: made-up images of 128 by 128 pixels with 1 to 8 discs,
rings, squares and triangles, 12 to 48 pixels large, some before others, on noise; 800 to learn from
and 100 to validate with. Both sides train the same small DETR without masks from random weights, on
batches of 8. The paper's side has its losses, its rate of 1e-4 for everything (there is no
pretrained backbone to be learned more slowly) and a tenth of it after two thirds of the steps. The
other side has what the recipe `nuclei` has: queries that begin on a grid, a loss of the encoder's
tokens, and a rate of 4e-4 that falls to zero; conditional queries; and a third of the steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from harness.machine import describe_machine
from panodetr.files import write_json

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SIDE = 128
NAMES = ("disc", "ring", "square", "triangle")
COUNTS = {"train": 800, "val": 100}
VISIBLE = 0.3
"""Of an object's pixels; what is hidden more than that is taken out again."""

COMMON = (
    "spec.architecture.masks=false", "spec.architecture.num_queries=20",
    "spec.preprocessing.tile=128", "spec.preprocessing.tile_overlap=0",
    "spec.preprocessing.enlarge=1", "augmentation.size=128", "augmentation.least_scale=1",
    "augmentation.most_scale=1", "augmentation.color=0", "sampling=epochs", "mask_start=0",
    "attention_weight=0", "criterion.no_object=0.1",
)  # fmt: skip
PAPER = (
    "grid_queries=false", "token_weight=0", "learning_rate=1e-4", "backbone_learning_rate=1e-4",
    "warmup=0", "decay=0",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the images and the runs")
    parser.add_argument("--steps", type=int, default=3000, help="of the paper's side")
    parser.add_argument("--out", type=Path, default=OUT, help="where fewer-steps.json and .png go")
    options = parser.parse_args()
    data = options.folder / "data"
    if not data.exists():
        make_data(data)
    steps, third = options.steps, options.steps // 3
    sides = {
        "for small objects": (
            third,
            ("spec.architecture.conditional=true", "warmup=100", f"decay={third // 3}"),
        ),
        "the paper's": (steps, (*PAPER, f"drop={steps * 2 // 3}")),
    }
    curves = {name: train(data, options.folder / name, *side) for name, side in sides.items()}
    report = {"machine": describe_machine(), "sides": curves}
    write_json(options.out / "fewer-steps.json", report)
    draw(curves).savefig(options.out / "fewer-steps.png", dpi=100)
    for name, points in curves.items():
        print(f"{name}: box AP {points[-1]['AP']:.3f} after {points[-1]['step']} steps")


def make_data(folder: Path) -> None:
    """Draw the images, and write them as COCO does."""
    rng = np.random.default_rng(0)
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    for split, count in COUNTS.items():
        (folder / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            name = f"{number:04}.png"
            picture, found = draw_image(rng)
            picture.save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            for category, (x, y, width, height) in found:
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": category,
                    "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
                })  # fmt: skip
        document = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / f"instances_{split}.json", document)


def draw_image(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """Draw one image; give it with the class and the box (x, y, width, height) of each object."""
    pixels = rng.normal(rng.integers(60, 200), 25, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    owner = np.zeros((SIDE, SIDE), np.int64)  # which object is seen
    shapes: list[tuple[int, NDArray[np.bool_]]] = []
    for number in range(1, rng.integers(1, 9) + 1):
        category = int(rng.integers(len(NAMES)))
        mask = shape(NAMES[category], rng)
        after = np.where(mask, number, owner)
        seen = np.bincount(after.ravel(), minlength=number + 1)[1:]
        drawn = [np.count_nonzero(each) for _, each in shapes] + [np.count_nonzero(mask)]
        if (seen[: len(drawn)] < VISIBLE * np.array(drawn)).any():
            continue
        shapes.append((category + 1, mask))
        owner = np.where(mask, len(shapes), owner)
        pixels[mask] = (rng.integers(0, 256, 3) + rng.normal(0, 15, (mask.sum(), 3))).clip(0, 255)
    boxes = [(category, box_of(owner == n)) for n, (category, _) in enumerate(shapes, start=1)]
    return Image.fromarray(pixels), boxes


def shape(name: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one object somewhere in an image, all of it within."""
    size = int(rng.integers(12, 49))
    x, y = (int(rng.integers(0, SIDE - size)) for _ in range(2))
    box = (x, y, x + size, y + size)
    canvas = Image.new("1", (SIDE, SIDE))
    pen = ImageDraw.Draw(canvas)
    match name:
        case "disc":
            pen.ellipse(box, fill=1)
        case "ring":
            pen.ellipse(box, outline=1, width=max(2, size // 5))
        case "square":
            pen.rectangle(box, fill=1)
        case _:
            pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=1)
    return np.asarray(canvas)


def box_of(mask: NDArray[np.bool_]) -> list[int]:
    """Give a mask's box: x, y, width, height."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


def train(data: Path, out: Path, steps: int, changes: tuple[str, ...]) -> list[dict[str, float]]:
    """Train one side, or what is left of it; give its box AP by steps."""
    settings = (*COMMON, *changes, f"steps={steps}", f"validate_every={steps // 6}")
    command = [sys.executable, "-m", "panodetr", "train"]
    if out.exists():
        command += ["--resume", "--out", str(out)]
    else:
        command += ["nuclei", "--data", str(data), "--out", str(out)]
        command += [word for setting in settings for word in ("--set", setting)]
    subprocess.run(command, check=True)
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {"step": line["step"], "AP": line["validation"]["boxes_ap"]}
        for line in logged
        if "validation" in line
    ]


def draw(curves: dict[str, list[dict[str, float]]]) -> Figure:
    """Draw AP over steps."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([p["step"] for p in points], [p["AP"] for p in points], "o-", label=name)
    axes.set(xlabel="steps of 8 images", ylabel="box AP on 100 images", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(title="recipe")
    return figure


if __name__ == "__main__":
    main()
