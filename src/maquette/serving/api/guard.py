"""What stands before every route: host, origin, key, limits, the body's size and time, a client that goes.

An ASGI application around the application. It reads the whole body before a route sees any of it, watches for
the client while the route works, and cancels the route when the client has gone. Every refusal is the API's
JSON. One line a request goes to the log: never a key, never a query, and no prompt unless asked.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maquette.base.errors import UserError
from maquette.serving.api.call import Call
from maquette.serving.api.errors import JSON_TYPE, ApiError, encoded, internal
from maquette.serving.api.keys import Keys
from maquette.serving.api.limits import Accounts, Limits
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.runs import Runs

LOG = logging.getLogger("maquette.serve")
OPEN = ("/", "/health", "/docs", "/openapi.json")
"""paths that need no key: they tell nothing of a run"""
PAGE = "/page/"
"""beginning of the paths of the page's files, which need no key either"""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Access:
    """Who may come in."""

    keys: Keys | None = None
    """keys of users; None: everybody who reaches the server"""
    hosts: tuple[str, ...] | None = LOOPBACK
    """names that requests may call the server by; None: any"""
    origins: tuple[str, ...] = ()
    """origins whose pages may call the API, besides the server's own page"""
    log_prompts: bool = False
    """whether bodies are logged"""


class Guard:
    """See the file's docstring."""

    def __init__(
        self, app: ASGIApp, runs: Runs, access: Access, limits: Limits, metrics: Metrics
    ) -> None:
        self.runs = runs
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._accounts = Accounts()
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = _Started(send)
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        origin = headers.get("origin", "")
        reply = _with_headers(started, self._cors(origin)) if origin else started
        call = Call(None, self._limits)
        scope.setdefault("state", {})["call"] = call
        self._running += 1
        try:
            with call.ends:
                if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    self._check_origin(origin, headers)
                    return await _respond(reply, 204, b"")
                self._check(scope, headers, origin, call)
                body = await self._body(receive, headers)
                if self._access.log_prompts and body:
                    LOG.info("body %s", json.dumps(body.decode("utf-8", "replace")))
                await self._answer(scope, body, receive, reply, started)
        except ApiError as error:
            await _refuse(reply, started, error)
        except _Gone:
            started.status = started.status or 499  # as nginx counts it
        except Exception:
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            await _refuse(reply, started, internal())
        finally:
            self._running -= 1
            self._record(scope, started.status, call)

    def _check(self, scope: Scope, headers: dict[str, str], origin: str, call: Call) -> None:
        hosts = self._access.hosts
        if hosts is not None and _host(headers.get("host", "")) not in hosts:
            raise ApiError(
                403, "this server is not called by that name: open it by localhost", code="host"
            )
        if origin:
            self._check_origin(origin, headers)
        if self._running > self._limits.requests:
            raise ApiError(503, "too many requests at a time", code="overloaded", retry_after=1.0)
        path = scope["path"]
        if self._access.keys is None or path in OPEN or path.startswith(PAGE):
            return
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise ApiError(401, "a key is needed: Authorization: Bearer KEY", code="no_api_key")
        try:
            key = self._access.keys.find(secret.strip())
        except UserError as error:
            LOG.error("%s", error)
            raise ApiError(503, "the server cannot read its keys", code="keys") from error
        if key is None:
            raise ApiError(401, "the key is wrong or revoked", code="invalid_api_key")
        call.account = self._accounts.of(key)
        call.account.enter()
        call.ends.callback(call.account.leave)

    def _check_origin(self, origin: str, headers: dict[str, str]) -> None:
        """Raise ApiError for a request that another site's page makes in the browser."""
        own = origin.partition("://")[2].lower() == headers.get("host", "").lower()
        if not own and origin not in self._access.origins:
            raise ApiError(
                403,
                "pages of other sites may not call this server: --cors names one",
                code="origin",
            )

    def _cors(self, origin: str) -> Sequence[tuple[bytes, bytes]]:
        if origin not in self._access.origins:
            return ()
        return (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"Origin"),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"Authorization, Content-Type"),
        )

    async def _body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        most = self._limits.body_bytes
        too_large = ApiError(413, f"the body has more than {most:,} bytes", code="too_large")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise ApiError(408, "the body did not come in time", code="timeout") from error

    async def _answer(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, started: "_Started"
    ) -> None:
        """Run the application, and cancel it when the client has gone before the end of the answer."""
        gone, read = asyncio.Event(), False

        async def given() -> Message:
            nonlocal read
            if not read:
                read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self._app(scope, given, send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not started.complete:
                gone.set()
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
                raise _Gone
            await work
        finally:
            for task in (work, watcher):
                task.cancel()
            await asyncio.gather(work, watcher, return_exceptions=True)

    def _record(self, scope: Scope, status: int, call: Call) -> None:
        seconds = time.monotonic() - call.begun
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.request(route, status, seconds)
        name = "-" if call.account is None else call.account.key.name
        LOG.info(
            "%s %s %d %s %s %d+%d tokens %.0f ms",
            scope["method"], route, status, name, call.model or "-",
            call.prompt_tokens, call.answer_tokens, 1e3 * seconds,
        )  # fmt: skip


class _Gone(Exception):
    """The client has gone."""


class _Started:
    """Sends, and remembers the status of the response, 0 before it begins, and whether it is complete."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.complete = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body"):
            self.complete = True
        await self._send(message)


def _with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sent


def _host(given: str) -> str:
    """The host of a Host header, without its port."""
    name, colon, port = given.rpartition(":")
    return (name if colon and port.isdigit() else given).lower()


async def _refuse(send: Send, started: _Started, error: ApiError) -> None:
    if started.status:  # the answer has begun: it breaks off
        return
    with contextlib.suppress(OSError):
        headers = {k.lower().encode(): v.encode() for k, v in error.headers().items()}
        await _respond(send, error.status, encoded(error.to_dict()), headers)


async def _respond(
    send: Send, status: int, body: bytes, headers: dict[bytes, bytes] | None = None
) -> None:
    own = {b"content-type": JSON_TYPE, b"content-length": str(len(body)).encode()}
    fields: list[Any] = list(((own if body else {}) | (headers or {})).items())
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
