"""Scaling laws as published: the loss to expect of N parameters and D tokens, and the best split.

L(N, D) = E + A / N^alpha + B / D^beta, nats a token (Hoffmann et al. 2022, eq. 2). At C = 6 N D
operations the best N is G (C / 6)^(beta / (alpha + beta)), D the rest (their eq. 4).

Besiroglu et al. 2024 read the points off the paper's figure and fitted them again: the original
optimiser had stopped early, and the printed exponents are rounded. Their constants are the default.
All were measured on models of millions of parameters and more, on web text in vocabularies of
32,000 to 50,000 tokens: far below that, the *split* still serves, the loss does not (see `frontier.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from maquette.base.errors import UserError, WrongUse, did_you_mean

PETAFLOP_DAY = 1e15 * 24 * 3600
MOST_SERVED = 1e20  # tokens
LARGEST_LOG_G = 300.0
"""largest log of G: beyond, its powers leave the range of floats"""
DRIFT, FITTED = 0.0008, 3e20
"""relative drift of the least loss per e-fold of the budget beyond the second number: benchmarks/fit.py"""


@runtime_checkable
class ScalingLaw(Protocol):
    """A scaling law, as a plan uses it."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def source(self) -> str:
        """Paper and equation, or the points that were fitted."""

    @property
    def smallest(self) -> float:
        """Number of parameters of the smallest fitted model."""

    @property
    def formula(self) -> str:
        """The equation with its constants, as a line of text."""

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss in nats per token."""

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens to choose at 6 N D = flops."""

    def constants(self) -> dict[str, float]:
        """Every constant by its name."""


@dataclass(frozen=True)
class Excess:
    """Cost of a model size other than the best at the same budget."""

    loss: float
    """loss of that size in nats per token"""
    lost: float
    """loss above the best size's in nats per token"""
    share: float
    """fraction of the budget that the best size would need for that loss"""


@dataclass(frozen=True)
class Lifetime:
    """A model that is trained once and then used, at one loss."""

    parameters: float
    tokens: float
    """number of training tokens"""
    flops: float
    """operations: 6 N D of training and 2 N D of inference"""
    saved: float
    """fraction of the operations that the training optimum of the same loss would take for both"""


@dataclass(frozen=True)
class Law:
    """The constants of one fit of L = E + A / N^alpha + B / D^beta."""

    name: str
    source: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    smallest: float = 44e6
    errors: Mapping[str, float] = field(default_factory=dict, compare=False)
    """standard errors of the constants, where they were published"""
    scatter: float | None = None
    """root mean square of the fitted runs about the surface, relative"""
    pivot: tuple[float, float] | None = None
    """budget whose best size is surest, and the standard error of log N there"""

    def sure_size(self, flops: float) -> float | None:
        """Standard error of log N*(C): it grows from the pivot with the exponent's own error."""
        if self.pivot is None:
            return None
        budget, least = self.pivot
        return math.hypot(least, self.errors["a"] * math.log(flops / budget))

    def sure_loss(self, flops: float) -> float | None:
        """Relative deviation of a run's loss: the runs' scatter, and DRIFT beyond their budgets."""
        if self.scatter is None:
            return None
        return math.hypot(self.scatter, DRIFT * max(0.0, math.log(flops / FITTED)))

    @property
    def formula(self) -> str:
        """The equation with its constants."""
        numbers = self.constants().values()
        e, a, b, alpha, beta = (f"{value:.6g}" for value in numbers)
        return f"{e} + {a} / N^{alpha} + {b} / D^{beta}"

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss in nats per token."""
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    @property
    def exponent(self) -> float:
        """a of N ~ C^a along the frontier; D ~ C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def _g(self) -> float:
        """G of Hoffmann et al. 2022, eq. 4."""
        return math.exp(self._log_g)

    @property
    def _log_g(self) -> float:
        """Log of G. Raises UserError where no split is best."""
        nothing = [
            name for name, value in (("parameters", self.A), ("tokens", self.B)) if value <= 0
        ]
        if nothing:
            raise UserError(
                f"the loss does not depend on {' or '.join(nothing)} in these points, or rises "
                f"with them ({self.source}): no split is best; add runs that differ more in "
                f"{' and '.join(nothing)}"
            )
        ratio = math.log(self.alpha * self.A) - math.log(self.beta * self.B)
        log_g = ratio / (self.alpha + self.beta)
        if abs(log_g) > LARGEST_LOG_G:
            raise UserError(
                f"{self.source}: the surface's best split is e^{log_g:.0f} parameters at 6 FLOP, which "
                f"is none: add runs that differ more in parameters and in tokens"
            )
        return log_g

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens that make the loss least at 6 N D = flops.

        UserError where A or B is 0, so that no split is best.
        """
        parameters = self._g * (flops / 6) ** self.exponent
        return parameters, flops / 6 / parameters

    def best_for_tokens(self, tokens: float) -> float:
        """The parameters whose training optimum takes that many tokens."""
        return float(self._g * (self._g * tokens) ** (self.exponent / (1 - self.exponent)))

    def flops_for(self, loss: float) -> float:
        """The least budget, 6 N D, that reaches a loss. UserError where none does."""
        if loss <= self.E:
            raise UserError(f"a loss of {loss:.4g} is below what {self.name} can reach: {self.E}")
        n, d = self.best(6.0)  # the reducible loss falls as (C / 6)^(-alpha beta / (alpha + beta))
        reducible = self.loss(n, d) - self.E
        return float(6 * (reducible / (loss - self.E)) ** (1 / self.alpha + 1 / self.beta))

    def excess(self, flops: float, parameters: float) -> Excess:
        """The excess of a model size that takes the whole budget."""
        loss = self.loss(parameters, flops / 6 / parameters)
        least = self.loss(*self.best(flops))
        return Excess(loss, max(0.0, loss - least), min(1.0, self.flops_for(loss) / flops))

    def tokens_for(self, loss: float, parameters: float) -> float:
        """Tokens at which a model of that size reaches a loss; infinite where it never does."""
        left = loss - self.E - self.A / parameters**self.alpha
        return float((self.B / left) ** (1 / self.beta)) if left > 0 else math.inf

    def best_for_inference(self, flops: float, inference_tokens: float) -> Lifetime:
        """The model that is cheapest to train and then to use, at the loss that `flops` can buy.

        Minimises 6 N D + 2 N D_inference over models whose loss is the training optimum's at that
        budget (Sardana and Frankle 2023, eq. 3). The training itself may take more than `flops`.
        """
        if not 0 <= inference_tokens <= MOST_SERVED:
            raise WrongUse(f"inference tokens are {inference_tokens:g}: use 0 to {MOST_SERVED:g}")
        optimum, trained = self.best(flops)
        loss = self.loss(optimum, trained)

        def whole(log_parameters: float) -> float:
            n = math.exp(log_parameters)
            return n * (6 * self.tokens_for(loss, n) + 2 * inference_tokens)

        least = math.log((self.A / (loss - self.E)) ** (1 / self.alpha))  # D is infinite here
        n = math.exp(least_on(whole, least + 1e-9, math.log(optimum) + 1e-9))
        tokens = self.tokens_for(loss, n)
        cost = whole(math.log(n))
        plain = optimum * (6 * trained + 2 * inference_tokens)
        return Lifetime(n, tokens, cost, max(0.0, 1 - cost / plain))

    def constants(self) -> dict[str, float]:
        """E, A, B, alpha, beta."""
        return {k: getattr(self, k) for k in ("E", "A", "B", "alpha", "beta")}


@dataclass(frozen=True)
class Kaplan:
    """Kaplan et al. 2020, where N counts no embeddings and the best split is N ~ C^0.73.

    The loss is their eq. 1.5 with the constants of table 2, at early stopping. The split is not the
    minimum of that surface at 6 N D = C, whose exponent would be 0.58: it is the separate fit of
    appendix A, N = 1.3e9 C^0.73 for C in petaflop-days at a small batch, from the curves over steps.
    """

    name: str = "kaplan"
    source: str = "Kaplan et al. 2020, eq. 1.5, table 2 and appendix A; non-embedding parameters"
    N_c: float = 6.4e13
    D_c: float = 1.8e13
    alpha_N: float = 0.076
    alpha_D: float = 0.103
    N_e: float = 1.3e9
    p_N: float = 0.73
    smallest: float = 768.0  # non-embedding (section 3)

    @property
    def formula(self) -> str:
        """The equation with its constants."""
        power = f"{self.alpha_N:g} / {self.alpha_D:g}"
        return f"(({self.N_c:g} / N)^({power}) + {self.D_c:g} / D)^{self.alpha_D:g}"

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token; parameters without embeddings."""
        size = (self.N_c / parameters) ** (self.alpha_N / self.alpha_D)
        return float((size + self.D_c / tokens) ** self.alpha_D)

    def best(self, flops: float) -> tuple[float, float]:
        """Non-embedding parameters by the paper's frontier, and the tokens that 6 N D leaves."""
        parameters = self.N_e * (flops / PETAFLOP_DAY) ** self.p_N
        return parameters, flops / 6 / parameters

    def constants(self) -> dict[str, float]:
        """N_c, D_c, alpha_N, alpha_D of the loss; N_e, p_N of the split."""
        return {k: getattr(self, k) for k in ("N_c", "D_c", "alpha_N", "alpha_D", "N_e", "p_N")}


def least_on(cost: Callable[[float], float], low: float, high: float) -> float:
    """Minimiser of a function of one number on an interval: a grid, then golden sections.

    The grid of 257 finds the valley, so the function need be unimodal only within two of its cells.
    """
    grid = np.linspace(low, high, 257)
    i = int(np.argmin([cost(float(x)) for x in grid]))
    low, high = float(grid[max(0, i - 1)]), float(grid[min(len(grid) - 1, i + 1)])
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(left) <= cost(right):
            high = right
        else:
            low = left
    return (low + high) / 2


LAWS: dict[str, ScalingLaw] = {
    law.name: law
    for law in (
        Law(
            "besiroglu",
            "Besiroglu et al. 2024, table 1",
            1.8172,
            482.01,
            2085.43,
            0.3478,
            0.3658,
            errors={
                "E": 0.026,
                "A": 124.5,
                "B": 1293.3,
                "alpha": 0.0154,
                "beta": 0.0206,
                "a": 0.02,
            },
            # benchmarks/fit.py --from the points that they read off, --drop 5
            scatter=0.0075,
            pivot=(2e19, 0.026),
        ),
        Law("hoffmann", "Hoffmann et al. 2022, eq. 10", 1.69, 406.4, 410.7, 0.34, 0.28),
        Law(
            "hoffmann-unrounded",
            "Hoffmann et al. 2022, the constants of eq. 10 in the paper's source",
            1.69337,
            406.40,
            410.72,
            0.33917084,
            0.2849083,
        ),
        Law(
            "muennighoff",
            "Muennighoff et al. 2023, appendix: 54 runs on C4, alpha = beta",
            math.exp(0.6254804),
            math.exp(6.255414),
            math.exp(7.3049974),
            0.3526596,
            0.3526596,
            smallest=7e6,
        ),
        Kaplan(),
    )
}


def law(name: str) -> ScalingLaw:
    """The law of that name."""
    if name not in LAWS:
        raise WrongUse(f"unknown law {name}{did_you_mean(name, LAWS)}")
    return LAWS[name]
