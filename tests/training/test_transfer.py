from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.shapes import as_detr, detr_shape
from torch.testing import assert_close

from panodetr.checkpoints.names import TORCHVISION
from panodetr.checkpoints.save import save_checkpoint
from panodetr.errors import UsageError
from panodetr.model.detr import Detr
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.start import QUERY_NOISE, make_model


def category(index: int, name: str) -> Category:
    return Category(index=index, id=100 + index, name=name, is_thing=True, color=(0, 0, 0))


def with_shape(config: TrainConfig, **changes: object) -> TrainConfig:
    shape = replace(config.spec.architecture, **changes)  # pyright: ignore[reportArgumentType]
    return replace(config, spec=replace(config.spec, architecture=shape))


def with_classes(config: TrainConfig, *names: str) -> TrainConfig:
    shape = replace(config.spec.architecture, num_classes=len(names))
    categories = tuple(category(index, name) for index, name in enumerate(names))
    return replace(config, spec=replace(config.spec, architecture=shape, categories=categories))


@pytest.fixture
def trained(tiny_run: TrainConfig, tmp_path: Path) -> tuple[Detr, TrainConfig]:
    """A checkpoint of classes cat, dog and fish, and a run that starts from it."""
    config = with_classes(tiny_run, "cat", "dog", "fish")
    torch.manual_seed(7)
    model = Detr(config.spec.architecture)
    save_checkpoint(tmp_path / "start", config.spec, model.state_dict())
    return model, replace(config, start=str(tmp_path / "start"))


def test_classes_are_copied_by_name_whatever_their_number(
    trained: tuple[Detr, TrainConfig],
) -> None:
    before, config = trained
    model, notes = make_model(config)
    assert notes == [f"from {config.start}"]
    assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    torch.manual_seed(1)
    model, notes = make_model(with_classes(config, "Fish", "horse", "cat", "cow"))
    for head, old in zip(
        model.class_head.parameters(), before.class_head.parameters(), strict=True
    ):
        assert_close(head[[0, 2, 4]], old[[2, 0, 3]], rtol=0, atol=0)
        assert not torch.equal(head[1], old[1])
    assert notes[1:] == [
        "class_head: 2 of 4 classes copied by name (Fish, cat), 2 initialised (horse, cow)"
    ]
    rest = {k: v for k, v in before.state_dict().items() if not k.startswith("class_head.")}
    now = model.state_dict()
    assert_close({key: now[key] for key in rest}, rest, rtol=0, atol=0)
    model, notes = make_model(with_classes(config, "nut", "bolt"))
    assert_close(model.class_head.weight[-1], before.class_head.weight[-1], rtol=0, atol=0)
    assert notes[1] == "class_head: 0 of 2 classes copied by name, 2 initialised (nut, bolt)"


def test_classes_of_other_names_are_joined_to_those_of_the_checkpoint(
    trained: tuple[Detr, TrainConfig],
) -> None:
    before, config = trained
    other = with_classes(config, "Katze", "dog", "Fisch")
    joined = {"Katze": "cat", "Fisch": "fish"}
    model, notes = make_model(replace(other, class_map=joined))
    assert notes == [f"from {config.start}"]  # the class head is the same
    assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    _, notes = make_model(replace(other, class_map={"Fisch": "fish"}))
    assert "2 of 3 classes copied by name (dog, Fisch), 1 initialised (Katze)" in notes[1]
    for wrong, message in (
        ({"Fish": "fish"}, r"the data has no class 'Fish'; did you mean 'Fisch'\?"),
        ({"Katze": "cats"}, r"start has no class 'cats'; did you mean 'cat'\?"),
        ({"Katze": "zebra"}, r"start has no class 'zebra'; it has cat, dog, fish"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            make_model(replace(other, class_map=wrong))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"class_map \(--map\) joins classes to those of a"):
        make_model(replace(other, class_map=joined, start=None))


@pytest.mark.parametrize(
    ("queries", "note"),
    [
        (4, "queries: the first 4 of 6 copied"),
        (9, "queries: 6 copied, 3 more begin as copies with noise"),
    ],
)
def test_the_first_queries_are_copied(
    trained: tuple[Detr, TrainConfig], queries: int, note: str
) -> None:
    before, config = trained
    model, notes = make_model(with_shape(config, num_queries=queries))
    both = min(queries, 6)
    assert_close(model.queries.weight[:both], before.queries.weight[:both], rtol=0, atol=0)
    more = model.queries.weight[6:] - before.queries.weight[: queries - both]
    assert (more.abs().sum(1) > 0).all()  # no two queries answer alike
    if len(more):
        noise = QUERY_NOISE * before.queries.weight.std().item()
        assert more.std().item() == pytest.approx(noise, rel=0.3)
    assert model.queries.weight.std().item() == pytest.approx(1, abs=0.1)
    assert notes[1:] == [note]


def test_a_class_head_without_no_object_begins_anew(
    trained: tuple[Detr, TrainConfig], tmp_path: Path
) -> None:
    config = with_shape(trained[1], masks=False, conditional=True)
    with pytest.raises(ValueError, match=r"architecture\.sigmoid is true; expected false"):
        with_shape(config, sigmoid=True)
    shape = replace(config.spec.architecture, sigmoid=True)
    spec = replace(config.spec, architecture=shape)
    save_checkpoint(tmp_path / "sigmoid", spec, Detr(shape).state_dict())
    data = RecipeData(categories=spec.categories, images=10, masks=False)
    found = configure("finetune", data, [f"start={tmp_path / 'sigmoid'}"])
    model, notes = make_model(found)
    assert isinstance(model, Detr)
    assert (model.config.conditional, model.config.sigmoid) == (True, False)
    assert notes[1:] == ["class_head: initialised, the checkpoint's has no 'no object'"]


def test_points_of_conditional_queries_are_copied_with_them(
    trained: tuple[Detr, TrainConfig], tmp_path: Path
) -> None:
    config = with_shape(trained[1], conditional=True)
    before = Detr(config.spec.architecture)
    save_checkpoint(tmp_path / "points", config.spec, before.state_dict())
    config = replace(config, start=str(tmp_path / "points"))
    model, notes = make_model(with_shape(config, num_queries=9))
    assert notes[1:] == ["queries: 6 copied, 3 more begin as copies with noise"]
    points = model.state_dict()["points"]
    assert_close(points[:6], before.state_dict()["points"], rtol=0, atol=0)
    assert torch.isfinite(points).all()


def test_layers_that_do_not_fit_are_named(trained: tuple[Detr, TrainConfig]) -> None:
    before, config = trained
    model, notes = make_model(with_shape(config, decoder_layers=3, ffn_dim=64, masks=False))
    assert set(notes[1:]) == {
        "encoder.layers.0: initialised, of another shape in the checkpoint",
        "decoder.layers.0: initialised, of another shape in the checkpoint",
        "decoder.layers.1: initialised, of another shape in the checkpoint",
        "decoder.layers.2: initialised, the checkpoint has none",
        "attention_maps: left out, this model has none",
        "mask_head: left out, this model has none",
    }
    assert_close(
        as_detr(model).decoder.layers[1].state_dict()["self_attention.query.weight"],
        before.decoder.layers[1].state_dict()["self_attention.query.weight"],
    )


def test_a_mask_head_is_added_where_there_was_none(
    trained: tuple[Detr, TrainConfig], tmp_path: Path
) -> None:
    _, config = trained
    plain = with_shape(config, masks=False)
    boxes_only = Detr(plain.spec.architecture)
    save_checkpoint(tmp_path / "boxes", plain.spec, boxes_only.state_dict())
    second = replace(
        config,
        start=str(tmp_path / "boxes"),
        learned="masks",
        token_weight=0.0,
        mask_start=0,
    )
    model, notes = make_model(second)
    assert set(notes[1:]) == {
        "attention_maps: initialised, the checkpoint has none",
        "mask_head: initialised, the checkpoint has none",
    }
    assert_close(as_detr(model).encoder.state_dict(), boxes_only.encoder.state_dict())
    with pytest.raises(UsageError, match="no weights for class_head, which this run freezes"):
        make_model(with_classes(second, "cat", "dog", "bird"))


def test_differences_that_no_shape_shows_are_named_and_another_backbone_is_refused(
    trained: tuple[Detr, TrainConfig],
) -> None:
    config = with_shape(trained[1], pre_norm=False, position_input=True)
    _, notes = make_model(config)
    assert notes[1:] == ["position_input: True here, but the checkpoint was trained with False"]
    backbone = detr_shape(config.spec.architecture).backbone
    _, notes = make_model(with_shape(trained[1], backbone=replace(backbone, strides=(1, 2, 2, 1))))
    assert notes[1].startswith("backbone.strides: (1, 2, 2, 1) here")
    wider = replace(backbone, widths=(8, 8, 16, 24))
    with pytest.raises(UsageError, match="is another than this run's") as caught:
        make_model(with_shape(config, backbone=wider))
    assert "\n" not in str(caught.value)


def test_a_torchvision_backbone_is_taken(tiny_run: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    old = Detr(tiny_run.spec.architecture).backbone.state_dict()
    state = {f"backbone.{key}": torch.rand_like(t) for key, t in old.items() if t.dim()}
    torch.save(TORCHVISION.from_ours(state) | {"fc.bias": torch.zeros(9)}, tmp_path / "r.pth")
    config = replace(tiny_run, backbone_weights=str(tmp_path / "r.pth"), frozen_stages=1)
    model, notes = make_model(config)
    assert notes == [f"backbone: from {tmp_path / 'r.pth'}"]
    loaded = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    assert_close({key: loaded[key] for key in state}, state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frozen_stages": 1}, "frozen_stages is 1, but the backbone's weights are random"),
        ({"norm": "frozen"}, "batch norms are frozen, but its weights are random"),
        ({"learned": "masks"}, "every other part is frozen; name one that is trained"),
        ({"start": "nuclei", "backbone_weights": "r.pth"}, "leave one of them out"),
    ],
)
def test_nothing_random_is_frozen(
    tiny_run: TrainConfig, change: dict[str, Any], message: str
) -> None:
    config = replace(tiny_run, token_weight=0.0, mask_start=0)
    if change == {"norm": "frozen"}:
        config = with_shape(
            config, backbone=replace(detr_shape(config.spec.architecture).backbone, **change)
        )
    else:
        config = replace(config, **change)
    with pytest.raises(UsageError, match=message) as caught:
        make_model(config)
    assert "\n" not in str(caught.value)
