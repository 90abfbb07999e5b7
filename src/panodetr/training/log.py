"""What a run reports: observers, lines of the log, and their curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from panodetr.errors import PanodetrError, reason_of
from panodetr.files import atomic_write

if TYPE_CHECKING:  # the command line imports this, and starts without torch
    from panodetr.model.network import Network
    from panodetr.objective.targets import Batch
    from panodetr.training.validate import Validation


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of the log: means since the line before.

    Attributes:
        step: steps done.
        losses: unweighted, of the last decoder layer; "total" is what is minimised.
        learning_rate: of all but the backbone.
        gradient_norm: before it is clipped.
        images_per_second: speed, of all processes together.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    images_per_second: float


class Observer:
    """Receives the events of a run, for a log or the terminal. This base class ignores them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The run is over, by an error if there is one."""

    def note(self, text: str) -> None:
        """There is a line that the user should read."""

    def begin(self, step: int, steps: int, images: int) -> None:
        """The run begins, or goes on after a step; it has so many, each of so many images."""

    def batch(self, step: int, batch: Batch) -> None:
        """A step, counted from 1, is about to learn from a batch."""

    def stepped(self, step: int) -> None:
        """A step is done."""

    def progress(self, line: Progress) -> None:
        """A line of the log is due."""

    def bad_step(self, step: int, image_ids: Sequence[int], figures: dict[str, float]) -> None:
        """A step was skipped: a loss or the gradients' norm was not finite.

        Args:
            step: its number, counted from 1.
            image_ids: the data set's own ids of its images.
            figures: losses and gradient norm, as in `Progress`.
        """

    def validating(self, done: int, images: int) -> None:
        """So many of this process's images are predicted."""

    def validated(self, validation: Validation, model: Network) -> None:
        """A validation of the model is over."""


Line: TypeAlias = dict[str, Any]
"""A line of the log: the number of a step, and its figures."""

RATES = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm, before clipping",
    "images_per_second": "images a second",
}
"""Figures of a line beside the losses, and the titles of their panels."""

VALIDATED = {
    "validation: PQ": {"all": "pq", "things": "pq_things", "stuff": "pq_stuff"},
    "validation: box AP": {n.upper(): f"boxes_{n}" for n in ("ap", "ap50", "ap75")},
    "validation: mask AP": {n.upper(): f"instances_{n}" for n in ("ap", "ap50", "ap75")},
}
"""The figures of a validation that are drawn, 0 to 1, by panel and curve."""


def read_log(path: Path) -> list[Line]:
    """Read the whole lines of a log; none where there is no log yet.

    A kill or a full disk can leave a part of a line, which is passed over.

    Raises:
        PanodetrError: the system refused to read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise PanodetrError(f"cannot read {path}: {reason_of(error)}") from error
    lines: list[Line] = []
    for line in text.splitlines():
        with suppress(ValueError):
            fields: object = json.loads(line)
            if isinstance(fields, dict) and isinstance(fields.get("step"), int):
                lines.append(fields)
    return lines


def plot_log(lines: list[Line], picture: Path) -> None:
    """Draw each loss, the figures of the validations, and the rates over the steps.

    Raises:
        PanodetrError: the system refused to write.
    """
    from matplotlib.figure import Figure

    places = {name: (title, name) for name, title in RATES.items()}  # a panel and a curve
    places |= {n: (panel, c) for panel, curves in VALIDATED.items() for c, n in curves.items()}
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        losses: dict[str, float] = line.get("losses", {})
        shown = [(f"loss: {name}", name, value) for name, value in losses.items()]
        figures: dict[str, float] = {**line, **line.get("validation", {})}
        shown += [(*place, figures[name]) for name, place in places.items() if name in figures]
        for panel, name, value in shown:
            panels.setdefault(panel, {}).setdefault(name, []).append((line["step"], value))
    if not panels:
        return
    rows = -(-len(panels) // 4)
    height = 2.8 * rows  # inches
    figure = Figure(figsize=(15, height))
    figure.subplots_adjust(
        left=0.04, right=0.99, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.22, hspace=0.45
    )  # a constrained layout takes as long as all else
    for place, (panel, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 4, place)
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), ".-" if len(points) < 20 else "-", label=name)
        axes.set_title(panel)
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.03 * max(1, lines[-1]["step"]))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.grid(alpha=0.3)
        if panel in VALIDATED:
            highest = max(value for points in curves.values() for _, value in points)
            axes.set_ylim(0, 1.1 * highest or 1)
            axes.legend(fontsize="small")
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
