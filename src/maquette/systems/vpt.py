"""Visual Prompt Tuning: a few tokens per block adapt a frozen Vision Transformer (Jia et al. 2022).

    maquette adapt vpt-deep RUN shapes --label count --world.objects 4 --world.counts true
    maquette reproduce vpt                about 10 minutes on 2 cores, 2 seeds and the control

The paper adapts ViT-B/16 (ImageNet-21k) to 24 tasks with less than 1 % of the parameters a task; deep
prompts beat full fine-tuning on 20 of them, most clearly on VTAB's structured tasks, and the linear
probe everywhere. Scaled down: a ViT of width 128 and six blocks, trained to name the colour and the shape
of one object; six tasks of 300 labelled pictures in VTAB's three groups: natural (classes never seen),
specialised (another kind of picture), structured (counts, relations, sizes). Prompts are 10 a block.

Learning rates are one a method for all tasks, the best on a task that is none of the six (which of
three textures an object has). The paper sweeps each task, which `adapt --sweep` does. Tried on seed 0
were 0.003, 0.01 and 0.03 for linear, and 0.01, 0.03 and 0.1 for shallow prompts; where the best stood at
an end of what was tried, more on two seeds, with these means of what was right: bias 51.5, 54.0 and 56.1 % at
0.003, 0.01 and 0.03; deep prompts 51.7, 52.9, 54.6 and 54.8 % at 0.001, 0.003, 0.01 and 0.03; full tuning
63.3, 60.3 and 37.3 % at 0.001, 0.003 and 0.01.

Expected: both claims fail. Deep prompts are right on 62.8 % on average of the tasks, linear on 61.7, bias
on 63.5, shallow prompts on 62.7, full tuning on 63.2: the gain over linear (0.06 to 2.2 points) is not
the five claimed, and full tuning loses on two tasks of six. The paper's pattern is there in part: prompts
gain over linear on all three structured tasks and lose where new shapes or blur are to be told; but a
backbone that knows only colours and shapes has little to give to counts, relations and sizes, which deep
prompts learn better in one that was never trained (the control, as `vpt-deep, random` in the details).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt

from maquette.adaptation.methods import METHODS, Method, count
from maquette.adaptation.recipes import AdaptOptions, recipe_of
from maquette.base.statistics import Share, difference, pooled
from maquette.evaluation.classify import accuracy
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.classifier import Classifier
from maquette.models.vit_config import ViTConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule
from maquette.workshop import charts
from maquette.workshop.adapt import columns
from maquette.workshop.load_pictures import load_pictures
from maquette.worlds.shapes import Shapes

Found = dict[str, dict[str, list[Share]]]  # arm, task: a share a seed
EXAMPLES, STEPS, BATCH, PROMPTS = 300, 150, 32, 10
SCORED = 1000  # held-out pictures of each run
MOST = 0.05  # of the backbone's parameters, that deep prompts may have
ARMS: tuple[Method, ...] = ("linear", "bias", "vpt-shallow", "vpt-deep", "full")
RANDOM = "vpt-deep, random"
RATES: dict[str, float] = {
    "linear": 0.01,
    "bias": 0.03,
    "vpt-shallow": 0.03,
    "vpt-deep": 0.03,
    "full": 0.001,
}
LEARNED = Shapes(objects=1, backgrounds="colour")
TASKS: dict[str, tuple[str, str, Shapes]] = {
    "eight shapes": ("natural", "shape", Shapes(objects=1, shapes=8)),
    "eight colours": ("natural", "colour", Shapes(objects=1, colours=8)),
    "noise and blur": (
        "specialised",
        "shape",
        Shapes(objects=1, backgrounds="texture", noise=0.15, blur=1.5),
    ),
    "count": ("structured", "count", Shapes(objects=4, counts=True)),
    "relation": (
        "structured",
        "relation",
        Shapes(relations=("left of", "above", "inside")),
    ),
    "size": ("structured", "size", Shapes(objects=1, sizes=True)),
}
"""name: VTAB's group, the label that is learned, and the world it is of"""
MODEL = ViTConfig(
    patch=8,
    width=128,
    depth=6,
    heads=4,
    classes=(6, 4),
    parametrisation=Parametrisation(base_width=128, base_depth=6, base_head_dim=32),
)


@recipe
def vpt_backbone() -> PictureRecipe:
    """The ViT that is adapted: it names the colour and the shape of one object."""
    return replace(backbone(), name="vpt-backbone", precision="auto", watch=PictureWatch(grid=0))


def backbone(quick: bool = False) -> PictureRecipe:
    """The run that every arm begins with."""
    return PictureRecipe(
        name="vpt-backbone",
        model=small(quick),
        data=PictureData(world=LEARNED),
        optimiser=Optimiser(learning_rate=0.001, beta2=0.99),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=8 if quick else 64,
        steps=3 if quick else 1500,
        precision="fp32",
        compile="off",
        watch=PictureWatch(every=10_000, pictures=16 if quick else 256, grid=0, report=False),
    )


@claim(
    statement="deep prompts adapt a frozen ViT better than new heads alone, with few parameters",
    source="Jia et al. 2022, table 1",
    metric="accuracy of VPT-deep less that of linear, points, mean over six tasks: low end of the 95 % "
    f"interval; minus infinity where prompts have over {100 * MOST:.0f} % of the backbone's parameters",
    at_least=5.0,
    control="VPT-deep on a backbone that was never trained, less linear",
    minutes=9,
)
def deep_beats_linear(lab: Lab) -> Measurement:
    """Every arm on every task with every seed; the control with the first."""
    found = everything(lab)
    middle, low, high = mean_gap(found, "vpt-deep", "linear")
    share = counts()["vpt-deep"]["share"]
    return Measurement(
        value=100 * low if share <= MOST else float("-inf"),
        control=100 * mean_gap(found, RANDOM, "linear")[1],
        interval=(100 * low, 100 * high),
        details={"VPT-deep less linear, points": 100 * middle} | plain(found),
        chart=chart(found),
    )


@claim(
    statement="deep prompts are better than full fine-tuning on most tasks",
    source="Jia et al. 2022, table 1 (20 of 24 tasks)",
    metric="share of the six tasks on which VPT-deep is right more often than full fine-tuning",
    at_least=0.6,  # four of the six: half is not most
    control="VPT-deep on a backbone that was never trained",
    minutes=1,  # after the first claim, whose runs these are
)
def deep_beats_full(lab: Lab) -> Measurement:
    """The same runs as `deep-beats-linear`: they are trained once."""
    found = everything(lab)
    each = [wins(found, "vpt-deep", seed) for seed in range(lab.seeds)]
    return Measurement(
        value=wins(found, "vpt-deep"),
        control=wins(found, RANDOM),
        interval=(min(each), max(each)),
        details=plain(found),
        chart=chart(found),
    )


def everything(lab: Lab) -> Found:
    """Held-out accuracy of every arm on every task, a share a seed."""
    start = lab.train(backbone(lab.quick))
    tasks = list(TASKS)[-1:] if lab.quick else list(TASKS)
    keys = [(arm, task, seed) for seed in range(lab.seeds) for arm in ARMS for task in tasks]
    recipes = [arm_of(arm, task, start, seed, lab.quick) for arm, task, seed in keys]
    for task in tasks:
        recipes.append(replace(arm_of("vpt-deep", task, start, 0, lab.quick), start=""))
    found: Found = {name: {task: [] for task in tasks} for name in (*ARMS, RANDOM)}
    names = [(arm, task) for arm, task, _ in keys] + [(RANDOM, task) for task in tasks]
    for (arm, task), path in zip(names, lab.train_all(recipes), strict=True):
        found[arm][task].append(scored(path, lab.quick))
    return found


def small(quick: bool) -> ViTConfig:
    """The backbone; at toy size narrower and shallower."""
    return replace(MODEL, width=32, depth=2) if quick else MODEL


def arm_of(
    method: Method, task: str, start: Path, seed: int = 0, quick: bool = False
) -> PictureRecipe:
    """The recipe of a method on a task."""
    _, label, world = TASKS[task]
    data = PictureData(world=world, count=EXAMPLES)
    corpus = data.open_corpus()
    options = AdaptOptions(
        method,
        steps=2 if quick else STEPS,
        batch=8 if quick else BATCH,
        learning_rate=RATES[method],
        prompts=PROMPTS,
        seed=seed,
    )
    one = recipe_of(
        options,
        start,
        small(quick),
        data,
        tuple(corpus.label_sizes),
        labels=columns(corpus, (label,)),
        task=task.replace(" ", "-"),
    )
    return replace(
        one, name=f"vpt-{method}", watch=replace(one.watch, pictures=16 if quick else 128)
    )


def scored(path: Path, quick: bool) -> Share:
    """Held-out pictures of which an adapted run's label is right."""
    loaded = load_pictures(path)
    assert isinstance(loaded.model, Classifier)
    split = loaded.corpus.split("heldout", loaded.model.config.image_size)
    return accuracy(loaded.model, split, pictures=64 if quick else SCORED).all


def mean_gap(found: Found, a: str, b: str) -> tuple[float, float, float]:
    """Accuracy of one arm less another's, mean over tasks, with its 95 % interval.

    Tasks are independent: half-widths add as squares.
    """
    each = [difference(pooled(found[a][task]), pooled(found[b][task])) for task in found[a]]
    n = len(each)
    middle = sum(value for value, _, _ in each) / n
    below = sum((value - low) ** 2 for value, low, _ in each) ** 0.5 / n
    above = sum((high - value) ** 2 for value, _, high in each) ** 0.5 / n
    return middle, middle - below, middle + above


def wins(found: Found, arm: str, seed: int | None = None) -> float:
    """The share of the tasks on which an arm is right more often than full fine-tuning."""

    def share(name: str, task: str) -> float:
        shares = found[name][task]
        return pooled(shares).value if seed is None else shares[seed].value

    return sum(share(arm, task) > share("full", task) for task in found[arm]) / len(found[arm])


def counts() -> dict[str, dict[str, float]]:
    """Trained parameters of every method and their share of the backbone's, heads left out of both."""
    plain: dict[str, dict[str, float]] = {}
    for method in METHODS:
        if method in ARMS:
            arm = arm_of(method, "count", Path("runs/backbone"))
            one = count(arm.model, arm.adapter)
            plain[method] = {"parameters": one.trained, "share": one.share}
    return plain


def plain(found: Found) -> dict[str, Any]:
    """The table of the paper: every arm on every task, its mean, and the trained parameters."""
    table = {
        arm: {task: pooled(shares).to_dict() for task, shares in tasks.items()}
        for arm, tasks in found.items()
    }
    mean = {
        arm: sum(pooled(shares).value for shares in tasks.values()) / len(tasks)
        for arm, tasks in found.items()
    }
    groups = {task: TASKS[task][0] for task in found["full"]}
    return {"tasks": table, "mean": mean, "groups": groups, "trained parameters": counts()}


def chart(found: Found) -> Any:
    """Accuracy by task, a point an arm with its interval."""
    rows = []
    for arm, tasks in found.items():
        for task, shares in tasks.items():
            share = pooled(shares)
            low, high = share.interval
            rows.append({"arm": arm, "task": task, "right": share.value, "low": low, "high": high})
    base = alt.Chart(alt.Data(values=rows)).encode(
        alt.Y("arm:N", title=None, sort=list(found)), color=alt.Color("arm:N", legend=None)
    )
    title = "share of held-out pictures right"
    bars = alt.layer(
        base.mark_rule().encode(alt.X("low:Q", title=title), alt.X2("high:Q")),
        base.mark_point(filled=True, size=60).encode(alt.X("right:Q", title=title)),
    ).properties(width=charts.WIDTH // 2, height=90)
    return bars.facet(
        facet=alt.Facet("task:N", title=None, sort=list(found["full"])), columns=2
    ).properties(title=f"Six tasks from {EXAMPLES} pictures each")
