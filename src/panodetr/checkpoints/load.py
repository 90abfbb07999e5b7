"""A model from wherever its checkpoint lies: bundled, a folder, a file, or the hub."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from panodetr.checkpoints.build import load_model
from panodetr.checkpoints.catalogue import bundled
from panodetr.checkpoints.coco import categories_by_count
from panodetr.checkpoints.facebook import FACEBOOK
from panodetr.checkpoints.huggingface import TABLES
from panodetr.checkpoints.huggingface_config import MODEL_TYPES, read_huggingface
from panodetr.checkpoints.infer import infer_architecture
from panodetr.checkpoints.names import best_table
from panodetr.checkpoints.native import CONFIG_FILE, read_json
from panodetr.checkpoints.published import PUBLISHED, find_published
from panodetr.checkpoints.spec import ModelSpec
from panodetr.checkpoints.spec_json import FORMAT
from panodetr.checkpoints.weights import (
    PREPROCESSOR_FILE,
    WEIGHTS_FILES,
    check_shapes,
    read_pickled,
    read_weights,
    shapes_of,
)
from panodetr.errors import CheckpointError
from panodetr.model.detr import Detr

if TYPE_CHECKING:
    from panodetr.checkpoints.names import NameTable
    from panodetr.checkpoints.weights import State

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILE = re.compile(rf"({_HUB_ID.pattern})/((?:[\w.-]+/)*[\w.-]+)")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


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
    place = locate(source, revision)
    if place.is_file():
        return _load_file(place, dilation)
    if dilation is not None:
        raise CheckpointError(f"{source} says itself whether it is dilated; leave that out")
    fetched = isinstance(source, str) and not Path(source).exists()
    hub_id = "/".join(str(source).split("/")[:2])
    return _load_folder(place, hub_id if fetched else place.resolve().name)


def locate(source: str | Path, revision: str | None = None) -> Path:
    """Find the folder or file that a user means, fetching it where it is on the hub.

    A file that its folder's configuration describes stands for the folder.

    Args:
        source: as for `load_checkpoint`.
        revision: likewise.

    Raises:
        CheckpointError: there is no such thing, or it cannot be fetched.
    """
    known = bundled()
    local = known.get(source) if isinstance(source, str) else None
    if local is None and Path(source).exists():
        local = Path(source)
    if local is not None:
        if revision is not None:
            raise CheckpointError(f"{source} is not on the hub and has no revision {revision!r}")
        return local.parent if _belongs_to_folder(local) else local
    if isinstance(source, str) and _is_hub_id(source):
        from panodetr.checkpoints.hub import fetch

        return fetch(source, revision)
    on_hub = _hub_file(source) if isinstance(source, str) else None
    if on_hub is not None:
        from panodetr.checkpoints.hub import fetch_file

        file = fetch_file(*on_hub, revision)
        return file.parent if _belongs_to_folder(file) else file
    names = [*known, *(model.hub_id for model in PUBLISHED)]
    near = difflib.get_close_matches(str(source), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CheckpointError(
        f"{str(source)!r} is neither a bundled model nor a folder, a file or an id on the hub; "
        f"{hint}bundled: {', '.join(known) or 'none'}"
    )


def _is_hub_id(source: str) -> bool:
    """Tell an id on the hub, `owner/name`, from a path."""
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith(_FILE_SUFFIXES)


def _hub_file(source: str) -> tuple[str, str] | None:
    """Take `owner/name/file` apart; None where it is a path, whose folder is here perhaps."""
    match = _HUB_FILE.fullmatch(source)
    if match is None or ".." in source.split("/") or Path(source).parent.is_dir():
        return None
    return (match[1], match[2]) if source.endswith(_FILE_SUFFIXES) else None


def _belongs_to_folder(file: Path) -> bool:
    """Tell whether a file is what its folder's configuration describes."""
    return file.name in WEIGHTS_FILES and file.with_name(CONFIG_FILE).is_file()


def _load_folder(folder: Path, name: str) -> tuple[ModelSpec, Detr]:
    file = folder / CONFIG_FILE
    config = read_json(file)
    values = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    if values.get("format") == FORMAT:
        return load_model(folder)
    if values.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{file} is neither a panodetr configuration nor one of a DETR in transformers; "
            f"its model_type is {values.get('model_type')!r}"
        )
    weights = next((folder / n for n in WEIGHTS_FILES if (folder / n).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no weights; expected {WEIGHTS_FILES[0]} in it")
    found = _Found.read(weights, read_weights(weights))
    extra = folder / PREPROCESSOR_FILE
    preprocessor = cast("Any", read_json(extra)) if extra.is_file() else None
    try:
        masks = any(key.startswith("mask_head.") for key in found.ours)
        spec = read_huggingface(values, preprocessor, name=name, masks=masks)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return spec, found.build(spec)


def _load_file(file: Path, dilation: bool | None) -> tuple[ModelSpec, Detr]:
    """Load a file that says nothing of itself but its weights."""
    if file.suffix not in _FILE_SUFFIXES:
        raise CheckpointError(
            f"{file} is no file of weights; expected one that ends in {', '.join(_FILE_SUFFIXES)} "
            "(what `panodetr export` wrote can be run, not converted or trained)"
        )
    arguments: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        state = read_weights(file)
    else:
        state, arguments = read_pickled(file)
    found = _Found.read(file, state)
    published = find_published(file.name)
    if dilation is None:
        dilation = bool(arguments.get("dilation", False))
        if published is not None:
            dilation = published.architecture.backbone.dilate_last
    try:
        heads = int(arguments.get("nheads", 8))
        shape = infer_architecture(shapes_of(found.ours), dilation=dilation, heads=heads)
        categories = categories_by_count(shape.num_classes)
        spec = ModelSpec(name=file.stem, architecture=shape, categories=categories)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    if published is not None and published.categories[-1].index < shape.num_classes:
        spec = ModelSpec(
            name=published.hub_id,
            architecture=shape,
            categories=published.categories,
            preprocessing=published.preprocessing,
        )
    return spec, found.build(spec)


@dataclass(frozen=True, eq=False)
class _Found:
    """Weights of a file, under its names and under ours."""

    file: Path
    table: NameTable
    theirs: State
    ours: State

    @classmethod
    def read(cls, file: Path, state: State) -> _Found:
        """Recognise the names.

        Raises:
            CheckpointError: they are no DETR's.
        """
        table = best_table((FACEBOOK, *TABLES), state)
        if table is None:
            first = next(iter(state))
            raise CheckpointError(f"{file} holds no DETR: its weights begin with {first!r}")
        try:
            return cls(file, table, state, table.to_ours(state))
        except CheckpointError as error:
            raise CheckpointError(f"{file} {error}") from error

    def build(self, spec: ModelSpec) -> Detr:
        """Build the model and give it the weights, as float32.

        Raises:
            CheckpointError: weights are missing, left over, or of other shapes.
        """
        with torch.device("meta"):
            model = Detr(spec.architecture)
        expected = shapes_of(self.table.from_ours(model.state_dict()))
        stored = shapes_of(self.table.from_ours(self.ours))
        check_shapes(self.file, stored, expected)
        weights = {key: tensor.float().contiguous() for key, tensor in self.ours.items()}
        model.load_state_dict(weights, assign=True)
        return model.eval()
