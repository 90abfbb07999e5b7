"""The state of a run on disk: enough to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from panodetr.errors import TrainingError
from panodetr.files import written_whole

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.model.detr import Detr
    from panodetr.training.scaffold import Scaffold


@dataclass(kw_only=True)
class TrainState:
    """What changes while training.

    Attributes:
        model: the model.
        scaffold: what training adds to it.
        optimizer: with its moments.
        step: steps done.
    """

    model: Detr
    scaffold: Scaffold
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all, with the state of torch's random numbers."""
        everything = {
            "step": self.step,
            "model": self.model.state_dict(),
            "scaffold": self.scaffold.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        with written_whole(path) as temporary:
            torch.save(everything, temporary)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            TrainingError: the file is broken, or of a run with another configuration.
        """
        try:
            everything: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            self.model.load_state_dict(everything["model"])
            self.scaffold.load_state_dict(everything["scaffold"])
            self.optimizer.load_state_dict(everything["optimizer"])
            torch.set_rng_state(everything["random"])
            self.step = everything["step"]
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(
                f"cannot resume from {path}: {reason}; "
                "resume with the run's own settings, or start a new run"
            ) from error
