"""Searches without a gradient: ask for candidates, tell what they cost.

    candidates = strategy.ask()                  (population, ...)
    strategy.tell([loss(c) for c in candidates])
    strategy.favourite                           the best guess so far

What a strategy asks is a function of its seed and of the losses that it was told, so that a search goes on
from its record of losses alone, bit for bit.

`Evolution` searches vectors by CMA-ES (Hansen 2016, "The CMA Evolution Strategy: A Tutorial"; the package
cma, an extra). `Words` searches a choice of words, one a place, each place with a distribution of its own
that follows the policy gradient with the population's mean as its baseline (Diao et al. 2022, "Black-box
Prompt Learning for Pre-trained Language Models", section 3.3; there the probabilities themselves are
moved and projected onto the simplex, here their logits).
"""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from maquette.base.errors import need

Array = npt.NDArray[Any]


class Strategy(Protocol):
    """A search; see the file's docstring."""

    def ask(self) -> Array:
        """Candidates, (population, ...)."""
        ...

    def tell(self, losses: Sequence[float]) -> None:
        """Learn from the losses of the candidates that were asked last."""
        ...

    @property
    def favourite(self) -> Array:
        """The candidate that the search would bet on."""
        ...


class Evolution:
    """CMA-ES over vectors of `size` numbers, which begins at 0."""

    def __init__(self, size: int, population: int, seed: int, sigma: float = 1.0) -> None:
        with warnings.catch_warnings():  # it warns that it will not draw pictures
            warnings.simplefilter("ignore")
            cma: Any = need("cma", "blackbox")
        draw = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "seed": np.nan,  # leaves numpy's own generator alone
            "randn": lambda *shape: draw.standard_normal(shape),
            "signals_filename": "",
            "verbose": -9,
            "verb_log": 0,
        }
        self._search = cma.CMAEvolutionStrategy([0.0] * size, sigma, options)
        self._asked: list[Array] = []

    def ask(self) -> Array:
        self._asked = self._search.ask()
        return np.array(self._asked)

    def tell(self, losses: Sequence[float]) -> None:
        self._search.tell(self._asked, list(losses))

    @property
    def favourite(self) -> Array:
        """The mean of the distribution."""
        return np.array(self._search.mean)


class RandomSearch:
    """Independent normal vectors of `size` numbers: the best that was told. The control of `Evolution`."""

    def __init__(self, size: int, population: int, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._shape = (population, size)
        self._asked = np.zeros(self._shape)
        self._best, self._least = np.zeros(size), np.inf

    def ask(self) -> Array:
        self._asked = self._draw.standard_normal(self._shape)
        return self._asked

    def tell(self, losses: Sequence[float]) -> None:
        best = int(np.argmin(losses))
        if losses[best] < self._least:
            self._best, self._least = self._asked[best], losses[best]

    @property
    def favourite(self) -> Array:
        return self._best


class Words:
    """A word for every place, of `words` words, (places,) numbers of words."""

    def __init__(
        self, places: int, words: int, population: int, seed: int, rate: float = 0.5
    ) -> None:
        self._draw = np.random.default_rng(seed)
        self._logits = np.zeros((places, words))
        self._population, self._rate = population, rate
        self._asked = np.zeros((population, places), np.int64)

    @property
    def probabilities(self) -> Array:
        """The distribution of every place, (places, words)."""
        weights = np.exp(self._logits - self._logits.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def ask(self) -> Array:
        edges = self.probabilities.cumsum(1)[:, None]  # (places, 1, words)
        drawn = self._draw.random((len(self._logits), self._population, 1))
        chosen = (drawn > edges).sum(2).T
        self._asked = np.minimum(chosen, self._logits.shape[1] - 1)
        return self._asked

    def tell(self, losses: Sequence[float]) -> None:
        cost = np.asarray(losses, np.float64)
        cost = (cost - cost.mean()) / (cost.std() + 1e-12)  # their scale is the task's
        chosen = np.eye(self._logits.shape[1])[self._asked]  # (population, places, words)
        # d log p(word) / d logits = one-hot - p; Diao et al. 2022, eq. 6: the mean of what is over the mean.
        slope = (cost[:, None, None] * (chosen - self.probabilities)).sum(0) / (len(cost) - 1)
        self._logits -= self._rate * slope

    @property
    def favourite(self) -> Array:
        """The likeliest word of every place."""
        return np.asarray(self._logits.argmax(1))
