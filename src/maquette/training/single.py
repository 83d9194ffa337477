"""The learner of one model: one loss, AdamW, clipping, and a moving average where the recipe asks for it."""

from collections.abc import Iterable
from typing import Any

import torch

from maquette.models.base import Network
from maquette.models.store import load_parameters, tensors_of
from maquette.parallel.group import Group
from maquette.training.average import Average
from maquette.training.checkpoint import AVERAGE, MODEL, OPTIMISER
from maquette.training.decide import Decisions
from maquette.training.initial_model import make_model
from maquette.training.learner import Files, Losses, score
from maquette.training.optimiser import (
    clip_gradients,
    load_optimiser,
    make_optimiser,
    optimiser_tensors,
    set_learning_rate,
)
from maquette.training.recipe import BaseRecipe


class Single:
    """See the file's docstring, and `learner.Learner` for the methods."""

    def __init__(
        self, recipe: BaseRecipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        model = make_model(recipe, fresh=fresh).to(device)
        model.compute, model.recompute = decisions.dtype, recipe.recompute
        if decisions.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Network = model
        self._average = Average(model, recipe.optimiser.average)
        if decisions.compile:
            model.compile_blocks()
        self._settings, self._units = recipe.optimiser, recipe.units_per_step
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._encoder = recipe.data.frozen_encoder(device)
        self._optimiser = make_optimiser(model, model.scaling, recipe.optimiser)

    def read(self, batch: Any) -> Any:
        return batch if self._encoder is None else self._encoder(batch)

    def prepare(self, batch: Any, group: Group) -> None:
        self.model.prepare(batch)
        group.copy_from_first(self.model.buffers())
        self._average.begin()

    def backward(self, batches: Iterable[Any], step: int) -> Losses:
        """The mean over the counted targets of the whole batch, if all of them count; see `reduce`."""
        self.model.train()
        losses = Losses()
        for batch in batches:
            part = self.model.loss(batch, self._settings.z_loss)
            (part.total / self._units).backward()
            losses.add(part.count, loss=part.value)
        return losses

    def reduce(self, group: Group, count: float) -> float:
        """How many targets count is known after the last micro-batch; most models count all."""
        group.sum_gradients(self._trained)
        if count != self._units:
            gradients = [p.grad for p in self._trained if p.grad is not None]
            torch._foreach_mul_(gradients, self._units / count)
        return clip_gradients(self._trained, self._settings.clip)

    def update(self, rate: float, step: int) -> None:
        set_learning_rate(self._optimiser, rate)
        self._optimiser.step()
        self._average.update(step)
        self.skip()

    def skip(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)

    def score(self, batch: Any) -> Losses:
        return score(self.kept(), batch)

    def kept(self) -> Network:
        return self._average.model.eval()

    def state(self) -> Files:
        files = {
            MODEL: tensors_of(self.model),
            OPTIMISER: optimiser_tensors(self.model, self._optimiser),
        }
        if self._average.model is not self.model:
            files[AVERAGE] = tensors_of(self._average.model)
        return files

    def load(self, state: Files) -> None:
        load_parameters(self.model, state[MODEL], MODEL)
        load_optimiser(self.model, self._optimiser, state[OPTIMISER])
        if AVERAGE in state:
            load_parameters(self._average.model, state[AVERAGE], AVERAGE)
