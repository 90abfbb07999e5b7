"""CVAT's automatic annotation with a panodetr model, as a Nuclio function.

CVAT sends an image as base64 and takes a list of objects: a label, a confidence, a polygon, and a
mask as its box's pixels in rows, 0 or 1, followed by x0, y0, x1, y1 of the box, both ends included.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import panodetr
from panodetr.results.regions import Region


def init_context(context: Any) -> None:
    """Load the model once, when the function starts."""
    context.user_data.model = panodetr.load(os.environ.get("PANODETR_MODEL", "nuclei"))


def handler(context: Any, event: Any) -> Any:
    """Answer one request of CVAT."""
    image = base64.b64decode(event.body["image"])
    threshold = event.body.get("threshold")
    result = context.user_data.model.segment(
        image, threshold=None if threshold is None else float(threshold), task="instances"
    )
    found = [to_cvat(region) for region in result.regions()]
    return context.Response(
        body=json.dumps(found), headers={}, content_type="application/json", status_code=200
    )


def to_cvat(region: Region) -> dict[str, object]:
    """Describe an object as CVAT takes it."""
    assert region.pixels is not None
    rows, columns = region.window
    box = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    outer = max((part.outer for part in region.outline()), key=len)
    return {
        "confidence": f"{region.score:.4f}",
        "label": region.label,
        "type": "mask",
        "points": [number for point in outer for number in point],
        "mask": [*region.pixels.astype(int).ravel().tolist(), *box],
    }
