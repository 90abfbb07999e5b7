"""The parts of a large run: what each holds, which are written, and one part's images to rows.

A part's name follows from its sources and from what is done with them, and its file appears whole
or not at all. So a part whose file exists is done, and a part that is written twice is one file.
Every engine calls `write_part`.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

import msgspec

from panodetr import __version__
from panodetr.data.masks import encode_pixels
from panodetr.errors import PanodetrError, UsageError, import_extra, reason_of
from panodetr.files import check_writable, is_leftover, write_bytes
from panodetr.images.read import SUFFIXES, ImageSource, origin_of
from panodetr.images.sources import STDIN, Source
from panodetr.predict import Predictor
from panodetr.results.id_map import id_map_png
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Task

Results: TypeAlias = Iterator[tuple[PanopticResult | DetectionResult, str, float]]

Form: TypeAlias = Literal["parquet", "coco-panoptic"]
"""Of a part: a table with a row per image; or COCO's panoptic JSON with a folder of id maps."""

SUFFIX: dict[Form, str] = {"parquet": ".parquet", "coco-panoptic": ".json"}

ERRORS = "errors"
"""The folder of what could not be read: JSON lines, a file for each part that has any."""

_GROUP = 256  # rows of a table that are held before they are compressed


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the sources of a run, in their order; `name` is that of its file, without suffix."""

    name: str
    sources: tuple[Source, ...]


def plan_parts(sources: Sequence[Source], settings: object, size: int) -> list[Part]:
    """Share sources out, in their order.

    Args:
        sources: of all images.
        settings: what is done with them, ready for JSON; the names depend on it.
        size: image files in a part; an archive, a table or a video is a part by itself.

    Raises:
        UsageError: standard input is among the sources, which no other process can read.
    """
    groups: list[list[Source]] = []
    full = True
    for source in sources:
        if source.path == STDIN:
            raise UsageError("standard input cannot be read in parts; give files, folders or URLs")
        many = PurePath(source.path).suffix.lower() not in SUFFIXES
        if many or full:
            groups.append([])
        groups[-1].append(source)
        full = many or len(groups[-1]) == size
    parts: list[Part] = []
    for number, group in enumerate(groups):
        held = json.dumps([settings, [asdict(source) for source in group]])
        digest = hashlib.sha256(held.encode()).hexdigest()[:12]
        parts.append(Part(name=f"part-{number:06}-{digest}", sources=tuple(group)))
    return parts


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder of parts, on this machine or at a URL that fsspec knows.

    Attributes:
        url: an absolute path, or a URL of a store that shows whole files only, such as s3 or gs.
        suffix: of the file that makes a part done.
    """

    url: str
    suffix: str

    def find_missing(self, parts: Sequence[Part], *, resume: bool) -> list[Part]:
        """List the parts that are to be made.

        Raises:
            UsageError: parts are there and the run is new, or they are of another run.
            PanodetrError: the folder cannot be listed, or nothing can be written into it.
        """
        with self._store("list") as (files, root):
            if "file" in files.protocol:
                check_writable(Path(root), folder=True)
            paths = [PurePath(name) for name in files.glob(f"{root}/part-*{self.suffix}")]
        there = {path.stem for path in paths}
        if there and not resume:
            raise UsageError(
                f"{self.url} holds {len(there)} parts; go on with --resume, or choose another --out"
            )
        if others := there - {part.name for part in parts}:
            raise UsageError(
                f"{self.url} holds {min(others)}, which is not of this run: the inputs or options "
                "differ; choose another --out"
            )
        return [part for part in parts if part.name not in there]

    def write(self, name: str, contents: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            PanodetrError: the system or the store refused.
        """
        with self._store("write") as (files, root):
            if "file" in files.protocol:
                write_bytes(Path(root) / name, contents)
            else:
                files.pipe_file(f"{root}/{name}", contents)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; errors are those of `write`."""
        with self._store("remove") as (files, root):
            if files.exists(f"{root}/{name}"):
                files.rm_file(f"{root}/{name}")

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed have left on this machine."""
        with self._store("clean up") as (files, root):
            if "file" in files.protocol:
                for path in [*Path(root).glob(".*"), *Path(root).glob("*/.*")]:
                    if is_leftover(path):
                        path.unlink(missing_ok=True)

    @contextmanager
    def _store(self, what: str) -> Generator[tuple[Any, str]]:
        """Give fsspec's file system and the folder in it; turn their errors into one line."""
        import fsspec

        try:
            yield fsspec.core.url_to_fs(self.url)
        except PanodetrError:
            raise
        except Exception as error:  # each store has errors of its own
            raise PanodetrError(f"cannot {what} {self.url}: {reason_of(error)}") from error


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done with each image.

    Attributes:
        model: its options, as text.
        task: of a segmentation; None detects.
        threshold: least score; None takes the usual one.
        masks: whether detected objects get masks.
        form: what is written.
    """

    model: str
    task: Task | None
    threshold: float | None = None
    masks: bool = False
    form: Form = "parquet"


def write_part(model: Predictor, part: Part, *, job: Job, out: Output) -> tuple[int, int]:
    """Run a model on a part's images, and write the part.

    What could not be read is written first, so that a part whose file is there lacks nothing.

    Returns:
        How many images have a row, and how many lines there are about what could not be read.

    Raises:
        PanodetrError: a file cannot be written, or the model cannot do this.
    """
    errors: list[dict[str, str]] = []
    results = _results(model, part, job, errors)
    if job.form == "parquet":
        images, contents = _parquet(results, job, model)
    else:
        images, contents = _coco_panoptic(results, out, part, model)
    log = f"{ERRORS}/{part.name}.jsonl"
    if errors:
        out.write(log, msgspec.json.Encoder().encode_lines(errors))
    else:
        out.remove(log)  # of an earlier try
    out.write(part.name + out.suffix, contents)
    return images, len(errors)


def _results(model: Predictor, part: Part, job: Job, errors: list[dict[str, str]]) -> Results:
    """Give each result with its source's path, and the seconds since the one before."""
    source_of: dict[str, str] = {}

    def read() -> Iterator[ImageSource]:
        for source in part.sources:
            try:
                for image in source.images():
                    source_of[str(origin_of(image))] = source.path
                    yield image
            except PanodetrError as error:  # the rest of a file
                errors.append({"id": source.path, "source": source.path, "error": str(error)})

    def refuse(image: ImageSource, error: PanodetrError) -> None:
        name = str(origin_of(image))
        errors.append({"id": name, "source": source_of[name], "error": str(error)})

    if job.task is None:
        least = job.threshold
        results = model.detect_each(read(), threshold=least, masks=job.masks, refuse=refuse)
    else:
        results = model.segment_each(read(), threshold=job.threshold, task=job.task, refuse=refuse)
    before = time.perf_counter()
    for result in results:
        now = time.perf_counter()
        yield result, source_of[str(result.source)], now - before
        before = now


def _parquet(results: Results, job: Job, model: Predictor) -> tuple[int, bytes]:
    """Give the number of images and a table; its schema has the model and categories as JSON."""
    pyarrow, parquet = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    about = {"panodetr": __version__, **asdict(job), "categories": model.categories}
    schema = _schema(pyarrow).with_metadata({"panodetr": msgspec.json.encode(about)})
    file = io.BytesIO()
    rows: list[dict[str, object]] = []
    images = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for result, source, seconds in results:
            height, width = result.image.shape[:2]
            rows.append(
                {
                    "id": str(result.source),
                    "source": source,
                    "height": height,
                    "width": width,
                    "segments": _segments(result),
                    "seconds": seconds,
                }
            )
            images += 1
            if len(rows) == _GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return images, file.getvalue()


def _schema(pyarrow: Any) -> Any:
    segment = {
        "id": pyarrow.int32(),
        "category_id": pyarrow.int32(),
        "label": pyarrow.string(),
        "isthing": pyarrow.bool_(),
        "score": pyarrow.float32(),
        "bbox": pyarrow.list_(pyarrow.float32(), 4),
        "area": pyarrow.int64(),
        "counts": pyarrow.string(),
    }
    row = {
        "id": pyarrow.string(),
        "source": pyarrow.string(),
        "height": pyarrow.int32(),
        "width": pyarrow.int32(),
        "segments": pyarrow.list_(pyarrow.struct(segment)),
        "seconds": pyarrow.float32(),
    }
    return pyarrow.schema(row)


def _segments(result: PanopticResult | DetectionResult) -> list[dict[str, object]]:
    """Describe segments or objects as COCO does; `counts` are its compressed run lengths."""
    things = {category.id: category.is_thing for category in result.categories}
    found = result.segments if isinstance(result, PanopticResult) else result.detections
    described: list[dict[str, object]] = []
    for one in found:
        x0, y0, x1, y1 = one.box
        mask = one.mask
        described.append(
            {
                "id": one.id,
                "category_id": one.category_id,
                "label": one.label,
                "isthing": things[one.category_id],
                "score": one.score,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": None if mask is None else int(mask.sum()),
                "counts": None if mask is None else encode_pixels(mask)["counts"],
            }
        )
    return described


def _coco_panoptic(
    results: Results, out: Output, part: Part, model: Predictor
) -> tuple[int, bytes]:
    """Write id maps into a folder of the part's name; give the number of images and the JSON."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for result, _, _ in results:
        assert isinstance(result, PanopticResult)
        name, id_map = str(result.source), f"{len(images):06}.png"
        height, width = result.image.shape[:2]
        out.write(f"{part.name}/{id_map}", id_map_png(result.segment_ids))
        images.append({"id": name, "file_name": name, "height": height, "width": width})
        segments = result.to_dict()["segments_info"]
        annotations.append({"image_id": name, "file_name": id_map, "segments_info": segments})
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
        for c in model.categories
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return len(images), msgspec.json.encode(document)
