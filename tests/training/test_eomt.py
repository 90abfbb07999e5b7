"""Training of EoMT: recipes, rates, resuming, and learning by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import PaperAugmentation
from panodetr.data.dataset import Dataset
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import Sample
from panodetr.errors import UsageError
from panodetr.evaluation.panoptic_quality import PanopticQuality
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import EomtConfig, VitConfig
from panodetr.model.eomt import Eomt
from panodetr.objective.config import CriterionConfig
from panodetr.training.config import TrainConfig
from panodetr.training.optimizer import freeze, learning_rate_factor, make_optimizer
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.start import make_model
from panodetr.training.step import collate_step, read_steps
from panodetr.training.validate import make_predictor

from .conftest import Recording, Runner, assert_identical, weights, write_discs

SIDE = 128


@pytest.fixture
def eomt_run(discs: Dataset) -> TrainConfig:
    """Six steps of everything that an EoMT's training has."""
    shape = EomtConfig(
        backbone=VitConfig(hidden_dim=96, heads=3, layers=4, ffn_ratio=2, grid=SIDE // 16),
        num_classes=2, num_queries=10, query_blocks=2,
    )  # fmt: skip
    return TrainConfig(
        spec=ModelSpec(
            name="discs",
            architecture=shape,
            categories=discs.categories,
            preprocessing=Preprocessing(short_side=SIDE, long_side=SIDE, multiple=SIDE),
            threshold=0.8,
            overlap=0.8,
        ),
        augmentation=PaperAugmentation(
            short_sides=(SIDE,), long_side=SIDE, crop=0, flip=False, least_jitter=0.5
        ),
        criterion=CriterionConfig(label=2.0, mask=5.0, dice=5.0, points=512),
        steps=6,
        batch_size=2,
        learning_rate=1e-3,
        backbone_learning_rate=1e-3,
        layer_decay=0.8,
        weight_decay=0.05,
        poly=0.9,
        warmup=1,
        backbone_warmup=1,
        log_every=2,
        save_every=3,
    )


class StopsAfterFour(Recording):
    def stepped(self, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_is_bit_exact(eomt_run: TrainConfig, run: Runner) -> None:
    config = replace(eomt_run, ema=0.9)
    straight, _ = run(config, "straight")
    with pytest.raises(KeyboardInterrupt):
        run(config, "stopped", StopsAfterFour())
    torch.manual_seed(99)
    resumed, told = run(config, "stopped")
    assert [line.step for line in told.lines] == [4, 6]
    assert_identical(weights(resumed), weights(straight))


def test_batches_are_squares_with_black_beside_the_image(
    eomt_run: TrainConfig, discs: Dataset
) -> None:
    (batch,) = collate_step(eomt_run, discs, next(read_steps(eomt_run, discs)))
    assert batch.pixels.shape == (2, 3, SIDE, SIDE)
    assert batch.padding is not None
    black = -Tensor(eomt_run.spec.preprocessing.mean) / Tensor(eomt_run.spec.preprocessing.std)
    beside = batch.pixels.permute(0, 2, 3, 1)[batch.padding]
    torch.testing.assert_close(beside, black.expand_as(beside))
    whole = replace(eomt_run, augmentation=replace(eomt_run.augmentation, least_jitter=1.0))
    assert collate_step(whole, discs, next(read_steps(whole, discs)))[0].padding is None


def test_each_block_has_a_rate_of_its_own(eomt_run: TrainConfig) -> None:
    model = Eomt(eomt_run.spec.architecture)  # pyright: ignore[reportArgumentType]
    optimizer = make_optimizer(model, torch.nn.Identity(), eomt_run)
    rates = {id(p): g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        depth = 0
        if name.startswith("backbone.blocks."):
            depth = 3 - int(name.split(".")[2])
        elif name.startswith("backbone.") and not name.startswith("backbone.norm"):
            depth = 3
        assert rates.pop(id(parameter)) == pytest.approx(1e-3 * 0.8**depth), name
    assert not rates


def test_the_backbone_warms_up_after_the_heads_and_both_fall_as_a_power(
    eomt_run: TrainConfig,
) -> None:
    config = replace(eomt_run, steps=103, warmup=1, backbone_warmup=2)
    heads = [learning_rate_factor(step, config) for step in range(104)]
    backbone = [learning_rate_factor(step, config, backbone=True) for step in range(104)]
    assert heads[:2] == [0.5, 1]
    assert heads[52] == pytest.approx(0.5**0.9)
    assert backbone[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert backbone[53] == pytest.approx(0.5**0.9)
    assert heads[103] == backbone[103] == 0


@pytest.mark.parametrize("stages", [0, 2, 4])
def test_frozen_stages_are_quarters_of_the_blocks(eomt_run: TrainConfig, stages: int) -> None:
    model = Eomt(eomt_run.spec.architecture)  # pyright: ignore[reportArgumentType]
    freeze(model, replace(eomt_run, frozen_stages=stages))
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("queries") for name in learned)
    blocks = {name.split(".")[2] for name in learned if name.startswith("backbone.blocks")}
    assert blocks == {str(number) for number in range(stages, 4)}
    assert ("backbone.positions" in learned) == (stages == 0)
    assert ("backbone.norm.weight" in learned) == (stages < 4)


def test_what_only_a_detr_has_is_refused(eomt_run: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"token_weight is 3\.0; expected 0\.0 where an EoMT"):
        replace(eomt_run, token_weight=3.0)


def test_the_papers_recipe_is_the_papers(discs: Dataset) -> None:
    data = RecipeData(categories=discs.categories, images=118_287, masks=True)
    config = configure("eomt-coco-panoptic", data)
    assert config.steps == 88_715
    shape = config.spec.architecture
    assert isinstance(shape, EomtConfig)
    assert (shape.backbone.layers, shape.query_blocks, shape.backbone.grid) == (24, 4, 40)
    assert config.backbone_weights == "facebook/dinov2-with-registers-large"
    values = {
        "learning_rate": 1e-4, "backbone_learning_rate": 1e-4, "layer_decay": 0.8, "poly": 0.9,
        "weight_decay": 0.05, "warmup": 500, "backbone_warmup": 1000, "clip": 0.01,
        "batch_size": 16, "masked_attention": True,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in values} == values
    assert config.criterion == CriterionConfig(
        label=2.0, mask=5.0, dice=5.0, no_object=0.1, points=12_544, oversample=3.0, importance=0.75
    )
    assert configure("eomt-coco-panoptic", data, ["size=small"]).steps == 2 * 88_715
    with pytest.raises(UsageError, match="learns masks, and the data has boxes only"):
        configure("eomt-coco-panoptic", replace(data, masks=False))


def test_finetuning_goes_on_from_an_eomt_of_another_size(
    eomt_run: TrainConfig, discs: Dataset, tmp_path: Path
) -> None:
    shape = eomt_run.spec.architecture
    assert isinstance(shape, EomtConfig)
    old = replace(
        eomt_run.spec, architecture=replace(shape, backbone=replace(shape.backbone, grid=5))
    )
    torch.manual_seed(3)
    trained = Eomt(old.architecture)  # pyright: ignore[reportArgumentType]
    save_checkpoint(tmp_path / "old", old, trained.state_dict())
    data = RecipeData(categories=discs.categories, images=4, masks=True)
    start = f"start={tmp_path / 'old'}"
    config = configure("finetune", data, [start, "spec.architecture.backbone.grid=8"])
    assert not config.masked_attention
    assert (config.spec.threshold, config.spec.overlap) == (0.8, 0.8)
    model, notes = make_model(config)
    assert notes == [f"from {tmp_path / 'old'}"]
    assert torch.equal(model.class_head.weight, trained.class_head.weight)
    assert torch.equal(model.queries.weight, trained.queries.weight)
    frozen = configure("finetune", data, [start, "frozen_stages=4"])
    assert frozen.frozen_stages == 4


@pytest.mark.parity
def test_finetuning_goes_on_from_a_dinov2(discs: Dataset, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            hidden_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14
        )
    ).save_pretrained(tmp_path)
    data = RecipeData(categories=discs.categories, images=4, masks=True)
    config = configure("finetune", data, [f"start={tmp_path}"])
    assert config.masked_attention
    model, notes = make_model(config)
    assert isinstance(model, Eomt)
    assert notes[0] == f"from {tmp_path}"
    assert any(note.startswith("class_head: 0 of 2 classes copied by name") for note in notes)


@pytest.mark.slow
def test_four_images_can_be_learned_by_heart_and_be_seen_in_their_own_shape(
    eomt_run: TrainConfig, accelerator: Accelerator, tmp_path: Path
) -> None:
    data = write_discs(tmp_path / "four", 4, height=96)
    config = replace(
        eomt_run,
        augmentation=replace(eomt_run.augmentation, least_jitter=1.0),
        steps=500,
        batch_size=4,
        layer_decay=1.0,
        clip=0.1,
        warmup=20,
        backbone_warmup=0,
        log_every=50,
        save_every=1000,
    )
    state, _ = Runner(data, accelerator, tmp_path)(config, "run")
    predictor = make_predictor(state.kept_model, config.spec)
    rule = config.spec.preprocessing
    found: list[float] = []
    for multiple in (SIDE, 16):  # on the square that it learned, and with positions interpolated
        seeing = predictor.with_rule(replace(rule, multiple=multiple))
        quality = PanopticQuality(data.categories)
        results = seeing.segment([sample.path for sample in data.samples])
        for sample, result in zip(data.samples, results, strict=True):
            assert isinstance(sample, Sample)
            quality.update(read_ids(sample), sample.segments, result.segment_ids, result.segments)
        figures = quality.compute()
        assert figures.things.rq > 0.95, (multiple, figures)
        assert figures.things.pq > 0.8, (multiple, figures)
        assert figures.stuff.pq > 0.8, (multiple, figures)
        found.append(figures.things.pq)
    assert found[1] > found[0] - 0.05, found
