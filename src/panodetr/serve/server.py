"""The front process: connections with limits, drain at SIGTERM, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from panodetr.errors import UsageError, reason_of
from panodetr.serve.api import PROBLEM, RequestError
from panodetr.serve.app import Service
from panodetr.serve.options import ServiceOptions
from panodetr.serve.pool import Metrics, Pool

MAX_HEADERS = 16 << 10
"""Bytes of a request's headers; more is answered 400."""

GRACE = 5.0
"""Seconds more than `upload_seconds` before a connection is cut off without an answer."""

_log = logging.getLogger("panodetr.serve")


def serve(
    models: Mapping[str, str],
    options: ServiceOptions,
    on_ready: Callable[[str], None],
    api_key: str | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and then finish what was accepted.

    Args:
        models: what `panodetr.load` takes, by the name that requests give; the first is the
            default.
        options: how the service runs.
        on_ready: gets the service's address once it answers.
        api_key: what requests must bring as a bearer token; None lets everyone in.

    Raises:
        UsageError: the address cannot be listened on.
        PanodetrError: a model was refused.
    """
    configure_log(as_json=options.log_json)
    metrics = Metrics()

    async def run(listener: socket.socket) -> None:
        pool = Pool(models, options, metrics)
        try:
            await pool.start()
            app = Service(options, api_key, pool, metrics).app()
            server = Server(Observed(app, metrics), pool, options)
            listener.listen()
            host = f"[{options.host}]" if ":" in options.host else options.host
            on_ready(f"http://{host}:{listener.getsockname()[1]}")
            await server.serve(sockets=[listener])
        finally:
            await pool.close()

    with _bind(options.host, options.port) as listener:
        asyncio.run(run(listener))


class Server(uvicorn.Server):
    """Uvicorn, which ends only after what was accepted is answered."""

    def __init__(self, app: ASGIApp, pool: Pool, options: ServiceOptions) -> None:
        self._pool = pool

        class Limited(_Connection):
            upload_seconds = options.upload_seconds

        super().__init__(
            uvicorn.Config(
                app,
                http=Limited,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEADERS,
                timeout_graceful_shutdown=round(options.deadline),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, and leave at once at the second."""
        if self._pool.draining:
            self.force_exit = self.should_exit = True
        self._pool.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Say, every tenth of a second, whether it is time to leave."""
        if self._pool.draining and not self._pool.accepted:
            self.should_exit = True
        return await super().on_tick(counter)


class _Connection(H11Protocol):
    """A connection that is cut off when the client takes too long to send or to read."""

    upload_seconds: float
    _cut_off: asyncio.TimerHandle | None = None  # while the client is waited for
    _unread = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = True
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = False
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._later()  # what is left to send may never be read

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut_off is not None:
            self._cut_off.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, as every error is answered."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.abort()
            return
        headers = [("Content-Type", PROBLEM), ("Connection", "close")]
        for event in (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=RequestError(400, "this is not a valid HTTP request").json()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Set the timer while a request is under way, or an answer is not read."""
        waits = self._unread or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if waits and self._cut_off is None:
            self._cut_off = self._later()
        elif not waits and self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None

    def _later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.upload_seconds + GRACE, self.transport.abort)


class Observed:
    """Around the application: a request's id, its line in the log, its figures, its headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and observe it."""
        if scope["type"] != "http":  # startup and shutdown, which other servers send
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        fields = {"request_id": secrets.token_hex(8), "method": scope["method"]}
        status, size = 500, 0

        async def observe(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", fields["request_id"].encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            seconds = time.perf_counter() - began
            endpoint = scope.get("endpoint")  # a file in memory has no name
            route = "none" if endpoint is None else getattr(endpoint, "__name__", "file")
            error: RequestError | None = scope.get("state", {}).get("error")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.latency.labels(route).observe(seconds)
            fields |= {"route": route, "status": status}
            fields |= {"seconds": round(seconds, 4), "bytes": size}
            if error is not None:
                self._metrics.errors.labels(error.kind).inc()
                fields |= {"error": error.detail} | ({"fault": error.fault} if error.fault else {})
            level = logging.ERROR if status == 500 else logging.INFO
            _log.log(level, "request", extra={"fields": fields})


class _Lines(logging.Formatter):
    """A line a record: JSON, or text with the fields at its end."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "fault": self.formatException(record.exc_info)}
        if self._as_json:
            return json.dumps(head | fields)
        return " ".join([*head.values(), *(f"{k}={json.dumps(v)}" for k, v in fields.items())])


def configure_log(*, as_json: bool) -> None:
    """Send the log of the service and of uvicorn to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json))
    for name, level in (("panodetr.serve", logging.INFO), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _bind(host: str, port: int) -> socket.socket:
    """Take an address before the models are loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason_of(error)}; "
            "give another --host or --port"
        ) from error
    return listener
