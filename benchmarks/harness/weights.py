"""Random weights that tell queries apart: they follow from the names in the original.

Freshly initialised networks give every query nearly the same box and mask, and a comparison of
their outputs would say little. With these weights queries, positions and features all matter.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.compare import threshold_keeping
from panodetr.checkpoints.names import FACEBOOK, without_counters
from panodetr.checkpoints.published import plain_category
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import Preprocessing, normalize
from panodetr.model.detr import Detr
from panodetr.results.decode import softmax

if TYPE_CHECKING:
    from pathlib import Path

    from harness.image import BenchImage
    from panodetr.model.config import DetrConfig

NO_OBJECT_LESS = 20.0
"""Taken off the bias of "no object", so that no query answers it."""

CALMER = {
    re.compile(r"backbone\.stages\.\d\.\d+\.norm3\.(weight|bias)"): 0.3,
    re.compile(r"encoder\.layers\.\d+\.attention\.(query|key)\.weight"): 0.5,
    re.compile(r"mask_head\.adapters\.\d\.(weight|bias)"): 0.3,
}
"""What these weights are multiplied by. As they are, a ResNet-101 and six encoder layers over the
850 places of an image of 800 by 1066 magnify rounding: the same network in another memory layout
moves boxes by 4e-4 and logits by 2e-3 of the largest. So it is 1e-6 and 1e-5, and outputs can be
compared; queries differ as much as before. Masks depend less on fine features, and more on where
each query looks."""

SMOOTHED = re.compile(r"mask_head\.(convs\.\d|out)\.weight")
"""Kernels that become averages over their 3 by 3 places. Random ones make masks of noise, with a
border every five pixels, which merging and PNG need several times as long for as for the regions
that a trained model finds."""

CLASS_HEADS = 32
"""So many are tried, and the one is taken that sets the last kept query most clearly apart."""


@dataclass(frozen=True, kw_only=True)
class RandomModel:
    """A folder in transformers' format.

    Attributes:
        folder: where it lies.
        threshold: midway between the score of the last query that is to be kept and the next one's.
    """

    folder: Path
    threshold: float


def write_random_model(
    folder: Path,
    architecture: DetrConfig,
    image: BenchImage,
    kept: int,
    rule: Preprocessing,
    *,
    smooth: bool = True,
) -> RandomModel:
    """Write a model that keeps a given number of queries on an image.

    Weights follow from their names, as `value` has them, but for `CALMER`, `SMOOTHED` and the class
    head. Batch norms have the statistics of this image.

    Args:
        folder: to write.
        architecture: the network's shape.
        image: of the size that the model gets.
        kept: queries above the threshold.
        rule: how images are fed, kept with the model.
        smooth: whether the mask head's kernels are averages (`SMOOTHED`).

    Raises:
        CheckpointError: transformers has no such model.
        PanodetrError: the system refused to write.
    """
    pixels = torch.from_numpy(normalize(image.pixels(), rule.mean, rule.std))[None]
    weights = named_weights(architecture)
    _calm(weights)
    if smooth:
        _smooth(weights)
    measure_statistics(architecture, weights, pixels)
    model = build(architecture)
    model.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        states = model.detect(pixels).states[0]  # Q, D
        threshold = _set_class_head(model.class_head, states, kept)
    spec = ModelSpec(
        name="random",
        architecture=architecture,
        categories=tuple(plain_category(i, f"class {i}") for i in range(architecture.num_classes)),
        preprocessing=rule,
        threshold=threshold,
    )
    save_pretrained(folder, spec, model, format="huggingface")
    return RandomModel(folder=folder, threshold=threshold)


def _calm(weights: dict[str, Tensor]) -> None:
    """Change weights in place, as `CALMER` says."""
    for key, weight in weights.items():
        for pattern, factor in CALMER.items():
            if pattern.fullmatch(key):
                weight *= factor


def _smooth(weights: dict[str, Tensor]) -> None:
    """Change weights in place, as `SMOOTHED` says."""
    for key, weight in weights.items():
        if SMOOTHED.fullmatch(key):
            # times 3: the mean of nine has a third of the deviation
            weight[:] = 3 * weight.mean((2, 3), keepdim=True)  # O, I, 3, 3


def _set_class_head(head: nn.Linear, states: Tensor, kept: int) -> float:
    """Give a class head the weights that make the choice of queries clearest.

    Scores of neighbouring queries are often nearer than rounding, and then either side could keep
    another query than the other.

    Args:
        head: changed in place.
        states: (Q, D) of the queries.
        kept: how many are to be kept.

    Returns:
        The threshold that keeps them.
    """
    head.bias[-1] -= NO_OBJECT_LESS
    clearest, best, threshold = 0.0, head.weight.clone(), 0.0
    for number in range(CLASS_HEADS):
        head.weight.copy_(torch.from_numpy(value(f"class_embed.{number}", head.weight.shape)))
        logits = head(states).numpy()
        between = threshold_keeping(logits, kept)
        scores = softmax(logits).max(axis=1)  # Q
        distance = float(np.abs(scores / between - 1).min())
        if distance > clearest:
            clearest, best, threshold = distance, head.weight.clone(), between
    head.weight.copy_(best)
    return threshold


def value(key: str, shape: torch.Size) -> NDArray[np.float32]:
    """Give the weight of a name in the original, by the kind of layer that it is in."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    r = random.standard_normal(shape).astype("float32")
    if len(shape) == 1:
        return 1 + np.float32(0.1) * r if key.endswith("weight") else np.float32(0.1) * r
    if key.endswith("query_embed.weight"):
        return 2 * r
    gain = 1.0
    if "encoder" in key and "out_proj" in key:
        gain = 0.3
    elif "multihead_attn.out_proj" in key:
        gain = 3.0
    elif "backbone" in key or "mask_head" in key:
        gain = 2**0.5
    elif "in_proj" in key or "bbox_attention" in key:
        gain = 3.0
    w = r * np.float32(gain / math.prod(shape[1:]) ** 0.5)
    if key.endswith("mask_head.lay1.weight"):
        w[:, 256:] *= 3000
    return w


def build(config: DetrConfig) -> Detr:
    """Make a model without weights: shapes alone."""
    with torch.device("meta"):
        return Detr(config).eval()


def named_weights(config: DetrConfig) -> dict[str, Tensor]:
    """Give a model's weights, under our names; they follow from those of the original."""
    ours = without_counters(build(config).state_dict())
    theirs = {k: torch.from_numpy(value(k, t.shape)) for k, t in FACEBOOK.from_ours(ours).items()}
    return FACEBOOK.to_ours(theirs, ours)


def measure_statistics(config: DetrConfig, weights: dict[str, Tensor], pixels: Tensor) -> None:
    """Put in a batch's own batch-norm statistics: not 0 and 1, and features stay in bounds.

    Args:
        config: the network's shape.
        weights: under our names; changed in place.
        pixels: (B, 3, H, W), normalised.
    """
    live = build(replace(config, backbone=replace(config.backbone, norm="batch"))).backbone
    own = {key: weights.get(f"backbone.{key}", torch.tensor(0)) for key in live.state_dict()}
    live.load_state_dict(own, assign=True)
    for module in live.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: there is one
    with torch.no_grad():
        live(pixels)
    measured = ("running_mean", "running_var")
    weights |= {f"backbone.{k}": t for k, t in live.state_dict().items() if k.endswith(measured)}
