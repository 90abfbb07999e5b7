"""transformers' DETR classes over our model.

Letters: B images, Q queries, D channels, A attention heads, T tokens of the feature map, L decoder
layers, H, W the batch's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from panodetr.checkpoints.load import load_place, locate
from panodetr.checkpoints.names import RESNET_4, RESNET_5, TIMM_4, TIMM_5, NameTable
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import CONFIG_FILE, PREPROCESSOR_FILE, ModelSpec
from panodetr.compat.config import (
    CLIENT,
    LEARNING,
    DetrConfig,
    backbone_kind,
    labels_taken_as_they_are,
    shape_of,
    spec_of,
    their_values,
)
from panodetr.compat.labels import label_losses, read_labels
from panodetr.compat.outputs import DetrObjectDetectionOutput, DetrSegmentationOutput
from panodetr.compat.pretrained import (
    NO_EFFECT,
    adapt,
    choose_device,
    choose_dtype,
    refuse,
    with_classes,
)
from panodetr.compat.record import image_sizes, read_batch, record
from panodetr.errors import CheckpointError, UsageError
from panodetr.files import atomic_write, write_json
from panodetr.model.detr import Detr, Encoded
from panodetr.model.transformer import Attention
from panodetr.objective.matcher import Matches
from panodetr.runtimes.torch import compute_masks
from panodetr.validation import read_json

Output = TypeVar("Output", bound=DetrObjectDetectionOutput)


class _Part(nn.Module):
    """A level of transformers' tree of names: it holds parts of a network, and computes nothing."""

    def freeze_backbone(self) -> None:
        """Let the backbone record no gradients."""
        self.get_submodule("backbone").requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Let the whole backbone record gradients."""
        self.get_submodule("backbone").requires_grad_(True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """What a forward pass is given beside labels; as for `forward`, but for padding and memory."""

    pixels: Tensor
    padding: Tensor | None
    decoder_mask: Tensor | None
    decoder_input: Tensor | None
    memory: Tensor | None
    attentions: bool
    hidden_states: bool


class _Pretrained(nn.Module, Generic[Output]):
    """A `Detr` under transformers' names, which learns as theirs does.

    The network's parts are modules of this one under the names that they have in transformers 5, so
    that weights are frozen, replaced, saved and loaded by those names.
    """

    main_input_name = "pixel_values"
    config_class = DetrConfig
    supports_gradient_checkpointing = False
    accepts_loss_kwargs = False  # the Trainer divides the loss by accumulated steps itself
    _has_masks: bool
    _output: type[Output]

    def __init__(self, config: Any) -> None:
        """Make a model with random weights.

        Args:
            config: a `DetrConfig`, of `panodetr.compat` or of transformers.

        Raises:
            CheckpointError: there is no such network here.
        """
        super().__init__()
        spec = spec_of(config, type(self).__name__, getattr(config, "name_or_path", "") or "detr")
        self._take(spec, Detr(shape_of(spec)), config, backbone_kind(config) == "resnet")

    def _take(self, spec: ModelSpec, network: Detr, config: Any, frozen: bool) -> None:
        """Put transformers' names and configuration on a network; `frozen`: its whole backbone."""
        self.spec = spec
        self.config = config
        self._labels = dict(config.id2label)
        vars(self)["_network"] = network  # not a second place for its weights
        shape = network.config
        tables = (RESNET_4, TIMM_4) if shape.pre_norm else (RESNET_5, TIMM_5)
        timm = backbone_kind(config) == "timm_backbone" or shape.backbone.dilate_last
        self._add_names(tables[timm])
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

    def _add_names(self, table: NameTable) -> None:
        for ours, part in self.network.named_modules():
            if not [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
                continue
            theirs = table.name(f"{ours}.weight", "detr." if self._has_masks else "")
            *parents, last, _ = theirs.split(".")
            place: nn.Module = self
            for parent in parents:
                if parent not in dict(place.named_children()):
                    place.add_module(parent, _Part())
                place = place.get_submodule(parent)
            place.add_module(last, part)

    @classmethod
    def _check(cls, spec: ModelSpec) -> None:
        if cls._has_masks and not spec.architecture.masks:
            raise CheckpointError(
                f"model {spec.name} has no mask head, it finds boxes only; "
                "use DetrForObjectDetection"
            )

    @classmethod
    def _of(cls, spec: ModelSpec, network: Detr, config: Any, frozen: bool) -> Self:
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._take(spec, network, config, frozen)
        return model

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
        **options: Any,
    ) -> Self:
        """Load a model in evaluation mode.

        Its weights record gradients, but for those that transformers freezes, too: all of a
        backbone of transformers' own, and the stem and the first stage of others.

        Args:
            pretrained_model_name_or_path: whatever `panodetr.load` takes: a file, a folder, an id
                on the hub; None with `config` and `state_dict`.
            config: a `DetrConfig` to use instead of the model's own.
            revision: branch, tag or commit, of an id on the hub only.
            ignore_mismatched_sizes: whether weights of other shapes than asked for are started
                anew, such as those of the classes' head with other `num_labels`.
            dtype: of the weights: "float32", "bfloat16" and the like, or "auto", as the
                configuration says; None is float32, or float64 where they are stored so.
            torch_dtype: its older name.
            device_map: "auto", a device, or one device under the key "".
            state_dict: weights to use instead of the model's own, by transformers' names.
            options: values of the configuration (`num_labels`, `id2label`, `auxiliary_loss`, …);
                `cache_dir`, `token`, `local_files_only` and `force_download`, which are the hub
                client's; and arguments of transformers that change nothing here.

        Raises:
            CheckpointError: there is no such model, its files are damaged, or it cannot do what
                this class is for.
            UsageError: an argument is unknown or not supported.
        """
        refuse(options)
        device = choose_device(device_map)
        options["token"] = options.pop("token", options.pop("use_auth_token", None))
        client = {name: options.pop(name) for name in CLIENT if name in options}
        changes = {k: v for k, v in options.items() if k not in (*NO_EFFECT, "attn_implementation")}
        asked = torch_dtype if dtype is None else dtype
        source = pretrained_model_name_or_path
        if source is None:
            if config is None or state_dict is None:
                raise UsageError("without a model there must be a config and a state_dict")
            made = cls(config)
            made.load_state_dict(state_dict)
            return made.to(device=device, dtype=choose_dtype(asked, config)).eval()
        place = locate(source, revision, client=client)
        with labels_taken_as_they_are():
            spec, network = load_place(place, source, keep_double=True)
        if not isinstance(network, Detr):
            raise CheckpointError(f"{source} is no DETR; use panodetr.load")
        own = DetrConfig.of_place(place, spec)
        wanted = config or own.changed({k: v for k, v in changes.items() if v is not None})
        kind = choose_dtype(asked, wanted)
        cls._check(spec)
        spec, network = adapt(
            spec, network, (own, wanted), cls.__name__, ignore_mismatched=ignore_mismatched_sizes
        )
        frozen = backbone_kind(wanted) == "resnet" and bool(their_values(place))
        found = cls._of(spec, network, wanted, frozen)
        if state_dict is not None:
            found.load_state_dict(state_dict)
        return found.to(device=device, dtype=kind).eval()

    def save_pretrained(
        self,
        path: str | Path,
        *,
        format: Format | None = None,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **options: Any,
    ) -> Path:
        """Write the model, into a folder beside what else is there.

        Args:
            path: of the folder; of "facebook" also of the file.
            format: see `panodetr.checkpoints.save.save_pretrained`; None is "huggingface", which
                transformers opens, or where it has no such network "panodetr".
            is_main_process: False writes nothing.
            push_to_hub: must be False.
            options: of transformers' method; they change nothing here.

        Returns:
            The folder or the file.

        Raises:
            CheckpointError: the format has no place for this model.
            PanodetrError: the system refused to write.
        """
        if push_to_hub:
            self.push_to_hub()
        target = Path(path)
        if not is_main_process:
            return target
        self._use_own_head()
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

    def push_to_hub(self, *_: object, **__: object) -> None:
        """Say what to do instead.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "push_to_hub is not supported; call save_pretrained(folder), and then "
            "huggingface_hub.upload_folder(folder_path=folder, repo_id='owner/name')"
        )

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the weights, or those that record gradients, or those that embed nothing."""
        counted = [p for p in self.parameters() if p.requires_grad or not only_trainable]
        embedded = [part.weight for part in self.modules() if isinstance(part, nn.Embedding)]
        left_out = {id(weight) for weight in embedded if exclude_embeddings}
        return sum(weight.numel() for weight in counted if id(weight) not in left_out)

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

    def forward(
        self,
        pixel_values: Tensor | Sequence[Tensor],
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Sequence[Mapping[str, Any]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: object,
    ) -> Output:
        """Run the model.

        In evaluation mode and without labels nothing is kept for a backward pass: one that comes
        computes the forward pass again.

        Args:
            pixel_values: (B, 3, H, W) float, normalised, zeros at padding; or a list of B images
                (3, h, w), which are padded here.
            pixel_mask: (B, H, W), 1 at images and 0 at padding; None where nothing is padded.
            decoder_attention_mask: (B, Q), 1 at queries that others may read; None: at all.
            encoder_outputs: with a `last_hidden_state` (B, T, D), instead of the encoder's.
            inputs_embeds: must be None.
            decoder_inputs_embeds: (B, Q, D), what queries start as; None: zeros.
            labels: one per image, as the processor makes them: `class_labels` (N,), `boxes` (N, 4)
                and for masks `masks` (N, H, W). With them there is a loss.
            output_attentions: whether outputs have attention weights; None as in the configuration.
            output_hidden_states: whether outputs have all layers' states; None likewise.
            return_dict: False gives a tuple of the outputs' values; None as in the configuration.
            ignored: whatever else is given, such as `decoder_input_ids`, as in transformers.

        Raises:
            DataError: labels lack something, are of another number, or out of range.
            UsageError: the pixels have another shape or device, or `inputs_embeds` is given.
        """
        if inputs_embeds is not None:
            raise UsageError("inputs_embeds cannot stand for an image; give pixel_values")
        pixels, padding = read_batch(pixel_values, pixel_mask)
        if pixels.device != self.device:
            raise UsageError(
                f"pixel_values are on {pixels.device} and the model on {self.device}; move them to "
                "one device, and use several with torchrun: DataParallel is not supported"
            )
        if isinstance(encoder_outputs, Sequence):
            encoder_outputs = encoder_outputs[0]
        self._use_own_head()
        given = _Given(
            pixels=pixels,
            padding=padding,
            decoder_mask=decoder_attention_mask,
            decoder_input=decoder_inputs_embeds,
            memory=getattr(encoder_outputs, "last_hidden_state", encoder_outputs),
            attentions=_choose(output_attentions, self.config.output_attentions),
            hidden_states=_choose(output_hidden_states, self.config.output_hidden_states),
        )
        lean = labels is None and not self.training
        run = partial(_recompute, self._predict) if lean else self._predict
        encoded, values = run(given, self._has_masks and labels is None)
        states: Tensor = values.pop("states")
        if labels is not None:
            values |= self._learn(labels, encoded, states, values)
        outputs = self._output(
            **values,
            image_sizes=None if padding is None else image_sizes(padding),
        )
        if _choose(return_dict, self.config.return_dict):
            return outputs
        return cast("Output", outputs.to_tuple())

    def _use_own_head(self) -> None:
        """Take over a head of classes that was put in the place of the model's own."""
        place = self.get_submodule("detr") if self._has_masks else self
        head = cast("nn.Linear", place.get_submodule("class_labels_classifier"))
        self.network.class_head = head
        if head.out_features != self.spec.architecture.num_classes + 1:
            self.config.num_labels = head.out_features - 1
            self.spec = with_classes(self.spec, head.out_features - 1, self.config.id2label)
            self.network.config = shape_of(self.spec)

    def _predict(self, given: _Given, with_masks: bool) -> tuple[Encoded, dict[str, Any]]:
        """Run the network, and give the encoder's output and the output's values by name.

        `states` is one of them, (L, B, Q, D) or the last layer's; and `pred_masks` if asked for.
        """
        network = self.network
        with record(
            network, hidden_states=given.hidden_states, attentions=given.attentions
        ) as seen:
            exact = torch.promote_types(given.pixels.dtype, torch.float32)
            encoded = network.encode(given.pixels, given.padding, exact)
            if given.memory is not None:
                memory = given.memory.transpose(1, 2).view_as(encoded.memory)
                encoded = replace(encoded, memory=memory)
            states = self._decode(encoded, given)
        tokens = encoded.memory.flatten(2).transpose(1, 2)  # B, T, D
        logits, boxes = network.class_head(states[-1]), network.box_head(states[-1])
        values: dict[str, Any] = {
            "states": states,
            "logits": logits,
            "pred_boxes": boxes,
            "last_hidden_state": states[-1],
            "encoder_last_hidden_state": tokens,
        }
        if given.hidden_states:  # the last ones normed, as in transformers
            seen.encoder_hidden_states[-1:] = [tokens]
            seen.decoder_hidden_states[-1:] = [states[-1]]
        values |= {name: tuple(found) for name, found in vars(seen).items() if found}
        if with_masks:
            values["pred_masks"] = self._all_masks(encoded, states[-1])
        return encoded, values

    def _decode(self, encoded: Encoded, given: _Given) -> Tensor:
        """States (L, B, Q, D) of the queries; without an auxiliary loss of the last layer alone.

        With an auxiliary loss each layer hands its normed state on, as in transformers, and the
        last one is normed twice. In the original the next layer reads what was not normed.
        """
        decoder, auxiliary = self.network.decoder, self.config.auxiliary_loss
        memory, positions = (
            maps.flatten(2).transpose(1, 2) for maps in (encoded.memory, encoded.positions)
        )
        padding = None if encoded.padding is None else encoded.padding.flatten(1)  # B, T
        absent = None if given.decoder_mask is None else given.decoder_mask == 0
        queries = self.network.queries.weight[None]  # 1, Q, D
        x = queries.expand(len(memory), *queries.shape)  # B, 1, Q, D
        if given.decoder_input is not None:
            x = given.decoder_input[:, None]
        elif not decoder.position_input:
            x = torch.zeros_like(x)
        states: list[Tensor] = []
        for layer in decoder.layers:
            x = layer(x, queries, memory + positions, memory, padding, absent)
            if auxiliary:
                x = decoder.norm(x)
                states.append(x[:, 0])
        return torch.stack([*states[:-1], decoder.norm(x)[:, 0]])

    def _all_masks(self, encoded: Encoded, states: Tensor) -> Tensor:
        """Mask logits (B, Q, h, w) of all queries."""
        images, queries, _ = states.shape
        image = torch.arange(images, device=states.device).repeat_interleave(queries)  # BQ
        query = torch.arange(queries, device=states.device).repeat(images)  # BQ
        masks = compute_masks(self.network, encoded, states, image, query)  # BQ, h, w
        return masks.unflatten(0, (images, queries))

    def _learn(
        self,
        labels: Sequence[Mapping[str, Any]],
        encoded: Encoded,
        states: Tensor,
        values: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Give the loss and its parts, and all queries' masks, in training once they are read."""
        network, device = self.network, states.device.type

        def masks_of(own: Matches) -> Tensor:
            attention = network.attend(encoded, states[-1], own.image, own.query)  # M, A, h, w
            return network.refine(network.share(encoded), attention, own.image)  # M, h, w

        exact = states.to(network.class_head.weight.dtype)
        with torch.autocast(device, enabled=False):
            logits, boxes = network.class_head(exact), network.box_head(exact)  # L, B, Q, …
        if logits.dtype != torch.float64:
            logits, boxes = logits.float(), boxes.float()
        targets = read_labels(
            labels, states.shape[1], logits.shape[-1] - 1, boxes, with_masks=self._has_masks
        )
        make_masks = masks_of if self._has_masks else None
        loss, parts = label_losses(self.config, logits, boxes, targets, make_masks)
        found: dict[str, Any] = {"loss": loss, "loss_dict": parts}
        if self.config.auxiliary_loss:
            pairs = zip(logits[:-1], boxes[:-1], strict=True)
            found["auxiliary_outputs"] = [{"logits": a, "pred_boxes": b} for a, b in pairs]
        if self._has_masks:
            kind = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

            def later() -> Tensor:
                with torch.autocast(device, *kind):
                    return _recompute(self._all_masks, encoded, states[-1])

            found |= {"compute_masks": later} if self.training else {"pred_masks": later()}
        return found


class DetrForObjectDetection(_Pretrained[DetrObjectDetectionOutput]):
    """DETR for boxes; of a panoptic model, all but its masks."""

    _has_masks = False
    _output = DetrObjectDetectionOutput


class DetrForSegmentation(_Pretrained[DetrSegmentationOutput]):
    """DETR with its mask head.

    In evaluation it is run for every query, most of which find nothing:
    `panodetr.load(...).segment` computes only the masks that it keeps, and is many times faster. In
    training it is run for matched queries alone.
    """

    _has_masks = True
    _output = DetrSegmentationOutput


def _choose(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked


def _recompute(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that keeps nothing for the backward pass, which calls it again."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
