"""A split of a data set, of any format, checked to the last pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.data.check_coco import check_instances, check_panoptic
from panodetr.data.check_plain import check_id_folder, check_yolo
from panodetr.data.findings import Inspection
from panodetr.data.layout import require_layout

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.data.dataset import Format
    from panodetr.data.findings import Progress


def check_split(folder: Path, split: str, format: Format, progress: Progress) -> Inspection:
    """Read every file of a split and list all that is wrong.

    Args:
        folder: the data set's.
        split: one of its splits.
        format: how it is written.
        progress: told after each image how many are done, and how many there are.

    Returns:
        What was found. A file without which nothing else can be read, as a JSON that is none, is
        the only finding then.
    """
    found = Inspection()
    with found.catching("broken file"):
        if format == "coco-panoptic":
            check_panoptic(found, require_layout(folder, split, "panoptic"), progress)
        elif format == "coco-instances":
            check_instances(found, require_layout(folder, split, "instances"), progress)
        elif format == "yolo":
            check_yolo(found, folder, split, progress)
        else:
            check_id_folder(found, folder, split, progress)
    return found
