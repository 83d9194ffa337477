"""A trained picture model, opened from its run directory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.machine import pick_device
from maquette.corpus.pictures.caption_tokenizer import load_caption_tokenizer
from maquette.corpus.pictures.store import PictureCorpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import PictureModel
from maquette.training.datasets.encoder import caption_length_of, caption_tokens, cut_notes
from maquette.training.datasets.picture_config import PictureRecipe, picture_recipe
from maquette.training.decide import load_decisions
from maquette.training.probe import DTYPE
from maquette.training.run import DECISIONS, RunDirectory
from maquette.training.run_corpus import kept_corpus, pictures_of
from maquette.training.trained_model import open_model
from maquette.worlds.registry import World, world_from


class LoadedPictures:
    """A run's picture model with its captions' tokenizer.

    model: in evaluation mode, in the precision and memory layout that the run was trained in.
    """

    def __init__(self, path: Path, model: PictureModel, tokenizer: Tokenizer) -> None:
        self.path, self.model, self.tokenizer = path, model, tokenizer

    @property
    def recipe(self) -> PictureRecipe:
        """The run's recipe; its encoder is looked for beside the run where both were moved."""
        recipe = picture_recipe(RunDirectory(self.path).recipe())
        encoder = Path(recipe.data.encoder)
        beside = self.path.resolve().parent / encoder.name
        if recipe.data.encoder and not encoder.exists() and beside.exists():
            return replace(recipe, data=replace(recipe.data, encoder=str(beside)))
        return recipe

    @property
    def corpus(self) -> PictureCorpus:
        """The run's corpus of pictures."""
        return pictures_of(RunDirectory(self.path))

    @property
    def table(self) -> dict[str, Any]:
        """The manifest of the run's corpus, as the run keeps it."""
        table: dict[str, Any] = kept_corpus(RunDirectory(self.path)).get("table", {})
        return table

    @property
    def world(self) -> World | None:
        """The world that drew the run's pictures; None: they were stored."""
        table = self.table
        return world_from(table["world"]) if table.get("kind") == "world" else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of all steps."""
        return RunDirectory(self.path).records()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def captions(self, texts: list[str]) -> Tensor:
        """Token ids (n, caption_length) int64 of captions; longer captions are cut."""
        return caption_tokens(self.tokenizer, texts, caption_length_of(self.path)).to(self.device)

    def cut_notes(self, texts: Sequence[str]) -> list[str]:
        """A note for each text that `captions` cuts."""
        return cut_notes(self.tokenizer, texts, caption_length_of(self.path))


def load_pictures(path: str | Path, base: str | Path | None = None) -> LoadedPictures:
    """Open a picture run: its final weights, or those of its newest whole checkpoint.

    base: where the base of an adapted run is now. Raises UserError when there is no model, when it is
    damaged, or one of text.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    model = open_model(folder, None if base is None else Path(base).expanduser())
    if not isinstance(model, PictureModel):
        raise UserError(f"{folder} is a run of text: name a run of pictures")
    model = model.to(pick_device()).requires_grad_(False)
    if (folder / DECISIONS).exists():
        decisions = load_decisions(folder / DECISIONS)
        model.compute = DTYPE[decisions.precision]
        if decisions.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedPictures(folder, model, load_caption_tokenizer(folder))
