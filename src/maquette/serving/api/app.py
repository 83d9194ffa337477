"""The application: every route of the API, and the page's files.

/v1/models  /v1/completions  /v1/chat/completions  /v1/embeddings
/v1/images/generations  /v1/images/edits  /v1/images/variations
/tokenize  /detokenize  /trace  /portrait  /health  /metrics
/runs  /systems  /trial  (watch.py)
/  /page/...  the page        /docs  /openapi.json  what the API takes
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from maquette.base.errors import UserError
from maquette.base.version import __version__
from maquette.serving.api import chat, completions, documents, embeddings, models, pictures, texts
from maquette.serving.api.bodies import (
    ChatCompletion,
    Completion,
    Detokenize,
    Embeddings,
    ErrorBody,
    Lookup,
    Pictures,
    Tokenize,
)
from maquette.serving.api.call import Call, call_of
from maquette.serving.api.errors import ApiError, internal
from maquette.serving.api.guard import Access, Guard
from maquette.serving.api.limits import Limits
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.page import page_routes
from maquette.serving.api.run import Run, TextModel
from maquette.serving.api.runs import Runs
from maquette.serving.api.sse import reply
from maquette.serving.api.watch import Watched, watch_routes
from maquette.serving.engine import Engine

CallOf = Annotated[Call, Depends(call_of)]
STATUS = {404: "there is no such path", 405: "that method is not for this path"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "error of the request"},
    "5XX": {"model": ErrorBody, "description": "error of the server"},
}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "model"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                        "toward": {"type": "string", "format": "binary"},
                        "outpaint": {"type": "string", "description": "such as right=64"},
                        "model": {"type": "string"},
                        "prompt": {"type": "string"},
                        "n": {"type": "integer", "minimum": 1},
                        "seed": {"type": "integer", "minimum": 0},
                        "steps": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}


def make_app(
    served: Sequence[Run],
    access: Access,
    *,
    engine: Callable[[TextModel], Engine],
    limits: Limits | None = None,
    memory: int | None = None,
    cache: int = 0,
    watched: Watched | None = None,
) -> Guard:
    """The server as an ASGI application. engine, memory, cache: see `Runs`. Raises WrongUse as it does."""
    limits, metrics = limits or Limits(), Metrics()
    runs = Runs(served, engine, memory, cache, limits.unread)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await runs.close()

    app = FastAPI(
        title="Maquette",
        version=__version__,
        description="OpenAI's API over runs of Maquette.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=RESPONSES,
    )
    _handle_errors(app)

    @app.get("/v1/models", tags=["models"])
    async def list_models(call: CallOf) -> Response:
        """List the runs that are served."""
        return reply(models.listed(call, runs))

    @app.get("/v1/models/{model}", tags=["models"])
    async def show_model(call: CallOf, model: str) -> Response:
        """Describe one run."""
        return reply(models.described(call, runs, runs.find(model)))

    @app.post("/v1/completions", tags=["text"])
    async def complete(call: CallOf, body: Completion) -> Response:
        """Continue prompts."""
        return await completions.complete(call, runs, metrics, body)

    @app.post("/v1/chat/completions", tags=["text"])
    async def answer(call: CallOf, body: ChatCompletion) -> Response:
        """Answer a conversation."""
        return await chat.chat(call, runs, metrics, body)

    @app.post("/v1/embeddings", tags=["text"])
    async def embed(call: CallOf, body: Embeddings) -> Response:
        """Embed texts, or pictures with a CLIP."""
        return await embeddings.embed(call, runs, metrics, body)

    @app.post("/tokenize", tags=["text"])
    async def tokenize(call: CallOf, body: Tokenize) -> Response:
        """Show a text's tokens."""
        return await texts.tokenize(call, runs, body)

    @app.post("/detokenize", tags=["text"])
    async def detokenize(call: CallOf, body: Detokenize) -> Response:
        """Show the text of tokens."""
        return await texts.detokenize(call, runs, body)

    @app.post("/trace", tags=["training text"])
    async def trace(call: CallOf, body: Lookup) -> Response:
        """Find the spans of a text that stand in the training text."""
        return await texts.trace(call, runs, body)

    @app.post("/portrait", tags=["training text"])
    async def portrait(call: CallOf, body: Lookup) -> Response:
        """Say whether a text was seen in training."""
        return await texts.portrait(call, runs, body)

    @app.post("/v1/images/generations", tags=["pictures"])
    async def generate(call: CallOf, body: Pictures) -> Response:
        """Make pictures of a prompt."""
        return await pictures.generate(call, runs, metrics, body)

    @app.post("/v1/images/edits", tags=["pictures"], openapi_extra=FORM)
    async def edit(call: CallOf, request: Request) -> Response:
        """Make a part of a picture anew, or continue it on some sides."""
        async with request.form(max_files=4, max_fields=32) as form:
            return await pictures.edit(call, runs, metrics, form)

    @app.post("/v1/images/variations", tags=["pictures"], openapi_extra=FORM)
    async def vary(call: CallOf, request: Request) -> Response:
        """Make pictures like a picture."""
        async with request.form(max_files=4, max_fields=32) as form:
            return await pictures.vary(call, runs, metrics, form)

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Say that the server answers."""
        return reply({"status": "ok", "version": __version__})

    @app.get("/metrics", tags=["server"])
    async def show_metrics() -> Response:
        """Show counts and times in Prometheus' format."""
        return Response(metrics.text(runs.live()), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def show_documents() -> Response:
        """Show what the API takes, as a page."""
        return Response(documents.page(app.openapi()), headers=documents.HEADERS)

    page_routes(app)
    if watched is not None:
        watch_routes(app, watched)
    return Guard(app, runs, access, limits, metrics)


def _handle_errors(app: FastAPI) -> None:
    """Make every error the API's JSON."""

    def told(error: ApiError) -> Response:
        return reply(error.to_dict(), error.status, error.headers())

    async def api_error(_: Request, error: Any) -> Response:
        return told(error)

    async def user_error(_: Request, error: Any) -> Response:
        return told(ApiError(400, str(error)))

    async def http_error(_: Request, error: Any) -> Response:
        return told(ApiError(error.status_code, STATUS.get(error.status_code, str(error.detail))))

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part)[:64] for part in first["loc"][1:]) or None
        message = f"{name or 'body'}: {first['msg']}"
        return told(ApiError(400, message, param=name))

    async def defect(_: Request, error: Exception) -> Response:
        return told(internal())

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, defect)
