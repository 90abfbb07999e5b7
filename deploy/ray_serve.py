"""The service of `panodetr serve` under Ray Serve, which adds and removes replicas with the load.

    pip install 'panodetr[serve]' 'ray[serve]'
    serve run deploy.ray_serve:build model=nuclei         # in the checkout

Arguments are NAME=VALUE: `model` is what `--model` takes, several by commas; others are options of
`panodetr serve`, such as `max_bytes=1000000`. Each replica is a service by itself: a bounded queue
and a model process. The proxies of Ray Serve hold the connections, and the API key is the
environment's PANODETR_API_KEY.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray import serve

from panodetr.cli.serve import KEY_VARIABLE, name_models
from panodetr.errors import UsageError
from panodetr.serve.app import Service
from panodetr.serve.options import ServiceOptions
from panodetr.serve.pool import Metrics, Pool
from panodetr.serve.server import Observed, configure_log
from panodetr.validation import check

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp


@serve.deployment(
    max_ongoing_requests=64,  # of a replica; more wait in the proxies
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 8},
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]: Ray leaves it untyped
class Replica:
    """One service, whose requests come from Ray Serve."""

    async def __init__(self, models: dict[str, str], options: ServiceOptions) -> None:
        """Start the model process, and wait until it has loaded the models."""
        configure_log(as_json=options.log_json)
        self._options, self._metrics = options, Metrics()
        self._pool = Pool(models, options, self._metrics)
        await self._pool.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Give the application; Ray Serve asks for it after the start."""
        key = os.environ.get(KEY_VARIABLE)
        service = Service(self._options, key, self._pool, self._metrics)
        return Observed(service.app(), self._metrics)

    def check_health(self) -> None:
        """Let Ray Serve replace a replica whose model process does not come back."""
        if not self._pool.ready:
            raise RuntimeError("no model process is ready")


def build(arguments: dict[str, str]) -> Application:
    """Build the application that `serve run` deploys.

    Raises:
        UsageError: an argument is no option, or two models have one name.
    """
    given = dict(arguments)
    models = name_models(given.pop("model", "nuclei").split(","))
    options = check(given, ServiceOptions, "arguments", UsageError, strict=False)
    return Replica.bind(models, options)
