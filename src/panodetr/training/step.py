"""One step: forward and backward part by part, then one update of the weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from panodetr.objective.targets import Totals, count_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator
    from torch import Tensor

    from panodetr.objective.targets import Batch
    from panodetr.training.config import TrainConfig
    from panodetr.training.state import TrainState


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
    on how its images were shared out to parts and processes.

    Args:
        network: the state's learner, as Accelerate has prepared it.
        state: what learns; its step is counted, and its average brought up to date.
        parts: this process's share of the images.
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
    # Shares are of equal size, so that there is one count for every image of the step.
    whole = accelerator.gather(torch.tensor(own, device=accelerator.device))
    assert isinstance(whole, torch.Tensor)
    totals = count_totals(
        whole.tolist(), config.spec.architecture.num_queries, config.criterion.no_object
    )
    processes = accelerator.num_processes
    return Totals(
        objects=totals.objects / processes,
        label_weight=totals.label_weight / processes,
        images=totals.images / processes,
    )


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
