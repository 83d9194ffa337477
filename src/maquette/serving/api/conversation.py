"""From the messages of a request to the prompt of a run's template.

    system, developer      the text before the first prompt
    user, tool             the prompt; several in a row are one
    assistant              the answer; where it is the last message, the new answer goes on with it

Tools are described in the text before the first prompt, in JSON. A call of a tool in an answer is written as

    {"name": "weather", "arguments": {"city": "Oslo"}}

and is what a model is held to where it must call one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from maquette.base.errors import UserError
from maquette.corpus.examples.template import Template
from maquette.serving.api.bodies import Message, Tool
from maquette.serving.api.errors import ApiError
from maquette.serving.api.run import TextModel

TOOLS = (
    'You can call tools. To call one, answer only {"name": NAME, "arguments": ARGUMENTS}. Tools: '
)
MARK = "\0"  # in no template


@dataclass(frozen=True)
class Conversation:
    """Messages as templates know them."""

    system: str
    exchanges: tuple[tuple[str, str], ...]
    """prompts and answers before the last prompt"""
    prompt: str
    begun: str
    """answer that is to go on; "": a new one"""


def conversation_of(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Conversation:
    """The conversation of messages. Raises ApiError for content that is not text, or without a prompt."""
    system: list[str] = []
    turns: list[list[str]] = []  # prompt and answer by turns
    if tools:
        told = [tool.function.model_dump(exclude_none=True) for tool in tools]
        system.append(TOOLS + json.dumps(told, ensure_ascii=False))
    for message in messages:
        text = _text(message)
        if message.role in ("system", "developer"):
            system.append(text)
            continue
        answers = message.role == "assistant"
        if not turns and answers:
            turns.append([""])
        if len(turns) % 2 == (0 if answers else 1):  # again the same
            turns[-1].append(text)
        else:
            turns.append([text])
    if not turns:
        raise ApiError(400, "there is no message of a user", param="messages")
    said = ["\n\n".join(part for part in turn if part) for turn in turns]
    begun = said.pop() if len(said) % 2 == 0 else ""
    pairs = tuple(zip(said[:-1:2], said[1::2], strict=True))
    return Conversation("\n\n".join(system), pairs, said[-1], begun)


def encode_conversation(model: TextModel, conversation: Conversation) -> list[int]:
    """The tokens up to where the answer goes on. Raises ApiError where the template cannot write it."""
    try:
        tokens = model.template.conversation(
            conversation.exchanges, conversation.prompt, model.tokenizer, conversation.system
        )
    except UserError as error:
        raise ApiError(400, str(error), param="messages") from error
    return [*tokens, *encode_answer(model, conversation.begun)]


def encode_answer(model: TextModel, text: str) -> list[int]:
    """The tokens of the beginning of an answer, with what the template puts before one."""
    if not text:
        return []
    lead = ""
    if isinstance(model.template, Template):
        lead = model.template.answer("", MARK).partition(MARK)[0]
    return model.tokenizer.encode(lead + text)


def _text(message: Message) -> str:
    """The text of a message, with the calls of tools that it made."""
    content = message.content
    parts = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise ApiError(
                400, f"a message has a part of type {part.type[:40]}: runs here read text",
                param="messages",
            )  # fmt: skip
        parts.append(part.text)
    for call in message.tool_calls or ():
        name = json.dumps(call.function.name, ensure_ascii=False)
        parts.append(f'{{"name": {name}, "arguments": {call.function.arguments}}}')
    return "\n".join(parts)
