from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from panodetr.checkpoints.backbone import load_backbone
from panodetr.checkpoints.names import TORCHVISION
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError
from panodetr.model.backbone import ResNet
from panodetr.model.config import RESNET18, RESNET34, RESNET50, RESNET101, ResNetConfig
from panodetr.model.detr import Detr

TINY = ResNetConfig(block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8)


def torchvision_keys(config: ResNetConfig) -> set[str]:
    """The names of torchvision's classifiers, as its resnet.py makes them."""
    convs = 2 if config.block == "basic" else 3
    names = {"conv1.weight", "fc.weight", "fc.bias"}
    norms = {"bn1"}
    for stage, depth in enumerate(config.depths, start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            names |= {f"{at}.conv{n}.weight" for n in range(1, convs + 1)}
            norms |= {f"{at}.bn{n}" for n in range(1, convs + 1)}
        if stage > 1 or config.block == "bottleneck":
            names.add(f"layer{stage}.0.downsample.0.weight")
            norms.add(f"layer{stage}.0.downsample.1")
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return names | {f"{norm}.{leaf}" for norm in norms for leaf in leaves}


def classifier(config: ResNetConfig) -> dict[str, Tensor]:
    """A classifier with random weights and statistics, under torchvision's names."""
    torch.manual_seed(0)
    live = ResNet(replace(config, norm="batch"))
    state = {
        f"backbone.{key}": torch.rand_like(t) for key, t in live.state_dict().items() if t.dim()
    }
    theirs = TORCHVISION.from_ours(state)
    counters = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for key in theirs
        if key.endswith("running_mean")
    }
    return theirs | counters | {"fc.weight": torch.rand(10, 3), "fc.bias": torch.rand(10)}


@pytest.mark.parametrize("config", [RESNET18, RESNET34, RESNET50, RESNET101])
def test_names_are_torchvisions(config: ResNetConfig) -> None:
    with torch.device("meta"):
        assert classifier(config).keys() == torchvision_keys(config)


def test_names_are_those_in_the_originals_files(golden: Path) -> None:
    keys = json.loads((golden / "facebook-detr-r50-dc5.keys.json").read_text())
    body = "backbone.0.body."
    names = {key.split(body)[1] for key in keys if body in key}
    with torch.device("meta"):
        ours = {key for key in classifier(RESNET50) if not key.startswith("fc.")}
    assert {n for n in names if not n.endswith("tracked")} == {
        n for n in ours if not n.endswith("tracked")
    }


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_classifier_of_torchvision_or_timm_becomes_a_backbone(
    tmp_path: Path, norm: Literal["frozen", "batch"]
) -> None:
    theirs = classifier(TINY)
    torch.save(theirs, tmp_path / "resnet.pth")
    save_file(theirs, tmp_path / "model.safetensors")
    config = replace(TINY, norm=norm)
    for place in (tmp_path / "resnet.pth", tmp_path):
        loaded = load_backbone(place, config)
        for ours, key in (
            ("stem_conv.weight", "conv1.weight"),
            ("stages.1.0.norm2.running_var", "layer2.0.bn2.running_var"),
            ("stages.3.0.shortcut.0.weight", "layer4.0.downsample.0.weight"),
        ):
            assert_close(loaded[ours], theirs[key])
        missing, unknown = ResNet(config).load_state_dict(loaded, strict=False)
        assert not unknown
        assert all(key.endswith("num_batches_tracked") for key in missing)


@pytest.mark.parametrize("kind", ["panodetr", "facebook", "huggingface"])
def test_the_backbone_of_a_detr_is_taken(
    tmp_path: Path, tiny_spec: ModelSpec, kind: Format
) -> None:
    torch.manual_seed(0)
    spec = replace(
        tiny_spec,
        architecture=replace(
            tiny_spec.architecture, backbone=replace(RESNET18, norm="frozen"), heads=8
        ),
    )
    model = Detr(spec.architecture)
    name = "model.pth" if kind == "facebook" else "model"
    place = save_pretrained(tmp_path / name, spec, model, format=kind)
    loaded = load_backbone(place, spec.architecture.backbone)
    assert_close(loaded, dict(model.backbone.state_dict()))


@pytest.mark.parity
def test_a_classifier_of_transformers_becomes_a_backbone(tmp_path: Path) -> None:
    from transformers import ResNetConfig as TheirConfig
    from transformers import ResNetForImageClassification

    theirs = ResNetForImageClassification(
        TheirConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
        )
    )
    theirs.save_pretrained(tmp_path)
    config = replace(TINY, norm="batch")
    ours = ResNet(config)
    ours.load_state_dict(load_backbone(tmp_path, config), strict=False)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval().resnet(pixels).last_hidden_state
        assert_close(ours.eval()(pixels)[-1], expected)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    torch.save(classifier(TINY), tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet\.pth lacks .* tensors") as caught:
        load_backbone(tmp_path / "resnet.pth", RESNET50)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="another shape"):
        load_backbone(tmp_path / "resnet.pth", replace(TINY, widths=(8, 8, 16, 24)))


def test_what_is_no_resnet_is_refused(tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "clip.pth")
    with pytest.raises(CheckpointError, match=r"holds no ResNet: .* 'visual\.proj'"):
        load_backbone(tmp_path / "clip.pth", TINY)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_backbone(tmp_path, TINY)
    with pytest.raises(CheckpointError, match="neither a bundled model"):
        load_backbone("resnet50.pth", TINY)
    with pytest.raises(CheckpointError, match="group norms"):
        load_backbone(tmp_path / "clip.pth", replace(TINY, norm="group"))
