"""Recipes: named functions from the data to a full configuration of training.

A recipe counts in epochs, a configuration in steps. So what steps follow from, such as the size of
a batch, is an argument of the recipe, which `configure` hands on before it changes fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_type_hints

from panodetr.checkpoints.eomt import OVERLAP, SCORE
from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.published import coco_panoptic
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import Augmentation, CropAugmentation, PaperAugmentation
from panodetr.errors import UsageError, did_you_mean, preview
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import (
    COCO_CLASSES,
    COCO_PANOPTIC_CLASSES,
    RESNET50,
    RESNET101,
    DetrConfig,
    EomtConfig,
    ResNetConfig,
    detr_small,
    eomt,
)
from panodetr.objective.config import EOMT_CRITERION, CriterionConfig
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig, override, parse_value, split_change
from panodetr.training.notes import ObjectSizes
from panodetr.validation import Count, Positive


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """What a recipe needs to know about the data.

    Attributes:
        categories: all classes, numbered from 0.
        images: in the split that is learned from.
        masks: whether every object has a mask.
        start: what the checkpoint to start from says of itself; None lets `configure` ask it.
        objects: how large they are; None where nobody has measured.
    """

    categories: tuple[Category, ...]
    images: int
    masks: bool
    start: ModelSpec | None = None
    objects: ObjectSizes | None = None


LEAST_STEPS = 1500
"""Of `finetune`, which 50 epochs of a few images are not."""

SEEN_SIDE = 35
"""The longer side of an object, in pixels of the model's input, that tiles are chosen for: the
median of the bundled model's nuclei."""

Recipe: TypeAlias = Callable[..., TrainConfig]
"""A function from the data, and from what its signature says besides, to a configuration."""


def _detection_recipe(name: str, summary: str, *, masks: bool = False) -> Recipe:
    """A recipe of the paper that trains a whole DETR."""

    def make(
        data: RecipeData,
        *,
        epochs: Positive = 300,
        validate_epochs: Count = 10,
        batch_size: Positive = 64,
        backbone: str = "resnet50",
    ) -> TrainConfig:
        spec = _detector(name, data, backbone, masks=masks)
        return _paper(spec, data, epochs, validate_epochs, batch_size)

    make.__doc__ = summary
    return make


def coco_panoptic_masks(
    data: RecipeData,
    *,
    start: str | None = None,
    epochs: Positive = 25,
    validate_epochs: Count = 5,
    batch_size: Positive = 64,
) -> TrainConfig:
    """The paper's panoptic stage 2: the mask head alone, on a frozen stage 1 (`start`)."""
    spec = _detector("coco-panoptic-masks", data, "resnet50", masks=True)
    if start is not None:  # without, the run is refused later; a look at the recipe needs none
        trained = data.start
        assert trained is not None
        known = {(category.id, category.name) for category in trained.categories}
        unknown = [c.name for c in data.categories if (c.id, c.name) not in known]
        if unknown:
            raise UsageError(
                f"{start} does not have {len(unknown)} of the data's classes ({preview(unknown)}) "
                "under their ids, and stage 2 learns no classes; use finetune"
            )
        shape = replace(trained.architecture, masks=True)
        spec = replace(trained, name="coco-panoptic-masks", architecture=shape)
    return replace(
        _paper(spec, data, epochs, validate_epochs, batch_size),
        start=start,
        learned="masks",
        drop=_steps(data, epochs * 3 / 5, batch_size),
    )


def eomt_coco_panoptic(
    data: RecipeData,
    *,
    size: Literal["small", "base", "large", "giant"] = "large",
    epochs: Positive | None = None,
    validate_epochs: Count = 2,
    batch_size: Positive = 16,
    side: Positive = 640,
) -> TrainConfig:
    """EoMT of its paper (COCO PQ 56.0 at `size` large), from DINOv2, on any data with masks.

    There are 24 epochs of the small and base sizes, and 12 of the others.
    """
    if not data.masks:
        raise UsageError("eomt-coco-panoptic learns masks, and the data has boxes only")
    shape = eomt(size, len(data.categories))
    patches = max(1, side // shape.backbone.patch)
    spec = ModelSpec(
        name="eomt-coco-panoptic",
        architecture=replace(shape, backbone=replace(shape.backbone, grid=patches)),
        categories=data.categories,
        preprocessing=Preprocessing(short_side=side, long_side=side, multiple=side),
        threshold=SCORE,
        overlap=OVERLAP,
    )
    epochs = epochs or (24 if size in ("small", "base") else 12)
    steps = _steps(data, epochs, batch_size)
    return replace(
        _eomt(spec, data, steps, batch_size, validate_epochs),
        backbone_weights=f"facebook/dinov2-with-registers-{size}",
        warmup=min(500, steps // 10),
        backbone_warmup=min(1000, steps // 10),
        save_every=_steps(data, 1, batch_size),
        workers=4,
    )


def _eomt(
    spec: ModelSpec, data: RecipeData, steps: int, batch_size: int, validate_epochs: int
) -> TrainConfig:
    """What all runs of an EoMT have in common: the settings of its paper."""
    side = spec.preprocessing.long_side or 640
    return TrainConfig(
        spec=spec,
        augmentation=PaperAugmentation(long_side=side, least_jitter=0.1, most_jitter=2.0),
        criterion=EOMT_CRITERION,
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-4,
        backbone_learning_rate=1e-4,
        layer_decay=0.8,
        weight_decay=0.05,
        clip=0.01,
        poly=0.9,
        validate_every=_steps(data, validate_epochs, batch_size),
    )


def finetune(
    data: RecipeData,
    *,
    start: str | None = None,
    epochs: Positive | None = None,
    validate_epochs: Count | None = None,
    batch_size: Positive | None = None,
    short_side: Positive | None = None,
    class_map: dict[str, str] | None = None,
) -> TrainConfig:
    """Any checkpoint (`start`) on your own images and classes: a short run at the paper's rates.

    A model of tiles sees objects as large as those that it has learned, and whole in a tile: the
    data's objects decide tiles and scale. Other images are seen as the checkpoint's were, or all
    are whole and resized to `short_side`. There are 50 epochs, or more where that would be few
    steps, and ten validations. The run ends early once half of them in a row have brought nothing
    better. Fewer would end runs that got better in their first quarter before the last one, in
    which the learning rate falls, and with it most of what is left of the loss. What is validated
    and kept is a moving average of the weights.
    """
    if start is None:
        raise UsageError(
            "finetune goes on from a trained model; name one: --set start=CHECKPOINT (a bundled "
            "model, a folder, a file or a hub id, such as facebook/detr-resnet-50-panoptic)"
        )
    trained = data.start
    assert trained is not None
    rule, old = trained.preprocessing, trained.architecture
    in_tiles = rule.tile is not None and short_side is None
    batch_size = batch_size or (8 if in_tiles else 4)
    epochs = epochs or max(50, -(-LEAST_STEPS * batch_size // data.images))
    if validate_epochs is None:
        validate_epochs = max(1, epochs // 10)
    steps = _steps(data, epochs, batch_size)
    spec = replace(
        trained,
        name="finetune",
        architecture=replace(old, num_classes=len(data.categories)),
        categories=data.categories,
    )
    common: dict[str, Any] = {
        "start": start,
        "class_map": class_map or {},
        "warmup": min(100, steps // 10),
        "patience": max(1, round(epochs / validate_epochs / 2)) if validate_epochs else 0,
    }
    if isinstance(old, EomtConfig):
        if not data.masks:
            raise UsageError(f"{start} finds masks alone, and the data has boxes only")
        return replace(
            _eomt(spec, data, steps, batch_size, validate_epochs),
            masked_attention=trained.is_backbone,  # at first, of queries that are new
            backbone_warmup=common["warmup"],
            **common,
        )
    assert isinstance(old, DetrConfig)
    if in_tiles and data.objects is not None:
        rule = fit_tiles(rule, data.objects)
    if short_side is not None:
        whole = replace(rule, enlarge=1.0, tile=None, tile_overlap=0)
        rule = replace(whole, short_side=short_side, long_side=round(short_side * 1333 / 800))
    augmentation, live = _augmentation_for(rule), old.backbone.norm == "batch"
    known = {category.name for category in trained.categories}
    things = {common["class_map"].get(c.name, c.name) for c in data.categories if c.is_thing}
    return TrainConfig(
        spec=replace(
            spec,
            architecture=replace(
                old,
                num_classes=len(data.categories),
                masks=old.masks and data.masks,
                sigmoid=False,
            ),
            preprocessing=rule,
            # What is true of nuclei need not be of people.
            single_component=trained.single_component and things <= known,
        ),
        augmentation=augmentation,
        # Whole images have many shapes, and all of a batch are padded to the largest.
        sampling="buckets" if isinstance(augmentation, PaperAugmentation) else "epochs",
        # A backbone with live norms was trained from random weights, at the rate of the rest.
        frozen_stages=0 if live else 1,
        steps=steps,
        batch_size=batch_size,
        backbone_learning_rate=1e-4 if live else 1e-5,
        decay=steps // 4,
        ema=max(0.0, 1 - 20 / steps),  # of the last twentieth, mostly
        validate_every=_steps(data, validate_epochs, batch_size),
        **common,
    )


def fit_tiles(rule: Preprocessing, objects: ObjectSizes) -> Preprocessing:
    """Choose tiles in which objects are as large as a model has learned them, and mostly whole.

    Tiles only grow: smaller ones are so many that they take too long.

    Args:
        rule: of the model, in tiles.
        objects: those of the data.
    """
    assert rule.tile is not None
    seen, shared = rule.tile * rule.enlarge, rule.tile_overlap * rule.enlarge
    tile = round(seen / min(SEEN_SIDE / objects.median, shared / objects.large))
    if tile <= 1.33 * rule.tile:
        return rule
    overlap = round(tile * rule.tile_overlap / rule.tile)
    return replace(rule, tile=tile, tile_overlap=overlap, enlarge=seen / tile)


def nuclei(data: RecipeData) -> TrainConfig:
    """The bundled model: cell nuclei, from scratch, on two cores.

    Images keep their scale, so that a nucleus looks the same in training and in use, and are
    enlarged, because many nuclei have ten pixels. The model sees tiles of 96 of the image's pixels,
    on which positions and boxes are easy to learn. Images are predicted in tiles that overlap by
    two thirds, so that every nucleus of up to 64 pixels is whole in one.
    """
    spec = _nuclei_spec(data, tile=96, queries=50)
    return TrainConfig(
        spec=spec,
        augmentation=_nuclei_crops(spec.preprocessing),
        sampling="area",
        # The paper's 0.1 leaves a query that repeats another's object at a score of 0.9.
        criterion=CriterionConfig(no_object=0.5),
        steps=8000,
        batch_size=8,
        learning_rate=4e-4,
        backbone_learning_rate=4e-4,
        warmup=200,
        decay=2500,
        mask_start=2000,
        mask_objects=24,
        grid_queries=True,
        token_weight=1.0,
        attention_weight=1.0,
        validate_every=2000,
    )


def nuclei_larger_tiles(data: RecipeData, *, start: str | None = None) -> TrainConfig:
    """The bundled model's second stage: larger tiles with more queries, from the first (`start`).

    Tiles of 128 of the image's pixels overlap by 64, as before, so that an image has about a third
    as many. What the first stage learned to see in 96 pixels, this one learns to place in 128.
    """
    if start is None:
        raise UsageError(
            "nuclei-larger-tiles goes on from a model that the recipe nuclei has trained; name it: "
            "--set start=CHECKPOINT"
        )
    spec = replace(_nuclei_spec(data, tile=128, queries=90), threshold=0.65)
    crops = replace(_nuclei_crops(spec.preprocessing), paste=0.25)
    return TrainConfig(
        spec=spec,
        augmentation=crops,
        sampling="area",
        criterion=CriterionConfig(no_object=0.3),
        start=start,
        steps=4600,
        batch_size=8,
        learning_rate=3e-4,
        backbone_learning_rate=3e-4,
        warmup=100,
        decay=2200,
        mask_objects=32,
        validate_every=0,
        validate_start=False,
    )


def _nuclei_spec(data: RecipeData, *, tile: int, queries: int) -> ModelSpec:
    """The bundled model, with tiles of so many of an image's pixels, which overlap by 64."""
    return ModelSpec(
        name="nuclei",
        architecture=replace(detr_small(len(data.categories)), num_queries=queries),
        categories=data.categories,
        preprocessing=Preprocessing(
            short_side=None,
            long_side=None,
            enlarge=1.5,
            tile=tile,
            tile_overlap=64,
            share_from=400,
        ),
        threshold=0.5,
        duplicate_iou=0.5,
        single_component=True,
    )


def _nuclei_crops(rule: Preprocessing) -> CropAugmentation:
    """Crops of a tile's size, in which nuclei are half to as large as in the image."""
    assert rule.tile is not None
    return CropAugmentation(
        size=round(rule.tile * rule.enlarge),
        least_scale=0.75 * rule.enlarge,
        most_scale=1.5 * rule.enlarge,
        color=0.2,
    )


RECIPES: dict[str, Recipe] = {
    "coco-detection": _detection_recipe(
        "coco-detection",
        "The paper's detector: things as boxes (box AP 42.0 with ResNet-50 and 500 epochs).",
    ),
    "coco-panoptic-boxes": _detection_recipe(
        "coco-panoptic-boxes", "The paper's panoptic stage 1: things and stuff, all as boxes."
    ),
    "coco-panoptic-masks": coco_panoptic_masks,
    "coco-panoptic-joint": _detection_recipe(
        "coco-panoptic-joint",
        "Boxes and masks at once: about as good as two stages, at more cost.",
        masks=True,
    ),
    "eomt-coco-panoptic": eomt_coco_panoptic,
    "finetune": finetune,
    "nuclei": nuclei,
    "nuclei-larger-tiles": nuclei_larger_tiles,
}
"""By name; the first line of a recipe's docstring is what `panodetr recipes` says of it."""

BACKBONES: dict[str, ResNetConfig] = {
    "resnet50": RESNET50,
    "resnet50-dc5": replace(RESNET50, dilate_last=True),
    "resnet101": RESNET101,
    "resnet101-dc5": replace(RESNET101, dilate_last=True),
}


def _paper(
    spec: ModelSpec, data: RecipeData, epochs: int, validate_epochs: int, batch_size: int
) -> TrainConfig:
    """The paper's schedule (section 4 and appendix A.4); its rates are the defaults.

    Batches are of images of like sizes, which the paper's are not: less memory for padding.
    """
    return TrainConfig(
        spec=spec,
        augmentation=PaperAugmentation(),
        sampling="buckets",
        frozen_stages=1,
        steps=_steps(data, epochs, batch_size),
        batch_size=batch_size,
        drop=_steps(data, epochs * 2 / 3, batch_size),
        mask_objects=100 * batch_size,  # all of them
        validate_every=_steps(data, validate_epochs, batch_size),
        save_every=_steps(data, 1, batch_size),
        workers=4,
    )


def _detector(name: str, data: RecipeData, backbone: str, *, masks: bool) -> ModelSpec:
    """A DETR of the paper; COCO's classes keep their numbers, as in every published checkpoint."""
    if masks and not data.masks:
        raise UsageError(f"{name} learns masks, and the data has boxes only; use finetune")
    if backbone not in BACKBONES:
        raise UsageError(f"backbone is {backbone!r}; expected one of {', '.join(BACKBONES)}")
    categories, classes = data.categories, len(data.categories)
    coco = {(category.id, category.name) for category in coco_panoptic()}
    if all((category.id, category.name) in coco for category in categories):
        categories = tuple(replace(category, index=category.id) for category in categories)
        stuff = any(not category.is_thing for category in categories)
        classes = COCO_PANOPTIC_CLASSES if stuff else COCO_CLASSES
    architecture = DetrConfig(backbone=BACKBONES[backbone], num_classes=classes, masks=masks)
    return ModelSpec(name=name, architecture=architecture, categories=categories)


def _augmentation_for(rule: Preprocessing) -> Augmentation:
    """Views of the size that a model is used at."""
    if rule.tile is not None or rule.short_side is None:
        return CropAugmentation(
            size=512 if rule.tile is None else round(rule.tile * rule.enlarge),
            least_scale=0.8 * rule.enlarge,
            most_scale=1.25 * rule.enlarge,
            color=0.2,
        )
    short_side, paper = rule.short_side, PaperAugmentation()

    def scaled(side: int) -> int:  # the paper's sizes are for a short side of 800
        return max(1, round(side * short_side / 800))

    return PaperAugmentation(
        short_sides=tuple(map(scaled, paper.short_sides)),
        long_side=rule.long_side or scaled(paper.long_side),
        crop_short_sides=tuple(map(scaled, paper.crop_short_sides)),
        least_crop=scaled(paper.least_crop),
        most_crop=scaled(paper.most_crop),
    )


def _steps(data: RecipeData, epochs: float, batch_size: int) -> int:
    """Optimizer steps in which every image is seen so many times: at least 1, but for 0 epochs."""
    return max(1, round(epochs * data.images / batch_size)) if epochs else 0


def configure(recipe: str, data: RecipeData, changes: Sequence[str] = ()) -> TrainConfig:
    """The full configuration of a run.

    Args:
        recipe: a name in `RECIPES`.
        data: what is learned from.
        changes: "name=value", of the recipe's own arguments (`recipe_arguments`) or of fields of
            the configuration.

    Raises:
        UsageError: there is no such recipe, argument or field, or a value is refused.
        CheckpointError: the checkpoint to start from cannot be read.
    """
    make = find_recipe(recipe)
    if data.start is None:
        data = replace(data, start=read_start(recipe, changes))
    given = _own_arguments(make, changes)
    rest = [change for change in changes if split_change(change)[0] not in given]
    return override(make(data, **given), rest, recipe_arguments(make))


def read_start(recipe: str, changes: Sequence[str]) -> ModelSpec | None:
    """What the checkpoint that a recipe starts from says of itself; None where it needs none.

    Raises:
        UsageError, CheckpointError: as in `configure`.
    """
    start = _own_arguments(find_recipe(recipe), changes).get("start")
    return None if start is None else load_spec(start)


def find_recipe(name: str) -> Recipe:
    """The recipe of a name; a UsageError where there is none."""
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, f"the recipes are {', '.join(RECIPES)}")
        raise UsageError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]


def recipe_arguments(recipe: Recipe) -> dict[str, object]:
    """What a recipe takes besides the data: names and defaults."""
    parameters = inspect.signature(recipe).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _own_arguments(recipe: Recipe, changes: Sequence[str]) -> dict[str, Any]:
    known, hints = recipe_arguments(recipe), get_type_hints(recipe, include_extras=True)
    asked = [(change, *split_change(change)) for change in changes]
    return {n: parse_value(hints[n], text, change) for change, n, text in asked if n in known}
