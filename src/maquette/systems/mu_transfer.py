"""muTransfer: hyper-parameters tuned on a narrow model hold for a wide one (Yang et al. 2022).

    maquette reproduce mu_transfer        about 8 minutes on 2 cores, 2 seeds

The paper tuned a 40 million parameter proxy of GPT-3 6.7B, 7 % of the cost of the large run, and its
figure 1 shows why that works: under the maximal-update rules the best learning rate of Transformers
of width 128 to 8,192 is one, in the standard parametrisation it falls as they grow. Scaled down:
decoders of width 32 to 256 (figure 1 has two blocks, too), heads of 16, plain bytes of the default
corpus, 120 steps of 576 bytes instead of hundreds of millions of tokens. So short a run tests the
early regime, in which the paper's argument holds; what decides later is another question (Kosson et
al. 2025). Depth, which the paper leaves to experiment, follows Dey et al. 2025 ("CompleteP"): blocks
2 to 16, branches divided by the depth.

The standard parametrisation here is the same model without the rules: fan-in initialisation and one
rate for all tensors (the paper's table 3), so that at the base width both are one model. In the
coordinate check it is GPT-2's, with a standard deviation of 0.02 everywhere. A loss is the mean of
a run's last 20 training losses; a grid of rates in steps of 2 grows until it has two points beyond
the best on each side; a parabola places the optimum between its points.

Expected: flat activations; a best rate that moves by one step at most with the rules and by two
without; 0.04 nats lost at most by transfer; 0.1 nats at most from 2 blocks to 16. Not claimed: that
the rules reach a lower loss than a standard model tuned for itself, which here they do not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.rate_curves import Array, Curve, Setting, loss_of, rate_chart, rate_curves
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import Checkpoints, Guard, LanguageRecipe, Optimiser, Schedule

BASE, DEPTH, HEAD = 32, 2, 16
WIDTHS = (32, 64, 128, 256)
DEPTHS = (2, 4, 8, 16)
STEPS = 120
GRID = (-8, -7, -6, -5, -4)
"""log2 of the rates that are tried first"""
MUP, STANDARD, UNSCALED = "maximal update", "standard", "branches as they are"


@recipe
def mu_transfer_large() -> LanguageRecipe:
    """The widest decoder, with the rules of the narrowest: maquette sweep tunes it at width 32."""
    return setting((MUP, WIDTHS[-1], DEPTH), -6)


def setting(shape: Setting, rate: int, seed: int = 0, quick: bool = False) -> LanguageRecipe:
    """The recipe of one run: rules, width and depth at the rate 2 ** rate."""
    rules, width, depth = shape
    parametrisation = Parametrisation(
        base_width=width if rules == STANDARD else BASE,
        base_depth=depth if rules == UNSCALED else DEPTH,
        base_head_dim=HEAD,
    )
    steps = 12 if quick else STEPS
    return LanguageRecipe(
        name="mu-transfer",
        model=DecoderConfig(
            vocabulary=257,
            context=64,
            width=width,
            depth=depth,
            heads=width // HEAD,
            activation="gelu_tanh",
            parametrisation=parametrisation,
        ),
        data=TextData(corpus="tiny" if quick else "bytes", sequence=48),
        optimiser=Optimiser(learning_rate=2.0**rate, weight_decay=0.0),
        schedule=Schedule(kind="linear", warmup=0.125, floor=0.0),
        batch=12,
        steps=steps,
        seed=seed,
        precision="fp32",
        compile="off",
        checkpoints=Checkpoints(every=steps),
        watch=TextWatch(every=steps, tokens=4800, sample_tokens=0, report=False),
        guard=Guard(spike=0.0, patience=steps + 1),  # what diverges is measured to its end
    )


@claim(
    statement="activations keep their size as the model grows wider",
    source="Yang et al. 2022, appendix D.1 and figure 5",
    metric="slope of log mean |x| over log width beyond [-0.25, 0.15], logits [-0.3, 0.15]",
    at_most=0.0,
    control="the standard parametrisation",
    minutes=0.5,
)
def coordinates(lab: Lab) -> Measurement:
    """The coordinate check over 16x width; the slope that is furthest outside at the sixth pass."""
    from maquette.workshop.coordinates import HIDDEN, LOGITS
    from maquette.workshop.coordinates import coordinates as measured

    widths = WIDTHS[:2] if lab.quick else (*WIDTHS, 2 * WIDTHS[-1])
    result = measured(setting((MUP, BASE, DEPTH), -6), widths, lab.seeds)

    def beyond(kind: str) -> float:
        outside = []
        for name, slopes in result.slopes[kind].items():
            least, most = LOGITS if name == "logits" else HIDDEN
            outside.append(max(least - slopes[-1], slopes[-1] - most))
        return max(outside)

    return Measurement(
        value=beyond("mup"),
        control=beyond("standard"),
        details=result.summary() | {"unit": "powers of the width"},
        chart=result.chart(),
    )


@claim(
    statement="the best learning rate stays what it is over 8x width",
    source="Yang et al. 2022, figure 1",
    metric="grid steps of 2 between the least and the largest best rate of all widths",
    at_most=1.0,
    control="the standard parametrisation",
    minutes=6,
)
def best_rate(lab: Lab) -> Measurement:
    """The range of the best rates over widths, from parabolas."""
    curves = over_widths(lab)
    return Measurement(
        value=_range(curves, MUP),
        control=_range(curves, STANDARD),
        interval=_seeds(lab, lambda seed: _range(curves, MUP, seed)),
        details=_details(curves),
        chart=rate_chart(curves, "width"),
    )


@claim(
    statement="without the rules the best learning rate moves by at least two steps over 8x width",
    source="Yang et al. 2022, figure 1",
    metric="grid steps of 2 between the least and the largest best rate of all widths",
    at_least=2.0,
    control="the maximal-update rules",
    minutes=6,
)
def standard_moves(lab: Lab) -> Measurement:
    """The same range in the standard parametrisation."""
    curves = over_widths(lab)
    return Measurement(
        value=_range(curves, STANDARD),
        control=_range(curves, MUP),
        interval=_seeds(lab, lambda seed: _range(curves, STANDARD, seed)),
        details=_details(curves),
        chart=rate_chart(curves, "width"),
    )


@claim(
    statement="the narrow model's best rate costs the wide one next to nothing",
    source="Yang et al. 2022, section 7",
    metric="loss of the widest at the narrowest's best rate, over its least (nats)",
    at_most=0.04,
    control="the standard parametrisation",
    minutes=6,
)
def regret(lab: Lab) -> Measurement:
    """The loss given up by not tuning the widest model."""
    curves = over_widths(lab)
    widths = _widths(lab)

    def lost(rules: str) -> Array:
        rate = curves[rules, widths[0], DEPTH].grid_best
        wide = curves[rules, widths[-1], DEPTH]
        return wide.at(rate) - wide.losses[:, wide.losses.mean(0).argmin()]

    ours, theirs = lost(MUP), lost(STANDARD)
    ratio = float(ours.mean() / theirs.mean()) if theirs.mean() else math.inf
    return Measurement(
        value=float(ours.mean()),
        control=float(theirs.mean()),
        interval=(float(ours.min()), float(ours.max())),
        details=_details(curves) | {"share_of_the_control": ratio},
        chart=rate_chart(curves, "width"),
    )


@claim(
    statement="the transferred setting beats the standard parametrisation with the same one",
    source="Yang et al. 2022, section 7",
    metric="loss of the standard widest model over that of ours, at the narrowest's best rate",
    at_least=0.02,
    control="the same at the narrowest, where both are one model",
    minutes=6,
)
def transferred(lab: Lab) -> Measurement:
    """Both wide models at the rate that is best for the narrow one (which is the same model)."""
    curves = over_widths(lab)
    widths = _widths(lab)
    rate = curves[MUP, widths[0], DEPTH].grid_best
    gains = [
        curves[STANDARD, width, DEPTH].at(rate) - curves[MUP, width, DEPTH].at(rate)
        for width in (widths[-1], widths[0])
    ]
    return Measurement(
        value=float(gains[0].mean()),
        control=float(gains[1].mean()),
        interval=(float(gains[0].min()), float(gains[0].max())),
        details=_details(curves),
        chart=rate_chart(curves, "width"),
    )


@claim(
    statement="at one learning rate, a wider model is better at every stage of training",
    source="Yang et al. 2022, section 8 and figure 7",
    metric="largest rise of the loss from a width to the next, half-way and at the end (nats)",
    at_most=0.0,
    control="the standard parametrisation",
    minutes=6,
)
def wider_is_better(lab: Lab) -> Measurement:
    """Losses over the width at the narrowest's best rate; at half of the steps and at the end."""
    widths = _widths(lab)
    curves = over_widths(lab)
    rate = curves[MUP, widths[0], DEPTH].grid_best

    def rise(rules: str) -> tuple[float, list[Any]]:
        recipes = [
            setting((rules, width, DEPTH), rate, seed, lab.quick)
            for width in widths
            for seed in range(lab.seeds)
        ]
        stages = [[loss_of(path, part) for path in lab.train_all(recipes)] for part in (0.5, 1.0)]
        losses = np.array(stages).reshape(2, len(widths), lab.seeds).mean(-1)
        return float(np.diff(losses, axis=1).max()), losses.tolist()

    ours, losses = rise(MUP)
    theirs, others = rise(STANDARD)
    return Measurement(
        value=ours,
        control=theirs,
        details={"widths": list(widths), "rate": 2.0**rate, MUP: losses, STANDARD: others},
        chart=rate_chart(curves, "width"),
    )


@claim(
    statement="a rate tuned at two blocks serves sixteen, and the deeper model is not worse",
    source="Dey et al. 2025, section 4",
    metric="loss of the deepest at the shallowest's best rate, over the shallowest's (nats)",
    at_most=0.10,
    control="branches that are not divided by the depth",
    minutes=4,
)
def depth(lab: Lab) -> Measurement:
    """Depth by itself, at the base width; the branches of the control are added as they are."""
    depths = DEPTHS[:2] if lab.quick else DEPTHS
    ends = (depths[0], depths[-1])
    curves = curves_of(lab, [(rules, BASE, n) for rules in (MUP, UNSCALED) for n in ends])
    shallow = curves[MUP, BASE, depths[0]]
    rate = shallow.grid_best

    def worse(rules: str) -> Array:
        return curves[rules, BASE, depths[-1]].at(rate) - shallow.at(rate)

    between = [(rules, BASE, n) for rules in (MUP, UNSCALED) for n in depths]
    at_rate = curves_of(lab, between, (rate,))
    ours, theirs = worse(MUP), worse(UNSCALED)
    shift = {
        rules: curves[rules, BASE, depths[-1]].best() - shallow.best() for rules in (MUP, UNSCALED)
    }
    by_depth = {
        rules: [float(at_rate[rules, BASE, n].losses.mean()) for n in depths]
        for rules in (MUP, UNSCALED)
    }
    return Measurement(
        value=float(ours.mean()),
        control=float(theirs.mean()),
        interval=(float(ours.min()), float(ours.max())),
        details=_details(curves)
        | {"depths": list(depths), "losses_at_one_rate": by_depth, "best_rate_moves": shift},
        chart=rate_chart(curves, "depth"),
    )


def over_widths(lab: Lab) -> dict[Setting, Curve]:
    """The grids of all widths, with the rules and without."""
    wanted = [(rules, width, DEPTH) for rules in (MUP, STANDARD) for width in _widths(lab)]
    return curves_of(lab, wanted)


def curves_of(
    lab: Lab, wanted: Sequence[Setting], rates: Sequence[int] = ()
) -> dict[Setting, Curve]:
    """The grids of these settings; rates: exactly these, and none more."""

    def make(shape: Setting, rate: int, seed: int) -> LanguageRecipe:
        return setting(shape, rate, seed, lab.quick)

    first = rates or (GRID[1:4] if lab.quick else GRID)
    return rate_curves(lab, make, wanted, first, grow=not rates and not lab.quick)


def _widths(lab: Lab) -> tuple[int, ...]:
    return WIDTHS[:2] if lab.quick else WIDTHS


def _range(curves: dict[Setting, Curve], rules: str, seed: int | None = None) -> float:
    best = [curve.best(seed) for shape, curve in curves.items() if shape[0] == rules]
    return max(best) - min(best)


def _seeds(lab: Lab, function: Callable[[int], float]) -> tuple[float, float]:
    each = [function(seed) for seed in range(lab.seeds)]
    return min(each), max(each)


def _details(curves: dict[Setting, Curve]) -> dict[str, Any]:
    return {
        "curves": [
            {
                "rules": rules,
                "width": width,
                "depth": depth,
                "log2_rates": list(curve.rates),
                "losses": curve.losses.tolist(),
                "log2_best": curve.best(),
            }
            for (rules, width, depth), curve in curves.items()
        ]
    }
