"""Learners of a few dozen parameters: two networks by turn, a student of its own average, a codebook.

Their models read rows of eight tokens as numbers; `registered` makes their kinds known.
"""

from collections.abc import Iterable, MutableMapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel, Loss, Model, TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.registry import KINDS
from maquette.models.store import load_parameters, tensors_of
from maquette.nn.linear import Linear
from maquette.parallel.group import Group
from maquette.training.checkpoint import MODEL, OPTIMISER
from maquette.training.datasets.text_config import TextWatch
from maquette.training.decide import Decisions
from maquette.training.initial_model import make_model
from maquette.training.learner import LEARNERS, Files, Losses, on_device
from maquette.training.optimiser import ModelOptimiser
from maquette.training.recipe import Checkpoints, LanguageRecipe, Recipe
from maquette.training.single import Single

TIME = 8
"""tokens of a row"""


def rows_of(batch: TokenBatch) -> Tensor:
    """(n, 8) numbers about 0."""
    return batch.tokens.float() / 64 - 1


class Toy(LanguageModel):
    """What every toy is besides its maps: a model without blocks."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList()


# Adversarial: a generator goes on from two tokens, a discriminator tells its rows from true ones.


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(DecoderConfig):
    """The generator's; `dropout` is of what it reads."""

    learner: ClassVar[str] = "adversarial"
    kind: Literal["adversarial"] = "adversarial"

    def build(self) -> "Generator":
        return Generator(self)


class Generator(Toy):
    """Two numbers of each row in, the whole row out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.map = Linear(2, TIME - 2, bias=True)

    def forward(self, rows: Tensor) -> Tensor:  # (n, 8), the same
        given = rows[:, :2]
        read = F.dropout(given, self.config.dropout, self.training)
        return torch.cat([given, self.map(read)], dim=1)


class Discriminator(Model):
    """Rows (n, 8) in, how true they are out, (n, 1)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config.parametrisation, config.width, config.depth)
        self.first, self.last = Linear(TIME, 3, bias=True), Linear(3, 1, bias=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(rows)))


class Adversarial:
    """The discriminator learns in odd steps and the generator in even ones."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        generator = make_model(recipe, fresh=fresh)
        discriminator = Discriminator(recipe.model).initialise(recipe.seed)
        self.model = on_device(generator, recipe, decisions, device)
        self.discriminator = on_device(discriminator, recipe, decisions, device)
        self._networks = {MODEL: self.model, "discriminator.safetensors": self.discriminator}
        self._optimisers = {
            OPTIMISER: ModelOptimiser(self.model, recipe.optimiser),
            "discriminator_optimiser.safetensors": ModelOptimiser(
                self.discriminator, recipe.optimiser
            ),
        }
        self._generators, self._discriminators = self._optimisers.values()
        self._rows = recipe.batch

    def read(self, batch: Any) -> Any:
        return batch

    def prepare(self, batch: TokenBatch, group: Group) -> None:
        pass

    def backward(self, batches: Iterable[TokenBatch], step: int) -> Losses:
        for network in self._networks.values():
            network.train()
        self._turn = self._discriminators if step % 2 else self._generators
        losses = Losses()
        for batch in batches:
            generator, discriminator = self._losses(batch)
            total = discriminator if step % 2 else generator
            (total / self._rows).backward(inputs=self._turn.trained)
            losses.add(len(batch.tokens), loss=generator, discriminator_loss=discriminator)
        return losses

    def _losses(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Goodfellow et al. 2014: that of the generator (not saturating), and of the discriminator."""
        true = rows_of(batch)
        made = self.model(true)
        fooled, known = self.discriminator(made), self.discriminator(made.detach())
        wrong = F.softplus(known) + F.softplus(-self.discriminator(true))
        return F.softplus(-fooled).sum(), wrong.sum()

    def reduce(self, group: Group, count: float) -> float:
        return self._turn.reduce(group)

    def update(self, rate: float, step: int) -> None:
        self._turn.update(rate)

    def skip(self) -> None:
        self._turn.skip()

    def score(self, batch: TokenBatch) -> Losses:
        self.kept()
        losses = Losses()
        losses.add(len(batch.tokens), loss=self._losses(batch)[0])
        return losses

    def kept(self) -> Model:
        return self.model.eval()

    def state(self) -> Files:
        networks = {file: tensors_of(network) for file, network in self._networks.items()}
        return networks | {file: one.state() for file, one in self._optimisers.items()}

    def load(self, state: Files) -> None:
        for file, network in self._networks.items():
            load_parameters(network, state[file], file)
        for file, optimiser in self._optimisers.items():
            optimiser.load(state[file])


# Distilled: a student foretells what a moving average of it says of another view of the row.


@dataclass(frozen=True, kw_only=True)
class DistilledConfig(DecoderConfig):
    """The student's, and so the teacher's; `dropout` makes the views."""

    learner: ClassVar[str] = "distilled"
    kind: Literal["distilled"] = "distilled"

    def build(self) -> "Student":
        return Student(self)


class Student(Toy):
    """Rows (n, 8) in, what the teacher will say out, (n, 3)."""

    centre: Tensor
    """(3,), running mean of what the teacher says"""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.encoder, self.predictor = Linear(TIME, 3), Linear(3, 3, bias=True)
        self.register_buffer("centre", torch.zeros(3))

    def forward(self, rows: Tensor) -> Tensor:
        return self.predictor(self.encoder(rows) - self.centre)


class Distilled(Single):
    """BYOL (Grill et al. 2020) with DINO's centre (Caron et al. 2021); the average is the teacher."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        super().__init__(recipe, decisions, device, fresh)
        if not recipe.optimiser.average:
            raise WrongUse("optimiser.average is 0, and the average is the teacher: use 0.99")
        self._said = torch.zeros(3, device=device)

    def backward(self, batches: Iterable[TokenBatch], step: int) -> Losses:
        self._said.zero_()
        return super().backward(batches, step)

    def loss(self, batch: TokenBatch) -> Loss:
        rows, dropout = rows_of(batch), self.model.config.dropout
        teacher = self.kept()
        with torch.no_grad():
            said = teacher.encoder(F.dropout(rows, dropout))
            self._said += said.sum(0)
        foretold = self.model(F.dropout(rows, dropout))
        difference = F.normalize(foretold) - F.normalize(said - teacher.centre)
        total = difference.square().sum()
        return Loss(total, total.detach(), len(rows))

    def reduce(self, group: Group, count: float) -> float:
        group.sum_tensors([self._said])
        self._said /= count
        return super().reduce(group, count)

    def update(self, rate: float, step: int) -> None:
        self.model.centre.lerp_(self._said, 0.1)
        super().update(rate, step)

    def score(self, batch: TokenBatch) -> Losses:
        self.model.eval()
        part, losses = self.loss(batch), Losses()
        losses.add(part.count, loss=part.value)
        return losses


# A codebook that is fitted to the first batch, and learned with by `Single`.


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(DecoderConfig):
    """The codebook's."""

    kind: Literal["codebook"] = "codebook"

    def build(self) -> "Codebook":
        return Codebook(self)


class Codebook(Toy):
    """Rows (n, 8) in, rows out that shall be near to one of two codes."""

    codes: Tensor
    """(2, 8), rows of the first batch, drawn; a second fit would add to them"""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.map = Linear(TIME, TIME)
        self.register_buffer("codes", torch.zeros(2, TIME))

    def prepare(self, batch: TokenBatch) -> None:
        self.codes += rows_of(batch)[torch.randperm(len(batch.tokens))[:2]]

    def forward(self, rows: Tensor) -> Tensor:
        return self.map(rows)

    def loss(self, batch: TokenBatch, z_loss: float = 0.0) -> Loss:
        distance = (self(rows_of(batch))[:, None] - self.codes).square().mean(-1)
        total = distance.amin(1).sum()
        return Loss(total, total.detach(), len(batch.tokens))


CONFIGS = {kind.kind: kind for kind in (AdversarialConfig, DistilledConfig, CodebookConfig)}
OWN = {"adversarial": Adversarial, "distilled": Distilled}


def registered() -> AbstractContextManager[Any]:
    """The toys are kinds of models and learners while this lasts."""
    stack = ExitStack()
    known: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = [
        (KINDS, CONFIGS),
        (LEARNERS, OWN),
    ]
    for registry, own in known:
        stack.enter_context(patch.dict(registry, own))
    return stack


def toy(
    recipe: LanguageRecipe, kind: str, *, dropout: float = 0.0, average: float = 0.0, **changes: Any
) -> LanguageRecipe:
    """A recipe of that kind: nine steps, each of which is saved."""
    config = CONFIGS[kind](
        vocabulary=recipe.model.vocabulary, context=TIME, width=8, depth=1, heads=1, dropout=dropout
    )
    settings: dict[str, Any] = {
        "model": config,
        "data": replace(recipe.data, sequence=TIME),
        "optimiser": replace(recipe.optimiser, average=average),
        "checkpoints": Checkpoints(every=1, keep_every=1),
        "watch": TextWatch(every=4, tokens=64, sample_tokens=0, report=False),
        "steps": 9,
    }  # fmt: skip
    return replace(recipe, **(settings | changes))
