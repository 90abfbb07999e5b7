"""What all model classes share: transformers' names of weights, and loading and saving."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn

from panodetr.checkpoints.load import load_place
from panodetr.checkpoints.names import RESNET_4, RESNET_5, TIMM_4, TIMM_5
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import CONFIG_FILE, PREPROCESSOR_FILE, ModelSpec
from panodetr.compat.adapt import (
    NO_EFFECT,
    REFUSED,
    adapt,
    choose_device,
    choose_dtype,
    new_network,
    refuse,
    with_classes,
)
from panodetr.compat.config import (
    LEARNING,
    REMEDIES,
    DetrConfig,
    backbone_kind,
    find_model,
    labels_taken_as_they_are,
    missing,
    shape_of,
    spec_of,
    their_values,
)
from panodetr.errors import CheckpointError, UsageError, preview
from panodetr.files import atomic_write, write_json
from panodetr.model.detr import Detr
from panodetr.model.transformer import Attention
from panodetr.validation import read_json

_log = logging.getLogger(__name__)

_HEADS = ("class_labels_classifier", "bbox_predictor")


class HasBackbone(nn.Module):
    """A module with a `backbone`."""

    def freeze_backbone(self) -> None:
        """Let the backbone record no gradients."""
        self.get_submodule("backbone").requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Let the whole backbone record gradients."""
        self.get_submodule("backbone").requires_grad_(True)


class _Part(HasBackbone):
    """A level of transformers' tree of names: it holds parts of a network, and computes nothing."""

    def forward(self, *_: object, **__: object) -> None:
        """Say what to do instead.

        Raises:
            UsageError: always.
        """
        raise UsageError("a part of a model cannot be called by itself; call the whole model")


class PretrainedModel(nn.Module):
    """A `Detr` under transformers' names, which learns as theirs does.

    The network's parts are modules of this one under the names that they have in transformers 5, so
    that weights are frozen, replaced, saved and loaded by those names.
    """

    main_input_name = "pixel_values"
    base_model_prefix = "model"
    config_class = DetrConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer divides the loss by accumulated steps itself
    _has_masks = False
    _has_heads = True

    def __init__(self, config: Any) -> None:
        """Make a model with random weights.

        Args:
            config: a `DetrConfig`, of `panodetr.compat` or of transformers.

        Raises:
            CheckpointError: there is no such network here.
        """
        super().__init__()
        spec = spec_of(config, self._kind(), getattr(config, "name_or_path", "") or "detr")
        network = new_network(shape_of(spec), config)
        self._take(spec, network, config, backbone_kind(config) == "resnet")

    def _take(self, spec: ModelSpec, network: Detr, config: Any, frozen: bool) -> None:
        """Put transformers' names and configuration on a network; `frozen`: its whole backbone."""
        self.spec = spec
        self.config = config
        self.is_gradient_checkpointing = getattr(config, "gradient_checkpointing", False)
        self._labels = dict(config.id2label)
        vars(self)["_network"] = network  # not a second place for its weights
        shape = network.config
        tables = (RESNET_4, TIMM_4) if shape.pre_norm else (RESNET_5, TIMM_5)
        timm = backbone_kind(config) == "timm_backbone" or shape.backbone.dilate_last
        self._table = tables[timm]
        self._add_names()
        for layer in (*network.encoder.layers, *network.decoder.layers):
            layer.get_submodule("ffn.2").p = config.activation_dropout
        for part in network.modules():
            if isinstance(part, Attention):
                part.dropout = config.attention_dropout
        # transformers 5 freezes all of its own ResNet, and so does version 4, which also freezes
        # the stem and the first stage of timm's, as the original does of any.
        backbone = network.backbone
        for part in [backbone] if frozen else [backbone.stem_conv, backbone.stages[0]]:
            part.requires_grad_(False)

    def _add_names(self) -> None:
        # By transformers' name: ours, and what the network has there.
        self._places: dict[str, tuple[str, nn.Module]] = {}
        for ours, part in self.network.named_modules():
            if not [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
                continue
            theirs = self._name(f"{ours}.weight")
            if not self._has_heads and theirs.startswith(_HEADS):
                continue
            names = theirs.split(".")[:-1]
            place: nn.Module = self
            for parent, child in pairwise(names):
                if parent not in dict(place.named_children()):
                    place.add_module(parent, nn.ModuleList() if child.isdigit() else _Part())
                place = place.get_submodule(parent)
            place.add_module(names[-1], part)
            self._places[".".join(names)] = ours, part

    def _name(self, ours: str) -> str:
        """Say what a weight of the network is called in transformers."""
        name = self._table.name(ours, "detr." if self._has_masks else "")
        return name if self._has_heads else name.removeprefix("model.")

    @classmethod
    def _kind(cls) -> str:
        """Say which of transformers' classes has all parts of the network."""
        return "DetrForSegmentation" if cls._has_masks else "DetrForObjectDetection"

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *,
        output_loading_info: Literal[False] = False,
        **options: Any,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *,
        output_loading_info: Literal[True],
        **options: Any,
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *,
        config: Any = None,
        revision: str | None = None,
        ignore_mismatched_sizes: bool = False,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: object = None,
        state_dict: Mapping[str, Tensor] | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model in evaluation mode.

        Its weights record gradients, but for those that transformers freezes, too: all of a
        backbone of transformers' own, and the stem and the first stage of others.

        Args:
            pretrained_model_name_or_path: whatever `panodetr.load` takes: a file, a folder, an id
                on the hub; None with `config` and `state_dict`.
            config: to use instead of the model's own: a `DetrConfig`, which is copied, or what its
                `from_pretrained` takes, which `options` change.
            revision: branch, tag or commit, of an id on the hub only.
            ignore_mismatched_sizes: whether weights of other shapes than asked for are started
                anew, such as those of the classes' head with other `num_labels`, and a mask head
                that is not there.
            dtype: of the weights: "float32", "bfloat16" and the like, or "auto", as the
                configuration says; None is float32, or float64 where they are stored so.
            torch_dtype: its older name.
            device_map: "auto", a device, or one device under the key "".
            state_dict: weights to use instead of the model's own, by transformers' names.
            output_loading_info: whether to give the names of weights that are `missing_keys`,
                `unexpected_keys` and `mismatched_keys` (with both shapes) as well.
            options: values of the configuration (`num_labels`, `id2label`, `auxiliary_loss`, …);
                `subfolder` of a folder; `cache_dir`, `token`, `local_files_only` and
                `force_download`, which are the hub client's; and arguments of transformers that
                change nothing here.

        Raises:
            CheckpointError: there is no such model, its files are damaged, or it cannot do what
                this class is for.
            UsageError: an argument is unknown or not supported.
        """
        refuse(options)
        device, source = choose_device(device_map), pretrained_model_name_or_path
        place = None if source is None else find_model(source, revision, options)
        left_out = (*NO_EFFECT, *REFUSED, "attn_implementation")
        changes = {k: v for k, v in options.items() if k not in left_out and v is not None}
        asked = torch_dtype if dtype is None else dtype
        if source is None or place is None:
            if config is None or state_dict is None:
                raise UsageError("without a model there must be a config and a state_dict")
            made = cls(config)
            made.load_state_dict(state_dict)
            return made.to(device=device, dtype=choose_dtype(asked, config)).eval()
        with labels_taken_as_they_are():
            spec, network = load_place(place, source, keep_double=True)
        if not isinstance(network, Detr):
            raise CheckpointError(f"{source} is no DETR; use panodetr.load")
        own = DetrConfig.of_place(place, spec, source)
        if config is None or isinstance(config, str | Path):
            start = own if config is None else DetrConfig.from_pretrained(config)
            wanted: Any = start.changed(changes)
        elif changes:
            raise UsageError(f"{next(iter(changes))} is beside a config; set it in the config")
        else:
            wanted = copy.deepcopy(config)
        kind = choose_dtype(asked, wanted)
        if cls._has_masks and not spec.architecture.masks and not ignore_mismatched_sizes:
            raise CheckpointError(
                f"model {spec.name} has no mask head, it finds boxes only; use "
                "DetrForObjectDetection, or ignore_mismatched_sizes=True to start a mask head anew"
            )
        there = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
        spec, network = adapt(spec, network, (own, wanted), cls._kind())
        frozen = backbone_kind(wanted) == "resnet" and bool(their_values(place))
        found = cls.__new__(cls)
        nn.Module.__init__(found)
        found._take(spec, network, wanted, frozen)
        info = found._compare(there)
        odd = sorted(name for name, *_ in info["mismatched_keys"])
        if odd and not ignore_mismatched_sizes:
            raise CheckpointError(
                f"{len(odd)} weights of {spec.name} have other shapes than asked for "
                f"({preview(odd)}); pass ignore_mismatched_sizes=True to start them anew"
            )
        if new := sorted({*odd, *info["missing_keys"]}):
            _log.warning("%d weights of %s are new: %s", len(new), spec.name, preview(new))
        if state_dict is not None:
            found.load_state_dict(state_dict)
        found = found.to(device=device, dtype=kind).eval()
        return (found, info) if output_loading_info else found

    def _compare(self, there: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Say which weights a file of these shapes, by our names, lacks or has too many.

        transformers' names stand in the answer.
        """
        stored = {self._name(ours): shape for ours, shape in there.items()}
        own = {name: tuple(weight.shape) for name, weight in self.state_dict().items()}
        both = stored.keys() & own.keys()
        return {
            "missing_keys": own.keys() - both,
            "unexpected_keys": stored.keys() - both,
            "mismatched_keys": {(n, stored[n], own[n]) for n in both if stored[n] != own[n]},
            "error_msgs": [],
        }

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        *,
        push_to_hub: bool = False,
        format: Format | None = None,
        **options: Any,
    ) -> Path:
        """Write the model, into a folder beside what else is there.

        Args:
            save_directory: path of the folder; of "facebook" also of the file.
            is_main_process: False writes nothing.
            state_dict: weights to write instead of the model's own, by transformers' names.
            push_to_hub: must be False.
            format: see `panodetr.checkpoints.save.save_pretrained`; None is "huggingface", which
                transformers opens, or where it has no such network "panodetr".
            options: of transformers' method; they change nothing here.

        Returns:
            The folder or the file.

        Raises:
            CheckpointError: the format has no place for this model.
            PanodetrError: the system refused to write.
        """
        if push_to_hub:
            raise missing(self, "push_to_hub")
        target = Path(save_directory)
        if not is_main_process:
            return target
        self._use_replaced_parts()
        if state_dict is not None:
            other = copy.deepcopy(self)
            other.load_state_dict(state_dict)
            return other.save_pretrained(target, format=format)
        spec, labels = self.spec, self.config.id2label
        if labels != self._labels:
            spec = with_classes(spec, spec.architecture.num_classes, labels)
        shape = replace(shape_of(spec), normed_states=self.config.auxiliary_loss)
        spec = replace(spec, architecture=shape)
        if format == "facebook":
            return save_pretrained(target, spec, self.network, format=format)
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".saving-", dir=target.parent) as made:
            folder = Path(made) / "model"
            try:
                save_pretrained(folder, spec, self.network, format=format or "huggingface")
            except CheckpointError:
                if format is not None:
                    raise
                save_pretrained(folder, spec, self.network)
            described = read_json(folder / CONFIG_FILE, dict[str, Any], CheckpointError)
            if "model_type" in described:
                described |= {name: getattr(self.config, name) for name in LEARNING}
                described["id2label"] = {str(index): name for index, name in labels.items()}
                described["label2id"] = self.config.label2id
                write_json(folder / CONFIG_FILE, described)
            for file in folder.iterdir():
                if file.name == PREPROCESSOR_FILE and (target / file.name).exists():
                    continue  # a processor's own
                with atomic_write(target / file.name) as temporary:
                    file.replace(temporary)
        return target

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the weights, or those that record gradients, or those that embed nothing."""
        counted = [p for p in self.parameters() if p.requires_grad or not only_trainable]
        embedded = [part.weight for part in self.modules() if isinstance(part, nn.Embedding)]
        left_out = {id(weight) for weight in embedded if exclude_embeddings}
        return sum(weight.numel() for weight in counted if id(weight) not in left_out)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Count the bytes of the weights, and of the buffers unless those are left out."""
        counted = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(weight.nbytes for weight in counted)

    def _use_replaced_parts(self) -> None:
        """Compute with what was put in the place of parts: another head of classes, adapters.

        Raises:
            UsageError: something else was put in the place of a part with parts.
        """
        there = dict(self.named_modules())
        for theirs, (ours, part) in self._places.items():
            if theirs not in there:
                raise UsageError(f"{theirs} is gone; replace single layers, under their own names")
            if there[theirs] is not part:
                self.network.set_submodule(ours, there[theirs])
                self._places[theirs] = ours, there[theirs]
        classes = self.network.class_head.out_features - 1
        if classes != self.spec.architecture.num_classes:
            self.config.num_labels = classes
            self.spec = with_classes(self.spec, classes, self.config.id2label)
            self.network.config = shape_of(self.spec)

    @classmethod
    def _from_config(cls, config: Any, **_: object) -> Self:
        """Make a model of a configuration, as libraries do."""
        return cls(config)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model writes text, as libraries ask."""
        return False

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Take "sdpa" or "eager", which compute the same here; others are refused."""
        refuse({"attn_implementation": attn_implementation})

    def gradient_checkpointing_enable(self, *_: object, **__: object) -> None:
        """Compute blocks and layers again in the backward pass, which takes less memory.

        transformers' arguments change nothing here.
        """
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything for the backward pass."""
        self.is_gradient_checkpointing = False

    activation_checkpointing_enable = gradient_checkpointing_enable  # since transformers 5
    activation_checkpointing_disable = gradient_checkpointing_disable

    def __getattr__(self, name: str) -> Any:
        """Give a part by its name.

        Raises:
            AttributeError: there is none; of a name of transformers the line says what to do.
        """
        if name in REMEDIES:
            raise missing(self, name)
        return super().__getattr__(name)

    @property
    def base_model(self) -> nn.Module:
        """What is below the heads, where it has a place of its own; else the model."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def name_or_path(self) -> str:
        """Where the model came from; empty of a new one."""
        return getattr(self.config, "name_or_path", "")

    @property
    def network(self) -> Detr:
        """The network that computes."""
        return vars(self)["_network"]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """Set the mode: dropout is on in training, and `pred_masks` are computed when read."""
        self.network.train(mode)
        return super().train(mode)
