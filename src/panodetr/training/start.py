"""The model a run starts with: random weights, a trained backbone, or a whole checkpoint.

Whatever of a checkpoint fits is taken over. Classes are matched by name, since another data set
numbers them otherwise, and queries by their place. What does not fit keeps its random weights, and
is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from operator import attrgetter

import torch
from torch import Tensor

from panodetr.checkpoints.dinov2 import resample_positions
from panodetr.checkpoints.load import load_backbone, load_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import UsageError, did_you_mean, preview
from panodetr.model.build import build
from panodetr.model.config import DetrConfig, EomtConfig
from panodetr.model.detr import Detr
from panodetr.model.network import Network
from panodetr.objective.auxiliary import AuxiliaryHeads, place_queries_on_grid
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.optimizer import freeze, make_optimizer
from panodetr.training.state import Learner, TrainState, average_weights, recompute_activations

_HINT = (
    "give --set backbone_weights=FILE (torchvision's, such as resnet50-0676ba61.pth, a hub id or a "
    "file there, or a folder) or --set start=CHECKPOINT"
)
_CLASS_HEAD = ("class_head.weight", "class_head.bias")
_QUERIES = "queries.weight"
_POINTS = "points"
_POSITIONS = "backbone.positions"
QUERY_NOISE = 0.3
"""Standard deviation of what is added to copies of queries, as a share of the queries' own."""
_UNSEEN = (  # fields of an architecture that change no weight's shape
    "heads", "pre_norm", "positions", "position_input", "backbone.strides", "backbone.stem_stride",
    "backbone.stem_pool", "backbone.dilate_last",
)  # fmt: skip


def make_state(
    config: TrainConfig,
    device: torch.device,
    note: Callable[[str], None],
    *,
    states: RunFolder | None = None,
) -> TrainState:
    """Make the state that a run starts from; what the seed decides is decided here.

    Args:
        config: the run.
        device: where to compute.
        note: called with a line for whatever was not taken over from a checkpoint.
        states: where to take up the last state, if there is one.

    Raises:
        TrainingError: no state can be read, or they are of another run.
        PanodetrError: the weights to start with cannot be read, or don't fit.
    """
    torch.manual_seed(config.seed)
    if states is not None and states.newest_first():
        model = build(config.spec.architecture)
    else:
        model, notes = make_model(config)
        for line in notes:
            note(line)
    auxiliary = AuxiliaryHeads(model.config, config)
    if config.grid_queries and config.start is None and isinstance(model, Detr):
        place_queries_on_grid(model)
    freeze(model, config)
    # torch's annotations leave memory_format out.
    model = model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    auxiliary = auxiliary.to(device).train()
    average = average_weights(model, config.ema) if config.ema else None
    if config.checkpointing:
        recompute_activations(model)
    state = TrainState(
        learner=Learner(model, auxiliary, config),
        optimizer=make_optimizer(model, auxiliary, config),
        average=average,
    )
    if states is not None:
        states.load(state, note)
    return state


def check_start(config: TrainConfig) -> None:
    """Refuse to freeze weights that nobody has trained.

    Raises:
        UsageError: a frozen part, be it the backbone's batch norms, would be random, two sources of
            one backbone are given, or classes are joined to those of no model.
    """
    if config.start is not None and config.backbone_weights is not None:
        raise UsageError(
            f"start={config.start} brings a backbone, so backbone_weights="
            f"{config.backbone_weights} would be lost; leave one of them out"
        )
    if config.start is not None:
        return
    if config.learned == "masks":
        raise UsageError(
            "this run trains the mask head of a model whose every other part is frozen; name one "
            "that is trained: --set start=CHECKPOINT"
        )
    if config.class_map:
        raise UsageError(
            "class_map (--map) joins classes to those of a trained model; name one: "
            "--set start=CHECKPOINT"
        )
    if config.backbone_weights is not None:
        return
    if config.frozen_stages:
        raise UsageError(
            f"frozen_stages is {config.frozen_stages}, but the backbone's weights are random; "
            f"{_HINT}"
        )
    shape = config.spec.architecture
    if isinstance(shape, DetrConfig) and shape.backbone.norm == "frozen":
        raise UsageError(
            f"the backbone's batch norms are frozen, but its weights are random; {_HINT}"
        )


def make_model(config: TrainConfig) -> tuple[Network, list[str]]:
    """Build the model that a run starts with, on the CPU.

    What is random depends on torch's random numbers.

    Returns:
        The model, and one line for each thing worth knowing of where its weights come from.

    Raises:
        UsageError: a frozen part would be random, the checkpoint's backbone is another, or
            `class_map` names a class that is not there.
        CheckpointError: the checkpoint or the backbone's file cannot be read.
    """
    check_start(config)
    model = build(config.spec.architecture)
    if config.backbone_weights is not None:
        shape = config.spec.architecture
        assert isinstance(shape, DetrConfig | EomtConfig)
        weights = load_backbone(config.backbone_weights, shape.backbone)
        model.backbone.load_state_dict(weights, strict=False)  # but for counters of batches
        return model, [f"backbone: from {config.backbone_weights}"]
    if config.start is None:
        return model, []
    spec, trained = load_checkpoint(config.start)
    for of, names, classes in (
        (config.start, config.class_map.values(), spec.categories),
        ("the data", config.class_map, config.spec.categories),
    ):
        known = [category.name for category in classes]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known, f"it has {preview(known)}")
                raise UsageError(f"class_map (--map): {of} has no class {name!r}; {hint}")
    notes, random = transfer(trained, spec, model, config.spec, config.class_map)
    if "backbone" in random:
        raise UsageError(
            f"the backbone of {config.start} is another than this run's; choose a recipe with the "
            "same backbone, or start=null with backbone_weights=FILE"
        )
    frozen = random - {"attention_maps", "mask_head"}
    if config.learned == "masks" and frozen:
        raise UsageError(
            f"{config.start} has no weights for {preview(sorted(frozen))}, which this run freezes; "
            "start from a model of the same classes and queries"
        )
    return model, [f"from {config.start}", *notes]


@torch.no_grad()
def transfer(
    source: Network,
    source_spec: ModelSpec,
    target: Network,
    target_spec: ModelSpec,
    class_map: Mapping[str, str],
) -> tuple[list[str], set[str]]:
    """Copy what fits from one model into another.

    Args:
        source: the trained model.
        source_spec: its classes, which are matched by name.
        target: a model with random weights, which is changed.
        target_spec: its classes.
        class_map: from names of `target`'s classes to others of `source`'s.

    Returns:
        A line for each part that was not copied whole, and the parts of which some weights are
        random.
    """
    given, wanted = source.state_dict(), target.state_dict()
    notes: list[str] = []
    both_detr = isinstance(source, Detr) and isinstance(target, Detr)
    for name in _UNSEEN if both_detr else ():  # no weight's shape shows these
        before, after = map(attrgetter(name), (source_spec.architecture, target_spec.architecture))
        if before != after:
            notes.append(f"{name}: {after} here, but the checkpoint was trained with {before}")
    random: dict[str, str] = {}
    for key, tensor in wanted.items():
        stored = given.get(key)
        if stored is not None and key == _POSITIONS and stored.shape[1] == tensor.shape[1]:
            stored = resample_positions(stored, isqrt(len(tensor)))
        if key in (*_CLASS_HEAD, _QUERIES) or key.endswith("num_batches_tracked"):
            continue
        if stored is not None and stored.shape == tensor.shape:
            tensor.copy_(stored)
        elif stored is None:
            random[_part(key)] = "initialised, the checkpoint has none"
        else:
            random.setdefault(_part(key), "initialised, of another shape in the checkpoint")
    for name, note in (
        ("class_head", _copy_classes(given, source_spec, wanted, target_spec, class_map)),
        ("queries", _copy_queries(given[_QUERIES], wanted[_QUERIES])),
    ):
        if note is not None:
            random[name] = note
    if _POINTS in given and _POINTS in wanted:  # where the queries are copied from
        _copy_queries(given[_POINTS], wanted[_POINTS])
        random.pop(_POINTS, None)
    notes += [f"{part}: {reason}" for part, reason in random.items()]
    left = {_part(key) for key in given if key not in wanted and not key.endswith("tracked")}
    return notes + [f"{part}: left out, this model has none" for part in sorted(left)], set(random)


def _copy_classes(
    given: dict[str, Tensor],
    source: ModelSpec,
    wanted: dict[str, Tensor],
    target: ModelSpec,
    class_map: Mapping[str, str],
) -> str | None:
    """Copy the rows of classes of one name or that are joined; say which, unless it is all."""
    weight = _CLASS_HEAD[0]
    if given[weight].shape[1] != wanted[weight].shape[1]:
        return "initialised, of another width in the checkpoint"
    if len(given[weight]) == source.architecture.num_classes:
        return "initialised, the checkpoint's has no 'no object'"
    joined = [(c.index, class_map.get(c.name, c.name).casefold()) for c in target.categories]
    old = [(c.index, c.name.casefold()) for c in source.categories]
    if old == joined and given[weight].shape == wanted[weight].shape:
        for key in _CLASS_HEAD:
            wanted[key].copy_(given[key])
        return None
    places = {name: index for index, name in reversed(old)}
    pairs = {index: places[name] for index, name in joined if name in places}
    for key in _CLASS_HEAD:  # with "no object", the last
        wanted[key][[*pairs, -1]] = given[key][[*pairs.values(), -1]]
    known = [category.name for category in target.categories if category.index in pairs]
    fresh = [category.name for category in target.categories if category.index not in pairs]
    copied = f"{len(known)} of {len(target.categories)} classes copied by name"
    if known:
        copied += f" ({preview(known)})"
    return f"{copied}, {len(fresh)} initialised ({preview(fresh)})" if fresh else copied


def _copy_queries(given: Tensor, wanted: Tensor) -> str | None:
    """Copy the first queries (Q, D); say so unless there are as many as before.

    More queries begin as copies, with noise: each then looks where a trained one does, and no two
    answer alike. Random ones learn to look anywhere first.
    """
    if given.shape[1] != wanted.shape[1]:
        return "initialised, of another width in the checkpoint"
    count, more = min(len(given), len(wanted)), len(wanted) - len(given)
    wanted[:count] = given[:count]
    if more < 0:
        return f"the first {count} of {len(given)} copied"
    if not more:
        return None
    copies = given[torch.arange(more) % count]
    wanted[count:] = copies + QUERY_NOISE * copies.std() * torch.randn_like(copies)
    return f"{count} copied, {more} more begin as copies with noise"


def _part(key: str) -> str:
    """The part of a model that a weight belongs to: a layer of the transformer, or a whole part."""
    names = key.split(".")
    return ".".join(names[:3]) if names[0] in ("encoder", "decoder") else names[0]
