"""A learner stands between the loop and the models: how a batch changes what is trained.

    loop       data position, schedule, the guard's verdict, evaluations, records, checkpoints
    learner    models, optimisers, teachers, averages, buffers

One step of the loop is `backward`, `reduce`, then `update` or `skip`. A learner of one model and one
optimiser is `single.Single`; an architecture that learns otherwise (two networks by turn, a student of its
own average) names its own: `learner` of its config is a key of `LEARNERS`. So does a kind of data from which
every architecture learns otherwise (preferences, questions, cloze texts).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from maquette.base.named import named
from maquette.models.base import Model
from maquette.parallel.group import Group
from maquette.training.decide import Decisions
from maquette.training.recipe import Recipe

N = TypeVar("N", bound=Model)
Files = dict[str, dict[str, Tensor]]
"""tensors by name, for each file of a checkpoint"""


@dataclass
class Losses:
    """The losses of a step on one rank: sums over its targets, left on the device.

    sums: by name, each () in fp64. "loss" is what the guard judges and every run records; others are recorded
    beside it. count: how many targets the sums are over. counts: of sums over something else, by name, how
    much.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: Tensor | float = 0.0
    counts: dict[str, Tensor | float] = field(default_factory=dict)

    def add(self, count: Tensor | float, **sums: Tensor) -> None:
        """Add the sums over `count` more targets."""
        self.count = self.count + count
        for name, value in sums.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def record(self, **recorded: tuple[Tensor, Tensor | float]) -> None:
        """Add sums that have counts of their own."""
        for name, (value, count) in recorded.items():
            self.add(0, **{name: value})
            self.counts[name] = self.counts.get(name, 0.0) + count

    def totals(self) -> list[Tensor | float]:
        """The sums, and then the counts of their own, to be summed over the ranks."""
        return [*self.sums.values(), *self.counts.values()]

    def means(self, count: float, totals: Sequence[float]) -> dict[str, float]:
        """The means by name, of `count` targets and `totals` over all ranks."""
        counts = dict(zip(self.counts, totals[len(self.sums) :], strict=True))
        sums = zip(self.sums, totals, strict=False)
        return {name: value / counts.get(name, count) for name, value in sums}


def score(model: Model, batch: Any) -> Losses:
    """The plain loss of a model in evaluation mode on a batch."""
    part, losses = model.loss(batch), Losses()
    losses.add(part.count, loss=part.value)
    return losses


class Learner(Protocol):
    """A way to train, as the loop calls it; torch's generators are seeded by the loop."""

    model: Model
    """the model to train; its `uncounted` says why no target of a step may count"""

    def read(self, batch: Any) -> Any:
        """Add the outputs of frozen models to a batch; held-out batches are read once."""
        ...

    def prepare(self, batch: Any, group: Group) -> None:
        """Fit buffers to the first micro-batch of a run: components, a codebook.

        Called before step 1 alone, again where a run has gone back to its start. Each rank has a batch of
        its own, and all leave with the same tensors.
        """
        ...

    def backward(self, batches: Iterable[Any], step: int) -> Losses:
        """Gradients of this rank's micro-batches of step `step` (from 1); its losses.

        Buffers that move with the data are summed over the ranks as gradients are (`Group.sum_tensors`).
        """
        ...

    def reduce(self, group: Group, count: float) -> float:
        """Sum the gradients over the ranks, of `count` targets in all, and clip; returns the norm before."""
        ...

    def update(self, rate: float, step: int) -> None:
        """Take step `step` (from 1) at the schedule's rate: optimisers, then teachers and averages."""
        ...

    def skip(self) -> None:
        """Discard the gradients of a skipped batch."""
        ...

    def score(self, batch: Any) -> Losses:
        """The losses of `kept` on a held-out batch."""
        ...

    def kept(self) -> Model:
        """The model that is scored, sampled from and kept, in evaluation mode: the averaged one, if any."""
        ...

    def state(self) -> Files:
        """The tensors that a resumed run needs, parameters and buffers, not copied.

        checkpoint.MODEL holds `model`, and checkpoint.AVERAGE holds `kept` where that is another.
        """
        ...

    def load(self, state: Files) -> None:
        """Restore a state of `state`, of a learner of the same recipe."""
        ...


def on_device(model: N, recipe: Recipe, decisions: Decisions, device: torch.device) -> N:
    """Move a model to the device, in the run's precision and memory layout; returns the model."""
    model = model.to(device)
    model.compute, model.recompute = decisions.dtype, recipe.recompute
    if decisions.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


MakeLearner = Callable[[Recipe, Decisions, torch.device, bool], Learner]
"""(recipe, decisions, device, fresh); fresh: False where a checkpoint is loaded over the first parameters"""

LEARNERS: dict[str, str | MakeLearner] = {
    "single": "maquette.training.single.Single",
    "dpo": "maquette.adaptation.dpo.DPO",
    "grpo": "maquette.adaptation.grpo.GRPO",
    "cloze": "maquette.adaptation.pet.Cloze",
}
"""class of a learner, or its path, by the name in the `learner` of a model's config or of a kind of data"""


def make_learner(
    recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
) -> Learner:
    """The learner of the recipe's data, else of its model, before its first step; see `MakeLearner`."""
    name = recipe.data.learner or recipe.model.learner
    learner: Learner = named(LEARNERS[name])(recipe, decisions, device, fresh)
    return learner
