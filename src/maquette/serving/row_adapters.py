"""Adapters of a batch whose rows come and go: each row has its own weights.

What an adapter adds to a module's output takes a weight a row. Keys and values that it puts before a sequence
(prefix tuning, prompts) are laid into the rows' cache once; rows of one batch have the same ones.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.prefix import LanguageAdapter
from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.base import LanguageModel
from maquette.nn.attention import Prefix

Weights = Mapping[str, float]
GroupKey = tuple[tuple[str, float], ...]
"""the weights of the adapters that put keys and values before a row"""


class RowAdapters:
    """The adapters of a model; those that are merged into its weights are left alone."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._device = model.embedding.weight.device
        self._adapters = {
            name: adapter
            for name, adapter in adapters_of(model).items()
            if not adapter.off or isinstance(adapter.weight, Tensor) or adapter.weight == 0
        }

    def weights(self, asked: Weights) -> dict[str, float]:
        """A row's weights by name; those not asked for stay. Raises WrongUse for one that cannot be."""
        weights = {name: adapter.weight for name, adapter in self._adapters.items()}
        for name, weight in asked.items():
            if name not in self._adapters:
                raise WrongUse(
                    f"no adapter is called {name}{did_you_mean(name, self._adapters)}: name one that is "
                    f"attached"
                )
            self._adapters[name].check_weight(weight)
            weights[name] = weight
        return {name: float(weight) for name, weight in weights.items()}

    def group(self, weights: Weights) -> GroupKey:
        """What rows must have in common to be computed together."""
        return tuple(
            (name, weight)
            for name, weight in sorted(weights.items())
            if weight and isinstance(self._adapters[name], LanguageAdapter)
        )

    def length(self, key: GroupKey) -> int:
        """Number of keys before every row of a group."""
        return sum(self._adapters[name].config.length for name, _ in key)  # type: ignore[attr-defined]

    def prefixes(self, weights: Weights) -> list[Prefix]:
        """What stands before a row of these weights, one of each block."""
        cache = self._model.cache(1, 1)
        with self.weighted([weights], prefixes=True):
            self._model.hidden(
                torch.zeros(1, 1, dtype=torch.long, device=self._device), cache=cache
            )
        return [layer.prefix for layer in cache]

    @contextlib.contextmanager
    def weighted(self, rows: Sequence[Weights], prefixes: bool = False) -> Iterator[None]:
        """Within the context, adapters have the weights of these rows.

        prefixes: whether adapters put keys and values before the rows, which their caches have otherwise.
        """
        before = {name: adapter.weight for name, adapter in self._adapters.items()}
        for name, adapter in self._adapters.items():
            off = isinstance(adapter, LanguageAdapter) and not prefixes
            weights = [0.0 if off else row[name] for row in rows]
            alike = all(weight == weights[0] for weight in weights)
            adapter.weight = weights[0] if alike else torch.tensor(weights, device=self._device)
        try:
            yield
        finally:
            for name, weight in before.items():
                self._adapters[name].weight = weight
