"""A model's description as JSON: in a checkpoint's `config.json`, and in an exported file."""

from __future__ import annotations

import dataclasses
from typing import cast

from panodetr.checkpoints.fields import from_json, json_object, scalar
from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig
from panodetr.results.types import Category

FORMAT = "panodetr"
FORMAT_VERSION = 3
"""2: preprocessing has `enlarge`. 3: there is `single_component`. Older ones have neither."""

_KEYS = (
    "format",
    "format_version",
    "name",
    "architecture",
    "categories",
    "preprocessing",
    "threshold",
    "duplicate_iou",
    "single_component",
)


def spec_to_json(spec: ModelSpec) -> dict[str, object]:
    """Lay out a model's description as `config.json` has it."""
    fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(spec)}
    return {key: fields[key] for key in _KEYS}


def spec_from_json(value: object) -> ModelSpec:
    """Read a model's description, the inverse of `spec_to_json`, from text that may be edited.

    Raises:
        ValueError: with the key in the message.
    """
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    head = cast("dict[str, object]", value)
    if head.get("format") != FORMAT:
        raise ValueError(f'not a panodetr checkpoint: expected "format": "{FORMAT}"')
    version = scalar(int, head.get("format_version"), "format_version")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"format_version is {version}, made by a newer panodetr; this one reads up to "
            f"{FORMAT_VERSION}: upgrade panodetr"
        )
    if version < 1:
        raise ValueError(f"format_version is {version}; expected 1 to {FORMAT_VERSION}")
    fields = json_object(head if version > 2 else {"single_component": False, **head}, _KEYS, "")
    preprocessing = fields["preprocessing"]
    if version < 2 and isinstance(preprocessing, dict):
        preprocessing = {"enlarge": 1.0, **cast("dict[str, object]", preprocessing)}
    categories = fields["categories"]
    if not isinstance(categories, list):
        raise ValueError("categories is not a list")
    rows = enumerate(cast("list[object]", categories))
    overlap = fields["duplicate_iou"]
    return ModelSpec(
        name=scalar(str, fields["name"], "name"),
        architecture=from_json(DetrConfig, fields["architecture"], "architecture"),
        categories=tuple(from_json(Category, row, f"categories[{i}]") for i, row in rows),
        preprocessing=from_json(Preprocessing, preprocessing, "preprocessing"),
        threshold=scalar(float, fields["threshold"], "threshold"),
        duplicate_iou=None if overlap is None else scalar(float, overlap, "duplicate_iou"),
        single_component=scalar(bool, fields["single_component"], "single_component"),
    )
