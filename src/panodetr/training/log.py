"""The log of a run: lines, curves for TensorBoard, and a picture."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from panodetr.errors import PanodetrError
from panodetr.files import write_text, written_whole

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

RATES = ("learning_rate", "gradient_norm", "photos_per_second")

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
    "photos_per_second": "photos a second",
}


class Log:
    """Lines of JSON, each with the step it belongs to.

    A line has "losses" and the rates (`panodetr.training.observe.Progress`), or "validation" with
    figures, or "bad_step", or "note".
    """

    def __init__(self, path: Path, step: int) -> None:
        """Go on after a step; the lines that a killed run wrote past it are dropped.

        Raises:
            PanodetrError: the system refused to write.
        """
        self.path = path
        self._lines = [line for line in read_log(path) if line["step"] <= step]
        self._write()

    def add(self, step: int, **what: object) -> None:
        """Add a line.

        Raises:
            PanodetrError: the system refused to write.
        """
        self._lines.append({"step": step, **what})
        self._write()

    def _write(self) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))


class Board:
    """The same figures for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after a step; TensorBoard forgets what a killed run, if any, wrote past it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own, about what it imports
            from torch.utils.tensorboard.writer import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, step: int, group: str, figures: Mapping[str, float]) -> None:
        """Add a point to the curve of each figure.

        Raises:
            PanodetrError: the system refused to write.
        """
        with self._told():
            for name, value in figures.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
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


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; none where there is no log yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_log(lines: list[dict[str, Any]], picture: Path) -> None:
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
    with written_whole(picture) as temporary:
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
