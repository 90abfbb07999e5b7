"""The errors of requests, each with the status that it is answered with."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from panodetr.serve.api import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM = "application/problem+json"

CLIENT_GONE = 499
"""In log and metrics, the status of a request whose client has left before the answer."""


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        title: what the status means.
        detail: one line.
        kind: for the metrics, a few words at most.
        headers: of the answer.
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
        super().__init__(detail)
        self.status = status
        self.title = "Client gone" if status == CLIENT_GONE else HTTPStatus(status).phrase
        self.detail = detail
        self.kind = kind or self.title.lower()
        self.headers = headers or {}
        self.fault = fault

    def json(self) -> bytes:
        """Write it as `application/problem+json`."""
        return msgspec.json.encode(
            Problem(title=self.title, status=self.status, detail=self.detail, error=self.detail)
        )


def overloaded(detail: str, kind: str, seconds: int = 1) -> RequestError:
    """Give the error of a service that has too much to do; clients repeat a 503 at once."""
    return RequestError(429, detail, kind=kind, headers={"Retry-After": str(seconds)})
