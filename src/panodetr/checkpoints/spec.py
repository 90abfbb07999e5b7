"""What a checkpoint says of itself beside its weights, and its form as `config.json`.

No torch in here: exported models carry a specification, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from panodetr.errors import CheckpointError, did_you_mean
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import Architecture, EomtConfig
from panodetr.results.types import Category
from panodetr.validation import check, check_fields

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"  # may lie beside it: what the model reached, and on what
PREPROCESSOR_FILE = "preprocessor_config.json"
SAFETENSORS = "model.safetensors"
_PICKLED = "pytorch_model.bin"
WEIGHTS_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", _PICKLED, f"{_PICKLED}.index.json")
"""Where weights are, in one file or, with an index, in several; best first. This package writes
the first, and transformers any of them."""

FORMAT = "panodetr"
FORMAT_VERSION = 3
"""Rises when `config.json` changes so that an older panodetr would read it wrongly."""


NO_CLASS = -1
"""The id of the one class of a backbone, which has none."""


@dataclass(frozen=True)
class WeightsIndex:
    """What transformers writes where weights are in several files: names to files."""

    weight_map: dict[str, str]

    @property
    def files(self) -> list[str]:
        """Each file once."""
        return sorted(set(self.weight_map.values()))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: enough to build it, feed it and read its outputs.

    Attributes:
        name: what a user calls it.
        architecture: the shape of the network.
        categories: the classes, by rising index; an index without one is a logit that the data
            never uses.
        preprocessing: how images are fed.
        threshold: least score of a segment that is kept, unless the caller says otherwise (the
            paper's 0.85).
        class_thresholds: the same for some of the classes, by name, of segments and of detections:
            what `panodetr eval --store-thresholds` found best.
        duplicate_iou: two masks of one class that overlap by more than this are one object found
            twice, and the one with the lower score is dropped; None drops none, as in the paper.
        overlap: the least part of a mask, where it is likely, that must be the highest there for a
            segment to be kept, which then is that part alone; scores count in what is highest
            (EoMT's rule, 0.8). None gives every pixel to the highest mask, as the paper does.
        single_component: of a thing's mask only the largest connected component is kept; not in
            the paper.
    """

    name: Annotated[str, Meta(min_length=1)]
    architecture: Architecture
    categories: Annotated[tuple[Category, ...], Meta(min_length=1)]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.85
    class_thresholds: dict[str, Annotated[float, Meta(ge=0, le=1)]] = field(
        default_factory=dict[str, float]
    )
    duplicate_iou: Annotated[float, Meta(gt=0, le=1)] | None = None
    overlap: Annotated[float, Meta(ge=0, le=1)] | None = None
    single_component: bool = False

    @property
    def is_backbone(self) -> bool:
        """Whether there is only a trained backbone, for a model that is to be trained."""
        return isinstance(self.architecture, EomtConfig) and self.categories[0].id == NO_CLASS

    def thresholds_of(self, categories: Iterable[Category]) -> dict[str, float]:
        """Give the `class_thresholds` of those categories that keep their names."""
        names = {category.name for category in categories}
        return {name: least for name, least in self.class_thresholds.items() if name in names}

    def __post_init__(self) -> None:
        """Refuse descriptions that contradict themselves.

        Raises:
            ValueError: a field is out of bounds, or categories collide or do not fit the class
                head.
        """
        check_fields(self)
        shape, multiple = self.architecture, self.preprocessing.multiple
        if isinstance(shape, EomtConfig) and multiple < shape.backbone.patch:
            raise ValueError(
                f"preprocessing.multiple is {multiple}; expected the side of a patch, "
                f"{shape.backbone.patch}, or more"
            )
        indices = [category.index for category in self.categories]
        if any(a >= b for a, b in pairwise(indices)):
            raise ValueError(f"categories have the indices {indices}; expected rising ones")
        classes = shape.num_classes
        if indices[-1] >= classes:
            raise ValueError(
                f"categories have the indices {indices[0]} to {indices[-1]}; "
                f"architecture.num_classes is {classes}, so expected 0 to {classes - 1}"
            )
        if len({category.id for category in self.categories}) < len(indices):
            raise ValueError("two categories have the same id")
        for name in self.class_thresholds.keys() - {category.name for category in self.categories}:
            raise ValueError(f"class_thresholds has {name!r}, which is the name of no category")


def spec_to_json(spec: ModelSpec) -> dict[str, object]:
    """Lay out a specification as `config.json` has it."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(spec)}


def spec_from_json(value: object, source: str = CONFIG_FILE) -> ModelSpec:
    """Read a specification, the inverse of `spec_to_json`; people may have edited it.

    A key with a usual value may be left out.

    Args:
        value: what the JSON parser gave.
        source: where it comes from, for errors.

    Raises:
        CheckpointError: it is not a specification, is of another version, or holds an unknown key
            or a value out of range, which is named.
    """
    fields = check(value, dict[str, Any], source, CheckpointError)
    kind, version = fields.get("format"), fields.get("format_version")
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{source}: format is {kind!r} and format_version {version!r}; expected {FORMAT!r} and "
            f"{FORMAT_VERSION}; upgrade panodetr if the number is higher"
        )
    given = {key: fields[key] for key in fields if key not in ("format", "format_version")}
    spec = check(given, ModelSpec, source, CheckpointError)
    _refuse_unknown(given, msgspec.to_builtins(spec), source)
    return spec


def _refuse_unknown(given: object, known: object, source: str, place: str = "") -> None:
    """Compare what was read with what was understood, so that no misspelt key goes unnoticed."""
    if isinstance(given, dict) and isinstance(known, dict):
        names = list(cast("dict[str, object]", known))
        for key, value in cast("dict[str, object]", given).items():
            if key not in names:
                hint = did_you_mean(key, names, f"known: {', '.join(names)}")
                raise CheckpointError(f"{source}: unknown key {place + key!r}; {hint}")
            _refuse_unknown(value, known[key], source, f"{place}{key}.")
    elif isinstance(given, list) and isinstance(known, list | tuple):
        rows = cast("list[object]", given)
        for index, (one, other) in enumerate(zip(rows, cast("list[object]", known), strict=True)):
            _refuse_unknown(one, other, source, f"{place.removesuffix('.')}[{index}].")
