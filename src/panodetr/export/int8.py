"""Quantising to int8 after training, with NNCF: weights and activations of the convolutions.

The ranges of activations are measured on images of the user's, so that they are those of the
model's work.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from panodetr.errors import CheckpointError, MissingExtra
from panodetr.results.panoptic import keep_queries
from panodetr.runtimes.convert import OpenVinoGraphs
from panodetr.runtimes.graph_runtime import MASK_SOURCES
from panodetr.runtimes.openvino import compile_openvino

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import openvino
    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.runtimes.graph_runtime import Arrays

MASKS_EACH = 4
"""Masks a batch that the masks graph is calibrated with."""

KEPT_FLOAT = (".*stem.*", ".*decoder.*", ".*class_head.*", ".*box_head.*")
KEPT_FLOAT_OF_MASKS = (".*attention_maps.*",)
"""What stays float32. Measured on nuclei/val: with an int8 stem, which sees dark images at full
range, a tenth of the segments change their class; with an int8 decoder boxes lose 1.4 % of their
overlap. All of these together take little time."""


def quantize(
    graphs: OpenVinoGraphs, spec: ModelSpec, batches: Sequence[NDArray[np.uint8]]
) -> OpenVinoGraphs:
    """Give the int8 graphs.

    Args:
        graphs: in float32.
        spec: of the model.
        batches: images (B, H, W, 3) as the model is fed.

    Raises:
        CheckpointError: what should stay float32 is not to be found.
        MissingExtra: NNCF is not installed.
    """
    kept = KEPT_FLOAT if graphs.masks is None else KEPT_FLOAT + KEPT_FLOAT_OF_MASKS
    _check_kept(graphs, kept)
    inputs: list[Arrays] = [
        {"images": batch, "padding": np.zeros(batch.shape[:3], np.bool_)} for batch in batches
    ]
    chosen: list[Arrays] = []
    if graphs.masks is not None:
        run = compile_openvino(graphs.detect.clone()).run
        for item in inputs:
            chosen += _mask_inputs(run(item), spec)
    masks = None if graphs.masks is None else _quantize(graphs.masks, chosen, kept)
    return OpenVinoGraphs(_quantize(graphs.detect, inputs, kept), masks)


def import_nncf() -> ModuleType:
    """Import the library.

    Raises:
        MissingExtra: it is not installed.
    """
    # NNCF reports its use to its maker unless this is set before it is imported.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("quantising to int8", "openvino") from error
    return nncf


def _check_kept(graphs: OpenVinoGraphs, patterns: Sequence[str]) -> None:
    """Make sure that every pattern is of a node, for NNCF passes over one that is of none.

    Raises:
        CheckpointError: one is of none, so that parts of the model have other names than here.
    """
    models = [model for model in (graphs.detect, graphs.masks) if model is not None]
    names = [node.get_friendly_name() for model in models for node in model.get_ops()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise CheckpointError(
                f"int8 keeps {pattern!r} in float32, and no node of the graphs is called so: "
                "nothing was written; please report this with the versions of torch and openvino"
            )


def _mask_inputs(found: Arrays, spec: ModelSpec) -> list[Arrays]:
    """What the masks graph is asked for a batch: some of the queries that are kept, or any."""
    items: list[Arrays] = []
    for number, logits in enumerate(cast("NDArray[np.float32]", found["logits"])):
        kept = keep_queries(logits, spec.threshold)[0]
        query = (kept if len(kept) else np.arange(len(logits)))[:MASKS_EACH].astype(np.int64)
        sources = {name: found[name][number : number + 1] for name in MASK_SOURCES}
        items.append(sources | {"query": query})
    return items


def _quantize(
    graph: openvino.Model, items: Sequence[Arrays], kept: Sequence[str]
) -> openvino.Model:
    library = cast("Any", import_nncf())
    return library.quantize(
        graph,
        library.Dataset(list(items)),
        subset_size=len(items),
        preset=library.QuantizationPreset.MIXED,
        model_type=library.ModelType.TRANSFORMER,
        # A pattern may be of the other graph, so NNCF must not insist on each.
        ignored_scope=library.IgnoredScope(patterns=list(kept), validate=False),
    )
