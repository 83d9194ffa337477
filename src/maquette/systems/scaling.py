"""Scaling laws: loss falls as a power of the number of parameters (Kaplan et al. 2020).

    maquette reproduce scaling            about 13 minutes on 2 cores, 2 seeds

The paper trained models of 768 to 1.5 billion non-embedding parameters on WebText2 and found
L(N) = (N_c / N)^alpha with alpha = 0.076 over six orders of magnitude (figure 1, equation 1.1).
Scaled down: five decoders of 13,000 to 310,000 non-embedding parameters, plain bytes of the default
corpus instead of 50,257 symbols, 3 million tokens each instead of convergence; so the exponent is
another one. What is claimed again is the straight line, and that it predicts: the largest model's
loss from the four others'.

Expected: R^2 above 0.98, the largest model's loss predicted within 3 %. Measured, the second fails
(3.9 %): from size to size the slope falls from 0.12 to 0.07. That 3 million tokens are too few for
the largest is the first thing to look at. The first holds for the mean over two seeds; by itself one
of them reaches 0.965.
"""

from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation, Role
from maquette.systems.catalogue import recipe
from maquette.systems.claims import Lab, Measurement, claim
from maquette.training.recipe import Data, Optimiser, Recipe, Schedule, Watch
from maquette.training.run import RunDirectory
from maquette.workshop import charts

WIDTHS = (16, 24, 32, 48, 80)
TOKENS = 3_000_000
Array = npt.NDArray[np.float64]


@recipe
def scaling_rung() -> Recipe:
    """One decoder of the ladder, of width 48."""
    return rung(48, seed=0, quick=False)


def rung(width: int, seed: int, quick: bool) -> Recipe:
    """A decoder of that width on bytes; at toy size the tiny corpus and few steps."""
    base = Recipe(
        name="scaling-rung",
        model=DecoderConfig(
            vocabulary=257,
            context=128,
            width=width,
            depth=4,
            heads=width // 8 if width < 48 else width // 16,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=48, base_depth=4, base_head_dim=16,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=Data(corpus="bytes", sequence=128),
        optimiser=Optimiser(learning_rate=0.01, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=16,
        steps=TOKENS // (16 * 128),
        seed=seed,
        precision="fp32",
        compile="off",
        watch=Watch(every=10_000, tokens=262_144, sample_tokens=0, report=False),
    )  # fmt: skip
    if quick:
        tiny = replace(base.data, corpus="tiny")
        return replace(base, data=tiny, steps=30, watch=replace(base.watch, tokens=8192))
    return base


@claim(
    statement="loss is a power of the number of parameters: a straight line on logarithmic axes",
    source="Kaplan et al. 2020, figure 1 and equation 1.1",
    metric="R^2 of log loss against log non-embedding parameters",
    at_least=0.98,
    control="the same losses against the sizes in another order",
    minutes=13,
)
def power_law(lab: Lab) -> Measurement:
    """Fit a line through all sizes; the control takes the sizes rotated by two places."""
    sizes, losses = ladder(lab)
    mean = losses.mean(0)
    slope, constant, straightness = line(sizes, mean)
    each = [line(sizes, row)[2] for row in losses]
    return Measurement(
        value=straightness,
        control=line(np.roll(sizes, 2), mean)[2],
        interval=(min(each), max(each)),
        details=_details(sizes, losses) | {"exponent": -slope},
        chart=chart(sizes, losses, slope, constant, "the line through all sizes"),
    )


@claim(
    statement="the loss of the largest model is predicted from the smaller ones",
    source="Kaplan et al. 2020, section 3.2",
    metric="relative error of the largest model's predicted loss",
    at_most=0.03,
    control="prediction that a larger model is as good as the largest of the smaller ones",
    minutes=13,
)
def prediction(lab: Lab) -> Measurement:
    """Fit a line through all sizes but the largest, and extend it."""
    sizes, losses = ladder(lab)
    errors = []
    for row in [losses.mean(0), *losses]:
        slope, constant, _ = line(sizes[:-1], row[:-1])
        errors.append(abs(float(np.exp(constant) * sizes[-1] ** slope) / row[-1] - 1))
    mean = losses.mean(0)
    slope, constant, _ = line(sizes[:-1], mean[:-1])
    return Measurement(
        value=errors[0],
        control=abs(float(mean[-2] / mean[-1]) - 1),
        interval=(min(errors[1:]), max(errors[1:])),
        details=_details(sizes, losses) | {"exponent": -slope},
        chart=chart(sizes, losses, slope, constant, "the line through all but the largest"),
    )


def ladder(lab: Lab) -> tuple[Array, Array]:
    """Train every size with every seed. Sizes (widths,) and held-out losses (seeds, widths)."""
    widths = WIDTHS[:3] if lab.quick else WIDTHS
    recipes = [rung(width, seed, lab.quick) for seed in range(lab.seeds) for width in widths]
    losses = [RunDirectory(path).records()[-1]["heldout_loss"] for path in lab.train_all(recipes)]
    sizes = [_hidden_parameters(rung(width, 0, lab.quick)) for width in widths]
    return np.array(sizes, float), np.array(losses).reshape(lab.seeds, len(widths))


def line(sizes: Array, losses: Array) -> tuple[float, float, float]:
    """Slope, constant and R^2 of log loss over log size."""
    x, y = np.log(sizes), np.log(losses)
    slope, constant = np.polyfit(x, y, 1)
    residual = y - (slope * x + constant)
    return float(slope), float(constant), float(1 - residual.var() / y.var())


def chart(sizes: Array, losses: Array, slope: float, constant: float, label: str) -> Any:
    """Every run as a point, and the power law."""
    points = [
        {"parameters": float(n), "loss": float(loss), "what": f"seed {seed}"}
        for seed, row in enumerate(losses)
        for n, loss in zip(sizes, row, strict=True)
    ]
    ends = np.array([sizes[0] * 0.8, sizes[-1] * 1.25])
    law = [
        {"parameters": float(n), "loss": float(np.exp(constant) * n**slope), "what": label}
        for n in ends
    ]
    shown = [float(losses.min() * 0.93), float(losses.max() * 1.05)]
    x = alt.X("parameters:Q", title="non-embedding parameters", axis=alt.Axis(format="~s"),
              scale=alt.Scale(type="log", domain=ends.tolist()))  # fmt: skip
    y = alt.Y("loss:Q", title="held-out loss (nats a byte)",
              scale=alt.Scale(type="log", domain=shown))  # fmt: skip
    color = alt.Color("what:N", title=None)
    return alt.layer(
        alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=70).encode(x, y, color),
        alt.Chart(alt.Data(values=law)).mark_line(strokeDash=[6, 4]).encode(x, y, color),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title=f"Loss falls as N^{slope:.3f}: {label}"
    )


def _hidden_parameters(one: Recipe) -> int:
    return one.model.parameters_by_role()[Role.HIDDEN]


def _details(sizes: Array, losses: Array) -> dict[str, Any]:
    return {"parameters": sizes.tolist(), "losses": losses.tolist(), "unit": "nats a byte"}
