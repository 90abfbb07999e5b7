"""EoMT's files: configurations, formats, and the transformers that it starts from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import panodetr
from panodetr.checkpoints.dinov2 import resample_kernel, resample_positions
from panodetr.checkpoints.eomt import read_eomt, write_eomt
from panodetr.checkpoints.load import load_backbone, load_checkpoint, load_spec
from panodetr.checkpoints.names import EOMT_ORIGINAL
from panodetr.checkpoints.published import PUBLISHED, plain_category
from panodetr.checkpoints.save import FORMATS, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import EomtConfig, VitConfig
from panodetr.model.eomt import Eomt
from panodetr.model.vit import Vit

TINY = EomtConfig(
    backbone=VitConfig(hidden_dim=128, heads=2, layers=3, grid=4), num_classes=4, num_queries=6,
    query_blocks=2,
)  # fmt: skip
SPEC = ModelSpec(
    name="tiny",
    architecture=TINY,
    categories=tuple(plain_category(n, name) for n, name in enumerate("abcd")),
    preprocessing=Preprocessing(short_side=64, long_side=64, multiple=64),
    threshold=0.8,
    overlap=0.8,
)
SWIGLU = replace(SPEC, architecture=replace(TINY, backbone=replace(TINY.backbone, swiglu=True)))


def outputs(model: Any) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.inference_mode():
        found = model.detect(torch.randn(1, 3, 64, 64))
        return torch.cat([found.logits.flatten(), model.every_mask(found).flatten()])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("spec", [SPEC, SWIGLU], ids=["gelu", "swiglu"])
def test_what_was_saved_answers_the_same(spec: ModelSpec, format: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Eomt(TINY if spec is SPEC else spec.architecture).eval()  # pyright: ignore[reportArgumentType]
    place = save_pretrained(tmp_path / "saved", spec, model, format=format)
    read, loaded = load_checkpoint(place)
    assert torch.equal(outputs(loaded), outputs(model))
    if format == "facebook":  # a file has no names of classes
        assert replace(read, name="tiny", categories=spec.categories) == spec
        assert [c.name for c in read.categories] == [f"class {n}" for n in range(4)]
    else:
        assert replace(read, name="tiny") == spec
    assert load_spec(place) == read


def test_a_training_checkpoint_of_the_original_opens(tmp_path: Path) -> None:
    model = Eomt(TINY).eval()
    named = EOMT_ORIGINAL.from_ours(model.state_dict(), "network.")
    more = {
        "network.attn_mask_probs": torch.zeros(2),
        "network.encoder.pixel_mean": torch.zeros(1, 3, 1, 1),
        "network.encoder.pixel_std": torch.ones(1, 3, 1, 1),
        "criterion.empty_weight": torch.ones(5),
    }
    file = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": named | more}, file)
    spec, loaded = load_checkpoint(file)
    assert torch.equal(outputs(loaded), outputs(model))
    assert spec.architecture == TINY
    config, _ = write_eomt(SPEC)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(tmp_path)[0].categories == SPEC.categories


def test_published_models_have_cocos_and_ade20ks_classes() -> None:
    found = [model for model in PUBLISHED if isinstance(model.architecture, EomtConfig)]
    for model in found:
        spec = ModelSpec(
            name="a", architecture=model.architecture, categories=model.categories,
            preprocessing=model.preprocessing, threshold=0.8, overlap=0.8,
        )  # fmt: skip
        config, preprocessor = json.loads(json.dumps(write_eomt(spec)))
        assert read_eomt(config, preprocessor, "a") == spec
        del config["panodetr"]
        assert read_eomt(config, preprocessor, "a").preprocessing == spec.preprocessing
        stuff = sum(not category.is_thing for category in model.categories)
        assert stuff == {133: 53, 150: 50, 80: 0}[len(model.categories)]
        if len(model.categories) != 150:
            assert read_eomt(config, preprocessor, "a") == spec
            labels = {str(n): f"LABEL_{n}" for n in range(len(model.categories))}
            assert read_eomt({**config, "id2label": labels}, preprocessor, "a") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act: invalid enum value 'relu'"),
        ({"num_attention_heads": 7}, "hidden_dim is 128; it must divide by heads"),
        ({"num_blocks": 9}, "query_blocks is 9; expected at most backbone.layers"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    change: dict[str, object], message: str
) -> None:
    config, preprocessor = write_eomt(SPEC)
    with pytest.raises(CheckpointError, match=message):
        read_eomt({**config, **change}, preprocessor, "a")
    with pytest.raises(CheckpointError, match="images have 1 pixels a side; expected a patch"):
        read_eomt(config, {**preprocessor, "size": {"shortest_edge": 1, "longest_edge": 1}}, "a")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embeddings.position_embeddings.weight", (5,), "has not 2 dimensions"),
        (
            "embeddings.position_embeddings.weight",
            (1_000_000, 128),
            "grid is 1000; expected int",
        ),
        ("embeddings.register_tokens", (), "has not 3 dimensions"),
        ("embeddings.patch_embeddings.projection.weight", (0, 3, 16, 16), "hidden_dim is 0"),
        ("embeddings.patch_embeddings.projection.weight", (128, 3, 64, 64), "patch is 64"),
    ],
)
def test_weights_of_odd_shapes_are_one_line(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    folder = save_pretrained(tmp_path / "a", SPEC, Eomt(TINY), format="huggingface")
    weights = load_file(folder / "model.safetensors")
    assert name in weights
    save_file(weights | {name: torch.zeros(shape)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "b.safetensors")


@pytest.mark.parity
@pytest.mark.parametrize("swiglu", [False, True], ids=["gelu", "swiglu"])
def test_dinov2_is_a_start_and_nothing_to_predict_with(tmp_path: Path, swiglu: bool) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            hidden_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=56,
            patch_size=14, use_swiglu_ffn=swiglu,
        )
    ).eval()  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    same = VitConfig(hidden_dim=128, heads=2, layers=3, patch=14, grid=4, swiglu=swiglu)
    ours = Vit(same).eval()
    ours.load_state_dict(load_backbone(tmp_path, same))
    pixels = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        x, _ = ours.embed(pixels)
        for block in ours.blocks:
            x = block(x)
        torch.testing.assert_close(
            ours.norm(x), theirs(pixels).last_hidden_state, rtol=1e-4, atol=1e-4
        )
    spec, model = load_checkpoint(tmp_path)
    assert spec.is_backbone
    assert isinstance(model, Eomt)
    assert model.backbone.patches.weight.shape == (128, 3, 16, 16)
    assert model.backbone.positions.shape == (1600, 128)
    assert torch.equal(model.backbone.norm.weight, ours.norm.weight)
    with pytest.raises(CheckpointError, match="is a backbone alone, which finds nothing"):
        panodetr.load(tmp_path)


def test_a_resampled_patch_gives_what_it_gave_before() -> None:
    random = torch.Generator().manual_seed(0)
    kernel = torch.randn(5, 3, 14, 14, generator=random)
    patch = torch.randn(1, 3, 14, 14, generator=random)
    larger = torch.nn.functional.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    before = (kernel * patch).sum((1, 2, 3))
    after = (resample_kernel(kernel, 16) * larger).sum((1, 2, 3))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert resample_kernel(kernel, 14) is kernel


def test_resampled_positions_keep_their_place() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    positions = torch.stack((rows, columns), -1).flatten(0, 1) + 0.5
    found = resample_positions(positions, 12).unflatten(0, (12, 12))[3:9, 3:9]
    expected = (torch.arange(3.0, 9) + 0.5) / 2
    torch.testing.assert_close(found[..., 0], expected[:, None].expand(6, 6), rtol=0, atol=0.05)
    torch.testing.assert_close(found[..., 1], expected[None].expand(6, 6), rtol=0, atol=0.05)
