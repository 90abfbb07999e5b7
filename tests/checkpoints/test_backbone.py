from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from panodetr.checkpoints.load import load_backbone
from panodetr.checkpoints.names import TORCHVISION
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError
from panodetr.model.backbone import ResNet
from panodetr.model.config import RESNET18, RESNET50, ResNetConfig
from panodetr.model.detr import Detr

TINY = ResNetConfig(block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8)


def classifier(config: ResNetConfig) -> dict[str, Tensor]:
    """A classifier with random weights and statistics, under torchvision's names."""
    torch.manual_seed(0)
    live = ResNet(replace(config, norm="batch")).state_dict()
    theirs = TORCHVISION.from_ours(
        {f"backbone.{key}": torch.rand(t.shape) for key, t in live.items()}
    )
    return theirs | {"bn1.num_batches_tracked": torch.tensor(7), "fc.weight": torch.rand(10, 3)}


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
    architecture = replace(tiny_spec.architecture, backbone=RESNET18)
    model = Detr(architecture)
    spec = replace(tiny_spec, architecture=architecture)
    name = "model.pth" if kind == "facebook" else "model"
    place = save_pretrained(tmp_path / name, spec, model, format=kind)
    assert_close(load_backbone(place, RESNET18), dict(model.backbone.state_dict()))


@pytest.mark.parity
def test_a_classifier_of_transformers_becomes_a_backbone(tmp_path: Path) -> None:
    library: Any = pytest.importorskip("transformers")
    config = library.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic"
    )
    theirs = library.ResNetForImageClassification(config)
    theirs.save_pretrained(tmp_path)
    ours = ResNet(TINY).eval()
    ours.load_state_dict(load_backbone(tmp_path, TINY))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval().resnet(pixels).last_hidden_state
        assert_close(ours(pixels)[-1], expected)


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        ("resnet.pth", RESNET50, r"resnet\.pth lacks .* tensors"),
        ("resnet.pth", replace(TINY, widths=(8, 8, 16, 24)), "another shape"),
        ("clip.pth", TINY, r"holds no ResNet: .* 'visual\.proj'"),
        (".", TINY, "holds no weights"),
        ("resnet50.pth", TINY, "neither a bundled model"),
        ("clip.pth", replace(TINY, norm="group"), "group norms"),
    ],
)
def test_what_is_no_such_resnet_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    config: ResNetConfig,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(classifier(TINY), "resnet.pth")
    torch.save({"visual.proj": torch.zeros(2, 2)}, "clip.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(source, config)
    assert "\n" not in str(caught.value)
