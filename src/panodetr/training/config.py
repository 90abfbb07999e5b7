"""One training run, described in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from panodetr.training.criterion import CriterionConfig

if TYPE_CHECKING:
    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.augment import CropAugmentation


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the outcome of a run, given its data.

    Attributes:
        spec: the model to be trained.
        augmentation: how photos become training crops.
        criterion: weights of matching costs and losses.
        seed: of all randomness: crops depend on it and their number alone, weights and dropout on it.
        steps: optimizer steps.
        batch_size: crops a step.
        learning_rate: of AdamW, at its highest.
        backbone_learning_rate: likewise, of the backbone.
        weight_decay: of AdamW.
        clip: largest norm of the gradients.
        warmup: steps over which the learning rate rises to its highest.
        decay: fraction of the steps, at the end, over which it falls to zero in a straight line.
        mask_start: fraction of the steps after which masks are learned too; they cost as much as all else.
        query_groups: sets of queries, 1 for none but the model's own.
        token_weight: weight of the token supervision; 0 for none.
        log_every: steps between two lines of the log.
        save_every: steps between two states to resume from.
    """

    spec: ModelSpec
    augmentation: CropAugmentation
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    seed: int = 0
    steps: int
    batch_size: int
    learning_rate: float = 1e-4
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    clip: float = 0.1
    warmup: int = 0
    decay: float = 0.0
    mask_start: float = 0.0
    query_groups: int = 1
    token_weight: float = 0.0
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse runs that cannot be.

        Raises:
            ValueError: a count is not positive or a fraction is not one.
        """
        for name in ("steps", "batch_size", "query_groups", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("decay", "mask_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a fraction of the steps, 0 to 1")
        for name in ("learning_rate", "backbone_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.warmup < 0 or self.weight_decay < 0 or self.token_weight < 0 or self.seed < 0:
            raise ValueError("warmup, weight_decay, token_weight and seed must not be negative")
