"""`panodetr segment`: photos in; a table, overlays, id maps and JSON out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_model
from panodetr.cli.output import ProgressBar, print_error, print_table
from panodetr.errors import PanodetrError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.table import Table

    from panodetr.cli.arguments import Commands
    from panodetr.results.save import SavedFiles
    from panodetr.results.types import PanopticResult

OUT = Path("panodetr-out")
ROWS = 12  # of the table, the best scores; a photo may have hundreds of segments


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "segment",
        help="segment photos",
        description="Find every object and region in photos. Writes, for each photo, an overlay "
        "picture, a COCO panoptic id map (PNG) and a JSON with its segments.",
        epilog="A photo that cannot be read is reported; the others are still done, and the exit "
        "code is 1.",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a photo, a folder of photos, or a pattern"
    )
    add_model(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where the files go (default: {OUT}; with --json, no files are written)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a photo, one a line, and nothing else",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment, print and save.

    Raises:
        PanodetrError: the model or the device was refused, or no input is there.
    """
    import panodetr

    photos, failed = _find(options.inputs, as_json=options.json)
    if not photos:
        return 1
    model = panodetr.load(options.model, device=options.device)
    out: Path | None = options.out or (None if options.json else OUT)
    with ProgressBar(len(photos)) as progress:
        for photo in photos:
            progress.begin(str(photo))
            try:
                result = model.segment(photo, threshold=options.threshold)
                files = result.save(out) if out else None
            except PanodetrError as error:
                failed += 1
                with progress.paused():
                    _print_failure(str(photo), error, as_json=options.json)
            else:
                with progress.paused():
                    _print_result(photo, result, files, as_json=options.json)
            progress.end()
    return 1 if failed else 0


def _find(inputs: Sequence[str], *, as_json: bool) -> tuple[list[Path], int]:
    """List the photos, each once, and count the inputs that stand for none, which are reported."""
    from panodetr.images.read import find_images

    found: dict[Path, Path] = {}
    failed = 0
    for given in inputs:
        try:
            for photo in find_images([given]):
                found.setdefault(photo.resolve(), photo)
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


def _print_result(
    photo: Path, result: PanopticResult, files: SavedFiles | None, *, as_json: bool
) -> None:
    """Print what was found in one photo, and where its files lie."""
    if as_json:
        paths = {key: str(path) for key, path in _paths(files).items()}
        print(json.dumps({**result.to_dict(), "files": paths}, allow_nan=False), flush=True)
        return
    things = Counter(segment.label for segment in result.segments)
    counts = ", ".join(f"{count} {label}" for label, count in things.most_common())
    print(f"\n{photo}: {counts or 'nothing found'}")
    if result.segments:
        print_table(_table(result))
    if len(result.segments) > ROWS:
        print(f"… and {len(result.segments) - ROWS} more, all in the JSON")
    for key, path in _paths(files).items():
        print(f"{key:8} {path}")


def _paths(files: SavedFiles | None) -> dict[str, Path]:
    """Name the files of one photo; none where none were written."""
    if files is None:
        return {}
    return {"overlay": files.overlay, "id_map": files.id_map, "json": files.json}


def _table(result: PanopticResult) -> Table:
    """Lay out the segments with the best scores."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("segment", justify="right")
    table.add_column("label")
    table.add_column("kind")
    table.add_column("score", justify="right")
    table.add_column("box x0 y0 x1 y1", justify="right")
    table.add_column("area", justify="right")
    for segment in sorted(result.segments, key=lambda s: -s.score)[:ROWS]:
        table.add_row(
            str(segment.id),
            Text(segment.label),  # a name may hold brackets, which are markup in a plain string
            "thing" if segment.is_thing else "stuff",
            f"{segment.score:.2f}",
            " ".join(f"{edge:.0f}" for edge in segment.box),
            f"{segment.area} px",
        )
    return table
