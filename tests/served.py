"""A server in the test's process: tiny models, an engine that steps when told, calls without a port."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai

from maquette.corpus.examples.template import Template
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.models.config import DecoderConfig
from maquette.serving.api.app import make_app
from maquette.serving.api.guard import Access
from maquette.serving.api.run import Run, TextModel
from maquette.serving.engine import Engine

CONTEXT = 384


def language_model(context: int = CONTEXT, **changes: Any) -> TextModel:
    """An untrained decoder over bytes."""
    config = DecoderConfig(vocabulary=257, context=context, width=16, depth=1, heads=2)
    fields: dict[str, Any] = {
        "model": config.build().initialise(0).eval(),
        "tokenizer": byte_tokenizer(),
        "template": Template("Q: {prompt}\nA: {answer}"),
        "learnt": True,
        "trace": lambda text: {"text": text, "spans": []},
        "portrait": lambda text: {"spans": []},
    }
    return TextModel(**(fields | changes))


def run_of(folder: Path, opened: Any, name: str = "tiny", **changes: Any) -> Run:
    """A served run; opened: what it is in memory, or a function that gives it."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    (own / "model.safetensors").write_bytes(b"weights")
    fields: dict[str, Any] = {
        "name": name,
        "folder": own,
        "kind": "text",
        "about": {"context": CONTEXT},
        "gates": (own,),
        "weights": (own / "model.safetensors",),
        "memory": 100,
        "load": opened if callable(opened) else lambda: opened,
    }
    return Run(**(fields | changes))


def engine(opened: TextModel) -> Engine:
    """An engine with 64 MB of keys and values."""
    return Engine(opened.model, opened.tokenizer, memory=1 << 26)


class Held(Engine):
    """An engine that takes a step for each permit."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.permits = threading.Semaphore(0)

    def step(self) -> Any:
        self.permits.acquire()
        return super().step()


def application(*runs: Run, access: Access | None = None, **options: Any) -> Any:
    """The server over some runs."""
    return make_app(runs, access or Access(), **({"engine": engine} | options))


@contextlib.asynccontextmanager
async def client(app: Any, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, calling the application."""
    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(transport=transport) as http:
            yield openai.AsyncOpenAI(
                api_key=key, base_url="http://localhost/v1", http_client=http, max_retries=0
            )
    finally:
        await closed(app)


async def closed(app: Any) -> None:
    """End the application as a server does."""
    received = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        assert message["type"] in ("lifespan.startup.complete", "lifespan.shutdown.complete")

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)


class Reply:
    """The answer to a raw call."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, dict[str, str](), b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object."""
        assert list(self.json) == ["error"], self.body
        assert self.json["error"].keys() == {"message", "type", "param", "code"}
        assert "Traceback" not in self.json["error"]["message"]
        return self.json["error"]


async def call(
    app: Any,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    on_body: Callable[[bytes], Awaitable[None]] | None = None,
    gone: asyncio.Event | None = None,
    more: bool = False,
) -> Reply:
    """A raw call. on_body: awaited with each part of the answer. gone: set when the client leaves.

    more: whether the body never comes to its end.
    """
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-type": "application/json"} | (headers or {})
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method or ("GET" if body is None else "POST"), "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "server": ("localhost", 80), "client": ("localhost", 1),
        "headers": [(k.encode(), v.encode()) for k, v in fields.items()],
    }  # fmt: skip
    reply, sent, left = Reply(), False, gone or asyncio.Event()

    async def receive() -> Any:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": data, "more_body": more}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            reply.body += message.get("body", b"")
            if on_body is not None and message.get("body"):
                await on_body(message["body"])

    await app(scope, receive, send)
    return reply


def worker_of(app: Any, name: str = "tiny") -> Any:
    """The thread that owns the engine of a run in memory."""
    return app.runs.loaded(name).worker
