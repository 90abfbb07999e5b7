"""The tables of `panodetr eval`, in percent, as papers have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.panoptic import MeanQuality, PanopticFigures
    from panodetr.evaluation.tally import Figures

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
        measured = [percent(value) for value in (mean.pq, mean.sq, mean.rq, mean.f1)]
        table.add_row(name, *measured, *(f"{published[key + suffix]:.1f}" for key in keys))
    return table


def per_class(figures: Figures, truth: GroundTruth) -> Table:
    """Lay out a row for each class that occurs."""
    table = Table("class", box=None, pad_edge=False)
    cells: dict[str, dict[str, str]] = {}
    for title, found in (("box", figures.boxes), ("mask", figures.instances)):
        if found is None:
            continue
        for category, of in zip(truth.object_categories, found.per_class, strict=True):
            if of.truths:
                cells.setdefault(category.name, {}).update(
                    {
                        "objects": str(of.truths),
                        f"{title} AP": percent(of.ap),
                        f"{title} AP50": percent(of.ap50),
                    }
                )
    if figures.panoptic is not None:
        for category, of in zip(truth.segment_categories, figures.panoptic.per_class, strict=True):
            if of.tp + of.fp + of.fn:
                cells.setdefault(category.name, {}).update(
                    {"PQ": percent(of.pq), "SQ": percent(of.sq), "RQ": percent(of.rq)}
                )
    headings = list(dict.fromkeys(heading for row in cells.values() for heading in row))
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in cells.items():
        # a name may hold brackets, which are markup in a plain string
        table.add_row(Text(name), *(row.get(heading, "") for heading in headings))
    return table


def percent(value: float | None) -> str:
    """Write a fraction with one decimal; a dash where there is nothing to measure."""
    return "-" if value is None else f"{100 * value:.1f}"
