"""Large runs (`--engine`), here or on a Ray cluster, and images larger than memory (`--large`)."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from panodetr.cli.output import ProgressBar, print_error, print_json, print_line
from panodetr.errors import PanodetrError, UsageError, import_extra
from panodetr.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.cli.options import ImageOptions
    from panodetr.images.sources import Source
    from panodetr.results.types import Task

OUT = "panodetr-parts"


def run_parts(
    sources: Sequence[Source],
    options: ImageOptions,
    *,
    task: Task | None,
    threshold: float | None,
    masks: bool = False,
) -> int:
    """Write the rows of all images in parts, and give the exit code.

    Raises:
        UsageError: the options contradict each other, or the folder holds another run.
        PanodetrError: the model was refused, or a file cannot be written.
    """
    from panodetr.scale.engines import Lost, run_ray
    from panodetr.scale.parts import (
        ERRORS,
        SUFFIX,
        Job,
        Output,
        plan_parts,
        write_part,
    )

    files, engine, model = options.files, options.engine, options.model
    if engine.parts == "parquet":
        import_extra("pyarrow")
    elif task is None:
        raise UsageError("--parts coco-panoptic is for segment; detect writes parquet")
    chosen = {name: value for name, value in asdict(model).items() if value is not None}
    for speed in ("device", "batch"):  # results don't depend on it
        chosen.pop(speed, None)
    name = " ".join(f"{key}={value}" for key, value in chosen.items())
    job = Job(model=name, task=task, threshold=threshold, masks=masks, form=engine.parts)
    url = files.out or OUT
    store = Output(
        url=url if "://" in url else str(Path(url).absolute()), suffix=SUFFIX[engine.parts]
    )
    parts = plan_parts(sources, asdict(job), engine.part_size)
    missing = store.find_missing(parts, resume=files.resume)
    work = partial(write_part, job=job, out=store)
    began, images, errors, lost = time.perf_counter(), 0, 0, 0
    results = (
        run_ray(model.load, work, missing, engine.cluster(model))
        if engine.engine == "ray"
        else enumerate(map(partial(work, model.load()), missing))
    )
    with ProgressBar(len(missing)) as progress:
        for number, done in results:
            if isinstance(done, Lost):
                lost += 1
                with progress.paused():
                    print_error(f"{missing[number].name}: {done.reason}")
                continue
            images, errors = images + done[0], errors + done[1]
            progress.begin(missing[number].name)
            progress.end()
    store.remove_leftovers()
    seconds = time.perf_counter() - began
    summary = {
        "images": images,
        "errors": errors,
        "parts": len(missing) - lost,
        "parts_there": len(parts) - len(missing),
        "parts_lost": lost,
        "seconds": round(seconds, 3),
        "out": store.url,
    }
    if files.json:
        print_json(summary)
    else:
        rate = f"{images / max(seconds, 1e-9):.3g} images/s"
        print_line(f"{images} images, {errors} errors, {len(missing) - lost} parts ({rate})")
        if missing != parts:
            print_line(f"{len(parts) - len(missing)} parts were done already")
        print_line(f"everything is in {store.url}")
    if errors:
        print_error(f"{errors} files or images could not be read: {store.url}/{ERRORS} says why")
    if lost:
        print_error(f"{lost} parts are missing; try them again with --resume")
    return 1 if errors or lost else 0


def segment_by_blocks(
    inputs: Sequence[str],
    out: Path,
    options: ImageOptions,
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
    files, formats = options.files, options.formats
    others = [name for name in formats.asked if name not in ("geojson", "labels")]
    if others or files.resume:
        raise UsageError(
            f"--large writes a label map and GeoJSON; leave --{(others or ['resume'])[0]} out"
        )
    from panodetr.blocks import segment_large

    check_writable(out, folder=True)
    predictor = options.model.load()
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
                    if files.json:
                        print_json({"source": given, "error": str(error)})
            else:
                with progress.paused():
                    if files.json:
                        print_json({"source": given, **vars(found)})
                    else:
                        print_line(f"{given}: {found.objects} objects")
                        print_line(f"labels   {found.labels}\ngeojson  {found.geojson}")
            progress.end()
    return 1 if failed else 0
