"""The batches of any recipe, training and held out."""

from typing import Any, Protocol

from maquette.corpus.pictures import PictureCorpus
from maquette.corpus.store import Corpus
from maquette.training.data import Batches, heldout_batches
from maquette.training.picture_data import PictureBatches, heldout_pictures
from maquette.training.picture_recipe import PictureRecipe
from maquette.training.recipe import BaseRecipe, Recipe

AnyCorpus = Corpus | PictureCorpus


class Steps(Protocol):
    """A rank's batches by step."""

    def step(self, sample: int) -> list[Any]:
        """The micro-batches of the step that starts at that training sample."""
        ...


def training_batches(recipe: BaseRecipe, corpus: AnyCorpus, rank: int, world: int) -> Steps:
    """The training samples of a recipe, for one of `world` ranks."""
    if isinstance(recipe, PictureRecipe):
        assert isinstance(corpus, PictureCorpus)
        return PictureBatches(recipe, corpus, rank, world)
    assert isinstance(recipe, Recipe) and isinstance(corpus, Corpus)
    return Batches(recipe, corpus, rank, world)


def looked_at(recipe: BaseRecipe, corpus: AnyCorpus) -> list[Any]:
    """The held-out batches of a recipe, the same at every call."""
    if isinstance(recipe, PictureRecipe):
        assert isinstance(corpus, PictureCorpus)
        return heldout_pictures(recipe, corpus)
    assert isinstance(recipe, Recipe) and isinstance(corpus, Corpus)
    return heldout_batches(recipe, corpus)
