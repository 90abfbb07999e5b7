"""`panodetr serve`: a page and an HTTP service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.options import Device, Runtime
from panodetr.cli.output import print_line
from panodetr.errors import MissingExtra, UsageError

KEY_VARIABLE = "PANODETR_API_KEY"


def serve(
    *,
    model: list[str] | None = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8000,
    workers: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    device: Device = "auto",
    runtime: Runtime | None = None,
    max_megabytes: Annotated[float, Parameter(validator=Number(gt=0))] = 32,
    max_megapixels: Annotated[float, Parameter(validator=Number(gt=0))] = 50,
    queue_megapixels: Annotated[float, Parameter(validator=Number(gt=0))] = 100,
    deadline: Annotated[float, Parameter(validator=Number(gt=0))] = 60,
    log_json: bool = False,
) -> int:
    """Serve models over HTTP: a page to drop images on, and an API.

    Ctrl-C and SIGTERM end it when what was accepted is answered. If the environment variable
    PANODETR_API_KEY is set, requests must bring it as a bearer token.

    Args:
        model: A model as for `panodetr segment`, or NAME=MODEL; may be repeated. The first is the
            default. Default: nuclei.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: TCP port; 0 takes a free one.
        workers: Model processes, each with all models.
        device: Where to compute; auto takes a GPU where there is one.
        runtime: What runs the models. Default: torch, and for an exported file its own.
        max_megabytes: Largest request.
        max_megapixels: Largest image.
        queue_megapixels: Images that may wait, all together; more are answered 429.
        deadline: Seconds from a request to its answer.
        log_json: Write the log as a JSON object a line.

    Raises:
        UsageError: two models have one name, or the address is taken.
        PanodetrError: a model was refused.
    """
    try:
        from panodetr.serve.config import ServiceConfig
        from panodetr.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtra("panodetr serve", "serve") from error
    config = ServiceConfig(
        models=_by_name(model or ["nuclei"]),
        device=device,
        runtime=runtime,
        host=host,
        port=port,
        workers=workers,
        max_bytes=round(max_megabytes * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        queue_pixels=round(queue_megapixels * 1e6),
        deadline=deadline,
        api_key=os.environ.get(KEY_VARIABLE),
        log_json=log_json,
    )
    run(config, lambda address: print_line(f"serving {', '.join(config.models)} at {address}"))
    return 0


def _by_name(given: list[str]) -> dict[str, str]:
    """Name models: NAME=MODEL as it says, a path by its last part, others as they are.

    Raises:
        UsageError: two have one name.
    """
    models: dict[str, str] = {}
    for one in given:
        name, equals, source = one.partition("=")
        if not equals or Path(one).exists():
            name, source = Path(one).name if Path(one).exists() else one, one
        if name in models:
            raise UsageError(f"two models are named {name}; name one with --model NAME={source}")
        models[name] = source
    return models
