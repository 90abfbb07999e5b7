"""A data set to train on, whatever its format: classes, images, and the objects of each image.

Which files are annotations is asked of each reader in the order of `FORMATS`, and one function says
whether there is something to learn from: for checking, a rehearsal and a run alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import numpy as np

from panodetr.data.formats import AbsentError, Faults, system_errors
from panodetr.data.formats.coco import find_documents, make_layout
from panodetr.data.formats.coco_instances import read_instances
from panodetr.data.formats.coco_panoptic import read_ids, read_panoptic
from panodetr.data.formats.imagefolder import find_imagefolder, read_imagefolder
from panodetr.data.formats.labelme import find_labelme, read_labelme
from panodetr.data.formats.mask_folders import (
    find_id_maps,
    find_mask_files,
    read_id_maps,
    read_mask_files,
)
from panodetr.data.formats.via import find_via, read_via
from panodetr.data.formats.voc import (
    find_voc_masks,
    find_voc_xml,
    read_voc_masks,
    read_voc_xml,
)
from panodetr.data.formats.yolo import find_yolo, read_yolo
from panodetr.data.masks import draw_id_map, read_objects_map
from panodetr.data.samples import AnySample, InstanceImage, Records, Sample
from panodetr.data.targets import Objects, segment_classes
from panodetr.data.tool import advise
from panodetr.data.tree import (
    ABSENT,
    LEAST_THERE,
    Tree,
    is_image,
    same_split,
    split_of,
    split_of_folder,
)
from panodetr.errors import DataError
from panodetr.validation import read_json

Format: TypeAlias = Literal[
    "coco-panoptic", "coco-instances", "yolo", "labelme", "via", "voc-xml", "voc-masks",
    "mask-files", "id-maps", "imagefolder",
]  # fmt: skip
"""How a data set is written."""

Frame: TypeAlias = Literal["shown", "stored"]
"""What annotations are for where EXIF turns an image: the image as it is shown, or as stored."""

CLASS_NAME = "object"
"""Of objects that nothing names."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Records):
    """One split of a data set: its records, but for images that are not there.

    Attributes:
        folder: where it lies.
        split: its name, "" for a folder without splits.
        format: how it is written.
        unreadable: a message for each image that is left out, because its header or one of its
            annotations is broken.
        notes: what was repaired, left out or is worth knowing, a line a kind.
    """

    folder: Path
    split: str
    format: Format
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def index_of(self) -> dict[int, int]:
        """The class index of each category id."""
        return {category.id: category.index for category in self.categories}


_READERS: dict[
    Format,
    tuple[Callable[[Tree], Any], Callable[[Tree, Any, str, Faults], Records], tuple[str, ...]],
] = {
    "coco-panoptic": (
        partial(find_documents, kind="panoptic"),
        lambda tree, found, split, faults: read_panoptic(make_layout(tree, found, split), faults),
        (".json",),
    ),
    "coco-instances": (
        partial(find_documents, kind="instances"),
        lambda tree, found, split, faults: read_instances(make_layout(tree, found, split), faults),
        (".json",),
    ),
    "yolo": (find_yolo, read_yolo, (".yaml", ".yml")),
    "labelme": (find_labelme, read_labelme, (".json",)),
    "via": (find_via, read_via, (".json",)),
    "voc-masks": (find_voc_masks, read_voc_masks, ()),
    "voc-xml": (find_voc_xml, read_voc_xml, (".xml",)),
    "mask-files": (find_mask_files, read_mask_files, ()),
    "id-maps": (find_id_maps, read_id_maps, ()),
    "imagefolder": (find_imagefolder, read_imagefolder, (".jsonl", ".csv", ".parquet")),
}
"""How each format's splits are found, how one is read, and what an annotation file ends in."""

FORMATS: tuple[Format, ...] = tuple(_READERS)
"""In the order in which a folder is asked for them."""

_JSON: Any = dict[str, Any] | list[Any]


LOOKED_AT = 20
"""Annotation files of a format that are looked into, to see whether their images are there."""


class Source:
    """A folder, and what is found in it: walked once, whatever is asked of it."""

    def __init__(
        self,
        folder: Path,
        *,
        annotations: Path | None = None,
        images: Path | None = None,
        exif: Frame | None = None,
    ) -> None:
        """Walk the folder, or that of the annotation file that is named instead.

        Args:
            folder: the data set's, or its annotation file.
            annotations: the only annotation file that counts; None looks for them.
            images: the folder in which images are looked for; None means all of the folder.
            exif: how images that EXIF turns are annotated, where their sizes don't tell.

        Raises:
            DataError: there is no such folder.
        """
        if folder.is_file():
            folder, annotations = folder.parent, folder
        for path in (folder, images):
            if path is not None and not path.is_dir():
                raise DataError(f"{path} is no folder; expected one that holds a data set")
        if annotations is not None and not annotations.is_file():
            raise DataError(f"{annotations} is no file; expected annotations")
        self.folder = folder
        self.tree = Tree(folder, annotations=annotations, images=images)
        self._exif = exif
        self._found: dict[Format, dict[str, Any]] = {}

    def find(self, format: Format) -> dict[str, Any]:
        """Find the splits of one format; "" stands for a data set that has none.

        Raises:
            DataError: what describes the data is broken.
        """
        if format not in self._found:
            only = self.tree.only
            find, _, suffixes = _READERS[format]
            may_be = only is None or only.suffix.lower() in suffixes
            self._found[format] = find(self.tree) if may_be else {}
        return self._found[format]

    def _formats(self, format: Format | None) -> Iterator[Format]:
        """Give the formats that are there; last those whose images are not there.

        Raises:
            DataError: what describes the data is broken.
        """
        absent: dict[Format, list[Path]] = {}
        failure: AbsentError | None = None
        for name in (format,) if format else FORMATS:
            try:
                found = self.find(name)
            except AbsentError as error:
                failure = error
                self.tree.leave_out(ABSENT, [error.path])
                continue
            parts = (part for part in found.values() if isinstance(part, list))
            files = [self.tree.root / file for part in parts for file in part]
            looked = files[:: max(1, len(files) // LOOKED_AT)]
            if looked and not any(map(self.tree.lists_images, looked)):
                absent[name] = files
            elif found:
                for paths in absent.values():
                    self.tree.leave_out(ABSENT, paths)
                absent, failure = {}, None
                yield name
        if failure is not None and not absent:
            raise failure
        yield from absent

    def choose(self, split: str | None, format: Format | None) -> tuple[Format, str]:
        """Find out format and split.

        Raises:
            DataError: there is no data set, no such split, or several to choose from.
        """
        seen: set[str] = set()
        for name in self._formats(format):
            found = list(self.find(name))
            chosen = _choose(found, split)
            if chosen is not None:
                return name, chosen
            seen.update(name or '"" (no split)' for name in found)
        if not seen:
            only = self.tree.only
            if only is not None and only.suffix.lower() == ".json":
                read_json(only, _JSON, DataError)  # says what is wrong
            asked = f" in the format {format}" if format else ""
            advice = advise(self.tree)
            if only is not None:
                raise DataError(f"{only} holds no annotations{asked}; {advice or EXPECTED_FILE}")
            raise DataError(
                f"{self.folder} holds no data set{asked}; "
                f"{advice or f'expected one of these: {EXPECTED}'}; it has "
                f"{self.tree.describe()}. Name them with --annotations FILE and --images DIR, "
                "or convert with datumaro what has no reader here"
            )
        asked = (
            "which split is meant is not clear" if split is None else f"there is no split {split!r}"
        )
        raise DataError(f"{self.folder}: {asked}; it has {', '.join(sorted(seen))}")

    def splits(self, format: Format | None, split: str | None = None) -> tuple[Format, list[str]]:
        """Give the format, and one split or all of them; of the first format that is there.

        Raises:
            DataError: there is no data set, or no such split.
        """
        for name in self._formats(format) if split is None else ():
            return name, list(self.find(name))
        name, split = self.choose(split, format)
        return name, [split]

    def open(
        self,
        format: Format,
        split: str,
        *,
        class_name: str = CLASS_NAME,
        may_be_empty: bool = False,
    ) -> Dataset:
        """Read a split, and see that there is something to learn from.

        Raises:
            DataError: it cannot be read, or there is nothing, and it may not be empty.
        """
        faults = Faults(collect=True)
        data = self.read(format, split, faults, class_name=class_name)
        if faults.fatal or not (may_be_empty and data.samples):
            judge(data, faults)
        return data

    def read(
        self, format: Format, split: str, faults: Faults, *, class_name: str = CLASS_NAME
    ) -> Dataset:
        """Read a split; images that are not there are left out and counted.

        Args:
            format: how it is written.
            split: one of its splits.
            faults: collects all faults, or raises the first one.
            class_name: of objects that nothing names.

        Raises:
            DataError: the split cannot be read at all.
        """
        found = self.find(format)
        faults.as_stored = None if self._exif is None else self._exif == "stored"
        records = _READERS[format][1](self.tree, found, split, faults)
        for reason, paths in self.tree.left_out.items():
            text = f"{{n}} annotation files {reason}, and are left out"
            faults.note("left out", text, str(next(iter(paths))), len(paths))
        are_there = [os.path.isfile(sample.path) for sample in records.samples]
        there = tuple(compress(records.samples, are_there))
        gone = [str(s.path) for s in compress(records.samples, [not here for here in are_there])]
        _count_absent(len(there), [*gone, *records.absent], records.place, self.tree, faults)
        if len(found) == 1:
            _count_unlisted(records, self.tree, faults)
        _count_elsewhere(there, split, self.folder, faults)
        return Dataset(
            folder=self.folder,
            split=split,
            format=format,
            categories=tuple(replace(c, name=c.name or class_name) for c in records.categories),
            samples=there,
            has_masks=records.has_masks,
            unreadable=tuple(faults.bad.values()),
            notes=tuple(note.message for note in faults.notes),
            place=records.place,
        )


EXPECTED = (
    "panoptic_NAME.json, instances_NAME.json or another JSON with images, annotations and "
    "categories (COCO), a YAML with names and train (YOLO), a tool's JSONs or XMLs, "
    "images/ with labels/*.txt, or images/ and masks/ with one id map an image"
)

EXPECTED_FILE = (
    "expected a JSON (COCO, labelme, VIA), an XML (Pascal VOC), a YAML (YOLO) or a metadata file "
    "(Hugging Face); name one of these, or the data's folder"
)


def _count_absent(
    there: int, absent: Sequence[str], place: Path, tree: Tree, faults: Faults
) -> None:
    """Count images that are listed and not there; where nearly all are, it is a fault."""
    if not absent:
        return
    listed = there + len(absent) + len(faults.bad)
    if there + len(faults.bad) < LEAST_THERE * listed:
        faults.add(
            "missing file",
            f"{there} of {listed} images that {place} lists are there, the first that is not: "
            f"{absent[0]}; the folder has {tree.describe()}: get the images of this export, or "
            "name their folder with --images DIR",
        )
        return
    text = f"{len(absent)} of {listed} listed images are not there, and are left out"
    faults.note("missing file", text, f"{absent[0]} is missing", len(absent))


def _count_elsewhere(samples: Sequence[AnySample], split: str, root: Path, faults: Faults) -> None:
    """Count images that lie in the folder of another split."""
    own = split_of(split)
    folders = {sample.path.parent for sample in samples}
    inner = {folder: PurePosixPath(os.path.relpath(folder, root)) for folder in folders}
    others = {folder: split_of(split_of_folder(path)) for folder, path in inner.items()}
    kinds = sorted({other.kind for other in others.values() if other is not None})
    if not split and len(kinds) > 1:
        text = f"images in folders of {' and '.join(kinds)} are read as one split"
        faults.note("missing file", f"{text}; write an annotation file for each to part them")
    for sample in samples if own is not None else ():
        other = others[sample.path.parent]
        if own is not None and other is not None and other.kind != own.kind:
            text = f"{{n}} images of {split} are in the folder of another split"
            faults.note("missing file", text, str(sample.path))


def _count_unlisted(records: Records, tree: Tree, faults: Faults) -> None:
    """Count images that lie beside those of a data set and that no annotation lists."""
    listed = {str(path) for path in (*records.faulty, *(one.path for one in records.samples))}
    folders = {os.path.dirname(path) for path in listed}
    for sample in records.samples:
        if sample.id_map is not None:
            listed.add(str(sample.id_map))
    unlisted: list[str] = []
    for folder, names in tree.folders.items():
        path = tree.root / folder
        where = str(path) if path.parts else ""  # as the images' folders are written
        if where in folders:
            beside = (os.path.join(where, name) for name in filter(is_image, names))
            unlisted += [path for path in beside if path not in listed]
    if len(unlisted) > len(faults.bad):  # those have no records
        text = "{n} images are listed by no annotation, and are left out"
        faults.note("left out", text, min(unlisted), len(unlisted))


def judge(data: Dataset, faults: Faults) -> None:
    """See that there is something to learn from: one answer for checks, rehearsals and runs.

    Raises:
        DataError: the whole data set has a fault, or there is no image or no object.
    """
    if faults.fatal:
        more = f" ({faults.count} faults in all)" if faults.count > 1 else ""
        raise DataError(f"{faults.fatal[0]}{more}")
    if not data.samples:
        raise DataError(
            f"none of {len(data.unreadable)} images can be read, the first: "
            f"{data.unreadable[0] if data.unreadable else 'there is none'}"
        )
    broken = ""
    if data.unreadable:
        broken = f"; {len(data.unreadable)} cannot be read, first: {data.unreadable[0]}"
    for sample in data.samples:
        try:
            if _has_object(sample):
                return
        except DataError as error:  # a run counts it
            broken = broken or f"; cannot be read, first: {error}"
    listed = [s.objects for s in data.samples if isinstance(s, InstanceImage)]
    crowds = 0 if broken else sum(bool(t["iscrowd"]) for objects in listed for t in objects)
    left = f"; {crowds} crowds are left out" if crowds else ""
    raise DataError(
        f"{data.place}: no object to learn from in {len(data.samples)} images{left}"
        f"{broken or '; annotate some'}"
    )


def _has_object(sample: AnySample) -> bool:
    if isinstance(sample, Sample):
        return any(not segment.is_crowd for segment in sample.segments)
    return any(not truth["iscrowd"] for truth in sample.objects)


@system_errors()
def open_data(
    folder: Path | Source,
    split: str | None = None,
    *,
    format: Format | None = None,
    class_name: str = CLASS_NAME,
    annotations: Path | None = None,
    images: Path | None = None,
    exif: Frame | None = None,
    may_be_empty: bool = False,
) -> Dataset:
    """Open a data set of any format and check what can be checked without reading pixels.

    Args:
        folder: the data set's, or its annotation file, or what was found in it.
        split: its name; None takes "train", or else the only one there is.
        format: how it is written; None takes the first of `FORMATS` that is there: a folder of
            COCO's may have both panoptic and instance annotations.
        class_name: of objects that nothing names.
        annotations: the only annotation file that counts; None looks for them.
        images: the folder in which images are looked for; None means all of the folder.
        exif: how images that EXIF turns are annotated, where their sizes don't tell; None leaves it
            to the format's tools.
        may_be_empty: whether it need not hold an object.

    Raises:
        DataError: there is no such data set or split, it contradicts itself, or there is nothing
            to learn from.
    """
    source = folder
    if isinstance(source, Path):
        source = Source(source, annotations=annotations, images=images, exif=exif)
    format, split = source.choose(split, format)
    return source.open(format, split, class_name=class_name, may_be_empty=may_be_empty)


def read_objects(sample: AnySample, index_of: dict[int, int], *, with_masks: bool) -> Objects:
    """Read the objects of an image, crowds left out.

    Never more than one map of the image's size is held, and one mask while it is drawn.

    Args:
        sample: the image.
        index_of: the class index of each category id.
        with_masks: whether masks are read where objects are written one by one; id maps always are.

    Raises:
        DataError: an id map cannot be read, or contradicts what is said of it.
    """
    if isinstance(sample, Sample):
        classes, segment_ids = segment_classes(sample.segments, index_of)
        return Objects(classes=classes, segment_ids=segment_ids, boxes=None, ids=read_ids(sample))
    if sample.id_map is not None:
        ids, segment_ids = read_objects_map(sample.id_map, sample.size)
        classes = np.zeros(segment_ids.size, np.int64)
        return Objects(classes=classes, segment_ids=segment_ids, boxes=None, ids=ids)
    truths = [truth for truth in sample.objects if not truth["iscrowd"]]
    boxes = np.array([truth["bbox"] for truth in truths], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        classes=np.array([index_of[truth["category_id"]] for truth in truths], np.int64),
        segment_ids=np.arange(1, len(truths) + 1, dtype=np.int32),
        boxes=boxes,
        ids=draw_id_map(truths, sample.size) if with_masks else None,
    )


def _choose(found: list[str], split: str | None) -> str | None:
    """Pick a split by its name; None picks the one to train on."""
    if split is not None:
        return same_split(found, split)
    trained = same_split(found, "train")
    if trained is not None or len(found) == 1:
        return trained if trained is not None else found[0]
    return "" if "" in found else None
