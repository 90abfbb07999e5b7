"""`panodetr data`: check a data set, or write it in another format."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.options import Format, SourceOptions
from panodetr.cli.output import counting, print_line, print_table
from panodetr.errors import UsageError

if TYPE_CHECKING:
    from panodetr.data.check import Inspection

MOST_CLASSES = 30
"""Classes that are listed."""

Target = Literal["coco-panoptic", "coco-instances", "yolo"]


def check(
    folder: Path,
    /,
    *,
    split: str | None = None,
    format: Format | None = None,
    model: str | None = None,
    json: Path | None = None,
    fix: Path | None = None,
    files: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
) -> int:
    """List what a data set holds, and every error in it.

    Reads every file. The exit code is 1 if there is an error. What is legal, or was repaired, is a
    note.

    Args:
        folder: The data set's folder, or its annotation file.
        split: One split. Default: all of them.
        format: The data set's format. Default: the first of these that is found.
        model: Note objects that are too many for this model, or larger than its tiles.
        json: Write the findings to this file as JSON, too.
        fix: A new folder to write a copy into, in COCO's format, of all that can be used.
        files: Where its files are.

    Raises:
        UsageError: the folder for the copy exists already.
        DataError: there is no such data set or split.
        PanodetrError: the model cannot be read, or the JSON file or the copy cannot be written.
    """
    from panodetr.checkpoints.load import load_spec
    from panodetr.data.check import check_split
    from panodetr.data.convert import write_clean
    from panodetr.data.tool import name_tool
    from panodetr.files import check_writable, write_json
    from panodetr.training.notes import note_many_objects

    if fix is not None and fix.exists():
        raise UsageError(f"{fix} is there already; choose another --fix")
    for out in filter(None, (fix, json)):
        check_writable(out)
    source = files.open(folder)
    spec = None if model is None else load_spec(model)
    found, splits = source.splits(format, split)
    inspections: dict[str, Inspection] = {}
    for name in splits:
        with counting(f"check {name}".strip()) as progress:
            inspections[name] = check_split(source, name, found, progress)
    _print_tables(found, inspections)
    if (tool := name_tool(source.tree)) is not None:
        print_line(f"tool      {tool}")
    findings = [finding for one in inspections.values() for finding in one.findings]
    for finding in sorted(dict.fromkeys(findings), key=lambda finding: finding.is_error):
        show_line = print if finding.is_error else print_line  # errors are shown with --quiet, too
        show_line(f"{'error' if finding.is_error else 'note':6}{finding.kind:17}{finding.message}")
    for name, inspection in inspections.items():
        if spec is not None and not inspection.errors:
            for text in note_many_objects(spec, source.open(found, name)):
                print_line(f"note  {'many objects':17}{text}")
    if fix is not None:
        written = write_clean(source, found, splits, fix)
        print_line(f"{written} images with all of their objects that can be used are in {fix}")
    errors = sum(inspection.errors for inspection in inspections.values())
    if json is not None:
        splits_info = {name: inspection.to_dict() for name, inspection in inspections.items()}
        write_json(json, {"format": found, "errors": errors, "splits": splits_info})
    return 1 if errors else 0


def show(
    folder: Path,
    /,
    *,
    out: Path = Path("sheet.png"),
    count: Annotated[int, Parameter(validator=Number(gte=1, lte=400))] = 16,
    split: str | None = None,
    format: Format | None = None,
    files: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
) -> int:
    """Draw images of a data set with their ground truth, on one sheet.

    Args:
        folder: The data set's folder, or its annotation file.
        out: The image file to write.
        count: How many images at most; they lie evenly apart in the data set.
        split: Which split. Default: train, or the only one.
        format: The data set's format. Default: the first that is found.
        files: Where its files are.

    Raises:
        UsageError: the file exists already.
        DataError: there is no such data set or split, or nothing to learn from.
        PanodetrError: the file cannot be written.
    """
    from panodetr.data.show import draw_sheet
    from panodetr.files import check_writable, write_picture

    if out.exists():
        raise UsageError(f"{out} is there already; choose another --out")
    check_writable(out)
    source = files.open(folder)
    data = source.open(*source.choose(split, format))
    for note in data.notes:
        print_line(f"note: {note}")
    write_picture(out, draw_sheet(data, count))
    print_line(f"images with their ground truth are in {out}")
    return 0


def convert_data(
    folder: Path,
    /,
    *,
    to: Target,
    out: Path,
    split: str | None = None,
    format: Format | None = None,
    class_name: Annotated[str, Parameter(name="--class")] = "object",
    files: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
) -> int:
    """Write a data set in another format, images and all.

    Says what the new format cannot hold.

    Args:
        folder: The data set's folder.
        to: The format to write.
        out: A new folder to write it into.
        split: One split. Default: all of them.
        format: The data set's format. Default: the first of these that is found.
        class_name: The class of id maps, where their folder names none.
        files: Where its files are.

    Raises:
        UsageError: the folder has that format already, or `out` exists.
        PanodetrError: the folder cannot be read, or `out` cannot be written.
    """
    from panodetr.data.convert import convert_data as convert_files

    with counting(f"convert {folder.name}") as progress:
        made = convert_files(
            files.open(folder),
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


def _print_tables(format: str, inspections: dict[str, Inspection]) -> None:
    """Print what each split holds, its classes, and the sizes of objects."""
    from rich.table import Table

    from panodetr.data.formats import one_line

    table = Table("split", "format", box=None, pad_edge=False)
    for heading in ("images", "objects", "classes", "crowds", "empty", "errors"):
        table.add_column(heading, justify="right")
    totals: Counter[str] = Counter()
    for split, inspection in inspections.items():
        totals.update(inspection.objects)
        classes = sum(count > 0 for count in inspection.objects.values())
        counts = (inspection.images, inspection.objects.total(), classes)
        counts += (inspection.crowds, inspection.empty, inspection.errors)
        table.add_row(split or "(none)", format, *map(str, counts))
    print_table(table)
    shown = [f"{one_line(name)} {count}" for name, count in totals.most_common(MOST_CLASSES)]
    more = f", and {len(totals) - len(shown)} more" if len(totals) > len(shown) else ""
    print_line(f"classes   {', '.join(shown)}{more}")
    seen = inspections.values()
    kinds = sorted({"masks" if one.has_masks else "boxes" for one in seen if one.images})
    print_line(f"objects   {' and '.join(kinds) or 'none'}")
    for label, found in (
        ("smallest", min((one.smallest for one in seen if one.smallest), default=None)),
        ("largest", max((one.largest for one in seen if one.largest), default=None)),
    ):
        if found is not None:
            print_line(f"{label:10}{found[0]:g} pixels, in {one_line(found[1])}")
    most = max(one.most for one in seen)
    if most[0]:
        print_line(f"most      {most[0]} objects in {one_line(most[1])}")
