"""Accuracy of a classifier on held-out pictures, for each label factor and for all at once.

Every share comes with its 95 % interval (Wilson 1927). "All right" is the exact match of every factor
that the model reads: with five factors of the world, chance is 1 in 1,152.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maquette.base.errors import UserError
from maquette.base.statistics import Share
from maquette.corpus.pictures.store import PictureSplit
from maquette.models.classifier import Classifier


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a classifier."""

    all: Share
    """fraction of pictures with every factor right"""
    factors: dict[str, Share]
    """fraction of pictures with the factor right, for each factor that the model reads"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the share of all, its interval, and every factor's."""
        each = {name: share.to_dict() for name, share in self.factors.items()}
        return self.all.to_dict() | {"factors": each}


@torch.no_grad()
def accuracy(
    model: Classifier,
    split: PictureSplit,
    *,
    names: Sequence[str] = (),
    pictures: int = 2000,
    first: int = 0,
    batch: int = 250,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracy:
    """Score `pictures` of a split from number `first` on; the model is left in its own mode.

    names: names of the data's label factors, in order; none: their numbers. Raises UserError where there are
    no pictures, no labels, or others than the model's.
    """
    total = min(pictures, len(split) - first)
    if total < 1:
        raise UserError("there are no held-out pictures to score: build the corpus with some")
    c, device = model.config, next(model.parameters()).device
    right = np.zeros(len(c.read), np.int64)
    exact = 0
    training = model.training
    model.eval()
    for done in range(0, total, batch):
        indices = np.arange(done, min(done + batch, total), dtype=np.int64) + first
        labels = split.labels(indices)
        wanted = model.wanted(None if labels is None else torch.from_numpy(labels))
        x = torch.from_numpy(split.pictures(indices)).to(device).permute(0, 3, 1, 2)
        logits = model(x.float().div(127.5).sub(1.0))
        guesses = torch.stack([factor.argmax(1) for factor in logits], dim=1).cpu()  # (n, factors)
        hits = ((guesses == wanted) | (wanted < 0)).numpy()
        right += hits.sum(0)
        exact += int(hits.all(1).sum())
        progress(done + len(indices), total)
    model.train(training)
    known = list(names) or [str(i) for i in range(len(c.classes))]
    shares = (Share(int(count), total) for count in right)
    return Accuracy(Share(exact, total), dict(zip((known[i] for i in c.read), shares, strict=True)))
