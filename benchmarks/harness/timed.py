"""Training for so many minutes of the processor, in resumable parts: what ablations compare."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.machine import describe_machine
from panodetr.data.dataset import Dataset
from panodetr.files import write_json
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.optimizer import set_learning_rate
from panodetr.training.processes import join_ranks
from panodetr.training.start import make_state
from panodetr.training.state import TrainState, seed_step
from panodetr.training.step import collate_step, read_steps, train_step

ENDLESS = 10**9
"""Steps: the time ends a run."""


def learn_for(
    minutes: float,
    config: TrainConfig,
    data: Dataset,
    measure: Callable[[TrainState], dict[str, float]],
    file: Path,
    *,
    points: Sequence[float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Learn for so many minutes of the processor, or what is left of them, and keep the curve.

    The schedule goes by the share of the time that is spent instead of the share of the steps. The
    state and the curve are kept every minute, so that a run that was killed goes on from there.

    Args:
        minutes: of the processor; measuring and reading the first state do not count.
        config: the run; its `steps` are what the schedule is laid out in.
        data: what is learned from.
        measure: figures of the model as it is.
        file: the curve, a JSON; the state lies beside it, and at the end the model.
        points: when to measure, as parts of the time, rising to 1.
        about: what the curve's file says besides.
    """
    accelerator = join_ranks("cpu", config)
    state = make_state(config, accelerator.device, print)
    kept = file.with_suffix(".state")
    curve: dict[str, Any] = {
        **about, "machine": describe_machine(), "of_minutes": minutes, "minutes": 0.0, "step": 0,
        "points": [],
    }  # fmt: skip
    if kept.exists():
        state.load(kept)
        curve = {**json.loads(file.read_text()), **about, "of_minutes": minutes}
    else:
        print({"step": 0, **measure(state)}, flush=True)
    measured = max((point["minutes"] for point in curve["points"]), default=0.0)
    steps = read_steps(replace(config, steps=ENDLESS), data, state.step)
    for due in [minutes * point for point in points if minutes * point > measured]:
        saved = curve["minutes"]
        while curve["minutes"] < due:
            since, share = time.process_time(), curve["minutes"] / minutes
            place = int(share * config.steps)
            set_learning_rate(state.optimizer, place, config)
            seed_step(config.seed, state.step, 0)
            now = replace(config, mask_start=0 if place >= config.mask_start else ENDLESS)
            parts = collate_step(config, data, next(steps))
            result = train_step(state.learner, state, parts, now, accelerator)
            curve["minutes"] += (time.process_time() - since) / 60
            curve["step"] = state.step
            if state.step % 50 == 0:
                losses = {name: round(float(loss), 3) for name, loss in result.losses.items()}
                print(f"step {state.step} {curve['minutes']:.1f} min {losses}", flush=True)
            if curve["minutes"] >= min(saved + 1, due):
                saved = curve["minutes"]
                state.save(kept)
                write_json(file, curve)
        curve["points"].append({"step": state.step, "minutes": curve["minutes"], **measure(state)})
        print(json.dumps(curve["points"][-1]), flush=True)
        write_json(file, curve)
    steps.close()
    RunFolder(file.parent).save_model(file.with_suffix(""), config.spec, state.kept_model)
    return curve
