"""What tiles do to a model's figures, on the images that are larger than a tile.

    python benchmarks/tiles.py --model nuclei --data ../shared/data/nuclei --tiles 256 384

One row for the model as it is, one for whole images, and one a size of tile and overlap.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import panodetr
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth, Task
from panodetr.images.preprocess import Preprocessing
from panodetr.predict import Predictor

TASKS: tuple[Task, ...] = ("panoptic", "boxes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 384])
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.125, 0.25, 0.5])
    parser.add_argument("--images", type=int, help="at most so many")
    options = parser.parse_args()

    model = panodetr.load(options.model)
    truth = GroundTruth.open(options.data, options.split)
    least = min(options.tiles)
    large = [image for image in truth.images if max(image.size) > least]
    truth = replace(truth, images=tuple(large[: options.images]))
    print(f"{len(truth.images)} images of {options.split} larger than {least} pixels")
    own = model.spec.preprocessing
    rules = {
        f"own (tile {own.tile}, overlap {own.tile_overlap})": own,
        "whole images": replace(own, tile=None, tile_overlap=0),
    }
    for tile in options.tiles:
        for part in options.overlaps:
            overlap = round(part * tile)
            rules[f"tile {tile}, overlap {overlap}"] = replace(own, tile=tile, tile_overlap=overlap)
    print(f"{'':32}    PQ  PQ things  PQ stuff    F1  box AP  s an image")
    for name, rule in rules.items():
        print(f"{name:32}{_row(model, rule, truth)}", flush=True)


def _row(model: Predictor, rule: Preprocessing, truth: GroundTruth) -> str:
    tiled = model.with_rule(rule)
    counts = evaluate(tiled, truth, TASKS)
    figures = counts.compute()
    assert figures.panoptic is not None
    assert figures.boxes is not None
    found = figures.panoptic
    values = [found.all.pq, found.things.pq, found.stuff.pq, found.things.rq, figures.boxes.ap or 0]
    shown = [f"{100 * value:.1f}" for value in values]
    seconds = (counts.seconds or 0) / figures.images
    return f"{shown[0]:>6}{shown[1]:>11}{shown[2]:>10}{shown[3]:>6}{shown[4]:>8}{seconds:>11.2f}"


if __name__ == "__main__":
    main()
