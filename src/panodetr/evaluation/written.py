"""Predictions on disk in COCO's result formats, written while they come, so that none are kept."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self, TextIO

from panodetr.files import atomic_folder, atomic_write
from panodetr.results.coco import id_map_png

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from panodetr.evaluation.detection import ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruthImage, Task
    from panodetr.results.coco import SegmentInfo


class PredictionFiles:
    """`boxes.json`, `instances.json`, `panoptic.json` with `panoptic/`: those of the tasks.

    In the forms that COCO's evaluation servers and tools read. They are there when the `with` block
    ends well, all of them; when it doesn't, what was there before is left.
    """

    def __init__(self, out: Path, tasks: Iterable[Task]) -> None:
        self._out = out
        self._tasks = tuple(tasks)
        self._stack = ExitStack()
        self._lists: dict[Task, _JsonList] = {}
        self._id_maps: Path | None = None

    def __enter__(self) -> Self:
        """Begin the files, under temporary names.

        Raises:
            PanodetrError: the system refused to write.
        """
        with ExitStack() as opened:
            for task in self._tasks:
                path = opened.enter_context(atomic_write(self._out / f"{task}.json"))
                file = opened.enter_context(path.open("w", encoding="utf-8"))
                head, tail = ('{"annotations": [', "]}\n") if task == "panoptic" else ("[", "]\n")
                self._lists[task] = opened.enter_context(_JsonList(file, head, tail))
            if "panoptic" in self._tasks:
                self._id_maps = opened.enter_context(atomic_folder(self._out / "panoptic"))
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the files their names, or remove them after an error."""
        self._stack.__exit__(kind, error, trace)

    def add_objects(self, task: Task, results: Iterable[ObjectResult]) -> None:
        """Write the boxes or the masks of one image."""
        for result in results:
            self._lists[task].add(result)

    def add_panoptic(
        self, image: GroundTruthImage, ids: NDArray[np.int32], segments: list[SegmentInfo]
    ) -> None:
        """Write the id map (H, W) of one image, and COCO's list of its segments."""
        if self._id_maps is None:
            raise RuntimeError("panoptic results were not asked for")
        name = f"{image.name}.png"
        path = self._id_maps / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(id_map_png(ids))
        self._lists["panoptic"].add(
            {"image_id": image.image_id, "file_name": name, "segments_info": segments}
        )


class _JsonList:
    """A list in a JSON file, one entry a line."""

    def __init__(self, file: TextIO, head: str, tail: str) -> None:
        self._file = file
        self._tail = tail
        self._separator = head + "\n"

    def add(self, entry: object) -> None:
        """Write one entry."""
        self._file.write(self._separator + json.dumps(entry, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the list, of which nothing may have come yet."""
        head = self._separator if self._separator != ",\n" else "\n"
        self._file.write(head + self._tail)
