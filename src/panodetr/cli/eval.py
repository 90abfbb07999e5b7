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
    from panodetr.evaluation.tally import Figures
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
        "annotations/; or the same without _NAME, and the images in images/.",
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
        return _evaluate(options)
    if options.predictions is None or options.truth is None:
        raise UsageError("--predictions and --truth go together; give both")
    for given in ("split", "task", "threshold", "tiles", "overlap"):
        if getattr(options, given) is not None:
            raise UsageError(f"--{given} is for --data; a file says what it holds")
    return _score(options)


def _evaluate(options: argparse.Namespace) -> int:
    """Run a model on a data set."""
    import panodetr
    from panodetr.cli.output import ProgressBar
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.run import evaluate, write_metrics

    truth = GroundTruth.open(options.data, options.split, allow_missing=options.allow_missing)
    loaded = panodetr.load(options.model, device=options.device, runtime=options.runtime)
    model = tiled(loaded, options)
    tasks = _tasks(options.task, truth, model)
    with ProgressBar(len(truth.images)) as progress:

        def count(done: int, total: int) -> None:
            progress.begin(f"evaluated {done} of {total}")
            progress.end()

        evaluation = evaluate(
            model, truth, tasks, threshold=options.threshold, out=options.out, progress=count
        )
    write_metrics(options.out, evaluation, truth)
    if truth.left_out:
        print(f"{truth.left_out} images are missing and were left out")
    figures = evaluation.tally.compute()
    _show(options.out, figures, truth, model.spec.name)
    milliseconds = 1000 * evaluation.seconds / max(1, figures.images)
    print(f"{figures.images} images, {milliseconds:.0f} ms each; everything is in {options.out}")
    return 0


def _score(options: argparse.Namespace) -> int:
    """Score results that are there already."""
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.metrics import metrics
    from panodetr.evaluation.submitted import score
    from panodetr.files import write_json

    truth = GroundTruth.read(options.truth)
    scored = score(options.predictions, truth, allow_missing=options.allow_missing)
    figures = scored.tally.compute()
    write_json(options.out / "metrics.json", metrics(figures, truth))
    if scored.missing:
        print(f"{scored.missing} images have no predictions and were counted as empty")
    _show(options.out, figures, truth, None)
    print(f"{figures.images} images; everything is in {options.out}")
    return 0


def _tasks(given: list[str] | None, truth: GroundTruth, model: Predictor) -> tuple[Task, ...]:
    """Say what to measure: what was asked for, or what the data set itself annotates.

    Boxes and masks can be measured against a panoptic truth, too, but in an image of many tiles
    that takes several times as long as its panoptic quality: only where they are asked for.

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
    from panodetr.cli.eval_tables import average_precision, panoptic_quality, per_class
    from panodetr.cli.output import print_error, print_table
    from panodetr.evaluation.plots import PlotsMissing, plot

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
