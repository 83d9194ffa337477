"""The learner of one model: one loss, AdamW, clipping, and a moving average where the recipe asks for it.

A learner with another loss of one model overrides `loss`; its teacher may be the average.
"""

from collections.abc import Iterable
from typing import Any

import torch

from maquette.adaptation.adapters.adapter import adapters_of, saved_tensors
from maquette.adaptation.adapters.store import load_kept
from maquette.models.base import Loss, Model
from maquette.parallel.group import Group
from maquette.training.average import Average
from maquette.training.checkpoint import AVERAGE, MODEL, OPTIMISER
from maquette.training.decide import Decisions
from maquette.training.initial_model import make_model
from maquette.training.learner import Files, Losses, on_device, score
from maquette.training.optimiser import ModelOptimiser
from maquette.training.recipe import Recipe


class Single:
    """See the file's docstring, and `learner.Learner` for the methods."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        self.model: Model = on_device(make_model(recipe, fresh=fresh), recipe, decisions, device)
        self.average = Average(self.model, recipe.optimiser.average)
        if decisions.compile:
            self.model.compile_blocks()
        self.optimiser = ModelOptimiser(self.model, recipe.optimiser)
        self._z_loss, self._units = recipe.optimiser.z_loss, recipe.units_per_step
        self._encoder = recipe.data.frozen_encoder(device)

    def read(self, batch: Any) -> Any:
        return batch if self._encoder is None else self._encoder(batch)

    def prepare(self, batch: Any, group: Group) -> None:
        if not adapters_of(self.model):  # what a base was fitted to stays
            self.model.prepare(batch)
        group.copy_from_first(self.model.buffers())
        self.average.begin()

    def loss(self, batch: Any) -> Loss:
        """Sums over a training micro-batch, to be differentiated."""
        return self.model.loss(batch, self._z_loss)

    def backward(self, batches: Iterable[Any], step: int) -> Losses:
        """The mean over the counted targets of the whole batch, if all of them count; see `reduce`."""
        self.model.train()
        self.optimiser.begin(step)
        losses = Losses()
        for batch in batches:
            part = self.loss(batch)
            (part.total / self._units).backward()
            losses.add(part.count, loss=part.value)
            losses.record(**part.recorded)
        return losses

    def reduce(self, group: Group, count: float) -> float:
        """How many targets count is known after the last micro-batch; most models count all."""
        return self.optimiser.reduce(group, self._units / count)

    def update(self, rate: float, step: int) -> None:
        self.optimiser.update(rate)
        self.average.update(step)

    def skip(self) -> None:
        self.optimiser.skip()

    def score(self, batch: Any) -> Losses:
        return score(self.kept(), batch)

    def kept(self) -> Model:
        return self.average.model.eval()

    def state(self) -> Files:
        files = {MODEL: saved_tensors(self.model), OPTIMISER: self.optimiser.state()}
        if self.average.model is not self.model:
            files[AVERAGE] = saved_tensors(self.average.model)
        return files

    def load(self, state: Files) -> None:
        load_kept(self.model, state[MODEL], MODEL)
        self.optimiser.load(state[OPTIMISER])
        if AVERAGE in state:
            load_kept(self.average.model, state[AVERAGE], AVERAGE)
