"""Speculative decoding: a small model drafts tokens, the large one checks them all in one pass.

    draft      newest -> d1 -> d2 -> ... -> dg                 g + 1 passes of the small model
    model      newest    d1    d2    ...    dg                 one pass of the large one
    accepted             yes   yes   no                        d1, d2, and a token in place of d3

A drafted token is kept with probability min(1, p / q); where it is not, the token is drawn from
max(0, p - q), normalised; where all are kept, one more is drawn from p. Then every token has the
distribution p of the large model alone, whatever the draft is (Leviathan et al. 2022, appendix A.1; Chen et
al. 2023, theorem 1). Left out: trees of drafts, a draft that is a part of the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel
from maquette.serving.engine_cache import Slots
from maquette.serving.sampler import RowSampler, Sampler


def check_draft(model: LanguageModel, draft: LanguageModel) -> None:
    """Raise WrongUse for a draft that does not speak the model's tokens, or is too short."""
    for name in ("vocabulary", "context"):
        ours, its = getattr(model.config, name), getattr(draft.config, name)
        if its != ours if name == "vocabulary" else its < ours:
            raise WrongUse(
                f"the draft has a {name} of {its}, the model of {ours}: name a run of the same tokenizer "
                f"and context"
            )


def propose(slots: Slots, newest: Tensor, sampler: Sampler, count: int) -> tuple[Tensor, Tensor]:
    """Draft `count` tokens of every row after its newest (rows, 1); all of them are run.

    Returns the tokens (rows, count) and the distributions (rows, count, vocabulary) they were drawn from.
    """
    tokens, distributions, x = [], [], newest
    for _ in range(count):
        q = sampler.distribution(slots.model.logits(slots.run(x)[:, -1]))
        x = sampler.draw(q).unsqueeze(1)
        tokens.append(x)
        distributions.append(q)
    slots.run(x)  # so that the draft has seen what the model may keep
    return torch.cat(tokens, 1), torch.stack(distributions, 1)


def acceptance(p: Tensor, q: Tensor, tokens: Tensor) -> Tensor:
    """The probability (rows,) that drafted tokens (rows,) are kept, for distributions (rows, vocabulary)."""
    of_model, of_draft = (t.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) for t in (p, q))
    return (of_model / of_draft).clamp(max=1)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """The distribution (rows, vocabulary) that a token is drawn from in place of one that is not kept."""
    rest = (p - q).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(
        total > 0, rest / total, p
    )  # p = q but for rounding: nothing is refused then


def verify(
    p: Tensor, q: Tensor, tokens: Tensor, rows: Sequence[RowSampler]
) -> tuple[Tensor, list[bool]]:
    """Keep drafted tokens (rows,), or draw others. Returns the tokens and which were kept.

    p, q: distributions (rows, vocabulary) of the model and the draft. Every row uses its own random numbers.
    """
    device = p.device
    drawn = [torch.rand(1, generator=row.generator, device=device) for row in rows]
    kept = (torch.cat(drawn) < acceptance(p, q, tokens)).tolist()
    refused = [number for number, keep in enumerate(kept) if not keep]
    if refused:
        index = torch.tensor(refused, device=device)
        others = Sampler([rows[number] for number in refused], len(refused), device)
        tokens = tokens.index_put((index,), others.draw(residual(p[index], q[index])))
    return tokens, kept


def expected_tokens(rate: float, drafted: int) -> float:
    """Tokens per pass of the model, where tokens are kept at this rate (Leviathan et al. 2022, eq. 1)."""
    return drafted + 1.0 if rate == 1 else (1 - rate ** (drafted + 1)) / (1 - rate)
