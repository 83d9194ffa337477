"""A conversation with a language model: its exchanges, and what of them still fits the context.

Where the conversation and an answer no longer fit the model's context, the oldest exchanges are left out,
for good; the system's words stay.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from maquette.base.errors import UserError
from maquette.corpus.examples.template import ConversationTemplate
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel
from maquette.serving.generate import continue_tokens
from maquette.serving.sampler import Sampling

ANSWER_TOKENS = 128  # of an answer, where the context has twice as many


@dataclass(frozen=True)
class Reply:
    """An answer of a model."""

    text: str
    finish: str
    """finish reason: "length", "end" or "stop" """
    dropped: int
    """number of exchanges that no longer fit the context, and were left out for this answer"""
    tokens: int
    """number of tokens of the answer"""
    tokens_per_second: float
    """tokens per second of the decoding"""


@dataclass
class Chat:
    """A conversation. Raises UserError for a context that has no room for an answer."""

    model: LanguageModel
    tokenizer: Tokenizer
    template: ConversationTemplate
    system: str = ""
    """text before the first prompt"""
    tokens: int | None = None
    """number of tokens of an answer at most; None: 128, or half of a smaller context"""
    sampling: Sampling = field(default_factory=Sampling)
    """sampling settings; every answer has a seed of its own"""
    history: list[tuple[str, str]] = field(default_factory=list)
    """all exchanges, prompt and answer"""
    first: int = 0
    """number of the first exchange that the model is still given"""

    @property
    def room(self) -> int:
        """Number of tokens of an answer at most."""
        return self.tokens or min(ANSWER_TOKENS, self.model.config.context // 2)

    def ask(self, prompt: str, on_text: Callable[[str], None] = lambda piece: None) -> Reply:
        """The answer to a prompt, which becomes a part of the conversation.

        on_text is given the answer piece by piece. An answer that is interrupted stays as far as it came,
        and the interrupt goes on. Raises UserError for a prompt that does not fit the context.
        """
        before = self.first
        encoded = self._fitting(prompt)
        written: list[str] = []

        def write(piece: str) -> None:
            piece = piece if written else piece.lstrip()  # templates leave a space to the answer
            if piece:
                written.append(piece)
                on_text(piece)

        try:
            (answer,), timing = continue_tokens(
                self.model,
                self.tokenizer,
                [encoded],
                tokens=self.room,
                sampling=replace(self.sampling, seed=self.sampling.seed + len(self.history)),
                stop=self.template.stop,
                on_text=write,
            )
        except KeyboardInterrupt:
            if written:
                self.history.append((prompt, "".join(written).rstrip()))
            raise
        text = "".join(written).rstrip()
        self.history.append((prompt, text))
        return Reply(
            text, answer.finish, self.first - before, len(answer.tokens), timing.tokens_per_second
        )

    def reset(self) -> None:
        """Begin anew, with the same words of the system."""
        self.history.clear()
        self.first = 0

    def messages(self) -> list[dict[str, str]]:
        """The conversation as records have it: role and content."""
        parts = [("system", self.system)] if self.system else []
        for prompt, answer in self.history:
            parts += [("user", prompt), ("assistant", answer)]
        return [{"role": role, "content": content} for role, content in parts]

    def _fitting(self, prompt: str) -> list[int]:
        """The conversation up to the answer, without the exchanges that no longer fit."""
        context = self.model.config.context
        for first in range(self.first, len(self.history) + 1):
            kept = self.history[first:]
            encoded = self.template.conversation(kept, prompt, self.tokenizer, self.system)
            if len(encoded) + self.room <= context:
                self.first = first
                return encoded
        raise UserError(
            f"the prompt ({len(encoded)} tokens) and an answer of {self.room} do not fit the model's "
            f"context of {context}: shorten the prompt, or ask for fewer --tokens"
        )
