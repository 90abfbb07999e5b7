from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.process import python
from tests.shapes import as_detr, detr_shape

from panodetr.checkpoints.huggingface import read_huggingface, write_huggingface
from panodetr.checkpoints.load import load_checkpoint, load_spec
from panodetr.checkpoints.names import (
    FACEBOOK,
    RESNET_4,
    RESNET_5,
    TIMM_4,
    TRANSFORMERS_TABLES,
    NameTable,
)
from panodetr.checkpoints.published import coco_panoptic, plain_category
from panodetr.checkpoints.save import FORMATS, Format, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, CheckpointWarning
from panodetr.model.config import RESNET18, RESNET50, DetrConfig, EomtConfig, VitConfig
from panodetr.model.detr import Detr

SMALL = DetrConfig(
    backbone=RESNET18, num_classes=250, num_queries=4, hidden_dim=128, ffn_dim=16,
    encoder_layers=2, decoder_layers=1, masks=True,
)  # fmt: skip


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """A network small enough to be saved often, with a backbone that every format has."""
    return ModelSpec(name="small", architecture=SMALL, categories=coco_panoptic(), threshold=0.85)


@pytest.fixture(scope="session")
def model() -> Detr:
    torch.manual_seed(0)
    return Detr(SMALL).eval()


def outputs(model: Detr) -> tuple[torch.Tensor, ...]:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model.detect(pixels)
        masks = model.masks(found, torch.tensor([0, 1]), torch.tensor([3, 0]))
    return found.logits, found.boxes, masks


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_saved_answers_the_same_and_its_specification_needs_no_weights(
    tmp_path: Path, spec: ModelSpec, model: Detr, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("small.pth" if format == "facebook" else "small")
    again, loaded = load_checkpoint(save_pretrained(path, spec, model, format=format))
    assert again == spec
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    for here, there in zip(outputs(model), outputs(as_detr(loaded)), strict=True):
        assert torch.equal(here, there)
    monkeypatch.setattr(torch.Tensor, "to", None)
    monkeypatch.setattr("panodetr.checkpoints.load.build", None)
    assert load_spec(path) == spec
    if format != "facebook":
        (path / "model.safetensors").unlink()
        assert load_spec(path) == spec


@pytest.mark.parametrize("table", TRANSFORMERS_TABLES, ids=lambda table: table.source)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_folders_of_transformers_of_every_age_are_read(
    tmp_path: Path, spec: ModelSpec, model: Detr, table: NameTable, file: str
) -> None:
    config, _ = write_huggingface(spec)
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = table.from_ours(model.state_dict())
    (torch.save if file.endswith(".bin") else save_file)(state, tmp_path / file)
    again, loaded = load_checkpoint(tmp_path)
    assert again.architecture == spec.architecture
    assert again.name == tmp_path.name
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert load_checkpoint(tmp_path / file)[0] == again  # a file is read with its folder


@pytest.mark.parametrize("table", [FACEBOOK, TIMM_4, RESNET_5], ids=lambda table: table.source)
def test_a_single_file_says_its_architecture_by_its_shapes_and_is_read_as_float32(
    tmp_path: Path, spec: ModelSpec, model: Detr, table: NameTable
) -> None:
    state = table.from_ours(model.state_dict())
    torch.save({key: tensor.half() for key, tensor in state.items()}, tmp_path / "some.pth")
    again, loaded = load_checkpoint(tmp_path / "some.pth")
    assert again == replace(spec, name="some")
    assert loaded.config == SMALL
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


def test_loading_does_not_import_pytorchs_compiler(
    tmp_path: Path, spec: ModelSpec, model: Detr
) -> None:
    """Its import takes longer than all else that loading does."""
    file = save_pretrained(tmp_path / "small.pth", spec, model, format="facebook")
    code = (
        "import sys; from panodetr.checkpoints.load import load_checkpoint; "
        "[load_checkpoint(source) for source in sys.argv[1:]]; "
        "print('torch._dynamo' in sys.modules)"
    )
    done = python("-c", code, "nuclei", file)
    assert done.stdout == "False\n", done.stderr


def detector(tmp_path: Path, name: str, **extra: object) -> Path:
    """A detector of ResNet-50 in the original's format, its weights being nothing."""
    config = replace(SMALL, backbone=RESNET50, num_classes=91, masks=False)
    with torch.device("meta"):
        state = FACEBOOK.from_ours(Detr(config).state_dict())
    zeros = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in state.items()}
    torch.save({"model": zeros, **extra}, tmp_path / name)
    return tmp_path / name


def test_classes_of_a_file_without_names_are_guessed_aloud_or_named(tmp_path: Path) -> None:
    file = detector(tmp_path, "mine.pth")
    with pytest.warns(CheckpointWarning, match=r"91 classes without names, .* --names FILE"):
        spec = load_spec(file)
    assert (spec.categories[0].name, len(spec.categories)) == ("person", 80)
    spec, _ = load_checkpoint(file, names=["N/A", *(f"part {n}" for n in range(1, 91))])
    assert [(c.index, c.name) for c in spec.categories][::89] == [(1, "part 1"), (90, "part 90")]
    for names, message in (
        (["a"], "1 names were given for 91 classes"),
        (["a"] * 91, "two classes have the name 'a'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(file, names=names)
    published = detector(tmp_path, "detr-r50-e632da11.pth")
    assert load_spec(published).categories[0].name == "person"  # COCO's for certain


def test_a_file_is_undilated_unless_an_option_its_arguments_or_its_name_say_so(
    tmp_path: Path,
) -> None:
    file = detector(tmp_path, "mine.pth")
    assert not detr_shape(load_spec(file).architecture).backbone.dilate_last
    dilated = load_checkpoint(file, dilation=True)[0]
    assert detr_shape(dilated.architecture).backbone.dilate_last
    arguments = argparse.Namespace(dilation=True, nheads=4)
    given = load_checkpoint(detector(tmp_path, "mine.pth", args=arguments))[0]
    shape = detr_shape(given.architecture)
    assert (shape.backbone.dilate_last, shape.heads) == (True, 4)
    spec, _ = load_checkpoint(detector(tmp_path, "detr-r50-dc5-f0fb7ef5.pth"))
    assert detr_shape(spec.architecture).backbone.dilate_last
    assert spec.name == "facebook/detr-resnet-50-dc5"


BLOCK = "detr.backbone.0.body.layer4.1."
LEAVES = ("weight", "bias", "running_mean", "running_var")
NORM = [f"bn{n}.{leaf}" for n in (1, 2) for leaf in LEAVES]


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (FACEBOOK, {"detr.transformer.encoder.layers.1.linear1.bias": None},
         r"lacks 1 tensors .*: 'detr\.transformer\.encoder\.layers\.1\.linear1\.bias'"),
        (FACEBOOK, {"detr.transformer.encoder.layers.0.self_attn.in_proj_bias": 9},
         r"in_proj_bias' is \[9\], expected \[384\]"),
        (RESNET_4, {"model.fpn.weight": 1}, "holds 1 tensors .* not have: 'model.fpn.weight'"),
        (RESNET_4, {"detr.class_labels_classifier.bias": 9},
         r"'detr\.class_labels_classifier\.bias' is \[9\], expected \[251\]"),
        (RESNET_4, {"detr.class_labels_classifier.weight": None},
         r"'detr\.class_labels_classifier\.weight' is missing"),
        (FACEBOOK, {BLOCK + key: None for key in ("conv1.weight", "conv2.weight", *NORM)},
         r"the backbone has \(2, 2, 2, 1\) basic blocks; expected one of resnet18"),
    ],
    ids=["missing", "shape", "unknown", "head", "no head", "a block missing"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named_as_the_file_has_them(
    tmp_path: Path, model: Detr, table: NameTable, changes: dict[str, int | None], message: str
) -> None:
    state = table.from_ours(model.state_dict())
    state |= {key: torch.ones(length) for key, length in changes.items() if length is not None}
    kept = {key: value for key, value in state.items() if changes.get(key, 1) is not None}
    torch.save(kept, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "broken.pth")
    assert str(caught.value).startswith(str(tmp_path / "broken.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("huggingface", r"model\.query_position_embeddings\.weight' is \[4, 128\], expected \[5, "),
        ("panodetr", r"'queries\.weight' is \[4, 128\], expected \[5, "),
    ],
)
def test_a_configuration_of_another_size_than_its_weights_and_options_without_meaning_are_errors(
    tmp_path: Path, spec: ModelSpec, model: Detr, format: Format, message: str
) -> None:
    folder = save_pretrained(tmp_path / "a", spec, model, format=format)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_queries": 4', '"num_queries": 5'))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="not on the hub and has no revision 'main'"):
        load_checkpoint(folder, revision="main")
    with pytest.raises(CheckpointError, match="says itself whether it is dilated"):
        load_checkpoint(folder, dilation=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"config\.json is not there"),
        ({"config.json": "{"}, "is not valid JSON"),
        ({"config.json": '{"model_type": "bert"}'}, "model_type is 'bert'"),
        ({"config.json": "[]"}, "expected object, got array"),
        ({"config.json": '{"a": ' * 100_000}, r"config\.json: it is nested too deeply"),
        ({"config.json": '{"model_type": "detr"}'}, "holds no weights"),
    ],
)
def test_folders_that_are_no_checkpoint_are_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("detr-resnet-101-panoptic", "did you mean 'facebook/detr-resnet-101-panoptic'"),
        ("/nowhere/model.pth", "neither a bundled model nor a folder, a file or an id"),
        ("image.png", r"image\.png is not a file of weights"),
        ("vit.bin", r"vit\.bin holds no DETR or EoMT: .* 'vit\.patch\.weight'"),
    ],
)
def test_a_source_that_is_no_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("image.png").write_bytes(b"")
    torch.save({"vit.patch.weight": torch.ones(1)}, "vit.bin")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(source)


def test_a_bundled_name_wins_over_a_folder_here(
    tmp_path: Path, spec: ModelSpec, model: Detr, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = save_pretrained(tmp_path / "bundled" / "cells", spec, model)
    own = replace(spec, name="own", categories=(plain_category(0, "other"),))
    monkeypatch.chdir(tmp_path)
    save_pretrained("cells", own, model)
    monkeypatch.setattr("panodetr.checkpoints.load.bundled", lambda: {"cells": bundled})
    assert load_checkpoint("cells")[0].name == "small"
    assert load_checkpoint("./cells")[0].name == "own"
    assert load_checkpoint(Path("cells"))[0].name == "own"


def test_thresholds_of_classes_go_with_their_names(
    tmp_path: Path, spec: ModelSpec, model: Detr
) -> None:
    stored = replace(spec, class_thresholds={"person": 0.5, "bicycle": 0.25})
    save_pretrained(tmp_path / "model", stored, model)
    assert load_checkpoint(tmp_path / "model")[0].class_thresholds == stored.class_thresholds
    names = ["N/A", "person", *(f"part {n}" for n in range(2, 250))]
    renamed, _ = load_checkpoint(tmp_path / "model", names=names)
    assert renamed.class_thresholds == {"person": 0.5}


def test_a_configuration_of_a_backbone_alone_is_checked_before_a_model_is_made(
    tmp_path: Path, spec: ModelSpec, model: Detr
) -> None:
    save_pretrained(tmp_path / "model", spec, model)
    file = tmp_path / "model" / "config.json"
    given = json.loads(file.read_text())
    given["categories"] = [{**given["categories"][0], "id": -1}]
    file.write_text(json.dumps(given))
    assert load_checkpoint(tmp_path / "model")[0].categories[0].id == -1
    # A terabyte of weights, if they were made.
    huge = VitConfig(hidden_dim=8192, heads=1, layers=200, ffn_ratio=16)
    shape = EomtConfig(backbone=huge, num_classes=250)
    given["architecture"] = asdict(shape)
    given["preprocessing"]["multiple"] = huge.patch
    file.write_text(json.dumps(given))
    with pytest.raises(CheckpointError, match="has no whole vision transformer"):
        load_checkpoint(tmp_path / "model")


def test_more_names_than_classes_take_no_time(spec: ModelSpec) -> None:
    config, _ = write_huggingface(spec)
    labels = {str(2 * number): f"class {number}" for number in range(50_000)}
    with pytest.warns(CheckpointWarning, match="without a place: 'class 25000' .* more"):
        found = read_huggingface({**config, "id2label": labels, "panodetr": None}, {}, "a")
    assert len(found.categories) == 25_000


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_weights_that_are_no_finite_fractions_are_refused(
    tmp_path: Path, spec: ModelSpec, model: Detr, value: float | None
) -> None:
    save_pretrained(tmp_path / "model", spec, model)
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    bias, message = weights["class_head.bias"], "has NaN or infinite values"
    if value is None:
        bias, message = bias.view(torch.int32), r"is torch\.int32; expected"
    else:
        bias[3] = value
    save_file(weights | {"class_head.bias": bias}, file)
    with pytest.raises(CheckpointError, match=rf"class_head\.bias {message}"):
        load_checkpoint(tmp_path / "model")
