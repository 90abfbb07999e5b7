"""A model, or its backbone, from where its checkpoint is: bundled, a folder, a file, the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from panodetr.checkpoints.hub import fetch
from panodetr.checkpoints.huggingface import MODEL_TYPES, RESNETS, masks_in, read_huggingface
from panodetr.checkpoints.names import (
    FACEBOOK,
    TORCHVISION,
    TRANSFORMERS_CLASSIFIER,
    TRANSFORMERS_TABLES,
    without_counters,
)
from panodetr.checkpoints.published import (
    PUBLISHED,
    bundled,
    categories_by_count,
    find_published,
)
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    FORMAT,
    PREPROCESSOR_FILE,
    WEIGHTS_FILES,
    ModelSpec,
    read_config,
    spec_from_json,
)
from panodetr.checkpoints.weights import check_shapes, find_weights, open_weights, shapes_of
from panodetr.errors import CheckpointError, did_you_mean
from panodetr.model.backbone import ResNet
from panodetr.model.config import DetrConfig
from panodetr.model.detr import Detr
from panodetr.validation import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.checkpoints.names import NameTable
    from panodetr.checkpoints.weights import Shapes, State, Weights
    from panodetr.model.config import ResNetConfig

_ON_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:/((?:[\w.-]+/)*[\w.-]+))?")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_CLASSIFIERS = ("fc.", "classifier.")  # the layer behind the backbone, which a DETR has no use for


def load_checkpoint(
    source: str | Path, *, revision: str | None = None, dilation: bool | None = None
) -> tuple[ModelSpec, Detr]:
    """Load a model with its weights, on the CPU, in evaluation mode.

    Args:
        source: the name of a bundled model; a folder of this package or of transformers, version 4
            or 5; a single file of weights (`.pth`, `.bin`, `.safetensors`); an id on the Hugging
            Face hub, such as "facebook/detr-resnet-101-panoptic"; or a file there,
            "owner/name/file.pth". A bundled name wins over a folder, and a folder over an id;
            `./name` is always the folder.
        revision: branch, tag or commit, of what is on the hub only.
        dilation: for a single file, whether its backbone is dilated (DC5), which its weights do not
            show; None goes by the arguments in the file, or by its name where it is published.

    Raises:
        CheckpointError: there is no such model, it cannot be fetched, or its files are damaged or
            do not fit each other.
    """
    place = _locate(source, revision)
    spec, weights, table = _open(place, source, dilation)
    return spec, _build(spec.architecture, weights or open_weights(place), table)


def load_spec(
    source: str | Path, *, revision: str | None = None, dilation: bool | None = None
) -> ModelSpec:
    """Read a checkpoint's specification; no weight is read.

    On the hub only the configuration is fetched. A file of weights has none: the names and shapes
    of its tensors are read instead. Arguments and errors are those of `load_checkpoint`; weights
    that are damaged or do not fit the specification are not noticed.
    """
    return _open(_locate(source, revision, weights=False), source, dilation).spec


def load_backbone(source: str | Path, config: ResNetConfig) -> State:
    """Read the weights of a backbone, under the names that it has in a `ResNet`.

    Args:
        source: torchvision's file (`resnet50-0676ba61.pth` and the like), or whatever
            `load_checkpoint` takes: a ResNet classifier as torchvision, timm or transformers writes
            it, or a DETR of any kind, whose backbone is taken.
        config: the backbone to be.

    Raises:
        CheckpointError: there is no such file, it holds no ResNet, or one of another shape.
    """
    if config.norm == "group":
        raise CheckpointError(
            f"{source} has batch norms, and the backbone is to have group norms; "
            "set spec.architecture.backbone.norm to frozen or batch"
        )
    weights = open_weights(_locate(source))
    state = {
        key: tensor
        for key, tensor in without_counters(weights.read())
        if not key.startswith(_CLASSIFIERS)
    }
    if not any(key.startswith("backbone.stages.") for key in state):  # they are not our own
        tables = (TORCHVISION, TRANSFORMERS_CLASSIFIER, FACEBOOK, *TRANSFORMERS_TABLES)
        state = find_table(weights, tables, "ResNet").to_ours(state, weights.file)
    ours = {
        key.removeprefix("backbone."): tensor.float()
        for key, tensor in state.items()
        if key.startswith("backbone.")
    }
    with torch.device("meta"):
        expected = dict(without_counters(ResNet(config).state_dict()))
    check_shapes(weights.file, shapes_of(ours), shapes_of(expected))
    return ours


def _locate(source: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """Find the folder or file that a user means, fetching it where it is on the hub.

    A file that its folder's configuration describes stands for the folder. `weights` says whether
    those of an id on the hub are needed.

    Raises:
        CheckpointError: there is no such thing, or it cannot be fetched.
    """
    known = bundled()
    place = known.get(source) if isinstance(source, str) else None
    if place is None and Path(source).exists():
        place = Path(source)
    if place is not None and revision is not None:
        raise CheckpointError(f"{source} is not on the hub and has no revision {revision!r}")
    on_hub = _on_hub(source) if isinstance(source, str) else None
    if place is None and on_hub is not None:
        place = fetch(on_hub[0], revision, file=on_hub[1], weights=weights)
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


class _Opened(NamedTuple):
    """A checkpoint that is read but for its tensors; `table` has the names that are not ours."""

    spec: ModelSpec
    weights: Weights | None
    table: NameTable | None = None


def _open(place: Path, source: str | Path, dilation: bool | None) -> _Opened:
    """Read what a checkpoint says of itself."""
    if place.is_file():
        return _open_file(place, dilation)
    if dilation is not None:
        raise CheckpointError(f"{source} says itself whether it is dilated; leave that out")
    fetched = isinstance(source, str) and not Path(source).exists()
    hub_id = "/".join(str(source).split("/")[:2])
    return _open_folder(place, hub_id if fetched else place.resolve().name)


def _open_folder(folder: Path, name: str) -> _Opened:
    config, file = read_config(folder), folder / CONFIG_FILE
    if config.get("format") == FORMAT:
        return _Opened(spec_from_json(config, str(file)), None)
    if config.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{file} is neither a panodetr configuration nor one of a DETR in transformers; "
            f"its model_type is {config.get('model_type')!r}"
        )
    extra = folder / PREPROCESSOR_FILE
    preprocessor = read_json(extra, dict[str, Any], CheckpointError) if extra.is_file() else None
    if find_weights(folder) is None:  # they are still on the hub
        weights, masks = None, masks_in(config)
    else:
        weights = open_weights(folder)
        masks = any("mask_head." in key for key in weights.shapes)
    try:
        spec = read_huggingface(config, preprocessor, name=name, masks=masks)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return _Opened(spec, weights, None if weights is None else find_table(weights))


def _open_file(file: Path, dilation: bool | None) -> _Opened:
    """Open a file that has nothing but its weights."""
    if file.suffix not in _FILE_SUFFIXES:
        raise CheckpointError(
            f"{file} is not a file of weights; expected one that ends in "
            f"{', '.join(_FILE_SUFFIXES)} "
            "(what `panodetr export` wrote can be run, not converted or trained)"
        )
    weights = open_weights(file)
    table = find_table(weights)
    published = find_published(file.name)
    if dilation is None and published is not None:
        dilation = published.architecture.backbone.dilate_last
    elif dilation is None:
        dilation = bool(weights.arguments.get("dilation", False))
    try:
        heads = int(weights.arguments.get("nheads", 8))
        shapes = shapes_of(_to_ours(weights, table))
        shape = _infer_architecture(shapes, dilation=dilation, heads=heads)
        categories = categories_by_count(shape.num_classes)
        spec = ModelSpec(name=file.stem, architecture=shape, categories=categories)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    if published is not None and published.categories[-1].index < shape.num_classes:
        spec = replace(
            spec,
            name=published.hub_id,
            categories=published.categories,
            preprocessing=published.preprocessing,
        )
    return _Opened(spec, weights, table)


def _build(config: DetrConfig, weights: Weights, table: NameTable | None) -> Detr:
    """Build a model and give it its weights, floats as float32.

    Raises:
        CheckpointError: weights are missing, left over, or of other shapes.
    """
    with torch.device("meta"):
        model = Detr(config)
    expected = model.state_dict()
    if table is None:
        check_shapes(weights.file, weights.shapes, shapes_of(expected))
        state = weights.read()
    else:
        named = shapes_of(table.from_ours(_to_ours(weights, table)))
        check_shapes(weights.file, named, shapes_of(table.from_ours(expected)))
        state = table.to_ours(weights.read(), weights.file)
    floats = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in state.items()
    }
    model.load_state_dict(floats, assign=True)
    return model.eval()


def find_table(
    weights: Weights,
    tables: Sequence[NameTable] = (FACEBOOK, *TRANSFORMERS_TABLES),
    network: str = "DETR",
) -> NameTable:
    """Recognise whose names the weights have: the table's that knows most of them.

    Raises:
        CheckpointError: they are in none of the tables.
    """
    table = max(tables, key=lambda table: table.count_known(weights.shapes))
    if not table.count_known(weights.shapes):
        first = next(iter(weights.shapes), "nothing")
        raise CheckpointError(
            f"{weights.file} holds no {network}: its weights begin with {first!r}"
        )
    return table


def _to_ours(weights: Weights, table: NameTable) -> State:
    """Give tensors of the weights' shapes, without values, our names."""
    empty = {key: torch.empty(shape, device="meta") for key, shape in weights.shapes.items()}
    return table.to_ours(empty, weights.file)


def _infer_architecture(shapes: Shapes, *, dilation: bool, heads: int = 8) -> DetrConfig:
    """Find the configuration that has weights of these shapes, by our names.

    No shape shows whether the backbone is dilated, and only a mask head shows the attention heads.

    Raises:
        ValueError: a weight is missing that every DETR has, or the backbone is no known ResNet.
    """
    classes, hidden_dim = _shape(shapes, "class_head.weight", 2)
    masks = "mask_head.out.weight" in shapes
    if masks:
        heads = _shape(shapes, "mask_head.convs.0.weight", 4)[0] - hidden_dim
    return DetrConfig(
        backbone=replace(_backbone(shapes), dilate_last=dilation),
        num_classes=classes - 1,
        num_queries=_shape(shapes, "queries.weight", 2)[0],
        hidden_dim=hidden_dim,
        heads=heads,
        ffn_dim=_shape(shapes, "decoder.layers.0.ffn.0.weight", 2)[0],
        encoder_layers=_count(shapes, r"encoder\.layers\.(\d+)\..*"),
        decoder_layers=_count(shapes, r"decoder\.layers\.(\d+)\..*"),
        pre_norm="encoder.norm.weight" in shapes,
        positions="learned" if "positions.rows.weight" in shapes else "sine",
        masks=masks,
    )


def _backbone(shapes: Shapes) -> ResNetConfig:
    depths = tuple(_count(shapes, rf"backbone\.stages\.{s}\.(\d+)\..*") for s in range(4))
    block = "bottleneck" if "backbone.stages.0.0.conv3.weight" in shapes else "basic"
    for resnet in RESNETS.values():
        if (resnet.block, resnet.depths) == (block, depths):
            return resnet
    raise ValueError(
        f"the backbone has {depths} {block} blocks; expected one of {', '.join(RESNETS)}"
    )


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    if len(shapes.get(key, ())) != dimensions:
        raise ValueError(f"our {key!r} is missing or has not {dimensions} dimensions; is it whole?")
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the numbered parts whose keys match, taking the highest number at its word."""
    found = (re.fullmatch(pattern, key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
