"""Figures as pictures: precision over recall, and every class beside the others."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from panodetr.errors import PanodetrError
from panodetr.evaluation.detection import RECALLS
from panodetr.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from panodetr.evaluation.detection import DetectionFigures
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.tally import Figures

NAMED_CURVES = 10
"""With more classes than these, single curves cannot be told apart."""


class PlotsMissing(PanodetrError):
    """matplotlib is not installed."""


def plot(out: Path, figures: Figures, truth: GroundTruth) -> list[Path]:
    """Write `per_class.png`, and `precision_recall_TASK.png` for boxes and masks.

    Returns:
        What was written.

    Raises:
        PlotsMissing: matplotlib is not installed.
        PanodetrError: the system refused to write.
    """
    if find_spec("matplotlib") is None:
        raise PlotsMissing(
            "plots need matplotlib, which is not installed; pip install 'panodetr[plots]'"
        )
    names = [category.name for category in truth.object_categories]
    drawn: dict[str, Figure] = {"per_class": _per_class(_bars(figures, truth))}
    for task, found in (("boxes", figures.boxes), ("instances", figures.instances)):
        if found is not None:
            drawn[f"precision_recall_{task}"] = _precision_recall(found, names, task)
    paths: list[Path] = []
    for name, figure in drawn.items():
        paths.append(out / f"{name}.png")
        with atomic_write(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=120)
    return paths


def _bars(figures: Figures, truth: GroundTruth) -> dict[str, dict[str, float]]:
    """Give each figure's value by class, of classes that occur."""
    bars: dict[str, dict[str, float]] = {}
    for title, found in (("box AP", figures.boxes), ("mask AP", figures.instances)):
        if found is not None:
            pairs = zip(truth.object_categories, found.per_class, strict=True)
            bars[title] = {c.name: 100 * of.ap for c, of in pairs if of.ap is not None}
    if figures.panoptic is not None:
        pairs = zip(truth.segment_categories, figures.panoptic.per_class, strict=True)
        bars["PQ"] = {c.name: 100 * of.pq for c, of in pairs if of.tp + of.fp + of.fn}
    return bars


def _per_class(bars: Mapping[str, Mapping[str, float]]) -> Figure:
    """One panel a figure, one row a class."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for values in bars.values() for name in values))
    picture = Figure(figsize=(2 + 3 * len(bars), 1.2 + 0.2 * len(names)), layout="constrained")
    panels = picture.subplots(1, max(1, len(bars)), sharey=True, squeeze=False)[0]
    for panel, (title, values) in zip(panels, bars.items(), strict=False):
        panel.barh(names, [values.get(name, np.nan) for name in names], height=0.7)
        panel.set(title=title, xlim=(0, 100), xlabel="%")
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()  # the first class on top
    return picture


def _precision_recall(figures: DetectionFigures, names: list[str], task: str) -> Figure:
    """The mean over classes at three overlaps; at IoU 0.5 each class, named where they are few."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 5), layout="constrained")
    panel = picture.subplots()
    present = figures.precision[0, 0] > -1  # C
    for name, curve in zip(names, figures.precision[0].T, strict=True):
        if curve[0] > -1:
            label = name if present.sum() <= NAMED_CURVES else None
            panel.plot(RECALLS, curve, linewidth=0.8, alpha=0.5, label=label)
    means: dict[str, NDArray[np.float64]] = {
        "IoU 0.5": figures.precision[0],
        "IoU 0.75": figures.precision[5],
        "IoU 0.5 to 0.95": figures.precision.mean(axis=0),
    }
    for (label, curves), style in zip(means.items(), ("-", "--", ":"), strict=True):
        if present.any():
            mean = curves[:, present].mean(axis=1)
            panel.plot(RECALLS, mean, style, color="black", linewidth=2, label=label)
    panel.set(title=task, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    if present.any():
        panel.legend(fontsize="small")
    return picture
