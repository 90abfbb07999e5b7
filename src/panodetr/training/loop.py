"""The training loop, from top to bottom."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from panodetr.errors import TrainingError
from panodetr.model.detr import Detr
from panodetr.training.batch import read_steps
from panodetr.training.criterion import Totals, count_totals
from panodetr.training.ema import WeightAverage
from panodetr.training.observe import BadStep, Progress
from panodetr.training.optimizer import (
    freeze,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    set_modes,
)
from panodetr.training.ranks import gather
from panodetr.training.recompute import recompute_activations
from panodetr.training.scaffold import make_scaffold
from panodetr.training.state import Learner, TrainState, seed_step
from panodetr.training.transfer import make_model
from panodetr.training.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator
    from torch import Tensor

    from panodetr.data.dataset import Dataset
    from panodetr.evaluation.truth import Truth
    from panodetr.training.batch import Batch
    from panodetr.training.config import TrainConfig
    from panodetr.training.folder import RunFolder
    from panodetr.training.observe import Observer


def train(
    config: TrainConfig,
    data: Dataset,
    truth: Truth | None,
    folder: RunFolder,
    *,
    accelerator: Accelerator,
    observer: Observer,
    resume: bool,
) -> TrainState:
    """Train a model from its start, or on from the last state of a run.

    All processes call this alike; the first one writes.

    Args:
        config: the run.
        data: the photos to learn from.
        truth: the photos to validate with; None for no validation.
        folder: where states and the best model are kept.
        accelerator: the processes, the device and the precision.
        observer: whoever wants to know.
        resume: whether to go on from the folder's last state.

    Returns:
        The state after the last step.

    Raises:
        TrainingError: no state can be read, or training diverged.
        PanodetrError: a photo cannot be read, or a file cannot be written.
    """
    resume = resume and folder.has_states()
    state = make_state(config, accelerator.device, observer.note, with_weights=not resume)
    if resume:
        folder.load(state, observer.note)
    network = accelerator.prepare_model(state.learner)
    steps = read_steps(
        config,
        data,
        state.step,
        observer.note,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )
    seen: list[StepResult] = []
    since = time.perf_counter()
    observer.begin(state.step, config.steps, config.batch_size)

    with closing(steps):
        while state.step < config.steps and not out_of_patience(state, config):
            parts = next(steps)
            observer.batch(state.step + 1, parts[0])
            factor = learning_rate_factor(state.step, config)
            set_learning_rate(state.optimizer, factor)
            seed_step(config.seed, state.step, accelerator.process_index)
            result = train_step(network, state, parts, config, accelerator)
            observer.stepped(state.step)

            if result.finite:
                seen.append(result)
            else:
                skip_step(state, result, parts, config, accelerator, observer)
            last = state.step == config.steps
            if seen and (last or state.step % config.log_every == 0):
                observer.progress(_summary(seen, state.step, factor, config, since))
                seen, since = [], time.perf_counter()
            due = config.validate_every and state.step % config.validate_every == 0
            if truth is not None and (last or due):
                began = time.perf_counter()
                validate_state(state, truth, config, folder, accelerator, observer)
                since += time.perf_counter() - began  # the speed is that of learning
            stopping = last or out_of_patience(state, config)
            if accelerator.is_main_process and (stopping or state.step % config.save_every == 0):
                folder.save(state)
    return state


def make_state(
    config: TrainConfig,
    device: torch.device,
    note: Callable[[str], None],
    *,
    with_weights: bool = True,
) -> TrainState:
    """A model at its start, ready for the first step; what the seed decides is decided here.

    Args:
        config: the run.
        device: where to compute.
        note: called with a line for whatever was not taken over from a checkpoint.
        with_weights: whether to read the weights that the run starts with; a state brings its own.

    Raises:
        PanodetrError: they cannot be read, or don't fit.
    """
    torch.manual_seed(config.seed)
    model, notes = make_model(config) if with_weights else (Detr(config.spec.architecture), [])
    for line in notes:
        note(line)
    scaffold = make_scaffold(model, config)
    freeze(model, config)
    # torch's annotations leave memory_format out.
    model = model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    scaffold = scaffold.to(device).train()
    set_modes(model, config)
    average = WeightAverage(model, config.ema) if config.ema else None
    if config.checkpointing:
        recompute_activations(model)
    return TrainState(
        learner=Learner(model, scaffold, config),
        optimizer=make_optimizer(model, scaffold, config),
        average=average,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """What one step came to, in all processes alike.

    Attributes:
        losses: scalars to log; "total" is what is minimised.
        gradient_norm: of all gradients together, before it is clipped.
        finite: whether all of that is; if not, the weights were left as they are.
    """

    losses: dict[str, Tensor]
    gradient_norm: Tensor
    finite: bool


def train_step(
    network: nn.Module,
    state: TrainState,
    parts: Sequence[Batch],
    config: TrainConfig,
    accelerator: Accelerator,
) -> StepResult:
    """One step: forward and backward part by part, then one update of the weights.

    Sums of losses are divided by what the whole step has of objects, so that gradients don't depend
    on how its photos were shared out to parts and processes.

    Args:
        network: the state's learner, as Accelerate has prepared it.
        state: what learns; its step is counted, and its average brought up to date.
        parts: this process's share of the photos.
        config: the run.
        accelerator: the processes.
    """
    masks = config.spec.architecture.masks and state.step >= config.mask_start
    totals = count_step(parts, config, accelerator)
    statistics = _running_statistics(state)
    before = [buffer.clone() for buffer in statistics]
    state.optimizer.zero_grad(set_to_none=True)
    shares: list[dict[str, Tensor]] = []
    for number, part in enumerate(parts, start=1):
        # Processes exchange their gradients once, in the backward pass of the last part.
        with accelerator.no_sync(network) if number < len(parts) else nullcontext():
            total, losses = network(part.to(accelerator.device), totals, with_masks=masks)
            accelerator.backward(total)
        shares.append(losses)
    learned = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learned, config.clip)
    losses = _sum_shares(shares, accelerator)
    finite = bool(torch.stack([norm.float(), losses["total"].float()]).isfinite().all())
    state.step += 1
    if finite:
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.learner.model, state.step)
    else:
        for buffer, old in zip(statistics, before, strict=True):
            buffer.copy_(old)
    return StepResult(losses=losses, gradient_norm=norm, finite=finite)


def count_step(parts: Sequence[Batch], config: TrainConfig, accelerator: Accelerator) -> Totals:
    """What losses are divided by: the counts of all parts and processes.

    Divided by the number of processes, because Accelerate's data parallel takes the mean of their
    gradients, not the sum.
    """
    own = [count for part in parts for count in part.targets.counts]
    # Shares are of equal size, so that there is one count for every photo of the step.
    whole = accelerator.gather(torch.tensor(own, device=accelerator.device))
    assert isinstance(whole, torch.Tensor)
    totals = count_totals(whole.tolist(), config)
    processes = accelerator.num_processes
    return Totals(
        objects=totals.objects / processes,
        label_weight=totals.label_weight / processes,
        images=totals.images / processes,
    )


def skip_step(
    state: TrainState,
    result: StepResult,
    parts: Sequence[Batch],
    config: TrainConfig,
    accelerator: Accelerator,
    observer: Observer,
) -> None:
    """Count a step that is not finite, and say of which photos it was.

    Raises:
        TrainingError: there were more of them than the run allows.
    """
    state.bad_steps += 1
    mine = [image_id for part in parts for image_id in part.image_ids]
    ids = [image_id for ids in gather(accelerator, mine) for image_id in ids]
    losses = {name: float(loss) for name, loss in result.losses.items()}
    observer.bad_step(
        BadStep(
            step=state.step,
            image_ids=ids,
            losses=losses,
            gradient_norm=float(result.gradient_norm),
        )
    )
    if state.bad_steps > config.bad_steps:
        raise TrainingError(
            f"{state.bad_steps} steps had a loss or gradient that is not finite, the last one step "
            f"{state.step}, and bad_steps is {config.bad_steps}; lower the learning rate or look "
            "at the photos that bad_steps/ names"
        )


def validate_state(
    state: TrainState,
    truth: Truth,
    config: TrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    observer: Observer,
) -> None:
    """Validate, and keep the model if it is the best so far."""
    model = state.kept_model
    validation = validate(
        model,
        config.spec,
        truth,
        step=state.step,
        accelerator=accelerator,
        progress=observer.validating,
    )
    state.stale += 1
    if state.best is None or validation.score > state.best:
        state.best, state.stale = validation.score, 0
        if accelerator.is_main_process:
            folder.save_model(
                folder.best,
                config.spec,
                model,
                {"step": state.step, **validation.metrics},
            )
    observer.validated(validation, model)


def out_of_patience(state: TrainState, config: TrainConfig) -> bool:
    """Whether validations have brought nothing better for too long.

    A model that has never found anything is still at its beginning, not at its end.
    """
    return bool(config.patience) and bool(state.best) and state.stale >= config.patience


def _running_statistics(state: TrainState) -> list[Tensor]:
    """What a forward pass changes in live batch norms, where numbers that aren't finite stay."""
    norms = (m for m in state.learner.model.modules() if isinstance(m, nn.BatchNorm2d))
    return [buffer for norm in norms for buffer in norm.buffers()]


def _sum_shares(shares: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, Tensor]:
    """The losses of a step, of which each part of each process had a share."""
    names = list(shares[0])
    own = torch.stack([torch.stack([share[name] for share in shares]).sum() for name in names])
    whole = accelerator.reduce(own, "mean")  # totals are per process
    assert isinstance(whole, torch.Tensor)
    return dict(zip(names, whole.unbind(), strict=True))


def _summary(
    seen: Sequence[StepResult], step: int, factor: float, config: TrainConfig, since: float
) -> Progress:
    """A line of the log: the mean of each loss over the steps that had it."""
    names = {name: None for result in seen for name in result.losses}
    losses = {
        name: torch.stack([r.losses[name] for r in seen if name in r.losses]).mean().item()
        for name in names
    }
    return Progress(
        step=step,
        losses=losses,
        learning_rate=config.learning_rate * factor,
        gradient_norm=torch.stack([result.gradient_norm for result in seen]).mean().item(),
        photos_per_second=len(seen) * config.batch_size / (time.perf_counter() - since),
    )
