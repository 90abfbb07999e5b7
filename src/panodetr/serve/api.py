"""What requests may say and what answers hold: the shapes of the service's JSON.

Boxes are x0, y0, x1, y1 in pixels of the image, as in `panodetr.results.types`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from panodetr.predict import DETECTION_THRESHOLD
from panodetr.results.types import Category, Task

Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Id: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 24)]
Edge: TypeAlias = Annotated[float, Meta(ge=-1e9, le=1e9)]

File: TypeAlias = Literal["id_map", "labels", "coco", "geojson", "csv"]
Form: TypeAlias = Literal["json", "hosted", "overlay"] | File
"""How an answer is written; `hosted` is the JSON of hosted inference."""


class SegmentQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/segment`."""

    model: str | None = None
    task: Task = "panoptic"
    threshold: Fraction | None = None
    masks: Literal["png", "rle", "runs"] = "png"


class DetectQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/detect`."""

    model: str | None = None
    threshold: Fraction = DETECTION_THRESHOLD
    masks: bool = False


class WriteQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/write`."""

    file: File
    model: str | None = None


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
        action: what is called, `Predictor.segment` or `Predictor.detect`; or what was found before
            is written as a file.
        form: how the answer is written.
        task: of `segment`.
        threshold: least score; None takes the model's own, and 0.5 of detections.
        masks: how masks are written; None leaves them out.
        merge: for `Predictor.with_merge`, as pairs; none takes the model's own way.
    """

    model: str
    action: Literal["segment", "detect", "write"]
    form: Form
    task: Task = "panoptic"
    threshold: float | None = None
    masks: Literal["png", "rle", "runs"] | None = None
    merge: tuple[tuple[str, float], ...] = ()


class Size(Struct):
    """An image's size in pixels."""

    width: int
    height: int


class RunLengths(Struct):
    """A mask as COCO's uncompressed run lengths: down the columns, empty pixels first."""

    size: tuple[int, int]  # height, width
    counts: list[int]


class Runs(Struct):
    """The id map row by row, as runs: the id of each run of pixels, 0 for none; its length."""

    ids: list[Id]
    lengths: list[Annotated[int, Meta(ge=1)]]


class DetectionInfo(Struct, kw_only=True):
    """One object; `segmentation` where it was asked for."""

    id: Id
    label: str
    category_id: int
    score: Fraction
    box: tuple[Edge, Edge, Edge, Edge]
    segmentation: RunLengths | UnsetType = UNSET


class SegmentInfo(DetectionInfo, kw_only=True):
    """One segment; `segmentation` with masks=rle."""

    is_thing: bool
    area: int


class SegmentAnswer(Struct):
    """What `/v1/segment` answers.

    With masks=png it has `id_map`, a PNG in base64, in which a pixel's segment id is
    R + 256 G + 65536 B; with masks=runs it has `runs`.
    """

    image: Size
    model: str
    task: Task
    segments: list[SegmentInfo]
    id_map: str | UnsetType = UNSET
    runs: Runs | UnsetType = UNSET


class DetectAnswer(Struct):
    """What `/v1/detect` answers."""

    image: Size
    model: str
    detections: list[DetectionInfo]


class Shown(Struct):
    """What `/v1/write` writes: the segments of an answer with their runs, or its detections.

    Those that were left out are not in the file. `name` is the image's, for the file.
    """

    segments: list[SegmentInfo] = []
    runs: Runs | None = None
    detections: list[DetectionInfo] = []
    name: str = ""


class Given(NamedTuple):
    """What a model process gets for one request: an image file, and what is to be written."""

    image: bytes
    shown: Shown = Shown()


class ModelInfo(Struct):
    """One model of the service."""

    name: str
    task: Literal["panoptic", "detection"]
    categories: list[Category]
    threshold: float


class ModelList(Struct):
    """What `/v1/models` answers."""

    models: list[ModelInfo]
    default: str


class Problem(Struct):
    """An error, as `application/problem+json`; `error` repeats `detail` for other clients."""

    title: str
    status: int
    detail: str
    error: str
