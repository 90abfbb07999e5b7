"""The runs that have a name: each a function from the data's categories to a full configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import CropAugmentation
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import detr_small
from panodetr.training.config import TrainConfig
from panodetr.training.criterion import CriterionConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from panodetr.results.types import Category


def nuclei(categories: tuple[Category, ...]) -> TrainConfig:
    """The bundled model: cell nuclei, from scratch, on two cores.

    Photos keep their resolution, so that a nucleus looks the same in training and in use. The
    model sees tiles of 128 pixels, on which positions and boxes are easy to learn, and photos are
    predicted in tiles that overlap by half.
    """
    tile = 128
    return TrainConfig(
        spec=ModelSpec(
            name="nuclei",
            architecture=detr_small(len(categories)),
            categories=categories,
            preprocessing=Preprocessing(
                short_side=None, long_side=None, tile=tile, tile_overlap=tile // 2
            ),
            threshold=0.5,
            duplicate_iou=0.5,
        ),
        augmentation=CropAugmentation(size=tile, least_scale=0.8, most_scale=1.4, color=0.2),
        # The paper's 0.1 leaves a query that repeats another's object at a score of 0.9.
        criterion=CriterionConfig(no_object=0.5),
        steps=6400,
        batch_size=8,
        learning_rate=4e-4,
        backbone_learning_rate=4e-4,
        warmup=200,
        decay=1500,
        mask_start=2000,
        mask_objects=24,
        query_groups=3,
        token_weight=1.0,
        attention_weight=1.0,
    )


RECIPES: dict[str, Callable[[tuple[Category, ...]], TrainConfig]] = {"nuclei": nuclei}
