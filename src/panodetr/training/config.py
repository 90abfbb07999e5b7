"""One training run, described in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import Augmentation
from panodetr.data.sampling import Sampling
from panodetr.objective.config import ObjectiveConfig, Weight
from panodetr.validation import Count, Positive

Rate: TypeAlias = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ObjectiveConfig):
    """Everything that decides the outcome of a run, given its data.

    What is minimised is described in `ObjectiveConfig`, with the settings that it brings.

    A step is one update of the weights. The images that it learns from do not depend on how many
    processes share it, nor on how many parts it is worked through in; random numbers do.

    Attributes:
        spec: the model to be trained.
        augmentation: how images become what the model sees.
        seed: of all randomness: images and their augmentation depend on it and their number alone,
            weights and dropout on it.
        start: a checkpoint to start from, by name, path or hub id; None starts with random weights.
        class_map: from names of the data's classes to those of `start`'s that they go on from; the
            others go on from a class of their own name.
        backbone_weights: an ImageNet backbone to start from: torchvision's file, or a checkpoint.
        frozen_stages: how much of the backbone is not learned: 0 nothing, 1 its stem and first
            stage (as the paper), up to 4, all of it.
        sampling: in which order images come: by "area" each is drawn for itself; in "epochs" each
            comes once before any comes again; in "buckets" those of a batch are also of one shape.
        steps: optimizer steps.
        batch_size: images a step, of all processes together.
        accumulate: parts that each process works its share of a step through in.
        precision: of the network; losses are always float32.
        checkpointing: whether activations are computed again for the backward pass, not kept.
        learning_rate: of AdamW, at its highest.
        backbone_learning_rate: of AdamW for the backbone, at its highest.
        weight_decay: of AdamW.
        clip: largest norm of the gradients.
        warmup: steps over which the learning rate rises to its highest.
        drop: the step from which the learning rate is a tenth; 0 for none.
        decay: steps, the last ones, over which it falls to zero in a straight line; until then it
            is level, so that a run may be resumed with another number of steps.
        ema: decay of the moving average of the weights, which then is the model that is validated
            and kept; 0 for none.
        mask_start: the step from which masks are learned too: boxes come first, and cost less.
        log_every: steps between two lines of the log.
        save_every: steps between two states to resume from.
        validate_every: steps between two validations; 0 for none but the one at the end.
        validate_start: whether a run from a checkpoint is also validated before its first step, for
            comparison: `patience` and the best model are of what was learned.
        patience: validations in a row that may bring nothing better before the run ends, once one
            has scored above zero; 0 for no limit.
        wandb: whether Weights & Biases gets the figures of the log too, as TensorBoard does.
        workers: processes that read images; 0 reads in a thread.
        bad_images: images that cannot be read, skipped before the run gives up.
        bad_steps: steps with a loss that is not finite, skipped before the run gives up.
    """

    spec: ModelSpec
    augmentation: Augmentation
    seed: Count = 0
    start: str | None = None
    class_map: dict[str, str] = field(default_factory=dict[str, str])
    backbone_weights: str | None = None
    frozen_stages: Annotated[int, Meta(ge=0, le=4)] = 0
    sampling: Sampling = "epochs"
    steps: Positive
    batch_size: Positive
    accumulate: Positive = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    learning_rate: Rate = 1e-4
    backbone_learning_rate: Rate = 1e-5
    weight_decay: Weight = 1e-4
    clip: Rate = 0.1
    warmup: Count = 0
    drop: Count = 0
    decay: Count = 0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    mask_start: Count = 0
    log_every: Positive = 50
    save_every: Positive = 200
    validate_every: Count = 0
    validate_start: bool = True
    patience: Count = 0
    wandb: bool = False
    workers: Count = 0
    bad_images: Count = 10
    bad_steps: Count = 10

    def __post_init__(self) -> None:
        """Refuse runs that cannot be.

        Raises:
            ValueError: a field is out of bounds, or what is learned does not fit the rest.
        """
        super().__post_init__()
        if self.batch_size < self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate} and batch_size {self.batch_size}; "
                "expected at least one image a part"
            )
        if self.learned == "masks":
            if not self.spec.architecture.masks:
                raise ValueError("learned is 'masks', and the architecture has no mask head")
            if self.mask_start:
                raise ValueError(
                    f"mask_start is {self.mask_start}; expected 0 where the mask head alone learns"
                )

    @property
    def learns_from_masks(self) -> bool:
        """Whether any loss reads the objects' masks; boxes are enough for the others."""
        return self.spec.architecture.masks or bool(self.token_weight or self.attention_weight)
