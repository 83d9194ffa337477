"""Answers that are held to a set of strings, a regular expression, or a JSON schema.

llguidance (an extra, `restrict`: one wheel of 3 MB without dependencies) walks a grammar byte by byte and
says at every step which tokens may follow; the others are never chosen. An answer ends where the grammar
allows nothing more, or where it allows an end and the model chooses it. Where a tokenizer cannot write what
must follow, the answer ends in a dead end, and says so.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import WrongUse, need
from maquette.corpus.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answers:
    """What an answer may be: one of the three is given."""

    choices: tuple[str, ...] = ()
    """the strings that it may be"""
    regex: str | None = None
    """the regular expression that it matches as a whole (Rust's syntax)"""
    schema: str | None = None
    """the JSON schema of the object that it is"""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.choices, self.regex, self.schema))) != 1:
            raise WrongUse(
                "an answer is held to choices, or a regular expression, or a schema: give one of them"
            )
        if "" in self.choices:
            raise WrongUse("a choice is empty: leave it out, or write what it is")

    def grammar(self) -> str:
        """As llguidance has it."""
        matcher = need("llguidance", "restrict").LLMatcher
        if self.choices:
            quoted = (json.dumps(text, ensure_ascii=False) for text in self.choices)
            return str(matcher.grammar_from_lark("start: " + " | ".join(quoted)))
        if self.regex:
            return str(matcher.grammar_from_regex(self.regex))
        try:
            content, compact = json.loads(self.schema or ""), {"whitespace_flexible": False}
            return str(matcher.grammar_from_json_schema(content, overrides=compact))
        except ValueError as error:
            raise WrongUse(f"the schema is no JSON object ({error}): mend it") from error


class Grammars:
    """Makes restrictions for one tokenizer and the vocabulary of one model."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        guidance = need("llguidance", "restrict")
        ends = [end for end in tokenizer.special.eos_token_ids if end < vocabulary]
        self.vocabulary, self.ends = vocabulary, ends
        self.missing = tokenizer.missing(vocabulary)
        # Without an end of its own the grammar ends with a token that no model has.
        size = max(vocabulary, tokenizer.vocabulary) + 1
        self._tokenizer = guidance.LLTokenizer(
            tokenizer.to_json(), n_vocab=size, eos_token=ends or [size - 1]
        )
        self._matcher = guidance.LLMatcher

    def matcher(self, answers: Answers) -> Any:
        """A walk through the grammar. Raises WrongUse for one that is none."""
        found = self._matcher(self._tokenizer, answers.grammar(), log_level=0)
        if found.is_error():
            said = " ".join(str(found.get_error()).split())
            raise WrongUse(
                f"answers cannot be held to this ({said[:200]}): mend the expression or schema"
            )
        return found


class Walk:
    """The walk of one answer through its grammar."""

    def __init__(self, grammars: Grammars, matcher: Any) -> None:
        """matcher: of the grammar, at its start; it is the walk's own.

        Raises WrongUse where no token may begin the answer.
        """
        self._grammars, self._matcher = grammars, matcher
        self.mask: Tensor | None = self._allowed()
        """the tokens that may follow, (vocabulary,) bool; None where none may, but an end"""
        if self.mask is None:
            raise WrongUse(
                "an answer held to this has no tokens: it may only be empty, or the tokenizer cannot "
                "write it: mend the choices, expression or schema"
            )

    def accept(self, token: int) -> None:
        """Take the next token of the answer."""
        if self.mask is None:
            return
        if token in self._grammars.ends or not self._matcher.consume_token(token):
            self.mask = None
        else:
            self.mask = self._allowed()

    @property
    def finish(self) -> str | None:
        """Why the answer has ended: "end" (it is whole) or "dead end" (no token may follow, and it is not).

        None: it goes on.
        """
        if self.mask is not None:
            return None
        return "end" if self._matcher.is_accepting() else "dead end"

    def _allowed(self) -> Tensor | None:
        if self._matcher.is_stopped():
            return None
        content = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(content, bitorder="little")
        mask = bits[: self._grammars.vocabulary].astype(bool)
        mask[self._grammars.missing] = False
        others = mask.copy()
        others[self._grammars.ends] = False
        return torch.from_numpy(mask) if others.any() else None


class Restriction:
    """The walks of the rows of one batch. answers: what each row is held to."""

    def __init__(self, grammars: Grammars, answers: Sequence[Answers]) -> None:
        made = {one: grammars.matcher(one) for one in set(answers)}
        self.walks = [Walk(grammars, made[one].deep_copy()) for one in answers]
        self._live: Sequence[int] = range(len(answers))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, by their number in the whole batch."""
        self._live = list(rows)

    def masked(self, logits: Tensor) -> Tensor:
        """Logits (live rows, vocabulary), -inf where a token may not follow; a complete row as it is."""
        return masked(logits, [self.walks[number] for number in self._live])

    def accept(self, tokens: Sequence[int]) -> None:
        """Take the chosen token of every live row."""
        for row, token in zip(self._live, tokens, strict=True):
            self.walks[row].accept(token)

    def finish(self, row: int) -> str | None:
        """Why the answer of a row of the whole batch has ended; None: it goes on."""
        return self.walks[row].finish


def masked(logits: Tensor, walks: Sequence[Walk | None]) -> Tensor:
    """Logits (rows, vocabulary), -inf where a row's walk does not allow a token; None: it allows all."""
    rows = []
    for row, walk in zip(logits, walks, strict=True):
        mask = None if walk is None else walk.mask
        rows.append(row if mask is None else row.masked_fill(~mask.to(row.device), -torch.inf))
    return torch.stack(rows)
