"""`panodetr data`: check a data set, or write it in another format."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import FORMATS, add_format

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator

    from panodetr.cli.arguments import Commands
    from panodetr.data.findings import Inspection

TARGETS = FORMATS[:3]


def add_to(commands: Commands) -> None:
    """Add the command and its two actions to the program."""
    parser = commands.add_parser(
        "data",
        help="check or convert a data set",
        description="Check a data set, or write it in another format. COCO's panoptic and instance "
        "format, YOLO's and folders of id maps are told apart by what is there.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="list all that is wrong with a data set",
        description="Read every file of a data set and list all that is wrong with it; the exit "
        "code is 1 if there is anything. Crowds and images without objects are notes, no errors.",
    )
    _add_source(check)
    check.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON, too")
    check.set_defaults(run=run_check)
    convert = actions.add_parser(
        "convert",
        help="write a data set in another format",
        description="Write a data set in another format, images and all, and say what the format "
        "has no place for.",
    )
    _add_source(convert)
    convert.add_argument("--to", choices=TARGETS, required=True, help="the format to write")
    convert.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder to write it into"
    )
    convert.add_argument(
        "--class",
        dest="class_name",
        default="object",
        metavar="NAME",
        help="the class of id maps, where their folder names none (default: %(default)s)",
    )
    convert.set_defaults(run=run_convert)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the data set's folder")
    parser.add_argument("--split", metavar="NAME", help="one split (default: all of them)")
    add_format(parser)


def run_check(options: argparse.Namespace) -> int:
    """Check, print every finding and a table of what is there, and give 1 if anything is wrong.

    Raises:
        DataError: there is no such data set or split.
        PanodetrError: the JSON file cannot be written.
    """
    from panodetr.data.check import check_split
    from panodetr.data.convert import find_splits
    from panodetr.files import write_json

    format, splits = find_splits(options.folder, options.split, options.format)
    inspections: dict[str, Inspection] = {}
    for split in splits:
        with _counting(f"check {split}".strip()) as progress:
            inspections[split] = check_split(options.folder, split, format, progress)
    for inspection in inspections.values():
        for finding in inspection.findings:
            print(f"{'error' if finding.is_error else 'note':6}{finding.kind:17}{finding.message}")
    _print_tables(format, inspections)
    errors = sum(inspection.errors for inspection in inspections.values())
    if options.json is not None:
        splits_info = {split: inspection.to_dict() for split, inspection in inspections.items()}
        write_json(options.json, {"format": format, "errors": errors, "splits": splits_info})
    return 1 if errors else 0


def run_convert(options: argparse.Namespace) -> int:
    """Convert, and say what was read, what is lost, and where the rest is.

    Raises:
        UsageError: FOLDER has that format already, or DIR is there already.
        PanodetrError: FOLDER cannot be read, or DIR cannot be written.
    """
    from panodetr.data.convert import convert_data

    with _counting(f"convert {options.folder.name}") as progress:
        made = convert_data(
            options.folder,
            options.out,
            options.to,
            class_name=options.class_name,
            split=options.split,
            format=options.format,
            progress=progress,
        )
    splits = ", ".join(split or "no split" for split in made.splits)
    print(f"{made.images} images ({splits}) read as {made.format}, written as {options.to}")
    for what, count in made.lost.items():
        print(f"{options.to} has no place for {what}: {count}")
    for message in made.unreadable:
        print(f"left out: {message}")
    print(f"everything else is in {options.out}")
    return 0


@contextmanager
def _counting(what: str) -> Generator[Callable[[int, int], None], None, None]:
    """Give what counts images on stderr: a bar on a terminal, else some ten lines."""
    from panodetr.cli.output import ProgressBar

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

    from panodetr.cli.output import print_table
    from panodetr.data.findings import one_line

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
    print()
    print_table(classes)
