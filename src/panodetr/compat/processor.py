"""transformers' image processor: a model's inputs from images, and results from its outputs.

The rules for outputs are those of transformers 5: other thresholds, another order of steps and
other losses of pixels than the paper's, which `panodetr.results.panoptic` follows. On a padded
batch the masks are first cut to the image; transformers stretches the padded canvas over the image
instead.

B: images, Q: queries, C: classes, N: kept queries, h, w: a mask's size, H, W: the result's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.checkpoints.huggingface import processor_options, read_huggingface
from panodetr.checkpoints.load import load_spec, locate
from panodetr.checkpoints.spec import CONFIG_FILE, PREPROCESSOR_FILE, ModelSpec
from panodetr.compat.config import CLIENT
from panodetr.compat.inputs import (
    Annotation,
    BatchFeature,
    ImageInput,
    Labels,
    TensorKind,
    channels_first,
    make_inputs,
    pad,
)
from panodetr.compat.options import OPTIONS, ProcessorOptions, known_options
from panodetr.compat.outputs import DetrObjectDetectionOutput, DetrSegmentationOutput
from panodetr.errors import CheckpointError, UsageError
from panodetr.files import write_text
from panodetr.results.decode import keep_queries
from panodetr.results.id_map import decode_ids, id_map_png
from panodetr.results.masks import NumpyMasks
from panodetr.results.panoptic import merge_masks
from panodetr.results.types import Category
from panodetr.validation import read_json

Sizes = Tensor | Sequence[Sequence[int] | Tensor]
"""Height and width of each image."""

_MASK_STRIDE = 4  # of the mask head, which ends at the size of the backbone's first stage


class DetrImageProcessor(ProcessorOptions):
    """Prepares images and annotations as transformers' class of this name, and reads outputs.

    Every option (`ProcessorOptions`) can be given here, and once more with a call, for that call.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]
    is_fast = False  # in transformers: not its processor for tensors
    is_thing: Mapping[int, bool] = {index: index <= 90 for index in range(201)}  # as in COCO

    def __init__(self, **options: Any) -> None:
        super().__init__(**known_options(options))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Make the processor that belongs to a model.

        Args:
            pretrained_model_name_or_path: whatever `panodetr.load` takes, or a
                `preprocessor_config.json`, or its folder.
            revision: branch, tag or commit, of an id on the hub only.
            options: what is to differ from the model's own; `cache_dir`, `token`,
                `local_files_only` and `force_download` are the hub client's.

        Raises:
            CheckpointError: there is no such model, or its files are damaged.
            UsageError: there is no such option.
        """
        options["token"] = options.pop("token", options.pop("use_auth_token", None))
        client = {name: options.pop(name) for name in CLIENT if name in options}
        place = file = Path(pretrained_model_name_or_path)
        if file.suffix != ".json":
            source = pretrained_model_name_or_path
            place = locate(source, revision, weights=False, client=client)
            file = place / PREPROCESSOR_FILE
        if not file.is_file():
            spec = load_spec(place)
            processor = cls.from_dict(processor_options(spec), **options)
        else:
            processor = cls.from_dict(read_json(file, dict[str, Any], CheckpointError), **options)
            spec = _model_beside(file)
        if spec is not None:
            processor.is_thing = {one.index: one.is_thing for one in spec.categories}
        return processor

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False) -> list[str]:
        """Write `preprocessor_config.json`, which transformers opens, too.

        Returns:
            The file's path.

        Raises:
            UsageError: the file is to be pushed, or the folder is a file.
        """
        if push_to_hub:
            raise UsageError(
                "push_to_hub is not possible here; use huggingface_hub.upload_folder afterwards"
            )
        file = Path(save_directory) / PREPROCESSOR_FILE
        if file.parent.is_file():
            raise UsageError(f"{save_directory} is a file; expected a folder")
        self.to_json_file(file)
        return [str(file)]

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **options: Any) -> Self:
        """Make a processor of the contents of a `preprocessor_config.json`.

        Args:
            image_processor_dict: what is no option is ignored.
            options: what is to differ.

        Raises:
            UsageError: there is no such option, or an invalid value.
        """
        known = {*OPTIONS, "max_size", "pad_and_return_pixel_mask"}
        given = {name: value for name, value in image_processor_dict.items() if name in known}
        given |= {name: value for name, value in options.items() if value is not None}
        return cls(**given)

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Make a processor of a `preprocessor_config.json`; as `from_dict`."""
        return cls.from_dict(read_json(Path(json_file), dict[str, Any], CheckpointError))

    def to_dict(self) -> dict[str, Any]:
        """Give the options, and the class's name in transformers."""
        options = {name: getattr(self, name) for name in OPTIONS}
        given = {name: value for name, value in options.items() if value is not None}
        return {**given, "image_processor_type": "DetrImageProcessor"}

    def to_json_string(self) -> str:
        """Give the contents of a `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | Path) -> None:
        """Write a `preprocessor_config.json`."""
        write_text(Path(json_file_path), self.to_json_string())

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        annotations: Annotation | Sequence[Annotation] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        *,
        return_tensors: TensorKind | None = None,
        input_data_format: str | None = None,
        device: str | torch.device | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Resize, rescale, normalise and pad images, and make labels of their annotations.

        Args:
            images: one, or a list: PIL images, or arrays or tensors, (H, W, 3) or (3, H, W), or
                grey ones, (H, W); or paths. Unlike `panodetr.load(...)`, this does not turn PIL
                images by their EXIF orientation: boxes would not fit `image.size` then.
            annotations: COCO's, one per image, in the format that the options say.
            return_segmentation_masks: whether labels have masks; None: in the panoptic format.
            masks_path: folder of the panoptic format's id maps.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists of arrays.
            input_data_format: "channels_first" or "channels_last"; None tells by the shapes of
                arrays, with a warning where both may be meant.
            device: where tensors are put.
            options: what is to differ for this call.

        Returns:
            `pixel_values` (B, 3, H, W); with padding `pixel_mask` (B, H, W), 1 at images; with
            annotations `labels`, one per image.

        Raises:
            ImageError: an image is of none of these forms.
            DataError: an annotation lacks something.
            UsageError: an option or the number of annotations is wrong.
        """
        found = make_inputs(
            images,
            annotations,
            self.changed(options),
            masks=return_segmentation_masks,
            folder=masks_path,
            kind=return_tensors,
            layout=input_data_format,
        )
        return found if device is None else found.to(device)

    preprocess = __call__

    def pad(
        self,
        images: Sequence[NDArray[Any] | Tensor],
        annotations: Sequence[Labels] | None = None,
        constant_values: float = 0,
        return_pixel_mask: bool = True,
        return_tensors: TensorKind | None = None,
        input_data_format: str | None = None,
        update_bboxes: bool = True,
        pad_size: Mapping[str, int] | None = None,
    ) -> BatchFeature:
        """Make one batch of images that are resized and normalised already (transformers 4).

        Args:
            images: arrays or tensors, (C, h, w) or (h, w, C).
            annotations: labels, one per image, as a call makes them.
            constant_values: what is put below and at the right of the images.
            return_pixel_mask: whether to give `pixel_mask`, too.
            return_tensors: as for a call.
            input_data_format: as for a call.
            update_bboxes: whether boxes are fractions of the image and become those of the canvas.
            pad_size: `height` and `width` of the batch; None takes the processor's own, or the
                greatest of the images.

        Raises:
            ImageError: an image has another shape.
            UsageError: an image is larger than `pad_size`.
        """
        rule = self.changed({"pad_size": pad_size, "do_convert_annotations": update_bboxes})
        arrays = [channels_first(image, input_data_format) for image in images]
        return pad(
            arrays,
            annotations,
            rule,
            kind=return_tensors,
            fill=constant_values,
            mask=return_pixel_mask,
        )

    pad_and_create_pixel_mask = pad  # before transformers 4.26

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
            for one in _boxes_in(outputs, target_sizes)
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
        for logits, masks, size in _images_in(outputs, target_sizes):
            classes = logits.softmax(-1)[:, :-1]  # Q, C
            maps = torch.einsum("qc,qhw->chw", classes, masks.sigmoid())  # C, h, w
            if return_segmentation_scores:
                maps = _grown(maps, size)  # C, H, W
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
        for logits, masks, size in _images_in(outputs, target_sizes):
            scores, labels, masks = _confident(logits, masks, threshold)
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


class DetrFeatureExtractor(DetrImageProcessor):
    """The processor's old name, with the methods that went with it (transformers 4)."""

    def post_process(
        self, outputs: DetrObjectDetectionOutput, target_sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Give every query of each image its best real class, and its box in pixels.

        Args:
            outputs: of a model.
            target_sizes: height and width of each image, (B, 2).
        """
        return _boxes_in(outputs, target_sizes)

    def post_process_segmentation(
        self,
        outputs: DetrSegmentationOutput,
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
        for logits, masks, size in _images_in(outputs, target_sizes):
            scores, labels, masks = _confident(logits, masks, threshold)
            inside = torch.empty((len(masks), *size), dtype=torch.int64, device=masks.device)
            for place, mask in enumerate(masks):
                inside[place] = _grown(mask[None], size)[0].sigmoid() > mask_threshold
            found.append({"scores": scores, "labels": labels, "masks": inside})
        return found

    def post_process_panoptic(
        self,
        outputs: DetrSegmentationOutput,
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
        processed = _sizes_of(processed_sizes, len(outputs.logits))
        processed = getattr(outputs, "image_sizes", None) or processed
        things = self.is_thing if is_thing_map is None else is_thing_map
        classes = outputs.logits.shape[-1] - 1
        categories = [
            Category(index=i, id=i, name="", is_thing=things.get(i, True), color=(0, 0, 0))
            for i in range(classes)
        ]
        images = _images_in(outputs, processed if target_sizes is None else target_sizes)
        found: list[dict[str, Any]] = []
        for (logits, masks, target), size in zip(images, processed, strict=True):
            queries, scores, labels = keep_queries(logits.detach().float().cpu().numpy(), threshold)
            kept = masks[torch.from_numpy(queries)].detach().float().cpu().numpy()
            named = [categories[label] for label in labels]
            ids, segments = merge_masks(NumpyMasks(kept), scores, named, size, target)
            info = [
                {"id": one.id - 1, "isthing": one.is_thing, "category_id": one.category_id,
                 "area": one.area}
                for one in segments
            ]  # fmt: skip
            # Where there is no segment at all the map is empty, and its ids are 0, too.
            png = id_map_png(np.maximum(ids - 1, 0))
            found.append({"png_string": png, "segments_info": info})
        return found


def _model_beside(file: Path) -> ModelSpec | None:
    """Read the model's configuration beside a processor's, for things and stuff; None without."""
    config = file.with_name(CONFIG_FILE)
    if not config.is_file():
        return None
    with suppress(CheckpointError):  # another model's, such as a YOLOS
        values = read_json(config, dict[str, Any], CheckpointError)
        return read_huggingface(values, {}, str(file.parent))
    return None


def rgb_to_id(color: NDArray[np.uint8] | Sequence[int]) -> Any:
    """Turn the colours of a panoptic PNG (H, W, 3), or one colour, into segment ids."""
    if isinstance(color, np.ndarray) and color.ndim == 3:
        return decode_ids(color)
    red, green, blue = (int(channel) for channel in color)
    return red + 256 * green + 65536 * blue


def _sizes_of(sizes: Sizes, count: int) -> list[tuple[int, int]]:
    """Read heights and widths, one for each of `count` images."""
    pairs = [(int(height), int(width)) for height, width in sizes]
    if len(pairs) != count:
        raise UsageError(
            f"{len(pairs)} sizes were given for {count} images; expected one per image"
        )
    return pairs


def _boxes_in(outputs: DetrObjectDetectionOutput, sizes: Sizes | None) -> list[dict[str, Tensor]]:
    """Give each image's queries their best real class; boxes in pixels if sizes are known."""
    scores, labels = _exact(outputs.logits).softmax(-1)[..., :-1].max(-1)  # B, Q
    boxes = cxcywh_to_xyxy(_exact(outputs.pred_boxes))  # B, Q, 4
    if sizes is not None:
        scale = [[w, h, w, h] for h, w in _sizes_of(sizes, len(boxes))]
        boxes = boxes * boxes.new_tensor(scale)[:, None]
    return [
        {"scores": scores[image], "labels": labels[image], "boxes": boxes[image]}
        for image in range(len(boxes))
    ]


def _images_in(
    outputs: DetrSegmentationOutput, sizes: Sizes | None
) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Give each image's logits (Q, C + 1), its mask logits (Q, h, w), and the result's size.

    The masks are over the image alone, without padding. Sizes that are None are the masks' own.
    """
    count = len(outputs.logits)
    wanted = [None] * count if sizes is None else _sizes_of(sizes, count)
    own: Sequence[tuple[int, int]] | None = getattr(outputs, "image_sizes", None)
    for image, size in enumerate(wanted):
        masks = outputs.pred_masks[image]
        if own is not None:
            rows, columns = (-(-side // _MASK_STRIDE) for side in own[image])
            masks = masks[:, :rows, :columns]
        size = size or (masks.shape[1], masks.shape[2])
        yield _exact(outputs.logits[image]), _exact(masks), size


def _exact(values: Tensor) -> Tensor:
    """Turn floats of 16 bits into 32: in bfloat16 an edge at 1333 would be off by up to 4.

    Results record no gradients.
    """
    values = values.detach()
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _confident(logits: Tensor, masks: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
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


def _grown(maps: Tensor, size: tuple[int, int]) -> Tensor:
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
    reached: list[Tensor] = []
    best: Tensor | None = None
    for place in range(len(maps)):
        grown = _grown(maps[place : place + 1], size)[0]  # H, W
        if weights is not None:
            grown *= weights[place]
        reached.append((grown >= threshold).sum())
        if best is None:
            best = grown
            continue
        owner.masked_fill_(grown > best, place)
        torch.maximum(best, grown, out=best)
    return owner, torch.stack(reached)
