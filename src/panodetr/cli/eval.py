"""`panodetr eval`: average precision and panoptic quality, of a model or of results in files.

Figures are shown in percent, as papers have them, and as plots.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.options import EngineOptions, Fraction, ModelOptions, SourceOptions
from panodetr.cli.output import QUIET, counting, print_error, print_json, print_line, print_table
from panodetr.errors import CheckpointError, UsageError
from panodetr.files import atomic_write, check_writable, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure
    from rich.table import Table

    from panodetr.evaluation.ground_truth import GroundTruth, Task
    from panodetr.evaluation.metrics import Figures
    from panodetr.evaluation.panoptic_quality import PanopticFigures
    from panodetr.predict import Predictor

OUT = Path("panodetr-eval")

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


def evaluate(
    *,
    data: Path | None = None,
    split: str | None = None,
    task: str | None = None,
    threshold: Fraction | None = None,
    predictions: Path | None = None,
    ground_truth: Annotated[Path | None, Parameter(name=["--ground-truth", "--truth"])] = None,
    allow_missing: bool = False,
    max_detections: Annotated[int, Parameter(validator=Number(gte=10))] = 100,
    store_thresholds: Annotated[bool, Parameter(negative="")] = False,
    out: Path = OUT,
    json: bool = False,
    files: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
    engine: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
) -> int:
    """Measure box AP, mask AP and panoptic quality as COCO does.

    With --data, run a model on a data set's images and write its predictions in COCO's formats.
    With --predictions and --ground-truth, score the results in a file.

    Args:
        data: A data set in any format that training reads.
        split: The split to measure. Default: val, or all of a data set without splits.
        task: Some of boxes, instances and panoptic, separated by commas. Default: what the data set
            annotates.
        threshold: Least score of a segment, 0 to 1. Default: the model's own.
        predictions: A file of COCO's detection, segmentation or panoptic results; the id maps of
            the latter lie in the folder of the same name beside the file.
        ground_truth: COCO's JSON, of instances or panoptic.
        allow_missing: Leave out images that do not exist, and count images without predictions as
            empty; says how many.
        max_detections: How many results of a class count in an image for average precision: the
            best. COCO's is 100.
        store_thresholds: Store the best least score of each thing with the model, a folder of your
            own: the one with the highest F1 at IoU 0.5, of masks, or of boxes where there are none.
        out: The folder for metrics.json, the predictions and the plots.
        json: Print metrics.json's contents instead of tables.
        files: Where the data set's files are.
        engine: How a large set is shared out; with ray, predictions are not written.
        model: Which model, and how it runs.

    Raises:
        UsageError: the options contradict each other.
        PanodetrError: data, predictions or model were refused, or the files cannot be written.
    """
    from panodetr.evaluation.evaluate import evaluate as measure
    from panodetr.evaluation.evaluate import score
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.metrics import metrics

    from_files = predictions is not None or ground_truth is not None
    if from_files == (data is not None):
        raise UsageError("expected --data FOLDER, or --predictions FILE with --ground-truth FILE")
    check_writable(out, folder=True)
    own = _own_config(model.model) if store_thresholds and data is not None else None
    QUIET.set(QUIET.get() or json)
    predictor: Predictor | None = None
    if data is not None:
        predictor = model.load()
        named: Any = {}  # the model's only thing is what objects are that the data doesn't name
        if len(things := [c.name for c in predictor.spec.categories if c.is_thing]) == 1:
            named["class_name"] = things[0]
        truth = GroundTruth.open(files.open(data), split, allow_missing=allow_missing, **named)
        measured = _tasks(task, truth, predictor)
        if own is not None:
            kind: Task = "instances" if predictor.spec.architecture.masks else "boxes"
            measured = tuple(dict.fromkeys((*measured, kind)))
        with counting("evaluated") as progress:
            common: Any = {"threshold": threshold, "max_detections": max_detections}
            common["progress"] = progress
            if engine.engine == "ray":
                from panodetr.scale.engines import evaluate_shares

                cluster, size = engine.cluster(model), engine.part_size
                counts = evaluate_shares(model.load, truth, measured, cluster, size=size, **common)
            else:
                counts = measure(predictor, truth, measured, out=out, **common)
    else:
        if predictions is None or ground_truth is None:
            raise UsageError("--predictions and --ground-truth go together; give both")
        of_model = {"split": split, "task": task, "threshold": threshold}
        of_model |= {"tiles": model.tiles, "overlap": model.overlap}
        of_model |= {"store-thresholds": store_thresholds or None}
        for option, given in of_model.items():
            if given is not None:
                raise UsageError(f"--{option} is for --data; a file says what it holds")
        truth = GroundTruth.read(ground_truth)
        counts = score(
            predictions, truth, allow_missing=allow_missing, max_detections=max_detections
        )
    figures = counts.compute()
    if own is not None:
        _store_thresholds(own, figures)
    report = metrics(figures, counts.seconds)
    write_json(out / "metrics.json", report)
    if truth.left_out:
        print_line(f"{truth.left_out} images are missing and were left out")
    if counts.beyond:
        print_line(
            f"{counts.beyond} images have more than {max_detections} objects of a class, and only "
            "so many results of it count for average precision; raise --max-detections"
        )
    if counts.missing:
        print_line(f"{counts.missing} images have no predictions and were counted as empty")
    _show(out, figures, None if predictor is None else predictor.spec.name)
    each = ""
    if counts.seconds is not None:
        each = f", {1000 * counts.seconds / max(1, figures.images):.0f} ms each"
    print_line(f"{figures.images} images{each}; everything is in {out}")
    if json:
        print_json(report)
    return 0


def _own_config(model: str) -> Path:
    """The configuration of a model, which may be rewritten."""
    from panodetr.checkpoints.spec import CONFIG_FILE, FORMAT
    from panodetr.validation import read_json

    file = Path(model) / CONFIG_FILE
    if not file.is_file() or read_json(file, dict[str, Any], UsageError).get("format") != FORMAT:
        raise UsageError(
            f"--store-thresholds changes {CONFIG_FILE} in the folder of a model of panodetr, and "
            f"--model is {model!r}; panodetr convert makes such a folder"
        )
    check_writable(file)
    return file


def _store_thresholds(config: Path, figures: Figures) -> None:
    from panodetr.checkpoints.spec import spec_from_json, spec_to_json
    from panodetr.validation import read_json

    of_objects = figures.instances or figures.boxes
    assert of_objects is not None
    found = {name: of.best_threshold for name, of in of_objects.per_class.items()}
    best = {name: score for name, score in found.items() if score is not None}
    # As it is in the file: tiles, bits and channels of this run are not the model's own.
    spec = spec_from_json(read_json(config, dict[str, Any], CheckpointError), str(config))
    write_json(config, spec_to_json(replace(spec, class_thresholds=best)))
    stored = ", ".join(f"{name} {score:g}" for name, score in best.items())
    print_line(f"least scores stored in {config}: {stored or 'none, nothing was found'}")


def _tasks(asked: str | None, truth: GroundTruth, model: Predictor) -> tuple[Task, ...]:
    """Choose what to measure: what was asked for, or what the data set itself annotates.

    Boxes and masks can be measured against a panoptic ground truth, too, but in an image of many
    tiles that takes several times as long as its panoptic quality: only where they are asked for.
    """
    from panodetr.evaluation.ground_truth import TASKS

    if asked is not None:
        given = asked.split(",")
        unknown = [name for name in given if name not in TASKS]
        if unknown:
            raise UsageError(f"--task has {unknown[0]!r}; expected {', '.join(TASKS)}, by commas")
        return tuple(task for task in TASKS if task in given)
    if not model.spec.architecture.masks:
        return ("boxes",)
    if truth.segment_categories and all(image.objects is None for image in truth.images):
        return ("panoptic",)
    return truth.tasks()


def _show(out: Path, figures: Figures, model: str | None) -> None:
    """Print the tables, beside the published figures where there are any, and draw the plots."""
    from panodetr.checkpoints.published import find_published

    known = find_published(model) if model else None
    published = known.figures if known else {}
    print_table(per_class(figures))
    if figures.boxes is not None or figures.instances is not None:
        print_line()
        print_table(average_precision(figures, published))
    if figures.panoptic is not None:
        print_line()
        print_table(panoptic_quality(figures.panoptic, published))
    if known:
        print_line(f"\nPublished figures of {known.hub_id}, on {known.data}.")
    if find_spec("matplotlib") is None:
        print_error("plots need matplotlib, which is not installed; pip install 'panodetr[plots]'")
    else:
        plot(out, figures)
    print_line()


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
    from rich.table import Table
    from rich.text import Text

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
