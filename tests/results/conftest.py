from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from panodetr.results.panoptic import describe_segments
from panodetr.results.result import PanopticResult
from panodetr.results.types import Category

CATEGORIES = (
    Category(index=0, id=7, name="cell", is_thing=True, color=(220, 20, 60)),
    Category(index=1, id=9, name="ground", is_thing=False, color=(40, 40, 200)),
)

MakeResult = Callable[..., PanopticResult]


def kinds(count: int, things: int | None = None) -> list[Category]:
    """Categories, all of them things or only the first ones."""
    return [
        Category(index=n, id=n, name="", is_thing=things is None or n < things, color=(0, 0, 0))
        for n in range(count)
    ]


@pytest.fixture
def make_result() -> MakeResult:
    """Make a result of a map of ids: the highest id is ground, all others are cells."""

    def make(segment_ids: NDArray[np.int32], source: Path | None = None) -> PanopticResult:
        count = int(segment_ids.max())
        categories = [CATEGORIES[number == count] for number in range(1, count + 1)]
        segments = describe_segments(segment_ids, categories, [0.9] * count)
        return PanopticResult(
            segments=tuple(segments),
            segment_ids=segment_ids,
            image=np.full((*segment_ids.shape, 3), 128, np.uint8),
            source=source,
            categories=CATEGORIES,
        )

    return make
