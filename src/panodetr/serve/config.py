"""What a service is told: its models, its address and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from msgspec import Meta

from panodetr.errors import UsageError
from panodetr.runtimes.base import RuntimeName
from panodetr.validation import check_fields

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The settings of a service.

    Attributes:
        models: what `panodetr.load` takes, by the name that requests give; the first is the
            default.
        device: where the model processes compute: "auto", "cpu" or "cuda".
        runtime: what runs the models; None takes each model's own.
        host: address to listen on.
        port: TCP port; 0 takes any free one.
        workers: model processes, each with all models.
        max_bytes: of a request's body; more is answered 413.
        max_pixels: of an image; more is answered 413.
        queue_pixels: of the images that wait; more is answered 429. One image always fits.
        queue_bytes: of the bodies that are held, from their first byte to the answer.
        batch_pixels: of the images that one model process gets at a time. One always fits.
        deadline: seconds from the whole request to its answer; then it is answered 504.
        upload_seconds: that a client may take to send a request, and to read an answer.
        api_key: what requests must bring as a bearer token; None lets everyone in.
        log_json: whether the log has a JSON object a line.
    """

    models: dict[str, str]
    device: str = "auto"
    runtime: RuntimeName | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Count = 1
    max_bytes: Count = 32 << 20
    max_pixels: Count = 50_000_000
    queue_pixels: Count = 100_000_000
    queue_bytes: Count = 512 << 20
    batch_pixels: Count = 1 << 20
    deadline: Seconds = 60.0
    upload_seconds: Seconds = 30.0
    api_key: str | None = field(default=None, repr=False)
    log_json: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that no service can have.

        Raises:
            UsageError: a number is out of bounds, or there is no model.
        """
        try:
            check_fields(self)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not self.models:
            raise UsageError("a service needs a model; give --model")
        if self.api_key == "":
            raise UsageError("the API key is empty; give one, or none at all")
