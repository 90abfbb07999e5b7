"""Quantising to int8 after training, with NNCF: weights and activations of the convolutions.

The ranges of activations are measured on the user's images, for which the model will be used.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, import_extra
from panodetr.images.read import read_size
from panodetr.images.sources import find_sources
from panodetr.images.views import cut_view, lay_tiles, read_tiled
from panodetr.model.config import Architecture, DetrConfig, EomtConfig
from panodetr.results.decode import keep_queries
from panodetr.runtimes.graphs import Arrays, compile_openvino, mask_sources

if TYPE_CHECKING:
    import openvino

CALIBRATION_VIEWS = 64
"""Images, or tiles of them, that activations are measured on; more hardly change their ranges."""

FEW_VIEWS = 16
"""With less, one odd image decides what an activation's range is."""

MASKS_EACH = 4
"""Masks a batch that the masks graph is calibrated with."""

KEPT_FLOAT: dict[type[Architecture], tuple[str, ...]] = {
    DetrConfig: (".*stem.*", ".*decoder.*", ".*class_head.*", ".*box_head.*"),
    EomtConfig: (".*patches.*", ".*class_head.*"),
}
KEPT_FLOAT_OF_MASKS: dict[type[Architecture], tuple[str, ...]] = {
    DetrConfig: (".*attention_maps.*",),
    EomtConfig: (),
}
"""What stays float32, by the kind of network. Measured with DETR on nuclei/val: with an int8 stem,
which sees dark images at full range, a tenth of the segments change their class; with an int8
decoder boxes lose 1.4 % of their overlap. All of these together take little time."""


Item = TypeVar("Item")

_LOG = logging.getLogger(__name__)


def quantize(
    graphs: Mapping[str, openvino.Model], spec: ModelSpec, batches: Sequence[NDArray[np.uint8]]
) -> dict[str, openvino.Model]:
    """Give the int8 graphs.

    Args:
        graphs: in float32, `detect` and, of a model with a mask head, `masks`.
        spec: of the model.
        batches: images (B, H, W, 3) as the model is fed.

    Raises:
        CheckpointError: what should stay float32 is not to be found.
        MissingExtra: NNCF is not installed.
    """
    kind = type(spec.architecture)
    kept = KEPT_FLOAT[kind] + (KEPT_FLOAT_OF_MASKS[kind] if "masks" in graphs else ())
    _check_kept(graphs, kept)
    inputs: dict[str, list[Arrays]] = {
        "detect": [
            {"images": batch, "padding": np.zeros(batch.shape[:3], np.bool_)} for batch in batches
        ]
    }
    if "masks" in graphs:
        run = compile_openvino(graphs["detect"].clone()).run
        names = mask_sources(compile_openvino(graphs["masks"].clone()))
        inputs["masks"] = [
            chosen for item in inputs["detect"] for chosen in _mask_inputs(run(item), names, spec)
        ]
    library = import_nncf()
    # OpenVINO's transposed convolutions, EoMT's, are int8 where ranges are symmetric.
    presets = dict.fromkeys(graphs, library.QuantizationPreset.MIXED)
    if kind is EomtConfig:
        presets["masks"] = library.QuantizationPreset.PERFORMANCE
    # A pattern may be of the other graph, so NNCF must not insist on each.
    scope = library.IgnoredScope(patterns=list(kept), validate=False)
    with redirect_stdout(sys.stderr):  # progress bars
        return {
            name: library.quantize(
                graph,
                library.Dataset(inputs[name]),
                subset_size=len(inputs[name]),
                preset=presets[name],
                model_type=library.ModelType.TRANSFORMER,
                ignored_scope=scope,
            )
            for name, graph in graphs.items()
        }


def import_nncf() -> Any:
    """Import NNCF, without its log of every node, or raise `MissingExtra`."""
    with redirect_stdout(sys.stderr):  # which its log then keeps to; stdout is for results
        library = import_extra("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return library


def _check_kept(graphs: Mapping[str, openvino.Model], patterns: Sequence[str]) -> None:
    """Make sure that every pattern matches a node: NNCF ignores one that matches none."""
    names = [node.get_friendly_name() for graph in graphs.values() for node in graph.get_ops()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise CheckpointError(
                f"int8 keeps {pattern!r} in float32, and no node of the graphs is called so: "
                "nothing was written; please report this with the versions of torch and openvino"
            )


def _mask_inputs(found: Arrays, sources: Sequence[str], spec: ModelSpec) -> list[Arrays]:
    """What the masks graph is asked for a batch: some of the queries that are kept, or any."""
    items: list[Arrays] = []
    for number, logits in enumerate(cast("NDArray[np.float32]", found["logits"])):
        kept = keep_queries(logits, spec.threshold)[0]
        query = (kept if len(kept) else np.arange(len(logits)))[:MASKS_EACH].astype(np.int64)
        own = {name: found[name][number : number + 1] for name in sources}
        items.append(own | {"query": query})
    return items


def calibration_batches(folder: Path, spec: ModelSpec) -> list[NDArray[np.uint8]]:
    """Views (1, H, W, 3) of a folder's images as the model is fed them, spread over the images.

    Where there are few of them, a warning says so. Which they are is chosen by the sizes in the
    files' headers, and one image at a time is decoded.

    Raises:
        ImageError: there is no image, or one cannot be read.
    """
    files = [Path(source.path) for source in find_sources([folder])]
    rule = spec.preprocessing
    views = [(path, box) for path in _spread(files) for box in lay_tiles(read_size(path), rule)]
    if len(views) < FEW_VIEWS:
        _LOG.warning(
            "%s has %d images (or tiles of images) to calibrate with, and int8 may be far from the "
            "model: give %d or more, as different as those that it will see",
            folder, len(views), FEW_VIEWS,
        )  # fmt: skip
    batches: list[NDArray[np.uint8]] = []
    for path, own in groupby(_spread(views), key=itemgetter(0)):
        image = read_tiled(path, rule)
        batches += [cut_view(image, [(0, box)], rule).pixels[None].copy() for _, box in own]
        del image  # before the next one is read
    return batches


def _spread(items: Sequence[Item]) -> list[Item]:
    """Pick as many as are calibrated with, evenly from the first to the last."""
    count = min(len(items), CALIBRATION_VIEWS)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]
