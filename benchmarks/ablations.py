"""What options of training are worth on nuclei: thing PQ after equal time of one core.

    python benchmarks/ablations.py run baseline --data ../shared/data/nuclei --out FOLDER
    python benchmarks/ablations.py run copy-paste --data ../shared/data/nuclei --out FOLDER
    python benchmarks/ablations.py plot --out FOLDER       # ablations.png and a table

Every run is the recipe `nuclei`, from random weights and with one thread, for `--minutes` of
processor time. Its schedule is the recipe's, by the share of the time that is spent instead of the
share of the steps: after a third of the minutes the learning rate is what the recipe has after a
third of its steps, and masks begin likewise. So every variant gets the same time, whatever its
steps cost. The processor's time, not the clock's, is what counts, so that other work on the machine
changes little. On the way a part of val is predicted, which the time leaves out, in tiles that
overlap by a half instead of two thirds. A run that was killed goes on when it is called again.

What is measured is the moving average of the weights; of the baseline the last weights, too, so
that one run says what averaging is worth.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from harness.timed import learn_for
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import open_data
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.state import TrainState
from panodetr.training.validate import make_predictor

COMMON = ["ema=0.99"]
VARIANTS = {
    "baseline": [],
    "conditional": ["spec.architecture.conditional=true"],
    "another seed": ["seed=1"],
    "batches of 4": ["batch_size=4"],
    "copy-paste": ["augmentation.paste=0.5"],
    "copy-paste and jitter": [
        "augmentation.paste=0.5", "augmentation.least_scale=0.75", "augmentation.most_scale=3",
    ],
}  # fmt: skip
"""What changes in the recipe, besides what all have."""

POINTS = (0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("variant", choices=VARIANTS)
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--minutes", type=float, default=20, help="of one core")
    run.add_argument("--every", type=int, default=3, help="1: all of val; 3: every third image")
    plot = commands.add_parser("plot")
    for command in (run, plot):
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "plot":
        draw(options.out)
        return
    torch.set_num_threads(1)
    data = open_data(options.data, "train")
    known = RecipeData(categories=data.categories, images=len(data.samples), masks=data.has_masks)
    changes = [*COMMON, *VARIANTS[options.variant]]
    config = configure("nuclei", known, changes)
    truth = GroundTruth.open(options.data, "val")
    truth = replace(truth, images=truth.images[:: options.every])
    # Half of a tile instead of two thirds: fewer than half of the tiles.
    rule = config.spec.preprocessing
    assert rule.tile is not None
    spec = replace(config.spec, preprocessing=replace(rule, tile_overlap=rule.tile // 2))
    learn_for(
        options.minutes, config, data,
        partial(measure, spec=spec, truth=truth, last=options.variant == "baseline"),
        options.out / f"{options.variant}.json", points=POINTS,
        about={"variant": options.variant, "changes": changes, "images": len(truth.images)},
    )  # fmt: skip


def measure(
    state: TrainState, spec: ModelSpec, truth: GroundTruth, *, last: bool
) -> dict[str, float]:
    """Thing PQ of the average, and if wanted of the last weights."""
    if not state.step:
        return {}
    models = {"EMA": state.kept_model} | ({"last": state.learner.model} if last else {})
    found: dict[str, float] = {}
    for name, model in models.items():
        # Average precision would take far longer: it is of every query's mask.
        panoptic = evaluate(make_predictor(model, spec), truth, ["panoptic"]).compute().panoptic
        assert panoptic is not None
        found[name] = panoptic.things.pq
    return found


def draw(out: Path) -> None:
    """Plot the curves that are there, and print what they end with."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    print("| variant | steps | minutes of a core | thing PQ |\n|---|---|---|---|")
    images: dict[int, None] = {}
    for variant in VARIANTS:
        path = out / f"{variant}.json"
        if not path.exists():
            continue
        curve = json.loads(path.read_text())
        points = curve["points"]
        images[curve["images"]] = None
        for name in [name for name in ("EMA", "last") if name in points[-1]]:
            label = variant if name == "EMA" else f"{variant}, not averaged"
            axes.plot([p["minutes"] for p in points], [p[name] for p in points], "o-", label=label)
            last = points[-1]
            print(f"| {label} | {last['step']} | {last['minutes']:.1f} | {last[name]:.3f} |")
    axes.set_xlabel("minutes of one core")
    counts = " or ".join(str(count) for count in images)
    axes.set_ylabel(f"thing PQ on {counts} images of nuclei/val")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "ablations.png", dpi=110)


if __name__ == "__main__":
    main()
