"""A clean copy of a data set in COCO's format: what can be used of it, as it is read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from panodetr.data.convert import CocoWriter
from panodetr.data.dataset import judge
from panodetr.data.formats import Faults
from panodetr.data.samples import Sample, read_sample
from panodetr.errors import DataError, ImageError
from panodetr.files import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from panodetr.data.dataset import Format, Source


def write_clean(source: Source, format: Format, splits: Sequence[str], out: Path) -> int:
    """Write the images and objects of a data set that can be used.

    Args:
        source: the data set.
        format: how it is written.
        splits: those to write; one that has nothing to learn from is left out.
        out: the folder to write; after an error it is not there.

    Returns:
        How many images were written.

    Raises:
        DataError: there is nothing to learn from in any split, or two images share a name.
        PanodetrError: the system refused to write.
    """
    written, refused = 0, ""
    with atomic_folder(out) as folder:
        for split in splits:
            faults = Faults(collect=True)
            try:
                data = source.read(format, split, faults)
                judge(data, faults)
            except DataError as error:
                refused = str(error)
                continue
            with_segments = isinstance(data.samples[0], Sample)
            writer = CocoWriter(folder, Counter(), with_segments=with_segments)
            writer.begin(data)
            for sample in data.samples:
                try:
                    read_sample(sample)
                except ImageError:
                    continue
                writer.add(sample)
                written += 1
            writer.end()
        if not written:
            raise DataError(f"nothing can be written: {refused}")
    return written
