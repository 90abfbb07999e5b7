"""The service's routes: what a request becomes, and how it is answered."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import hmac
from base64 import b64decode
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from importlib.resources import files as package_files
from typing import TypeAlias, TypeVar

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from panodetr.errors import ImageError, PanodetrError, UsageError
from panodetr.images.read import read_size
from panodetr.results.types import Task
from panodetr.serve import api
from panodetr.serve.api import Form, Given, RequestError, Work
from panodetr.serve.options import ServiceOptions
from panodetr.serve.pool import Metrics, Pool
from panodetr.validation import check, decode_json

T = TypeVar("T")

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's content security policy: nothing from elsewhere."""

_FILE_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}
"""Of the page's files. What the system says of a suffix may be wrong, and scripts then stay out."""

_FORMS: dict[str, Form] = {
    api.MEDIA_TYPES[form]: form for form in ("json", "overlay", "labels", "geojson", "csv")
}
"""What `Accept` may ask of our own API, the first by default."""

_MULTIPART = b"multipart/form-data"

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

    def app(self) -> Starlette:
        """Give the application."""
        post: dict[str, Endpoint] = {
            "/": self.hosted,
            "/detect": self.hosted,
            "/models/{name:path}/detect": self.hosted,
            "/models/{name:path}": self.hosted,
            "/v1/segment": self.segment,
            "/v1/detect": self.detect,
            "/v1/write": self.write,
        }
        get: dict[str, Endpoint] = {
            "/v1/models": self._private(self.models),
            "/metrics": self._private(self.metrics),
            "/readyz": self.ready,
        }
        files = {
            **dict(_page_files()),
            "/openapi.json": _json(msgspec.json.encode(api.describe_api())),
            "/health": _json(b'{"status": "ok"}'),  # the front process is alive
            "/healthz": _json(b'{"status": "ok"}'),
        }
        return Starlette(
            routes=[
                *(Route(path, self._private(own), methods=["POST"]) for path, own in post.items()),
                *(Route(path, own, methods=["GET"]) for path, own in get.items()),
                *(Route(path, answer, methods=["GET"]) for path, answer in files.items()),
            ],
            exception_handlers={
                kind: _answer_error
                for kind in (HTTPException, PanodetrError, ClientDisconnect, Exception)
            },
        )

    async def segment(self, request: Request) -> Response:
        """Answer `POST /v1/segment`."""
        query = _query(request, api.SegmentQuery)
        model = self._model(query.model).name
        work = Work(model, "segment", _form(request), query.task, query.threshold, query.masks)
        return await self._run(request, work)

    async def detect(self, request: Request) -> Response:
        """Answer `POST /v1/detect`."""
        query = _query(request, api.DetectQuery)
        model, masks = self._model(query.model).name, "rle" if query.masks else None
        work = Work(model, "detect", _form(request), threshold=query.threshold, masks=masks)
        return await self._run(request, work)

    async def write(self, request: Request) -> Response:
        """Answer `POST /v1/write`."""
        query = _query(request, api.WriteQuery)
        return await self._run(request, Work(self._model(query.model).name, "write", query.file))

    async def hosted(self, request: Request) -> Response:
        """Answer a client of hosted inference, by the path or else the model's own task."""
        model = self._model(request.path_params.get("name"))
        boxes = model.task == "detection" or request.url.path.endswith("/detect")
        return await self._run(
            request, Work(model.name, "detect" if boxes else "segment", "hosted")
        )

    async def models(self, request: Request) -> Response:
        """Answer `GET /v1/models`."""
        models = self._pool.models
        return _json(msgspec.json.encode(api.ModelList(models=models, default=models[0].name)))

    async def metrics(self, request: Request) -> Response:
        """Answer Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def ready(self, request: Request) -> Response:
        """Say whether requests are welcome."""
        if not self._pool.ready:
            raise RequestError(503, "no model process is ready, or the service is about to end")
        return _json(b'{"status": "ready"}')

    def _model(self, name: str | None) -> api.ModelInfo:
        models = {model.name: model for model in self._pool.models}
        if name is None:
            return self._pool.models[0]
        if name not in models:
            raise RequestError(404, f"no model {name[:99]!r}; expected one of {', '.join(models)}")
        return models[name]

    def _private(self, endpoint: Endpoint) -> Endpoint:
        """Let only those in who bring the key, if there is one."""

        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            given_key = _digest(given.strip()) if scheme.lower() == "bearer" else b""
            if self._key is not None and not hmac.compare_digest(given_key, self._key):
                detail = "this needs the service's API key as a bearer token"
                raise RequestError(401, detail, headers={"WWW-Authenticate": "Bearer"})
            return await endpoint(request)

        return checked

    async def _run(self, request: Request, work: Work) -> Response:
        """Read the image, let a model process work on it, and give its answer."""
        async with self._read_body(request) as body:
            headers = {}
            if work.form == "hosted":
                image, parameters = hosted_image(body)
                given = Given(image)
                work, ignored = _with_parameters(work, parameters)
                if ignored:
                    headers["X-Ignored-Parameters"] = ", ".join(ignored)
            elif work.action == "write":
                given = await shown_in_body(body, request.headers)
            else:
                given = Given(await image_of_body(body, request.headers))
            pixels = await asyncio.to_thread(count_pixels, given.image, self._options.max_pixels)
            answer = await self._answer(request, work, given, pixels)
            return Response(answer, media_type=api.MEDIA_TYPES[work.form], headers=headers)

    async def _answer(self, request: Request, work: Work, given: Given, pixels: int) -> bytes:
        waiting = asyncio.create_task(self._pool.answer(work, given, pixels))
        gone = asyncio.ensure_future(request.receive())  # it has sent all, and can only leave
        deadline = self._options.deadline
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({waiting, gone}, timeout=deadline, return_when=first)
            if waiting.done():
                return waiting.result()
            if gone.done():
                raise ClientDisconnect
            raise RequestError(504, f"there was no answer within {deadline:g} s; try again later")
        finally:
            waiting.cancel()
            gone.cancel()

    @asynccontextmanager
    async def _read_body(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Read a body, and count its bytes as held until the block ends."""
        limit, most = self._options.max_bytes, self._options.queue_bytes
        too_large = f"the body is larger than {limit:,} bytes; send a smaller file"
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise RequestError(413, too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._options.upload_seconds):
                async for chunk in request.stream():
                    body += chunk
                    self._held_bytes += len(chunk)
                    if len(body) > limit:
                        raise RequestError(413, too_large)
                    if self._held_bytes > most:
                        raise api.overloaded(
                            f"the limit of {most:,} bytes in all requests is reached; "
                            "try again later",
                            "bytes full",
                        )
            yield bytes(body)
        except TimeoutError as error:
            seconds = f"{self._options.upload_seconds:g} s"
            raise RequestError(408, f"the request took longer than {seconds} to arrive") from error
        finally:
            self._held_bytes -= len(body)


def _query(request: Request, expected: type[T]) -> T:
    return check(dict(request.query_params), expected, "the query", UsageError, strict=False)


def _form(request: Request) -> Form:
    """Give the form of the answer that a request accepts."""
    return _FORMS[choose_media_type(request.headers.get("accept", ""), tuple(_FORMS))]


def _with_parameters(work: Work, parameters: api.HostedParameters) -> tuple[Work, list[str]]:
    """Add a hosted client's parameters, and name those that have no effect.

    Those that say how masks are merged are for panoptic segmentation, where they take the place of
    the paper's merge. A semantic segmentation has no threshold at all.
    """
    threshold, task = parameters.threshold, _TASKS[parameters.subtask]
    merge = {
        "mask_threshold": parameters.mask_threshold,
        "overlap": parameters.overlap_mask_area_threshold,
    }
    unused: list[str] = []
    if work.action == "detect" or task != "panoptic":
        unused += ["mask_threshold", "overlap_mask_area_threshold"]
        merge = {}
    if work.action == "detect":
        unused.append("subtask")
    elif task == "semantic":
        threshold = None
        unused.append("threshold")
    ignored = [name for name in unused if getattr(parameters, name) is not None]
    given = tuple((name, value) for name, value in merge.items() if value is not None)
    return work._replace(task=task, threshold=threshold, merge=given), ignored


def choose_media_type(accept: str, offered: Sequence[str]) -> str:
    """Choose the media type that a client likes best, of those that are offered, ours first.

    Raises:
        RequestError: it accepts none of them (406).
    """
    liked: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        kind, options = parse_options_header(part.strip())
        try:
            liked[kind.decode()] = float(options.get(b"q", 1))
        except ValueError:
            liked[kind.decode()] = 1.0

    def liking(media: str) -> float:
        return max(liked.get(kind, 0) for kind in (media, f"{media.split('/')[0]}/*", "*/*"))

    best = max(offered, key=liking)  # of equals the first
    if not liking(best) > 0:
        raise RequestError(406, f"this answers {', '.join(offered)}; accept one of these")
    return best


async def image_of_body(body: bytes, headers: Headers) -> bytes:
    """Give the image of a body that is an image file, or a form with one in the field `image`.

    Whatever else the content type says, the image's own first bytes say what it is.

    Raises:
        RequestError: the form is broken (400) or has no image (415).
    """
    kind, _ = parse_options_header(headers.get("content-type"))
    return (await _read_form(body, headers, "image"))[0] if kind == _MULTIPART else body


async def shown_in_body(body: bytes, headers: Headers) -> Given:
    """Give the image of a form, and what is to be written of it, from the field `shown`.

    Raises:
        RequestError: the form is broken (400) or lacks a field (415).
        UsageError: the JSON is invalid.
    """
    image, shown = await _read_form(body, headers, "image", "shown")
    return Given(image, decode_json(shown, api.Shown, "shown", UsageError))


async def _read_form(body: bytes, headers: Headers, *fields: str) -> list[bytes]:
    """Give the files of a form by their fields."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(headers, chunks(), max_part_size=len(body))
    parser.spool_max_size = len(body)  # nothing goes to the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # no content type
        raise RequestError(400, "the body is not a valid multipart form") from error
    try:
        files: list[bytes] = []
        for field in fields:
            given = form.getlist(field)
            if len(given) != 1:
                raise RequestError(415, f"the form has {len(given)} fields {field!r}; expected one")
            file = given[0]
            files.append(await file.read() if isinstance(file, UploadFile) else file.encode())
        return files
    finally:
        await form.close()


def hosted_image(body: bytes) -> tuple[bytes, api.HostedParameters]:
    """Give the image and the parameters of a request to the hosted endpoint.

    The body is an image file, or JSON; no image file begins with a brace.

    Raises:
        RequestError: `inputs` is a URL (422) or not base64 (415).
        UsageError: the JSON is invalid.
    """
    if body.lstrip(b" \t\r\n")[:1] != b"{":
        return body, api.HostedParameters()
    request = decode_json(body, api.HostedRequest, "the body", UsageError)
    inputs = request.inputs.strip()
    if "://" in inputs[:16]:
        raise RequestError(422, "inputs is a URL, and none is fetched; send the image itself")
    try:
        image = b64decode(inputs.partition(",")[2] if inputs.startswith("data:") else inputs)
    except (binascii.Error, ValueError) as error:
        raise RequestError(415, "inputs is not base64; expected an image file in it") from error
    return image, request.parameters or api.HostedParameters()


def count_pixels(image: bytes, max_pixels: int) -> int:
    """Read the size of an image from its header.

    Raises:
        ImageError: it is not an image.
        RequestError: it is too large (413).
    """
    height, width = read_size(image, max_pixels=1 << 62)
    if height * width > max_pixels:
        raise RequestError(
            413,
            f"the image has {width}x{height} pixels, and the limit is {max_pixels:,}; "
            "make it smaller",
        )
    return height * width


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer an error as `application/problem+json`; its kind is for the metrics."""
    if isinstance(error, ClientDisconnect):
        error = RequestError(api.CLIENT_GONE, "the client has left")
    elif isinstance(error, PanodetrError):
        error = RequestError(415 if isinstance(error, ImageError) else 422, str(error))
    elif not isinstance(error, HTTPException):
        error = RequestError(500, "something failed within the service; its log says what")
    elif not isinstance(error, RequestError):  # Starlette's own
        detail = "there is nothing at this path; /openapi.json lists the paths"
        if error.status_code == 405 and error.headers:
            detail = f"{request.method} is not for this path; expected {error.headers['Allow']}"
        error = RequestError(error.status_code, detail, headers=error.headers)
    request.state.error = error
    return Response(error.json(), error.status_code, error.headers, media_type=api.PROBLEM)


def _page_files() -> Iterator[tuple[str, Response]]:
    """Give the page and the samples by their paths, in memory: no request reaches the disk."""
    root = package_files("panodetr")
    folders = {"/": root / "serve" / "page", "/samples/": root / "assets" / "samples"}
    for path, folder in folders.items():
        for file in folder.iterdir():
            if media_type := _FILE_TYPES.get(file.name.rpartition(".")[2]):
                headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
                answer = Response(file.read_bytes(), headers=headers, media_type=media_type)
                yield path + ("" if file.name == "index.html" else file.name), answer


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _json(contents: bytes) -> Response:
    return Response(contents, media_type="application/json")
