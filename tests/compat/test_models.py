from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.shapes import detr_shape

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat import DetrForObjectDetection, DetrForSegmentation
from panodetr.errors import CheckpointError
from panodetr.model.detr import Detr
from panodetr.runtimes import torch as torch_runtime


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DetrForSegmentation:
    return DetrForSegmentation.from_pretrained(checkpoint)


def test_outputs_have_their_shapes_and_are_read_by_attribute_name_or_place(
    model: DetrForSegmentation, checkpoint: Path
) -> None:
    pixels = torch.randn(2, 3, 64, 96)
    outputs = model(pixels)
    shapes = {
        "logits": (2, 5, 4),
        "pred_boxes": (2, 5, 4),
        "pred_masks": (2, 5, 16, 24),
        "last_hidden_state": (2, 5, 128),
        "encoder_last_hidden_state": (2, 6, 128),
    }
    assert list(outputs) == list(shapes)
    assert {name: value.shape for name, value in dict(**outputs).items()} == shapes
    assert outputs[0] is outputs["logits"] is outputs.logits
    assert len(outputs[:2]) == 2
    assert len(outputs.to_tuple()) == len(outputs) == 5
    for name in ("loss", "image_sizes"):
        with pytest.raises(KeyError):
            _ = outputs[name]
    again = type(outputs)({"target_size": (5, 7), **outputs})  # as transformers' pipelines do
    assert again["target_size"] == (5, 7)
    assert list(again) == [*shapes, "target_size"]
    assert not model.training
    boxes = DetrForObjectDetection.from_pretrained(checkpoint)(pixels)
    torch.testing.assert_close(boxes.logits, outputs.logits)
    assert "pred_masks" not in list(boxes)


@pytest.mark.parametrize("at_once", [1, 4, 10])
def test_masks_a_few_at_a_time_are_those_of_all_at_once_and_of_the_saved_model(
    model: DetrForSegmentation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: int
) -> None:
    pixels = torch.randn(2, 3, 64, 96)  # 10 masks
    expected = model(pixels).pred_masks
    monkeypatch.setattr(torch_runtime, "CACHED_PIXELS", at_once * 16 * 24)
    again = DetrForSegmentation.from_pretrained(model.save_pretrained(tmp_path / "copy"))
    masks = again.requires_grad_(True)(pixels).pred_masks
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
    masks.sum().backward()
    gradient = again.network.backbone.stem_conv.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_config_names_every_place(model: DetrForSegmentation) -> None:
    assert model.config.id2label == {0: "nucleus", 1: "N/A", 2: "background"}
    assert model.config.label2id == {"nucleus": 0, "background": 2}
    assert model.config.num_labels == 3
    assert model.device == torch.device("cpu")


def test_missing_masks_are_one_line(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    save_checkpoint(tmp_path / "boxes", spec, Detr(spec.architecture).state_dict())
    with pytest.raises(CheckpointError, match="use DetrForObjectDetection"):
        DetrForSegmentation.from_pretrained(tmp_path / "boxes")


def test_conditional_queries_are_refused(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    shape = detr_shape(tiny_spec.architecture)
    spec = replace(tiny_spec, architecture=replace(shape, conditional=True))
    save_checkpoint(tmp_path / "points", spec, Detr(spec.architecture).state_dict())
    with pytest.raises(CheckpointError, match=r"has conditional queries, .* use panodetr\.load"):
        DetrForObjectDetection.from_pretrained(tmp_path / "points")
