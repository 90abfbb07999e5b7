"""A run and its folder: configuration, log, state, and the trained model.

A folder holds `config.json`, `log.jsonl` (a line every so many steps), `state.pt` (to resume from),
and at the end `model/`, a checkpoint, and `results.png`, the log as curves.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from panodetr.checkpoints.native import save_checkpoint
from panodetr.data.panoptic import PanopticData
from panodetr.errors import TrainingError, UsageError
from panodetr.files import write_json
from panodetr.runtimes.torch import choose_device
from panodetr.training.log import append, check_plots, plot
from panodetr.training.loop import train as train_loop
from panodetr.training.overrides import override
from panodetr.training.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from panodetr.training.loop import Progress


def train(
    recipe: str,
    data: Path,
    out: Path,
    *,
    split: str = "train",
    overrides: Sequence[str] = (),
    resume: bool = False,
    device: str = "auto",
    report: Callable[[Progress, int], None] | None = None,
) -> Path:
    """Train by a recipe and write the model.

    Args:
        recipe: a name in `RECIPES`.
        data: a folder of COCO panoptic data.
        out: the run's folder.
        split: the part of the data to learn from.
        overrides: "field=value" changes of the recipe's configuration.
        resume: go on with the run in `out`.
        device: "auto", "cpu" or "cuda".
        report: called with each line of the log and the number of steps to come to.

    Returns:
        The trained model's folder.

    Raises:
        UsageError: there is no such recipe, field or device; or `out` holds a run already and
            `resume` is not asked for.
        TrainingError: nothing to resume, or training diverged.
        PanodetrError: matplotlib is missing.
        DataError: the data contradicts itself.
    """
    if recipe not in RECIPES:
        raise UsageError(
            f"there is no recipe {recipe!r}; the recipes are {', '.join(sorted(RECIPES))}"
        )
    check_plots()
    dataset = PanopticData.open(data, split)
    config = override(RECIPES[recipe](dataset.categories), overrides)
    state, log = out / "state.pt", out / "log.jsonl"
    if resume and not state.exists():
        raise TrainingError(
            f"{out} holds no run to resume: {state.name} is missing; start without --resume"
        )
    if not resume and state.exists():
        raise UsageError(
            f"{out} holds a run already; go on with it by --resume, or choose another --out"
        )
    write_json(out / "config.json", {"recipe": recipe, "split": split} | asdict(config))

    def write_line(progress: Progress) -> None:
        append(log, progress)
        if report is not None:
            report(progress, config.steps)

    model = train_loop(
        config, dataset, state, device=choose_device(device), resume=resume, report=write_line
    )
    save_checkpoint(out / "model", config.spec, model.state_dict())
    plot(log, out / "results.png")
    return out / "model"
