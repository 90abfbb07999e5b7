from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.checkpoints.weights import open_weights
from panodetr.errors import CheckpointError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.results.types import Category

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = open_weights(folder / "model.safetensors")
    return {key: weights.read(tensor) for key, tensor in weights.tensors.items()}


@pytest.fixture
def folder(tmp_path: Path, tiny_spec: ModelSpec) -> Path:
    save_checkpoint(tmp_path / "model", tiny_spec, WEIGHTS)
    return tmp_path / "model"


def edit(folder: Path, place: str, value: object) -> None:
    """Set the value at a place such as "categories.1.id"; `...` takes it out."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    *above, last = (int(key) if key.isdigit() else key for key in place.split("."))
    inner = config
    for key in above:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    file.write_text(json.dumps(config))


sides = st.none() | st.integers(1, 2000)
colors = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    widths = st.integers(1, 64).map(lambda w: 8 * w)
    backbone = ResNetConfig(
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        depths=draw(st.tuples(*[st.integers(1, 30)] * 4)),
        widths=draw(st.tuples(*[widths] * 4)),
        strides=draw(st.tuples(*[st.integers(1, 2)] * 4)),
        stem_width=draw(widths),
        stem_pool=draw(st.booleans()),
        norm=draw(st.sampled_from(["frozen", "batch", "group"])),
    )
    indices = sorted(draw(st.sets(st.integers(0, 300), min_size=1, max_size=8)))
    ids = draw(st.permutations(range(len(indices))))
    return ModelSpec(
        name=draw(st.text(min_size=1)),
        architecture=DetrConfig(
            backbone=backbone,
            num_classes=indices[-1] + draw(st.integers(1, 3)),
            dropout=draw(st.floats(0, 0.99)),
            positions=draw(st.sampled_from(["sine", "learned"])),
        ),
        categories=tuple(
            Category(
                index=index,
                id=id_,
                name=draw(st.text()),
                is_thing=draw(st.booleans()),
                color=draw(colors),
            )
            for index, id_ in zip(indices, ids, strict=True)
        ),
        preprocessing=Preprocessing(short_side=draw(sides), long_side=draw(sides)),
        threshold=draw(st.floats(0, 1)),
    )


@given(specs())
def test_every_description_reads_back_as_it_was_written(tmp_path: Path, spec: ModelSpec) -> None:
    save_checkpoint(tmp_path / "model", spec, {})
    assert load_spec(tmp_path / "model") == spec


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=4))
def test_every_weight_reads_back_as_it_was_written(
    tmp_path: Path, tiny_spec: ModelSpec, shapes: list[tuple[int, int]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    tied = torch.ones(2, 3)
    state |= {"steps": torch.tensor(7), "a": tied, "b": tied, "c": tied.T}  # one memory
    save_checkpoint(tmp_path / "model", tiny_spec, state)
    read = read_weights(tmp_path / "model")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert read["steps"].dtype == torch.int64


def test_half_the_size_keeps_the_matrices_to_a_thousandth_and_the_vectors_exactly(
    tmp_path: Path, tiny_spec: ModelSpec
) -> None:
    state = {
        "weight": torch.rand(100, 100, generator=torch.Generator().manual_seed(0)) + 0.5,
        "running_var": torch.tensor([1e6, 1e-9]),  # out of float16's range
    }
    save_checkpoint(tmp_path / "whole", tiny_spec, state)
    save_checkpoint(tmp_path / "half", tiny_spec, state, dtype=torch.float16)
    whole, half = (tmp_path / name / "model.safetensors" for name in ("whole", "half"))
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    read = read_weights(tmp_path / "half")
    assert read["weight"].dtype == torch.float16
    torch.testing.assert_close(read["weight"].float(), state["weight"], rtol=1e-3, atol=0)
    assert torch.equal(read["running_var"], state["running_var"])


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_weights_that_are_not_finite_are_not_saved(
    folder: Path, tiny_spec: ModelSpec, value: float, dtype: torch.dtype
) -> None:
    with pytest.raises(CheckpointError, match=r"'head\.weight' is not finite as torch\.float"):
        save_checkpoint(folder, tiny_spec, {"head.weight": torch.full((2, 3), value)}, dtype=dtype)
    assert torch.equal(read_weights(folder)["head.weight"], WEIGHTS["head.weight"])


ENLARGED = {**dataclasses.asdict(Preprocessing()), "enlarge": 2}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format_version", 4, "format_version 4; expected 'panodetr' and 3; upgrade"),
        ("format_version", 2, "format_version 2; expected 'panodetr' and 3"),
        ("format_version", "3", "format_version '3'"),
        ("treshold", 1, "'treshold'; did you mean 'threshold'"),
        ("architecture.hidden_dims", 1, r"'architecture\.hidden_dims'; did you mean 'hidden_dim'"),
        ("preprocessing.zzz", 1, r"'preprocessing\.zzz'; known: short_side, long_side"),
        ("categories.1.nam", "a", r"'categories\[1\]\.nam'; did you mean 'name'"),
        ("categories", ..., "missing required field categories"),
        ("architecture.num_classes", ..., "architecture: object missing required field num_cla"),
        ("categories.1.name", ..., r"categories\[1\]: object missing required field name"),
        ("architecture.heads", "8", r"architecture\.heads: expected int, got str"),
        ("threshold", True, "threshold: expected float, got bool"),
        ("threshold", float("inf"), "is not valid JSON"),
        ("threshold", 10**400, "threshold: number out of range"),
        ("threshold", 1.5, "threshold: expected float <= 1"),
        ("class_thresholds", {"moon": 0.5}, "class_thresholds has 'moon', which is the name of no"),
        ("class_thresholds", {"nucleus": 2}, r"class_thresholds\[...\]: expected float <= 1"),
        ("architecture.masks", 1, r"architecture\.masks: expected bool, got int"),
        ("preprocessing.mean", [0.5], r"preprocessing\.mean: expected array of length 3, got 1"),
        ("architecture.backbone.depths", 2, r"backbone\.depths: expected array, got int"),
        ("architecture.positions", "cosine", r"positions: invalid enum value 'cosine'"),
        ("architecture", [], "architecture: expected object, got array"),
        ("categories", {}, "categories: expected array, got obj"),
        ("categories", [], "categories: expected array of length >= 1"),
        ("architecture.num_classes", 10**6, "num_classes: expected int <= 100000"),
        ("architecture.num_queries", 10**12, "num_queries: expected int <= 10000"),
        ("architecture.backbone.widths", [8, 8, 8, 2**40], r"widths\[3\]: expected int <= 8192"),
        ("categories.1.id", 2**31, r"categories\[1\]\.id: expected int <= 2147483647"),
        ("categories.1.id", 7, "two categories have the same id"),
        ("categories.1.index", 0, r"indices \[0, 0\]; expected rising"),
        ("categories.1.index", 3, "num_classes is 3, so expected 0 to 2"),
        ("categories.0.color", [0, 0, 256], r"categories\[0\]\.color\[2\]: expected int <= 255"),
        ("architecture.heads", 7, "must divide by heads"),
        ("architecture.backbone.dilate_last", True, "DC5"),
        ("preprocessing.tile_overlap", 64, "tile_overlap is 64"),
        ("preprocessing.enlarge", 0, r"preprocessing\.enlarge: expected float > 0"),
        ("preprocessing", ENLARGED, "enlarge is 2.0 and short_side 800; expected 1 where images"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(
    folder: Path, place: str, value: object, message: str
) -> None:
    edit(folder, place, value)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_spec(folder)
    assert str(caught.value).startswith(f"{folder / 'config.json'}: ")
    assert "\n" not in str(caught.value)
