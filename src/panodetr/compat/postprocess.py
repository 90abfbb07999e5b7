"""Results from a model's outputs, by the rules of transformers 5.

They have other thresholds, another order of steps and other losses of pixels than the paper's,
which `panodetr.results.panoptic` follows. On a padded batch the masks are first cut to the image;
transformers stretches the padded canvas over the image instead.

B: images, Q: queries, C: classes, N: kept queries, h, w: a mask's size, H, W: the result's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.compat.inputs import BatchFeature
from panodetr.compat.outputs import DetrObjectDetectionOutput, DetrSegmentationOutput
from panodetr.errors import UsageError

Sizes = Tensor | Sequence[Sequence[int] | Tensor]
"""Height and width of each image."""


class PostProcessing:
    """The methods of a processor that read outputs."""

    def post_process_object_detection(
        self,
        outputs: DetrObjectDetectionOutput,
        threshold: float = 0.5,
        target_sizes: Sizes | None = None,
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
        outputs: DetrSegmentationOutput,
        target_sizes: Sizes | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[BatchFeature]:
        """Give each image's pixels their class.

        Args:
            outputs: of a model with masks.
            target_sizes: height and width of each result, (B, 2); None takes the masks' own.
            return_segmentation_scores: whether to give the classes' values (C, H, W) as well, as
                `segmentation` and `segmentation_scores`.
        """
        found: list[Any] = []
        for logits, masks, size in images_in(outputs, target_sizes):
            classes = logits.softmax(-1)[:, :-1]  # Q, C
            maps = torch.einsum("qc,qhw->chw", classes, masks.sigmoid())  # C, h, w
            if return_segmentation_scores:
                maps = enlarge(maps, size)  # C, H, W
                found.append(BatchFeature(segmentation=maps.argmax(0), segmentation_scores=maps))
            else:
                found.append(_highest(maps, size)[0].long())
        return found

    def post_process_instance_segmentation(
        self,
        outputs: DetrSegmentationOutput,
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
                one["segmentation"] = _run_lengths(one["segmentation"])
        return found

    def post_process_panoptic_segmentation(
        self,
        outputs: DetrSegmentationOutput,
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
        for logits, masks, size in images_in(outputs, target_sizes):
            scores, labels, masks = keep_confident(logits, masks, threshold)
            if not len(scores):
                found.append({"segmentation": torch.full(size, -1.0), "segments_info": []})
                continue
            owner, claimed = _highest(masks.sigmoid(), size, scores, mask_threshold)
            got = owner.flatten().bincount(minlength=len(scores))
            # In float32, as there: four fifths are more than an overlap of 0.8.
            share = (got / claimed).double()
            stays = (got > 0) & (claimed > 0) & (share > overlap_mask_area_threshold)
            ids, segments = _number_segments(
                scores.tolist(), labels.tolist(), stays.tolist(), label_ids_to_fuse or ()
            )
            ids = torch.tensor(ids, dtype=torch.int32, device=owner.device)
            found.append({"segmentation": ids[owner], "segments_info": segments})
        return found


def sizes_of(sizes: Sizes, count: int) -> list[tuple[int, int]]:
    """Read heights and widths, one for each of `count` images."""
    return [(int(height), int(width)) for height, width in _numbers_of(sizes, count)]


def _numbers_of(sizes: Sizes, count: int) -> list[tuple[float, float]]:
    pairs = [tuple(map(float, torch.as_tensor(size).flatten().tolist())) for size in sizes]
    if len(pairs) != count or any(len(pair) != 2 for pair in pairs):
        raise UsageError(
            f"{len(pairs)} sizes were given for {count} images; expected a height and a width per "
            "image"
        )
    return pairs  # pyright: ignore[reportReturnType]


def boxes_in(outputs: DetrObjectDetectionOutput, sizes: Sizes | None) -> list[dict[str, Tensor]]:
    """Give each image's queries their best real class; boxes in pixels if sizes are known."""
    scores, labels = _exact(outputs.logits).softmax(-1)[..., :-1].max(-1)  # B, Q
    boxes = cxcywh_to_xyxy(_exact(outputs.pred_boxes))  # B, Q, 4
    if sizes is not None:
        scale = [[w, h, w, h] for h, w in _numbers_of(sizes, len(boxes))]
        boxes = boxes * boxes.new_tensor(scale)[:, None]
    return [
        {"scores": scores[image], "labels": labels[image], "boxes": boxes[image]}
        for image in range(len(boxes))
    ]


def images_in(
    outputs: DetrSegmentationOutput, sizes: Sizes | None
) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Give each image's logits (Q, C + 1), its mask logits (Q, h, w), and the result's size.

    The masks are over the image alone, without padding. Sizes that are None are the masks' own.
    """
    count = len(outputs.logits)
    wanted = [None] * count if sizes is None else sizes_of(sizes, count)
    own: Sequence[tuple[int, int]] | None = getattr(outputs, "image_sizes", None)
    for image, size in enumerate(wanted):
        masks = outputs.pred_masks[image]
        if own is not None:
            rows, columns = (-(-side // outputs.mask_stride) for side in own[image])
            masks = masks[:, :rows, :columns]
        size = size or (masks.shape[1], masks.shape[2])
        yield _exact(outputs.logits[image]), _exact(masks), size


def _exact(values: Tensor) -> Tensor:
    """Turn floats of 16 bits into 32: in bfloat16 an edge at 1333 would be off by up to 4.

    Results record no gradients.
    """
    values = values.detach()
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def keep_confident(
    logits: Tensor, masks: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Give scores (N,), classes (N,) and masks (N, h, w) of queries that found something."""
    scores, labels = logits.softmax(-1).max(-1)  # Q
    kept = (labels != logits.shape[-1] - 1) & (scores > threshold)
    return scores[kept], labels[kept], masks[kept]


def _number_segments(
    scores: Sequence[float], labels: Sequence[int], stays: Sequence[bool], fused: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Give an id to each of N queries that stays, and 0 to the others; say what ids stand for."""
    ids: list[int] = []
    segments: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    current = 0
    for score, label, stay in zip(scores, labels, stays, strict=True):
        if stay:
            # After a class met again, counting goes on from its id: as there, ids can come twice.
            current = first.get(label, current + 1)
            fuse = label in fused
            if fuse:
                first[label] = current
            segments.append(
                {"id": current, "label_id": label, "was_fused": fuse, "score": round(score, 6)}
            )
        ids.append(current if stay else 0)
    return ids, segments


def _run_lengths(segmentation: Tensor) -> list[list[int]]:
    """Encode each id's pixels, along the rows, as starts, counted from 1, and lengths."""
    flat = segmentation.flatten()
    encoded: list[list[int]] = []
    for value in flat.unique():
        inside = F.pad((flat == value).int(), (1, 1))
        edges = (inside.diff() != 0).nonzero().flatten() + 1
        starts, ends = edges[0::2], edges[1::2]
        encoded.append(torch.stack([starts, ends - starts], dim=1).flatten().tolist())
    return encoded


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (N, h, w) to (N, H, W)."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _highest(
    maps: Tensor, size: tuple[int, int], weights: Tensor | None = None, threshold: float = 0
) -> tuple[Tensor, Tensor]:
    """Enlarge maps (N, h, w) to `size` and multiply them by weights (N,), one at a time.

    Returns:
        At each pixel the place of the first highest map (H, W), int32; and how many pixels of each
        map reach the threshold (N,).
    """
    owner = torch.zeros(size, dtype=torch.int32, device=maps.device)
    # One for all maps: new ones leave gaps in memory, which added up to a gigabyte.
    is_higher = torch.empty(size, dtype=torch.bool, device=maps.device)
    reached = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    best: Tensor | None = None
    for place in range(len(maps)):
        grown = enlarge(maps[place : place + 1], size)[0]  # H, W
        if weights is not None:
            grown *= weights[place]
        reached[place] = torch.ge(grown, threshold, out=is_higher).sum()
        if best is None:
            best = grown
            continue
        owner.masked_fill_(torch.gt(grown, best, out=is_higher), place)
        torch.maximum(best, grown, out=best)
    return owner, reached
