"""How a service runs: its address, its processes and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from panodetr.errors import UsageError
from panodetr.runtimes.base import Precision, RuntimeName
from panodetr.validation import Positive, check_fields

Seconds: TypeAlias = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The options of a service.

    Attributes:
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: TCP port; 0 takes any free one.
        workers: Model processes, each with all models.
        device: Where to compute: cpu, cuda, cuda:1, mps, or auto, a CUDA GPU where there is one.
        runtime: What runs the models; auto takes an exported file beside a checkpoint, if there is
            one that runs here. Default: torch, and for an exported file its own.
        precision: What PyTorch computes in: float32 or bfloat16.
        batch: Images or tiles that run together. Default: as many as suit the device.
        max_bytes: Largest body of a request.
        max_pixels: Largest image.
        queue_pixels: Images that may wait, all together; one always may. More are answered 429.
        queue_bytes: Bodies that may be held, from their first byte to the answer.
        batch_pixels: Images that a model process gets at a time; one always fits.
        deadline: Seconds from a whole request to its answer.
        upload_seconds: What a client may take to send a request, or to read an answer.
        log_json: Write the log as a JSON object a line.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Positive = 1
    device: str = "auto"
    runtime: RuntimeName | None = None
    precision: Precision = "float32"
    batch: Positive | None = None
    max_bytes: Positive = 32_000_000
    max_pixels: Positive = 50_000_000
    queue_pixels: Positive = 100_000_000
    queue_bytes: Positive = 500_000_000
    batch_pixels: Positive = 1_000_000
    deadline: Seconds = 60.0
    upload_seconds: Seconds = 30.0
    log_json: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that are out of bounds.

        Raises:
            UsageError: one is.
        """
        try:
            check_fields(self)
        except ValueError as error:
            raise UsageError(str(error)) from error
