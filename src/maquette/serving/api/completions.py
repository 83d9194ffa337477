"""/v1/completions: texts that go on with prompts."""

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from maquette.corpus.tokenizer import Tokenizer
from maquette.serving.api import generation
from maquette.serving.api.bodies import Completion
from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.generation import Answer
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.runs import Runs
from maquette.serving.api.sse import event_stream, reply
from maquette.serving.request import Request, Scored, Step

TOKENS = 16  # of an answer, as OpenAI's API has it


async def complete(call: Call, runs: Runs, metrics: Metrics, body: Completion) -> Response:
    """Answer a request."""
    if body.suffix:
        raise ApiError(400, "no run here fills in before a suffix", param="suffix")
    if body.best_of not in (None, body.n or 1):
        raise ApiError(400, "best_of is not supported: ask for n, and choose", param="best_of")
    loaded, adapters = await generation.open_text(call, runs, body)
    model, _ = loaded.text
    prompts = await generation.prompts_of(body.prompt, model)
    tokens = TOKENS if body.max_tokens is None else body.max_tokens
    sampling = generation.sampling_of(body)
    schema = None if body.guided_json is None else generation.schema_text(body.guided_json)
    requests = [
        Request(
            prompt=tuple(prompt),
            tokens=generation.room(loaded, prompt, tokens),
            sampling=sampling,
            stop=generation.stops_of(body),
            answers=generation.answers_of(body, schema),
            adapters=adapters,
            alternatives=body.logprobs or 0,
            prompt_log_probabilities=bool(body.echo) and (body.logprobs is not None or not tokens),
        )
        for prompt in prompts
    ]
    requests = generation.numbered(call, requests, body.n or 1)
    writer = _Writer(model.tokenizer, body, requests)
    steps = await generation.steps_of(call, metrics, loaded, requests)
    counted = sum(map(len, prompts))
    if body.stream:
        return event_stream(_chunks(body, writer, steps, counted))
    answers = [Answer() for _ in requests]
    async for number, step in steps:
        answers[number].add(step)
    choices = [
        {"index": number, "text": writer.prefix(number) + answer.text,
         "logprobs": writer.log_probabilities(number, answer.steps),
         "finish_reason": answer.finish}
        for number, answer in enumerate(answers)
    ]  # fmt: skip
    return reply(_head(body) | {"choices": choices, "usage": generation.usage(counted, answers)})


async def _chunks(
    body: Completion, writer: "_Writer", steps: AsyncIterator[tuple[int, Step]], prompt: int
) -> AsyncIterator[dict[str, Any]]:
    head = _head(body)
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    extra: dict[str, Any] = {"usage": None} if wanted else {}
    answers: dict[int, Answer] = {}
    async for number, step in steps:
        first = number not in answers
        answer = answers.setdefault(number, Answer())
        answer.add(step)
        choice = {
            "index": number,
            "text": (writer.prefix(number) if first else "") + step.text,
            "logprobs": writer.log_probabilities(number, [step]),
            "finish_reason": answer.finish,
        }
        if choice["text"] or choice["logprobs"] or answer.finish:
            yield head | {"choices": [choice]} | extra
    if wanted:
        yield head | {"choices": [], "usage": generation.usage(prompt, answers)}


def _head(body: Completion) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }


@dataclass
class _Writer:
    """Writes log-probabilities of the choices of a request."""

    tokenizer: Tokenizer
    body: Completion
    requests: Sequence[Request]

    def __post_init__(self) -> None:
        self._offsets = [0] * len(self.requests)  # characters of each choice that are written

    def prefix(self, number: int) -> str:
        """The text before the answer that is shown: the prompt's, where it is asked for."""
        if not self.body.echo:
            return ""
        prompt = self.requests[number].prompt
        return self.tokenizer.decode(prompt, skip_special_tokens=True)

    def log_probabilities(self, number: int, steps: Sequence[Step]) -> dict[str, Any] | None:
        """Of the tokens of some steps, those of the prompt that are with the first among them."""
        if self.body.logprobs is None:
            return None
        scored: list[Scored | Step] = []
        for step in steps:
            scored += [*step.prompt, *([step] if step.token >= 0 else [])]
        data = [generation.token_bytes(self.tokenizer, one.token) for one in scored]
        sizes = [generation.characters(one) for one in data]
        offsets = list(itertools.accumulate(sizes, initial=self._offsets[number]))
        self._offsets[number] = offsets.pop()

        def likely(one: Scored | Step) -> dict[str, float] | None:
            if one.log_probability is None:
                return None
            named = ((generation.token_bytes(self.tokenizer, t), p) for t, p in one.alternatives)
            return {generation.token_text(name): value for name, value in named}

        return {
            "tokens": [generation.token_text(one) for one in data],
            "token_logprobs": [one.log_probability for one in scored],
            "top_logprobs": [likely(one) for one in scored],
            "text_offset": offsets,
        }
