"""`panodetr eval`: average precision and panoptic quality, of a model or of results in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_model, add_tiles, tiled
from panodetr.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands
    from panodetr.evaluation.ground_truth import GroundTruth, Task
    from panodetr.evaluation.metrics import Figures
    from panodetr.predict import Predictor

OUT = Path("panodetr-eval")


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "eval",
        help="measure a model on a data set, or results that any tool wrote",
        usage="panodetr eval [--model NAME|FOLDER] --data FOLDER [--split NAME] [--task T,T]\n"
        "       panodetr eval --predictions FILE --truth FILE",
        description="Measure box AP, mask AP and panoptic quality as COCO does. With --data, run a "
        "model on a data set's images and write what it finds in COCO's formats; with "
        "--predictions, score the results in a file.",
        epilog="FOLDER holds panoptic_NAME.json, the images in NAME/ and the id maps in "
        "panoptic_NAME/; or instances_NAME.json and the images; or COCO as it is unpacked, with "
        "annotations/; or the same without _NAME, and the images in images/; or YOLO data, or id "
        "maps beside images.",
    )
    add_model(parser)
    add_tiles(parser)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a data set, see below")
    parser.add_argument(
        "--split", metavar="NAME", help="(default: val, or the data set that has no splits)"
    )
    parser.add_argument(
        "--task",
        type=lambda text: text.split(","),
        metavar="T,T",
        help="of boxes, instances and panoptic (default: what the data set annotates)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="COCO's detection, segmentation or panoptic results, the id maps of the latter in the "
        "folder of the same name beside the file",
    )
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="COCO's JSON, of instances or panoptic"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave out images that aren't there, and count images without predictions as empty; "
        "says how many",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="where metrics.json, the predictions and the plots go (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the tables and write the files.

    Raises:
        UsageError: the options contradict each other.
        PanodetrError: data, predictions or model were refused, or the files cannot be written.
    """
    from_files = options.predictions is not None or options.truth is not None
    if from_files == (options.data is not None):
        raise UsageError("expected --data FOLDER, or --predictions FILE with --truth FILE")
    if not from_files:
        import panodetr

        loaded = panodetr.load(options.model, device=options.device, runtime=options.runtime)
        return evaluate_model(
            tiled(loaded, options),
            options.data,
            split=options.split,
            tasks=options.task,
            threshold=options.threshold,
            allow_missing=options.allow_missing,
            out=options.out,
        )
    if options.predictions is None or options.truth is None:
        raise UsageError("--predictions and --truth go together; give both")
    for given in ("split", "task", "threshold", "tiles", "overlap"):
        if getattr(options, given) is not None:
            raise UsageError(f"--{given} is for --data; a file says what it holds")
    return score_file(
        options.predictions, options.truth, allow_missing=options.allow_missing, out=options.out
    )


def evaluate_model(
    model: Predictor,
    data: Path,
    *,
    split: str | None,
    tasks: list[str] | None,
    threshold: float | None,
    allow_missing: bool,
    out: Path,
) -> int:
    """Run a model on a data set, print the tables and write the files.

    Args:
        model: what to measure.
        data: the data set's folder.
        split: its name; None takes "val", or the data set that has no splits.
        tasks: some of `TASKS`; None takes what the data set itself annotates.
        threshold: least score of a segment; None is the model's own.
        allow_missing: leave out images that are missing, and print how many.
        out: folder for `metrics.json`, the predictions and the plots.

    Raises:
        UsageError: there is no such task.
        PanodetrError: data or model were refused, or the files cannot be written.
    """
    from panodetr.cli.output import ProgressBar
    from panodetr.evaluation.evaluate import evaluate, write_metrics
    from panodetr.evaluation.ground_truth import GroundTruth

    truth = GroundTruth.open(data, split, allow_missing=allow_missing)
    measured = _tasks(tasks, truth, model)
    with ProgressBar(len(truth.images)) as progress:

        def count(done: int, total: int) -> None:
            progress.begin(f"evaluated {done} of {total}")
            progress.end()

        evaluation = evaluate(model, truth, measured, threshold=threshold, out=out, progress=count)
    write_metrics(out, evaluation, truth)
    if truth.left_out:
        print(f"{truth.left_out} images are missing and were left out")
    figures = evaluation.counts.compute()
    _show(out, figures, truth, model.spec.name)
    milliseconds = 1000 * evaluation.seconds / max(1, figures.images)
    print(f"{figures.images} images, {milliseconds:.0f} ms each; everything is in {out}")
    return 0


def score_file(predictions: Path, truth: Path, *, allow_missing: bool, out: Path) -> int:
    """Score results that any tool wrote, print the tables and write the files.

    Args:
        predictions: COCO's detection or panoptic results.
        truth: COCO's JSON of the ground truth, of the same kind.
        allow_missing: count images without predictions as empty, and print how many.
        out: folder for `metrics.json` and the plots.

    Raises:
        PanodetrError: the predictions were refused, or the files cannot be written.
    """
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.metrics import metrics
    from panodetr.evaluation.submitted import score
    from panodetr.files import write_json

    ground_truth = GroundTruth.read(truth)
    scored = score(predictions, ground_truth, allow_missing=allow_missing)
    figures = scored.counts.compute()
    write_json(out / "metrics.json", metrics(figures, ground_truth))
    if scored.missing:
        print(f"{scored.missing} images have no predictions and were counted as empty")
    _show(out, figures, ground_truth, None)
    print(f"{figures.images} images; everything is in {out}")
    return 0


def _tasks(given: list[str] | None, truth: GroundTruth, model: Predictor) -> tuple[Task, ...]:
    """Choose what to measure: what was asked for, or what the data set itself annotates.

    Boxes and masks can be measured against a panoptic ground truth, too, but in an image of many
    tiles that takes several times as long as its panoptic quality: only where they are asked for.

    Raises:
        UsageError: there is no such task.
    """
    from panodetr.evaluation.ground_truth import TASKS

    if given is not None:
        unknown = [name for name in given if name not in TASKS]
        if unknown:
            raise UsageError(f"--task has {unknown[0]!r}; expected {', '.join(TASKS)}, by commas")
        return tuple(task for task in TASKS if task in given)
    if not model.spec.architecture.masks:
        return ("boxes",)
    if truth.segment_categories and all(image.instances is None for image in truth.images):
        return ("panoptic",)
    return truth.tasks()


def _show(out: Path, figures: Figures, truth: GroundTruth, model: str | None) -> None:
    """Print the tables, beside the published figures where there are any, and draw the plots."""
    from panodetr.checkpoints.published import find_published
    from panodetr.cli.eval_report import (
        PlotsMissing,
        average_precision,
        panoptic_quality,
        per_class,
        plot,
    )
    from panodetr.cli.output import print_error, print_table

    known = find_published(model) if model else None
    published = known.figures if known else {}
    print_table(per_class(figures, truth))
    if figures.boxes is not None or figures.instances is not None:
        print()
        print_table(average_precision(figures, published))
    if figures.panoptic is not None:
        print()
        print_table(panoptic_quality(figures.panoptic, published))
    if known:
        print(f"\nPublished figures of {known.hub_id}, on {known.data}.")
    try:
        plot(out, figures, truth)
    except PlotsMissing as error:
        print_error(str(error))
    print()
