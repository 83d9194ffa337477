"""From a body to requests of the engine, and from the engine's steps to tokens with their text."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.tokenizer import Tokenizer
from maquette.serving.api.bodies import Generation
from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.run import TextModel
from maquette.serving.api.runs import Loaded, Runs
from maquette.serving.request import Request, Step
from maquette.serving.restrict import Answers
from maquette.serving.sampler import Sampling

MOST_STOPS = 16
MOST_SEED = (1 << 63) - 1
FINISH = {"length": "length", "end": "stop", "stop": "stop", "dead end": "length"}
"""OpenAI's word for the engine's: "length" is an answer that is not whole"""
IN_THREAD = 4096  # characters from which a text is encoded beside the event loop


@dataclass
class Answer:
    """An answer as far as it has come."""

    text: str = ""
    steps: list[Step] = field(default_factory=list)
    finish: str | None = None
    """OpenAI's finish reason"""
    dropped: int = 0
    """number of tokens of the context that were dropped, as it was full"""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(step.token >= 0 for step in self.steps)  # else the prompt was only scored

    def add(self, step: Step) -> None:
        """Take a step."""
        self.text += step.text
        self.steps.append(step)
        self.dropped += step.dropped
        if step.finish is not None:
            self.finish = FINISH[step.finish]


def split_name(model: str) -> tuple[str, str | None]:
    """The run and the adapter of RUN:ADAPTER."""
    run, colon, adapter = model.partition(":")
    return run, adapter if colon else None


async def open_text(call: Call, runs: Runs, body: Generation) -> tuple[Loaded, dict[str, float]]:
    """The run of a body, and the weights of its adapters. Raises ApiError where one is not there."""
    name, adapter = split_name(body.model)
    loaded = await call.lease(runs, name, "text")
    model, _ = loaded.text
    asked = dict(body.adapters or {})
    if adapter is not None:
        asked.setdefault(adapter, 1.0)
    for one in asked:
        if one not in model.adapters:
            raise ApiError(
                404,
                f"{name} has no adapter {one}{did_you_mean(one, model.adapters)}",
                code="adapter_not_found",
                param="adapters",
            )
    return loaded, dict(model.adapters) | asked


def sampling_of(body: Generation) -> Sampling:
    """The sampling of a body. Raises WrongUse for values that cannot be."""
    seed = secrets.randbits(62) if body.seed is None else body.seed & MOST_SEED
    bias: dict[int, float] = {}
    for token, value in (body.logit_bias or {}).items():
        if not token.isdecimal() or not -100 <= value <= 100:
            raise WrongUse(
                f"logit_bias has {token[:20]}: {value:g}: use numbers of tokens, and biases from -100 to 100"
            )
        bias[int(token[:12])] = value
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p or None,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        logit_bias=bias,
        seed=seed,
    )


def stops_of(body: Generation) -> tuple[str, ...]:
    """The stop strings of a body."""
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > MOST_STOPS:
        raise ApiError(400, f"stop has more than {MOST_STOPS} strings", param="stop")
    return tuple(stop for stop in stops if stop)


def answers_of(body: Generation, schema: str | None) -> Answers | None:
    """What the answer is held to. Raises WrongUse for two restrictions."""
    if schema is None and body.guided_choice is None and body.guided_regex is None:
        return None
    return Answers(tuple(body.guided_choice or ()), body.guided_regex, schema)


def schema_text(schema: Mapping[str, Any]) -> str:
    """A JSON schema as text."""
    return json.dumps(schema, ensure_ascii=False)


def numbered(call: Call, requests: Sequence[Request], n: int) -> list[Request]:
    """Each request n times; all draw from random numbers of their own, as the rows of `generate`.

    Raises ApiError for more than the server answers at a time.
    """
    most = call.limits.choices
    if len(requests) * n > most:
        asked = len(requests) * n
        raise ApiError(400, f"prompts times n is {asked}: ask for at most {most}", param="n")
    copies = [request for request in requests for _ in range(n)]
    return [
        replace(request, sampling=request.sampling.row(number))
        for number, request in enumerate(copies)
    ]


async def encode(function: Any, text: str) -> list[int]:
    """The tokens of a text, by a method of a tokenizer."""
    if len(text) < IN_THREAD:
        return list(function(text))
    return list(await asyncio.to_thread(function, text))


async def prompts_of(given: Any, model: TextModel) -> list[list[int]]:
    """The encoded prompts of a field that holds texts or tokens. Raises ApiError."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiError(400, "there is no prompt", param="prompt")
    prompts = []
    for one in given:
        tokens = await encode(model.tokenizer.encode_prompt, one) if isinstance(one, str) else one
        if not tokens:
            raise ApiError(400, "a prompt is empty, and the model has no token to begin with")
        most = model.model.config.vocabulary
        if max(tokens) >= most:
            raise ApiError(400, f"a prompt holds token {max(tokens)} of {most}", param="prompt")
        prompts.append(tokens)
    return prompts


def room(loaded: Loaded, prompt: Sequence[int], asked: int | None) -> int:
    """Number of tokens that an answer may have.

    Raises ApiError where it does not fit the context, and the engine does not drop the middle of one.
    """
    model, worker = loaded.text
    context = model.model.config.context
    left = context - len(prompt)
    if worker.engine.context_shift:
        return max(left, context // 2) if asked is None else asked
    if left < (1 if asked is None else asked):
        wanted = 1 if asked is None else asked
        raise ApiError(
            400,
            f"the context has {context} tokens, the prompt {len(prompt)} and the answer {wanted}: shorten "
            "the prompt, or ask for fewer tokens",
            code="context_length_exceeded",
            param="prompt",
        )
    return left if asked is None else asked


async def steps_of(
    call: Call, metrics: Metrics, loaded: Loaded, requests: Sequence[Request]
) -> AsyncIterator[tuple[int, Step]]:
    """Submit requests; gives the steps of their answers. Raises ApiError before the first, or among them."""
    _, worker = loaded.text
    prompt = sum(len(request.prompt) for request in requests)
    call.reserve(prompt, sum(request.tokens for request in requests))
    begun = asyncio.get_running_loop().time()
    deadline = begun + call.limits.answer_seconds
    async with _in_time(call, deadline):
        stream = await worker.submit(requests)
    call.ends.callback(stream.cancel)

    async def steps() -> AsyncIterator[tuple[int, Step]]:
        following, count = aiter(stream), 0
        try:
            while True:
                async with _in_time(call, deadline):
                    try:
                        number, step = await anext(following)
                    except StopAsyncIteration:
                        return
                if not count:
                    seconds = asyncio.get_running_loop().time() - begun
                    metrics.first_token(loaded.run.name, seconds)
                count += step.token >= 0
                call.answer_tokens += step.token >= 0
                yield number, step
        finally:
            metrics.tokens(loaded.run.name, prompt, count)

    return steps()


@contextlib.asynccontextmanager
async def _in_time(call: Call, deadline: float) -> AsyncIterator[None]:
    """Raises ApiError where what is done within is not over by a time of the event loop."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        seconds = call.limits.answer_seconds
        message = f"the answer was not finished within {seconds:g} seconds"
        raise ApiError(504, message, code="timeout") from error


def usage(prompt: int, answers: Mapping[int, Answer] | Sequence[Answer]) -> dict[str, int]:
    """Numbers of tokens, as OpenAI's API has them."""
    listed = list(answers.values() if isinstance(answers, Mapping) else answers)
    written = sum(answer.tokens for answer in listed)
    counted = {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }
    dropped = sum(answer.dropped for answer in listed)
    return counted | ({"dropped_tokens": dropped} if dropped else {})


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes of a token."""
    if token in tokenizer.special.eos_token_ids:
        return tokenizer.decode([token]).encode()
    return tokenizer.decode_bytes(np.array([token], np.int64))


def token_text(data: bytes) -> str:
    """A token's bytes as OpenAI's API shows them: text, or the bytes of a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def characters(data: bytes) -> int:
    """Number of characters that begin in some bytes of UTF-8."""
    return sum((byte & 0xC0) != 0x80 for byte in data)
