"""The OpenAPI document of our own API, made from the shapes that it checks and answers."""

from __future__ import annotations

from typing import Any

import msgspec

from panodetr import __version__
from panodetr.serve.answers import FILES
from panodetr.serve.api import (
    CategoryInfo,
    DetectAnswer,
    DetectionInfo,
    DetectQuery,
    ModelInfo,
    ModelList,
    Problem,
    RunLengths,
    Sample,
    SampleList,
    SegmentAnswer,
    SegmentInfo,
    SegmentQuery,
    Size,
)
from panodetr.serve.errors import PROBLEM

_SEGMENT = SegmentInfo(
    id=1,
    label="nucleus",
    category_id=1,
    is_thing=True,
    score=0.92,
    box=(1, 0, 3, 2),
    area=3,
    segmentation=RunLengths(size=(2, 4), counts=[2, 1, 1, 2, 2]),
)
_DETECTION = DetectionInfo(
    id=1, label="nucleus", category_id=1, score=0.92, box=(0.8, -0.1, 3.2, 2.3)
)
_CATEGORY = CategoryInfo(id=1, name="nucleus", isthing=1, color=(220, 20, 60))
_MODEL = ModelInfo(name="nuclei", task="panoptic", categories=[_CATEGORY], threshold=0.5)

_EXAMPLES: dict[type[msgspec.Struct], msgspec.Struct] = {
    SegmentAnswer: SegmentAnswer(
        image=Size(width=4, height=2), model="nuclei", task="panoptic", segments=[_SEGMENT]
    ),
    DetectAnswer: DetectAnswer(
        image=Size(width=4, height=2), model="nuclei", detections=[_DETECTION]
    ),
    ModelList: ModelList(models=[_MODEL], default="nuclei"),
    SampleList: SampleList([Sample("fluorescence.png", "/samples/fluorescence.png")]),
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


def describe_api() -> dict[str, Any]:
    """Give the document."""
    shapes = (*_EXAMPLES, SegmentQuery, DetectQuery)
    _, schemas = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    segment = _with_image("Find segments", SegmentQuery, SegmentAnswer, schemas)
    detect = _with_image("Find objects", DetectQuery, DetectAnswer, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "panodetr", "version": __version__},
        "paths": {
            "/v1/segment": {"post": segment},
            "/v1/detect": {"post": detect},
            "/v1/models": {"get": _operation("List the models", ModelList)},
            "/v1/samples": {"get": _operation("List images to try", SampleList)},
        },
        "components": {
            "schemas": schemas,
            "responses": {
                status: {
                    "description": text,
                    "content": {PROBLEM: _content(Problem)},
                }
                for status, text in _ERRORS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _with_image(
    summary: str, query: type[msgspec.Struct], answer: type[msgspec.Struct], schemas: dict[str, Any]
) -> dict[str, Any]:
    """Describe an operation that takes an image."""
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["image"], "properties": {"image": image}}
    operation = _operation(summary, answer)
    operation["responses"]["200"]["content"] |= {media: {"schema": image} for media in FILES}
    operation["responses"] |= {
        status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS
    }
    return {
        **operation,
        "parameters": [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in schemas.pop(query.__name__)["properties"].items()
        ],
        "requestBody": {
            "required": True,
            "description": "An image file, or a form with one.",
            "content": {
                "application/octet-stream": {"schema": image},
                "multipart/form-data": {"schema": form},
            },
        },
    }


def _operation(summary: str, answer: type[msgspec.Struct]) -> dict[str, Any]:
    content = {"application/json": _content(answer)}
    return {
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": content}},
    }


def _content(answer: type[msgspec.Struct]) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{answer.__name__}"}
    return {"schema": reference, "example": msgspec.to_builtins(_EXAMPLES[answer])}
