"""From texts to requests: where a context ends and a continuation begins, as lm-evaluation-harness has it.

Context and continuation are encoded together and cut where the context alone ends; spaces at the end of
a context go to the continuation, for tokens begin with them. An empty context is the token that begins a
text. A text to be scored whole is cut into windows: the first has the token that begins a text before it,
the others one token of their predecessor, and the last as much as the context holds.
"""

from collections.abc import Iterator, Sequence

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import Tokenizer
from maquette.evaluation.likelihood import Request


class PairEncoder:
    """Encodes pairs of a context and a continuation; a context that comes again is encoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._last: tuple[str, list[int]] = ("", [])

    def __call__(self, context: str, continuation: str) -> Request:
        """Raises UserError for a continuation without a token, or one that nothing goes before."""
        if not context:
            return self._first(continuation)
        kept = context.rstrip()
        continuation, context = context[len(kept) :] + continuation, kept
        if not context:  # nothing but spaces
            return self._first(continuation)
        if self._last[0] != context:
            self._last = context, self._tokenizer.encode_prompt(context)
        before = self._last[1]
        after = self._tokenizer.encode_prompt(context + continuation)[len(before) :]
        if not after:  # one token holds the border: they are encoded apart
            after = self._tokenizer.encode(continuation)
        if not after:
            raise UserError(
                "an answer is empty: every choice and target needs a character at least"
            )
        return Request(tuple(before), tuple(after))

    def _first(self, continuation: str) -> Request:
        tokens = tuple(self._tokenizer.encode(continuation))
        start = self._tokenizer.special.start
        if not start or tokens[:1] == start:
            start, tokens = tokens[:1], tokens[1:]
        if not tokens:
            raise UserError(
                "a text of one token is scored, and the model's files name no token that begins or ends "
                "a text: give a context"
            )
        return Request(tuple(start), tokens)


def rolling_requests(
    tokens: Sequence[int], start: Sequence[int], context: int
) -> Iterator[Request]:
    """Requests that score every token of a text once; without `start` the first one is not scored.

    As `get_rolling_token_windows` and `make_disjoint_window` of lm-evaluation-harness with a context of
    one token.
    """
    if not start:
        start, tokens = tokens[:1], tokens[1:]
    if not tokens:
        return
    end = min(context, len(tokens))
    yield Request(tuple(start[-1:]), tuple(tokens[:end]))
    while end < len(tokens):
        count = min(len(tokens) - end, context)
        end += count
        first = max(0, end - context - 1)
        yield Request(tuple(tokens[first : end - count]), tuple(tokens[end - count : end]))
