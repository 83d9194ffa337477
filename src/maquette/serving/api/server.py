"""The process that listens: uvicorn, with the limits of connections, heads and stopping that it lacks.

A connection that does not send a whole head in time is closed, and what is no HTTP is answered in JSON. The
first Ctrl-C or SIGTERM lets the answers finish, up to a limit; the second one stops at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from maquette.base.errors import UserError
from maquette.serving.api.errors import JSON_TYPE, ApiError, encoded
from maquette.serving.api.limits import Limits

KEEP_ALIVE = 20  # seconds that an idle connection is kept


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: one that the system chooses. Raises UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off where the protocol is named: else a token waits 40 ms
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(1024)
    except (OSError, OverflowError) as error:
        found.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{host}:{port} cannot be listened on ({why}): choose another --port"
        ) from error
    return found


def run(app: ASGIApp, listener: socket.socket, limits: Limits, started: Callable[[], None]) -> None:
    """Serve until a signal; started: called when requests are answered."""
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(limits.drain_seconds),
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, started)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """A server that two signals stop, the first one gently."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.force_exit:  # the third
            os._exit(1)
        self.force_exit = self.should_exit
        self.should_exit = True


def _protocol(limits: Limits) -> type[H11Protocol]:
    class Protocol(H11Protocol):
        """HTTP/1.1 whose heads must come in time, on so many connections."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.close()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            self._wait()  # the head of the next request on a connection that was kept
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            body = encoded(ApiError(400, "that is no HTTP request").to_dict())
            head = (
                f"HTTP/1.1 400 Bad Request\r\ncontent-type: {JSON_TYPE.decode()}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(limits.head_seconds, self._silent)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _silent(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol
