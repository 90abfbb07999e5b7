"""What a run tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.model.detr import Detr
    from panodetr.objective.targets import Batch
    from panodetr.training.validate import Validation


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of the log: means since the line before.

    Attributes:
        step: steps done.
        losses: unweighted, of the last decoder layer; "total" is what is minimised.
        learning_rate: of everything but the backbone.
        gradient_norm: before it is clipped.
        images_per_second: speed, of all processes together.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """A step that was skipped, because a loss or the gradients' norm was not finite.

    Attributes:
        step: its number, counted from 1.
        image_ids: the data set's own ids of its images.
        losses: as in `Progress`.
        gradient_norm: likewise.
    """

    step: int
    image_ids: Sequence[int]
    losses: dict[str, float]
    gradient_norm: float


class Observer(Protocol):
    """Whoever wants to know: the log, the terminal."""

    def note(self, text: str) -> None:
        """Something that a person should know, one line."""
        ...

    def begin(self, step: int, validated: int, steps: int, images: int) -> None:
        """The run goes on.

        Args:
            step: the steps that are done already.
            validated: the last one whose validation is known; 0 where there is none.
            steps: of the whole run.
            images: of a step.
        """
        ...

    def batch(self, step: int, batch: Batch) -> None:
        """What a step, counted from 1, is about to learn from."""
        ...

    def stepped(self, step: int) -> None:
        """A step is done."""
        ...

    def progress(self, line: Progress) -> None:
        """A line of the log is due."""
        ...

    def bad_step(self, bad: BadStep) -> None:
        """A step was skipped."""
        ...

    def validating(self, done: int, images: int) -> None:
        """So many of this process's images are predicted."""
        ...

    def validated(self, validation: Validation, model: Detr) -> None:
        """A validation of the model is over."""
        ...


class NullObserver:
    """An observer that keeps to itself: what the processes beside the first one tell."""

    def note(self, text: str) -> None:
        """Nothing."""

    def begin(self, step: int, validated: int, steps: int, images: int) -> None:
        """Nothing."""

    def batch(self, step: int, batch: Batch) -> None:
        """Nothing."""

    def stepped(self, step: int) -> None:
        """Nothing."""

    def progress(self, line: Progress) -> None:
        """Nothing."""

    def bad_step(self, bad: BadStep) -> None:
        """Nothing."""

    def validating(self, done: int, images: int) -> None:
        """Nothing."""

    def validated(self, validation: Validation, model: Detr) -> None:
        """Nothing."""
