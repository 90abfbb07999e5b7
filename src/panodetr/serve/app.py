"""The service's routes: what a request becomes, and how it is answered."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from panodetr.serve.answers import FILES
from panodetr.serve.api import (
    DetectQuery,
    HostedParameters,
    ModelList,
    Sample,
    SampleList,
    SegmentQuery,
    Work,
)
from panodetr.serve.body import (
    choose_form,
    count_pixels,
    hosted_image,
    image_of_body,
    read_query,
)
from panodetr.serve.errors import CLIENT_GONE, PROBLEM, RequestError, overloaded
from panodetr.serve.openapi import describe_api

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from panodetr.serve.api import Form, ModelInfo, Task
    from panodetr.serve.metrics import Metrics
    from panodetr.serve.options import ServiceOptions
    from panodetr.serve.pool import Pool

    Endpoint = Callable[[Request], Awaitable[Response]]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's content security policy: nothing from elsewhere."""

MEDIA_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}
"""Of the page's files. What the system says of a suffix may be wrong, and scripts then stay out."""

FORMS: tuple[Form, ...] = ("application/json", *FILES)

_TASKS: dict[str | None, Task] = {
    None: "panoptic",
    "panoptic": "panoptic",
    "instance": "instances",
    "semantic": "semantic",
}


class Service:
    """The routes of one service."""

    def __init__(
        self, options: ServiceOptions, api_key: str | None, pool: Pool, metrics: Metrics
    ) -> None:
        self._options = options
        self._pool = pool
        self._metrics = metrics
        self._held_bytes = 0
        self._key = None if api_key is None else _digest(api_key)
        # All files are in memory: no path of a request reaches the file system.
        self._page = _read_files("panodetr.serve", "page")
        samples = _read_files("panodetr.assets", "samples")
        self._samples = {name: samples[name] for name in samples if name.endswith(".png")}
        self._api = msgspec.json.encode(describe_api())

    def app(self) -> Starlette:
        """Give the application."""
        private: dict[tuple[str, str], Endpoint] = {
            ("POST", "/"): self.hosted,
            ("POST", "/detect"): self.hosted_detect,
            ("POST", "/models/{name:path}/detect"): self.hosted_detect,
            ("POST", "/models/{name:path}"): self.hosted,
            ("POST", "/v1/segment"): self.segment,
            ("POST", "/v1/detect"): self.detect,
            ("GET", "/v1/models"): self.models,
            ("GET", "/metrics"): self.metrics,
        }
        public: dict[str, Endpoint] = {
            "/health": self.health,
            "/healthz": self.health,
            "/readyz": self.ready,
            "/openapi.json": self.openapi,
            "/v1/samples": self.samples,
            "/samples/{name}": self.sample,
            **{f"/{name}": self.page for name in self._page},
            "/": self.page,
        }
        return Starlette(
            routes=[
                *(
                    Route(path, self._with_key(endpoint), methods=[method], name=endpoint.__name__)
                    for (method, path), endpoint in private.items()
                ),
                *(
                    Route(path, endpoint, methods=["GET"], name=endpoint.__name__)
                    for path, endpoint in public.items()
                ),
            ],
            exception_handlers={
                RequestError: _answer_error,
                HTTPException: _answer_error,
                ClientDisconnect: _answer_error,
                Exception: _answer_error,
            },
        )

    async def segment(self, request: Request) -> Response:
        """Answer `POST /v1/segment`."""
        query = read_query(request.query_params, SegmentQuery)
        form = choose_form(request.headers.get("accept", ""), FORMS)
        work = Work(
            model=self._model(query.model).name,
            action="segment",
            form=form,
            task=query.task,
            threshold=query.threshold,
            masks=query.masks,
        )
        return await self._run(request, work)

    async def detect(self, request: Request) -> Response:
        """Answer `POST /v1/detect`."""
        query = read_query(request.query_params, DetectQuery)
        form = choose_form(request.headers.get("accept", ""), FORMS)
        work = Work(
            model=self._model(query.model).name,
            action="detect",
            form=form,
            threshold=query.threshold,
            masks="rle" if query.masks else None,
        )
        return await self._run(request, work)

    async def hosted(self, request: Request) -> Response:
        """Answer a client of hosted inference, by the model's own task."""
        model = self._model(request.path_params.get("name"))
        action = "segment" if model.task == "panoptic" else "detect"
        return await self._run(request, Work(model=model.name, action=action, form="hosted"))

    async def hosted_detect(self, request: Request) -> Response:
        """Answer a client of hosted inference that wants boxes, whatever the model's task."""
        model = self._model(request.path_params.get("name"))
        return await self._run(request, Work(model=model.name, action="detect", form="hosted"))

    async def models(self, request: Request) -> Response:
        """Answer `GET /v1/models`."""
        models = self._pool.models
        return _json(ModelList(models=models, default=models[0].name))

    async def samples(self, request: Request) -> Response:
        """Answer `GET /v1/samples`."""
        return _json(SampleList([Sample(name, f"/samples/{name}") for name in self._samples]))

    async def sample(self, request: Request) -> Response:
        """Answer `GET /samples/NAME`."""
        return _file(self._samples, request.path_params["name"])

    async def page(self, request: Request) -> Response:
        """Answer with a file of the page."""
        answer = _file(self._page, request.url.path.removeprefix("/") or "index.html")
        answer.headers["Content-Security-Policy"] = PAGE_POLICY
        return answer

    async def openapi(self, request: Request) -> Response:
        """Answer `GET /openapi.json`."""
        return Response(self._api, media_type="application/json")

    async def health(self, request: Request) -> Response:
        """Say that the front process is alive."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Say whether requests are welcome."""
        if not self._pool.ready:
            raise RequestError(503, "no model process is ready, or the service is about to end")
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Answer Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _model(self, name: str | None) -> ModelInfo:
        """Find a model.

        Raises:
            RequestError: there is none of that name (404).
        """
        models = {model.name: model for model in self._pool.models}
        if name is None:
            return self._pool.models[0]
        if name not in models:
            raise RequestError(404, f"no model {name[:99]!r}; expected one of {', '.join(models)}")
        return models[name]

    def _with_key(self, endpoint: Endpoint) -> Endpoint:
        """Let only those in who bring the key, if there is one."""

        async def checked(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            given_key = _digest(given.strip()) if scheme.lower() == "bearer" else b""
            if self._key is not None and not hmac.compare_digest(given_key, self._key):
                raise RequestError(
                    401,
                    "this needs the service's API key as a bearer token",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return await endpoint(request)

        checked.__name__ = endpoint.__name__
        return checked

    async def _run(self, request: Request, work: Work) -> Response:
        """Read the image, let a model process work on it, and give its answer."""
        async with self._read_body(request) as body:
            headers = {}
            if work.form == "hosted":
                image, parameters = hosted_image(body)
                work, ignored = _with_parameters(work, parameters)
                if ignored:
                    headers["X-Ignored-Parameters"] = ", ".join(ignored)
            else:
                image = image_of_body(body, request.headers.get("content-type", ""))
            pixels = await asyncio.to_thread(count_pixels, image, self._options.max_pixels)
            answer = await self._answer(request, work, image, pixels)
            media = "application/json" if work.form == "hosted" else work.form
            return Response(answer, media_type=media, headers=headers)

    async def _answer(self, request: Request, work: Work, image: bytes, pixels: int) -> bytes:
        waiting = self._pool.put(work, image, pixels)
        gone = asyncio.ensure_future(request.receive())  # it has sent all, and can only leave
        try:
            await asyncio.wait(
                {waiting, gone},
                timeout=self._options.deadline,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not waiting.done():
                if gone.done():
                    raise ClientDisconnect
                raise RequestError(
                    504, f"there was no answer within {self._options.deadline:g} s; try again later"
                )
            answer = waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()
        if answer.status != 200:
            raise RequestError(answer.status, answer.body.decode(), fault=answer.fault)
        return answer.body

    @asynccontextmanager
    async def _read_body(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Read a body, and count its bytes as held until the block ends.

        Raises:
            RequestError: it is too large (413), takes too long (408), or too much is held (429).
        """
        limit, own, chunks = self._options.max_bytes, 0, list[bytes]()
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._options.upload_seconds):
                async for chunk in request.stream():
                    own += len(chunk)
                    self._held_bytes += len(chunk)
                    if own > limit:
                        raise _too_large(limit)
                    if self._held_bytes > self._options.queue_bytes:
                        raise overloaded(
                            f"the limit of {self._options.queue_bytes:,} bytes in all requests is "
                            "reached; try again later",
                            "bytes full",
                        )
                    chunks.append(chunk)
            yield b"".join(chunks)
        except TimeoutError as error:
            seconds = f"{self._options.upload_seconds:g} s"
            raise RequestError(408, f"the request took longer than {seconds} to arrive") from error
        finally:
            self._held_bytes -= own


def _with_parameters(work: Work, parameters: HostedParameters) -> tuple[Work, list[str]]:
    """Add a hosted client's parameters, and name those that have no effect.

    The paper's merge gives each pixel to the highest mask: it has no threshold for masks or for
    their overlap. A semantic segmentation has no threshold at all.
    """
    unused = ["mask_threshold", "overlap_mask_area_threshold"]
    threshold, task = parameters.threshold, _TASKS[parameters.subtask]
    if work.action == "detect":
        unused.append("subtask")
    elif task == "semantic":
        threshold = None
        unused.append("threshold")
    ignored = [name for name in unused if getattr(parameters, name) is not None]
    return work._replace(task=task, threshold=threshold), ignored


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer an error as `application/problem+json`; its kind is for the metrics."""
    if isinstance(error, ClientDisconnect):
        error = RequestError(CLIENT_GONE, "the client has left")
    elif isinstance(error, HTTPException):
        error = RequestError(error.status_code, error.detail, headers=error.headers)
    elif not isinstance(error, RequestError):
        error = RequestError(500, "something failed within the service; its log says what")
    request.state.error = error
    return Response(
        error.json(),
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM,
    )


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit:,} bytes; send a smaller file")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _read_files(package: str, folder: str) -> dict[str, bytes]:
    """Read the files of a folder in a package, by name."""
    entries = sorted(files(package).joinpath(folder).iterdir(), key=lambda entry: entry.name)
    return {entry.name: entry.read_bytes() for entry in entries if entry.is_file()}


def _file(known: dict[str, bytes], name: str) -> Response:
    """Answer with one of the files that are in memory.

    Raises:
        RequestError: there is none of that name (404).
    """
    if name not in known:
        raise RequestError(404, "there is no such file")
    media = MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(known[name], media_type=media, headers={"Cache-Control": "no-cache"})
