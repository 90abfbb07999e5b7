"""The processor of transformers 4, and what went with it: all that the model card calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from panodetr.compat.outputs import DetrSegmentationOutput
from panodetr.compat.postprocess import (
    BoxOutputs,
    FoundBoxes,
    MaskOutputs,
    Sizes,
    boxes_in,
    masks_of,
    sizes_of,
)
from panodetr.compat.processor import DetrImageProcessor
from panodetr.results.id_map import decode_ids, id_map_png
from panodetr.results.panoptic import keep_queries, merge_masks


class DetrFeatureExtractor(DetrImageProcessor):
    """The processor's old name, with the methods that went with it (transformers 4)."""

    def post_process(self, outputs: BoxOutputs, target_sizes: Sizes) -> list[FoundBoxes]:
        """Give every query of each image its best real class, and its box in pixels.

        Args:
            outputs: of a model.
            target_sizes: height and width of each image, (B, 2).
        """
        return list(boxes_in(outputs, target_sizes))

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
            scores, labels = outputs.logits[image].softmax(-1).max(-1)
            kept = (labels != outputs.logits.shape[-1] - 1) & (scores > threshold)
            masks = F.interpolate(masks_of(outputs, image)[kept][:, None], size, mode="bilinear")
            inside = (masks[:, 0].sigmoid() > mask_threshold).long()
            found.append({"scores": scores[kept], "labels": labels[kept], "masks": inside})
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
        is_thing = np.array([things.get(index, True) for index in range(classes)])
        if isinstance(outputs, DetrSegmentationOutput) and outputs.canvas is not None:
            processed = list(outputs.canvas.images)
        targets = processed if target_sizes is None else sizes_of(target_sizes, len(processed))
        found: list[dict[str, Any]] = []
        for image, (size, target) in enumerate(zip(processed, targets, strict=True)):
            logits: NDArray[np.float32] = outputs.logits[image].detach().float().cpu().numpy()
            queries, scores, labels = keep_queries(logits, threshold)
            masks = masks_of(outputs, image)[torch.from_numpy(queries)].detach().float().cpu()
            ids, segments = merge_masks(masks.numpy(), scores, labels, is_thing, size, target)
            info = [
                {
                    "id": segment.id - 1,
                    "isthing": segment.is_thing,
                    "category_id": segment.class_index,
                    "area": segment.area,
                }
                for segment in segments
            ]
            # Where there is no segment at all the map is empty, and its ids are 0, too.
            png = id_map_png(np.maximum(ids - 1, 0))
            found.append({"png_string": png, "segments_info": info})
        return found


@overload
def rgb_to_id(color: NDArray[np.uint8]) -> NDArray[np.int32]: ...


@overload
def rgb_to_id(color: Sequence[int]) -> int: ...


def rgb_to_id(color: NDArray[np.uint8] | Sequence[int]) -> NDArray[np.int32] | int:
    """Turn the colours of a panoptic PNG (H, W, 3), or one colour, into segment ids."""
    if isinstance(color, np.ndarray) and color.ndim == 3:
        return decode_ids(color)
    red, green, blue = (int(channel) for channel in color)
    return red + 256 * green + 65536 * blue
