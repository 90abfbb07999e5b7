"""A rehearsal: everything is built and two steps are done, but nothing is written."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from panodetr.data.check import check_split
from panodetr.errors import TrainingError
from panodetr.training.config import TrainConfig
from panodetr.training.prepare import Request, prepare
from panodetr.training.processes import join_ranks
from panodetr.training.start import make_state
from panodetr.training.step import explain_oom, read_steps, train_step

CHECKED_IMAGES = 5_000
"""Of more images not every file is read: that would take longer than a rehearsal should."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a rehearsal found.

    Attributes:
        config: the run's.
        images: to learn from.
        val_images: to validate with.
        parameters: that learn.
        seconds: of one step, with masks where the run learns them.
        total_seconds: of all steps, validations left out.
        peak_bytes: of the GPU, or else of this process; None where the system doesn't say.
        checked: whether every file of the data was read.
        errors: what is wrong with it, a line each.
        notes: what should be known of the data, what was not taken over from a checkpoint, and
            what the run does without.
        warnings: what will probably disappoint.
    """

    config: TrainConfig
    images: int
    val_images: int
    parameters: int
    seconds: float
    total_seconds: float
    peak_bytes: int | None
    checked: bool
    errors: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def dry_run(request: Request, *, device: str = "auto") -> DryRun:
    """Build everything a run needs, do two of its steps, and throw them away.

    Raises:
        TrainingError: a loss or gradient is not finite, or the memory does not suffice.
        PanodetrError: whatever would stop the run as it begins.
    """
    prepared = prepare(request)
    config, data = prepared.config, prepared.data
    val_images = 0 if prepared.truth is None else len(prepared.truth.images)
    checked = len(data.samples) + val_images <= CHECKED_IMAGES
    errors: list[str] = []
    notes = [*prepared.notes]
    for split in dict.fromkeys((data.split, prepared.val)) if checked else ():
        if split is not None:
            found = check_split(prepared.source, split, data.format, lambda done, images: None)
            faults = found.faults
            few = not faults.fatal and len(faults.bad) <= config.bad_images  # the run skips them
            said = notes if few else errors
            said += [finding.message for finding in found.findings if finding.is_error]
    # Masks from the first step on: that is what most steps cost, and the most memory they take.
    short = replace(config, steps=max(2, config.steps), mask_start=0)
    accelerator = join_ranks(device, short)
    state = make_state(short, accelerator.device, notes.append)
    network = accelerator.prepare_model(state.learner)
    seconds, skipped = 0.0, set[str]()
    with closing(read_steps(short, data, skipped=skipped)) as steps:
        for _ in range(2):  # the second one is timed: the first one warms up
            parts = next(steps)
            began = time.perf_counter()
            with explain_oom(short):
                result = train_step(network, state, parts, short, accelerator)
            seconds = time.perf_counter() - began
            if not result.finite:
                raise TrainingError(
                    "a loss or gradient of the first steps is not finite; check the data"
                )
    learned = (p for group in state.optimizer.param_groups for p in group["params"])
    return DryRun(
        config=config,
        images=len(data.samples),
        val_images=val_images,
        parameters=sum(parameter.numel() for parameter in learned),
        seconds=seconds,
        total_seconds=seconds * config.steps,
        peak_bytes=_peak_bytes(accelerator.device),
        checked=checked,
        errors=tuple(errors),
        notes=tuple(dict.fromkeys((*notes, *sorted(skipped)))),
        warnings=tuple(warn_of_few_steps(config)),
    )


def warn_of_few_steps(config: TrainConfig) -> list[str]:
    """Say so where far fewer steps are planned than DETR needs: about a tenth of the paper's."""
    if config.learned == "masks":
        least = 5_000
        why = "the mask head took 46000 of 64 images in the paper (25 epochs of COCO)"
    elif config.start is not None:
        least, why = 1_000, "a fine-tuned DETR needs some thousands"
    elif config.token_weight:
        least = 5_000
        why = "from random weights the bundled model took 8000, with token supervision"
    else:
        least = 50_000
        why = (
            "from a backbone or random weights DETR took 554000 of 64 images in the paper "
            "(300 epochs of COCO); start from a trained checkpoint (recipe finetune) instead, or "
            f"plan {least} at the least"
        )
    if config.steps >= least:
        return []
    return [f"{config.steps} steps of {config.batch_size} images are very few: {why}"]


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory that was taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
