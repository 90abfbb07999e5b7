"""transformers' image processor and feature extractor: options, files, and images to inputs.

B: images, N: kept queries, H, W: a result's size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panodetr.checkpoints.huggingface import processor_options, read_huggingface
from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.spec import CONFIG_FILE, PREPROCESSOR_FILE
from panodetr.compat.annotations import Annotation, Labels
from panodetr.compat.config import find_model, missing
from panodetr.compat.inputs import (
    BatchFeature,
    ImageInput,
    TensorKind,
    channels_first,
    make_inputs,
    pad,
)
from panodetr.compat.options import OPTIONS, ProcessorOptions, known_options
from panodetr.compat.outputs import DetrObjectDetectionOutput, DetrSegmentationOutput
from panodetr.compat.postprocess import (
    PostProcessing,
    Sizes,
    boxes_in,
    enlarge,
    images_in,
    keep_confident,
    sizes_of,
)
from panodetr.errors import CheckpointError, UsageError
from panodetr.files import write_text
from panodetr.results.decode import keep_queries
from panodetr.results.id_map import decode_ids, id_map_png
from panodetr.results.masks import Frame, NumpyMasks
from panodetr.results.panoptic import merge_masks
from panodetr.results.types import Category
from panodetr.validation import read_json


class DetrImageProcessor(PostProcessing, ProcessorOptions):
    """Prepares images and annotations as transformers' class of this name, and reads outputs.

    Every option (`ProcessorOptions`) can be given here, and once more with a call, for that call.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]
    is_fast = False  # in transformers: not its processor for tensors
    is_thing: Mapping[int, bool] = {index: index <= 90 for index in range(201)}  # as in COCO

    def __init__(self, **options: Any) -> None:
        off: dict[str, Any] = {
            k: None for k in OPTIONS if k.startswith("do_") and options.get(k, k) is None
        }
        super().__init__(**known_options(options) | off)

    def __getattr__(self, name: str) -> Any:
        """Say that a name is not there.

        Raises:
            AttributeError: always; of a name of transformers the line says what to do.
        """
        raise missing(self, name)

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
            options: what is to differ from the model's own; `subfolder` of a folder; `cache_dir`,
                `token`, `local_files_only` and `force_download` are the hub client's.

        Raises:
            CheckpointError: there is no such model, or its files are damaged.
            UsageError: there is no such option.
        """
        place = file = Path(pretrained_model_name_or_path)
        if file.suffix != ".json":
            place = find_model(pretrained_model_name_or_path, revision, options, weights=False)
            file = place / PREPROCESSOR_FILE
        if not file.is_file():
            spec = load_spec(place)
            processor = cls.from_dict(processor_options(spec), **options)
        else:
            processor = cls.from_dict(read_json(file, dict[str, Any], CheckpointError), **options)
            config, spec = file.with_name(CONFIG_FILE), None
            with suppress(CheckpointError):  # there is none, or another model's, such as a YOLOS
                values = read_json(config, dict[str, Any], CheckpointError)
                spec = read_huggingface(values, {}, str(file.parent))
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
            raise missing(self, "push_to_hub")
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
        given = {k: v for k, v in options.items() if v is not None or k.startswith("do_")}
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
        return boxes_in(outputs, target_sizes)

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
        for logits, masks, size in images_in(outputs, target_sizes):
            scores, labels, masks = keep_confident(logits, masks, threshold)
            inside = torch.empty((len(masks), *size), dtype=torch.int64, device=masks.device)
            for place, mask in enumerate(masks):
                inside[place] = enlarge(mask[None], size)[0].sigmoid() > mask_threshold
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
        processed = sizes_of(processed_sizes, len(outputs.logits))
        processed = getattr(outputs, "image_sizes", None) or processed
        things = self.is_thing if is_thing_map is None else is_thing_map
        classes = outputs.logits.shape[-1] - 1
        categories = [
            Category(index=i, id=i, name="", is_thing=things.get(i, True), color=(0, 0, 0))
            for i in range(classes)
        ]
        images = images_in(outputs, processed if target_sizes is None else target_sizes)
        found: list[dict[str, Any]] = []
        for (logits, masks, target), size in zip(images, processed, strict=True):
            queries, scores, labels = keep_queries(logits.detach().float().cpu().numpy(), threshold)
            kept = masks[torch.from_numpy(queries)].detach().float().cpu().numpy()
            named = [categories[label] for label in labels]
            ids, segments = merge_masks(NumpyMasks(kept, Frame(size, target)), scores, named)()
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
