"""What every test may ask for: the shared data, a tiny model, and a deterministic hypothesis."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tests.objective.scene import ARCHITECTURE

from harness.weights import measure_statistics, named_weights
from panodetr.checkpoints.published import plain_category
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.export.export import export
from panodetr.images.preprocess import Preprocessing, normalize
from panodetr.model.config import DetrConfig, EomtConfig, VitConfig
from panodetr.model.detr import Detr
from panodetr.model.eomt import Eomt
from panodetr.results.types import Category
from panodetr.runtimes.base import Runtime
from panodetr.runtimes.torch import TorchRuntime

# The same examples in every run: a red test is red again when it is run alone. No deadline, because
# the first call into torch is slow and the machines differ.
settings.register_profile(
    "panodetr",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("panodetr")

PROJECT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")


@pytest.fixture
def one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share batches among the cores, on machines of several, too."""
    monkeypatch.setattr(TorchRuntime, "streams", Runtime.streams)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and golden outputs, described in its own README.md."""
    folder = Path(os.environ.get("PANODETR_DATA", PROJECT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PANODETR_DATA to the folder that holds nuclei/")
    return folder


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    """The outputs of the original implementation."""
    return shared_data / "golden"


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """A whole DETR with masks, of about half a million weights."""
    return make_tiny_spec()


def make_tiny_spec() -> ModelSpec:
    """Describe the model of the fixture."""
    return ModelSpec(
        name="tiny",
        architecture=replace(
            ARCHITECTURE, num_classes=3, num_queries=5, decoder_layers=1, dropout=0.1
        ),
        categories=(
            Category(index=0, id=7, name="nucleus", is_thing=True, color=(220, 20, 60)),
            Category(index=2, id=9, name="background", is_thing=False, color=(0, 0, 0)),
        ),
        preprocessing=Preprocessing(short_side=None, long_side=None, tile=64, tile_overlap=16),
        threshold=0.5,
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model, with random weights whose queries differ."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    save_checkpoint(folder, tiny_spec, telling_model(tiny_spec).state_dict())
    return folder


@torch.no_grad()
def telling_model(spec: ModelSpec) -> Detr:
    """A model of 128 channels whose queries answer noise with several classes and masks.

    Fresh weights give every query nearly the same box, class and mask, and answers of two runtimes
    would agree whatever they did with queries.
    """
    config = spec.architecture
    assert isinstance(config, DetrConfig)
    weights = named_weights(
        replace(config, backbone=replace(config.backbone, norm="frozen"))
    )  # no counters of batches, which the original does not have
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rule = spec.preprocessing
    pixels = torch.from_numpy(normalize(noise, rule.mean, rule.std))[None]
    measure_statistics(config, weights, pixels)
    model = Detr(config).eval()
    model.load_state_dict(weights, strict=False)
    assert model.attention_maps is not None
    assert model.mask_head is not None
    # As they are, rounding grows to what two runtimes may differ by.
    for name, parameter in model.backbone.named_parameters():
        parameter *= 0.3 if "norm2" in name else 1
    model.attention_maps.query.weight *= 0.3
    # Masks follow where queries look, more than what lies there.
    model.mask_head.convs[0].get_parameter("weight")[:, config.hidden_dim :] *= 3000
    for parameter in model.mask_head.adapters.parameters():
        parameter *= 0.1
    # Classes are those that a query leans to more than the others do; "no object" is none's.
    model.class_head.weight *= 3
    model.class_head.bias.sub_(model.detect(pixels).logits[0].mean(dim=0))
    model.class_head.bias[-1] -= 5
    return model


@torch.no_grad()
def make_eomt() -> tuple[ModelSpec, Eomt]:
    """Make the model of the fixture."""
    shape = EomtConfig(
        backbone=VitConfig(hidden_dim=48, heads=4, layers=4, grid=4), num_classes=4, num_queries=12,
        query_blocks=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Eomt(shape).eval()
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    model.class_head.bias[-1] -= 3
    spec = ModelSpec(
        name="eomt",
        architecture=shape,
        categories=tuple(
            replace(plain_category(n, name), is_thing=n < 2) for n, name in enumerate("abcd")
        ),
        preprocessing=Preprocessing(short_side=64, long_side=64, multiple=64),
        threshold=0.3,
        overlap=0.05,
    )
    return spec, model


@pytest.fixture(scope="session")
def eomt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small EoMT whose queries differ; its images are squares of 64 pixels."""
    folder = tmp_path_factory.mktemp("eomt") / "eomt"
    spec, model = make_eomt()
    save_checkpoint(folder, spec, model.state_dict())
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tiny_folder: Path) -> Path:
    """The same, exported: once for all tests, for it takes some ten seconds."""
    file = tiny_folder.with_name("tiny.onnx.zip")
    export(tiny_folder, file, format="onnx")
    return file


@pytest.fixture(scope="session")
def tiny_openvino(tiny_folder: Path) -> Path:
    """The same for OpenVINO."""
    file = tiny_folder.with_name("tiny.openvino.zip")
    export(tiny_folder, file, format="openvino")
    return file


@pytest.fixture
def interruptible() -> Generator[None, None, None]:
    """Let Ctrl-C reach the program also where a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
