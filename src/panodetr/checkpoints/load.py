"""A model, or its backbone, from where its checkpoint is: bundled, a folder, a file, the hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from panodetr.checkpoints.dinov2 import expected_weights, fit, stored_shape
from panodetr.checkpoints.eomt import infer_eomt
from panodetr.checkpoints.hub import fetch, read_folder
from panodetr.checkpoints.huggingface import RESNETS
from panodetr.checkpoints.names import (
    CONDITIONAL_TABLES,
    DINOV2,
    EOMT_TABLES,
    FACEBOOK,
    OURS,
    TORCHVISION,
    TRANSFORMERS_CLASSIFIER,
    TRANSFORMERS_TABLES,
    NameTable,
    State,
    StoredShapes,
    prefix_in,
    without_counters,
)
from panodetr.checkpoints.published import (
    PUBLISHED,
    bundled,
    categories_by_count,
    find_published,
    name_categories,
)
from panodetr.checkpoints.spec import CONFIG_FILE, WEIGHTS_FILES, ModelSpec
from panodetr.checkpoints.weights import Weights, check_shapes, open_weights
from panodetr.errors import CheckpointError, CheckpointWarning, did_you_mean, preview
from panodetr.model.backbone import ResNet
from panodetr.model.build import build
from panodetr.model.config import DetrConfig, EomtConfig, ResNetConfig, VitConfig
from panodetr.model.eomt import Eomt
from panodetr.model.network import Network
from panodetr.model.vit import Vit

_ON_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:/((?:[\w.-]+/)*[\w.-]+))?")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def load_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    dilation: bool | None = None,
    names: Sequence[str] | None = None,
) -> tuple[ModelSpec, Network]:
    """Load a model with its weights, on the CPU, in evaluation mode.

    Names and shapes of the weights are compared with the model's before any tensor is read.

    Args:
        source: the name of a bundled model; a folder of this package or of transformers, version 4
            or 5; a single file of weights (`.pth`, `.bin`, `.safetensors`); an id on the Hugging
            Face hub, such as "facebook/detr-resnet-101-panoptic"; or a file there,
            "owner/name/file.pth". A bundled name wins over a folder, and a folder over an id;
            `./name` is always the folder. A DINOv2 with registers becomes an EoMT whose other parts
            are random (`ModelSpec.is_backbone`).
        revision: branch, tag or commit, of what is on the hub only.
        dilation: for a single file, whether its backbone is dilated (DC5), which its weights do not
            show; None goes by the arguments in the file, or by its name where it is published.
        names: of the classes, instead of the checkpoint's own, by their indices; "N/A" is no class.

    Raises:
        CheckpointError: there is no such model, it cannot be fetched, or its files are damaged or
            do not fit each other, or there are not as many names as classes.
    """
    spec, network = load_place(locate(source, revision), source, dilation, names=names)
    _check_images(spec)
    return spec, network


def load_place(
    place: Path,
    source: str | Path,
    dilation: bool | None = None,
    *,
    names: Sequence[str] | None = None,
    keep_double: bool = False,
) -> tuple[ModelSpec, Network]:
    """Load what `locate` has found for a source; otherwise as `load_checkpoint`.

    `keep_double` leaves float64 as it is, which otherwise becomes float32 as other floats do.
    """
    with warnings.catch_warnings() if names is not None else nullcontext():
        if names is not None:
            warnings.simplefilter("ignore", CheckpointWarning)
        spec, weights = _open(place, source, dilation)
    if names is not None:
        named = name_categories(names, spec.architecture.num_classes)
        spec = replace(spec, categories=named, class_thresholds=spec.thresholds_of(named))
    weights = weights or open_weights(place)
    if spec.is_backbone:
        assert isinstance(spec.architecture, EomtConfig)
        vit = _load_vit(weights, spec.architecture.backbone)  # first: it checks the widths
        model = Eomt(spec.architecture)
        model.backbone.load_state_dict(vit)
        return spec, model.eval()
    return spec, _build_over(spec, weights, keep_double=keep_double)


def share_weights(spec: ModelSpec, weights: Weights) -> Network:
    """Build a model over weights that are in memory, without copying them.

    Args:
        spec: of the model.
        weights: under any names that checkpoints have.

    Raises:
        CheckpointError: they are no such model's, or do not fit the specification.
    """
    _check_images(spec)
    return _build_over(spec, weights, shared=True)


def _build_over(
    spec: ModelSpec, weights: Weights, *, keep_double: bool = False, shared: bool = False
) -> Network:
    """Build a model without weights of its own, and read a file's, or share those in memory."""
    with torch.device("meta"), _NoValues():
        model = build(spec.architecture)
    shape, tables = spec.architecture, DETR_TABLES
    if isinstance(shape, EomtConfig):
        tables = EOMT_TABLES
    elif isinstance(shape, DetrConfig) and shape.conditional:
        tables = (OURS, *CONDITIONAL_TABLES)
    table = find_table(weights, tables)
    state = _read(weights, table, model.state_dict(), keep_double=keep_double, shared=shared)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_images(spec: ModelSpec) -> None:
    shape = spec.architecture
    if isinstance(shape, DetrConfig) and shape.backbone.inputs != 3:
        raise CheckpointError(
            f"{spec.name} reads images of {shape.backbone.inputs} channels; expected 3: use the "
            "classes of panodetr.compat, which take any number"
        )


def load_spec(source: str | Path, *, revision: str | None = None) -> ModelSpec:
    """Read a checkpoint's specification; no weight is read.

    On the hub only the configuration is fetched. A file of weights has none: the names and shapes
    of its tensors are read instead. Arguments and errors are those of `load_checkpoint`; weights
    that are damaged or do not fit the specification are not noticed.
    """
    return _open(locate(source, revision, weights=False), source, None)[0]


def load_backbone(source: str | Path, config: ResNetConfig | VitConfig) -> State:
    """Read the weights of a backbone, under the names that it has in a `ResNet` or `Vit`.

    Args:
        source: for a `Vit`, DINOv2 with registers as transformers has it, or an EoMT; its patches
            and positions are resampled where theirs are of another size or number. For a `ResNet`,
            torchvision's file (`resnet50-0676ba61.pth` and the like), or whatever
            `load_checkpoint` takes: a ResNet classifier as torchvision, timm or transformers writes
            it, or a DETR of any kind, whose backbone is taken.
        config: the backbone to be.

    Raises:
        CheckpointError: there is no such file, it holds no such network, or one of another shape.
    """
    if isinstance(config, VitConfig):
        return _load_vit(open_weights(locate(source)), config)
    if config.norm == "group":
        raise CheckpointError(
            f"{source} has batch norms, and the backbone is to have group norms; "
            "set spec.architecture.backbone.norm to frozen or batch"
        )
    weights = open_weights(locate(source))
    tables = (TORCHVISION, TRANSFORMERS_CLASSIFIER, OURS, FACEBOOK, *TRANSFORMERS_TABLES)
    table = find_table(weights, tables, "ResNet")
    own = {key: weights.tensors[key] for key in table.known(weights.tensors, "backbone.")}
    with torch.device("meta"), _NoValues():
        expected = without_counters(ResNet(config).state_dict())
    backbone = {f"backbone.{key}": value for key, value in expected.items()}
    state = _read(replace(weights, tensors=own), table, backbone)
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


def _load_vit(weights: Weights, config: VitConfig) -> State:
    table = find_table(weights, (DINOV2, *EOMT_TABLES), "DINOv2 or EoMT")
    prefix = prefix_in(weights.tensors)
    own = {
        key.removeprefix(prefix): weights.tensors[key]
        for key in table.known(table.used(weights.tensors), "backbone.")
    }
    try:
        stored = stored_shape(own, table, config)
    except ValueError as error:
        raise CheckpointError(f"{weights.file} has no whole vision transformer: {error}") from error
    with torch.device("meta"), _NoValues():
        expected = expected_weights(Vit(stored).state_dict(), table)
    return fit(_read(replace(weights, tensors=own), table, expected), table, config)


def locate(
    source: str | Path,
    revision: str | None = None,
    *,
    weights: bool = True,
    client: Mapping[str, Any] | None = None,
) -> Path:
    """Find the folder or file that a user means, fetching it where it is on the hub.

    A file that its folder's configuration describes stands for the folder. `weights` says whether
    those of an id on the hub are needed, and `client` is what its client is given beside; source,
    revision and errors are those of `load_checkpoint`.
    """
    known = bundled()
    place = known.get(source) if isinstance(source, str) else None
    if place is None and Path(source).exists():
        place = Path(source)
    if place is not None and revision is not None:
        raise CheckpointError(f"{source} is not on the hub and has no revision {revision!r}")
    on_hub = _on_hub(source) if isinstance(source, str) else None
    if place is None and on_hub is not None:
        place = fetch(on_hub[0], revision, file=on_hub[1], weights=weights, client=client)
    if place is None:
        names = [*known, *(model.hub_id for model in PUBLISHED)]
        hint = did_you_mean(str(source), names, f"bundled: {', '.join(known)}")
        raise CheckpointError(
            f"{str(source)!r} is neither a bundled model nor a folder, a file or an id on the hub; "
            f"{hint}"
        )
    described = place.name in WEIGHTS_FILES and place.with_name(CONFIG_FILE).is_file()
    return place.parent if described else place


def _on_hub(source: str) -> tuple[str, str | None] | None:
    """Take `owner/name` or `owner/name/file` apart; None where it is a path."""
    match, is_file = _ON_HUB.fullmatch(source), source.endswith(_FILE_SUFFIXES)
    if match is None or (match[2] is not None) != is_file:
        return None
    # A folder of this name that lacks the file is not the hub's.
    if is_file and (".." in source.split("/") or Path(source).parent.is_dir()):
        return None
    return match[1], match[2]


def _open(
    place: Path, source: str | Path, dilation: bool | None
) -> tuple[ModelSpec, Weights | None]:
    """Read what a checkpoint says of itself; a file's weights are opened for it."""
    if place.is_file():
        return _open_file(place, dilation)
    if dilation is not None:
        raise CheckpointError(f"{source} says itself whether it is dilated; leave that out")
    fetched = isinstance(source, str) and not Path(source).exists()
    hub_id = "/".join(str(source).split("/")[:2])
    return read_folder(place, hub_id if fetched else place.resolve().name), None


def _open_file(file: Path, dilation: bool | None) -> tuple[ModelSpec, Weights]:
    """Open a file that has nothing but its weights."""
    if file.suffix not in _FILE_SUFFIXES:
        raise CheckpointError(
            f"{file} is not a file of weights; expected one that ends in "
            f"{', '.join(_FILE_SUFFIXES)} "
            "(what `panodetr export` wrote can be run, not converted or trained)"
        )
    weights = open_weights(file)
    published = find_published(file.name)
    if dilation is None:
        dilation = bool(weights.arguments.get("dilation", False))
        if published is not None:
            known = published.architecture
            dilation = isinstance(known, DetrConfig) and known.backbone.dilate_last
    table = find_table(weights)
    shapes = StoredShapes(weights.tensors, table)
    try:
        if table in EOMT_TABLES:
            return infer_eomt(shapes, file.stem), weights
        heads = int(weights.arguments.get("nheads", 8))
        conditional = table in CONDITIONAL_TABLES
        shape = _infer_architecture(shapes, dilation=dilation, heads=heads, conditional=conditional)
        if published is None or published.categories[-1].index >= shape.num_classes:
            categories = categories_by_count(shape.num_classes, is_guess=True)
            return ModelSpec(name=file.stem, architecture=shape, categories=categories), weights
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    spec = ModelSpec(
        name=published.hub_id,
        architecture=shape,
        categories=published.categories,
        preprocessing=published.preprocessing,
    )
    return spec, weights


def find_table(
    weights: Weights,
    tables: Sequence[NameTable] = (
        FACEBOOK,
        *TRANSFORMERS_TABLES,
        *CONDITIONAL_TABLES,
        *EOMT_TABLES,
    ),
    network: str = "DETR or EoMT",
) -> NameTable:
    """Recognise whose names the weights have: the table's that knows most of them.

    Raises:
        CheckpointError: they are in none of the tables.
    """
    table = max(tables, key=lambda table: len(table.known(weights.tensors)))
    if not table.known(weights.tensors):
        first = next(iter(weights.tensors), "nothing")
        raise CheckpointError(
            f"{weights.file} holds no {network}: its weights begin with {first!r}"
        )
    return table


DETR_TABLES = (OURS, FACEBOOK, *TRANSFORMERS_TABLES)


class _NoValues(TorchFunctionMode):
    """Leaves random values out, for the meta device, where PyTorch loads its compiler for them.

    That takes longer than the rest of loading.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        given = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _read(
    weights: Weights,
    table: NameTable,
    model: Mapping[str, torch.Tensor],
    *,
    keep_double: bool = False,
    shared: bool = False,
) -> State:
    """Read the weights of a model that is on the meta device; floats become float32.

    Those that are `shared` are given as they are.
    """
    weights = _with_points(weights, table)
    tensors = table.used(weights.tensors)
    check_shapes(weights.file, tensors, table.from_ours(model, prefix_in(tensors)))
    if shared:
        return table.to_ours(tensors, model)
    copies: State = {}
    read = {key: weights.read(tensor) for key, tensor in tensors.items()}
    for key, tensor in table.to_ours(read, model).items():
        if tensor.is_floating_point() != model[key].is_floating_point():
            raise CheckpointError(
                f"{weights.file}: the weight {key} is {tensor.dtype}; expected {model[key].dtype}"
            )
        kept = not tensor.is_floating_point() or (keep_double and tensor.dtype == torch.float64)
        kind = tensor.dtype if kept else torch.float32
        is_part = tensor.nbytes < tensor.untyped_storage().nbytes()
        copies[key] = tensor.to(kind, memory_format=torch.contiguous_format, copy=is_part)
        # Its extremes show it, too, and take no memory.
        filled = tensor.is_floating_point() and tensor.numel() > 0
        if filled and not all(map(isfinite, map(float, copies[key].aminmax()))):
            raise CheckpointError(
                f"{weights.file}: the weight {key} has NaN or infinite values; fetch the file "
                "again, or take the model of an earlier step"
            )
    return copies


def _with_points(weights: Weights, table: NameTable) -> Weights:
    """Compute the points of a Conditional DETR, which there are those of a head on the queries.

    Raises:
        CheckpointError: the head is not whole, or does not fit the queries.
    """
    if table not in CONDITIONAL_TABLES:
        return weights
    prefix = prefix_in(weights.tensors)
    head = [f"point_head.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]
    names = [table.name(key, prefix) for key in ("queries.weight", *head)]
    if missing := [repr(name) for name in names if name not in weights.tensors]:
        raise CheckpointError(
            f"{weights.file} lacks {len(missing)} tensors of its model: {preview(missing)}"
        )
    queries, *layers = (weights.read(weights.tensors[name]) for name in names)
    try:
        points = F.linear(F.linear(queries, *layers[:2]).relu(), *layers[2:])
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {list(weights.tensors[name].shape)}" for name in names)
        raise CheckpointError(f"{weights.file}: shapes do not go together: {shapes}") from error
    tensors = {key: tensor for key, tensor in weights.tensors.items() if key not in names[1:]}
    return replace(weights, tensors=tensors | {table.name("points", prefix): points})


def _infer_architecture(
    shapes: StoredShapes, *, dilation: bool, heads: int, conditional: bool
) -> DetrConfig:
    """Find the configuration that has weights of these names and shapes.

    No shape shows whether the backbone is dilated, and only a mask head shows the attention heads.

    Raises:
        ValueError: a weight is missing that every DETR has, or the backbone is no known ResNet.
    """
    has, size, depth = shapes.has, shapes.size, shapes.depth
    block = "bottleneck" if has("backbone.stages.0.0.conv3.weight") else "basic"
    depths = tuple(depth(f"backbone.stages.{stage}.*.conv1.weight") for stage in range(4))
    known = (one for one in RESNETS.values() if (one.block, one.depths) == (block, depths))
    classes, hidden_dim = size("class_head.weight", 2)
    if (backbone := next(known, None)) is None:
        raise ValueError(
            f"the backbone has {depths} {block} blocks; expected one of {', '.join(RESNETS)}"
        )
    inputs = size("backbone.stem_conv.weight", 4)[1]
    masks = has("mask_head.out.weight")
    if masks:
        heads = size("mask_head.convs.0.weight", 4)[0] - hidden_dim
    return DetrConfig(
        backbone=replace(backbone, dilate_last=dilation, inputs=inputs),
        num_classes=classes - (not conditional),
        num_queries=size("queries.weight", 2)[0],
        hidden_dim=hidden_dim,
        heads=heads,
        ffn_dim=size("decoder.layers.0.ffn.0.weight", 2)[0],
        encoder_layers=depth("encoder.layers.*.ffn.0.weight"),
        decoder_layers=depth("decoder.layers.*.ffn.0.weight"),
        pre_norm=has("encoder.norm.weight"),
        positions="learned" if has("positions.rows.weight") else "sine",
        conditional=conditional,
        sigmoid=conditional,
        masks=masks,
    )
