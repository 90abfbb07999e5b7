"""The errors of requests, each with the status that it is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException

from panodetr.serve.api import Problem

PROBLEM = "application/problem+json"

CLIENT_GONE = 499
"""In log and metrics, the status of a request whose client has left before the answer."""


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
