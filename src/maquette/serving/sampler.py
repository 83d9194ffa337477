"""From logits to the next token: greedy, temperature, top-k, top-p, min-p.

Every sequence draws from a generator of its own, seeded by (seed, its number), so its text does not
depend on what else is in the batch. Sources: top-p, Holtzman et al. 2020; min-p, Nguyen et al. 2024;
the draw is the exponential race of gpt-fast, argmax of p / Exp(1), which needs no cumulative sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, check_numbers


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings; the filters apply in this order."""

    temperature: float = 0.8
    """temperature of the softmax; 0: greedy"""
    top_k: int | None = None
    """number of most likely tokens to choose from; None: all"""
    top_p: float | None = None
    """probability mass of the most likely tokens to choose from; None: all"""
    min_p: float | None = None
    """least probability of a token over the most likely token's; None: 0"""
    seed: int = 0
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


class Sampler:
    """Chooses tokens for `count` sequences. missing: tokens that are never chosen."""

    def __init__(
        self, sampling: Sampling, count: int, device: torch.device, missing: Sequence[int] = ()
    ) -> None:
        self.sampling = sampling
        self._missing = torch.tensor(missing, dtype=torch.long, device=device) if missing else None
        seeds = sampling.seeds or tuple(sampling.seed * 1_000_003 + i for i in range(count))
        assert len(seeds) == count, "a seed for each sequence"
        self._generators = [
            torch.Generator(device).manual_seed(seed & ((1 << 63) - 1)) for seed in seeds
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences alone."""
        self._generators = [self._generators[row] for row in rows]

    def __call__(self, logits: Tensor) -> Tensor:
        """logits: (count, vocabulary), fp32. Returns (count,) tokens."""
        if self._missing is not None:
            logits = logits.index_fill(-1, self._missing, -torch.inf)
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        probabilities = torch.softmax(filtered(logits, self.sampling), -1)
        race = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=generator)
                for row, generator in zip(probabilities, self._generators, strict=True)
            ]
        )
        return (probabilities / race).argmax(-1)


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits over the temperature, -inf where a filter removed the token."""
    x = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < x.shape[-1]:
        lowest = x.topk(sampling.top_k).values[..., -1:]
        x = x.masked_fill(x < lowest, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, indices = x.sort(descending=True)
        p = ordered.softmax(-1)
        before = p.cumsum(-1) - p  # mass of the likelier ones: the first is always kept
        removed = torch.zeros_like(x, dtype=torch.bool).scatter(
            -1, indices, before >= sampling.top_p
        )
        x = x.masked_fill(removed, -torch.inf)
    if sampling.min_p is not None:
        p = x.softmax(-1)
        x = x.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), -torch.inf)
    return x
