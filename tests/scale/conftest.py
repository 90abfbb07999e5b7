"""Images to share out, and how their rows are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

Row = dict[str, Any]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Nine images of several sizes in two folders; one is broken."""
    folder = tmp_path / "images"
    noise = np.random.default_rng(0)
    for number, size in enumerate([(40, 56), (64, 64), (80, 100)] * 3):
        path = folder / f"{number // 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (folder / "0" / "3.png").write_bytes(b"no image")
    return folder


def read_rows(out: Path) -> list[Row]:
    """Read the rows of all parts, by image, but for their times."""
    rows: list[Row] = []
    for part in sorted(out.glob("part-*.parquet")):
        rows += pyarrow.parquet.read_table(part).drop_columns("seconds").to_pylist()
    return sorted(rows, key=lambda row: row["id"])
