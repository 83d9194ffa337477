"""The frontier of small models on this machine's own text: our ladder, measured, not published.

Published laws were fitted on models of tens of millions of parameters and web text; a laptop's
minutes buy a hundredth of that, where their losses mean nothing. So the ladder of small decoders
was trained on the default corpus (`python benchmarks/ladder.py`, which writes `ladder.json` beside
this file), a surface of the same form is fitted to its bits per byte, and the demo's forecast is
read off it, with twice the fit's error as its interval; outside of the ladder, with what extrapolating
has cost where its largest runs were left out (`extrapolation_error.py`). Other text is easier or
harder: the forecast is multiplied by how many more bits `zstd -19` needs for it than for the ladder's.
"""

import functools
import json
import math
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from maquette.scaling.epochs import with_repeats
from maquette.scaling.extrapolation_error import Cost, cost, distance
from maquette.scaling.fit import MARGIN, Fit, fit_surface
from maquette.scaling.fit_points import Array

RUNGS = (64, 128, 192, 256, 384)
"""widths of the ladder, four blocks each"""
DEPTH = 4
BYTES_PER_TOKEN = 3.44
"""bytes per token of the held-out text of the default corpus in a vocabulary of 4,096 (corpus show)"""


@dataclass(frozen=True)
class Forecast:
    """Bits per byte of held-out text to expect."""

    bits_per_byte: float
    low: float
    high: float
    inside: bool
    """whether the ladder spans the point; outside, it is an extrapolation"""
    factor: float = 1.0
    """factor outside of the ladder in size times tokens; 1 inside"""


@functools.cache
def ladder() -> list[dict[str, float]]:
    """The measured runs: width, parameters, tokens, bits_per_byte, utilisation."""
    text = files("maquette.scaling").joinpath("ladder.json").read_text(encoding="utf-8")
    runs: list[dict[str, float]] = json.loads(text)["runs"]
    return runs


@functools.cache
def ladder_zstd() -> float:
    """Bits per byte of `zstd -19` on the held-out text that the ladder was scored on."""
    text = files("maquette.scaling").joinpath("ladder.json").read_text(encoding="utf-8")
    return float(json.loads(text)["zstd"])


@functools.cache
def surface() -> Fit:
    """The fitted law of the ladder, in bits per byte."""
    source = "benchmarks/ladder.py on the default corpus"
    return fit_surface(*_runs(), source, delta=1.0)  # few points, none an outlier


@functools.cache
def extrapolation() -> Cost:
    """Error of predicting the ladder's largest runs from its smaller runs."""
    return cost(*_runs(), delta=1.0)


def _runs() -> tuple[Array, Array, Array]:
    """Parameters, tokens and bits per byte of the runs, (runs,) each."""
    parameters, tokens, bits = (
        np.array([run[key] for run in ladder()], dtype=float)
        for key in ("parameters", "tokens", "bits_per_byte")
    )
    return parameters, tokens, bits


def forecast(
    parameters: int, tokens: int, hardness: float = 1.0, unique: float = math.inf
) -> Forecast:
    """The ladder's forecast for a model size and a number of tokens.

    unique: tokens of the text; where they repeat they count for less (`epochs.py`), and the interval
    holds the loss without that, as the ladder read none twice. hardness: hardness of the text relative
    to the ladder's: its `zstd -19` bits per byte over `ladder_zstd()`.
    """
    fit = surface()
    fresh = hardness * fit.law.loss(parameters, tokens)
    bits = fresh
    if tokens > unique:
        bits = hardness * with_repeats(fit.law, unique).loss(parameters, tokens)
    away = distance(parameters, tokens, fit.range_parameters, fit.range_tokens)
    outside = extrapolation().at(away) if away else 0.0  # inside, nothing is left out and fitted
    spread = math.hypot(2 * fit.error, outside) * bits + abs(bits - fresh)
    factor = math.exp(away)
    low, high = bits - min(spread, bits), bits + spread
    return Forecast(bits, low, high, factor <= MARGIN, factor)


def utilisation(width: int) -> float:
    """Fraction of the matrix-product peak that the ladder's training reached at that width."""
    runs = ladder()
    near = min(runs, key=lambda r: abs(r["width"] - width))
    return max(r["utilisation"] for r in runs if r["width"] == near["width"])


def best_rung(peak: float, seconds: float, costs: dict[int, tuple[int, float]]) -> int:
    """The width whose forecast is least for that time.

    peak: operations a second. costs: width -> (parameters, operations a token).
    """

    def expected(width: int) -> float:
        parameters, flops = costs[width]
        tokens = int(seconds * peak * utilisation(width) / flops)
        return surface().law.loss(parameters, tokens)

    return min(costs, key=expected)
