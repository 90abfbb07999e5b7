"""What requests may say and what answers hold: the shapes of the service's JSON.

Boxes are x0, y0, x1, y1 in pixels of the image, as in `panodetr.results.types`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from panodetr.predict import DETECTION_THRESHOLD, Task

Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Form: TypeAlias = Literal[
    "application/json", "image/png", "image/tiff", "application/geo+json", "text/csv", "hosted"
]
"""How an answer is written: as a media type, or the JSON of hosted inference."""


class SegmentQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/segment`."""

    model: str | None = None
    task: Task = "panoptic"
    threshold: Fraction | None = None
    masks: Literal["png", "rle"] = "png"


class DetectQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/detect`."""

    model: str | None = None
    threshold: Fraction = DETECTION_THRESHOLD
    masks: bool = False


class HostedParameters(Struct, forbid_unknown_fields=True):
    """The parameters that clients of hosted inference send."""

    threshold: Fraction | None = None
    mask_threshold: Fraction | None = None
    overlap_mask_area_threshold: Fraction | None = None
    subtask: Literal["panoptic", "instance", "semantic"] | None = None


class HostedRequest(Struct):
    """The JSON that clients of hosted inference send; `inputs` is an image file in base64."""

    inputs: str
    parameters: HostedParameters | None = None


class Work(NamedTuple):
    """What is to be done with an image; images with equal work may share a batch.

    Attributes:
        model: the name of a model of the service.
        action: what is called, `Predictor.segment` or `Predictor.detect`.
        form: how the answer is written.
        task: of `segment`.
        threshold: least score; None takes the model's own, and 0.5 of detections.
        masks: how masks are written; None leaves them out.
    """

    model: str
    action: Literal["segment", "detect"]
    form: Form
    task: Task = "panoptic"
    threshold: float | None = None
    masks: Literal["png", "rle"] | None = None


class Size(Struct):
    """An image's size in pixels."""

    width: int
    height: int


class RunLengths(Struct):
    """A mask as COCO's uncompressed run lengths: down the columns, empty pixels first."""

    size: tuple[int, int]  # height, width
    counts: list[int]


class SegmentInfo(Struct, kw_only=True):
    """One segment; with masks=rle it has `segmentation`."""

    id: int
    label: str
    category_id: int
    is_thing: bool
    score: float
    box: tuple[float, float, float, float]
    area: int
    segmentation: RunLengths | UnsetType = UNSET


class SegmentAnswer(Struct):
    """What `/v1/segment` answers; with masks=png it has `id_map`, a PNG in base64.

    A pixel's segment id is R + 256 G + 65536 B.
    """

    image: Size
    model: str
    task: Task
    segments: list[SegmentInfo]
    id_map: str | UnsetType = UNSET


class DetectionInfo(Struct, kw_only=True):
    """One object."""

    id: int
    label: str
    category_id: int
    score: float
    box: tuple[float, float, float, float]
    segmentation: RunLengths | None = None


class DetectAnswer(Struct):
    """What `/v1/detect` answers."""

    image: Size
    model: str
    detections: list[DetectionInfo]


class HostedSegment(SegmentInfo, kw_only=True):
    """One segment for clients of hosted inference; `mask` is a grey PNG in base64, 255 inside."""

    mask: str


class HostedBox(Struct):
    """A box in whole pixels."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class HostedDetection(Struct):
    """One object for clients of hosted inference."""

    label: str
    score: float
    box: HostedBox


class CategoryInfo(Struct):
    """One class of a model."""

    id: int
    name: str
    isthing: int
    color: tuple[int, int, int]


class ModelInfo(Struct):
    """One model of the service."""

    name: str
    task: Literal["panoptic", "detection"]
    categories: list[CategoryInfo]
    threshold: float


class ModelList(Struct):
    """What `/v1/models` answers."""

    models: list[ModelInfo]
    default: str


class Sample(Struct):
    """An image to try the service with."""

    name: str
    url: str


class SampleList(Struct):
    """What `/v1/samples` answers."""

    samples: list[Sample]


class Problem(Struct):
    """An error, as `application/problem+json`; `error` repeats `detail` for other clients."""

    title: str
    status: int
    detail: str
    error: str
