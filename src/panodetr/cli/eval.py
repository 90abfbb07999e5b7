"""`panodetr eval`: average precision and panoptic quality, of a model or of results in files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.engine import EngineOptions, evaluate_on_ray
from panodetr.cli.options import Fraction, ModelOptions, SourceOptions
from panodetr.cli.output import QUIET, ProgressBar, print_error, print_json, print_line, print_table
from panodetr.errors import UsageError

if TYPE_CHECKING:
    from panodetr.evaluation.ground_truth import GroundTruth, Task
    from panodetr.evaluation.metrics import Figures
    from panodetr.predict import Predictor

OUT = Path("panodetr-eval")


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
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.metrics import metrics
    from panodetr.evaluation.submitted import score
    from panodetr.files import check_writable, write_json

    from_files = predictions is not None or ground_truth is not None
    if from_files == (data is not None):
        raise UsageError("expected --data FOLDER, or --predictions FILE with --ground-truth FILE")
    check_writable(out, folder=True)
    QUIET.set(QUIET.get() or json)
    name: str | None = None
    if data is not None:
        predictor = model.load()
        name = predictor.spec.name
        truth = GroundTruth.open(files.open(data), split, allow_missing=allow_missing)
        measured = _tasks(task, truth, predictor)
        if engine.engine == "ray":
            counts = evaluate_on_ray(
                truth, measured, engine, model, threshold=threshold, max_detections=max_detections
            )
        else:
            with ProgressBar(len(truth.images)) as progress:

                def count(done: int, total: int) -> None:
                    progress.begin(f"evaluated {done} of {total}")
                    progress.end()

                counts = measure(
                    predictor,
                    truth,
                    measured,
                    threshold=threshold,
                    max_detections=max_detections,
                    out=out,
                    progress=count,
                )
    else:
        if predictions is None or ground_truth is None:
            raise UsageError("--predictions and --ground-truth go together; give both")
        of_model = {"split": split, "task": task, "threshold": threshold}
        of_model |= {"tiles": model.tiles, "overlap": model.overlap}
        for option, given in of_model.items():
            if given is not None:
                raise UsageError(f"--{option} is for --data; a file says what it holds")
        truth = GroundTruth.read(ground_truth)
        counts = score(
            predictions, truth, allow_missing=allow_missing, max_detections=max_detections
        )
    figures = counts.compute()
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
    _show(out, figures, name)
    each = ""
    if counts.seconds is not None:
        each = f", {1000 * counts.seconds / max(1, figures.images):.0f} ms each"
    print_line(f"{figures.images} images{each}; everything is in {out}")
    if json:
        print_json(report)
    return 0


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
    from panodetr.cli.eval_report import average_precision, panoptic_quality, per_class, plot

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
