"""Templates: how an example becomes text, and which of its tokens the loss counts.

    Question: {prompt}\\nAnswer: {answer}

What stands before {answer} is context; {answer}, what follows it and the end token are what is learned.
Every exchange of a conversation is written so, one after the other, each with its end: the model learns
where an answer ends, and is stopped there. Context and answer are encoded apart, so that the border
between them is one between tokens; spaces before the answer are encoded with it, for byte-pair tokens
begin with them (as lm-evaluation-harness does).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.example import Example
from maquette.corpus.tokenizer import Tokenizer

PROMPT, ANSWER = "{prompt}", "{answer}"


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


def encode(
    example: Example, template: Template, tokenizer: Tokenizer
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
    for prompt, answer in example.exchanges:
        context = template.context(prompt)
        context_tokens = tokenizer.encode(context) if tokens else tokenizer.encode_prompt(context)
        wanted = [*tokenizer.encode(template.answer(prompt, answer)), tokenizer.eos_token_id]
        tokens += [*context_tokens, *wanted]
        counted += [0] * len(context_tokens) + [1] * len(wanted)
    return np.array(tokens, np.uint32), np.array(counted, np.uint8)
