"""What the recipe's options are worth on nuclei: thing PQ after equal time of one core.

    python benchmarks/ablations.py run baseline --data ../shared/data/nuclei --out FOLDER
    python benchmarks/ablations.py run groups --data ../shared/data/nuclei --out FOLDER
    python benchmarks/ablations.py run denoising --data ../shared/data/nuclei --out FOLDER
    python benchmarks/ablations.py plot --out FOLDER       # ablations.png and a table

Every run is the recipe `nuclei`, from random weights and with one thread, for `--minutes` of
processor time. Its schedule is the recipe's, by the share of the time that is spent instead of the
share of the steps: after a third of the minutes the learning rate is what the recipe has after a
third of its steps, and masks begin likewise. So every variant gets the same time, whatever its
steps cost. The processor's time, not the clock's, is what counts, so that other work on the machine
changes little. On the way a part of val is predicted, which the time leaves out.

- baseline: no query groups, no denoising. Its moving average is measured beside it ("EMA"): it
  changes nothing about how the model learns, so one run says exactly what it is worth.
- groups: three groups of queries, the recipe's own.
- denoising: three sets of queries made from noisy truth.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from harness.machine import describe_machine
from panodetr.data.dataset import open_data
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.files import write_json
from panodetr.model.detr import Detr
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.optimizer import set_learning_rate
from panodetr.training.processes import join_ranks
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.start import make_state
from panodetr.training.state import TrainState, seed_step
from panodetr.training.step import read_steps, train_step
from panodetr.training.validate import validate

VARIANTS = {
    "baseline": ["query_groups=1", "denoising=0", "ema=0.998"],
    "groups": ["query_groups=3", "denoising=0"],
    "denoising": ["query_groups=1", "denoising=3"],
}
ENDLESS = 10**9  # steps: the time ends a run
POINTS = 8  # of a curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("variant", choices=VARIANTS)
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--minutes", type=float, default=30, help="of one core")
    run.add_argument("--every", type=int, default=3, help="1: all of val; 3: every third image")
    plot = commands.add_parser("plot")
    for command in (run, plot):
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "plot":
        draw(options.out)
        return
    torch.set_num_threads(1)
    learn(options.variant, options.data, options.minutes, options.every, options.out)


def learn(variant: str, folder: Path, minutes: float, every: int, out: Path) -> None:
    """One run; writes its curve, and the model it ends with."""
    data = open_data(folder, "train")
    known = RecipeData(categories=data.categories, images=len(data.samples), masks=data.has_masks)
    config = configure("nuclei", known, VARIANTS[variant])
    truth = GroundTruth.open(folder, "val")
    truth = replace(truth, images=truth.images[::every])
    accelerator = join_ranks("cpu", config)
    state = make_state(config, accelerator.device, print)
    spent = 0.0
    points: list[dict[str, Any]] = []
    steps = read_steps(replace(config, steps=ENDLESS), data)
    while spent < minutes * 60:
        since = time.process_time()
        advance(state, next(steps), config, accelerator, share=spent / (minutes * 60))
        spent += time.process_time() - since
        if spent < minutes * 60 * (len(points) + 1) / POINTS:
            continue
        point = {"step": state.step, "minutes": spent / 60}
        for name, model in models(variant, state):
            found = validate(
                model, config.spec, truth, step=state.step, accelerator=accelerator,
                progress=lambda done, images: None,
            )  # fmt: skip
            point[name] = found.score
        print(json.dumps(point), flush=True)
        points.append(point)
        curve = {
            "machine": describe_machine(), "variant": variant, "changes": VARIANTS[variant],
            "steps": state.step, "images": len(truth.images), "points": points,
        }  # fmt: skip
        write_json(out / f"{variant}.json", curve)
    steps.close()
    (out / "models").mkdir(exist_ok=True)
    for name, model in models(variant, state):
        RunFolder(out).save_model(out / "models" / name, config.spec, model)


def models(variant: str, state: TrainState) -> list[tuple[str, Detr]]:
    """What is measured of a run: its weights, and their average where it keeps one."""
    found = [(variant, state.learner.model)]
    return found if state.average is None else [*found, ("EMA", state.kept_model)]


def advance(
    state: TrainState, parts: Any, config: TrainConfig, accelerator: Any, *, share: float
) -> None:
    """One step, where the recipe's schedule is after a share of it, 0 to 1."""
    place = int(share * config.steps)
    set_learning_rate(state.optimizer, place, config)
    seed_step(config.seed, state.step, 0)
    config = replace(config, mask_start=0 if place >= config.mask_start else ENDLESS)
    result = train_step(state.learner, state, parts, config, accelerator)
    if state.step % 50 == 0:
        losses = {name: round(float(loss), 3) for name, loss in result.losses.items()}
        print(f"step {state.step} {losses}", flush=True)


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
        images[curve["images"]] = None
        names = [variant, "EMA"] if "EMA" in curve["points"][-1] else [variant]
        for name in names:
            minutes = [point["minutes"] for point in curve["points"]]
            found = [point[name] for point in curve["points"]]
            axes.plot(minutes, found, "o-", label="baseline with EMA" if name == "EMA" else name)
            print(f"| {name} | {curve['steps']} | {minutes[-1]:.1f} | {found[-1]:.3f} |")
    axes.set_xlabel("minutes of one core")
    counts = " or ".join(str(count) for count in images)
    axes.set_ylabel(f"thing PQ on {counts} images of nuclei/val")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "ablations.png", dpi=110)


if __name__ == "__main__":
    main()
