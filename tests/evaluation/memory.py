"""Evaluates one small image again and again, and prints by how many bytes each time adds to memory.

A script, for a process of its own: `python tests/evaluation/memory.py IMAGES`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from panodetr.data.samples import GroundTruthSegment, Sample
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.predict import Predictor
from panodetr.results.id_map import id_map_png
from panodetr.results.masks import Frame
from panodetr.results.panoptic import describe_segments
from panodetr.results.result import PanopticResult
from panodetr.results.types import Candidates, Category, CoarseMask

SIZE = (24, 32)
QUERIES = 100
CATEGORIES = tuple(
    Category(index=i, id=i + 1, name=f"class {i}", is_thing=i < 80, color=(0, 0, 0))
    for i in range(81)
)


class Repeating(Predictor):
    """Says of every image the same, with other scores: COCO's number of queries and classes."""

    def __init__(self, ids: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> None:
        self._rng = np.random.default_rng(0)
        self._result = PanopticResult(
            segments=tuple(describe_segments(ids, CATEGORIES[:20], [0.9] * 20)),
            segment_ids=ids,
            image=np.zeros((*SIZE, 3), np.uint8),
            source=None,
            categories=CATEGORIES,
        )
        coarse = self._rng.normal(size=(QUERIES, 6, 8)).astype(np.float32)
        self._masks = tuple(
            CoarseMask(logits=mask, frame=Frame(SIZE, SIZE), tile=(0, 0, *SIZE), image_size=SIZE)
            for mask in coarse.repeat(4, axis=1).repeat(4, axis=2)
        )

    @property
    def categories(self) -> tuple[Category, ...]:
        return CATEGORIES

    def answer_each(
        self, images: Any, **options: Any
    ) -> Iterator[tuple[PanopticResult, Candidates]]:
        for _ in images:
            yield (
                self._result,
                Candidates(
                    scores=self._rng.random(QUERIES, np.float32),
                    category_ids=self._rng.integers(1, 81, QUERIES),
                    boxes=self._rng.random((QUERIES, 4), np.float32) * 40,
                    image_size=SIZE,
                    coarse_masks=self._masks,
                ),
            )


def main(images: int) -> None:
    """Measure between the first tenth, after which caches are full, and the end."""
    ids = np.arange(1, 25, dtype=np.int32).reshape(3, 8).repeat(8, axis=0).repeat(4, axis=1)
    ids[ids > 20] = 0
    memory: list[int] = []

    def watch(done: int, of: int) -> None:
        if done in (of // 10, of):
            pages = Path("/proc/self/statm").read_text().split()[1]
            memory.append(4096 * int(pages))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "1.png")
        file.write_bytes(id_map_png(ids))
        segments = tuple(
            GroundTruthSegment(id=i, category_id=i, area=32, is_crowd=False) for i in range(1, 21)
        )
        sample = Sample(image_id=0, name="", path=file, id_map=file, size=SIZE, segments=segments)
        truth = GroundTruth(
            folder=Path(folder),
            images=tuple(
                replace(sample, image_id=number, name=str(number)) for number in range(images)
            ),
            segment_categories=CATEGORIES,
            object_categories=tuple(c for c in CATEGORIES if c.is_thing),
            has_masks=True,
        )
        evaluate(Repeating(ids), truth, TASKS, out=Path(folder, "out"), progress=watch)
    print((memory[1] - memory[0]) / (images - images // 10))


if __name__ == "__main__":
    main(int(sys.argv[1]))
