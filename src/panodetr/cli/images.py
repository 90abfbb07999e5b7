"""`panodetr segment` and `panodetr detect`: images in; tables, overlays, id maps and JSON out."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from cyclopts import Parameter

from panodetr.cli.formats import FormatWriter
from panodetr.cli.large import run_parts, segment_by_blocks
from panodetr.cli.options import Fraction, ImageOptions
from panodetr.cli.output import (
    ProgressBar,
    print_error,
    print_json,
    print_line,
    print_note,
    print_table,
)
from panodetr.errors import PanodetrError, UsageError
from panodetr.files import atomic_write, check_writable
from panodetr.threads import prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from panodetr.images.read import ImageSource
    from panodetr.images.sources import Source
    from panodetr.predict import Predictor, Refuse
    from panodetr.results.result import ImageResult

    Predict: TypeAlias = Callable[[Predictor, Iterable[ImageSource], Refuse], Iterator[ImageResult]]

OUT = Path("panodetr-out")
WAITING = 2  # results that wait to be written
ROWS = 12  # of a table, the best scores; an image may have hundreds of segments

Inputs = Annotated[list[str], Parameter(name="INPUT")]


def segment(
    inputs: Inputs,
    /,
    *,
    threshold: Fraction | None = None,
    task: Literal["panoptic", "instances", "semantic"] = "panoptic",
    large: bool = False,
    options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> int:
    """Find every object and region in images.

    Writes, for each image, an overlay, a COCO panoptic id map (PNG) and a JSON with its segments.
    An image that cannot be read is reported; the others are still done, and the exit code is 1.

    Args:
        inputs: Images, folders of images, patterns, URLs, - for standard input, archives (tar,
            zip), Parquet, Hugging Face data sets on disk, and videos.
        threshold: Least score of a segment, 0 to 1. Default: the model's own.
        task: Give each pixel to one object or region; find objects alone; or give each pixel a
            class.
        large: Read TIFFs and OME-Zarr that are larger than memory by regions, and write the objects
            as a tiled TIFF of labels and as GeoJSON. Needs the extra large.
        options: Files, formats, model, and how a large run is shared out.

    Raises:
        UsageError: a semantic segmentation was given a threshold, or --large what it cannot do.
        PanodetrError: the model or the device was refused.
    """
    if task == "semantic" and threshold is not None:
        raise UsageError("--task semantic takes no --threshold: every pixel gets a class")
    if large:
        out = OUT if options.files.out is None else Path(options.files.out)
        return segment_by_blocks(inputs, out, options, threshold=threshold, task=task)
    from panodetr.results.result import PanopticResult

    run = _Run(
        options,
        PanopticResult,
        lambda predictor, images, refuse: predictor.segment_each(
            images, threshold=threshold, task=task, refuse=refuse
        ),
    )
    return run.run(inputs, partial(run_parts, task=task, threshold=threshold))


def detect(
    inputs: Inputs,
    /,
    *,
    threshold: Fraction | None = None,
    masks: bool = False,
    options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> int:
    """Find the objects in images as boxes.

    Writes, for each image, an overlay with their boxes and a JSON with classes, scores, boxes and,
    with --masks, masks. An image that cannot be read is reported; the others are still done, and
    the exit code is 1.

    Args:
        inputs: Images, folders of images, patterns, URLs, - for standard input, archives (tar,
            zip), Parquet, Hugging Face data sets on disk, and videos.
        threshold: Least score of an object, 0 to 1. Default: 0.5, or what was chosen for the
            model's classes.
        masks: Find each object's pixels, too; in the JSON as COCO's run lengths.
        options: Files, formats, model, and how a large run is shared out.

    Raises:
        PanodetrError: the model or the device was refused.
    """
    from panodetr.results.result import DetectionResult

    run = _Run(
        options,
        DetectionResult,
        lambda predictor, images, refuse: predictor.detect_each(
            images, threshold=threshold, masks=masks, refuse=refuse
        ),
    )
    return run.run(inputs, partial(run_parts, task=None, threshold=threshold, masks=masks))


class _Run:
    """Runs a model on images, and saves and prints what it finds: to people, or as JSON."""

    def __init__(self, options: ImageOptions, kind: type[ImageResult], predict: Predict) -> None:
        self._files, self._formats, self._options = options.files, options.formats, options
        self._kind, self._predict = kind, predict
        self._writer: FormatWriter | None = None
        self._failed = self._skipped = 0
        self._out = None if options.files.json and not options.formats.asked else OUT
        if options.files.out:
            self._out = Path(options.files.out)

    def run(self, inputs: Sequence[str], in_parts: Callable[..., int]) -> int:
        """Process every image, and give the exit code; `in_parts` does it for `--engine`."""
        from panodetr.images.sources import find_sources

        files, formats, options = self._files, self._formats, self._options
        passed_over: list[str] = []
        sources = find_sources(
            inputs,
            recursive=files.recursive,
            page=files.page,
            every=files.every,
            refuse=self._fail,
            passed_over=passed_over,
        )
        if not sources:
            _note_passed_over(passed_over)
            return 1
        if options.engine.engine is not None:
            if formats.asked:
                raise UsageError(
                    f"--{formats.asked[0]} is for files of each image; leave --engine out"
                )
            code = in_parts(sources, options)
            return code or int(self._failed > 0)
        self._check(sources)
        self._model = options.model.load()
        if self._out and formats.asked:
            paths = [Path(source.path) for source in sources]
            self._writer = FormatWriter(formats, self._out, options.model.model, paths)
        counts = [source.count() for source in sources]
        with ProgressBar(None if None in counts else sum(filter(None, counts))) as progress:
            self._progress = progress
            self._model.on_tiles = progress.tiles
            for is_video, together in groupby(sources, lambda source: source.is_video):
                if not is_video:
                    self._images(list(together))
                    continue
                for source in together:
                    try:
                        self._video(source)
                    except PanodetrError as error:
                        with self._step(source.path):
                            self._fail(source.path, error)
        for path in self._writer.finish() if self._writer is not None else ():
            self._show_files({path.suffix.lstrip("."): path})
        if self._skipped:
            print_note(f"{self._skipped} were done already and are skipped")
        _note_passed_over(passed_over)
        return 1 if self._failed else 0

    def _check(self, sources: Sequence[Source]) -> None:
        """Refuse options that contradict each other or the inputs, before any work is done."""
        files, formats, out = self._files, self._formats, self._out
        if out is not None and out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file; expected a folder")
        if files.resume and (of_all := formats.of_all_images):
            raise UsageError(
                f"--{of_all[0]} is written from the results of all images; leave --resume out"
            )
        if files.resume and out is None:
            raise UsageError("--resume looks for files that are there already; give --out FOLDER")
        if out is not None:
            check_writable(out, folder=True)
        videos = [source.path for source in sources if source.is_video]
        refused = [name for name in formats.asked if name != "csv"]
        if videos and refused:
            raise UsageError(
                f"{videos[0]} is a video, and --{refused[0]} is for images; take --csv"
            )

    def _images(self, sources: Sequence[Source]) -> None:
        """Run the model on images, and write the files of each."""
        for found in self._each(sources, self._is_left):
            files: dict[str, Path] = {}
            if not isinstance(found, _Failure):
                try:
                    files = asdict(found.save(self._out)) if self._out else {}
                    if self._writer is not None:
                        files |= self._writer.add(found, files["json"])
                except PanodetrError as error:
                    found = _Failure(found.source, error)
            with self._step(found.source):
                if isinstance(found, _Failure):
                    self._fail(*found)
                else:
                    self._show(found, {**found.to_dict(), "files": files}, files)

    def _video(self, source: Source) -> None:
        """Run the model on a video's frames; write one overlay, and a JSON line per frame."""
        from panodetr.images.sources import Frame
        from panodetr.results.result import free_name, origin
        from panodetr.results.video import Tracker, video_writer

        of_video = {"source": origin(Path(source.path)), "image": Path(source.path).name}
        out, endings = self._out, ("_frames.jsonl", "_overlay.mp4")
        name = "" if out is None else free_name(out, Path(source.path), endings, "frame")
        paths = [(out or OUT) / f"{name}{ending}" for ending in endings]
        if self._files.resume and paths[0].exists():
            self._skipped += 1
            return
        frames: dict[str, Frame] = {}

        def keep(frame: ImageSource) -> bool:
            assert isinstance(frame, Frame)
            frames[frame.name] = replace(frame, image=b"")  # its pixels are not held
            return True

        tracker, rows, draw = Tracker(), None, None
        with ExitStack() as opened:
            for found in self._each([source], keep):
                if isinstance(found, _Failure):
                    raise found.error
                result = tracker.add(found)
                frame = frames.pop(str(result.source))
                when = {"frame": frame.number, "time": round(frame.time, 4)}
                record = {**when, **result.to_dict(), **of_video}
                if out is not None and (rows is None or draw is None):
                    temporary = opened.enter_context(atomic_write(paths[0]))
                    rows = opened.enter_context(temporary.open("w", encoding="utf-8"))
                    rate = frame.rate / source.every
                    draw = opened.enter_context(video_writer(paths[1], rate))
                if rows is not None and draw is not None:
                    draw(result.draw())
                    rows.write(json.dumps(record, ensure_ascii=False) + "\n")
                if self._writer is not None:
                    self._writer.add_rows(result, of_video["image"], when)
                with self._step(result.source):
                    self._show(result, record, {})
        if draw is not None:
            self._show_files({"frames": paths[0], "overlay": paths[1]})

    def _each(
        self, sources: Sequence[Source], wanted: Callable[[ImageSource], bool]
    ) -> Iterator[ImageResult | _Failure]:
        """Give what is found in each image, or why it cannot be read, in their order.

        Reading, the network and the caller's writing overlap, each in a thread of its own.
        """
        from panodetr.images.read import origin_of
        from panodetr.images.sources import each_image

        failures: SimpleQueue[_Failure] = SimpleQueue()
        images = each_image(sources, lambda path, error: failures.put(_Failure(path, error)))

        def run() -> Iterator[ImageResult | _Failure]:
            refuse: Refuse = lambda i, e: failures.put(_Failure(origin_of(i), e))  # noqa: E731
            for result in self._predict(self._model, filter(wanted, images), refuse):
                yield from _drain(failures)
                yield result
            yield from _drain(failures)

        return prefetch(run(), WAITING)

    @contextmanager
    def _step(self, name: Path | str | None) -> Generator[None]:
        self._progress.begin(str(name))
        with self._progress.paused():
            yield
        self._progress.end()

    def _is_left(self, image: ImageSource) -> bool:
        """Whether an image is to be done: with --resume, only if it has no files yet."""
        from panodetr.images.read import origin_of
        from panodetr.results.result import is_saved

        source = origin_of(image)
        resume, out = self._files.resume, self._out
        done = resume and out and source and is_saved(out, source, self._kind)
        self._skipped += bool(done)
        return not done

    def _fail(self, source: Path | str | None, error: PanodetrError) -> None:
        """Report what cannot be read; to a program, in place of the image's result."""
        from panodetr.results.result import origin

        self._failed += 1
        print_error(str(error))
        if self._files.json:
            name = str(source)
            name = name if "://" in name else origin(Path(name))
            print_json({"source": name, "error": str(error)})

    def _show(self, result: ImageResult, record: dict[str, Any], files: dict[str, Path]) -> None:
        if self._files.json:
            print_json(record)
            return
        print_line(f"\n{result.source}: ", end="")
        _print_table(result)
        self._show_files(files)

    def _show_files(self, files: Mapping[str, Path]) -> None:
        for key, path in files.items():
            if not self._files.json:
                print_line(f"{key:8} {path}")


class _Failure(NamedTuple):
    """An image, or another input, that cannot be read."""

    source: Path | str | None
    error: PanodetrError


def _drain(failures: SimpleQueue[_Failure]) -> Iterator[_Failure]:
    while not failures.empty():
        yield failures.get()


def _note_passed_over(files: Sequence[str]) -> None:
    """Count the files in folders that are not images, and say what to do with some kinds."""
    from panodetr.images.read import remedy_for

    if not files:
        return
    kinds = Counter(Path(file).suffix.lower() or "without suffix" for file in files)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    remedies = dict.fromkeys(f"; {remedy}" for file in files if (remedy := remedy_for(file)))
    what = "skipped, because they are not images, or are results"
    print_note(f"{what}: {counted}{''.join(remedies)}")


def _print_table(result: ImageResult) -> None:
    """Print how many there are of each class, and a table of those with the best scores."""
    from rich.table import Column, Table
    from rich.text import Text

    from panodetr.results.result import DetectionResult, PanopticResult
    from panodetr.results.types import Segment

    assert isinstance(result, PanopticResult | DetectionResult)
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
