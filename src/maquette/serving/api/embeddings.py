"""/v1/embeddings: texts and pictures as vectors of length 1.

Of a language model: the mean of the last hidden states of a text's tokens, normalised. It was trained to
predict tokens, not to embed, so that this is a baseline. Of a CLIP: its embedding of a caption, or of a
picture that is given as data:image/png;base64,...
"""

import base64
import binascii
from typing import Any

import numpy as np
import torch
from starlette.responses import Response
from torch.nn import functional

from maquette.serving.api import generation
from maquette.serving.api.bodies import Embeddings
from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.run import Embedder, TextModel
from maquette.serving.api.runs import Loaded, Runs
from maquette.serving.api.sse import reply

PICTURE = "data:image/"


async def embed(call: Call, runs: Runs, metrics: Metrics, body: Embeddings) -> Response:
    """Answer a request."""
    name, adapter = generation.split_name(body.model)
    if adapter is not None:
        raise ApiError(400, "embeddings are of the run alone: leave the adapter out", param="model")
    if isinstance(body.input, list) and len(body.input) > call.limits.inputs:
        given = isinstance(body.input[0], int)
        if not given:
            raise ApiError(400, f"input has more than {call.limits.inputs} texts", param="input")
    loaded = await call.lease(runs, name, "text", "clip")
    if loaded.run.kind == "clip":
        vectors, counted = await _of_clip(loaded, body), 0
    else:
        vectors, counted = await _of_text(call, loaded, body)
    metrics.tokens(name, counted, 0)
    size = len(vectors[0])
    if body.dimensions not in (None, size):
        raise ApiError(400, f"the embeddings have {size} dimensions", param="dimensions")
    return reply(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": n, "embedding": _written(vector, body)}
                for n, vector in enumerate(vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": counted, "total_tokens": counted},
        }
    )


async def _of_text(call: Call, loaded: Loaded, body: Embeddings) -> tuple[list[list[float]], int]:
    model, worker = loaded.text
    prompts = await generation.prompts_of(body.input, model)
    for prompt in prompts:
        if len(prompt) > model.model.config.context:
            most = model.model.config.context
            raise ApiError(
                400, f"a text has {len(prompt)} tokens, and the context {most}: shorten it",
                code="context_length_exceeded", param="input",
            )  # fmt: skip
    counted = sum(map(len, prompts))
    call.reserve(counted, 0)
    vectors = []
    for prompt in prompts:  # one by one: others are delayed by one text at most
        vectors.append(await worker.call(lambda tokens=prompt: text_embedding(model, tokens)))  # type: ignore[misc]
    return vectors, counted


@torch.inference_mode()
def text_embedding(model: TextModel, tokens: list[int]) -> list[float]:
    """The mean of the last hidden states of some tokens, of length 1."""
    language = model.model
    hidden = language.hidden(torch.tensor([tokens], device=language.embedding.weight.device))
    vector: list[float] = functional.normalize(hidden[0].float().mean(0), dim=0).tolist()
    return vector


async def _of_clip(loaded: Loaded, body: Embeddings) -> list[list[float]]:
    embedder: Any = loaded.opened
    if not isinstance(body.input, str) and not all(isinstance(one, str) for one in body.input):
        raise ApiError(400, "a CLIP reads texts and pictures, not tokens", param="input")
    given: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if not given:
        raise ApiError(400, "there is no input", param="input")
    return await loaded.jobs.call(lambda: [_of_one(embedder, one) for one in given])


def _of_one(embedder: Embedder, given: str) -> list[float]:
    if given.startswith(PICTURE):
        return embedder.picture(data_of(given))
    return embedder.texts([given])[0]


def data_of(url: str) -> bytes:
    """The bytes of a data URL. Raises ApiError for another."""
    head, comma, content = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ApiError(
            400, "a picture is given as data:image/png;base64,...", param="input"
        ) from error


def _written(vector: list[float], body: Embeddings) -> Any:
    if body.encoding_format != "base64":
        return vector
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
