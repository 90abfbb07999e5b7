"""EoMT against transformers', with the same random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import panodetr
from panodetr.checkpoints.names import EOMT_TRANSFORMERS
from panodetr.model.config import EomtConfig, VitConfig, eomt
from panodetr.model.eomt import Eomt
from panodetr.predict import Predictor

pytestmark = pytest.mark.parity

TINY = VitConfig(hidden_dim=48, heads=4, layers=5, grid=6)
CONFIGS = {
    "tiny": EomtConfig(backbone=TINY, num_classes=7, num_queries=9),
    "swiglu": EomtConfig(
        backbone=VitConfig(hidden_dim=40, heads=2, layers=3, grid=5, swiglu=True, ffn_ratio=3),
        num_classes=3,
        num_queries=20,
        query_blocks=1,
    ),
    "patch-8": EomtConfig(
        backbone=VitConfig(hidden_dim=32, heads=4, layers=4, grid=9, patch=8, registers=0),
        num_classes=5,
        query_blocks=4,
        upscales=1,
    ),
}


def build_theirs(config: EomtConfig, masked: float) -> Any:
    """Their model with random weights that tell queries apart."""
    transformers = pytest.importorskip("transformers")
    vit = config.backbone
    theirs = transformers.EomtForUniversalSegmentation(
        transformers.EomtConfig(
            hidden_size=vit.hidden_dim,
            num_hidden_layers=vit.layers,
            num_attention_heads=vit.heads,
            image_size=vit.grid * vit.patch,
            patch_size=vit.patch,
            mlp_ratio=vit.ffn_ratio,
            use_swiglu_ffn=vit.swiglu,
            num_register_tokens=vit.registers,
            num_blocks=config.query_blocks,
            num_queries=config.num_queries,
            num_upscale_blocks=config.upscales,
            num_labels=config.num_classes,
        )
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    theirs.attn_mask_probs.fill_(masked)
    functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    plain = functions["sdpa"]

    def exact(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **rest: Any
    ) -> Any:
        # Their mask is float32 whatever the model is, which torch misreads in float64.
        return plain(module, q, k, v, None if mask is None else mask.to(q.dtype), **rest)

    functions.register("exact", exact)
    theirs.set_attn_implementation("exact")
    return theirs


def compare(config: EomtConfig, dtype: torch.dtype, masked: float = 0.0) -> dict[str, float]:
    """The largest difference of outputs, in their largest values, on a batch of two."""
    theirs = build_theirs(config, masked).to(dtype)
    ours = Eomt(config).to(dtype).eval()
    given = EOMT_TRANSFORMERS.used(theirs.state_dict())
    ours.load_state_dict(EOMT_TRANSFORMERS.to_ours(given, ours.state_dict()))
    side = config.backbone.grid * config.backbone.patch
    pixels = torch.randn(2, 3, side, side, dtype=dtype)
    with torch.inference_mode():
        expected = theirs(pixels)
        if masked:
            found = ours.every_block(pixels, [masked] * config.query_blocks)[-1]
        else:
            found = ours.detect(pixels)
        image = torch.arange(2).repeat_interleave(config.num_queries)
        query = torch.arange(config.num_queries).repeat(2)
        masks = ours.masks(found, image, query).unflatten(0, (2, -1))
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        "logits": (found.logits, expected.class_queries_logits),
        "masks": (masks, expected.masks_queries_logits),
    }
    for name, (ours_, other) in pairs.items():
        assert ours_.shape == other.shape, name
        assert other.flatten(2).std(2).min() > 1e-3  # they say something
    return {
        name: float((mine - other).abs().max() / other.abs().max())
        for name, (mine, other) in pairs.items()
    }


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("masked", [0.0, 1.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["32", "64"]
)
def test_outputs_are_those_of_transformers(
    config: EomtConfig, dtype: torch.dtype, tolerance: float, masked: float
) -> None:
    differences = compare(config, dtype, masked)
    assert max(differences.values()) < tolerance, differences


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model as transformers saves it, with its processor's settings."""
    transformers = pytest.importorskip("transformers")
    build_theirs(CONFIGS["tiny"], 0.0).save_pretrained(tmp_path)
    size = {"shortest_edge": 96, "longest_edge": 96}
    transformers.EomtImageProcessorPil(size=size, do_pad=True).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("size", [(96, 96), (120, 160), (70, 41), (333, 500)])
def test_segments_are_those_of_transformers(folder: Path, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    processor = transformers.EomtImageProcessorPil.from_pretrained(folder)
    theirs = transformers.EomtForUniversalSegmentation.from_pretrained(folder)
    theirs.attn_mask_probs.zero_()
    random = np.random.default_rng(size[0])
    image = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((size[1], size[0]))
    with torch.inference_mode():
        outputs = theirs(processor(image, return_tensors="pt")["pixel_values"])
    scores = outputs.class_queries_logits[0].softmax(-1)
    best = scores.max(-1).values[scores.argmax(-1) < 7].sort().values
    threshold = float(best[len(best) // 3 - 1 : len(best) // 3 + 1].mean())  # between two
    (expected,) = processor.post_process_panoptic_segmentation(
        outputs, [size], threshold, overlap_mask_area_threshold=0.05, stuff_classes=[0, 1, 2, 3]
    )
    model = panodetr.load(folder)
    categories = tuple(replace(c, is_thing=c.index > 3) for c in model.spec.categories)
    model = Predictor(replace(model.spec, categories=categories, overlap=0.05), model.runtime)
    found = model.segment(image, threshold=threshold)
    assert len(expected["segments_info"]) > 1
    ours = [(s.id - 1, s.category_id, round(s.score, 4)) for s in found.segments]
    assert ours == [
        (s["id"], s["label_id"], round(s["score"], 4)) for s in expected["segments_info"]
    ]
    same = (found.segment_ids - 1 == expected["segmentation"].numpy()).mean()
    assert same > 0.9999, same


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "base", "large"])
@pytest.mark.parametrize(
    ("dtype", "grid", "tolerance"),
    [(torch.float32, 24, 1e-4), (torch.float64, 12, 1e-9)],
    ids=["32", "64"],
)
def test_published_shapes_give_the_outputs_of_transformers(
    size: Any, dtype: torch.dtype, grid: int, tolerance: float
) -> None:
    shape = eomt(size, 133)
    shape = replace(shape, backbone=replace(shape.backbone, grid=grid))  # of 40: less time
    differences = compare(shape, dtype)
    assert max(differences.values()) < tolerance, differences


@pytest.mark.parametrize(("side", "doublings"), [(40, 2), (7, 2), (17, 3), (20, 1), (5, 0)])
def test_masks_made_in_strips_are_those_of_the_whole_map(side: int, doublings: int) -> None:
    vit = VitConfig(hidden_dim=32, heads=2, layers=2, grid=side)
    model = Eomt(
        EomtConfig(backbone=vit, num_classes=3, num_queries=5, query_blocks=1, upscales=doublings)
    ).double()
    with torch.inference_mode():
        found = model.detect(torch.randn(2, 3, 16 * side, 16 * side + 32, dtype=torch.float64))
        every = model.every_mask(found)
        image, query = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2])
        assert torch.allclose(model.masks(found, image, query), every[image, query], atol=1e-12)
