"""What requests may say and what answers hold, errors included, and the OpenAPI document of it.

Boxes are x0, y0, x1, y1 in pixels of the image, as in `panodetr.results.types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.exceptions import HTTPException

from panodetr import __version__
from panodetr.results.draw import Color
from panodetr.results.types import Category, Task

Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Id: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 24)]
Edge: TypeAlias = Annotated[float, Meta(ge=-1e9, le=1e9)]

File: TypeAlias = Literal["id_map", "labels", "coco", "geojson", "csv"]
Form: TypeAlias = Literal["json", "hosted", "overlay"] | File
"""How an answer is written; `hosted` is the JSON of hosted inference."""

MEDIA_TYPES: dict[Form, str] = {
    "json": "application/json",
    "hosted": "application/json",
    "overlay": "image/png",
    "id_map": "image/png",
    "labels": "image/tiff",
    "coco": "application/json",
    "geojson": "application/geo+json",
    "csv": "text/csv",
}

PROBLEM = "application/problem+json"

CLIENT_GONE = 499
"""In log and metrics, the status of a request whose client has left before the answer."""


class SegmentQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/segment`."""

    model: str | None = None
    task: Task = "panoptic"
    threshold: Fraction | None = None
    masks: Literal["png", "rle", "runs"] = "png"


class DetectQuery(Struct, forbid_unknown_fields=True):
    """The parameters of `/v1/detect`."""

    model: str | None = None
    threshold: Fraction | None = None
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
        threshold: least score; None takes the model's own, of detections 0.5 or its classes' own.
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
    """One object; `color` as overlays have it, red, green, blue; `segmentation` if asked for."""

    id: Id
    label: str
    category_id: int
    score: Fraction
    box: tuple[Edge, Edge, Edge, Edge]
    color: Color | UnsetType = UNSET
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


class RequestError(HTTPException):
    """A request that is answered with an error.

    Attributes:
        status_code: of HTTP.
        title: what the status means.
        detail: one line.
        kind: for the metrics, a few words at most.
        headers: of the answer, or None.
        fault: a traceback for the log.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        fault: str = "",
    ) -> None:
        super().__init__(status, detail, headers)
        self.title = "Client gone" if status == CLIENT_GONE else HTTPStatus(status).phrase
        self.kind = kind or self.title.lower()
        self.fault = fault

    def json(self) -> bytes:
        """Write it as `application/problem+json`."""
        return msgspec.json.encode(
            Problem(self.title, self.status_code, detail=self.detail, error=self.detail)
        )


def overloaded(detail: str, kind: str, seconds: int = 1) -> RequestError:
    """Give the error of a service that has too much to do; clients repeat a 503 at once."""
    return RequestError(429, detail, kind=kind, headers={"Retry-After": str(seconds)})


_SEGMENT = SegmentInfo(
    id=1, label="nucleus", category_id=1, is_thing=True, score=0.92, box=(1, 0, 3, 2), area=3
)
_DETECTION = DetectionInfo(
    id=1, label="nucleus", category_id=1, score=0.92, box=(0.8, -0.1, 3.2, 2.3)
)
_RUNS = Runs(ids=[0, 1, 0, 1, 0], lengths=[1, 2, 1, 1, 3])
_SIZE = Size(width=4, height=2)
_CATEGORY = Category(index=0, id=1, name="nucleus", is_thing=True, color=(220, 20, 60))
_MODEL = ModelInfo(name="nuclei", task="panoptic", categories=[_CATEGORY], threshold=0.5)

_EXAMPLES: dict[type[msgspec.Struct], msgspec.Struct] = {
    SegmentAnswer: SegmentAnswer(_SIZE, "nuclei", "panoptic", [_SEGMENT], runs=_RUNS),
    DetectAnswer: DetectAnswer(_SIZE, "nuclei", [_DETECTION]),
    Shown: Shown(segments=[_SEGMENT], runs=_RUNS, name="cells.png"),
    ModelList: ModelList(models=[_MODEL], default="nuclei"),
    Problem: Problem("Unsupported Media Type", 415, *2 * ["the bytes are empty; send an image"]),
}

_ERRORS = {
    "400": "The request is broken.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "406": "The answer has none of the forms that the client accepts.",
    "408": "The request took too long to arrive.",
    "413": "The body or the image is too large.",
    "415": "The body is not an image.",
    "422": "A parameter is unknown or out of bounds, or the model cannot do this.",
    "429": "The service has too much to do; `Retry-After` says when to try again.",
    "502": "The model process died.",
    "504": "There was no answer in time.",
}

_BYTES = {"type": "string", "format": "binary"}


def describe_api() -> dict[str, Any]:
    """Give the document."""
    shapes = (*_EXAMPLES, SegmentQuery, DetectQuery, WriteQuery)
    _, schemas = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    image = {"application/octet-stream": {"schema": _BYTES}, **_form(image=_BYTES)}
    files = {media: {"schema": _BYTES} for media in sorted(set(MEDIA_TYPES.values()))}

    def post(
        summary: str, query: type[msgspec.Struct], body: dict[str, Any], content: dict[str, Any]
    ) -> dict[str, Any]:
        known = schemas.pop(query.__name__)
        operation = _operation(summary, content)
        operation["responses"] |= {
            status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS
        }
        operation["requestBody"] = {"required": True, "content": body}
        operation["parameters"] = [
            {"name": name, "in": "query", "required": name in known["required"], "schema": schema}
            for name, schema in known["properties"].items()
        ]
        return {"post": operation}

    segment, detect = files | _example(SegmentAnswer), files | _example(DetectAnswer)
    shown = _form(image=_BYTES, shown=_example(Shown)["application/json"]["schema"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "panodetr", "version": __version__},
        "paths": {
            "/v1/segment": post("Find segments", SegmentQuery, image, segment),
            "/v1/detect": post("Find objects", DetectQuery, image, detect),
            "/v1/write": post("Write what was found as a file", WriteQuery, shown, files),
            "/v1/models": {"get": _operation("List the models", _example(ModelList))},
        },
        "components": {
            "schemas": schemas,
            "responses": {
                status: {"description": text, "content": _example(Problem, PROBLEM)}
                for status, text in _ERRORS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": content}},
    }


def _form(**properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": [*properties], "properties": properties}
    return {"multipart/form-data": {"schema": schema}}


def _example(shape: type[msgspec.Struct], media: str = "application/json") -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {media: {"schema": reference, "example": msgspec.to_builtins(_EXAMPLES[shape])}}
