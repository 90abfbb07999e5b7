"""transformers' configuration of a DETR: the keys of its `config.json` as attributes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch

from panodetr.checkpoints.huggingface import (
    UNUSED,
    read_huggingface,
    write_huggingface,
    write_shape,
)
from panodetr.checkpoints.load import load_spec, locate
from panodetr.checkpoints.spec import CONFIG_FILE, PREPROCESSOR_FILE, ModelSpec
from panodetr.errors import CheckpointError, CheckpointWarning, UsageError, did_you_mean
from panodetr.files import json_bytes, write_text
from panodetr.model import config as shapes
from panodetr.validation import read_json

DEFAULTS: dict[str, Any] = {
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": None,
    "attention_dropout": 0.0,
    "auxiliary_loss": False,
    "backbone_config": None,
    "bbox_cost": 5,
    "bbox_loss_coefficient": 5,
    "chunk_size_feed_forward": 0,
    "class_cost": 1,
    "d_model": 256,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "dice_loss_coefficient": 1,
    "dilation": False,
    "dtype": None,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_coefficient": 0.1,
    "giou_cost": 2,
    "giou_loss_coefficient": 2,
    "init_std": 0.02,
    "init_xavier_std": 1.0,
    "is_encoder_decoder": True,
    "mask_loss_coefficient": 1,
    "num_channels": 3,
    "num_queries": 100,
    "output_attentions": False,
    "output_hidden_states": False,
    "position_embedding_type": "sine",
    "problem_type": None,
    "return_dict": True,
}
"""What transformers takes where `config.json` does not say."""

LEARNING = (
    *(name for name in DEFAULTS if name.endswith(("_cost", "_coefficient", "_dropout"))),
    "auxiliary_loss",
)
"""Values of how a model learns, which no specification of ours has."""

_OF_ANY = (
    "architectures", "chunk_size_feed_forward", "dtype", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict",
)  # fmt: skip
"""Values that every kind of model has in transformers."""

_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
    "torch_dtype": "dtype",
    "_name_or_path": "name_or_path",
    "use_return_dict": "return_dict",
}


_CLIENT = ("cache_dir", "token", "local_files_only", "force_download")
"""Arguments that are the hub client's."""


_STEPS = "call the processor, with do_resize=False and the like for steps that are not wanted"
REMEDIES = {
    "push_to_hub": "call save_pretrained(folder), and then "
    "huggingface_hub.upload_folder(folder_path=folder, repo_id='owner/name')",
    **dict.fromkeys(("add_adapter", "load_adapter"), "use peft.get_peft_model, peft.PeftModel"),
    **dict.fromkeys(
        ("resize", "rescale", "normalize", "center_crop", "prepare_annotation"), _STEPS
    ),
    "post_process_instance": "use post_process_instance_segmentation",
    **dict.fromkeys(
        ("post_process", "post_process_panoptic", "post_process_segmentation"),
        "use DetrFeatureExtractor, which has it",
    ),
}
"""What to do instead, by names that transformers' classes have and ours have not."""


class MissingModelError(CheckpointError, OSError):
    """There is no such model, for which transformers raises an `OSError`."""


class MissingNameError(UsageError, AttributeError):
    """A class has no such name, which it has in transformers; the line says what to do."""


def missing(owner: object, name: str) -> AttributeError:
    """Make the error of a name that an object has not."""
    line = f"{type(owner).__name__} has no {name!r}"
    if name not in REMEDIES:
        return AttributeError(line)
    return MissingNameError(f"{line}; {REMEDIES[name]}")


def find_model(
    source: str | Path, revision: str | None, options: dict[str, Any], *, weights: bool = True
) -> Path:
    """Locate a model, and take out of `options` what says how: the hub client's, and `subfolder`.

    Raises:
        MissingModelError: there is none.
        UsageError: a `subfolder` of an id on the hub is asked for.
    """
    options["token"] = options.pop("token", options.pop("use_auth_token", None))
    client = {name: options.pop(name) for name in _CLIENT if name in options}
    if subfolder := options.pop("subfolder", None):
        if not Path(source).is_dir():
            raise UsageError(
                f"subfolder of {source} is not supported; fetch it with "
                "huggingface_hub.snapshot_download, and give the folder"
            )
        source = Path(source, subfolder)
    try:
        place = locate(source, revision, weights=weights, client=client)
    except CheckpointError as error:
        raise MissingModelError(str(error)) from error
    described = [place / name for name in (CONFIG_FILE, *(() if weights else (PREPROCESSOR_FILE,)))]
    if place.is_dir() and not any(file.is_file() for file in described):
        raise MissingModelError(
            f"{described[0]} is not there; expected the folder of a model. To one with weights "
            "alone, as transformers.Trainer leaves it, model.config.save_pretrained(folder) adds it"
        )
    return place


class DetrConfig:
    """What a model is made of and how it learns, by transformers' names.

    Any key may be given, and is an attribute afterwards. `id2label` names the classes by their
    index; `num_labels` counts them, and setting it gives them plain names.
    """

    dtype: torch.dtype | None
    id2label: dict[int, str]
    label2id: dict[str, int]
    model_type: ClassVar[str] = "detr"
    sub_configs: ClassVar[dict[str, Any]] = {}
    has_no_defaults_at_init = False

    def __init__(self, **values: Any) -> None:
        count = values.pop("num_labels", None)
        self.name_or_path = values.pop("name_or_path", "")
        for name, value in (copy.deepcopy(DEFAULTS) | values).items():
            setattr(self, name, value)
        labels = values.get("id2label")
        if isinstance(labels, list):
            labels = dict(enumerate(cast("list[str]", labels)))
        self.id2label = {int(key): name for key, name in (labels or {}).items()}
        if labels is None:
            self.num_labels = 2 if count is None else count
        elif count not in (None, len(labels)):
            raise UsageError(
                f"num_labels is {count} and id2label has {len(labels)} names; expected one number"
            )
        if values.get("label2id") is None:
            self.label2id = {name: index for index, name in self.id2label.items()}

    def __getattr__(self, name: str) -> Any:
        """Give a value by its other name.

        Raises:
            AttributeError: there is none of this name.
        """
        if name not in _ALIASES:
            raise missing(self, name)
        return getattr(self, _ALIASES[name])

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value, also by its other name; a type by its own name, too."""
        if name in ("dtype", "torch_dtype") and isinstance(value, str):
            value = getattr(torch, value, value)
        object.__setattr__(self, _ALIASES.get(name, name), value)

    @property
    def num_labels(self) -> int:
        """How many classes there are, the places of the logits but the last."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != len(self.id2label):
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
            self.label2id = {name: index for index, name in self.id2label.items()}

    def to_dict(self) -> dict[str, Any]:
        """Give all values by name, as `config.json` has them, but the keys of `id2label` whole."""
        values = {"model_type": self.model_type, **copy.deepcopy(vars(self))}
        del values["name_or_path"]
        if self.dtype is not None:
            values["dtype"] = str(self.dtype).removeprefix("torch.")
        if hasattr(self.backbone_config, "to_dict"):  # a configuration of transformers
            values["backbone_config"] = self.backbone_config.to_dict()
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """Give the values, but those that every kind of model has and that are as usual."""
        usual, own = DetrConfig().to_dict(), self.to_dict()
        return {k: v for k, v in own.items() if k not in _OF_ANY or v != usual[k]}

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set values by their names."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def __iter__(self) -> Iterator[str]:
        """Go through the values' names."""
        return iter(self.to_dict())

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same."""
        return isinstance(other, DetrConfig) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        """Give the class's name and all values."""
        return f"{type(self).__name__} {self.to_json_string()}"

    def get_text_config(self, **_: object) -> Self:
        """Give the part that is of text, as libraries ask for: a DETR is none, so all of it."""
        return self

    def to_json_string(self, use_diff: bool = True) -> str:
        """Give the contents of a `config.json`, of `to_diff_dict` or of all values."""
        return json_bytes(self.to_diff_dict() if use_diff else self.to_dict()).decode()

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write a `config.json`, as `to_json_string` gives it."""
        write_text(Path(json_file_path), self.to_json_string(use_diff))

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write `config.json` into a folder; `push_to_hub` must be False."""
        if push_to_hub:
            raise missing(self, "push_to_hub")
        self.to_json_file(Path(save_directory) / CONFIG_FILE)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **changes: Any
    ) -> Any:
        """Make one of what `to_dict` gave, or a parsed `config.json`, and change some values.

        Returns:
            The configuration; with `return_unused_kwargs` it and a dictionary of those changes that
            it has no names for.
        """
        return cls(**config_dict)._changed(changes, return_unused_kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Read a `config.json`."""
        return cls.from_dict(read_json(Path(json_file), dict[str, Any], CheckpointError))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        return_unused_kwargs: bool = False,
        **changes: Any,
    ) -> Any:
        """Read a model's configuration, and change some of its values.

        Arguments and errors are those of a model's `from_pretrained`; `return_unused_kwargs` and
        what is given back are those of `from_dict`. No weight is read.
        """
        model = pretrained_model_name_or_path
        place = find_model(model, revision, changes, weights=False)
        spec = load_spec(place) if place.is_dir() else load_spec(model, revision=revision)
        return cls.of_place(place, spec, model)._changed(changes, return_unused_kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a model's configuration as a dictionary; and give what is left of the options."""
        model, options["return_unused_kwargs"] = pretrained_model_name_or_path, True
        found, rest = cls.from_pretrained(model, **options)
        return found.to_dict(), rest

    @classmethod
    def of_place(cls, place: Path, spec: ModelSpec, source: str | Path) -> Self:
        """Read the configuration of a model that was located; of our own folders as `of_spec`."""
        values = their_values(place)
        found = cls(**values) if values else cls.of_spec(spec)
        found.name_or_path = str(source)
        return found

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Set values by their names; None leaves one as it is.

        Raises:
            UsageError: there is no such name, or numbers of labels differ.
        """
        given = {_ALIASES.get(name, name): v for name, v in changes.items() if v is not None}
        if unknown := given.keys() - (known := self._names()):
            name = min(unknown)
            hint = did_you_mean(name, known, "see transformers' DetrConfig for their names")
            raise UsageError(f"there is no argument {name!r}; {hint}")
        kept = self.to_dict()
        if {"num_labels", "id2label"} & given.keys():
            if given.get("num_labels") == self.num_labels and "id2label" not in given:
                del given["num_labels"]
            else:
                del kept["id2label"], kept["label2id"]
        return type(self)(**kept | {"name_or_path": self.name_or_path} | given)

    def _names(self) -> set[str]:
        return {*vars(self), "num_labels"}

    def _changed(
        self, changes: Mapping[str, Any], with_unused: bool
    ) -> Self | tuple[Self, dict[str, Any]]:
        if not with_unused:
            return self.changed(changes)
        known = self._names() | _ALIASES.keys()
        unused = {k: v for k, v in changes.items() if k not in known}
        return self.changed({k: v for k, v in changes.items() if k in known}), unused

    @classmethod
    def of_spec(cls, spec: ModelSpec) -> Self:
        """Describe a model of this package, as far as transformers has words for it."""
        shape = shape_of(spec)
        try:
            values = write_huggingface(spec)[0]
        except ValueError:  # transformers has no such network
            values = write_shape(shape)
            values |= dict.fromkeys(("attention_dropout", "activation_dropout"), shape.dropout)
            values["auxiliary_loss"] = shape.normed_states
        named = {category.index: category.name for category in spec.categories}
        values |= {
            "id2label": {index: named.get(index, UNUSED) for index in range(shape.num_classes)},
            "label2id": {name: index for index, name in named.items()},
        }
        return cls(**values)


@contextmanager
def labels_taken_as_they_are() -> Generator[None, None, None]:
    """Let nobody warn that classes are named by their number: here they are `LABEL_0` and so on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        yield


def their_values(place: Path) -> dict[str, Any]:
    """Read transformers' `config.json` where a model was located; empty where there is none."""
    if not place.is_dir():
        return {}
    values = read_json(place / CONFIG_FILE, dict[str, Any], CheckpointError)
    return values if "model_type" in values else {}


def backbone_kind(config: Any) -> str | None:
    """Give the backbone's `model_type`: "resnet" is transformers' own."""
    inner = config.backbone_config
    return (
        inner.get("model_type")
        if isinstance(inner, Mapping)
        else getattr(inner, "model_type", None)
    )


def shape_of(spec: ModelSpec) -> shapes.DetrConfig:
    """Give a DETR's shape.

    Raises:
        CheckpointError: its queries are conditional, which transformers' DETR hasn't.
    """
    assert isinstance(spec.architecture, shapes.DetrConfig)
    if spec.architecture.conditional:
        raise CheckpointError(
            f"{spec.name} has conditional queries, which transformers' DETR has not; use "
            "panodetr.load"
        )
    return spec.architecture


def spec_of(
    config: Any, kind: str, name: str, preprocessor: Mapping[str, Any] | None = None
) -> ModelSpec:
    """Build the specification that a configuration describes.

    Args:
        config: a `DetrConfig`, of ours or of transformers.
        kind: of the model, by transformers' class name.
        name: of the model.
        preprocessor: as `preprocessor_config.json` has it; None as published models have it.

    Raises:
        CheckpointError: there is no such network here.
    """
    labels = {str(index): label for index, label in config.id2label.items()}
    values = config.to_dict() | {"architectures": [kind], "id2label": labels}
    with labels_taken_as_they_are():
        return read_huggingface(values, preprocessor or {}, name)
