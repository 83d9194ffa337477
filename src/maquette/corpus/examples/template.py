"""Templates: how an example becomes text, and which of its tokens the loss counts.

    Question: {prompt}\\nAnswer: {answer}

What stands before {answer} is context; {answer}, what follows it and the end token are what is learned.
Every exchange of a conversation is written so, one after the other, each with its end: the model learns
where an answer ends, and is stopped there. Context and answer are encoded apart, so that the border
between them is one between tokens; spaces before the answer are encoded with it, for byte-pair tokens
begin with them (as lm-evaluation-harness does).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.example import Example
from maquette.corpus.tokenizer import Tokenizer

PROMPT, ANSWER = "{prompt}", "{answer}"
Turn = tuple[list[int], list[int]]
"""tokens of an exchange that are read, and those that are learned"""


class ConversationTemplate(Protocol):
    """How a conversation is written: `Template`, or a chat template in Jinja2 (`chat_template.py`)."""

    @property
    def text(self) -> str:
        """The template as it is given."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer, where its end is not a token."""
        ...

    def turns(self, exchanges: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Turn]:
        """The tokens of every exchange."""
        ...

    def conversation(
        self,
        history: Sequence[tuple[str, str]],
        prompt: str,
        tokenizer: Tokenizer,
        system: str = "",
    ) -> list[int]:
        """The tokens that a model is given to answer `prompt` after the exchanges of `history`."""
        ...

    def read(self, prompt: str, written: str) -> str:
        """The answer in what a model wrote after `conversation`, as an example has it."""
        ...

    def jinja(self) -> str:
        """The template as Hugging Face's `chat_template` writes one."""
        ...


@dataclass(frozen=True)
class Template:
    """A text with {prompt} and, after it, {answer}, each once. Raises WrongUse for any other."""

    text: str = PROMPT + ANSWER

    def __post_init__(self) -> None:
        counts = (self.text.count(PROMPT), self.text.count(ANSWER))
        if counts != (1, 1) or self.text.index(PROMPT) > self.text.index(ANSWER):
            raise WrongUse(
                f"the template {self.text!r} does not hold {PROMPT} and then {ANSWER}, each once: "
                "write such as 'Question: {prompt}\\nAnswer: {answer}'"
            )

    def context(self, prompt: str) -> str:
        """The text before the answer, which a model is given."""
        before, _, after = self.text.partition(PROMPT)
        return (before + prompt + after.partition(ANSWER)[0]).rstrip(" ")

    def answer(self, prompt: str, answer: str) -> str:
        """The text after the context."""
        before, _, after = self.text.partition(PROMPT)
        between, _, behind = after.partition(ANSWER)
        text = before + prompt + between
        return text[len(text.rstrip(" ")) :] + answer + behind

    @property
    def stop(self) -> tuple[str, ...]:
        """What a model writes that goes on with a question of its own; none where nothing marks one."""
        marker = self.text.partition(PROMPT)[0].strip()
        return (f"\n{marker}",) if marker else ()

    def turns(self, exchanges: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Turn]:
        """The tokens of every exchange. A prompt of nothing has no context: its answer is a text."""
        turns = []
        for number, (prompt, answer) in enumerate(exchanges):
            context = self.context(prompt) if prompt else ""
            text = self.answer(prompt, answer) if prompt else answer
            encode = tokenizer.encode if number else tokenizer.encode_prompt
            turns.append((encode(context), [*tokenizer.encode(text), *_end(tokenizer)]))
        return turns

    def conversation(
        self,
        history: Sequence[tuple[str, str]],
        prompt: str,
        tokenizer: Tokenizer,
        system: str = "",
    ) -> list[int]:
        """The tokens that a model is given to answer `prompt`; system: text before the first prompt."""
        first, *others = [p for p, _ in history] + [prompt]
        prompts = [f"{system}\n\n{first}" if system else first, *others]
        answered = list(zip(prompts, (a for _, a in history), strict=False))
        tokens = [
            token for turn in self.turns(answered, tokenizer) for part in turn for token in part
        ]
        encode = tokenizer.encode if tokens else tokenizer.encode_prompt
        return [*tokens, *encode(self.context(prompts[-1]))]

    def read(self, prompt: str, written: str) -> str:
        """The answer in what a model wrote: without the template's text around it."""
        before, _, behind = self.answer(prompt, "\0").partition("\0")
        return written.removeprefix(before).removesuffix(behind)

    def jinja(self) -> str:
        """The template as Hugging Face's `chat_template` writes one."""
        before, _, after = self.text.partition(PROMPT)
        between, _, behind = after.partition(ANSWER)
        kept = between.rstrip(" ")
        asked = f"{json.dumps(before)} + start.system + message['content'] + {json.dumps(kept)}"
        answered = f"{json.dumps(between[len(kept) :])} + message['content'] + {json.dumps(behind)}"
        return (
            "{%- set start = namespace(system='') -%}{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            "{%- set start.system = message['content'] + '\\n\\n' -%}"
            f"{{%- elif message['role'] == 'user' -%}}{{{{- {asked} -}}}}"
            "{%- set start.system = '' -%}"
            f"{{%- else -%}}{{{{- {answered} + eos_token -}}}}{{%- endif -%}}{{%- endfor -%}}"
        )


def _end(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def encode(
    example: Example, template: ConversationTemplate, tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """The tokens of an example, (tokens,), and their loss mask of 1 and 0.

    The tokens begin as the tokenizer begins a prompt, so that generation begins alike. Raises
    UserError where the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer names no token that ends an answer: name it with --eos-token"
        )
    tokens: list[int] = []
    counted: list[int] = []
    for context, learned in template.turns(example.exchanges, tokenizer):
        tokens += [*context, *learned]
        counted += [0] * len(context) + [1] * len(learned)
    return np.array(tokens, np.uint32), np.array(counted, np.uint8)
