from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from panodetr.results.panoptic import measure_segments
from panodetr.results.result import PanopticResult
from panodetr.results.types import Category, Segment

CATEGORIES = (
    Category(index=0, id=7, name="cell", is_thing=True, color=(220, 20, 60)),
    Category(index=1, id=9, name="ground", is_thing=False, color=(40, 40, 200)),
)

MakeResult = Callable[[NDArray[np.int32], Path | None], PanopticResult]


@pytest.fixture
def make_result() -> MakeResult:
    """Make a result of a map of ids: the highest id is ground, all others are cells."""

    def make(segment_ids: NDArray[np.int32], source: Path | None = None) -> PanopticResult:
        count = int(segment_ids.max())
        segments = [
            Segment(
                id=number,
                label=(category := CATEGORIES[number == count]).name,
                category_id=category.id,
                is_thing=category.is_thing,
                score=0.9,
                box=box,
                area=area,
            )
            for number, (area, box) in enumerate(measure_segments(segment_ids, count), start=1)
        ]
        return PanopticResult(
            segments=tuple(segments),
            segment_ids=segment_ids,
            image=np.full((*segment_ids.shape, 3), 128, np.uint8),
            source=source,
            categories=CATEGORIES,
        )

    return make
