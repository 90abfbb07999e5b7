from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.shapes import detr_shape

from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.published import bundled, coco_detection, coco_panoptic
from panodetr.data.augment import CropAugmentation, PaperAugmentation
from panodetr.errors import UsageError
from panodetr.model.config import RESNET101, DetrConfig
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig
from panodetr.training.notes import ObjectSizes
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.start import check_start

from .conftest import save_start


def numbered(categories: tuple[Category, ...]) -> tuple[Category, ...]:
    return tuple(replace(each, index=index) for index, each in enumerate(categories))


COCO = RecipeData(categories=numbered(coco_panoptic()), images=118_287, masks=True)
THINGS = RecipeData(categories=numbered(coco_detection()), images=118_287, masks=True)
OWN = RecipeData(
    categories=(
        Category(index=0, id=4, name="nut", is_thing=True, color=(255, 0, 0)),
        Category(index=1, id=9, name="bolt", is_thing=True, color=(0, 255, 0)),
    ),
    images=100,
    masks=True,
)


def assert_the_papers(config: TrainConfig) -> None:
    """Appendix A.4 of the paper, and the original's defaults."""
    criterion = config.criterion
    assert (config.learning_rate, config.backbone_learning_rate) == (1e-4, 1e-5)
    assert (config.weight_decay, config.clip, config.batch_size) == (1e-4, 0.1, 64)
    assert detr_shape(config.spec.architecture).dropout == 0.1
    assert config.frozen_stages == 1
    assert detr_shape(config.spec.architecture).backbone.norm == "frozen"
    assert (criterion.costs.label, criterion.costs.l1, criterion.costs.giou) == (1, 5, 2)
    assert (criterion.label, criterion.l1, criterion.giou) == (1, 5, 2)
    assert (criterion.focal, criterion.dice, criterion.no_object) == (1, 1, 0.1)
    assert config.augmentation == PaperAugmentation()
    assert config.sampling == "buckets"
    assert (config.warmup, config.decay, config.ema) == (0, 0, 0)
    assert config.grid_queries is False
    assert (config.token_weight, config.attention_weight) == (0, 0)


@pytest.mark.parametrize(
    ("name", "data", "classes", "masks", "epochs", "drop"),
    [
        ("coco-detection", THINGS, 91, False, 300, 200),
        ("coco-panoptic-boxes", COCO, 250, False, 300, 200),
        ("coco-panoptic-joint", COCO, 250, True, 300, 200),
        ("coco-panoptic-masks", COCO, 250, True, 25, 15),
    ],
)
def test_the_papers_recipes_have_the_published_numbers(
    name: str, data: RecipeData, classes: int, masks: bool, epochs: int, drop: int
) -> None:
    config = configure(name, data)
    assert_the_papers(config)
    assert config.spec.architecture == DetrConfig(num_classes=classes, masks=masks)
    assert config.steps == round(epochs * 118_287 / 64)
    assert config.drop == round(drop * 118_287 / 64)
    assert config.learned == ("masks" if name == "coco-panoptic-masks" else "all")
    assert [c.index for c in config.spec.categories] == [c.id for c in data.categories]
    with pytest.raises(UsageError):  # a random backbone
        check_start(config)


def test_steps_are_counted_in_epochs_whatever_the_batch() -> None:
    config = configure("coco-detection", THINGS, ["batch_size=8", "epochs=12", "validate_epochs=3"])
    assert config.batch_size == 8
    assert config.steps == round(12 * 118_287 / 8)
    assert config.drop == round(8 * 118_287 / 8)
    assert config.validate_every == round(3 * 118_287 / 8)
    assert configure("coco-detection", THINGS, ["validate_epochs=0"]).validate_every == 0
    assert configure("nuclei", OWN).validate_every == 2000  # it counts in steps


def test_fine_tuning_has_patience_for_half_its_validations() -> None:
    def config(*changes: str) -> tuple[int, int]:
        found = configure("finetune", OWN, ["start=nuclei", *changes])
        return found.validate_every, found.patience

    assert config() == (12 * 100 // 8, 5)  # ten validations in 120 epochs
    assert config("validate_epochs=1") == (100 // 8, 60)
    assert config("epochs=200") == (20 * 100 // 8, 5)
    assert config("validate_epochs=0") == (0, 0)
    assert config("patience=0") == (150, 0)


@pytest.mark.parametrize(
    ("median", "large", "tile"),
    [(23, 50, 128), (20, 60, 128), (70, 138, 384), (10, 30, 128), (70, 400, 800)],
)
def test_fine_tuning_chooses_tiles_by_the_objects(median: float, large: float, tile: int) -> None:
    objects = ObjectSizes(median=median, large=large, image=640)
    config = configure("finetune", replace(OWN, objects=objects), ["start=nuclei"])
    rule = config.spec.preprocessing
    assert rule.tile is not None
    assert rule.tile == pytest.approx(tile, abs=8)
    assert rule.tile * rule.enlarge == pytest.approx(192)
    assert rule.tile_overlap == round(rule.tile / 2)
    assert config.augmentation.size == 192  # pyright: ignore[reportAttributeAccessIssue]
    assert 0.98 < config.ema < 1
    whole = configure("finetune", replace(OWN, objects=objects), ["start=nuclei", "short_side=300"])
    assert whole.spec.preprocessing.tile is None


def test_a_detector_has_the_datas_classes_and_the_backbone_that_is_named() -> None:
    spec = configure("coco-detection", OWN).spec
    assert spec.categories == OWN.categories
    assert spec.architecture.num_classes == 2
    config = configure("coco-detection", THINGS, ["backbone=resnet101-dc5"])
    assert detr_shape(config.spec.architecture).backbone == replace(RESNET101, dilate_last=True)


def test_masks_want_data_with_masks() -> None:
    for name in ("coco-panoptic-masks", "coco-panoptic-joint"):
        with pytest.raises(UsageError, match="the data has boxes only"):
            configure(name, replace(COCO, masks=False))


def test_the_mask_stage_takes_on_what_it_starts_from(tiny_run: TrainConfig, tmp_path: Path) -> None:
    shape = replace(tiny_run.spec.architecture, masks=False, num_queries=9)
    start = save_start(tmp_path / "boxes", tiny_run.spec, architecture=shape)
    data = RecipeData(categories=tiny_run.spec.categories[:1], images=640, masks=True)
    config = configure("coco-panoptic-masks", data, [start])
    assert config.spec.architecture == replace(shape, masks=True)
    assert config.spec.categories == tiny_run.spec.categories
    assert config.start == str(tmp_path / "boxes")
    assert (config.steps, config.drop) == (250, 150)
    check_start(config)
    with pytest.raises(UsageError, match=r"does not have 2 of the data's classes \(nut, bolt\)"):
        configure("coco-panoptic-masks", OWN, [start])


def test_fine_tuning_keeps_the_network_and_takes_the_datas_classes() -> None:
    config = configure("finetune", OWN, ["start=nuclei", "spec.architecture.num_queries=20"])
    assert config.spec.categories == OWN.categories
    assert config.spec.architecture.num_classes == 2
    assert config.spec.architecture.num_queries == 20
    assert config.spec.preprocessing == load_spec(bundled()["nuclei"]).preprocessing
    assert isinstance(config.augmentation, CropAugmentation)
    assert config.augmentation.size == 192  # a tile of 128, enlarged
    assert config.sampling == "epochs"
    assert config.frozen_stages == 0  # its batch norms are live
    assert config.steps == 1500  # 50 epochs would be fewer
    whole = configure("finetune", OWN, ["start=nuclei", "short_side=160"])
    rule = whole.spec.preprocessing
    assert (rule.short_side, rule.long_side, rule.tile) == (160, 267, None)
    assert isinstance(whole.augmentation, PaperAugmentation)
    assert whole.sampling == "buckets"
    assert (whole.augmentation.short_sides[-1], whole.augmentation.least_crop) == (160, 77)
    for side in (1, 2, 3, 8):  # images may be as small as one likes
        small = configure("finetune", OWN, ["start=nuclei", f"short_side={side}"]).augmentation
        assert isinstance(small, PaperAugmentation)
        assert small.short_sides[-1] == side
        assert min(small.crop_short_sides) >= 1
    boxes = configure("finetune", replace(OWN, masks=False), ["start=nuclei"])
    assert not boxes.spec.architecture.masks
    with pytest.raises(UsageError, match="name one: --set start=CHECKPOINT"):
        configure("finetune", OWN)


def test_things_are_of_one_piece_where_the_trained_model_knows_them() -> None:
    made = load_spec(bundled()["nuclei"])
    nuclei = RecipeData(categories=made.categories, images=100, masks=True)
    assert configure("finetune", nuclei, ["start=nuclei"]).spec.single_component
    assert not configure("finetune", OWN, ["start=nuclei"]).spec.single_component
    own = ["start=nuclei", "spec.single_component=true"]
    assert configure("finetune", OWN, own).spec.single_component


def test_fine_tuning_a_model_of_the_paper_keeps_its_sizes_and_rates(
    tiny_run: TrainConfig, tmp_path: Path
) -> None:
    backbone = replace(detr_shape(tiny_run.spec.architecture).backbone, norm="frozen")
    shape = replace(tiny_run.spec.architecture, backbone=backbone)
    rule = replace(tiny_run.spec.preprocessing, short_side=400, long_side=600)
    spec = replace(tiny_run.spec, architecture=shape, preprocessing=rule)
    config = configure("finetune", OWN, [save_start(tmp_path / "model", spec)])
    assert isinstance(config.augmentation, PaperAugmentation)
    assert (config.augmentation.short_sides[-1], config.augmentation.long_side) == (400, 600)
    assert config.frozen_stages == 1
    assert config.backbone_learning_rate == 1e-5


def test_the_bundled_models_recipe_is_the_one_it_was_made_with() -> None:
    data = RecipeData(categories=OWN.categories[:1], images=475, masks=True)
    made = load_spec(bundled()["nuclei"])
    config = configure("nuclei-larger-tiles", data, ["start=nuclei"])
    assert replace(config.spec.architecture, num_classes=made.architecture.num_classes) == (
        made.architecture
    )
    assert config.spec.preprocessing == made.preprocessing
    assert (config.spec.threshold, config.spec.duplicate_iou, config.spec.single_component) == (
        made.threshold, made.duplicate_iou, made.single_component
    )  # fmt: skip
    check_start(config)


def test_the_second_stage_sees_larger_tiles_with_more_queries() -> None:
    data = RecipeData(categories=OWN.categories[:1], images=475, masks=True)
    first = configure("nuclei", data).spec
    config = configure("nuclei-larger-tiles", data, ["start=nuclei"])
    rule = config.spec.preprocessing
    assert rule == replace(first.preprocessing, tile=128)
    assert config.spec.architecture == replace(first.architecture, num_queries=90)
    assert config.start == "nuclei"
    assert isinstance(config.augmentation, CropAugmentation)
    assert config.augmentation.size == 192  # a tile of 128, enlarged
    with pytest.raises(UsageError, match="name it: --set start=CHECKPOINT"):
        configure("nuclei-larger-tiles", data)
