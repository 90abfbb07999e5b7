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
from panodetr.model.detr import Detr
from panodetr.training.batch import Batch, Targets, collate
from panodetr.training.criterion import detection_losses, mask_losses, weighted_sum
from panodetr.training.matcher import match
from panodetr.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from panodetr.training.scaffold import Scaffold, attention_loss, place_queries_on_grid
from panodetr.training.state import TrainState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from panodetr.data.panoptic import PanopticData
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
    model = Detr(config.spec.architecture)
    scaffold = Scaffold(config.spec.architecture, config.query_groups)
    place_queries_on_grid(model, scaffold)
    # torch's annotations leave memory_format out.
    model = model.to(device=device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
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


def compute_losses(
    model: Detr, scaffold: Scaffold, batch: Batch, config: TrainConfig, *, with_masks: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total to minimise, and its parts to log."""
    groups, criterion = config.query_groups, config.criterion
    encoded = model.encode(batch.pixels, batch.padding)
    states = model.decode(encoded, scaffold.queries(model))  # L, B, GQ, D
    # Every group is matched on its own, as if it were one more image with the same objects.
    states = states.unflatten(2, (groups, -1)).flatten(1, 2)  # L, BG, Q, D
    targets = repeat_targets(batch.targets, groups)
    logits, boxes = model.class_head(states), model.box_head(states)
    matches = match(logits, boxes, targets, criterion.costs)
    count = max(1, len(targets.classes))
    losses = detection_losses(logits, boxes, targets, matches, criterion, count)

    extra: dict[str, Tensor] = {}  # of the scaffold, with weights of their own
    if config.token_weight:
        tokens = scaffold.token_loss(encoded.memory, batch.targets, criterion)
        extra["tokens"] = config.token_weight * tokens

    if with_masks:
        own = matches.where((matches.layer == len(logits) - 1) & (matches.image % groups == 0))
        share = min(1.0, config.mask_objects / max(1, len(own.query)))
        own = own.where(
            torch.randperm(len(own.query), device=own.query.device) < config.mask_objects
        )
        image = own.image // groups
        objects = own.object - targets.starts[own.image] + batch.targets.starts[image]
        attention = model.attend(encoded, states[-1, ::groups], image, own.query)
        masks = model.refine(model.share(encoded), attention, image)
        share *= count / groups
        losses |= mask_losses(masks, batch.targets, objects, batch.padding, criterion, share)
        if config.attention_weight:
            away = attention_loss(attention, batch.targets.masks(objects)).sum() / share
            extra["attention"] = config.attention_weight * away

    total = torch.stack([weighted_sum(losses, criterion), *extra.values()]).sum()
    shown = {name: loss if loss.dim() == 0 else loss[-1] for name, loss in losses.items()}
    shown |= extra | {"total": total}
    return total, {name: loss.detach() for name, loss in shown.items()}


def repeat_targets(targets: Targets, groups: int) -> Targets:
    """The same objects for each of the groups of every image; index maps are not repeated."""
    image = targets.image
    order = torch.cat(
        [(image == b).nonzero()[:, 0].repeat(groups) for b in range(len(targets.counts))]
    )
    return Targets(
        classes=targets.classes[order],
        boxes=targets.boxes[order],
        counts=tuple(count for count in targets.counts for _ in range(groups)),
        index_map=targets.index_map,
    )


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
