"""/tokenize, /detokenize, /trace, /portrait: a text as a run reads it, and whether it was learnt from."""

import asyncio

from starlette.responses import Response

from maquette.serving.api import generation
from maquette.serving.api.bodies import Detokenize, Lookup, Tokenize
from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.runs import Runs
from maquette.serving.api.sse import reply


async def tokenize(call: Call, runs: Runs, body: Tokenize) -> Response:
    """The tokens of a text, and the text of each."""
    name, _ = generation.split_name(body.model)
    model, _ = (await call.lease(runs, name, "text")).text
    begins = body.add_special_tokens is not False
    tokenizer = model.tokenizer
    tokens = await generation.encode(
        tokenizer.encode_prompt if begins else tokenizer.encode, body.prompt
    )
    pieces = await asyncio.to_thread(
        lambda: [generation.token_text(generation.token_bytes(tokenizer, t)) for t in tokens]
    )
    context = model.model.config.context
    return reply(
        {"tokens": tokens, "count": len(tokens), "max_model_len": context, "pieces": pieces}
    )


async def detokenize(call: Call, runs: Runs, body: Detokenize) -> Response:
    """The text of some tokens."""
    name, _ = generation.split_name(body.model)
    model, _ = (await call.lease(runs, name, "text")).text
    missing = set(model.tokenizer.missing(model.model.config.vocabulary))
    for token in body.tokens:
        if token >= model.tokenizer.vocabulary or token in missing:
            raise ApiError(400, f"there is no token {token}", param="tokens")
    return reply({"prompt": await asyncio.to_thread(model.tokenizer.decode, body.tokens)})


async def trace(call: Call, runs: Runs, body: Lookup) -> Response:
    """The spans of a text that stand in the training text, with the documents that hold them."""
    name, _ = generation.split_name(body.model)
    loaded = await call.lease(runs, name, "text")
    model, _ = loaded.text
    return reply(await loaded.jobs.call(lambda: model.trace(body.text)))


async def portrait(call: Call, runs: Runs, body: Lookup) -> Response:
    """Whether a text was seen, by the portrait of the training text."""
    name, _ = generation.split_name(body.model)
    loaded = await call.lease(runs, name, "text")
    model, _ = loaded.text
    return reply(await loaded.jobs.call(lambda: model.portrait(body.text)))
