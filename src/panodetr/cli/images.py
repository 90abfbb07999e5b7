"""`panodetr segment` and `panodetr detect`: images in; tables, overlays, id maps and JSON out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.formats import FormatOptions, FormatWriter
from panodetr.cli.options import Fraction, ModelOptions
from panodetr.cli.output import ProgressBar, print_error, print_json, print_line, print_table
from panodetr.errors import PanodetrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from panodetr.images.read import Page
    from panodetr.predict import Predictor
    from panodetr.results.result import DetectionResult, PanopticResult

OUT = Path("panodetr-out")
ROWS = 12  # of a table, the best scores; an image may have hundreds of segments

Inputs = Annotated[list[str], Parameter(name="INPUT")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where results go.

    Attributes:
        out: The folder for files. Default: panodetr-out; with --json alone, no files are written.
        json: Print one JSON object per image, one per line, and nothing else on stdout.
        page: Take this page of each file, from 1. Default: each page of a TIFF or GIF is an image.
    """

    out: Path | None = None
    json: bool = False
    page: Annotated[int | None, Parameter(validator=Number(gte=1))] = None


def segment(
    inputs: Inputs,
    /,
    *,
    threshold: Fraction | None = None,
    task: Literal["panoptic", "instances", "semantic"] = "panoptic",
    output: OutputOptions = OutputOptions(),
    formats: FormatOptions = FormatOptions(),  # noqa: B008 - frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
) -> int:
    """Find every object and region in images.

    Writes, for each image, an overlay, a COCO panoptic id map (PNG) and a JSON with its segments.
    An image that cannot be read is reported; the others are still done, and the exit code is 1.

    Args:
        inputs: Images, folders of images, or patterns.
        threshold: Least score of a segment, 0 to 1. Default: the model's own.
        task: Give each pixel to one object or region; find objects alone; or give each pixel a
            class.
        output: Where results go.
        formats: What is written beside.
        model: Which model, and how it runs.

    Raises:
        UsageError: a semantic segmentation was given a threshold.
        PanodetrError: the model or the device was refused.
    """
    if task == "semantic" and threshold is not None:
        raise UsageError("--task semantic takes no --threshold: every pixel gets a class")
    return _run(
        inputs,
        output,
        formats,
        model,
        lambda predictor, image: predictor.segment(image, threshold=threshold, task=task),
    )


def detect(
    inputs: Inputs,
    /,
    *,
    threshold: Fraction = 0.5,
    masks: bool = False,
    output: OutputOptions = OutputOptions(),
    formats: FormatOptions = FormatOptions(),  # noqa: B008 - frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
) -> int:
    """Find the objects in images as boxes.

    Writes, for each image, a picture with their boxes and a JSON with classes, scores, boxes and,
    with --masks, masks. An image that cannot be read is reported; the others are still done, and
    the exit code is 1.

    Args:
        inputs: Images, folders of images, or patterns.
        threshold: Least score of an object, 0 to 1.
        masks: Find each object's pixels, too; in the JSON as COCO's run lengths.
        output: Where results go.
        formats: What is written beside.
        model: Which model, and how it runs.

    Raises:
        PanodetrError: the model or the device was refused.
    """
    return _run(
        inputs,
        output,
        formats,
        model,
        lambda predictor, image: predictor.detect(image, threshold=threshold, masks=masks),
    )


def _run(
    inputs: Sequence[str],
    output: OutputOptions,
    formats: FormatOptions,
    options: ModelOptions,
    predict: Callable[[Predictor, Path | Page], PanopticResult | DetectionResult],
) -> int:
    """Run a model on every image, save and print what it finds, and give the exit code."""
    images, failed = _find(inputs, output.page, as_json=output.json)
    if not images:
        return 1
    out = output.out or (None if output.json and not formats.any else OUT)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder")
    model = options.load()
    writer = None
    if out and formats.any:
        paths = [image if isinstance(image, Path) else image.path for image in images]
        writer = FormatWriter(formats, out, options.model, paths)
    with ProgressBar(len(images)) as progress:
        for image in images:
            name = str(image if isinstance(image, Path) else image.name)
            progress.begin(name)
            try:
                result = predict(model, image)
                files: dict[str, Path] = asdict(result.save(out)) if out else {}
                if writer is not None:
                    files |= writer.add(result, files["json"])
            except PanodetrError as error:
                failed += 1
                with progress.paused():
                    _print_failure(name, error, as_json=output.json)
            else:
                with progress.paused():
                    if output.json:
                        print_json({**result.to_dict(), "files": files})
                    else:
                        print_line(f"\n{name}: ", end="")
                        _show(result)
                        for key, path in files.items():
                            print_line(f"{key:8} {path}")
            progress.end()
    for path in writer.finish() if writer is not None else []:
        if not output.json:
            print_line(f"{path.suffix.lstrip('.'):8} {path}")
    return 1 if failed else 0


def _find(
    inputs: Sequence[str], page: int | None, *, as_json: bool
) -> tuple[list[Path | Page], int]:
    """List the images, each once, and count the inputs that stand for none, which are reported.

    Each page of a file is an image, or only the one that is asked for.
    """
    from panodetr.images.read import Page, find_images, find_pages

    found: dict[Path, Path] = {}
    failed = 0
    for given in inputs:
        try:
            for image in find_images([given]):
                found.setdefault(image.resolve(), image)
        except PanodetrError as error:
            failed += 1
            _print_failure(given, error, as_json=as_json)
    images: list[Path | Page] = []
    for image in found.values():
        try:
            pages = find_pages(image)
        except PanodetrError:  # said when it is read
            pages = [1]
        if pages == [page or 1]:
            images.append(image)
        else:
            images += [Page(image, number) for number in ([page] if page else pages)]
    return images, failed


def _print_failure(source: str, error: PanodetrError, *, as_json: bool) -> None:
    """Report an input that failed; to a program, in place of its result."""
    print_error(str(error))
    if as_json:
        print_json({"source": str(Path(source).absolute()), "error": str(error)})


def _show(result: PanopticResult | DetectionResult) -> None:
    """Print how many there are of each class, and a table of those with the best scores."""
    from rich.table import Column, Table
    from rich.text import Text

    from panodetr.results.result import PanopticResult
    from panodetr.results.types import Segment

    found = result.segments if isinstance(result, PanopticResult) else result.detections
    counted = Counter(one.label for one in found).most_common()
    print_line(", ".join(f"{count} {label}" for label, count in counted) or "nothing found")
    if not found:
        return
    number, score, box, area = (
        Column(head, justify="right") for head in ("segment", "score", "box x0 y0 x1 y1", "area")
    )
    of_segments = (number, "label", "kind", score, box, area)
    heads = of_segments if isinstance(result, PanopticResult) else ("label", score, box)
    table = Table(*heads, box=None, pad_edge=False)
    for one in sorted(found, key=lambda one: -one.score)[:ROWS]:
        row = [one.label, f"{one.score:.2f}", " ".join(f"{edge:.0f}" for edge in one.box)]
        if isinstance(one, Segment):
            row.insert(1, "thing" if one.is_thing else "stuff")
            row = [str(one.id), *row, f"{one.area} px"]
        table.add_row(*map(Text, row))  # a label may hold brackets, which are markup otherwise
    print_table(table)
    if len(found) > ROWS:
        print_line(f"… and {len(found) - ROWS} more, all in the JSON")
