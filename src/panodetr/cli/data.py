"""`panodetr data`: check a data set, or write it in another format."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from panodetr.cli.options import Format
from panodetr.cli.output import ProgressBar, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from panodetr.data.check import Inspection

Target = Literal["coco-panoptic", "coco-instances", "yolo"]


def check(
    folder: Path,
    /,
    *,
    split: str | None = None,
    format: Format | None = None,
    json: Path | None = None,
) -> int:
    """List all that is wrong with a data set.

    Reads every file. The exit code is 1 if there is an error. Crowds and images without objects are
    notes, not errors. COCO's panoptic and instance formats, YOLO's and folders of id maps are told
    apart by their files.

    Args:
        folder: The data set's folder.
        split: One split. Default: all of them.
        format: What the folder is taken for. Default: the first of these that is there.
        json: Write the findings to this file as JSON, too.

    Raises:
        DataError: there is no such data set or split.
        PanodetrError: the JSON file cannot be written.
    """
    from panodetr.data.check import check_split
    from panodetr.data.convert import find_splits
    from panodetr.files import write_json

    found, splits = find_splits(folder, split, format)
    inspections: dict[str, Inspection] = {}
    for name in splits:
        with _counting(f"check {name}".strip()) as progress:
            inspections[name] = check_split(folder, name, found, progress)
    for inspection in inspections.values():
        for finding in inspection.findings:
            print_line(
                f"{'error' if finding.is_error else 'note':6}{finding.kind:17}{finding.message}"
            )
    _print_tables(found, inspections)
    errors = sum(inspection.errors for inspection in inspections.values())
    if json is not None:
        splits_info = {name: inspection.to_dict() for name, inspection in inspections.items()}
        write_json(json, {"format": found, "errors": errors, "splits": splits_info})
    return 1 if errors else 0


def convert_data(
    folder: Path,
    /,
    *,
    to: Target,
    out: Path,
    split: str | None = None,
    format: Format | None = None,
    class_name: Annotated[str, Parameter(name="--class")] = "object",
) -> int:
    """Write a data set in another format, images and all.

    Says what the format has no place for.

    Args:
        folder: The data set's folder.
        to: The format to write.
        out: A new folder to write it into.
        split: One split. Default: all of them.
        format: What the folder is taken for. Default: the first of these that is there.
        class_name: The class of id maps, where their folder names none.

    Raises:
        UsageError: the folder has that format already, or `out` exists.
        PanodetrError: the folder cannot be read, or `out` cannot be written.
    """
    from panodetr.data.convert import convert_data as convert_files

    with _counting(f"convert {folder.name}") as progress:
        made = convert_files(
            folder,
            out,
            to,
            class_name=class_name,
            split=split,
            format=format,
            progress=progress,
        )
    splits = ", ".join(name or "no split" for name in made.splits)
    print_line(f"{made.images} images ({splits}) read as {made.format}, written as {to}")
    for what, count in made.lost.items():
        print_line(f"{to} has no place for {what}: {count}")
    for message in made.unreadable:
        print_line(f"left out: {message}")
    print_line(f"everything else is in {out}")
    return 0


@contextmanager
def _counting(what: str) -> Generator[Callable[[int, int], None], None, None]:
    """Give what counts images on stderr: a bar on a terminal, else some ten lines."""
    with ExitStack() as stack:
        bars: list[ProgressBar] = []

        def update(done: int, total: int) -> None:
            if done == 1:  # of the next split
                stack.close()
                bars[:] = [stack.enter_context(ProgressBar(total))]
            if done in (1, total) or done % max(1, total // 10) == 0:
                bars[0].begin(what)
            bars[0].end()

        yield update


def _print_tables(format: str, inspections: dict[str, Inspection]) -> None:
    """Print what each split holds, and how many objects each class has."""
    from rich.markup import escape
    from rich.table import Table

    from panodetr.data.formats import one_line

    table = Table("split", "format", box=None, pad_edge=False)
    for heading in ("images", "objects", "classes", "crowds", "empty", "errors"):
        table.add_column(heading, justify="right")
    totals: Counter[str] = Counter()
    for split, inspection in inspections.items():
        totals.update(inspection.objects)
        empty = sum(finding.kind == "empty image" for finding in inspection.findings)
        table.add_row(
            split or "(none)",
            format,
            *map(
                str,
                (
                    inspection.images,
                    inspection.objects.total(),
                    sum(count > 0 for count in inspection.objects.values()),
                    inspection.crowds,
                    empty,
                    inspection.errors,
                ),
            ),
        )
    print_table(table)
    classes = Table("class", box=None, pad_edge=False)
    classes.add_column("objects", justify="right")
    for name, count in totals.most_common():
        # A name may hold whatever JSON can; brackets would be markup.
        classes.add_row(escape(one_line(name)), str(count))
    print_line()
    print_table(classes)
