"""The samples of a run: a step's batches are a function of the recipe, the corpus and the step's number."""

from typing import Any, Protocol

from maquette.base.named import named
from maquette.training.recipe import Recipe


class Dataset(Protocol):
    """The batches of a recipe on a corpus."""

    corpus: Any

    def check(self) -> list[str]:
        """Notes for the user. Raises WrongUse where the recipe's model does not fit."""
        ...

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[Any]:
        """The micro-batches of one of `world` ranks, of the step that starts at that training sample."""
        ...

    def heldout(self) -> list[Any]:
        """The held-out batches, the same at every call."""
        ...


def fingerprint(dataset: Dataset) -> str:
    """Hash of what samples are read from: the corpus, and a `replayed` one that a dataset has beside it."""
    replayed = getattr(dataset, "replayed", None)
    own = str(dataset.corpus.hash)
    return own if replayed is None else f"{own} {replayed.hash}"


def open_dataset(recipe: Recipe, corpus: Any) -> Dataset:
    """The dataset of the recipe's kind of data."""
    dataset: Dataset = named(recipe.data.dataset)(recipe, corpus)
    return dataset
