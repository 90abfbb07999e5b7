"""Conditional DETR against `transformers`, with the same weights, from its files."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.weights import assert_close, padded_batch
from torch import Tensor

from panodetr import load
from panodetr.checkpoints.load import load_checkpoint, load_spec
from panodetr.errors import CheckpointError, CheckpointWarning
from panodetr.model.detr import Detr

pytestmark = pytest.mark.parity
NAMES = {index: f"thing {index}" for index in range(91)}

ORIGINAL = {
    "model.backbone.conv_encoder.model": "backbone.0.body",
    "model.input_projection": "input_proj",
    "model.query_position_embeddings": "query_embed",
    "model.encoder": "transformer.encoder",
    "model.decoder": "transformer.decoder",
    "encoder_attn.out_proj": "cross_attn.out_proj",
    "encoder_attn_layer_norm": "norm2",
    "layernorm": "norm",
    "fc1": "linear1",
    "fc2": "linear2",
    "class_labels_classifier": "class_embed",
    "bbox_predictor": "bbox_embed",
    # of the backbone
    "embedder.embedder.convolution": "conv1",
    "embedder.embedder.normalization": "bn1",
    "shortcut.convolution": "downsample.0",
    "shortcut.normalization": "downsample.1",
    **{f"encoder.stages.{s}.layers": f"layer{s + 1}" for s in range(4)},
    **{f"layer.{n}.convolution": f"conv{n + 1}" for n in range(2)},
    **{f"layer.{n}.normalization": f"bn{n + 1}" for n in range(2)},
}
"""What transformers' files call a part, and what the original does."""


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.ConditionalDetrConfig(
        backbone_config=backbone, id2label=NAMES, num_queries=30, encoder_layers=2,
        decoder_layers=3, d_model=64, encoder_ffn_dim=96, decoder_ffn_dim=96,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ConditionalDetrForObjectDetection(config).eval()
    with torch.no_grad():  # as they are, all queries answer alike
        for name, parameter in model.named_parameters():
            if "query_position" in name:
                parameter.normal_()
            elif parameter.dim() == 2:  # attention that is far from even
                gain = 6 if "q_" in name or "k_" in name else 1
                parameter.normal_(std=gain / parameter.shape[-1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conditional") / "model"
    theirs.save_pretrained(path)
    return path


def exact_waves(points: Tensor, num_pos_feats: int) -> Tensor:
    """Theirs, which has frequencies in single precision whatever the points have."""
    index = torch.arange(num_pos_feats, dtype=points.dtype)
    angles = points.flip(-1)[..., None] * 2 * math.pi / 10000 ** (2 * (index // 2) / num_pos_feats)
    waves = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1)
    return waves.flatten(-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_outputs_are_those_of_transformers(
    theirs: Any, folder: Path, dtype: torch.dtype, tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pixels, padding = padded_batch()
    if dtype == torch.float64:
        module = sys.modules[type(theirs).__module__]
        monkeypatch.setattr(module, "encode_sinusoidal_position_embedding", exact_waves)
    _, ours = load_checkpoint(folder)
    assert isinstance(ours, Detr)
    ours.to(dtype)
    with torch.inference_mode():
        expected = theirs.to(dtype)(pixels.to(dtype), pixel_mask=(~padding).long())
        head, queries = theirs.model.decoder.ref_point_head, theirs.model.query_position_embeddings
        points = ours.get_parameter("points")
        assert_close(points, head(queries.weight), 1e-5)
        if dtype == torch.float64:  # the file's were computed in single precision
            points.copy_(head(queries.weight))
        found = ours.find(ours.encode(pixels.to(dtype), padding, dtype))
    theirs.float()
    assert expected.pred_boxes.std(1).min() > 1e-3  # queries differ, else this would say little
    assert expected.logits.std(1).median() > 1e-2
    assert_close(found.boxes, expected.pred_boxes, tolerance)
    assert_close(found.logits, expected.logits, tolerance)


def test_files_of_the_original_give_the_same_model(theirs: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    renamed = {
        original_name(name): tensor
        for name, tensor in weights.items()
        if "num_batches_tracked" not in name
    }
    for layer in range(2):  # the encoder's are nn.MultiheadAttention's
        attention = f"transformer.encoder.layers.{layer}.self_attn"
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"{attention}.{part}_proj.{kind}") for part in "qkv"]
            renamed[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
    file = folder / "ConditionalDETR_r18.pth"
    torch.save({"model": renamed}, file)
    with pytest.warns(CheckpointWarning, match="which are taken for COCO's"):
        spec, ours = load_checkpoint(file)
    _, other = load_checkpoint(folder)
    assert spec.architecture == other.config
    assert len(spec.categories) == 80  # COCO's: such a file has no names
    for name, tensor in other.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def original_name(name: str) -> str:
    """From transformers' to the original."""
    for theirs, original in ORIGINAL.items():
        name = name.replace(theirs, original)
    last = "norm2" if ".encoder." in name else "norm3"
    return name.replace("self_attn_layer_norm", "norm1").replace("final_layer_norm", last)


def test_detections_are_those_of_transformers(theirs: Any, folder: Path) -> None:
    """A query may stand for several classes, or for none of the best 100."""
    transformers = pytest.importorskip("transformers")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    processor = transformers.ConditionalDetrImageProcessor(
        size={"shortest_edge": 96, "longest_edge": 200}
    )
    processor.save_pretrained(folder)
    with torch.inference_mode():
        outputs = theirs(**processor(images=image, return_tensors="pt"))
    (expected,) = processor.post_process_object_detection(outputs, 0.5, [(96, 128)])
    found = load(folder).detect(image)
    assert 10 < len(expected["scores"]) <= 100
    assert len(set(expected["boxes"][:, 0].tolist())) < len(expected["boxes"])
    rows = sorted(zip(expected["scores"], expected["labels"], expected["boxes"], strict=True))
    ours = sorted(found.detections, key=lambda one: one.score)
    assert [one.category_id for one in ours] == [int(label) for _, label, _ in rows]
    for one, (score, _, box) in zip(ours, rows, strict=True):
        assert one.score == pytest.approx(score.item(), abs=1e-4)
        assert one.box == pytest.approx(box.tolist(), abs=0.02)


def test_what_is_missing_or_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    name = "model.decoder.ref_point_head.layers.0.weight"
    others = {key: tensor for key, tensor in weights.items() if key != name}
    plain = {key: tensor for key, tensor in weights.items() if "decoder" not in key}
    for kept, message in (
        (others, f"lacks 1 tensors of its model: '{name}'"),
        (others | {name: torch.zeros(64, 9)}, "shapes do not go together"),
        (plain, "lacks 4 tensors of its model"),
    ):
        save_file(kept, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(
        (folder / "config.json").read_text().replace('"conditional_detr"', '"detr"')
    )
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors of its model"):
        load_checkpoint(tmp_path)


def test_masks_are_refused(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text()
    config = config.replace("DetrForObjectDetection", "DetrForSegmentation")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match="masks and sigmoid are true"):
        load_spec(tmp_path)
