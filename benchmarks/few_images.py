"""What `finetune` learns from few images: box AP50 after equal time of one core.

    python benchmarks/few_images.py --data FOLDER --out FILE.json
    python benchmarks/few_images.py --data FOLDER --out FILE.json --random

A seed draws from a split of the data set the images that are learned and the `--measured` ones.
The run is the recipe `finetune` from the bundled nuclei model; with `--random` the same
architecture, settings and images from random weights. It lasts `--minutes` of processor time with
one thread, by which its schedule goes, and a run that was killed goes on when it is called again
(`harness/timed.py`). `curves.png` beside the file shows all the curves of its folder.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from harness.timed import learn_for
from panodetr.data.dataset import Source, open_data
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.training.notes import measure_objects
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.state import TrainState
from panodetr.training.validate import make_predictor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", help="train, or else the only one")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--measured", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30, help="of one core")
    parser.add_argument("--points", type=float, nargs="+", default=[1.0], help="parts of the time")
    parser.add_argument("--random", action="store_true", help="start from random weights")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data(Source(options.data), options.split)
    drawn = random.Random(0).sample(data.samples, options.images + options.measured)
    data = replace(data, samples=tuple(drawn[: options.images]))
    ids = {sample.image_id for sample in drawn[options.images :]}
    known = RecipeData(
        categories=data.categories, images=len(data.samples), masks=data.has_masks,
        objects=measure_objects(data),
    )  # fmt: skip
    config = configure("finetune", known, ["start=nuclei", *options.changes])
    if options.random:
        config = replace(config, start=None)
    truth = GroundTruth.open(options.data, data.split)
    truth = replace(truth, images=tuple(i for i in truth.images if i.image_id in ids))
    assert len(truth.images) == options.measured

    def measure(state: TrainState) -> dict[str, float]:
        if not state.step:
            return {}
        figures = evaluate(make_predictor(state.kept_model, config.spec), truth, ["boxes"])
        boxes = figures.compute().boxes
        assert boxes is not None
        return {"AP50": boxes.ap50 or 0.0, "AP": boxes.ap or 0.0}

    learn_for(
        options.minutes, config, data, measure, options.out, points=options.points,
        about={
            "data": options.data.name, "images": len(data.samples),
            "start": config.start, "changes": options.changes,
        },
    )  # fmt: skip
    draw(options.out.parent)


def draw(folder: Path) -> None:
    """Draw AP50 over minutes, dashed where the weights were random at first."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    names = sorted({curve["data"] for curve in curves})
    for curve in curves:
        axes.plot(
            [0, *(point["minutes"] for point in curve["points"])],
            [0, *(point["AP50"] for point in curve["points"])],
            "o-" if curve["start"] else "o--",
            color=f"C{names.index(curve['data'])}",
            label=f"{curve['data']}, from {curve['start'] or 'random weights'}",
        )
    axes.set(xlabel="minutes of one core", ylabel="box AP50", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
