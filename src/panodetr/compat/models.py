"""transformers' DETR classes over our model.

Letters: B images, Q queries, D channels, A attention heads, T tokens of the feature map, L decoder
layers, H, W the batch's size.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from panodetr.compat.labels import label_losses, read_labels
from panodetr.compat.outputs import (
    DetrModelOutput,
    DetrObjectDetectionOutput,
    DetrSegmentationOutput,
)
from panodetr.compat.pretrained import HasBackbone, PretrainedModel
from panodetr.compat.record import image_sizes, read_batch, record
from panodetr.errors import UsageError
from panodetr.model.detr import Detr, Encoded
from panodetr.objective.criterion import Matches
from panodetr.runtimes.torch import compute_masks

Output = TypeVar("Output", bound=DetrObjectDetectionOutput)


class _Model(PretrainedModel, Generic[Output]):
    """What a forward pass gives, and what it learns."""

    _output: type[Output]

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
            UsageError: the pixels have another shape or device, or something is given that this
                model cannot use.
        """
        if labels is not None and not self._has_heads:
            raise UsageError("DetrModel has no loss; use DetrForObjectDetection, or no labels")
        if inputs_embeds is not None:
            raise UsageError("inputs_embeds cannot stand for an image; give pixel_values")
        channels = self.network.config.backbone.inputs
        pixels, padding = read_batch(pixel_values, pixel_mask, channels)
        if pixels.device != self.device:
            raise UsageError(
                f"pixel_values are on {pixels.device} and the model on {self.device}; move them to "
                "one device, and use several with torchrun: DataParallel is not supported"
            )
        if isinstance(encoder_outputs, Sequence):
            encoder_outputs = encoder_outputs[0]
        self._use_replaced_parts()
        attentions = _choose(output_attentions, self.config.output_attentions)
        predict = partial(
            self._predict,
            pixels,
            padding,
            absent=None if decoder_attention_mask is None else decoder_attention_mask == 0,
            start=decoder_inputs_embeds,
            memory=getattr(encoder_outputs, "last_hidden_state", encoder_outputs),
            attentions=attentions,
            hidden_states=_choose(output_hidden_states, self.config.output_hidden_states),
            with_masks=self._has_masks and labels is None,
        )
        lean = labels is None and not self.training
        # Attention weights are recorded on the way, which a second pass would not do.
        again = self.is_gradient_checkpointing and self.training and not attentions
        with _parts_recomputed(self.network) if again else nullcontext():
            encoded, values = _recompute(predict) if lean else predict()
            states: Tensor = values.pop("states")
            if labels is not None:
                values |= self._learn(labels, encoded, states, values)
        outputs = self._output(
            **values,
            image_sizes=None if padding is None else image_sizes(padding),
            mask_stride=4 * 2 ** self.network.config.mask_stages[-1],
        )
        if _choose(return_dict, self.config.return_dict):
            return outputs
        return cast("Output", outputs.to_tuple())

    def _predict(
        self,
        pixels: Tensor,
        padding: Tensor | None,
        *,
        absent: Tensor | None,
        start: Tensor | None,
        memory: Tensor | None,
        attentions: bool,
        hidden_states: bool,
        with_masks: bool,
    ) -> tuple[Encoded, dict[str, Any]]:
        """Run the network, and give the encoder's output and the output's values by name.

        `states` is one of them, (L, B, Q, D), or without an auxiliary loss the last layer's alone.
        """
        network = self.network
        network.decoder.normed_states = self.config.auxiliary_loss
        with record(network, hidden_states=hidden_states, attentions=attentions) as seen:
            exact = torch.promote_types(pixels.dtype, torch.float32)
            encoded = network.encode(pixels, padding, exact)
            if memory is not None:
                memory = memory.transpose(1, 2).view_as(encoded.memory)
                encoded = replace(encoded, memory=memory)
            states = network.decode(encoded, absent, start)
        states = states if self.config.auxiliary_loss else states[-1:]
        tokens = encoded.memory.flatten(2).transpose(1, 2)  # B, T, D
        values: dict[str, Any] = {
            "states": states,
            "last_hidden_state": states[-1],
            "encoder_last_hidden_state": tokens,
        }
        if self._has_heads:
            values |= {
                "logits": network.class_head(states[-1]),
                "pred_boxes": network.box_head(states[-1]),
            }
        if hidden_states:  # the last ones normed, as in transformers
            seen["encoder_hidden_states"][-1:] = [tokens]
            seen["decoder_hidden_states"][-1:] = [states[-1]]
        values |= {name: tuple(found) for name, found in seen.items()}
        if with_masks:
            values["pred_masks"] = self._all_masks(encoded, states[-1])
        return encoded, values

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


class DetrModel(HasBackbone, _Model[DetrModelOutput]):
    """DETR without its heads. It is saved with those that it was loaded with, or random ones."""

    _has_heads = False
    _output = DetrModelOutput


class DetrForObjectDetection(_Model[DetrObjectDetectionOutput]):
    """DETR for boxes; of a panoptic model, all but its masks."""

    _output = DetrObjectDetectionOutput


class DetrForSegmentation(_Model[DetrSegmentationOutput]):
    """DETR with its mask head.

    In evaluation it is run for every query, most of which find nothing:
    `panodetr.load(...).segment` computes only the masks that it keeps, and is many times faster. In
    training it is run for matched queries alone.
    """

    _has_masks = True
    _output = DetrSegmentationOutput


def _choose(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked


@contextmanager
def _parts_recomputed(network: Detr) -> Generator[None, None, None]:
    """Let blocks and layers keep their inputs alone, and compute the rest again when it is needed.

    Blocks with live batch norms keep everything: they would count the batch twice.
    """
    parts = [
        part
        for part in network.repeated()
        if not any(isinstance(inner, nn.BatchNorm2d) for inner in part.modules())
    ]
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


_recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Calls a function that keeps nothing for the backward pass, which calls it again."""
