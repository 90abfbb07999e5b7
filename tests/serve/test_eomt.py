"""A service answers with an EoMT as with a DETR."""

from __future__ import annotations

from pathlib import Path

from .conftest import Start, png


def test_segments_and_boxes_are_served(start: Start, eomt_folder: Path) -> None:
    with start("--model", f"eomt={eomt_folder}") as service:
        segments = service.post("/v1/segment", png()).json()
        boxes = service.post("/v1/detect?threshold=0.2", png()).json()
    assert segments["segments"]
    assert boxes["detections"]
