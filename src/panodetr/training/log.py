"""The log of a run: lines, curves for TensorBoard, and a picture."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from panodetr.errors import PanodetrError
from panodetr.files import append_text, atomic_write, write_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

Line: TypeAlias = dict[str, Any]
"""A line of the log: the number of a step, and what is told of it."""

RATES = ("learning_rate", "gradient_norm", "images_per_second")

VALIDATED = {
    "validation: PQ": {"pq": "all", "pq_things": "things", "pq_stuff": "stuff"},
    "validation: box AP": {"boxes_ap": "AP", "boxes_ap50": "AP50", "boxes_ap75": "AP75"},
    "validation: mask AP": {
        "instances_ap": "AP", "instances_ap50": "AP50", "instances_ap75": "AP75",
    },
}  # fmt: skip
"""The figures of a validation that are drawn, 0 to 1, by panel and with the names of their curves;
the others are in the log."""

TITLES = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm, before clipping",
    "images_per_second": "images a second",
}


class Log:
    """Lines of JSON, each with the step it belongs to.

    A line has "losses" and the rates (`panodetr.training.observe.Progress`), or "validation" with
    figures, or "bad_step", or "note".
    """

    def __init__(self, path: Path, step: int, validated: int) -> None:
        """Go on after a step; what a killed run wrote past its state is dropped.

        Args:
            path: of the file.
            step: the last one that the state has done.
            validated: the last one whose validation it knows of; later ones are done again.

        Raises:
            PanodetrError: the system refused to read or write.
        """
        self.path = path
        kept = [
            line
            for line in read_log(path)
            if line["step"] <= (validated if "validation" in line else step)
        ]
        write_text(path, "".join(map(_text, kept)))

    def add(self, step: int, **what: object) -> Line:
        """Add a line, and give it.

        Raises:
            PanodetrError: the system refused to write.
        """
        line = {"step": step, **what}
        append_text(self.path, _text(line))
        return line


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"


class Board:
    """The same figures for TensorBoard."""

    def __init__(self, folder: Path, step: int, lines: Iterable[Line]) -> None:
        """Go on after a step.

        TensorBoard forgets what a killed run wrote of this step and later ones, and gets the points
        of this one again: only the log knows which of them are to be kept.

        Args:
            folder: of its files.
            step: the last one that is done.
            lines: of the log, as the run goes on with it.

        Raises:
            PanodetrError: the system refused to write.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own, about what it imports
            from torch.utils.tensorboard.writer import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=step)
        for line in lines:
            if line["step"] == step:
                self.add(line)

    def add(self, line: Line) -> None:
        """Add a point to the curve of each figure of a line.

        Raises:
            PanodetrError: the system refused to write.
        """
        groups: dict[str, dict[str, float]] = {
            "losses": line.get("losses", {}),
            "rates": {name: line[name] for name in RATES if name in line},
            "validation": line.get("validation", {}),
        }
        with self._told():
            for group, figures in groups.items():
                for name, value in figures.items():
                    self._writer.add_scalar(f"{group}/{name}", value, line["step"])
            self._writer.flush()

    def close(self) -> None:
        """Write what is left.

        Raises:
            PanodetrError: the system refused to write.
        """
        with self._told():
            self._writer.close()

    @contextmanager
    def _told(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise PanodetrError(f"cannot write {self._folder}: {reason}") from error


def read_log(path: Path) -> list[Line]:
    """Read the whole lines of a log; none where there is no log yet.

    A kill or a full disk can leave a part of a line, which is passed over.

    Raises:
        PanodetrError: the system refused to read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PanodetrError(f"cannot read {path}: {error.strerror or error}") from error
    lines = (_parse(line) for line in text.splitlines())
    return [line for line in lines if line is not None]


def _parse(line: str) -> Line | None:
    """Give the fields of a line; None for what is no line of a log."""
    try:
        fields: object = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("step"), int):
        return None
    return fields


def plot_log(lines: list[Line], picture: Path) -> None:
    """Draw each loss, the figures of the validations, and the rates over the steps.

    Raises:
        PanodetrError: the system refused to write.
    """
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        figures: dict[str, float] = line.get("validation", {})
        shown = [(f"loss: {name}", name, value) for name, value in line.get("losses", {}).items()]
        shown += [(TITLES[name], name, line[name]) for name in RATES if name in line]
        shown += [
            (panel, curve, figures[name])
            for panel, curves in VALIDATED.items()
            for name, curve in curves.items()
            if name in figures
        ]
        for panel, name, value in shown:
            panels.setdefault(panel, {}).setdefault(name, []).append((line["step"], value))
    if not panels:
        return
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(15, 2.8 * rows), layout="constrained")
    for place, (panel, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 4, place)
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), ".-" if len(points) < 20 else "-", label=name)
        axes.set_title(panel)
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.03 * lines[-1]["step"])
        axes.grid(alpha=0.3)
        if panel in VALIDATED:
            highest = max(value for points in curves.values() for _, value in points)
            axes.set_ylim(0, 1.1 * highest or 1)
            axes.legend(fontsize="small")
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def scalars(metrics: Mapping[str, object], within: str = "") -> dict[str, float]:
    """Give the figures over all classes: `boxes_ap` stands within "boxes"."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and name != "per_class":
            found |= scalars(value, f"{within}{name}_")
        elif isinstance(value, int | float) and name not in ("images", "step"):
            found[within + name] = float(value)
    return found
