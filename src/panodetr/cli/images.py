"""What the commands that run a model on images share: inputs, the loop, and how they tell."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from panodetr.cli.arguments import add_tiles, tiled
from panodetr.cli.output import ProgressBar, print_error
from panodetr.errors import PanodetrError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from panodetr.predict import Predictor
    from panodetr.results.result import SavedDetections, SavedFiles

OUT = Path("panodetr-out")
ROWS = 12  # of a table, the best scores; an image may have hundreds of segments


class ImageResult(Protocol):
    """What a model found in an image."""

    def save(self, folder: Path, /) -> SavedFiles | SavedDetections:
        """Write files into a folder."""
        ...

    def to_dict(self) -> Mapping[str, object]:
        """Describe it for JSON."""
        ...


Result = TypeVar("Result", bound=ImageResult)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the inputs, `--out`, `--json` and the options of tiles."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="an image, a folder of images, or a pattern"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where the files go (default: {OUT}; with --json, no files are written)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object an image, one a line, and nothing else",
    )
    add_tiles(parser)


def run_on_images(
    options: argparse.Namespace,
    predict: Callable[[Predictor, Path], Result],
    show: Callable[[Result], None],
) -> int:
    """Run a model on every image, save and print what it finds, and give the exit code.

    Args:
        options: those of `add_images`, with `model` and `device`.
        predict: runs the model on one image.
        show: prints what was found, after the image's name.

    Raises:
        PanodetrError: the model, the device or the tiles were refused.
    """
    import panodetr

    images, failed = _find(options.inputs, as_json=options.json)
    if not images:
        return 1
    loaded = panodetr.load(options.model, device=options.device, runtime=options.runtime)
    model = tiled(loaded, options)
    out: Path | None = options.out or (None if options.json else OUT)
    with ProgressBar(len(images)) as progress:
        for image in images:
            progress.begin(str(image))
            try:
                result = predict(model, image)
                files = _paths(result.save(out)) if out else {}
            except PanodetrError as error:
                failed += 1
                with progress.paused():
                    _print_failure(str(image), error, as_json=options.json)
            else:
                with progress.paused():
                    if options.json:
                        _print_json(result, files)
                    else:
                        print(f"\n{image}: ", end="")
                        show(result)
                        for key, path in files.items():
                            print(f"{key:8} {path}")
            progress.end()
    return 1 if failed else 0


def print_counts(labels: Iterable[str]) -> None:
    """Print how many there are of each, the most frequent first."""
    counted = ", ".join(f"{count} {label}" for label, count in Counter(labels).most_common())
    print(counted or "nothing found")


def print_left_out(count: int) -> None:
    """Say how many rows a table has not shown, if there are any."""
    if count > ROWS:
        print(f"… and {count - ROWS} more, all in the JSON")


def _find(inputs: Sequence[str], *, as_json: bool) -> tuple[list[Path], int]:
    """List the images, each once, and count the inputs that stand for none, which are reported."""
    from panodetr.images.read import find_images

    found: dict[Path, Path] = {}
    failed = 0
    for given in inputs:
        try:
            for image in find_images([given]):
                found.setdefault(image.resolve(), image)
        except PanodetrError as error:
            failed += 1
            _print_failure(given, error, as_json=as_json)
    return list(found.values()), failed


def _print_failure(source: str, error: PanodetrError, *, as_json: bool) -> None:
    """Say what is wrong with one input; to a program, in place of its result."""
    print_error(str(error))
    if as_json:
        place = str(Path(source).absolute())  # as in the results
        print(json.dumps({"source": place, "error": str(error)}), flush=True)


def _print_json(result: ImageResult, files: Mapping[str, Path]) -> None:
    paths = {key: str(path) for key, path in files.items()}
    print(json.dumps({**result.to_dict(), "files": paths}, allow_nan=False), flush=True)


def _paths(files: SavedFiles | SavedDetections) -> dict[str, Path]:
    return {field.name: getattr(files, field.name) for field in fields(files)}
