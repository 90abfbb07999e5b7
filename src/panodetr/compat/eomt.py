"""transformers' EoMT classes over our model.

B: images, Q: queries, C: classes, N: objects, y, x: a mask's size, H, W: a result's, h, w: an
input's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.checkpoints.eomt import write_eomt
from panodetr.checkpoints.load import load_checkpoint, load_spec, locate
from panodetr.checkpoints.save import Format, save_pretrained
from panodetr.checkpoints.spec import PREPROCESSOR_FILE, ModelSpec
from panodetr.compat.inputs import BatchFeature, ImageInput, TensorKind, make_inputs
from panodetr.compat.labels import mean_totals, read_labels
from panodetr.compat.options import ProcessorOptions
from panodetr.compat.postprocess import Sizes, sizes_of
from panodetr.errors import CheckpointError, DataError, ImageError, UsageError
from panodetr.model.eomt import Eomt, EomtFound
from panodetr.objective.config import EOMT_CRITERION
from panodetr.objective.criterion import weighted_sum
from panodetr.objective.eomt import point_losses
from panodetr.validation import read_json


@dataclass(kw_only=True, eq=False)
class EomtForUniversalSegmentationOutput:
    """Classes and masks of a batch.

    Attributes:
        class_queries_logits: (B, Q, C + 1), the last being "no object".
        masks_queries_logits: (B, Q, y, x) logits over the whole input.
        patch_offsets: as they were given.
        loss: to minimise; None without labels.
    """

    class_queries_logits: Tensor
    masks_queries_logits: Tensor
    patch_offsets: Sequence[Tensor] | None = None
    loss: Tensor | None = None

    def __getitem__(self, key: str) -> Any:
        """Give a value by its name."""
        return getattr(self, key)


class EomtForUniversalSegmentation(nn.Module):
    """EoMT with the masks of every query, and its loss. No attention is masked.

    Most queries find nothing: `panodetr.load(...).segment` computes only the masks that it keeps.
    """

    def __init__(self, spec: ModelSpec, eomt: Eomt) -> None:
        super().__init__()
        self.spec, self.eomt = spec, eomt
        self.config = eomt.config

    @classmethod
    def from_pretrained(cls, model: str | Path, *, revision: str | None = None) -> Self:
        """Load a model in evaluation mode.

        Args:
            model: whatever `panodetr.load` takes: a file, a folder, an id on the hub.
            revision: branch, tag or commit, of an id on the hub only.

        Raises:
            CheckpointError: there is no such model, its files are damaged, or it is no EoMT.
        """
        spec, network = load_checkpoint(model, revision=revision)
        if not isinstance(network, Eomt):
            raise CheckpointError(f"{model} is no EoMT; use DetrForSegmentation")
        return cls(spec, network).eval()

    def save_pretrained(self, path: str | Path, *, format: Format = "panodetr") -> Path:
        """Write the model; `panodetr.checkpoints.save.save_pretrained` says in which formats."""
        return save_pretrained(path, self.spec, self.eomt, format=format)

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: Sequence[Tensor] | None = None,
        class_labels: Sequence[Tensor] | None = None,
        patch_offsets: Sequence[Tensor] | None = None,
    ) -> EomtForUniversalSegmentationOutput:
        """Run the model; with labels of both kinds there is a loss, by the published weights.

        In training each query block's predictions have losses, too. In evaluation without labels
        nothing is kept for a backward pass.

        Args:
            pixel_values: (B, 3, h, w) float, normalised.
            mask_labels: (N, h, w) of each image, 0 or 1.
            class_labels: (N,) of each image.
            patch_offsets: of the windows that images were split into; handed on.

        Raises:
            DataError: labels do not fit the images, the model, or each other.
        """
        labels = None
        if mask_labels is not None and class_labels is not None:
            if len(mask_labels) != len(class_labels):
                raise DataError(
                    f"there are {len(mask_labels)} mask_labels and {len(class_labels)} "
                    "class_labels; expected one of each per image"
                )
            labels = [
                {"masks": masks, "class_labels": classes, "boxes": masks.new_zeros(len(masks), 4)}
                for masks, classes in zip(mask_labels, class_labels, strict=True)
            ]
        learns = self.training or labels is not None
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            blocks = [0.0] * self.config.query_blocks if self.training else ()
            found = self.eomt.every_block(pixel_values, blocks)
            masks = self.eomt.every_mask(found[-1])
            loss = None if labels is None else self._loss(found, masks, labels)
        return EomtForUniversalSegmentationOutput(
            class_queries_logits=found[-1].logits,
            masks_queries_logits=masks,
            patch_offsets=patch_offsets,
            loss=loss,
        )

    def _loss(
        self, found: Sequence[EomtFound], last: Tensor, labels: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """The sum over all predictions, of which the last one's masks (B, Q, y, x) are there."""
        logits, shape = found[-1].logits, self.config
        targets = read_labels(labels, len(logits), shape.num_classes, logits, with_masks=True)
        totals = mean_totals(targets, shape.num_queries, EOMT_CRITERION.no_object)
        parts: list[Tensor] = []
        for one in found:
            masks = last if one is found[-1] else self.eomt.every_mask(one)
            losses = point_losses(one.logits, masks, targets, EOMT_CRITERION, totals)
            parts.append(weighted_sum(losses, EOMT_CRITERION))
        return torch.stack(parts).sum()


class EomtImageProcessor:
    """Prepares images as transformers' class of this name, and reads outputs.

    Every option of `OPTIONS` can be given here, and once more with a call, for that call.
    """

    OPTIONS = (
        "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize",
        "image_mean", "image_std", "do_pad", "do_split_image", "ignore_index",
    )  # fmt: skip

    def __init__(self, **options: Any) -> None:
        usual = {"size": {"shortest_edge": 640, "longest_edge": 640}, "do_pad": False}
        self.do_split_image = bool(options.pop("do_split_image", False))
        self.ignore_index: int | None = options.pop("ignore_index", None)
        self.options = ProcessorOptions().changed(usual | options)

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
        place = locate(model, revision, weights=False)
        if (file := place / PREPROCESSOR_FILE).is_file():
            stored = read_json(file, dict[str, Any], CheckpointError)
        else:
            spec = load_spec(place)
            rule, stored = spec.preprocessing, write_eomt(spec)[1]
            stored["size"] = {"shortest_edge": rule.short_side, "longest_edge": rule.long_side}
            stored["do_pad"] = rule.multiple == rule.long_side
        own = {name: value for name, value in stored.items() if name in cls.OPTIONS}
        return cls(**(own | options))

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Mapping[int, int] | Sequence[Mapping[int, int]] | None = None,
        *,
        return_tensors: TensorKind | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Resize images, split them or pad them with black to the size, rescale and normalise.

        Args:
            images: one, or a list, as `DetrImageProcessor` takes them.
            segmentation_maps: ids (H, W) of one image, or of each: PIL images, arrays or tensors.
                They are resized to the nearest pixel, split, and padded with 0. With the option
                `ignore_index` 0 is no object's, and the classes of all others are one less.
            instance_id_to_semantic_id: class by id, for all images or for each; None where maps
                have classes.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists of arrays.
            options: what is to differ for this call.

        Returns:
            `pixel_values` (B, 3, h, w), and `patch_offsets`: of each window that images were split
            into, its image, start and end. With maps, tensors for each of the B: `mask_labels`
            (N, h, w) float32, 0 or 1, and `class_labels` (N,) int64.

        Raises:
            ImageError: an image or a map is of none of these forms.
            DataError: an id of a map has no class.
            UsageError: an option, or the number of maps, is wrong.
        """
        split = bool(options.pop("do_split_image", self.do_split_image))
        ignored = options.pop("ignore_index", self.ignore_index)
        rule = self.options.changed(options)
        plain = replace(rule, do_pad=False)
        made = make_inputs(images, None, plain, masks=None, folder=None, kind=None)
        black = np.zeros((3, 1, 1), np.float32)
        if rule.do_normalize:
            mean, std = (np.array(v, np.float32) for v in (rule.image_mean, rule.image_std))
            black = (-mean / std)[:, None, None]
        values, offsets = self._arrange(made["pixel_values"], rule, black, split=split)
        found = BatchFeature(pixel_values=values)
        if return_tensors is not None:
            if len({value.shape for value in values}) > 1:
                raise UsageError("the images have several sizes; pass do_pad=True")
            stacked = np.stack(values)
            found["pixel_values"] = torch.from_numpy(stacked) if return_tensors == "pt" else stacked
        found["patch_offsets"] = [torch.tensor(one) for one in offsets]
        if segmentation_maps is None:
            return found
        maps = [_resize_ids(ids, rule) for ids in _list_maps(segmentation_maps)]
        if len(maps) != len(made["pixel_values"]):
            raise UsageError(
                f"{len(maps)} segmentation maps were given for {len(made['pixel_values'])} images; "
                "expected one per image"
            )
        classes = instance_id_to_semantic_id
        if isinstance(classes, Mapping | None):
            classes = [classes] * len(maps)
        maps, windows = self._arrange(maps, rule, 0, split=split)
        owners = [window[0] for window in windows] or range(len(maps))
        labels = [
            _labels_of(ids[0], classes[owner], ignored)
            for owner, ids in zip(owners, maps, strict=True)
        ]
        found["mask_labels"], found["class_labels"] = map(list, zip(*labels, strict=True))
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
                    label = int(labels[query])
                    segments.append(
                        {"id": len(segments), "label_id": label, "score": round(score, 6)}
                    )
            results.append({"segmentation": ids, "segments_info": segments})
        return results

    def post_process_semantic_segmentation(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        target_sizes: Sizes,
        size: Mapping[str, int] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[BatchFeature]:
        """Give each image's pixels (H, W) their class; windows of an image are joined first.

        Arguments are those of `post_process_panoptic_segmentation`. With
        `return_segmentation_scores` there are `segmentation` and `segmentation_scores` (C, H, W).
        """
        rule = self.options.changed({"size": size})
        side, sizes = self._side(rule.size), sizes_of(target_sizes, len(target_sizes))
        chances = outputs.class_queries_logits.softmax(-1)[..., :-1]
        masks = F.interpolate(outputs.masks_queries_logits, side, mode="bilinear").sigmoid()
        classes = torch.einsum("bqc,bqhw->bchw", chances, masks)
        if outputs.patch_offsets:
            classes = _join(classes, outputs.patch_offsets, sizes, rule)
        scores = [
            F.interpolate(own[None], target, mode="bilinear")[0]
            for own, target in zip(classes, sizes, strict=True)
        ]
        if return_segmentation_scores:
            return [BatchFeature(segmentation=s.argmax(0), segmentation_scores=s) for s in scores]
        return [own.argmax(0) for own in scores]

    def _masks(
        self,
        outputs: EomtForUniversalSegmentationOutput,
        sizes: Sizes,
        size: Mapping[str, int] | None,
    ) -> list[Tensor]:
        """Mask logits (Q, H, W) of each image, without what was padded."""
        rule = self.options.changed({"size": size})
        masks = F.interpolate(outputs.masks_queries_logits, self._side(rule.size), mode="bilinear")
        found: list[Tensor] = []
        for own, target in zip(masks, sizes_of(sizes, len(masks)), strict=True):
            height, width = rule.target_size(target)
            shown = own[None, :, :height, :width]
            found.append(F.interpolate(shown, target, mode="bilinear")[0])
        return found

    def _arrange(
        self, values: Sequence[NDArray[Any]], rule: ProcessorOptions, fill: Any, *, split: bool
    ) -> tuple[list[NDArray[Any]], list[list[int]]]:
        """Split arrays (C, h, w) and pad them, as the options say; windows have an offset each."""
        side, offsets = self._side(rule.size), list[list[int]]()
        if split:
            windows = [_split(value, side[0]) for value in values]
            offsets = [[n, *ends] for n, own in enumerate(windows) for _, ends in own]
            values = [part for own in windows for part, _ in own]
        return [_pad(value, side, fill) if rule.do_pad else value for value in values], offsets

    @staticmethod
    def _side(size: Mapping[str, int]) -> tuple[int, int]:
        """Height and width of the network's input."""
        return size["shortest_edge"], size.get("longest_edge") or size["shortest_edge"]


def _list_maps(maps: Any) -> list[NDArray[Any]]:
    """Segmentation maps (H, W) out of one, a list of them, or an array (B, H, W)."""
    arrays = [np.asarray(one) for one in (maps if isinstance(maps, list | tuple) else [maps])]
    found = [part for array in arrays for part in (array if array.ndim == 3 else [array])]
    for ids in found:
        if ids.ndim != 2 or ids.dtype.kind not in "biuf":
            raise ImageError(
                f"a segmentation map has the shape {ids.shape} and type {ids.dtype}; expected "
                "numbers (H, W)"
            )
    return found


def _resize_ids(ids: NDArray[Any], rule: ProcessorOptions) -> NDArray[np.int32]:
    """Resize ids (H, W) as their image: (1, h, w)."""
    opened = Image.fromarray(ids.astype(np.int32))
    if rule.do_resize:
        height, width = rule.target_size((opened.height, opened.width))
        opened = opened.resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(opened)[None]


def _labels_of(
    ids: NDArray[np.int32], classes: Mapping[int, int] | None, ignored: int | None
) -> tuple[Tensor, Tensor]:
    """Masks (N, h, w) and classes (N,) of the objects of a map (h, w), in the order of ids."""
    first = 0 if ignored is None else 1
    seen = ids if ignored is None else np.where(ids == 0, ignored, ids - 1)
    objects = [n for n in np.unique(seen).tolist() if n != ignored]
    masks = seen == np.array(objects, np.int64)[:, None, None]
    if classes is not None:
        for number in objects:
            if number + first not in classes:
                raise DataError(
                    f"a segmentation map has the id {number + first}, which "
                    "instance_id_to_semantic_id lacks; add it, or pass ignore_index where it is 0"
                )
        objects = [classes[number + first] - first for number in objects]
    return torch.from_numpy(masks.astype(np.float32)), torch.tensor(objects, dtype=torch.int64)


def _pad(pixels: Any, size: tuple[int, int], fill: Any) -> Any:
    """Put an array (C, h, w) into the upper left corner of a canvas."""
    height, width = (max(pair) for pair in zip(size, pixels.shape[1:], strict=True))
    canvas = np.broadcast_to(fill, (len(pixels), height, width)).astype(pixels.dtype)
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
