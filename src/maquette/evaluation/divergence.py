"""Kullback-Leibler divergence between what two models say next: how far one has moved from the other."""

from collections.abc import Iterable

import torch

from maquette.base.statistics import Mean, weighted_mean
from maquette.models.base import LanguageModel, TokenBatch

POSITIONS = 1024  # whose distributions are held at a time


@torch.no_grad()
def kl_divergence(
    model: LanguageModel, reference: LanguageModel, batches: Iterable[TokenBatch]
) -> Mean:
    """KL(model || reference) in nats per token, over the places of the counted targets, exactly.

    Its standard error is over sequences, each weighted by its number of targets.
    """
    device = model.device
    sums: list[float] = []
    counts: list[int] = []
    for batch in batches:
        for row in range(len(batch)):
            one = batch.rows(row, row + 1).to(device)
            counted = one.targets >= 0
            hidden = [
                m.hidden(one.tokens, positions=one.positions, document_ids=one.document_ids)[
                    counted
                ]
                for m in (model, reference)
            ]
            parts = zip(*(h.split(POSITIONS) for h in hidden), strict=True)
            total = 0.0
            for ours, theirs in parts:
                p = model.logits(ours).log_softmax(-1)
                q = reference.logits(theirs).log_softmax(-1)
                total += float((p.exp() * (p - q)).sum())
            sums.append(total)
            counts.append(int(counted.sum()))
    kept = [i for i, count in enumerate(counts) if count]
    return weighted_mean([sums[i] / counts[i] for i in kept], [counts[i] for i in kept])
