"""/v1/chat/completions: the next message of a conversation."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from maquette.corpus.tokenizer import Tokenizer
from maquette.serving.api import generation, tools
from maquette.serving.api.bodies import ChatCompletion
from maquette.serving.api.call import Call
from maquette.serving.api.conversation import conversation_of, encode_answer, encode_conversation
from maquette.serving.api.errors import ApiError
from maquette.serving.api.generation import Answer
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.runs import Runs
from maquette.serving.api.sse import event_stream, reply
from maquette.serving.request import Request, Step


async def chat(call: Call, runs: Runs, metrics: Metrics, body: ChatCompletion) -> Response:
    """Answer a request."""
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    loaded, adapters = await generation.open_text(call, runs, body)
    model, _ = loaded.text
    choice = tools.choice_of(body)
    conversation = conversation_of(body.messages, choice.tools)
    prompt = await asyncio.to_thread(encode_conversation, model, conversation)
    forced = encode_answer(model, choice.forced)
    asked = body.max_completion_tokens or body.max_tokens
    sampling = generation.sampling_of(body)
    request = Request(
        prompt=(*prompt, *forced),
        tokens=generation.room(loaded, [*prompt, *forced], asked),
        sampling=sampling,
        stop=(*generation.stops_of(body), *model.template.stop),
        answers=generation.answers_of(body, _schema(body, choice)),
        adapters=adapters,
        alternatives=body.top_logprobs or 0,
    )
    n = body.n or 1
    requests = generation.numbered(call, [request], n)
    steps = await generation.steps_of(call, metrics, loaded, requests)
    writers = [_Writer(choice, bool(conversation.begun)) for _ in range(n)]
    if body.stream:
        return event_stream(_chunks(body, model.tokenizer, writers, steps, len(request.prompt)))
    answers = [Answer() for _ in range(n)]
    async for number, step in steps:
        answers[number].add(step)
    choices = []
    for number, (answer, writer) in enumerate(zip(answers, writers, strict=True)):
        message = writer.message(answer.text)
        called = answer.finish == "stop" and "tool_calls" in message
        choices.append(
            {
                "index": number,
                "message": message,
                "logprobs": _log_probabilities(body, model.tokenizer, answer.steps),
                "finish_reason": "tool_calls" if called else answer.finish,
            }
        )
    counted = generation.usage(len(request.prompt), answers)
    return reply(_head(body, "chat.completion") | {"choices": choices, "usage": counted})


async def _chunks(
    body: ChatCompletion,
    tokenizer: Tokenizer,
    writers: "Sequence[_Writer]",
    steps: AsyncIterator[tuple[int, Step]],
    prompt: int,
) -> AsyncIterator[dict[str, Any]]:
    head = _head(body, "chat.completion.chunk")
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    extra: dict[str, Any] = {"usage": None} if wanted else {}

    def chunk(number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
        return head | {"choices": [choice | more]} | extra

    answers: dict[int, Answer] = {}
    for number in range(len(writers)):
        answers[number] = Answer()
        yield chunk(number, {"role": "assistant", "content": ""})
    async for number, step in steps:
        answer, writer = answers[number], writers[number]
        answer.add(step)
        said = _log_probabilities(body, tokenizer, [step])
        for delta in writer.deltas(step.text, answer.finish is not None):
            yield chunk(number, delta, logprobs=said)
            said = None
        if said is not None:  # a token whose text is not settled yet
            yield chunk(number, {}, logprobs=said)
        if answer.finish is not None:
            called = writer.called and answer.finish == "stop"
            yield chunk(number, {}, finish_reason="tool_calls" if called else answer.finish)
    if wanted:
        yield head | {"choices": [], "usage": generation.usage(prompt, answers)}


class _Writer:
    """Makes a message, or the parts of one, of an answer's text.

    goes_on: whether the answer goes on with one that was begun.
    """

    def __init__(self, choice: tools.Choice, goes_on: bool) -> None:
        self._choice = choice
        self._written = goes_on  # whether something was said
        self._held = ""
        self.called = False
        """whether the answer calls a tool"""

    def message(self, text: str) -> dict[str, Any]:
        """The message of a whole answer."""
        parts = list(self.deltas(text, True))
        content = "".join(part.get("content", "") for part in parts)
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else content}
        if calls:
            arguments = "".join(call["function"]["arguments"] for call in calls)
            function = calls[0]["function"] | {"arguments": arguments}
            whole = {k: v for k, v in calls[0].items() if k != "index"}
            message["tool_calls"] = [whole | {"function": function}]
        return message

    def deltas(self, text: str, last: bool) -> list[dict[str, Any]]:
        """What is added to the message by a piece of text; last: whether it is the last one."""
        if self._choice.named is not None:
            return self._arguments(text)
        self._held += text
        if self._choice.tools and not self._written and (
            self._choice.required or tools.may_be_call(self._held)
        ):  # fmt: skip
            if not last:
                return []
            if (called := tools.call_in(self._held, self._choice.tools)) is not None:
                self.called = True
                return [{"tool_calls": [{"index": 0, **tools.call_object(*called)}]}]
        piece, self._held = self._held, ""
        if not self._written:
            piece = piece.lstrip()  # templates leave a space to the answer
        self._written = self._written or bool(piece)
        return [{"content": piece}] if piece else []

    def _arguments(self, text: str) -> list[dict[str, Any]]:
        """The arguments of the tool that must be called, piece by piece."""
        assert self._choice.named is not None
        if not self.called:
            self.called = True
            call = tools.call_object(self._choice.named.function.name, text)
            return [{"tool_calls": [{"index": 0, **call}]}]
        return [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]}] if text else []


def _schema(body: ChatCompletion, choice: tools.Choice) -> str | None:
    """The schema that the answer is held to. Raises ApiError for two."""
    wanted = choice.schema
    form = body.response_format
    if form is None or form.type == "text":
        return None if wanted is None else generation.schema_text(wanted)
    if wanted is not None:
        raise ApiError(
            400,
            "a call of a tool and response_format are two schemas: give one",
            param="response_format",
        )
    if form.type == "json_object":
        return generation.schema_text({"type": "object"})
    if form.json_schema is None:
        raise ApiError(400, "json_schema is missing", param="response_format")
    return generation.schema_text(form.json_schema.content)


def _log_probabilities(
    body: ChatCompletion, tokenizer: Tokenizer, steps: Sequence[Step]
) -> dict[str, Any] | None:
    if not body.logprobs:
        return None

    def entry(token: int, value: float) -> dict[str, Any]:
        data = generation.token_bytes(tokenizer, token)
        return {"token": generation.token_text(data), "logprob": value, "bytes": list(data)}

    content = [
        entry(step.token, step.log_probability)
        | {"top_logprobs": [entry(*one) for one in step.alternatives]}
        for step in steps
    ]
    return {"content": content, "refusal": None}


def _head(body: ChatCompletion, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }
