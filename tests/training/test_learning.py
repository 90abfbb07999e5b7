from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tests.shapes import detr_shape

from panodetr.data.augment import CropAugmentation
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.training.config import TrainConfig
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.validate import scalars, validate

from .conftest import Runner, write_discs


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
@pytest.mark.parametrize(("images", "tuned"), [(2, False), (4, True)])
def test_a_few_images_can_be_learned_by_heart(
    learning_run: TrainConfig, accelerator: Accelerator, tmp_path: Path, images: int, tuned: bool
) -> None:
    data, config = write_discs(tmp_path / "few", images), learning_run
    if tuned:  # from the bundled model, which knows no discs
        known = RecipeData(categories=data.categories, images=images, masks=True)
        asked = ("start=nuclei", "batch_size=4", "augmentation.flip=false", "steps=80", "decay=30")
        config = configure("finetune", known, [*asked, "warmup=10", "ema=0.9", "validate_every=0"])
    state, _ = Runner(data, accelerator, tmp_path)(config, "run")
    truth = GroundTruth.open(data.folder, "train")
    found = validate(
        state.kept_model, config.spec, truth, step=0, accelerator=accelerator,
        progress=lambda done, images: None,
    ).metrics  # fmt: skip
    figures = scalars(found)
    assert figures["rq_things"] > 0.95, figures
    assert figures["pq_things"] > 0.8, figures
    assert figures["pq_stuff"] > 0.8, figures
