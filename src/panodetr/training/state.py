"""What changes while training, and its file: enough to resume as if a run had never stopped.

Random numbers need no place in it: images follow from the run's seed and their number, and every
step seeds torch from the run's seed, the step and the process's rank.
"""

from __future__ import annotations

import zipfile
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from panodetr.errors import TrainingError
from panodetr.files import atomic_write
from panodetr.model.detr import Detr
from panodetr.model.eomt import Eomt
from panodetr.model.network import Network
from panodetr.objective.auxiliary import AuxiliaryHeads
from panodetr.objective.criterion import compute_losses
from panodetr.objective.eomt import compute_eomt_losses
from panodetr.objective.targets import Batch, Totals
from panodetr.training.config import TrainConfig

RUN_SETTINGS = ("initial_lr", "weight_decay")
"""What the optimizer's groups keep of the configuration, which `--resume --set` may change."""

COUNTERS = ("step", "bad_steps", "skipped", "best", "tie", "stale", "validated", "ranks")
"""Of a state, plain values."""


class Learner(nn.Module):
    """Model, auxiliary heads and losses as one module: what Accelerate spreads over processes."""

    def __init__(self, model: Network, auxiliary: AuxiliaryHeads, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.auxiliary = auxiliary
        self.config = config

    def forward(
        self, batch: Batch, totals: Totals, *, with_masks: bool, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and its parts to log; see `compute_losses`.

        `progress` is the part of the run that is done, 0 to 1.
        """
        if isinstance(self.model, Eomt):
            return compute_eomt_losses(
                self.model, batch, self.config, progress=progress, totals=totals
            )
        assert isinstance(self.model, Detr)
        return compute_losses(
            self.model, self.auxiliary, batch, self.config, with_masks=with_masks, totals=totals
        )


@dataclass(kw_only=True)
class TrainState:
    """What changes while training.

    Attributes:
        learner: the model, and what training adds to it.
        optimizer: with its moments.
        average: of the weights; None where the run keeps none.
        step: steps done, the skipped ones among them.
        bad_steps: steps that were skipped because a loss or gradient was not finite.
        skipped: what was said of each image that could not be read, by whichever process.
        best: the best score of a validation; None before the first.
        tie: the box AP of that one.
        stale: validations since then.
        validated: the step of the last validation; -1 before the first. A state is saved before its
            validation and again after it, so that a validation that fails costs nothing.
        ranks: how many processes train it; None before the first step. The steps of another number
            would be others.
        seen: losses and gradient norm of each step since the last line of the log.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    step: int = 0
    bad_steps: int = 0
    skipped: set[str] = field(default_factory=set[str])
    best: float | None = None
    tie: float = 0.0
    stale: int = 0
    validated: int = -1
    ranks: int | None = None
    seen: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])

    @property
    def kept_model(self) -> Network:
        """The model that is validated and kept: the average where there is one."""
        if self.average is None:
            return self.learner.model
        return cast("Network", self.average.module)

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all.

        Raises:
            TrainingError: a weight is not finite; nobody should go on from there.
            PanodetrError: the system refused to write.
        """
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise TrainingError(
                    f"weight {name} is not finite after step {self.step}; lower the learning rate, "
                    "and go on from the state before with --resume"
                )
        everything = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "seen": self.seen,
        }
        contents = BytesIO()  # torch would not tell of a full disk in the system's words
        torch.save(everything, contents)
        with atomic_write(path) as temporary:
            temporary.write_bytes(contents.getbuffer())

    def load(self, path: Path) -> None:
        """Take up what `save` wrote, but for what the optimizer has from the configuration.

        Raises:
            TrainingError: the file is broken, or of a run with another configuration.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()  # compares check sums, which torch does not
            if broken is not None:
                raise ValueError(f"its part {broken} is damaged")
            everything: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            self.learner.load_state_dict(everything["learner"])
            own = [{n: group[n] for n in RUN_SETTINGS} for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(everything["optimizer"])
            for group, settings in zip(self.optimizer.param_groups, own, strict=True):
                group.update(settings)
            if self.average is not None and everything["average"] is not None:
                self.average.load_state_dict(everything["average"])
            elif self.average is not None:  # the resumed run begins to average
                self.average.module.load_state_dict(self.learner.model.state_dict())
            for name in COUNTERS:
                setattr(self, name, everything["counters"][name])
            device = next(self.learner.parameters()).device
            self.seen = [
                {n: value.to(device) for n, value in one.items()} for one in everything["seen"]
            ]
        except Exception as error:  # a damaged file can raise nearly anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"cannot resume from {path}: {reason}; "
                "resume with the run's own settings, or start a new run"
            ) from error


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed all of torch's randomness for one step in one process."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def average_weights(model: Network, decay: float) -> AveragedModel:
    """Begin an exponential moving average (EMA) of a model's weights and running statistics.

    The first update copies the weights. Update n + 1 leaves the part min(decay, (1 + n) / (10 + n))
    of the average: the first weights are random and should soon be forgotten.

    The model must not be changed by `recompute_activations` yet. The average is in eval mode; its
    `module` is a model of its own.
    """

    def update(means: list[Tensor], latest: list[Tensor], updates: Tensor | int) -> None:
        done = float(updates)
        weight = 1 - min(decay, (1 + done) / (10 + done))
        for mean, value in zip(means, latest, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:  # a counter of batches
                mean.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)  # pyright: ignore[reportArgumentType]
    return average.eval().requires_grad_(requires_grad=False)


def recompute_activations(model: Network) -> None:
    """Compute activations of blocks, layers and mask head again in the backward pass.

    Gradients and the state dict stay the same, dropout included, at about a third more time.
    """
    for part in model.repeated():
        part.forward = partial(
            checkpoint,
            part.forward,
            use_reentrant=False,
            context_fn=lambda part=part: (nullcontext(), _statistics_kept(part)),
        )


@contextmanager
def _statistics_kept(part: nn.Module) -> Generator[None, None, None]:
    """Leave the running statistics of live batch norms alone: the batch was counted before."""
    norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
