"""Sparse all-MLP: mixing matrices and experts instead of attention (Yu et al. 2022).

    maquette train smlp-small --run runs/smlp     about 2 minutes on 2 cores
    maquette reproduce smlp                       about 8 minutes on 2 cores, 2 seeds, both

The paper trained models of up to 9.4 billion parameters and reports a better perplexity than dense
transformers and than transformers with experts at the same FLOPs a token, with up to twice the
training efficiency; and it shows how to choose experts for features without telling a position about
the future. Scaled down: 1.1 million parameters of which 0.6 take part in a token, 257 bytes instead of
a vocabulary, 128 positions, 1.5 million tokens; two dense and two sparse blocks with four matrices and
four feed-forward experts each. The transformer has four blocks of the same width, rotary positions and
GELU; the sMLP's hidden sizes are such that both spend the same operations a token within 0.1 %.

Tried on seed 0 before anything was claimed: learning rates 0.005, 0.007 and 0.01 for both (0.014 too
for the transformer), of which 0.007 was best for each; in runs a third as long, mixing multipliers 8 to
1024, of which 256 and 512 were best, 8 and 16 experts over features, and no dense blocks. The sMLP had
more tries than the transformer.

Expected: no logit changes with the future (`causal`). `equal-flops` does not hold: the sMLP is better
than the transformer by 0.018 nats a byte, but so is, by 0.032, the all-MLP whose experts are one, so
that it is not the sparsity that helps. 1.5 million tokens shared by four experts are few for each.
"""

from dataclasses import replace
from typing import Any

import altair as alt
import torch

from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.config import DecoderConfig
from maquette.models.registry import ModelConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.rules import Parametrisation
from maquette.nn.token_mixing import Routing
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.training.run import RunDirectory
from maquette.workshop import charts
from maquette.workshop.load import load

STEPS, CONTEXT = 750, 128
RATE = 0.007  # the best of the grid for both
RULES = Parametrisation(
    base_width=96, base_depth=4, base_head_dim=16, embedding_std=0.03, input_multiplier=32.0
)
TRANSFORMER = DecoderConfig(
    vocabulary=257,
    context=CONTEXT,
    width=96,
    depth=4,
    heads=6,
    activation="gelu_tanh",
    parametrisation=RULES,
)
SPARSE = SMLPConfig(
    vocabulary=257,
    context=CONTEXT,
    width=96,
    dense=2,
    sparse=2,
    hidden=448,
    expert_hidden=435,
    mixing_multiplier=256.0,
    parametrisation=RULES,
)
ARMS: dict[str, ModelConfig] = {
    "transformer": TRANSFORMER,
    "sMLP": SPARSE,
    "all-MLP, one expert": replace(SPARSE, token_experts=1, feature_experts=1),
}


@recipe
def smlp_small() -> LanguageRecipe:
    """Two dense and two sparse blocks of width 96 on bytes, deterministic routing."""
    base = run_of(SPARSE)
    return replace(base, precision="auto", compile="auto", watch=TextWatch(tokens=32768))


def run_of(model: ModelConfig, seed: int = 0, quick: bool = False) -> LanguageRecipe:
    """That model on 1.5 million bytes; at toy size on the tiny corpus for few steps."""
    base = LanguageRecipe(
        name="smlp",
        model=model,
        data=TextData(corpus="bytes", sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=RATE, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=16,
        steps=STEPS,
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=262_144, sample_tokens=0, report=False),
    )
    if quick:
        tiny = replace(base.data, corpus="tiny")
        watch = replace(base.watch, tokens=8192)
        return replace(base, data=tiny, steps=8, batch=4, watch=watch)
    return base


@claim(
    statement="both routings over features tell no position about the future; a gate over the whole "
    "sequence does",
    source="Yu et al. 2022, section 3",
    metric="logits up to a position that change by over 1e-6 when all later tokens do, in evaluation",
    at_most=0,
    control="naive: the gate sees the whole sequence",
    evidence="exact count",
    minutes=1,
)
def causal(lab: Lab) -> Measurement:
    """Train a little, so that the matrices mix; change the tokens after several positions, and count.

    Computed in fp64: how many tokens an expert gets decides how its product is rounded, and in fp32
    that alone moves logits by more than 1e-6.
    In training the balanced choice of feed-forward experts looks at the whole batch; that count is in
    the details and is no part of the claim.
    """
    routings: tuple[Routing, ...] = ("deterministic", "partial", "naive")
    short = [run_of(replace(SPARSE, routing=routing), quick=True) for routing in routings]
    if not lab.quick:
        short = [replace(r, steps=80, batch=16) for r in short]
    counted: dict[str, int] = {}
    positions = range(3, CONTEXT - 1, 31 if lab.quick else 8)
    compared = in_training = 0
    for routing, path in zip(routings, lab.train_all(short), strict=True):
        loaded = load(path)
        tokens = torch.randint(0, 256, (4, CONTEXT), generator=torch.Generator().manual_seed(0))
        model = loaded.model.cpu().eval()
        model.compute = torch.float64
        counted[routing] = 0
        for at in positions:
            later = tokens.clone()
            later[:, at + 1 :] = (later[:, at + 1 :] + 101) % 256
            counted[routing] += changed_logits(model, tokens, later, at)
            compared += 4 * (at + 1) * 257 if routing == "deterministic" else 0
            if routing == "deterministic":
                in_training += changed_logits(model.train(), tokens, later, at)
                model.eval()
    return Measurement(
        value=counted["deterministic"] + counted["partial"],
        control=counted["naive"],
        details={
            "changed": counted,
            "compared, each": compared,
            "changed by the balanced choice in training": in_training,
        },
        chart=leaks(counted),
        seeds=1,
    )


def leaks(counted: dict[str, int]) -> Any:
    """Changed logits of each routing, nothing for nothing."""
    rows = [{"routing": name, "changed": number} for name, number in counted.items()]
    x = alt.X("changed:Q", title="logits that change with the future", axis=alt.Axis(format="~s"),
              scale=alt.Scale(type="symlog"))  # fmt: skip
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=charts.SECOND)
        .encode(x, alt.Y("routing:N", title=None, sort=list(counted)))
        .properties(width=charts.WIDTH, height=120, title="What each routing tells of the future")
    )


@torch.no_grad()
def changed_logits(model: Any, tokens: torch.Tensor, later: torch.Tensor, at: int) -> int:
    """Number of logits at positions up to `at` that differ between two batches of tokens (batch, time)."""
    a, b = model(tokens), model(later)
    return int(((a - b)[:, : at + 1].abs() > 1e-6).sum())


@claim(
    statement="at equal training FLOPs a sparse all-MLP has a lower loss than a dense transformer",
    source="Yu et al. 2022, abstract and section 4",
    metric="held-out loss of the sMLP minus the transformer's (nats a byte), mean over the seeds",
    at_most=0,
    control="the all-MLP with one expert in the place of each four",
    minutes=7,
)
def equal_flops(lab: Lab) -> Measurement:
    """Train three models at equal FLOPs a token; the control is the sMLP without its sparsity."""
    recipes = [
        run_of(model, seed, lab.quick) for seed in range(lab.seeds) for model in ARMS.values()
    ]
    runs = iter(lab.train_all(recipes))
    losses: dict[str, list[float]] = {name: [] for name in ARMS}
    curves: list[dict[str, Any]] = []
    for seed in range(lab.seeds):
        for name in ARMS:
            records = RunDirectory(next(runs)).records()
            losses[name].append(records[-1]["heldout_loss"])
            curves += smoothed(records, name) if seed == 0 else []
    dense = losses["transformer"]
    differences = [a - b for a, b in zip(losses["sMLP"], dense, strict=True)]
    controls = [a - b for a, b in zip(losses["all-MLP, one expert"], dense, strict=True)]
    return Measurement(
        value=sum(differences) / lab.seeds,
        control=sum(controls) / lab.seeds,
        interval=(min(differences), max(differences)),
        details={
            "losses": losses,
            "unit": "nats a byte",
            "flops a token": {n: m.flops_per_token(CONTEXT) for n, m in ARMS.items()},
            "parameters": {n: m.parameters() for n, m in ARMS.items()},
            "active parameters of the sMLP": SPARSE.active_parameters(),
            "tokens": recipes[0].steps * recipes[0].units_per_step,
        },
        chart=chart(curves),
    )


def smoothed(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The mean training loss over every twentieth of a run, against the tokens read."""
    size = max(1, len(records) // 20)
    parts = [records[i : i + size] for i in range(0, len(records), size)]
    return [
        {"tokens": p[-1]["tokens"], "loss": sum(r["loss"] for r in p) / len(p), "what": name}
        for p in parts
    ]


def chart(curves: list[dict[str, Any]]) -> Any:
    """Training loss of every arm, seed 0."""
    x = alt.X("tokens:Q", title="tokens", axis=alt.Axis(format="~s"))
    y = alt.Y("loss:Q", title="training loss (nats a byte)", scale=alt.Scale(zero=False))
    color = alt.Color("what:N", title=None)
    return (
        alt.Chart(alt.Data(values=curves))
        .mark_line()
        .encode(x, y, color)
        .properties(
            width=charts.WIDTH, height=charts.HEIGHT, title="Three models at equal FLOPs a token"
        )
    )
