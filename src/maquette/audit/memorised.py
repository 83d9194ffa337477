"""Memorised: how much of what a model writes stands word for word in its training text.

Unprompted samples are drawn from the model, and every longest run of theirs that the index finds in
a training document is measured in bytes; a token is verbatim when it lies in one of 50 or more (Lee
et al. 2022, section 6.2, count runs of 50 tokens in 100,000 samples). Matching is of tokens, so the
fraction is a lower bound: a run loses the tokens that reach over its ends, and one near the limit, or
cut into other tokens, is not counted at all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from maquette.audit.token_bytes import token_bytes_of
from maquette.audit.trace import VERBATIM_BYTES
from maquette.base.errors import WrongUse
from maquette.base.statistics import weighted_mean, wilson
from maquette.corpus.progress import Progress, silent
from maquette.corpus.tokenizer import Tokenizer

if TYPE_CHECKING:
    from maquette.models.base import LanguageModel

BATCH = 64  # samples written side by side
Integers = npt.NDArray[np.int64]


class Matcher(Protocol):
    """A matcher of tokens in the training text: `audit.index.Index`."""

    def matches(self, tokens: Integers, /) -> tuple[Integers, Integers]:
        """The longest match that begins at each token, and its occurrences where it is maximal."""
        ...


@dataclass(frozen=True)
class Span:
    """A longest run of a sample's tokens that stands in a training document."""

    sample: int
    start: int
    end: int
    """end of the span, in tokens of the sample"""
    bytes: int
    count: int
    """number of its occurrences in the training text"""
    text: str


@dataclass
class Memorised:
    """Verbatim spans of a model's samples."""

    lengths: list[int]
    """number of tokens of each sample"""
    verbatim: list[int]
    """number of verbatim tokens of each sample"""
    least: int
    """least bytes of a span"""
    spans: list[Span] = field(default_factory=list)
    """spans, longest first"""
    written: Sequence[Sequence[int]] = ()
    """tokens of the samples"""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def fraction(self) -> float:
        """Fraction of the tokens that are verbatim."""
        return sum(self.verbatim) / self.tokens if self.tokens else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval (Wilson's, for the effective number of tokens: Korn and Graubard 1998).

        The tokens of a sample are dependent; samples are independent. Where samples do not differ at
        all, each counts as one trial.
        """
        drawn = [(v, n) for v, n in zip(self.verbatim, self.lengths, strict=True) if n]
        if not drawn:
            return 0.0, 1.0
        v, n = np.array(drawn, np.float64).T
        p, error = self.fraction, weighted_mean(v / n, n).stderr
        worth = p * (1 - p) / error**2 if error else float(len(drawn))
        return wilson(p * worth, worth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "samples": len(self.lengths),
            "tokens": self.tokens,
            "verbatim": sum(self.verbatim),
            "fraction": self.fraction,
            "interval": list(self.interval),
            "least_bytes": self.least,
            "spans": [asdict(span) for span in self.spans],
        }


def memorised(
    model: "LanguageModel",
    tokenizer: Tokenizer,
    index: Matcher,
    *,
    samples: int = 512,
    tokens: int | None = None,
    least: int = VERBATIM_BYTES,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Memorised:
    """Sample documents from the model and look every sample up in the training text.

    tokens: at most, of a sample; None: as many as the context holds. temperature 1 without a filter
    is the model's own distribution; Lee et al. took the 50 likeliest (top_k 50).
    """
    from maquette.serving.generate import generate
    from maquette.serving.sampler import Sampling

    if samples < 1:
        raise WrongUse(f"samples is {samples}: use 1 or more")
    if least < 1:
        raise WrongUse(f"bytes is {least}: a verbatim span has 1 or more, such as {VERBATIM_BYTES}")
    tokens = model.config.context - 1 if tokens is None else tokens
    if tokens < 1:
        raise WrongUse(f"tokens is {tokens}: sample 1 or more")
    sampling = Sampling(temperature=temperature, top_k=top_k)
    batches = -(-samples // BATCH)
    written: list[list[int]] = []
    for batch in range(batches):
        drawing = replace(sampling, seed=seed * batches + batch)
        prompts = [""] * min(BATCH, samples - len(written))
        results, _ = generate(model, tokenizer, prompts, tokens=tokens, sampling=drawing)
        written += [result.tokens for result in results]
        progress("sampling", len(written), samples)
    return verbatim(written, tokenizer, index, least)


def verbatim(
    samples: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    index: Matcher,
    least: int = VERBATIM_BYTES,
) -> Memorised:
    """Look token sequences up: those of `memorised`, or any others."""
    memorised = Memorised([len(sample) for sample in samples], [], least, written=samples)
    token_bytes = token_bytes_of(tokenizer)
    for number, sample in enumerate(samples):
        written = np.array(sample, np.int64)
        edges = np.cumsum(np.append(0, token_bytes.sizes[written]))  # (tokens + 1,) in bytes
        covered = np.zeros(len(sample), bool)
        if len(written):
            lengths, counts = index.matches(written)
            for start in np.flatnonzero(counts).tolist():
                end = start + int(lengths[start])
                long = int(edges[end] - edges[start])
                if long >= least:
                    covered[start:end] = True
                    text = token_bytes.decode(written[start:end]).decode("utf-8", "replace")
                    memorised.spans.append(Span(number, start, end, long, int(counts[start]), text))
        memorised.verbatim.append(int(covered.sum()))
    memorised.spans.sort(key=lambda span: (-span.bytes, span.sample, span.start))
    return memorised
