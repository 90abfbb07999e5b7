"""Images in, a model's inputs out; a model's outputs in, results out: transformers' processors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from panodetr.checkpoints.huggingface import processor_options
from panodetr.checkpoints.load import load_spec
from panodetr.compat.inputs import (
    Annotation,
    BatchFeature,
    ImageInput,
    TensorKind,
    as_array,
    as_features,
    canvas_of,
    follow,
    list_images,
    pad_to,
    prepare,
    read_labels,
    size_of,
)
from panodetr.compat.options import ProcessorOptions
from panodetr.compat.outputs import (
    BoxOutputs,
    DetrSegmentationOutput,
    MaskOutputs,
    Sizes,
    boxes_in,
    confident,
    grown,
    mask_sizes,
    masks_of,
    number_segments,
    run_lengths,
    sizes_of,
)
from panodetr.results.decode import keep_queries
from panodetr.results.id_map import decode_ids, id_map_png
from panodetr.results.masks import NumpyMasks
from panodetr.results.panoptic import merge_masks
from panodetr.results.types import Category


@dataclass(frozen=True, kw_only=True)
class SemanticSegmentation:
    """One image's classes.

    Attributes:
        segmentation: (H, W) class indices.
        segmentation_scores: (C, H, W), what they are the greatest of.
    """

    segmentation: Tensor
    segmentation_scores: Tensor


class DetrImageProcessor:
    """Prepares images and annotations as transformers' class of this name, and reads outputs.

    Every option (`ProcessorOptions`) can be given here, and once more with a call, for that call.
    """

    def __init__(self, **options: Any) -> None:
        self.options = ProcessorOptions().changed(options)
        self.is_thing: dict[int, bool] = {index: index <= 90 for index in range(201)}  # as in COCO

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
        processor = cls()
        processor.options = ProcessorOptions().changed(processor_options(spec)).changed(options)
        processor.is_thing = {category.index: category.is_thing for category in spec.categories}
        return processor

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        annotations: Annotation | Sequence[Annotation] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        *,
        return_tensors: TensorKind | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Resize, rescale, normalise and pad images, and make labels of their annotations.

        Args:
            images: one, or a list: PIL images, or arrays or tensors, (H, W, 3) or (3, H, W), or
                grey ones, (H, W). Unlike `panodetr.load(...)`, this does not turn images by their
                EXIF orientation: boxes would not fit `image.size` then.
            annotations: COCO's, one an image, in the format that the options say.
            return_segmentation_masks: whether labels have masks; None: in the panoptic format.
            masks_path: folder of the panoptic format's id maps.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists of arrays.
            options: what is to differ for this call.

        Returns:
            `pixel_values` (B, 3, H, W); with padding `pixel_mask` (B, H, W), 1 at images; with
            annotations `labels`, one an image.

        Raises:
            ImageError: an image is of none of these forms.
            DataError: an annotation lacks something.
            UsageError: an option or the number of annotations is wrong.
        """
        rule = self.options.changed(options)
        arrays = [as_array(image) for image in list_images(images)]
        labels = read_labels(arrays, annotations, rule, return_segmentation_masks, masks_path)
        values = [prepare(array, rule) for array in arrays]
        canvas = canvas_of(values, rule) if rule.do_pad else None
        features: dict[str, Any] = {"pixel_values": values}
        if canvas is not None:
            masks = [np.ones(size_of(pixels), np.int64) for pixels in values]
            features["pixel_values"] = [pad_to(pixels, canvas) for pixels in values]
            features["pixel_mask"] = [pad_to(mask, canvas) for mask in masks]
        kind = return_tensors
        found = as_features(features, kind)
        if labels:
            found["labels"] = [
                as_features(follow(own, size_of(array), size_of(pixels), canvas, rule), kind)
                for own, array, pixels in zip(labels, arrays, values, strict=True)
            ]
        return found

    preprocess = __call__

    def post_process_object_detection(
        self, outputs: BoxOutputs, threshold: float = 0.5, target_sizes: Sizes | None = None
    ) -> list[dict[str, Tensor]]:
        """Give each image's boxes whose best real class scores above a threshold.

        Args:
            outputs: of a model.
            threshold: scores up to and including it are dropped.
            target_sizes: height and width of each image, (B, 2); None leaves boxes in fractions.

        Returns:
            `scores` (N,), `labels` (N,) and `boxes` (N, 4), x0, y0, x1, y1, for each image.
        """
        return [
            {name: value[one["scores"] > threshold] for name, value in one.items()}
            for one in boxes_in(outputs, target_sizes)
        ]

    def post_process_semantic_segmentation(
        self,
        outputs: MaskOutputs,
        target_sizes: Sizes | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[SemanticSegmentation]:
        """Give each image's pixels their class.

        Args:
            outputs: of a model with masks.
            target_sizes: height and width of each result, (B, 2); None takes the masks' own.
            return_segmentation_scores: whether the classes' values come along.
        """
        found: list[Tensor] = []
        for image, size in enumerate(mask_sizes(outputs, target_sizes)):
            classes = outputs.logits[image].softmax(-1)[:, :-1]  # Q, C
            masks = masks_of(outputs, image).sigmoid()  # Q, h, w
            found.append(grown(torch.einsum("qc,qhw->chw", classes, masks), size))  # C, H, W
        if not return_segmentation_scores:
            return [maps.argmax(0) for maps in found]
        return [
            SemanticSegmentation(segmentation=maps.argmax(0), segmentation_scores=maps)
            for maps in found
        ]

    def post_process_instance_segmentation(
        self,
        outputs: MaskOutputs,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Sizes | None = None,
        return_coco_annotation: bool = False,
    ) -> list[dict[str, Any]]:
        """Give each image's segments, none of them fused.

        Arguments and results are those of `post_process_panoptic_segmentation`. With
        `return_coco_annotation` the map comes as run lengths, one list for each id.
        """
        found = self.post_process_panoptic_segmentation(
            outputs, threshold, mask_threshold, overlap_mask_area_threshold, (), target_sizes
        )
        for one in found:
            # Where no score reached the threshold there is a map of -1 in either case.
            if return_coco_annotation and not one["segmentation"].is_floating_point():
                one["segmentation"] = run_lengths(one["segmentation"])
        return found

    def post_process_panoptic_segmentation(
        self,
        outputs: MaskOutputs,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: Sizes | None = None,
    ) -> list[dict[str, Any]]:
        """Give each image's segments: a query claims the pixels where score times mask is high.

        Args:
            outputs: of a model with masks.
            threshold: scores up to and including it are dropped.
            mask_threshold: from where on score times mask counts as claiming a pixel.
            overlap_mask_area_threshold: the share of its claim that a segment must get.
            label_ids_to_fuse: class indices whose segments become one; None: none.
            target_sizes: height and width of each result, (B, 2); None takes the masks' own.

        Returns:
            `segmentation`, ids (H, W), and `segments_info`, what they stand for, for each image.
        """
        found: list[dict[str, Any]] = []
        for image, size in enumerate(mask_sizes(outputs, target_sizes)):
            scores, labels, masks = confident(outputs, image, threshold)
            if not len(scores):
                found.append({"segmentation": torch.full(size, -1.0), "segments_info": []})
                continue
            weighted = grown(masks.sigmoid(), size) * scores[:, None, None]  # N, H, W
            owner = weighted.argmax(0)  # H, W
            got = owner.flatten().bincount(minlength=len(weighted))
            claimed = (weighted >= mask_threshold).flatten(1).sum(1)
            # In float32, as there: four fifths are more than an overlap of 0.8.
            share = (got / claimed).double()
            stays = (got > 0) & (claimed > 0) & (share > overlap_mask_area_threshold)
            ids, segments = number_segments(
                scores.tolist(), labels.tolist(), stays.tolist(), label_ids_to_fuse or ()
            )
            ids = torch.tensor(ids, dtype=torch.int32, device=owner.device)
            found.append({"segmentation": ids[owner], "segments_info": segments})
        return found


class DetrFeatureExtractor(DetrImageProcessor):
    """The processor's old name, with the methods that went with it (transformers 4)."""

    def post_process(self, outputs: BoxOutputs, target_sizes: Sizes) -> list[dict[str, Tensor]]:
        """Give every query of each image its best real class, and its box in pixels.

        Args:
            outputs: of a model.
            target_sizes: height and width of each image, (B, 2).
        """
        return boxes_in(outputs, target_sizes)

    def post_process_segmentation(
        self,
        outputs: MaskOutputs,
        target_sizes: Sizes,
        threshold: float = 0.9,
        mask_threshold: float = 0.5,
    ) -> list[dict[str, Tensor]]:
        """Give each image's queries with scores, class indices and masks, which may overlap.

        Args:
            outputs: of a model with masks.
            target_sizes: height and width of each result, (B, 2).
            threshold: scores up to and including it are dropped.
            mask_threshold: probabilities up to and including it are outside.

        Returns:
            `scores` (N,), `labels` (N,) and `masks` (N, H, W), 1 inside, for each image.
        """
        found: list[dict[str, Tensor]] = []
        for image, size in enumerate(sizes_of(target_sizes, len(outputs.logits))):
            scores, labels, masks = confident(outputs, image, threshold)
            masks = F.interpolate(masks[:, None], size, mode="bilinear")[:, 0]
            inside = (masks.sigmoid() > mask_threshold).long()
            found.append({"scores": scores, "labels": labels, "masks": inside})
        return found

    def post_process_panoptic(
        self,
        outputs: MaskOutputs,
        processed_sizes: Sizes,
        target_sizes: Sizes | None = None,
        is_thing_map: Mapping[int, bool] | None = None,
        threshold: float = 0.85,
    ) -> list[dict[str, Any]]:
        """Merge each image's masks as the paper's authors do, into COCO's panoptic format.

        Args:
            outputs: of a model with masks.
            processed_sizes: height and width that each image had as the model's input, (B, 2). Of
                a padded batch the images' own are taken instead, which the outputs know.
            target_sizes: of each result, (B, 2); None takes those of the input.
            is_thing_map: by class index; None takes the model's own, or COCO's.
            threshold: scores up to and including it are dropped.

        Returns:
            `png_string`, a PNG whose colours are ids (`rgb_to_id`), from 0, and `segments_info`,
            for each image.
        """
        processed = sizes_of(processed_sizes, len(outputs.logits))
        things = self.is_thing if is_thing_map is None else is_thing_map
        classes = outputs.logits.shape[-1] - 1
        categories = [
            Category(index=i, id=i, name="", is_thing=things.get(i, True), color=(0, 0, 0))
            for i in range(classes)
        ]
        if isinstance(outputs, DetrSegmentationOutput) and outputs.canvas is not None:
            processed = list(outputs.canvas.images)
        targets = processed if target_sizes is None else sizes_of(target_sizes, len(processed))
        found: list[dict[str, Any]] = []
        for image, (size, target) in enumerate(zip(processed, targets, strict=True)):
            logits: NDArray[np.float32] = outputs.logits[image].detach().float().cpu().numpy()
            queries, scores, labels = keep_queries(logits, threshold)
            masks = masks_of(outputs, image)[torch.from_numpy(queries)].detach().float().cpu()
            kept = NumpyMasks(masks.numpy())
            named = [categories[label] for label in labels]
            ids, segments = merge_masks(kept, scores, named, size, target)
            info = [
                {"id": one.id - 1, "isthing": one.is_thing, "category_id": one.category_id,
                 "area": one.area}
                for one in segments
            ]  # fmt: skip
            # Where there is no segment at all the map is empty, and its ids are 0, too.
            png = id_map_png(np.maximum(ids - 1, 0))
            found.append({"png_string": png, "segments_info": info})
        return found


def rgb_to_id(color: NDArray[np.uint8] | Sequence[int]) -> Any:
    """Turn the colours of a panoptic PNG (H, W, 3), or one colour, into segment ids."""
    if isinstance(color, np.ndarray) and color.ndim == 3:
        return decode_ids(color)
    red, green, blue = (int(channel) for channel in color)
    return red + 256 * green + 65536 * blue
