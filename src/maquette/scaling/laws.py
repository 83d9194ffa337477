"""Scaling laws as published: the loss to expect of N parameters and D tokens, and the best split.

L(N, D) = E + A / N^alpha + B / D^beta, nats a token (Hoffmann et al. 2022, eq. 2). At C = 6 N D
operations the best N is G (C / 6)^(beta / (alpha + beta)), D the rest (their eq. 4).

Besiroglu et al. 2024 read the points off the paper's figure and fitted them again: the original
optimiser had stopped early, and the printed exponents are rounded. Their constants are the default.
All were measured on models of 44 million parameters and more, on web text of 32,000 symbols: far
below that, the *split* still serves, the loss does not (see `frontier.py`).
"""

from dataclasses import dataclass

from maquette.base.errors import WrongUse, did_you_mean


@dataclass(frozen=True)
class Law:
    """The constants of one fit."""

    name: str
    source: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    smallest: float = 44e6
    """parameters of the smallest model it was fitted on"""

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token."""
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens that make the loss least at 6 N D = flops."""
        a, b = self.alpha, self.beta
        g = (a * self.A / (b * self.B)) ** (1 / (a + b))
        parameters = g * (flops / 6) ** (b / (a + b))
        return parameters, flops / 6 / parameters

    def constants(self) -> dict[str, float]:
        """E, A, B, alpha, beta."""
        return {k: getattr(self, k) for k in ("E", "A", "B", "alpha", "beta")}


LAWS = {
    law.name: law
    for law in (
        Law("besiroglu", "Besiroglu et al. 2024, table 1", 1.8172, 482.01, 2085.43, 0.3478, 0.3658),
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
    )
}


def law(name: str) -> Law:
    """The law of that name."""
    if name not in LAWS:
        raise WrongUse(f"unknown law {name}{did_you_mean(name, LAWS)}")
    return LAWS[name]
