from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat import DetrForObjectDetection, DetrForSegmentation
from panodetr.compat.outputs import Canvas
from panodetr.errors import CheckpointError, UsageError
from panodetr.model.detr import Detr
from panodetr.runtimes import torch as torch_runtime


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DetrForSegmentation:
    return DetrForSegmentation.from_pretrained(checkpoint)


def test_outputs_have_their_shapes_and_no_graph(
    model: DetrForSegmentation, checkpoint: Path
) -> None:
    pixels = torch.randn(2, 3, 64, 96)
    outputs = model(pixels)
    assert outputs.logits.shape == (2, 5, 4)
    assert outputs.pred_boxes.shape == (2, 5, 4)
    assert outputs.pred_masks.shape == (2, 5, 16, 24)
    assert outputs.last_hidden_state.shape == (2, 5, 128)
    assert outputs.encoder_last_hidden_state.shape == (2, 6, 128)
    assert not outputs.pred_masks.requires_grad
    assert not model.training
    boxes = DetrForObjectDetection.from_pretrained(checkpoint)(pixels)
    torch.testing.assert_close(boxes.logits, outputs.logits)
    assert "pred_masks" not in list(boxes)


def test_outputs_are_read_by_attribute_name_or_place(model: DetrForSegmentation) -> None:
    outputs = model(torch.randn(1, 3, 64, 64))
    names = ["logits", "pred_boxes", "pred_masks", "last_hidden_state", "encoder_last_hidden_state"]
    assert list(outputs) == names
    assert outputs[0] is outputs["logits"] is outputs.logits
    assert len(outputs[:2]) == 2
    assert len(outputs.to_tuple()) == len(outputs) == 5
    assert dict(**outputs).keys() == set(names)
    with pytest.raises(KeyError):
        _ = outputs["loss"]


def test_the_mask_says_what_is_padding_and_outputs_keep_it(model: DetrForSegmentation) -> None:
    pixels, mask = torch.zeros(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.int64)
    pixels[0], mask[0] = torch.randn(3, 64, 96), 1
    pixels[1, :, :30, :40], mask[1, :30, :40] = torch.randn(3, 30, 40), 1
    outputs = model(pixels, mask)
    assert outputs.canvas == Canvas(size=(64, 96), images=((64, 96), (30, 40)))
    unmasked = model(pixels)
    assert unmasked.canvas is None
    assert not torch.allclose(outputs.logits[1], unmasked.logits[1])
    torch.testing.assert_close(
        model(pixels, torch.ones_like(mask)).logits, unmasked.logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("at_once", [1, 4, 10])
def test_masks_a_few_at_a_time_are_those_of_all_at_once(
    model: DetrForSegmentation, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    pixels = torch.randn(2, 3, 64, 96)  # 10 masks
    expected = model(pixels).pred_masks
    monkeypatch.setattr(torch_runtime, "CACHED_PIXELS", at_once * 16 * 24)
    torch.testing.assert_close(model(pixels).pred_masks, expected, rtol=1e-4, atol=1e-4)


def test_earlier_layers_come_out_when_asked_for(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, decoder_layers=3))
    save_checkpoint(tmp_path / "deep", spec, Detr(spec.architecture).state_dict())
    model = DetrForObjectDetection.from_pretrained(tmp_path / "deep", auxiliary_loss=True)
    outputs = model(torch.randn(1, 3, 64, 64))
    assert outputs.auxiliary_outputs is not None
    assert len(outputs.auxiliary_outputs) == 2
    for layer in outputs.auxiliary_outputs:
        assert layer["logits"].shape == outputs.logits.shape
        assert layer["pred_boxes"].shape == outputs.pred_boxes.shape
        assert not torch.allclose(layer["logits"], outputs.logits)


def test_the_config_names_every_place(model: DetrForSegmentation) -> None:
    assert model.config.id2label == {0: "nucleus", 1: "N/A", 2: "background"}
    assert model.config.label2id == {"nucleus": 0, "background": 2}
    assert model.config.num_labels == 3
    assert model.device == torch.device("cpu")


def test_labels_and_missing_masks_are_one_line(
    model: DetrForSegmentation, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="computes no loss"):
        model(torch.randn(1, 3, 64, 64), labels=[{}])
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    save_checkpoint(tmp_path / "boxes", spec, Detr(spec.architecture).state_dict())
    with pytest.raises(CheckpointError, match="use DetrForObjectDetection"):
        DetrForSegmentation.from_pretrained(tmp_path / "boxes")


def test_a_saved_model_is_the_same_again(model: DetrForSegmentation, tmp_path: Path) -> None:
    again = DetrForSegmentation.from_pretrained(model.save_pretrained(tmp_path / "copy"))
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(pixels).pred_masks, model(pixels).pred_masks)


def test_gradients_come_back_where_they_are_asked_for(tiny_folder: Path) -> None:
    model = DetrForSegmentation.from_pretrained(tiny_folder).requires_grad_(True)
    model(torch.randn(1, 3, 64, 72)).pred_masks.sum().backward()
    gradient = model.detr.backbone.stem_conv.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
