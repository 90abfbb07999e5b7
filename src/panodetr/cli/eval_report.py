"""What `panodetr eval` shows: tables in percent, as papers have them, and plots."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from panodetr.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.metrics import Figures
    from panodetr.evaluation.panoptic_quality import MeanQuality, PanopticFigures

NAMES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar1": "AR of 1",
    "ar10": "AR of 10",
    "ar100": "AR of 100",
    "ar_small": "AR small",
    "ar_medium": "AR medium",
    "ar_large": "AR large",
}


def average_precision(figures: Figures, published: Mapping[str, float]) -> Table:
    """Lay out COCO's twelve figures, of boxes and of masks."""
    found = {
        "boxes": (figures.boxes, published.get("ap")),
        "instances": (figures.instances, published.get("segm_ap")),
    }
    columns = {task: given for task, given in found.items() if given[0] is not None}
    table = Table("%", box=None, pad_edge=False)
    for task, (_, known) in columns.items():
        table.add_column(task, justify="right")
        if known is not None:
            table.add_column("published", justify="right")
    for field, name in NAMES.items():
        row = [name]
        for measured, known in columns.values():
            row.append(percent(getattr(measured, field)))
            if known is not None:
                row.append(f"{known:.1f}" if field == "ap" else "")
        table.add_row(*row)
    return table


def panoptic_quality(figures: PanopticFigures, published: Mapping[str, float]) -> Table:
    """Lay out the figures over all classes, the things and the stuff."""
    table = Table("%", box=None, pad_edge=False)
    for heading in ("PQ", "SQ", "RQ", "F1"):
        table.add_column(heading, justify="right")
    keys = ("pq", "sq", "rq") if "pq" in published else ()
    for key in keys:
        table.add_column(f"published {key.upper()}", justify="right")
    rows: dict[str, tuple[MeanQuality, str]] = {
        "all": (figures.all, ""),
        "things": (figures.things, "_things"),
        "stuff": (figures.stuff, "_stuff"),
    }
    for name, (mean, suffix) in rows.items():
        measured = [percent(value) for value in (mean.pq, mean.sq, mean.rq, mean.rq)]
        table.add_row(name, *measured, *(f"{published[key + suffix]:.1f}" for key in keys))
    return table


def per_class(figures: Figures, truth: GroundTruth) -> Table:
    """Lay out a row for each class that occurs."""
    table = Table("class", box=None, pad_edge=False)
    rows = _class_figures(figures, truth)
    headings = list(dict.fromkeys(heading for row in rows.values() for heading in row))
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = (percent(row[heading]) if heading in row else "" for heading in headings)
        table.add_row(Text(name), *cells)  # a name may hold brackets: markup in a plain string
    return table


def _class_figures(figures: Figures, truth: GroundTruth) -> dict[str, dict[str, float | None]]:
    """Give the figures of each class that occurs, by its name and their headings."""
    rows: dict[str, dict[str, float | None]] = {}
    for title, found in (("box", figures.boxes), ("mask", figures.instances)):
        pairs = zip(truth.object_categories, found.per_class, strict=True) if found else ()
        for category, of in pairs:
            if of.truths:
                own = {"objects": of.truths, f"{title} AP": of.ap, f"{title} AP50": of.ap50}
                rows.setdefault(category.name, {}).update(own)
    if figures.panoptic is not None:
        for category, of in zip(truth.segment_categories, figures.panoptic.per_class, strict=True):
            if of.tp + of.fp + of.fn:
                own = {"PQ": of.pq, "SQ": of.sq, "RQ": of.rq}
                rows.setdefault(category.name, {}).update(own)
    return rows


def plot(out: Path, figures: Figures, truth: GroundTruth) -> list[Path]:
    """Write `per_class.png`, and `precision_recall_TASK.png` for the boxes and masks that occur.

    Returns:
        What was written.

    Raises:
        PanodetrError: the system refused to write.
        ImportError: matplotlib is not installed.
    """
    from hotcoco.plot import pr_curve_iou_sweep
    from matplotlib.figure import Figure

    # hotcoco asks for weights that its font doesn't have; matplotlib would warn of each on stderr.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    drawn = {"per_class": _per_class(figures, truth)}
    for task, found in (("boxes", figures.boxes), ("instances", figures.instances)):
        if found is not None and found.ap is not None:
            picture = drawn[f"precision_recall_{task}"] = Figure((8, 6), layout="compressed")
            pr_curve_iou_sweep(found.counted, ax=picture.subplots())
    paths: list[Path] = []
    for name, picture in drawn.items():
        paths.append(out / f"{name}.png")
        with atomic_write(paths[-1]) as temporary:
            picture.savefig(temporary, dpi=120)
    return paths


def _per_class(figures: Figures, truth: GroundTruth) -> Figure:
    """Draw one panel a figure and one bar a class, of the classes that occur."""
    from matplotlib.figure import Figure

    rows = _class_figures(figures, truth)
    names = list(rows)
    there = {title for row in rows.values() for title in row}
    titles = [title for title in ("box AP", "mask AP", "PQ") if title in there]
    picture = Figure((2 + 3 * len(titles), 1.2 + 0.2 * len(names)), layout="constrained")
    panels = picture.subplots(1, max(1, len(titles)), sharey=True, squeeze=False)[0]
    for panel, title in zip(panels, titles, strict=False):
        values = [rows[name].get(title) for name in names]
        shares = [float("nan") if value is None else 100 * value for value in values]
        panel.barh(names, shares, height=0.7)
        panel.set(title=title, xlim=(0, 100), xlabel="%")
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()  # the first class on top
    return picture


def percent(value: float | None) -> str:
    """Write a fraction with one decimal, a count as it is, and a dash for nothing to measure."""
    if isinstance(value, int):
        return str(value)
    return "-" if value is None else f"{100 * value:.1f}"
