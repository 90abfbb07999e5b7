"""What `panodetr eval` shows: tables in percent, as papers have them, and plots."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from panodetr.evaluation.metrics import Figures
from panodetr.evaluation.panoptic_quality import PanopticFigures
from panodetr.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    columns: list[tuple[str, list[str]]] = []
    for task, key in (("boxes", "ap"), ("instances", "segm_ap")):
        if (measured := getattr(figures, task)) is not None:
            columns.append((task, [percent(getattr(measured, name)) for name in NAMES]))
            if key in published:
                columns.append(("published", [f"{published[key]:.1f}"] + [""] * (len(NAMES) - 1)))
    return _table("%", NAMES.values(), columns)


def panoptic_quality(figures: PanopticFigures, published: Mapping[str, float]) -> Table:
    """Lay out the figures over all classes, the things and the stuff."""
    means = {"": figures.all, "_things": figures.things, "_stuff": figures.stuff}
    columns = [
        (heading, [percent(getattr(mean, key)) for mean in means.values()])
        for heading, key in (("PQ", "pq"), ("SQ", "sq"), ("RQ", "rq"), ("F1", "rq"))
    ]
    if "pq" in published:
        columns += [
            (f"published {key.upper()}", [f"{published[key + suffix]:.1f}" for suffix in means])
            for key in ("pq", "sq", "rq")
        ]
    return _table("%", ("all", "things", "stuff"), columns)


def per_class(figures: Figures) -> Table:
    """Lay out a row for each class that occurs."""
    rows = _class_figures(figures)
    headings = dict.fromkeys(heading for row in rows.values() for heading in row)
    columns = [
        (heading, [percent(row[heading]) if heading in row else "" for row in rows.values()])
        for heading in headings
    ]
    return _table("class", rows, columns)


def _table(
    corner: str, names: Iterable[str], columns: Sequence[tuple[str, Sequence[str]]]
) -> Table:
    table = Table(corner, box=None, pad_edge=False)
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for name, *cells in zip(names, *(cells for _, cells in columns), strict=True):
        table.add_row(Text(name), *cells)  # a name may hold brackets: markup in a plain string
    return table


def _class_figures(figures: Figures) -> dict[str, dict[str, float | None]]:
    """Give the figures of each class that occurs, by its name and their headings."""
    rows: dict[str, dict[str, float | None]] = {}
    for title, found in (("box", figures.boxes), ("mask", figures.instances)):
        for name, of in found.per_class.items() if found else ():
            if of.truths:
                own = {"objects": of.truths, f"{title} AP": of.ap, f"{title} AP50": of.ap50}
                rows.setdefault(name, {}).update(own)
    for name, of in figures.panoptic.per_class.items() if figures.panoptic else ():
        if of.tp + of.fp + of.fn:
            rows.setdefault(name, {}).update({"PQ": of.pq, "SQ": of.sq, "RQ": of.rq})
    return rows


def plot(out: Path, figures: Figures) -> list[Path]:
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
    drawn = {"per_class": _per_class(_class_figures(figures))}
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


def _per_class(rows: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw one panel a figure and one bar a class, of the classes that occur."""
    from matplotlib.figure import Figure

    there = {title for row in rows.values() for title in row}
    titles = [title for title in ("box AP", "mask AP", "PQ") if title in there]
    picture = Figure((2 + 3 * len(titles), 1.2 + 0.2 * len(rows)), layout="constrained")
    panels = picture.subplots(1, max(1, len(titles)), sharey=True, squeeze=False)[0]
    for panel, title in zip(panels, titles, strict=False):
        values = [row.get(title) for row in rows.values()]
        shares = [float("nan") if value is None else 100 * value for value in values]
        panel.barh(list(rows), shares, height=0.7)
        panel.set(title=title, xlim=(0, 100), xlabel="%")
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()  # the first class on top
    return picture


def percent(value: float | None) -> str:
    """Write a fraction with one decimal, a count as it is, and a dash for nothing to measure."""
    if isinstance(value, int):
        return str(value)
    return "-" if value is None else f"{100 * value:.1f}"
