"""What every test may ask for: the shared data, a tiny model, and a deterministic hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from panodetr.checkpoints.native import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.export.run import export
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.model.detr import Detr
from panodetr.results.types import Category

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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and golden outputs, described in its own README.md."""
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
    backbone = ResNetConfig(
        block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8, norm="batch"
    )
    return ModelSpec(
        name="tiny",
        architecture=DetrConfig(
            backbone=backbone,
            num_classes=3,
            num_queries=5,
            hidden_dim=128,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=1,
            masks=True,
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
    """A checkpoint of the tiny model, with random weights."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder, tiny_spec, Detr(tiny_spec.architecture).state_dict())
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
