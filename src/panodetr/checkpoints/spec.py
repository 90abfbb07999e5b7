"""What a checkpoint says of itself beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig
from panodetr.results.types import Category


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: enough to build it, feed it and read its answers.

    Attributes:
        name: what a user calls it.
        architecture: the shape of the network.
        categories: the classes, by rising index; an index without one is a logit that the data
            never uses.
        preprocessing: how images are fed.
        threshold: least score of a segment that is kept, unless the caller says otherwise (the
            paper's 0.85).
        duplicate_iou: two masks of one class that overlap by more than this are one object found
            twice, and the one with the lower score is dropped; None drops none, as in the paper.
        single_component: things are of one piece, what of a mask lies apart from
            it is dropped; not in the paper.
    """

    name: str
    architecture: DetrConfig
    categories: tuple[Category, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    threshold: float = 0.85
    duplicate_iou: float | None = None
    single_component: bool = False

    def __post_init__(self) -> None:
        """Refuse descriptions that contradict themselves.

        Raises:
            ValueError: there is no name or category, categories collide or do not fit the class
                head, a colour is none, or a threshold is no fraction.
        """
        if not self.name or not self.categories:
            raise ValueError("name and categories must not be empty")
        indices = [category.index for category in self.categories]
        if any(a >= b for a, b in pairwise(indices)):
            raise ValueError(f"categories have the indices {indices}; expected rising ones")
        classes = self.architecture.num_classes
        if indices[0] < 0 or indices[-1] >= classes:
            raise ValueError(
                f"categories have the indices {indices[0]} to {indices[-1]}; "
                f"architecture.num_classes is {classes}, so expected 0 to {classes - 1}"
            )
        if len({category.id for category in self.categories}) < len(indices):
            raise ValueError("two categories have the same id")
        for category in self.categories:
            if not all(0 <= value <= 255 for value in category.color):
                raise ValueError(
                    f"category {category.name!r} has the color {category.color}; "
                    "expected three numbers from 0 to 255"
                )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; expected 0 to 1")
        if self.duplicate_iou is not None and not 0 < self.duplicate_iou <= 1:
            raise ValueError(f"duplicate_iou is {self.duplicate_iou}; expected 0 to 1, or null")
