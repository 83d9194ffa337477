"""Pattern-exploiting training: classify with few labels, as a cloze (Schick and Schütze 2021a, 2021b).

    s(l | x) = mean over the words of l of log p(word | P(x))         P(x): the text in a pattern
    q(l | x) = softmax over the labels alone of s(l | x)
    loss     = (1 - alpha) CE(q) + alpha LM(unlabelled P(x))

One model a pattern is trained on the labelled texts; together, weighted by what each pattern got right before
training, they label the unlabelled ones, and a last model learns these soft labels at temperature 2. iPET
trains generations: each model learns what a random quarter of the others was confident of, and the labelled
set grows fivefold a generation. The words of labels may be found by a likelihood ratio (Schick et al. 2020,
"Automatically identifying words that can serve as labels for few-shot text classification"). Here the word
follows the text, for models are decoders; a word of several tokens has the product of their probabilities.
Left out: a new classification head for the last model, which answers the first pattern instead; auxiliary
loss by masking; iPET without any label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.models.base import LanguageModel, Loss, TokenBatch
from maquette.training.datasets.cloze import ClozeBatch
from maquette.training.datasets.cloze_config import ClozeData
from maquette.training.decide import Decisions
from maquette.training.learner import Losses
from maquette.training.recipe import Recipe
from maquette.training.single import Single

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
QUARTER = 0.25  # of the other models, that label for one (2021a, section 3.4)
GROWTH = 5  # of the labelled set in a generation (2021a, section 4)
CANDIDATES = 1000  # words that are looked at for a label


def label_scores(model: LanguageModel, batch: ClozeBatch) -> Tensor:
    """s(l | x) of a batch, (batch, labels) in nats, with gradient."""
    texts = len(batch.tokens)
    hidden = model.hidden(batch.tokens.flatten(0, 1))  # (batch rows, time, width)
    hidden = hidden.reshape(texts, -1, hidden.shape[-1])
    text = torch.arange(texts, device=hidden.device)
    foretold = model.logits(hidden[text[:, None], batch.places]).log_softmax(-1)
    there = batch.targets >= 0  # (batch, labels, words, length)
    each = foretold[text[:, None, None, None], batch.which, batch.targets.clamp(min=0)]
    words = torch.where(there, each, 0.0).sum(-1)  # (batch, labels, words)
    return words.sum(-1) / there.any(-1).sum(-1)


def cloze_loss(model: LanguageModel, batch: ClozeBatch, data: ClozeData) -> Loss:
    """Sums over the texts of a batch. Gradients of soft labels are scaled by the squared temperature.

    Hinton et al. 2015, section 2: so that they do not depend on the temperature. The language-model loss
    is the mean over all unlabelled tokens of a step, however it is cut into batches.
    """
    scores = label_scores(model, batch) / data.temperature
    value = -(batch.probabilities * scores.log_softmax(-1)).sum()
    total = (1 - data.alpha) * data.temperature**2 * value
    if data.alpha and model.training:
        text = model.loss(TokenBatch(batch.unlabelled, batch.unlabelled_targets))
        total = total + data.alpha * text.total / batch.tokens_per_text
    return Loss(total, value.detach(), len(batch))


class Cloze(Single):
    """The learner of `cloze`; see `learner.Learner` for the methods."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        super().__init__(recipe, decisions, device, fresh)
        assert isinstance(recipe.data, ClozeData)
        self._data = recipe.data

    def loss(self, batch: ClozeBatch) -> Loss:
        assert isinstance(self.model, LanguageModel)
        return cloze_loss(self.model, batch, self._data)

    def score(self, batch: ClozeBatch) -> Losses:
        model, losses = self.kept(), Losses()
        assert isinstance(model, LanguageModel)
        part = cloze_loss(model, batch, self._data)
        losses.add(part.count, loss=part.value)
        return losses


def softmax(scores: Array, temperature: float = 1.0) -> Array:
    """Probabilities over the last dimension."""
    x = scores / temperature
    x = np.exp(x - x.max(-1, keepdims=True))
    probabilities: Array = x / x.sum(-1, keepdims=True)
    return probabilities


def ensemble(scores: Array, weights: Array) -> Array:
    """The weighted mean of the scores of models (models, texts, labels): (texts, labels).

    weights: (models,), what each got right before training (2021a, section 3.3); where that is nothing, all
    count alike.
    """
    if not weights.sum():
        weights = np.ones_like(weights)
    normed = np.log(softmax(scores) + 1e-30)  # a constant for all labels changes nothing
    return np.average(normed, axis=0, weights=weights)


@dataclass(frozen=True)
class Labelled:
    """Unlabelled texts, by number, with the labels that models gave them."""

    texts: Numbers
    labels: Numbers


def next_generation(
    scores: Array, weights: Array, counts: Sequence[int], generation: int, seed: int
) -> list[Labelled]:
    """What each model of a generation (from 1) learns besides the labelled texts (2021a, section 3.4).

    scores: (models, texts, labels) of the generation before. counts: number of labelled texts of each label.
    For a label the set grows to 5^generation times its count, drawn from the texts that a random quarter of
    the other models gives that label, in proportion to its probability.
    """
    found = []
    for model in range(len(scores)):
        draw = np.random.default_rng([seed, generation, model])
        others = [n for n in range(len(scores)) if n != model] or [model]
        size = max(1, round(QUARTER * len(others)))
        chosen = np.sort(draw.choice(others, size, replace=False))
        probabilities = softmax(ensemble(scores[chosen], weights[chosen]))  # (texts, labels)
        given = probabilities.argmax(-1)
        parts = []
        for label, count in enumerate(counts):
            own = np.flatnonzero(given == label)
            wanted = min(len(own), (GROWTH**generation - 1) * max(1, count))
            if wanted:
                p = probabilities[own, label]
                parts.append(np.sort(draw.choice(own, wanted, replace=False, p=p / p.sum())))
        texts = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        found.append(Labelled(texts, given[texts]))
    return found


def find_words(
    log_probabilities: Array, labels: Numbers, count: int, candidates: Numbers
) -> list[list[int]]:
    """The tokens that tell each label from the others, best first: `count` for each, none for two labels.

    log_probabilities: (texts, vocabulary) of the token that follows each labelled text. labels: (texts,).
    candidates: tokens that are words. Schick et al. 2020, equation 6: the log-likelihood ratio of "label or
    not" under a word's probabilities, texts of the label weighing as much as the others in all. Each word's
    probability stands against that of its absence, so that frequent words do not win by being frequent.
    """
    log_p = log_probabilities[:, candidates]
    log_not = np.log1p(-np.exp(np.minimum(log_p, -1e-9)))
    scores = []
    for label in range(int(labels.max()) + 1):
        own = labels == label
        balance = (~own).sum() / max(1, own.sum())
        ratio = balance * (log_p - log_not)[own].sum(0) + (log_not - log_p)[~own].sum(0)
        likely = np.argsort(-log_p[own].sum(0), kind="stable")[:CANDIDATES]
        kept = np.full(len(candidates), -np.inf)
        kept[likely] = ratio[likely]
        scores.append(kept)
    table = np.stack(scores)  # (labels, candidates)
    best = table.argmax(0)
    words = []
    for label in range(len(table)):
        order = np.argsort(-np.where(best == label, table[label], -np.inf), kind="stable")[:count]
        words.append(
            [int(candidates[n]) for n in order if best[n] == label and np.isfinite(table[label, n])]
        )
    return words
