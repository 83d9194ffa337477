"""From logits to the next token: greedy or drawn, after penalties, temperature, top-k, top-p and min-p.

Every sequence draws from a generator of its own, so its text does not depend on what else is in the
batch; the sequences of a batch may each have settings of their own, and one pass over the batch serves all.
The order is OpenAI's and vLLM's: logit bias, penalties, temperature, top-k, top-p, min-p. Sources:
repetition penalty, Keskar et al. 2019 (CTRL), section 4.1; the other penalties, OpenAI's API; top-p,
Holtzman et al. 2020; min-p, Nguyen et al. 2024; the draw is the exponential race of gpt-fast, argmax of
p / Exp(1), which needs no cumulative sum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, check_numbers

GREEDY_BELOW = 1e-5  # temperature: logits over a smaller one leave the range of fp32
MOST_PENALTY = 2.0  # OpenAI's limit of the presence and the frequency penalty


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings."""

    temperature: float = 0.8
    """temperature of the softmax; 0, or less than 0.00001: greedy"""
    top_k: int | None = None
    """number of most likely tokens to choose from; None: all"""
    top_p: float | None = None
    """probability mass of the most likely tokens to choose from; None: all"""
    min_p: float | None = None
    """least probability of a token over the most likely token's; None: 0"""
    repetition_penalty: float = 1.0
    """divisor of the positive logits, factor of the negative ones, of every token before; 1: none"""
    presence_penalty: float = 0.0
    """subtrahend of the logit of every token that the answer holds"""
    frequency_penalty: float = 0.0
    """subtrahend of a token's logit for each time that the answer holds it"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """summand of the logit of each token named"""
    seed: int = 0
    """seed of the random numbers"""
    seeds: tuple[int, ...] = ()
    """seed of each sequence; empty: from `seed` and the sequence's number"""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.temperature < 0:
            raise WrongUse(f"temperature is {self.temperature}: use 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise WrongUse(f"top_k is {self.top_k}: use 1 or more")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise WrongUse(f"{name} is {value}: use a number above 0, up to 1")
        if self.repetition_penalty <= 0:
            raise WrongUse(
                f"repetition_penalty is {self.repetition_penalty}: use a number above 0, 1 for none"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if abs(getattr(self, name)) > MOST_PENALTY:
                raise WrongUse(f"{name} is {getattr(self, name)}: use a number from -2 to 2")
        for token, bias in self.logit_bias.items():
            if token < 0 or not math.isfinite(bias):
                raise WrongUse(f"logit_bias has {bias} for token {token}: use tokens and numbers")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalises(self) -> bool:
        """Whether the tokens before a token change its logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    def row(self, number: int) -> "Sampling":
        """The settings of one sequence, with its own seed alone."""
        own = self.seeds[number] if self.seeds else self.seed * 1_000_003 + number
        return Sampling(**{**vars(self), "seeds": (own,)})


class RowSampler:
    """What the choice of one sequence's tokens goes on from: settings, random numbers, tokens so far."""

    def __init__(
        self, sampling: Sampling, device: torch.device, vocabulary: int, prompt: Sequence[int] = ()
    ) -> None:
        """sampling: with one seed of its own, from `Sampling.row`. prompt: the tokens before the answer."""
        (seed,) = sampling.seeds
        self.sampling = sampling
        self.generator = torch.Generator(device).manual_seed(seed & ((1 << 63) - 1))
        self.counts: Tensor | None = None  # (vocabulary,) times that the answer holds each token
        self.before: Tensor | None = None  # (vocabulary,) whether prompt or answer hold it
        if sampling.penalises:
            self.counts = torch.zeros(vocabulary, device=device)
            self.before = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self.before[torch.tensor(list(prompt), dtype=torch.long, device=device)] = True

    def accept(self, token: int) -> None:
        """Take a token of the answer."""
        if self.counts is not None and self.before is not None:
            self.counts[token] += 1
            self.before[token] = True


class Sampler:
    """Chooses tokens for the sequences of a batch, each by its own settings.

    missing: tokens that are never chosen.
    """

    def __init__(
        self,
        sampling: Sampling | Sequence[RowSampler],
        count: int,
        device: torch.device,
        missing: Sequence[int] = (),
    ) -> None:
        """sampling: that of all `count` sequences, without penalties, or what each goes on from."""
        self._device = device
        self._missing = torch.tensor(missing, dtype=torch.long, device=device) if missing else None
        if isinstance(sampling, Sampling):
            assert not sampling.seeds or len(sampling.seeds) == count, "a seed for each sequence"
            assert not sampling.penalises, "sequences with penalties have their own vocabulary"
            rows = [RowSampler(sampling.row(i), device, 0) for i in range(count)]
        else:
            rows = list(sampling)
        self._take(rows)

    def _take(self, rows: list[RowSampler]) -> None:
        self.rows = rows
        settings = [row.sampling for row in rows]
        self._filters = Filters(settings, self._device)
        self._penalised = [row for row, s in enumerate(settings) if s.penalises]
        biased = [
            (row, token, bias)
            for row, s in enumerate(settings)
            for token, bias in s.logit_bias.items()
        ]
        self._biased = None
        if biased:
            at, tokens, biases = zip(*biased, strict=True)
            index = (
                torch.tensor(at, device=self._device),
                torch.tensor(tokens, device=self._device),
            )
            self._biased = index, torch.tensor(biases, device=self._device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences alone."""
        self._take([self.rows[row] for row in rows])

    def __call__(self, logits: Tensor) -> Tensor:
        """logits: (count, vocabulary), fp32. Returns (count,) tokens."""
        if self._filters.greedy:
            return self.adjusted(logits).argmax(-1)
        return self.draw(self.distribution(logits))

    def distribution(self, logits: Tensor) -> Tensor:
        """The probabilities (count, vocabulary) of every token, after all settings."""
        return self._filters.probabilities(self.adjusted(logits))

    def draw(self, probabilities: Tensor) -> Tensor:
        """A token (count,) of each distribution (count, vocabulary); greedy: the likeliest."""
        race = torch.ones_like(probabilities)
        for row, state in zip(race, self.rows, strict=True):
            if not state.sampling.greedy:
                row.exponential_(generator=state.generator)
        return (probabilities / race).argmax(-1)

    def adjusted(self, logits: Tensor) -> Tensor:
        """Logits (count, vocabulary) after biases and penalties, -inf where a token is missing."""
        if self._missing is not None:
            logits = logits.index_fill(-1, self._missing, -torch.inf)
        if self._biased is not None:
            index, biases = self._biased
            logits = logits.index_put(index, biases.to(logits), accumulate=True)
        if self._penalised:
            logits = logits.clone()
            logits[self._penalised] = self._penalties(logits[self._penalised])
        return logits

    def _penalties(self, x: Tensor) -> Tensor:
        """The logits (k, vocabulary) of the sequences with penalties, after them."""
        rows = [self.rows[row] for row in self._penalised]
        counts = torch.stack([row.counts for row in rows if row.counts is not None])
        before = torch.stack([row.before for row in rows if row.before is not None])

        def column(name: str) -> Tensor:
            return torch.tensor([[getattr(row.sampling, name)] for row in rows]).to(x)

        repetition = column("repetition_penalty")
        x = torch.where(before, torch.where(x > 0, x / repetition, x * repetition), x)
        return x - column("frequency_penalty") * counts - column("presence_penalty") * (counts > 0)


class Filters:
    """Temperature, top-k, top-p and min-p of the sequences of a batch."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        self.greedy = all(s.greedy for s in settings)
        """whether every sequence takes its likeliest token"""

        def column(values: Sequence[float | int | None], none: float) -> Tensor | None:
            if all(value is None for value in values):
                return None
            filled = [none if value is None else value for value in values]
            return torch.tensor(filled, device=device).unsqueeze(1)  # (count, 1)

        drawn = [Sampling(temperature=1.0) if s.greedy else s for s in settings]
        self._likeliest = column([1 if s.greedy else None for s in settings], 0)
        self._temperature = column([s.temperature for s in drawn], 1.0)
        self._top_k = column([s.top_k for s in drawn], torch.iinfo(torch.int64).max)
        self._most = max((s.top_k for s in drawn if s.top_k is not None), default=0)
        self._top_p = column([s.top_p for s in drawn], torch.inf)
        self._min_p = column([s.min_p for s in drawn], 0.0)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (count, vocabulary) over the temperature, -inf where a filter removed the token."""
        assert self._temperature is not None
        x = logits / self._temperature.to(logits)
        vocabulary = x.shape[-1]
        if self._top_k is not None:
            place = self._top_k.clamp(max=vocabulary) - 1
            every = self._top_k >= vocabulary
            if bool((~every).any()):
                ordered = x.topk(min(self._most, vocabulary)).values
                lowest = ordered.gather(-1, place.clamp(max=ordered.shape[-1] - 1))
                x = x.masked_fill((x < lowest) & ~every, -torch.inf)
        if self._top_p is not None:
            ordered, indices = x.sort(descending=True)
            p = ordered.softmax(-1)
            before = p.cumsum(-1) - p  # mass of the likelier ones: the first is always kept
            most = self._top_p.to(p)
            removed = (before >= most) & (most < 1)
            x = x.masked_fill(torch.zeros_like(removed).scatter(-1, indices, removed), -torch.inf)
        if self._min_p is not None:
            p = x.softmax(-1)
            x = x.masked_fill(p < self._min_p.to(p) * p.amax(-1, keepdim=True), -torch.inf)
        return x

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (count, vocabulary) that tokens are drawn from; greedy: all on the likeliest."""
        p = torch.softmax(self(logits), -1)
        if self._likeliest is None:
            return p
        one = torch.zeros_like(p).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        return torch.where(self._likeliest > 0, one, p)


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (..., vocabulary) over the temperature, -inf where a filter removed the token."""
    rows = logits.reshape(-1, logits.shape[-1])
    return Filters([sampling], logits.device)(rows).view_as(logits)
