"""Direct preference optimisation (DPO): learn from pairs of answers, without a reward model.

    margin = beta ((log p(chosen) - log ref(chosen)) - (log p(rejected) - log ref(rejected)))
    loss   = -log sigmoid(margin)

Rafailov et al. 2023, equation 7: log p is the sum over the tokens of an answer and its end, ref the model
that the run starts with. beta times an answer's log-ratio is its implicit reward (their equation 5). With
label smoothing e the loss is (1 - e) of this and e of that of the pair the other way round (Mitchell 2023,
"A note on DPO with noisy preferences", equation 3). The reference's part comes with the batch, computed once
(`training/datasets/preferences.py`), so that a step holds one model. Left out: IPO, a reference that moves.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.models.base import LanguageModel, Loss
from maquette.models.batches import PreferenceBatch
from maquette.training.datasets.preferences import answer_log_likelihoods
from maquette.training.datasets.preferences_config import PreferencesData
from maquette.training.decide import Decisions
from maquette.training.learner import Losses
from maquette.training.recipe import Recipe
from maquette.training.single import Single


def dpo_loss(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each pair, of any shape, by the difference of its answers' implicit rewards."""
    right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def preference_loss(model: LanguageModel, batch: PreferenceBatch, data: PreferencesData) -> Loss:
    """Sums over the pairs of a batch, with what is recorded of them.

    Recorded are the rewards of both answers, their margin, whether it is above 0 (half where it is 0), and
    the log-probabilities of both answers in nats.
    """
    policy = answer_log_likelihoods(model, batch)  # (batch, 2, pairs)
    rewards = data.beta * (policy - batch.reference)
    margin = rewards[:, 0] - rewards[:, 1]  # (batch, pairs)
    each = torch.where(batch.counted, dpo_loss(margin, data.label_smoothing), 0.0)
    total = each.sum()
    recorded = {
        "reward_margin": margin,
        "reward_accuracy": (margin.sign() + 1) / 2,
        "chosen_reward": rewards[:, 0],
        "rejected_reward": rewards[:, 1],
        "chosen_log_probability": policy[:, 0],
        "rejected_log_probability": policy[:, 1],
    }
    count = batch.counted.sum()
    sums = {
        name: (torch.where(batch.counted, value.detach(), 0.0).sum(), count)
        for name, value in recorded.items()
    }
    return Loss(total, total.detach(), count, sums)


class DPO(Single):
    """The learner of `preferences`; see `learner.Learner` for the methods."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        super().__init__(recipe, decisions, device, fresh)
        assert isinstance(recipe.data, PreferencesData)
        self._data = recipe.data

    def loss(self, batch: PreferenceBatch) -> Loss:
        assert isinstance(self.model, LanguageModel)
        return preference_loss(self.model, batch, self._data)

    def score(self, batch: PreferenceBatch) -> Losses:
        model, losses = self.kept(), Losses()
        assert isinstance(model, LanguageModel)
        part = preference_loss(model, batch, self._data)
        losses.add(part.count, loss=part.value)
        return losses
