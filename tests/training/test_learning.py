from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from panodetr.data.augment import CropAugmentation
from panodetr.data.dataset import Dataset
from panodetr.data.formats.coco_panoptic import PanopticData, read_ids
from panodetr.evaluation.panoptic_quality import PanopticQuality
from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Observer
from panodetr.training.loop import begin, train
from panodetr.training.validate import make_predictor

CPU = torch.device("cpu")


@pytest.fixture
def learning_run(tiny_run: TrainConfig) -> TrainConfig:
    """Some hundred steps on whole images, unchanged but for their order."""
    architecture = DetrConfig(
        backbone=ResNetConfig(
            block="basic",
            depths=(1, 1, 1, 1),
            widths=(16, 32, 64, 64),
            strides=(1, 2, 2, 1),
            stem_width=16,
            stem_pool=False,
            norm="batch",
        ),
        num_classes=2,
        num_queries=8,
        hidden_dim=128,
        ffn_dim=256,
        encoder_layers=1,
        decoder_layers=2,
        dropout=0.0,
        position_input=True,
        masks=True,
    )
    return replace(
        tiny_run,
        spec=replace(tiny_run.spec, architecture=architecture, threshold=0.5),
        augmentation=CropAugmentation(size=64, flip=False),
        steps=500,
        batch_size=4,
        learning_rate=1e-3,
        backbone_learning_rate=1e-3,
        warmup=20,
        decay=200,
        mask_start=100,
        mask_objects=16,
        query_groups=2,
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
def test_four_images_can_be_learned_by_heart(
    learning_run: TrainConfig, discs: Dataset, accelerator: Accelerator, tmp_path: Path
) -> None:
    folder, silence = RunFolder(tmp_path / "run"), Observer()
    state = begin(learning_run, folder, accelerator=accelerator, observer=silence, resume=False)
    train(state, learning_run, discs, None, folder, accelerator=accelerator, observer=silence)
    predictor = make_predictor(state.kept_model, learning_run.spec, CPU)
    truth = PanopticData.open(discs.folder, discs.split)
    quality = PanopticQuality(truth.categories)
    results = predictor.segment([sample.path for sample in truth.samples])
    for sample, result in zip(truth.samples, results, strict=True):
        quality.update(read_ids(sample), sample.segments, result.segment_ids, result.segments)
    figures = quality.compute()
    assert figures.things.rq > 0.95, figures
    assert figures.things.pq > 0.8, figures
    assert figures.stuff.pq > 0.8, figures
