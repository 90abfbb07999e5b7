"""The OpenAPI document of our own API, made from the shapes that it checks and answers."""

from __future__ import annotations

from typing import Any

import msgspec

from panodetr import __version__
from panodetr.results.types import Category
from panodetr.serve.answers import MEDIA_TYPES
from panodetr.serve.api import (
    DetectAnswer,
    DetectionInfo,
    DetectQuery,
    ModelInfo,
    ModelList,
    Problem,
    Runs,
    SegmentAnswer,
    SegmentInfo,
    SegmentQuery,
    Shown,
    Size,
    WriteQuery,
)
from panodetr.serve.errors import PROBLEM

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
