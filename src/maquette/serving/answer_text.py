"""The growing text of one answer: what is settled, and where it ends.

An answer is read together with the end of its prompt, whose text is then taken off: some tokenizers
drop the space of the first token that they read, and bytes of one character may lie on both sides. Only
the last tokens are read again at each step, so that a long answer costs no more a token than a short one.
"""

from collections.abc import Sequence

from maquette.corpus.tokenizer import Tokenizer

HALF = "\N{REPLACEMENT CHARACTER}"  # what a part of a character reads as
BEFORE = 8  # tokens that are read before those that are new, at the least
READ_AGAIN = 32  # tokens of the answer that are read again at each step, at the most


class AnswerText:
    """The text of one answer, token by token. stop: strings that end it, and are cut off."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
        self.tokens: list[int] = []
        self.finish: str | None = None
        """finish reason: "end" (an EOS token) or "stop" (a stop string); None: it goes on"""
        self._all = list(prompt)  # the prompt, then the answer
        self._past, self._settled = (
            "",
            len(self._all),
        )  # the text of the answer that is not read again
        self._read_from(len(self._all))

    def add(self, token: int) -> None:
        """Take the next token."""
        if token in self._tokenizer.special.eos_token_ids:
            self.finish = "end"
            return
        self.tokens.append(token)
        self._all.append(token)
        if self._stop:
            whole = self._whole().rstrip(HALF)
            if any(s in whole for s in self._stop):
                self.finish = "stop"
        if len(self._all) - self._settled > READ_AGAIN:
            self._advance()

    def text(self) -> str:
        """The text so far, cut before a stop string."""
        return self._cut(self._whole())

    def ready(self) -> str:
        """The text that will not change any more: no half character, no start of a stop string."""
        if self.finish == "stop":
            return self.text()
        unsettled = self._tokenizer.unsettled(self.tokens)
        whole = self._cut(self._whole(unsettled).rstrip(HALF))
        held = max((_begun(s, whole) for s in self._stop), default=0)
        return whole[: len(whole) - held]

    def _whole(self, without: int = 0) -> str:
        """The text so far, without that of the last tokens."""
        read = self._decoded(self._start, max(self._settled, len(self._all) - without))
        return self._past + read[self._taken_off :]

    def _advance(self) -> None:
        """Settle the text so far, where it ends with a whole character that nothing can change."""
        if self._tokenizer.unsettled(self.tokens):
            return
        whole = self._whole()
        if not whole.endswith(HALF):
            self._past, self._settled = whole, len(self._all)
            self._read_from(self._settled)

    def _read_from(self, end: int) -> None:
        """Read from a few tokens before `end` on, of which some have a text."""
        before = BEFORE
        while True:
            self._start = max(0, end - before)
            text = self._decoded(self._start, end)
            if text.strip() or self._start == 0:
                break
            before *= 2
        self._taken_off = len(text)

    def _decoded(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._all[start:end], skip_special_tokens=True)

    def _cut(self, whole: str) -> str:
        cuts = [whole.find(s) for s in self._stop if s in whole]
        return whole[: min(cuts)] if cuts else whole


def _begun(stop: str, text: str) -> int:
    """Number of first characters of a stop string that a text ends with, less than all."""
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
