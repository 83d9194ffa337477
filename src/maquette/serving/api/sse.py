"""Answers that are sent piece by piece: server-sent events, as OpenAI's API has them.

    data: {"choices": [...]}

    data: [DONE]

An error amid the answer is an event with the API's error object, after which the answer ends.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from maquette.base.errors import UserError
from maquette.serving.api.errors import JSON_TYPE, ApiError, encoded, internal

LOG = logging.getLogger("maquette.serve")


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(encoded(content), status, headers, JSON_TYPE.decode())


def event_stream(chunks: AsyncIterator[dict[str, Any]]) -> Response:
    """A response of server-sent events, one for each chunk."""
    fields = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(chunks), 200, fields, "text/event-stream")


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _event(encoded(chunk))
        yield _event(b"[DONE]")
    except ApiError as error:
        yield _event(encoded(error.to_dict()))
    except UserError as error:
        yield _event(encoded(ApiError(400, str(error)).to_dict()))
    except Exception:
        LOG.exception("an answer broke off")
        yield _event(encoded(internal().to_dict()))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
