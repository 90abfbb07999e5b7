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
        seed: of all randomness: crops depend on it and their number alone, weights and dropout on
            it.
        steps: optimizer steps.
        batch_size: crops a step.
        learning_rate: of AdamW, at its highest.
        backbone_learning_rate: likewise, of the backbone.
        weight_decay: of AdamW.
        clip: largest norm of the gradients.
        warmup: steps over which the learning rate rises to its highest.
        decay: steps, the last ones, over which it falls to zero in a straight line; until then it
            is level, so that a run may be resumed with another number of steps.
        mask_start: the step from which masks are learned too: boxes come first, and cost less.
        mask_objects: at most this many objects of a batch, drawn at random, have a mask loss.
        query_groups: sets of queries, 1 for none but the model's own.
        token_weight: weight of the token supervision; 0 for none.
        attention_weight: weight of the attention supervision; 0 for none.
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
    decay: int = 0
    mask_start: int = 0
    mask_objects: int = 64
    query_groups: int = 1
    token_weight: float = 0.0
    attention_weight: float = 0.0
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse runs that cannot be.

        Raises:
            ValueError: a count is not positive or a fraction is not one.
        """
        for name in (
            "steps",
            "batch_size",
            "query_groups",
            "mask_objects",
            "log_every",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "backbone_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in (
            "warmup",
            "decay",
            "mask_start",
            "weight_decay",
            "token_weight",
            "attention_weight",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
