from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tests.shapes import detr_shape

from panodetr.data.augment import CropAugmentation
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import Sample
from panodetr.evaluation.panoptic_quality import PanopticQuality
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Observer
from panodetr.training.loop import Trainer
from panodetr.training.start import make_state
from panodetr.training.validate import make_predictor

from .conftest import write_discs

CPU = torch.device("cpu")


@pytest.fixture
def learning_run(tiny_run: TrainConfig) -> TrainConfig:
    """Some hundred steps on whole images, unchanged but for their order."""
    shape = detr_shape(tiny_run.spec.architecture)
    backbone = replace(
        shape.backbone, widths=(16, 32, 64, 64), strides=(1, 2, 2, 1), stem_width=16,
        stem_pool=False, norm="batch",
    )  # fmt: skip
    shape = replace(
        shape, backbone=backbone, num_queries=8, hidden_dim=128, ffn_dim=256, encoder_layers=1,
        decoder_layers=2, dropout=0.0, position_input=True,
    )  # fmt: skip
    return replace(
        tiny_run,
        spec=replace(tiny_run.spec, architecture=shape, threshold=0.5),
        augmentation=CropAugmentation(size=64, flip=False),
        sampling="epochs",
        steps=250,
        backbone_learning_rate=1e-3,
        warmup=20,
        decay=100,
        mask_start=50,
        mask_objects=16,
        query_groups=1,
        log_every=50,
        save_every=1000,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is tiny: on a busy machine several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_images_can_be_learned_by_heart(
    learning_run: TrainConfig, accelerator: Accelerator, tmp_path: Path
) -> None:
    data = write_discs(tmp_path / "two", 2)
    state = make_state(learning_run, CPU, print)
    folder = RunFolder(tmp_path / "run")
    Trainer(state, learning_run, data, None, folder, accelerator, Observer()).train()
    predictor = make_predictor(state.kept_model, learning_run.spec)
    quality = PanopticQuality(data.categories)
    results = predictor.segment([sample.path for sample in data.samples])
    for sample, result in zip(data.samples, results, strict=True):
        assert isinstance(sample, Sample)
        quality.update(read_ids(sample), sample.segments, result.segment_ids, result.segments)
    figures = quality.compute()
    assert figures.things.rq > 0.95, figures
    assert figures.things.pq > 0.8, figures
    assert figures.stuff.pq > 0.8, figures
