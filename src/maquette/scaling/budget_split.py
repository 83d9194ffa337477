"""Splitting a budget between parameters and tokens by a law, on a given amount of text.

Text that is too short is read more than once, and repeated tokens count for less (`epochs.py`); where
nearly nothing more is learned from it, the rest of the budget is not worth spending. A model that
will be served is smaller and trained longer.
"""

import math
from dataclasses import dataclass

from maquette.base.errors import WrongUse
from maquette.scaling.epochs import MOST_EPOCHS, Repeats, with_repeats
from maquette.scaling.frontier import surface
from maquette.scaling.laws import Law, ScalingLaw
from maquette.scaling.user_law import LadderLaw

FURTHEST = 2.0  # factor from the best size to a shape beyond which no interval is said
Interval = tuple[float, float]
WORTH = 1e-3  # of the loss: what the rest of a budget must buy to be worth spending


@dataclass(frozen=True)
class Text:
    """The corpus that a plan is for."""

    name: str
    tokens: int
    vocabulary: int
    bytes_per_token: float


@dataclass(frozen=True)
class Split:
    """The split of a budget: parameters, and the operations worth spending on them."""

    flops: float
    parameters: float
    why: str
    sure: float | None = None
    """factor by which the best size may be larger or smaller, at 95 %"""

    def distance(self, size: float) -> float:
        """Factor between the best size and a shape's size."""
        return max(size / self.parameters, self.parameters / size)

    def intervals(self, size: int, tokens: int) -> tuple[Interval, Interval] | None:
        """95 % intervals of the best size and of its tokens at the same budget.

        By the law's own errors, and as far as the shape where no nearer one is made. Both count
        the shape's operations per parameter and token. None where the law has no errors, or shapes do
        not reach the best size.
        """
        off = self.distance(size)
        if self.sure is None or off > FURTHEST:
            return None
        factor = max(self.sure, off)
        low, high = min(self.parameters / factor, size), max(self.parameters * factor, size)
        return (low, high), (tokens * size / high, tokens * size / low)


def is_small(law: ScalingLaw, parameters: float) -> bool:
    """Whether a model is smaller than a published law's; our own small models then give the loss."""
    return parameters < law.smallest and not isinstance(law, LadderLaw)


def loss_surface(law: ScalingLaw, parameters: float) -> ScalingLaw:
    """The surface that gives the loss of a model: the law, or the small models' (bits per byte)."""
    return surface().law if is_small(law, parameters) else law


def repeated(law: ScalingLaw, parameters: float, text: Text | None) -> Repeats | None:
    """The loss surface on a text with repeated tokens; None where the law has none."""
    base = loss_surface(law, parameters)
    return with_repeats(base, text.tokens) if text is not None and isinstance(base, Law) else None


def split(
    law: ScalingLaw, flops: float, text: Text | None, inference_tokens: float | None
) -> Split:
    """The best split of 6 N D = flops."""
    if inference_tokens is not None:
        if not isinstance(law, Law):
            raise WrongUse(f"--inference-tokens needs a surface, {law.name} is none: use besiroglu")
        return for_inference(law, flops, inference_tokens)
    parameters, tokens = law.best(flops)
    repeats = repeated(law, parameters, text)
    if repeats is None or tokens <= repeats.unique:
        sure = law.sure_size(flops) if isinstance(law, Law) else None
        why = f"{law.name} ({law.source}) is least there at 6 N D = {flops:.3g}"
        return Split(flops, parameters, why, None if sure is None else math.exp(1.96 * sure))
    worth = worth_spending(repeats, flops)
    spent = repeats.best(worth)
    return Split(
        worth,
        spent.parameters,
        f"the best of {law.name} would be {parameters:.4g} on {tokens:.3g} tokens; the corpus has "
        f"{repeats.unique:.3g}, and repeated ones count for less (Muennighoff et al. 2023, eq. 5)",
    )


def worth_spending(repeats: Repeats, flops: float) -> float:
    """The smallest budget within 0.1 % of the loss that the whole budget would reach.

    At most the budget of 500 epochs, the most that was ever measured.
    """
    goal = repeats.best(flops).loss * (1 + WORTH)
    low, high = min(flops, 6 * repeats.needed * repeats.unique), flops
    for _ in range(30):
        middle = math.sqrt(low * high)
        spent = repeats.best(middle)
        if spent.loss <= goal or spent.epochs > MOST_EPOCHS:
            high = middle
        else:
            low = middle
    return flops if high > flops / 2 else high


def for_inference(law: Law, flops: float, tokens: float) -> Split:
    """The size for training and serving together, whose training takes the budget.

    `best_for_inference` answers for a loss; here the training budget is given, so the loss is
    searched, by bisection, whose model takes that much to train.
    """
    low, high = flops / 1e6, flops
    for _ in range(60):
        middle = math.sqrt(low * high)
        life = law.best_for_inference(middle, tokens)
        if 6 * life.parameters * life.tokens > flops:
            high = middle
        else:
            low = middle
    life = law.best_for_inference(low, tokens)
    best, _ = law.best(flops)
    return Split(
        flops,
        life.parameters,
        f"smaller than the {best:.4g} that trains best, because {tokens:.3g} tokens are to be served: "
        f"training and serving together take {life.saved:.0%} less than the training optimum of the "
        f"same loss (Sardana and Frankle 2023, eq. 3)",
    )
