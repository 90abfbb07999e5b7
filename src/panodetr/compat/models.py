"""transformers' DETR classes over our model, for inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from panodetr.checkpoints.huggingface import UNUSED
from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat.outputs import DetrObjectDetectionOutput, DetrSegmentationOutput
from panodetr.errors import CheckpointError, UsageError
from panodetr.model.detr import Detr, Encoded
from panodetr.runtimes.torch import compute_masks


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """What code that was written for transformers asks of `model.config`.

    Attributes:
        name_or_path: what the model is called.
        num_labels: real classes, the places of the logits but the last.
        id2label: names of all places; "N/A" where the data has no class.
        label2id: the named places.
        num_queries: most objects an image can have.
        d_model: width of the transformer.
        auxiliary_loss: whether outputs hold those of the earlier decoder layers.
    """

    name_or_path: str
    num_labels: int
    id2label: dict[int, str]
    label2id: dict[str, int]
    num_queries: int
    d_model: int
    auxiliary_loss: bool


class _Pretrained(nn.Module):
    """A `Detr` that speaks as transformers' classes do."""

    def __init__(self, spec: ModelSpec, detr: Detr, *, auxiliary_loss: bool = False) -> None:
        super().__init__()
        self.spec = spec
        shape, named = spec.architecture, {c.index: c.name for c in spec.categories}
        self.config = PretrainedConfig(
            name_or_path=spec.name,
            num_labels=shape.num_classes,
            id2label={index: named.get(index, UNUSED) for index in range(shape.num_classes)},
            label2id={name: index for index, name in named.items()},
            num_queries=shape.num_queries,
            d_model=detr.config.hidden_dim,
            auxiliary_loss=auxiliary_loss,
        )
        self.detr = detr

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, revision: str | None = None, auxiliary_loss: bool = False
    ) -> Self:
        """Load a model in evaluation mode, with weights that record no gradients.

        Without `torch.no_grad()`, which the model card leaves out, the masks of 100 queries would
        keep some gigabytes for a backward pass; `requires_grad_(True)` brings gradients back.

        Args:
            model: whatever `panodetr.load` takes: a file, a folder, an id on the hub.
            revision: branch, tag or commit, of an id on the hub only.
            auxiliary_loss: whether outputs hold `auxiliary_outputs`, those of the earlier decoder
                layers, each through the decoder's last norm, as in the original.

        Raises:
            CheckpointError: there is no such model, its files are damaged, or it cannot do what
                this class is for.
        """
        spec, detr = load_checkpoint(model, revision=revision)
        if not isinstance(detr, Detr):
            raise CheckpointError(f"{model} is no DETR; use EomtForUniversalSegmentation")
        return cls(spec, detr, auxiliary_loss=auxiliary_loss).requires_grad_(False).eval()

    def save_pretrained(self, path: str | Path, *, format: Format = "panodetr") -> Path:
        """Write the model; `panodetr.checkpoints.save.save_pretrained` says in which formats.

        Returns:
            The folder or the file.

        Raises:
            CheckpointError: the format has no place for this model.
            PanodetrError: the system refused to write.
        """
        return save_pretrained(path, self.spec, self.detr, format=format)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _run(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, labels: object
    ) -> tuple[Encoded, dict[str, Any]]:
        """Run all but the mask head.

        Returns:
            The encoder's output, and the values of `DetrObjectDetectionOutput`.
        """
        if labels is not None:
            raise UsageError(
                "labels were given, and this class computes no loss; train with `panodetr train`, "
                "or leave the labels out"
            )
        padding = None if pixel_mask is None or bool(pixel_mask.all()) else pixel_mask == 0
        encoded = self.detr.encode(pixel_values, padding)
        decoded = self.detr.decode(encoded)  # L, B, Q, D
        *earlier, last = (
            {"logits": self.detr.class_head(states), "pred_boxes": self.detr.box_head(states)}
            for states in (decoded if self.config.auxiliary_loss else decoded[-1:])
        )
        return encoded, {
            **last,
            "auxiliary_outputs": earlier if self.config.auxiliary_loss else None,
            "last_hidden_state": decoded[-1],
            "encoder_last_hidden_state": encoded.memory.flatten(2).transpose(1, 2),  # B, hw, D
            "image_sizes": None if padding is None else _image_sizes(padding),
        }


class DetrForObjectDetection(_Pretrained):
    """DETR for boxes; of a panoptic model, all but its masks."""

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, labels: object = None
    ) -> DetrObjectDetectionOutput:
        """Run the model.

        Args:
            pixel_values: (B, 3, H, W) float, normalised, zeros at padding.
            pixel_mask: (B, H, W), 1 at images and 0 at padding; None where nothing is padded.
            labels: must be None.

        Raises:
            UsageError: labels are given.
        """
        return DetrObjectDetectionOutput(**self._run(pixel_values, pixel_mask, labels)[1])


class DetrForSegmentation(_Pretrained):
    """DETR with its mask head, which is run for every query.

    Most of them find nothing: `panodetr.load(...).segment` computes only the masks that it keeps,
    and is many times faster.
    """

    def __init__(self, spec: ModelSpec, detr: Detr, *, auxiliary_loss: bool = False) -> None:
        if not spec.architecture.masks:
            raise CheckpointError(
                f"model {spec.name} has no mask head, it finds boxes only; "
                "use DetrForObjectDetection"
            )
        super().__init__(spec, detr, auxiliary_loss=auxiliary_loss)

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, labels: object = None
    ) -> DetrSegmentationOutput:
        """Run the model; as `DetrForObjectDetection.forward`."""
        encoded, values = self._run(pixel_values, pixel_mask, labels)
        states = values["last_hidden_state"]
        images, queries, _ = states.shape
        image = torch.arange(images, device=states.device).repeat_interleave(queries)  # BQ
        query = torch.arange(queries, device=states.device).repeat(images)  # BQ
        masks = compute_masks(self.detr, encoded, states, image, query)  # BQ, h, w
        return DetrSegmentationOutput(pred_masks=masks.unflatten(0, (images, queries)), **values)


def _image_sizes(padding: Tensor) -> list[tuple[int, int]]:
    """Read from the padding (B, H, W) how large the images in their corners are."""
    rows, columns = ((~padding).any(dim=axis).sum(dim=1).tolist() for axis in (2, 1))
    return list(zip(rows, columns, strict=True))
