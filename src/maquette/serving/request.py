"""What an engine is asked, and what it says: requests, steps, and a row between the two."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.tokenizer import Tokenizer
from maquette.serving.answer_text import AnswerText
from maquette.serving.restrict import Answers, Walk
from maquette.serving.sampler import RowSampler, Sampling

LONGEST_STOP = 1000  # characters of a stop string: an answer is searched for it at every token

Alternatives = tuple[tuple[int, float], ...]
"""the most likely tokens and their log-probabilities in nats, the likeliest first"""


class Full(UserError):
    """The queue of an engine is full; the same request may fit a moment later."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to continue."""

    prompt: tuple[int, ...]
    """token ids of the prompt, its prefix (BOS) included"""
    tokens: int
    """number of new tokens at most, those that are forced included; 0: the prompt is only scored"""
    sampling: Sampling = field(default_factory=Sampling)
    """sampling settings of this request alone, with one seed"""
    stop: tuple[str, ...] = ()
    """strings of at most 1,000 characters that end the answer, and are cut off"""
    answers: Answers | None = None
    """what the answer is held to; None: nothing"""
    adapters: Mapping[str, float] = field(default_factory=dict)
    """weights of attached adapters; those not named keep the weight that they had"""
    forced: tuple[int, ...] = ()
    """token ids that the answer begins with"""
    alternatives: int = 0
    """number of most likely tokens to report beside each token"""
    prompt_log_probabilities: bool = False
    """whether the prompt's own tokens are scored, in the first step's `prompt`"""

    def check(self, vocabulary: int, context: int, context_shift: bool) -> None:
        """Raise WrongUse where a model of these sizes can never answer it."""
        if not self.prompt:
            raise WrongUse("the prompt has no tokens: give one, such as the BOS or EOS token")
        if self.tokens < (not self.prompt_log_probabilities):
            raise WrongUse(f"tokens is {self.tokens}: ask for at least 1")
        if self.forced and len(self.forced) >= self.tokens:
            raise WrongUse(
                f"the answer begins with {len(self.forced)} tokens, and {self.tokens} are asked for: ask "
                f"for more"
            )
        longest_stop = max(map(len, self.stop), default=0)
        if longest_stop > LONGEST_STOP:
            raise WrongUse(
                f"a stop string has {longest_stop:,} characters: use at most {LONGEST_STOP:,}"
            )
        named = (*self.prompt, *self.forced, *self.sampling.logit_bias)
        beyond = next((token for token in named if not 0 <= token < vocabulary), None)
        if beyond is not None:
            raise WrongUse(
                f"token {beyond} is not in the vocabulary, which ends at {vocabulary - 1}: leave it out"
            )
        longest = len(self.prompt) + self.tokens
        shifts = context_shift and not (self.forced or self.prompt_log_probabilities)
        if longest > context and not shifts:
            raise WrongUse(
                f"the prompt ({len(self.prompt)} tokens) and {self.tokens} more do not fit the model's "
                f"context of {context}: ask for at most {max(0, context - len(self.prompt))} tokens, or "
                f"shorten the prompt"
            )


@dataclass(frozen=True)
class Scored:
    """A token with the model's own opinion of it, before penalties, filters and restrictions."""

    token: int
    log_probability: float | None
    """log-probability in nats; None for the first token of a prompt"""
    alternatives: Alternatives = ()


@dataclass(frozen=True)
class Step:
    """What one step did for one request."""

    request: int
    """number of the request"""
    token: int
    """token id; -1 where a prompt was only scored"""
    text: str
    """text that is settled now; may be empty"""
    log_probability: float
    """log-probability in nats that the model gives the token, before penalties, filters and restrictions"""
    alternatives: Alternatives = ()
    finish: str | None = None
    """finish reason: "length", "end" (an EOS token, or a restricted answer that is whole), "stop" (a stop
    string), "dead end" (no token can follow in a restricted answer that is not whole); None: the answer goes
    on"""
    prompt: tuple[Scored, ...] = ()
    """tokens of the prompt, in the first step of a request that asked for them"""
    dropped: int = 0
    """number of tokens that were dropped from the middle of a full context before this token"""


class Row:
    """A request that is waited for, computed, or answered."""

    def __init__(
        self,
        number: int,
        request: Request,
        tokenizer: Tokenizer,
        sampler: RowSampler,
        walk: Walk | None,
        weights: Mapping[str, float],
    ) -> None:
        self.number, self.request = number, request
        self.sampler, self.walk, self.weights = sampler, walk, dict(weights)
        self.tokens: list[int] = [*request.prompt, *request.forced]
        """token ids that the model is given: the prompt and the answer, without what was dropped"""
        self.forced = deque(request.forced)
        """tokens of the answer that are not reported yet"""
        self.text = AnswerText(tokenizer, request.prompt, request.stop)
        self.scored: list[Scored] = []
        """what the model said of the prompt, and of the tokens that are forced"""
        self.said = 0
        """number of tokens reported"""
        self.dropped = 0
        """number of tokens dropped and not reported yet"""
        self.shifted = False
        """whether the keys and values are to be computed again, since the middle was dropped"""
        self._written = 0

    @property
    def key(self) -> tuple[tuple[str, float], ...]:
        """The weights of the adapters, that keys and values belong to."""
        return tuple(sorted(self.weights.items()))

    @property
    def scored_from(self) -> int:
        """Number of the first token after which the model's opinion is wanted."""
        if self.said:
            return len(self.tokens) - 1
        if self.request.prompt_log_probabilities:
            return 0
        return len(self.tokens) - len(self.forced) - 1

    def total(self, context: int) -> int:
        """Number of tokens that will have keys and values at the end."""
        left = self.request.tokens - self.said - len(self.forced)
        return min(len(self.tokens) + max(0, left), context)

    def array(self) -> npt.NDArray[np.int64]:
        """The tokens, for comparisons."""
        return np.array(self.tokens, dtype=np.int64)

    def shift(self, context: int, first: int) -> None:
        """Drop the middle of a full context: the `first` tokens and the newest half are kept."""
        newest = max(1, (context - first) // 2)
        kept = self.tokens[:first] + self.tokens[-newest:]
        self.dropped += len(self.tokens) - len(kept)
        self.tokens, self.shifted = kept, True

    def prompt(self) -> tuple[Scored, ...]:
        """What the model said of the prompt, where that was asked."""
        if not self.request.prompt_log_probabilities:
            return ()
        first = Scored(self.request.prompt[0], None)
        return (first, *self.scored[: len(self.request.prompt) - 1])

    def step(self, scored: Scored) -> Step:
        """Take the next token of the answer."""
        first = self.prompt() if self.said == 0 else ()
        self.said += 1
        self.sampler.accept(scored.token)
        self.text.add(scored.token)
        finish = self.text.finish
        if self.walk is not None:
            self.walk.accept(scored.token)
            finish = finish or self.walk.finish
        if self.said == self.request.tokens:
            finish = finish or "length"
        text = self.text.text() if finish else self.text.ready()
        piece, self._written = text[self._written :], max(self._written, len(text))
        dropped, self.dropped = self.dropped, 0
        assert scored.log_probability is not None
        return Step(
            self.number, scored.token, piece, scored.log_probability, scored.alternatives, finish,
            first, dropped,
        )  # fmt: skip


def opinions(
    logits: torch.Tensor, tokens: torch.Tensor, alternatives: Sequence[int]
) -> list[Scored]:
    """Log-probabilities of tokens (n,) in logits (n, vocabulary), and so many most likely ones of each.

    A token that is never chosen, whose logit is -inf, is no alternative.
    """
    normaliser = logits.logsumexp(-1)
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - normaliser
    most = min(max(alternatives, default=0), logits.shape[-1])
    beside: list[Alternatives] = [()] * len(logits)
    if most:
        best = logits.topk(most)
        log_probabilities = (best.values - normaliser.unsqueeze(-1)).tolist()
        beside = [
            tuple(
                (index, value)
                for index, value in zip(indices[:n], values[:n], strict=True)
                if value > -math.inf
            )
            for indices, values, n in zip(
                best.indices.tolist(), log_probabilities, alternatives, strict=True
            )
        ]
    return [Scored(*one) for one in zip(tokens.tolist(), chosen.tolist(), beside, strict=True)]
