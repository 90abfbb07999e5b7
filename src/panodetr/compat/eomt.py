"""transformers' EoMT classes over our model, for inference.

B: images, Q: queries, C: classes, N: kept queries, y, x: a mask's size, H, W: a result's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.checkpoints.eomt import write_eomt
from panodetr.checkpoints.load import load_checkpoint, load_spec
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat.inputs import BatchFeature, ImageInput, TensorKind, make_inputs
from panodetr.compat.options import ProcessorOptions
from panodetr.errors import CheckpointError, UsageError
from panodetr.model.eomt import Eomt

Sizes = Tensor | Sequence[Sequence[int] | Tensor]
"""Height and width of each image."""


@dataclass(kw_only=True, eq=False)
class EomtForUniversalSegmentationOutput:
    """Classes and masks of a batch.

    Attributes:
        class_queries_logits: (B, Q, C + 1), the last being "no object".
        masks_queries_logits: (B, Q, y, x) logits over the whole input.
        patch_offsets: as they were given.
    """

    class_queries_logits: Tensor
    masks_queries_logits: Tensor
    patch_offsets: Sequence[Tensor] | None = None

    def __getitem__(self, key: str) -> Any:
        """Give a value by its name."""
        return getattr(self, key)


class EomtForUniversalSegmentation(nn.Module):
    """EoMT with the masks of every query.

    Most of them find nothing: `panodetr.load(...).segment` computes only the masks that it keeps.
    """

    def __init__(self, spec: ModelSpec, eomt: Eomt) -> None:
        super().__init__()
        self.spec, self.eomt = spec, eomt
        self.config = eomt.config

    @classmethod
    def from_pretrained(cls, model: str | Path, *, revision: str | None = None) -> Self:
        """Load a model in evaluation mode, with weights that record no gradients.

        Args:
            model: whatever `panodetr.load` takes: a file, a folder, an id on the hub.
            revision: branch, tag or commit, of an id on the hub only.

        Raises:
            CheckpointError: there is no such model, its files are damaged, or it is no EoMT.
        """
        spec, network = load_checkpoint(model, revision=revision)
        if not isinstance(network, Eomt):
            raise CheckpointError(f"{model} is no EoMT; use DetrForSegmentation")
        return cls(spec, network).requires_grad_(False).eval()

    def save_pretrained(self, path: str | Path, *, format: Format = "panodetr") -> Path:
        """Write the model; `panodetr.checkpoints.save.save_pretrained` says in which formats."""
        return save_pretrained(path, self.spec, self.eomt, format=format)

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: object = None,
        class_labels: object = None,
        patch_offsets: Sequence[Tensor] | None = None,
    ) -> EomtForUniversalSegmentationOutput:
        """Run the model; no attention is masked.

        Args:
            pixel_values: (B, 3, H, W) float, normalised.
            mask_labels: must be None.
            class_labels: must be None.
            patch_offsets: of the windows that images were split into; handed on.

        Raises:
            UsageError: labels are given.
        """
        if mask_labels is not None or class_labels is not None:
            raise UsageError(
                "labels were given, and this class computes no loss; train with `panodetr train`, "
                "or leave the labels out"
            )
        found = self.eomt.detect(pixel_values)
        return EomtForUniversalSegmentationOutput(
            class_queries_logits=found.logits,
            masks_queries_logits=self.eomt.every_mask(found),
            patch_offsets=patch_offsets,
        )


class EomtImageProcessor:
    """Prepares images as transformers' class of this name, and reads outputs.

    Every option of `OPTIONS` can be given here, and once more with a call, for that call.
    """

    OPTIONS = (
        "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize",
        "image_mean", "image_std", "do_pad", "do_split_image",
    )  # fmt: skip

    def __init__(self, **options: Any) -> None:
        usual = {"size": {"shortest_edge": 640, "longest_edge": 640}, "do_pad": False}
        self.do_split_image = bool(options.pop("do_split_image", False))
        self.options = ProcessorOptions().changed(usual | options)
        self.stuff: tuple[int, ...] = ()

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, revision: str | None = None, **options: Any
    ) -> Self:
        """Make the processor that belongs to a model.

        Args:
            model: whatever `panodetr.load` takes.
            revision: branch, tag or commit, of an id on the hub only.
            options: what is to differ from the model's own.

        Raises:
            CheckpointError: there is no such model, or its files are damaged.
            UsageError: there is no such option.
        """
        spec = load_spec(model, revision=revision)
        own = {k: v for k, v in write_eomt(spec)[1].items() if k in cls.OPTIONS}
        rule = spec.preprocessing
        own["size"] = {"shortest_edge": rule.short_side, "longest_edge": rule.long_side}
        own["do_pad"] = rule.multiple == rule.long_side
        processor = cls(**(own | options))
        processor.stuff = tuple(c.index for c in spec.categories if not c.is_thing)
        return processor

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        return_tensors: TensorKind | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Resize images, split them or pad them with black to the size, rescale and normalise.

        Args:
            images: one, or a list, as `DetrImageProcessor` takes them.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists of arrays.
            options: what is to differ for this call.

        Returns:
            `pixel_values` (B, 3, H, W), and `patch_offsets`: of each window that images were split
            into, its image, start and end.

        Raises:
            ImageError: an image is of none of these forms.
            UsageError: an option is wrong.
        """
        split = bool(options.pop("do_split_image", self.do_split_image))
        rule = self.options.changed(options)
        side = self._side(rule.size)
        plain = replace(rule, do_pad=False)
        made = make_inputs(images, None, plain, masks=None, folder=None, kind=None)
        values: list[Any] = made["pixel_values"]
        offsets: list[list[int]] = []
        if split:
            windows = [_split(value, side[0]) for value in values]
            offsets = [[n, *ends] for n, own in enumerate(windows) for _, ends in own]
            values = [part for own in windows for part, _ in own]
        if rule.do_pad:
            black = np.zeros((3, 1, 1), np.float32)
            if rule.do_normalize:
                mean, std = (np.array(v, np.float32) for v in (rule.image_mean, rule.image_std))
                black = (-mean / std)[:, None, None]
            values = [_pad(value, side, black) for value in values]
        found = BatchFeature(pixel_values=values)
        if return_tensors is not None:
            if len({value.shape for value in values}) > 1:
                raise UsageError("the images have several sizes; pass do_pad=True")
            stacked = np.stack(values)
            found["pixel_values"] = torch.from_numpy(stacked) if return_tensors == "pt" else stacked
        found["patch_offsets"] = [torch.tensor(one) for one in offsets]
        return found

    preprocess = __call__

    def post_process_panoptic_segmentation(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        target_sizes: Sizes,
        threshold: float = 0.8,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        stuff_classes: Collection[int] | None = None,
        size: Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """Give each image's segments: the paper's rule, with every threshold to choose.

        Args:
            outputs: of a model.
            target_sizes: height and width of each result, (B, 2).
            threshold: scores up to and including it are dropped.
            mask_threshold: from where on a pixel is a mask's.
            overlap_mask_area_threshold: the share of its mask that a segment must win.
            stuff_classes: class indices whose segments become one; None: none.
            size: of the input, as the option; None takes the processor's own.

        Returns:
            `segmentation`, ids (H, W), -1 for nothing, and `segments_info`, for each image.
        """
        results: list[dict[str, Any]] = []
        masks = self._masks(outputs, target_sizes, size)
        for logits, own in zip(outputs.class_queries_logits, masks, strict=True):
            scores, labels = logits.softmax(-1).max(-1)
            kept = (labels != logits.shape[-1] - 1) & (scores > threshold)
            scores, labels, chances = scores[kept], labels[kept], own[kept].sigmoid()
            ids = torch.full(own.shape[1:], -1, dtype=torch.long, device=own.device)
            if not len(scores):
                results.append({"segmentation": ids.float(), "segments_info": []})
                continue
            winner = (scores[:, None, None] * chances).argmax(0)
            segments: list[dict[str, Any]] = []
            stuff: dict[int, int] = {}
            named = zip(scores.tolist(), labels.tolist(), strict=True)
            for query, (score, label) in enumerate(named):
                won, inside = winner == query, chances[query] >= mask_threshold
                seen = won & inside
                share = won.sum() / inside.sum()
                if not seen.any() or not share.item() > overlap_mask_area_threshold:
                    continue
                if label in stuff:
                    ids[seen] = stuff[label]
                    continue
                if label in (stuff_classes or ()):
                    stuff[label] = len(segments)
                ids[seen] = len(segments)
                segments.append({"id": len(segments), "label_id": label, "score": round(score, 6)})
            results.append({"segmentation": ids, "segments_info": segments})
        return results

    def post_process_instance_segmentation(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        target_sizes: Sizes,
        threshold: float = 0.8,
        size: Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """Give each image's masks that score enough, later ones above earlier ones.

        A score is the best class's times the mean probability of the mask's pixels. Arguments and
        results are those of `post_process_panoptic_segmentation`; a score at the threshold stays.
        """
        results: list[dict[str, Any]] = []
        masks = self._masks(outputs, target_sizes, size)
        for logits, own in zip(outputs.class_queries_logits, masks, strict=True):
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            inside = (own > 0).float()
            sums = (own.sigmoid().flatten(1) * inside.flatten(1)).sum(1)
            scores = scores * (sums / (inside.flatten(1).sum(1) + 1e-6))
            ids = torch.zeros(own.shape[1:], device=own.device) - 1
            segments: list[dict[str, Any]] = []
            for query, score in enumerate(scores.tolist()):
                if score >= threshold and inside[query].any():
                    ids[inside[query] == 1] = len(segments)
                    segments.append(
                        {
                            "id": len(segments),
                            "label_id": int(labels[query]),
                            "score": round(score, 6),
                        }
                    )
            results.append({"segmentation": ids, "segments_info": segments})
        return results

    def post_process_semantic_segmentation(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        target_sizes: Sizes,
        size: Mapping[str, int] | None = None,
    ) -> list[Tensor]:
        """Give each image's pixels (H, W) their class; windows of an image are joined first.

        Arguments are those of `post_process_panoptic_segmentation`.
        """
        rule = self.options if size is None else self.options.changed({"size": size})
        side, sizes = self._side(rule.size), _pairs(target_sizes)
        chances = outputs.class_queries_logits.softmax(-1)[..., :-1]
        masks = F.interpolate(outputs.masks_queries_logits, side, mode="bilinear").sigmoid()
        classes = torch.einsum("bqc,bqhw->bchw", chances, masks)
        if outputs.patch_offsets:
            classes = _join(classes, outputs.patch_offsets, sizes, rule)
        return [
            F.interpolate(own[None], target, mode="bilinear")[0].argmax(0)
            for own, target in zip(classes, sizes, strict=True)
        ]

    def _masks(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        sizes: Sizes,
        size: Mapping[str, int] | None,
    ) -> list[Tensor]:
        """Mask logits (Q, H, W) of each image, without what was padded."""
        rule = self.options if size is None else self.options.changed({"size": size})
        masks = F.interpolate(outputs.masks_queries_logits, self._side(rule.size), mode="bilinear")
        found: list[Tensor] = []
        for own, target in zip(masks, _pairs(sizes), strict=True):
            height, width = rule.target_size(target)
            shown = own[None, :, :height, :width]
            found.append(F.interpolate(shown, target, mode="bilinear")[0])
        return found

    @staticmethod
    def _side(size: Mapping[str, int]) -> tuple[int, int]:
        """Height and width of the network's input."""
        return size["shortest_edge"], size.get("longest_edge") or size["shortest_edge"]


def _pairs(sizes: Sizes) -> list[tuple[int, int]]:
    return [(int(height), int(width)) for height, width in sizes]


def _pad(pixels: Any, size: tuple[int, int], black: Any) -> Any:
    """Put an image (3, h, w) into the upper left corner of a canvas."""
    height, width = (max(pair) for pair in zip(size, pixels.shape[1:], strict=True))
    canvas = np.broadcast_to(black, (3, height, width)).copy()
    canvas[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return canvas


def _split(pixels: Any, side: int) -> list[tuple[Any, tuple[int, int]]]:
    """Cut an image (3, h, w) into windows along its longer side, evenly spread."""
    longer = max(pixels.shape[1:])
    count = -(-longer // side)
    step = side - (count * side - longer) / (count - 1) if count > 1 else side
    starts = [int(number * step) for number in range(count)]
    tall = pixels.shape[1] > pixels.shape[2]
    return [
        (pixels[:, s : s + side] if tall else pixels[:, :, s : s + side], (s, s + side))
        for s in starts
    ]


def _join(
    classes: Tensor,
    offsets: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    rule: ProcessorOptions,
) -> list[Tensor]:
    """Lay the windows' classes (C, side, side) over their images, the mean where they overlap."""
    sums: list[Tensor] = []
    for size in sizes:
        sums.append(classes.new_zeros(2, classes.shape[1], *rule.target_size(size)))
    for own, (image, start, end) in zip(classes, (o.tolist() for o in offsets), strict=True):
        tall = sizes[image][0] > sizes[image][1]
        part = sums[image][:, :, start:end] if tall else sums[image][..., start:end]
        part[0] += own
        part[1] += 1
    return [total / count.clamp(min=1) for total, count in sums]
