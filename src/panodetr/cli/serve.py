"""`panodetr serve`: a page and an HTTP service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from panodetr.cli.output import print_line
from panodetr.errors import MissingExtra, UsageError
from panodetr.serve.options import ServiceOptions

KEY_VARIABLE = "PANODETR_API_KEY"


def serve(
    *,
    model: list[str] | None = None,
    options: Annotated[ServiceOptions, Parameter(name="*")] = ServiceOptions(),  # noqa: B008 - frozen
) -> int:
    """Serve models over HTTP: a page to drop images on, and an API.

    Ctrl-C and SIGTERM end it when what was accepted is answered. If the environment variable
    PANODETR_API_KEY is set, requests must bring it as a bearer token.

    Args:
        model: A model as for `panodetr segment`, or NAME=MODEL; may be repeated. The first is the
            default. Default: nuclei.
        options: How it runs.

    Raises:
        UsageError: two models have one name, the key is empty, or the address is taken.
        PanodetrError: a model was refused.
    """
    try:
        from panodetr.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtra("panodetr serve", "serve") from error
    models = name_models(model or ["nuclei"])
    api_key = os.environ.get(KEY_VARIABLE)
    if api_key == "":
        raise UsageError(f"{KEY_VARIABLE} is empty; give it a key, or unset it")
    names = ", ".join(models)
    run(models, options, lambda address: print_line(f"serving {names} at {address}"), api_key)
    return 0


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Give what `panodetr.load` takes by the names of models, from models and NAME=MODEL.

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
