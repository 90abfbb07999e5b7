"""Arguments, outputs, files and errors of transformers' model classes, beside transformers itself.

What transformers' own tests of DETR (`tests/models/detr/` there) cover, in our words.
"""

from __future__ import annotations

import copy
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.conftest import telling_model
from tests.objective.scene import ARCHITECTURE
from tests.peers.pairs import (
    CLASSES,
    LAYERS,
    MODELS,
    QUERIES,
    labels_of,
    padded_batch,
    pair,
    their_config,
    their_model,
)
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.modeling_outputs import BaseModelOutput

import panodetr
from panodetr import compat
from panodetr.checkpoints.published import plain_category
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, UsageError
from panodetr.images.preprocess import Preprocessing

pytestmark = pytest.mark.parity

SHAPES: dict[str, dict[str, Any]] = {
    "width 64": {},
    "width 32, its own tests' shape": {"d_model": 32, "encoder_ffn_dim": 4, "decoder_ffn_dim": 4},
    "width 128, four feature maps": {
        "d_model": 128,
        "hidden_sizes": [16, 32, 64, 128],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "basic blocks": {"layer_type": "basic"},
    "learned positions": {"position_embedding_type": "learned"},
    "a decoder of its own widths": {"decoder_attention_heads": 2, "decoder_ffn_dim": 48},
    "an auxiliary loss": {"auxiliary_loss": True},
}


def compare(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Hold outputs equal, those in lists and mappings, too."""
    if isinstance(expected, torch.Tensor):
        scale = max(1.0, float(expected.detach().abs().max()))
        assert_close(found, expected, rtol=0, atol=tolerance * scale, check_dtype=False)
    elif hasattr(expected, "keys"):
        assert list(found) == list(expected)
        for name in expected:
            compare(found[name], expected[name], tolerance)
    else:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            compare(one, other, tolerance)


@pytest.fixture(params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    return pair(tmp_path / "theirs", request.param)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", MODELS)
def test_odd_configurations_give_the_same_outputs_and_names(
    tmp_path: Path, name: str, shape: dict[str, Any]
) -> None:
    ours, theirs = pair(tmp_path, name, **shape)
    pixels, mask = padded_batch()
    odd = torch.randn(2, 3, 97, 61)
    with torch.no_grad():
        compare(ours(pixels, mask), theirs(pixels, mask))
        compare(ours(pixels[:1]), theirs(pixels[:1]))
        compare(ours(odd), theirs(odd))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    kind = getattr(compat, name)
    fresh = kind(theirs.config)  # of a configuration alone
    assert fresh.training
    fresh.load_state_dict(theirs.state_dict())
    given = {"config": theirs.config, "state_dict": theirs.state_dict()}
    again = kind.from_pretrained(pretrained_model_name_or_path=None, **given)
    with torch.no_grad():
        compare(fresh.eval()(pixels, mask), theirs(pixels, mask))
        compare(again(pixels, mask), theirs(pixels, mask))
    with pytest.raises(UsageError, match="a config and a state_dict"):
        kind.from_pretrained(None)


@pytest.mark.parametrize("name", MODELS)
def test_images_of_other_channels(tmp_path: Path, name: str) -> None:
    ours, theirs = pair(tmp_path / "theirs", name, num_channels=1)
    pixels, mask = padded_batch()
    again: Any = type(theirs).from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    with torch.no_grad():
        expected = theirs(pixels[:, :1], mask)
        compare(ours(pixels[:, :1], mask), expected)
        compare(again.eval()(pixels[:, :1], mask), expected)
    grey = compat.DetrImageProcessor(size=64, image_mean=[0.5], image_std=[0.5])
    photo = Image.fromarray(np.zeros((64, 64), np.uint8))
    assert ours(**grey(photo, return_tensors="pt")).logits.shape[0] == 1
    for model in (ours, theirs):
        with pytest.raises(ValueError, match=r"channel|expected \(B, 1, H, W\)"):
            model(pixels, mask)
    for folder in ("theirs", "ours"):
        with pytest.raises(CheckpointError, match="images of 1 channels; expected 3"):
            panodetr.load(tmp_path / folder)
    with pytest.raises(CheckpointError, match="images of 1 channels; expected 3"):
        panodetr.from_transformers(theirs)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "silu"])
def test_activations_give_the_same_boxes_and_with_masks_are_refused(
    tmp_path: Path, name: str
) -> None:
    ours, theirs = pair(tmp_path / "boxes", MODELS[0], activation_function=name)
    pixels, mask = padded_batch()
    with torch.no_grad():
        compare(ours(pixels, mask), theirs(pixels, mask))
    again: Any = transformers.DetrForObjectDetection.from_pretrained(
        ours.save_pretrained(tmp_path / "ours")
    )
    assert again.config.activation_function == name
    with pytest.raises(CheckpointError, match=f"'{name}' with a mask head"):
        pair(tmp_path / "masks", activation_function=name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"output_attentions": True, "output_hidden_states": True},
        {"return_dict": False},
        {"decoder_attention_mask": torch.ones(2, QUERIES).tril(5).long()},
        {"decoder_inputs_embeds": torch.linspace(-1, 1, 2 * QUERIES * 64).view(2, QUERIES, 64)},
        {"labels": labels_of(2, 1), "return_dict": False},
    ],
    ids=lambda given: ", ".join(given),
)
def test_arguments_of_a_call_do_the_same(both: tuple[Any, Any], arguments: dict[str, Any]) -> None:
    ours, theirs = both
    theirs.set_attn_implementation("eager")
    pixels, mask = padded_batch()
    with torch.no_grad():
        found, expected = (model(pixels, mask, **arguments) for model in both)
        compare(found, expected)
        assert type(found).__name__ == type(expected).__name__
        for name, value in arguments.items():
            if isinstance(value, bool):  # the configuration says so as well
                setattr(ours.config, name, value)
        rest = {k: value for k, value in arguments.items() if not isinstance(value, bool)}
        compare(ours(pixels, mask, **rest), expected)


def test_an_encoders_output_can_be_given(both: tuple[Any, Any]) -> None:
    pixels, mask = padded_batch()
    random = torch.Generator().manual_seed(0)
    memory = torch.randn(2, 6, 64, generator=random)
    given = BaseModelOutput(last_hidden_state=cast("Any", memory))
    with torch.no_grad():
        found, expected = (model(pixels, mask, encoder_outputs=given) for model in both)
        compare(found, expected)
    with pytest.raises(UsageError, match="give pixel_values"):
        both[0](None, inputs_embeds=memory)


def test_names_of_theirs_are_there_or_say_what_to_do(both: tuple[Any, Any], tmp_path: Path) -> None:
    for model in both:
        assert model.name_or_path == model.config.name_or_path
        assert model.base_model is getattr(model, model.base_model_prefix, model)
    ours, theirs = both
    assert ours.base_model_prefix == theirs.base_model_prefix
    without_heads = compat.DetrModel.from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    without_heads.unfreeze_backbone()
    assert all(weight.requires_grad for weight in without_heads.backbone.parameters())
    processors = compat.DetrImageProcessor(), transformers.DetrImageProcessor()
    for own, other, name, remedy in (
        (*both, "push_to_hub", "upload_folder"),
        (ours.config, theirs.config, "push_to_hub", "upload_folder"),
        (*both, "add_adapter", "get_peft_model"),
        (*processors, "push_to_hub", "upload_folder"),
        (*processors, "resize", "do_resize=False"),
    ):
        assert hasattr(other, name)
        assert not hasattr(own, name)
        with pytest.raises(UsageError, match=remedy):
            getattr(own, name)
    for own in (ours, ours.config, processors[0]):
        with pytest.raises(AttributeError, match=r"has no .*'no_such_name'"):
            _ = own.no_such_name


def test_signatures_and_attention_weights_are_as_theirs(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    names = list(inspect.signature(theirs.forward).parameters)[:-1]  # but **kwargs
    assert list(inspect.signature(ours.forward).parameters)[: len(names)] == names
    pixels, mask = padded_batch()
    outputs = ours.train()(pixels, mask, output_attentions=True, output_hidden_states=True)
    seen = ("encoder_attentions", "decoder_attentions", "cross_attentions", "encoder_hidden_states")
    for name in seen:
        assert len(outputs[name]) == LAYERS + (name == "encoder_hidden_states")
        outputs[name][0].retain_grad()
    outputs.logits.sum().backward()
    assert all(outputs[name][0].grad.abs().sum() > 0 for name in seen)  # they were used


def test_images_of_a_list_are_padded_and_answers_do_not_depend_on_the_batch(
    both: tuple[Any, Any],
) -> None:
    ours, _ = both
    random = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=random) for size in ((64, 96), (64, 64))]
    mask = torch.ones(2, 64, 96).long()
    mask[1, :, 64:] = 0
    with torch.no_grad():
        listed = ours(images)
        padded = torch.stack([images[0], nn.functional.pad(images[1], (0, 32))])
        compare(listed, ours(padded, mask))
        assert listed.image_sizes == [(64, 96), (64, 64)]
        unpadded = ours(padded)
        assert unpadded.image_sizes is None
        compare(ours(padded, torch.ones_like(mask)), unpadded)
        assert listed.mask_stride == 8  # of a backbone that gives three feature maps
        if "pred_masks" in listed:
            maps = compat.DetrImageProcessor().post_process_semantic_segmentation(listed)
            assert [tuple(one.shape) for one in maps] == [(8, 12), (8, 8)]
        for place, image in enumerate(images):
            alone = ours(image[None])
            compare(listed.logits[place], alone.logits[0], 1e-3)
            compare(listed.pred_boxes[place], alone.pred_boxes[0], 1e-3)
    for wrong in ([images[0][0]], [], images[0], None, images[0].numpy(), [images[0].numpy()]):
        with pytest.raises(UsageError, match=r"pixel_values .* expected"):
            ours(wrong)
    with pytest.raises(UsageError, match="pixel_mask"):
        ours(padded, mask[:, 1:])
    with pytest.raises(UsageError, match="are on meta and the model on cpu"):
        ours(padded.to("meta"))


def test_both_open_what_the_other_saves(both: tuple[Any, Any], tmp_path: Path) -> None:
    ours, theirs = both
    kind, pixels = type(theirs), padded_batch()[0]
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"kept")
    (folder / "preprocessor_config.json").write_text('{"size": 90}')
    ours.config.auxiliary_loss = True
    assert ours.save_pretrained(folder, safe_serialization=True) == folder
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "optimizer.pt",
        "preprocessor_config.json",
    ]
    assert json.loads((folder / "preprocessor_config.json").read_text()) == {"size": 90}
    theirs.config.auxiliary_loss = True
    with torch.no_grad():
        expected = theirs(pixels)
        opened = kind.from_pretrained(folder)
        compare(opened.eval()(pixels), expected)
        again = type(ours).from_pretrained(folder)
        compare(again(pixels), expected)
    for name in ("auxiliary_loss", "attention_dropout", "bbox_cost", "num_labels", "id2label"):
        assert getattr(opened.config, name) == getattr(theirs.config, name)
        assert getattr(again.config, name) == getattr(theirs.config, name)
    for model in (ours, theirs, again):
        model.save_pretrained(tmp_path / "nothing", False)
        assert not (tmp_path / "nothing" / "model.safetensors").exists()
    for config in (opened.config, again.config):
        assert config.name_or_path == str(folder)
        config.save_pretrained(save_directory=folder)
    with pytest.raises(UsageError, match="call the whole model"):
        getattr(ours, "detr", ours).model(pixels)
    for push in (
        lambda: ours.push_to_hub("a/b"),
        lambda: ours.save_pretrained(folder, push_to_hub=True),
    ):
        with pytest.raises(UsageError, match=r"huggingface_hub\.upload_folder"):
            push()


def test_configurations_have_the_same_values() -> None:
    theirs = their_config()
    ours = compat.DetrConfig.from_dict(theirs.to_dict())
    for name in (*compat.DetrConfig().to_dict(), "num_labels", "hidden_size", "num_hidden_layers"):
        if name not in ("backbone_config", "model_type"):
            assert getattr(ours, name) == getattr(theirs, name), name
    for config in (ours, theirs):
        config.hidden_size, config.num_labels = 96, 4
        assert (config.d_model, config.id2label[3], len(config.label2id)) == (96, "LABEL_3", 4)
        assert copy.deepcopy(config).to_dict()["id2label"] == config.id2label
    defaults = {k: v for k, v in vars(compat.DetrConfig()).items() if k != "backbone_config"}
    usual: Any = transformers.DetrConfig()
    assert {name: getattr(usual, name) for name in defaults} == defaults
    for config in (ours, theirs):
        again = copy.deepcopy(config)
        assert again == config
        again.update({"dropout": 0.3, "hidden_size": 32})
        assert again != config
        assert (again.dropout, again.d_model) == (0.3, 32)
        assert '"num_queries": 9' in repr(config)
    for config in (theirs, usual):
        own = compat.DetrConfig.from_dict(config.to_dict())
        assert list(own.to_diff_dict().keys() ^ config.to_diff_dict().keys()) == []
        assert json.loads(own.to_json_string()) == json.loads(config.to_json_string())
        public = {name for name in config if not name.startswith("_")}
        assert {*own} >= public - {"transformers_version"}
    for kind in (compat.DetrConfig, transformers.DetrConfig):
        assert kind.model_type == kind.from_dict(config_dict={"d_model": 64}).model_type == "detr"
        assert kind.from_dict({"d_model": 64}, d_model=96).d_model == 96
        given: dict[str, Any] = {"return_unused_kwargs": True, "d_model": 96, "colour": "red"}
        made, unused = cast("Any", kind.from_dict({"d_model": 64}, **given))
        assert (made.d_model, unused) == (96, {"colour": "red"})


def test_configurations_are_read_and_written(tmp_path: Path) -> None:
    their_model().save_pretrained(tmp_path)
    read = compat.DetrConfig.from_pretrained(tmp_path, num_labels=3, dropout=0.25)
    assert (read.num_labels, read.dropout, read.d_model) == (3, 0.25, 64)
    again, unused = compat.DetrConfig.get_config_dict(
        tmp_path, num_labels=3, dropout=0.25, colour=1
    )
    assert (again, unused) == (read.to_dict(), {"colour": 1})
    read.save_pretrained(tmp_path / "again")
    assert transformers.DetrConfig.from_pretrained(tmp_path / "again").num_labels == 3
    read.to_json_file(tmp_path / "alone.json")
    assert compat.DetrConfig.from_json_file(tmp_path / "alone.json").to_dict() == read.to_dict()
    backbone: Any = their_config().backbone_config  # an object of transformers
    made = compat.DetrConfig(backbone_config=backbone, d_model=64, torch_dtype="float16")
    assert made.dtype is torch.float16
    assert compat.DetrConfig.from_dict(made.to_dict()).dtype is made.dtype
    assert json.loads(made.to_json_string())["backbone_config"]["hidden_sizes"] == [10, 20, 30, 40]
    assert compat.DetrForSegmentation(made).config is made
    model = compat.DetrForSegmentation(read)
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, QUERIES, 4)


@pytest.mark.parametrize(
    ("options", "classes", "first"),
    [
        ({"num_labels": CLASSES}, CLASSES, "LABEL_0"),
        ({"num_labels": 3, "ignore_mismatched_sizes": True}, 3, "LABEL_0"),
        (
            {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}, "num_labels": 2}
            | {"ignore_mismatched_sizes": True},
            2,
            "cat",
        ),
        ({"id2label": {n: f"name {n}" for n in range(CLASSES)}}, CLASSES, "name 0"),
        ({"id2label": [f"name {n}" for n in range(CLASSES)]}, CLASSES, "name 0"),
        ({"num_queries": 4, "ignore_mismatched_sizes": True}, CLASSES, "LABEL_0"),
        ({"encoder_layers": 1, "dropout": 0.3, "bbox_cost": 7}, CLASSES, "LABEL_0"),
        ({"dtype": torch.bfloat16}, CLASSES, "LABEL_0"),
        ({"torch_dtype": "float16"}, CLASSES, "LABEL_0"),
        ({"dtype": "auto"}, CLASSES, "LABEL_0"),
        ({"device_map": "auto"}, CLASSES, "LABEL_0"),
        ({"device_map": {"": "cpu"}}, CLASSES, "LABEL_0"),
        ({"attn_implementation": "eager"}, CLASSES, "LABEL_0"),
        ({"local_files_only": True, "cache_dir": "somewhere", "token": "hf_x"}, CLASSES, "LABEL_0"),
        ({"use_safetensors": True, "low_cpu_mem_usage": True}, CLASSES, "LABEL_0"),
        ({"proxies": None, "from_tf": False, "variant": None}, CLASSES, "LABEL_0"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
def test_arguments_of_loading_do_the_same(
    tmp_path: Path, name: str, options: dict[str, Any], classes: int, first: str
) -> None:
    their_model(name).save_pretrained(tmp_path)
    ours = getattr(compat, name).from_pretrained(tmp_path, **options)
    theirs: Any = getattr(transformers, name).from_pretrained(tmp_path, **options)
    for model in (ours, theirs):
        assert model.config.num_labels == classes
        assert model.config.id2label[0] == first
        assert not model.training
    assert ours.dtype == theirs.dtype
    assert ours.device == theirs.device
    own = ours.state_dict()
    for key, weight in theirs.state_dict().items():
        assert own[key].shape == weight.shape
        head = "class_labels_classifier" in key and classes != CLASSES
        if not head and not ("query_position" in key and "num_queries" in options):
            assert_close(own[key], weight, rtol=0, atol=0, check_dtype=False)
    pixels = torch.zeros(1, 3, 64, 64, dtype=ours.dtype)
    assert ours(pixels).logits.shape[-1] == classes + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_labels": 3},
            r"\(detr\.class_labels_classifier\.bias, .* ignore_mismatched_sizes=True",
        ),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels is 3 and id2label has 1 names"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected 'float32'"),
        ({"device_map": {"model": 0, "detr": 1}}, "names 2 devices"),
        ({"device_map": "tpu-farm"}, "device_map is 'tpu-farm'"),
        ({"attn_implementation": "flash_attention_2"}, "expected 'sdpa' or 'eager'"),
        ({"quantization_config": {"bits": 4}}, "panodetr export"),
        ({"subfolder": "a"}, "theirs/a' is neither"),
        ({"num_label": 3}, "no argument 'num_label'; did you mean 'num_labels'"),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "bad"}}, "layer_type"),
    ],
)
def test_arguments_that_cannot_be_meant_are_one_line(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    their_model().save_pretrained(tmp_path / "theirs")
    with pytest.raises((UsageError, CheckpointError), match=message) as caught:
        compat.DetrForSegmentation.from_pretrained(tmp_path / "theirs", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["DetrConfig", "DetrImageProcessor", *MODELS])
def test_a_model_that_is_not_there_is_an_os_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for library in (compat, transformers):
        if (library, name) != (transformers, "DetrConfig"):  # which takes the usual values
            with pytest.raises(OSError, match=r"\w"):
                getattr(library, name).from_pretrained(tmp_path / "empty")
        with pytest.raises(OSError, match="nowhere"):
            getattr(library, name).from_pretrained(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="snapshot_download"):
        getattr(compat, name).from_pretrained("owner/name", subfolder="a")


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_model_without_heads(tmp_path: Path, auxiliary: bool) -> None:
    model = their_model("DetrForObjectDetection", auxiliary_loss=auxiliary)
    model.save_pretrained(tmp_path / "theirs" / "a")
    kinds: Any = compat.DetrModel, transformers.DetrModel
    ours, theirs = (
        kind.from_pretrained(tmp_path / "theirs", subfolder="a", attn_implementation="eager").eval()
        for kind in kinds
    )
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    pixels, mask = padded_batch()
    call = {"output_hidden_states": True, "output_attentions": True}
    ours.save_pretrained(tmp_path / "ours")
    with torch.no_grad():
        # Ours does not give `intermediate_hidden_states`.
        outputs = theirs(pixels, mask, **call).items()
        expected = {key: value for key, value in outputs if not key.startswith("intermediate")}
        compare(ours(pixels, mask, **call), expected)
        found = ours(pixels, mask, return_dict=False)
        compare(found, theirs(pixels, mask, return_dict=False)[: len(found)])
        for kind in kinds:
            again = kind.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
            outputs = again(pixels, mask, **call)
            compare({key: outputs[key] for key in expected}, expected)
    with pytest.raises(UsageError, match="DetrModel has no loss"):
        ours(pixels, mask, labels=labels_of(1, 1))


@pytest.mark.parametrize(
    ("name", "stored"), [("DetrModel", "DetrForObjectDetection"), *zip(MODELS, MODELS, strict=True)]
)
def test_what_was_loaded_can_be_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, stored: str
) -> None:
    their_model(stored).save_pretrained(tmp_path)
    options: dict[str, Any] = {"num_labels": 3, "ignore_mismatched_sizes": True}
    call: dict[str, Any] = {"output_loading_info": True, **options}
    (_, found), (_, expected) = (
        getattr(library, name).from_pretrained(tmp_path, **call)
        for library in (compat, transformers)
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert found[key] == expected[key], key
    new = [key for key, *_ in found["mismatched_keys"]]
    assert all(key in caplog.text for key in new)


def test_a_configuration_can_be_given(both: tuple[Any, Any], tmp_path: Path) -> None:
    other = their_config(num_labels=3)
    other.save_pretrained(tmp_path / "other")
    for model in both:
        kind, source = type(model), tmp_path / "theirs"
        anew: dict[str, Any] = {"ignore_mismatched_sizes": True}
        given = kind.from_pretrained(source, config=other, **anew).config
        assert given is not other
        assert given.num_labels == 3
        named = kind.from_pretrained(source, config=tmp_path / "other", dropout=0.3, **anew)
        assert (named.config.num_labels, named.config.dropout) == (3, 0.3)
        with pytest.raises((TypeError, UsageError), match="num_labels"):
            kind.from_pretrained(source, config=other, num_labels=4, **anew)


def test_layers_are_lists_and_weights_to_save_can_be_given(
    both: tuple[Any, Any], tmp_path: Path
) -> None:
    ours, theirs = (getattr(model, "detr", model) for model in both)
    for path in ("model.encoder.layers", "model.decoder.layers", "bbox_predictor.layers"):
        one, other = ours.get_submodule(path), theirs.get_submodule(path)
        assert len(one) == len(other)
        for layer, expected in zip(one[:2], other[:2], strict=True):
            assert layer.state_dict().keys() <= expected.state_dict().keys()
            assert sum(p.numel() for p in layer.parameters()) == sum(
                p.numel() for p in expected.parameters()
            )
    state = {key: value * 2 for key, value in both[0].state_dict().items()}
    for number, model in enumerate(both):
        model.save_pretrained(tmp_path / str(number), state_dict=state)
        again = type(both[0]).from_pretrained(tmp_path / str(number))
        assert_close(again.state_dict(), state, rtol=0, atol=0)
    assert_close(both[0].state_dict(), dict(both[1].state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_new_weights_spread_as_theirs(name: str) -> None:
    torch.manual_seed(0)
    config = their_config(init_std=0.05, init_xavier_std=3.0)
    ours, theirs = (getattr(library, name)(config) for library in (compat, transformers))
    own = ours.state_dict()
    for key, weight in theirs.state_dict().items():
        if (weight.numel() > 500 or key.endswith("bias")) and "mask_head" not in key:
            assert_close(own[key].std(), weight.std(), rtol=0.2, atol=1e-6, msg=key)


def test_a_mask_head_starts_anew_on_a_model_for_boxes(tmp_path: Path) -> None:
    boxes = their_model("DetrForObjectDetection")
    boxes.save_pretrained(tmp_path / "boxes")  # of which transformers' class would take nothing
    ours = compat.DetrForSegmentation.from_pretrained(
        tmp_path / "boxes", ignore_mismatched_sizes=True
    )
    pixels, mask = padded_batch()
    with torch.no_grad():
        found = ours(pixels, mask)
        compare(found.logits, boxes(pixels, mask).logits)
        ours.save_pretrained(tmp_path / "masks")
        again: Any = transformers.DetrForSegmentation.from_pretrained(tmp_path / "masks")
        compare(found, again.eval()(pixels, mask))


def test_weights_are_frozen_and_heads_replaced_by_their_names(
    both: tuple[Any, Any], tmp_path: Path
) -> None:
    for model in both:
        detector = getattr(model, "detr", model)
        detector.model.unfreeze_backbone()
        for name, weight in model.named_parameters():
            if "encoder" in name and "backbone" not in name:
                weight.requires_grad = False
        detector.class_labels_classifier = nn.Linear(64, 4)
        model.config.num_labels = 3
        loss = model.train()(padded_batch()[0], labels=[labels_of(1)[0], labels_of(2)[0]]).loss
        loss.backward()
    ours, theirs = both
    own = dict(ours.named_parameters())
    for name, weight in theirs.named_parameters():
        assert (own[name].grad is None) == (weight.grad is None), name
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(True) == theirs.num_parameters(True)
    assert ours.get_memory_footprint(False) == theirs.get_memory_footprint(False)
    again = type(ours).from_pretrained(ours.save_pretrained(tmp_path / "again"))
    assert again.config.num_labels == 3
    detector = getattr(ours, "detr", ours)
    detector.model.freeze_backbone()
    assert not any(p.requires_grad for n, p in ours.named_parameters() if "backbone" in n)
    copied = copy.deepcopy(ours).eval()
    with torch.no_grad():
        compare(copied(padded_batch()[0]), ours.eval()(padded_batch()[0]))


class Adapted(nn.Module):
    """A layer with a second one beside it, as libraries of adapters put it in the layer's place."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.beside = layer, nn.Linear(layer.in_features, layer.out_features)
        nn.init.constant_(self.beside.weight, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.beside(x)


def test_layers_are_wrapped_by_their_names(both: tuple[Any, Any], tmp_path: Path) -> None:
    pixels, mask = padded_batch()
    places = "encoder.layers.0.self_attn", "decoder.layers.1.encoder_attn"
    for model in both:
        model.requires_grad_(False)
        for place in places:
            attention = getattr(model, "detr", model).model.get_submodule(place)
            attention.q_proj = Adapted(attention.q_proj)
        model(pixels, mask, labels=labels_of(2, 1)).loss.backward()
    ours, theirs = both
    compare(ours(pixels, mask), theirs(pixels, mask))
    own = dict(ours.named_parameters())
    for name, weight in theirs.named_parameters():
        assert ("beside" in name) == (own[name].grad is not None) == (weight.grad is not None)
        if weight.grad is not None:
            assert_close(own[name].grad, weight.grad, rtol=1e-3, atol=1e-5)
    for place in places:
        attention = getattr(ours, "detr", ours).model.get_submodule(place)
        attention.q_proj = attention.q_proj.layer
    again = type(theirs).from_pretrained(ours.save_pretrained(tmp_path / "again")).eval()
    with torch.no_grad():
        compare(again(pixels, mask), ours.eval()(pixels, mask))
    detector = getattr(ours, "detr", ours)
    detector.bbox_predictor = nn.Linear(64, 4)
    with pytest.raises(UsageError, match=r"bbox_predictor\.layers\.0 is gone; replace single"):
        ours(pixels, mask)


def test_the_pipeline_opens_what_we_convert_and_agrees_with_segment(tmp_path: Path) -> None:
    categories = tuple(plain_category(index, f"kind {index}") for index in range(4))
    shape = replace(ARCHITECTURE, num_classes=4, num_queries=16, decoder_layers=1)
    rule = Preprocessing(short_side=96, long_side=160)
    spec = ModelSpec(name="a", architecture=shape, categories=categories, preprocessing=rule)
    model = telling_model(spec)
    with torch.no_grad():
        model.class_head.weight *= 20  # the pipeline weighs masks by scores, which are 1 then
        assert model.mask_head is not None
        model.mask_head.out.get_parameter("weight").mul_(0.2)
    save_pretrained(tmp_path / "folder", spec, model, format="huggingface")
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    pipeline: Any = transformers.pipeline("image-segmentation", model=str(tmp_path / "folder"))
    found = pipeline(
        Image.fromarray(noise), threshold=0.7, mask_threshold=0.0, overlap_mask_area_threshold=0.0
    )
    result = panodetr.load(tmp_path / "folder").segment(noise, threshold=0.7)
    theirs = np.full(noise.shape[:2], "", dtype=object)
    ours = theirs.copy()
    names = {category.id: category.name for category in result.categories}
    for segment in result.segments:
        ours[segment.mask] = names[segment.category_id]
    for segment in found:
        theirs[np.asarray(segment["mask"]) > 0] = segment["label"]
    assert len({*theirs.flat}) > 1
    assert (ours == theirs).mean() > 0.9
    assert {*ours.flat} - {""} == {segment["label"] for segment in found}
