from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.shapes import detr_shape

from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.published import coco_detection, plain_category
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError
from panodetr.model.config import RESNET18, DetrConfig, ResNetConfig
from panodetr.model.detr import Detr

BACKBONE = ResNetConfig(block="basic", depths=(1, 1, 1, 2), widths=(8, 8, 16, 16), stem_width=8)
TINY = ModelSpec(
    name="tiny",
    architecture=DetrConfig(
        backbone=BACKBONE, num_classes=91, num_queries=6, hidden_dim=128, ffn_dim=32,
        encoder_layers=2, decoder_layers=2,
    ),
    categories=coco_detection(),
)  # fmt: skip


def variant(**changes: Any) -> ModelSpec:
    return replace(TINY, architecture=replace(TINY.architecture, **changes))


def random_model(spec: ModelSpec) -> Detr:
    """A network whose batch norms are not trivial."""
    torch.manual_seed(0)
    model = Detr(spec.architecture).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif name.endswith(("running_var", "norm1.weight", "norm2.weight")):
            buffer.uniform_(0.5, 1.5)
    return model


def test_a_facebook_file_opens_without_allowing_anything(tmp_path: Path) -> None:
    spec = variant(backbone=RESNET18)
    file = save_pretrained(tmp_path, spec, random_model(spec), format="facebook")
    assert file == tmp_path / "model.pth"
    whole = torch.load(file, weights_only=True)
    assert whole["args"]["backbone"] == "resnet18"
    assert "transformer.decoder.norm.weight" in whole["model"]


@pytest.mark.parametrize(
    ("format", "spec", "message"),
    [
        ("facebook", TINY, "tiny cannot be saved as facebook: the backbone is none of resnet18"),
        (
            "huggingface",
            variant(backbone=replace(BACKBONE, norm="group")),
            "tiny cannot be saved as huggingface: backbone.norm is 'group'",
        ),
        ("huggingface", variant(position_input=True), "position_input is true, which has no place"),
        ("huggingface", variant(conditional=True), "conditional is true, which has no place"),
        ("facebook", variant(decoder_heads=2), "decoder_heads is 2, which has no place"),
    ],
)
def test_a_format_without_a_place_for_the_model_is_named(
    tmp_path: Path, format: Any, spec: ModelSpec, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_pretrained(tmp_path / "a", spec, random_model(spec), format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["huggingface", "panodetr"])
def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, format: Any) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match=r"no part of a checkpoint \(thesis\.tex\)"):
        save_pretrained(tmp_path, TINY, random_model(TINY), format=format)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    folder = save_pretrained(tmp_path / "a", TINY, random_model(TINY), format="huggingface")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert json.loads(before["preprocessor_config.json"])["size"]["longest_edge"] == 1333
    sick = random_model(TINY)
    torch.nn.init.constant_(sick.class_head.bias, float("nan"))
    with pytest.raises(CheckpointError, match=r"'class_labels_classifier\.bias' is not"):
        save_pretrained(folder, TINY, sick, format="huggingface")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# transformers opens what is written here, and its files open here, with the same answers.

BOXES = "DetrForObjectDetection"
VARIANTS = {
    "detection": (variant(), BOXES),
    "panoptic": (variant(masks=True), "DetrForSegmentation"),
    "learned positions": (variant(positions="learned"), BOXES),
    "pre-norm": (variant(pre_norm=True), "TableTransformerForObjectDetection"),
    "pre-norm, learned positions": (
        variant(pre_norm=True, positions="learned"),
        "TableTransformerForObjectDetection",
    ),
    "live batch norm": (
        variant(backbone=replace(BACKBONE, norm="batch")),
        BOXES,
    ),
    "named classes": (
        replace(
            TINY,
            architecture=replace(TINY.architecture, num_classes=2),
            categories=(plain_category(0, "cell"), plain_category(1, "vessel")),
        ),
        BOXES,
    ),
}


def agree(ours: Detr, theirs: Any) -> None:
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:] = True
    padding[1, :, 96:] = True
    pixels[padding[:, None].expand_as(pixels)] = 0
    with torch.inference_mode():
        here = ours.detect(pixels, padding)
        there = theirs(pixel_values=pixels, pixel_mask=(~padding).long())
        torch.testing.assert_close(here.logits, there.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(here.boxes, there.pred_boxes, atol=1e-5, rtol=0)
        if ours.config.masks:
            queries = ours.config.num_queries
            image = torch.arange(2).repeat_interleave(queries)
            query = torch.arange(queries).repeat(2)
            masks = ours.masks(here, image, query)
            torch.testing.assert_close(masks, there.pred_masks.flatten(0, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize(("spec", "kind"), VARIANTS.values(), ids=VARIANTS.keys())
def test_transformers_opens_a_saved_model_and_saves_it_again(
    tmp_path: Path, spec: ModelSpec, kind: str
) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model(spec)
    save_pretrained(tmp_path / "a", spec, model, format="huggingface")
    theirs, report = getattr(transformers, kind).from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(report.values()), report
    assert theirs.config.id2label[spec.categories[0].index] == spec.categories[0].name
    agree(model, theirs.eval())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "a")
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}
    assert tuple(processor.image_mean) == spec.preprocessing.mean
    theirs.save_pretrained(tmp_path / "b")
    again, loaded = load_checkpoint(tmp_path / "b")
    backbone = replace(detr_shape(spec.architecture).backbone, norm="frozen")
    assert again.architecture == replace(spec.architecture, backbone=backbone)
    assert again.categories == spec.categories
    state = model.state_dict()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[key]), key
