"""The description of our own API, made from the shapes that it checks and answers."""

from __future__ import annotations

from typing import Any


def describe_api() -> dict[str, Any]:
    """Give the OpenAPI document."""
    return {"openapi": "3.1.0"}
