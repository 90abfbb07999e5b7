"""One training run, described in full, and how `--set field=value` changes it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import Augmentation, Sampling
from panodetr.errors import UsageError
from panodetr.model.config import DetrConfig, EomtConfig
from panodetr.objective.config import ObjectiveConfig, Weight
from panodetr.validation import Count, Positive, check

_OF_DETR = (
    "learned", "grid_queries", "token_weight", "attention_weight",
)  # fmt: skip

Rate: TypeAlias = Annotated[float, Meta(gt=0)]
T = TypeVar("T")


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
        layer_decay: what the backbone's rate is multiplied by from each block to the one before, of
            EoMT.
        warmup: steps over which the learning rate rises to its highest.
        backbone_warmup: steps over which the backbone's rises after that; 0 for with it.
        drop: the step from which the learning rate is a tenth; 0 for none.
        decay: steps, the last ones, over which it falls to zero in a straight line; until then it
            is level, so that a run may be resumed with another number of steps.
        poly: the learning rate falls from its warm-up's end on as the rest of the steps to this
            power; 0 for not at all.
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
    layer_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    weight_decay: Weight = 1e-4
    clip: Rate = 0.1
    warmup: Count = 0
    backbone_warmup: Count = 0
    drop: Count = 0
    decay: Count = 0
    poly: Annotated[float, Meta(ge=0)] = 0.0
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
        shape = self.spec.architecture
        if isinstance(shape, EomtConfig):
            usual = ObjectiveConfig()
            for name in _OF_DETR:
                if getattr(self, name) != getattr(usual, name):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}; expected {getattr(usual, name)!r} "
                        "where an EoMT is trained"
                    )
        elif isinstance(shape, DetrConfig) and shape.sigmoid:
            raise ValueError(
                "architecture.sigmoid is true; expected false: the class loss is that of the paper"
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
        """Whether masks are read where objects have them; boxes are enough for other losses."""
        return self.spec.architecture.masks or bool(self.token_weight or self.attention_weight)


def override(config: T, changes: Sequence[str], others: Iterable[str] = ()) -> T:
    """A copy of a configuration with some fields changed, in whatever order they are given.

    Of two changes of one field the later one counts.

    Args:
        config: a frozen dataclass, whose fields may be such too.
        changes: "steps=100", "criterion.giou=1.5", "start=nuclei", "augmentation.short_sides=[480,
            512]"; a value is a number, true, false, null, a list, or text.
        others: names that may be given besides the fields, for the message.

    Raises:
        UsageError: a change has no "=", names no field, has a value of the wrong kind, or one that
            does not go with the others.
    """
    return _rebuild(config, [(change, *split_change(change)) for change in changes], others)


def list_fields(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a configuration by the name that `override` takes, and its value."""
    assert is_dataclass(config)
    for one in fields(config):
        value: object = getattr(config, one.name)
        name = f"{prefix}{one.name}"
        if is_dataclass(value):
            yield from list_fields(value, f"{name}.")
        else:
            yield name, value


def split_change(change: str) -> tuple[str, str]:
    """The name and the text of the value; a UsageError where there is no "="."""
    name, separator, text = change.partition("=")
    if not separator:
        raise UsageError(f"{change!r} changes nothing; expected field=value")
    return name, text


def parse_value(hint: Any, text: str, change: str) -> object:
    """The value that a text stands for, of the type that an annotation says."""
    try:
        given: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        given = text
    try:
        return check(given, hint, repr(change), UsageError)
    except UsageError as error:
        with suppress(UsageError):  # a text that looks like a number: start=2024
            return check(text, hint, repr(change), UsageError)
        if get_origin(hint) is Literal:
            known = ", ".join(map(repr, get_args(hint)))
            raise UsageError(f"{change!r}: expected one of {known}") from error
        raise


def _rebuild(config: T, asked: Sequence[tuple[str, str, str]], others: Iterable[str]) -> T:
    """Make all changes at once, each as (change, name, text), so that they are checked together."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    hints = get_type_hints(type(config), include_extras=True)
    values: dict[str, object] = {}
    inner: dict[str, list[tuple[str, str, str]]] = {}
    for change, path, text in asked:
        name, _, rest = path.partition(".")
        if name not in hints:
            known = [*hints, *others]
            near = ", ".join(difflib.get_close_matches(name, known, n=3) or known)
            raise UsageError(f"{change!r}: there is no field {name!r}; near ones are {near}")
        old: object = getattr(config, name)
        if is_dataclass(old) and rest:
            inner.setdefault(name, []).append((change, rest, text))
        elif is_dataclass(old):
            own = ", ".join(one.name for one in fields(old))
            raise UsageError(f"{change!r}: {name} has fields of its own; name one of {own}")
        elif rest:
            raise UsageError(f"{change!r}: {name} has no fields of its own")
        else:
            values[name] = parse_value(hints[name], text, change)
    for name, own_changes in inner.items():
        values[name] = _rebuild(getattr(config, name), own_changes, ())
    try:
        return replace(config, **values)
    except ValueError as error:
        words = set(re.findall(r"\w+", str(error)))
        named = [change for change, path, _ in asked if path.partition(".")[0] in words]
        blamed = ", ".join(map(repr, named or [change for change, _, _ in asked]))
        raise UsageError(f"{blamed}: {error}") from error
