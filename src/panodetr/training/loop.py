"""The training loop, from top to bottom.

Letters: L decoder layers, B images, Q queries, G query groups.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from panodetr.data.loader import CropReader
from panodetr.training.batch import Batch, collate
from panodetr.training.objective import compute_losses
from panodetr.training.optimizer import (
    freeze,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    set_modes,
)
from panodetr.training.scaffold import make_scaffold
from panodetr.training.state import TrainState
from panodetr.training.transfer import make_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from panodetr.data.panoptic import PanopticData
    from panodetr.model.detr import Detr
    from panodetr.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of the log: means since the line before.

    Attributes:
        step: steps done.
        losses: unweighted, of the last decoder layer; "total" is what is minimised.
        learning_rate: of everything but the backbone.
        crops_per_second: speed.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    crops_per_second: float


def train(
    config: TrainConfig,
    data: PanopticData,
    state_path: Path,
    *,
    device: torch.device,
    resume: bool,
    report: Callable[[Progress], None],
) -> Detr:
    """Train a model from random weights, or on from a state.

    Args:
        config: the run.
        data: the photos to learn from.
        state_path: where the state is kept.
        device: where to compute.
        resume: whether to go on from the state.
        report: called every `config.log_every` steps.

    Returns:
        The trained model, in eval mode.

    Raises:
        TrainingError: the state cannot be read, or training diverged.
        PanodetrError: a photo or id map cannot be read.
    """
    state = make_state(config, device)
    if resume:
        state.load(state_path)
    batches = read_batches(config, data, state.step)
    seen: list[dict[str, Tensor]] = []
    since = time.perf_counter()

    while state.step < config.steps:
        factor = learning_rate_factor(state.step, config)
        set_learning_rate(state.optimizer, factor)
        losses = train_step(state, next(batches).to(device), config)
        state.step += 1

        seen.append(losses)
        if state.step % config.log_every == 0 or state.step == config.steps:
            now = time.perf_counter()
            speed = len(seen) * config.batch_size / (now - since)
            report(Progress(
                step=state.step, losses=_means(seen), learning_rate=config.learning_rate * factor,
                crops_per_second=speed,
            ))  # fmt: skip
            seen, since = [], now
        if state.step % config.save_every == 0 or state.step == config.steps:
            state.save(state_path)

    return state.model.eval()


def make_state(config: TrainConfig, device: torch.device) -> TrainState:
    """A model with random weights that the seed decides, ready for its first step."""
    torch.manual_seed(config.seed)
    model, _ = make_model(config)
    scaffold = make_scaffold(model, config)
    freeze(model, config)
    # torch's annotations leave memory_format out.
    model = model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    set_modes(model, config)
    scaffold = scaffold.to(device).train()
    return TrainState(
        model=model, scaffold=scaffold, optimizer=make_optimizer(model, scaffold, config)
    )


def train_step(state: TrainState, batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """One step: forward, match, losses, backward, update. Returns the losses to log."""
    with_masks = config.spec.architecture.masks and state.step >= config.mask_start
    total, losses = compute_losses(
        state.model, state.scaffold, batch, config, with_masks=with_masks
    )
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()
    for group in state.optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], config.clip)
    state.optimizer.step()
    return losses


def read_batches(config: TrainConfig, data: PanopticData, start: int) -> Iterator[Batch]:
    """The batches of steps `start` on, each being read while the one before is learned from."""
    reader = CropReader(data, config.augmentation, config.seed)

    def read(step: int) -> Batch:
        numbers = range(step * config.batch_size, (step + 1) * config.batch_size)
        photos, targets = zip(*(reader.crop(number) for number in numbers), strict=True)
        return collate(photos, targets, config.spec.preprocessing)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(read, start)
        for step in range(start + 1, config.steps):
            batch = ahead.result()
            ahead = pool.submit(read, step)
            yield batch
        yield ahead.result()


def _means(seen: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each loss over the steps that had it."""
    names = {name: None for losses in seen for name in losses}
    return {
        name: float(torch.stack([losses[name] for losses in seen if name in losses]).mean())
        for name in names
    }
