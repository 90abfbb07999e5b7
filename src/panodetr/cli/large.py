"""`panodetr segment --large`: images that are larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from panodetr.cli.output import ProgressBar, print_error, print_json, print_line
from panodetr.errors import PanodetrError, UsageError
from panodetr.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.cli.formats import FormatOptions
    from panodetr.cli.options import ModelOptions, OutputOptions


def segment_by_blocks(
    inputs: Sequence[str],
    out: Path,
    output: OutputOptions,
    formats: FormatOptions,
    model: ModelOptions,
    *,
    threshold: float | None,
    task: Literal["panoptic", "instances", "semantic"],
) -> int:
    """Write a label map and GeoJSON of each file, and give the exit code.

    Raises:
        UsageError: options do not go together.
        PanodetrError: the model was refused.
    """
    if task == "semantic":
        raise UsageError("--large finds objects; leave --task semantic out")
    others = [name for name in formats.asked if name not in ("geojson", "labels")]
    if others or output.resume:
        raise UsageError(
            f"--large writes a label map and GeoJSON; leave --{(others or ['resume'])[0]} out"
        )
    from panodetr.blocks import segment_large

    check_writable(out, folder=True)
    predictor = model.load()
    failed = 0
    with ProgressBar(len(inputs)) as progress:
        for given in inputs:
            progress.begin(given)
            try:
                found = segment_large(
                    predictor,
                    given,
                    out,
                    threshold=threshold,
                    task=task,
                    pixel_size=formats.pixel_size,
                    progress=progress.tiles,
                )
            except PanodetrError as error:
                failed += 1
                with progress.paused():
                    print_error(str(error))
                    if output.json:
                        print_json({"source": given, "error": str(error)})
            else:
                with progress.paused():
                    if output.json:
                        print_json({"source": given, **vars(found)})
                    else:
                        print_line(f"{given}: {found.objects} objects")
                        print_line(f"labels   {found.labels}\ngeojson  {found.geojson}")
            progress.end()
    return 1 if failed else 0
