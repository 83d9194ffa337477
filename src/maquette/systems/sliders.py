"""Sliders: adapters of a language model as controls that are moved by degrees, also below nothing.

    maquette generate runs/first "Once" --adapter runs/medieval=0.7 --adapter runs/terse=-0.3
    maquette reproduce sliders            about 40 minutes on one core, 2 seeds

A wish of the time ("more medieval", "more united kingdom", halfway between two articles), answered with
low-rank adapters (Hu et al. 2021) whose change is multiplied by the slider, and with prefixes (Li and Liang
2021). PPLM (Dathathri et al. 2020) and fine-tuning by reward (Ziegler et al. 2019), the other two ways that
were proposed, are not measured here.

Scaled down: a decoder of 0.5 million parameters that writes passages whose age of language, mood and topic
are known word by word (`worlds/styles.py`); a slider is an adapter of rank 4 that was trained for 150 steps
on passages of one pole, all else as it was. It was never shown a degree, nor the other pole. Every position
of a slider writes 96 passages, which the world's oracle reads.

Expected: three of four claims hold: the attribute follows the slider (rank correlation 0.98), another
attribute changes by 6.4 points at most, and two sliders mix (1.0). At the worst position the base needs 1.17
times the bits for what is written, where 1.05 is allowed.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import torch

from maquette.adaptation.methods import Method
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.statistics import mean_interval, spearman
from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.evaluation.bits_per_byte import score_documents
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.experiments.bases.styles import style_corpus, style_decoder
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.serving.sampler import Sampling
from maquette.training.datasets.text_config import TextData
from maquette.training.recipe import LanguageRecipe
from maquette.workshop import charts
from maquette.workshop.load import Loaded, load
from maquette.worlds.styles import TOPICS, Style, passage, read

Level = dict[str, float]
Values = npt.NDArray[np.float64]
RANK, PREFIX, STEPS, BATCH = 4, 8, 150, 16
TRAINED, SAMPLES, TOKENS = 4000, 96, 80
LORA = tuple(float(w) for w in np.linspace(-1, 1, 9))
PREFIXES = tuple(float(w) for w in np.linspace(0, 1, 9))  # attention cannot be less than none
RATES: dict[str, float] = {"lora": 0.01, "prefix": 0.1}
POLES = ("old", "glad", "sea")


@claim(
    statement="what is written follows the slider: more of it, more of the attribute",
    source="the wish of a public conversation on GPT-3; Hu et al. 2021",
    metric="rank correlation of a slider's nine positions and the attribute of what is written there, mean "
    "over three attributes and the seeds: the lower of low-rank adapter (-1 to 1) and prefix (0 to 1)",
    at_least=0.95,
    control="the low-rank adapter with its numbers permuted: a change of the same size in a random direction",
    minutes=8,
)
def monotone(lab: Lab) -> Measurement:
    """Every attribute with both arms and every seed."""
    found = everything(lab)
    means = {arm: _correlations(found, arm) for arm in ("lora", "prefix", "permuted")}
    lowest = min(("lora", "prefix"), key=lambda arm: float(means[arm].mean()))
    middle, low, high = mean_interval(means[lowest])
    return Measurement(
        value=middle,
        control=float(means["permuted"].mean()),
        interval=(low, min(1.0, high)),
        details={f"{arm}, mean": float(values.mean()) for arm, values in means.items()}
        | _plain(found),
        chart=_chart(found),
    )


@claim(
    statement="a slider moves its own attribute and leaves the others where they were",
    source="the wish of a public conversation on GPT-3",
    metric="largest change of another attribute's mean degree over the positions of a low-rank slider, "
    "points, mean over three attributes and the seeds",
    at_most=10.0,
    control="a slider trained on passages that are old and glad at once",
    minutes=8,
)
def others(lab: Lab) -> Measurement:
    """The same samples as `monotone`."""
    found = everything(lab)
    moved = np.array([_moved(one) for one in found if one.arm == "lora"])
    middle, low, high = mean_interval(moved)
    both = [_moved(one) for one in found if one.arm == "confounded"]
    return Measurement(middle, float(np.mean(both)), (low, high), _plain(found), _chart(found))


@claim(
    statement="within its range a slider costs no fluency",
    source="the wish of a public conversation on GPT-3",
    metric="bits per byte that the base needs for what is written at the worst position from -1 to 1 of a "
    "low-rank slider, over those for what it writes itself: mean over three attributes and the seeds",
    at_most=1.05,
    control="the low-rank adapter with its numbers permuted",
    minutes=8,
)
def fluency(lab: Lab) -> Measurement:
    """The same samples as `monotone`."""
    found = everything(lab)
    cost = np.array([one.cost for one in found if one.arm == "lora"])
    middle, low, high = mean_interval(cost)
    control = float(np.mean([one.cost for one in found if one.arm == "permuted"]))
    return Measurement(middle, control, (low, high), _plain(found), _chart(found))


@claim(
    statement="between two sliders, what is written goes over from one topic to the other",
    source="the wish of a public conversation on GPT-3: a mixture of two articles",
    metric="rank correlation of the second slider's share of the weight and the second topic's share of the "
    "two, mean over two pairs of topics and the seeds",
    at_least=0.9,
    control="two sliders of moods, and the same topics",
    minutes=3,
)
def mixture(lab: Lab) -> Measurement:
    """Sea to market, kitchen to forest: weights (1 - w, w)."""
    values: list[float] = []
    unrelated: list[float] = []
    rows: list[dict[str, Any]] = []
    for seed in range(lab.seeds):
        base = _base(lab, seed)
        for pair in (("sea", "market"), ("kitchen", "forest")):
            for sliders, found in ((pair, values), (("glad", "grim"), unrelated)):
                points = _goes_over(lab, base, seed, sliders, pair)
                found.append(spearman(*zip(*points, strict=True)))
                name = f"{' to '.join(pair)}, sliders {' and '.join(sliders)}"
                rows += [{"weight": w, "share": share, "arm": name} for w, share in points]
    middle, low, high = mean_interval(np.array(values))
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("weight:Q", title="weight of the second slider"),
            y=alt.Y("mean(share):Q", title="share of the second topic's words"),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=charts.WIDTH, height=charts.HEIGHT)
    )
    return Measurement(middle, float(np.mean(unrelated)), (low, min(1.0, high)), chart=chart)


@dataclass(frozen=True)
class Slid:
    """What one slider writes, position by position. cost: bits per byte at the worst one over the base's."""

    arm: str
    pole: str
    seed: int
    levels: tuple[tuple[float, Level], ...]
    cost: float


def everything(lab: Lab) -> list[Slid]:
    """Every slider with every seed: trained, moved and read."""
    found = []
    for seed in range(lab.seeds):
        base = _base(lab, seed)
        for pole in POLES[:2] if lab.quick else POLES:
            for arm in ("lora", "prefix", "permuted"):
                method: Method = "prefix" if arm == "prefix" else "lora"
                slider = _slider(lab, base, seed, method, (pole,))
                found.append(_slid(lab.quick, base, slider, arm, pole, seed))
        slider = _slider(lab, base, seed, "lora", ("old", "glad"))
        found.append(_slid(lab.quick, base, slider, "confounded", "old", seed))
    return found


def _base(lab: Lab, seed: int) -> Path:
    return lab.train(
        style_decoder(style_corpus(lab.quick), 32 if lab.quick else 96, seed, lab.quick)
    )


def _slider(lab: Lab, base: Path, seed: int, method: Method, poles: Sequence[str]) -> Path:
    """An adapter that is trained on passages of those poles, all else as the base has read it."""
    model = load(base)
    draw = Random(f"{'-'.join(poles)} {seed}")
    texts = [
        passage(draw, _style(draw, poles)) + "\n" for _ in range(200 if lab.quick else TRAINED)
    ]
    documents = [Document(text, "styles", f"{'-'.join(poles)}/{i}") for i, text in enumerate(texts)]
    corpus = kept_corpus(f"slider-{'-'.join(poles)}", documents, BuildOptions(), model.tokenizer)
    options = AdaptOptions(
        method,
        steps=3 if lab.quick else STEPS,
        batch=4 if lab.quick else BATCH,
        learning_rate=RATES[method],
        prompts=PREFIX,
        rank=RANK,
        seed=seed,
    )
    data = TextData(corpus=str(corpus.path), sequence=96)
    recipe: LanguageRecipe = text_recipe(options, base, model.model.config, data)
    return lab.train(recipe)


def _style(draw: Random, poles: Sequence[str]) -> Style:
    glad, old = (draw.choice((0.1, 0.9)) for _ in range(2))
    topic = next((pole for pole in poles if pole in TOPICS), draw.choice(TOPICS))
    if "grim" in poles or "glad" in poles:
        glad = float("glad" in poles)
    strength = 1.0 if topic in poles else 0.7
    return Style.of(topic, glad, 1.0 if "old" in poles else old, strength)


@functools.cache  # three claims ask for all
def _slid(quick: bool, base: Path, slider: Path, arm: str, pole: str, seed: int) -> Slid:
    model = load(base).attach(pole, slider)
    if arm == "permuted":
        _permute(model, pole, seed)
    weights = PREFIXES if arm == "prefix" else LORA
    levels, costs = [], []
    for weight in weights[::4] if quick else weights:
        texts = _written(quick, model, {pole: weight}, seed)
        levels.append((weight, read(" ".join(texts))))
        with model.weighted({pole: 0.0}):
            costs.append(_bits(model, texts))
    own = _bits_of_base(quick, model, pole, seed)
    return Slid(arm, pole, seed, tuple(levels), max(costs) / own)


def _bits_of_base(quick: bool, model: Loaded, pole: str, seed: int) -> float:
    texts = _written(quick, model, {pole: 0.0}, seed)
    with model.weighted({pole: 0.0}):
        return _bits(model, texts)


def _written(quick: bool, model: Loaded, weights: Mapping[str, float], seed: int) -> list[str]:
    count = 4 if quick else SAMPLES
    sampling = Sampling(temperature=1.0, seed=seed)
    texts, _ = model.generate_batch(
        [""] * count, tokens=16 if quick else TOKENS, sampling=sampling, adapters=weights
    )
    return [one.text for one in texts]


def _bits(model: Loaded, texts: Sequence[str]) -> float:
    """Bits per byte of texts."""
    tokens = [np.array(model.tokenizer.encode(text), np.int64) for text in texts if text]
    nats = sum(score_documents(model.model, tokens, model.tokenizer.special.start))
    return float(nats / np.log(2) / max(1, sum(len(text.encode()) for text in texts)))


@torch.no_grad()
def _permute(model: Loaded, name: str, seed: int) -> None:
    """Put the numbers of an adapter's tensors in a random order: the same size, no direction."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.adapters[name].parameters():
        p.copy_(p.flatten()[torch.randperm(p.numel(), generator=generator)].view_as(p))


def _correlations(found: Sequence[Slid], arm: str) -> Values:
    """Rank correlation of position and degree, of every slider of an arm."""
    return np.array([
        spearman(*zip(*((w, level.get(one.pole, 0.0)) for w, level in one.levels), strict=True))
        for one in found
        if one.arm == arm
    ])  # fmt: skip


def _moved(one: Slid) -> float:
    """The largest change of old or glad over the positions of a slider of another pole, points."""
    rest = dict(one.levels)[0.0]
    return max(
        100 * abs(level.get(name, 0.5) - rest.get(name, 0.5))
        for name in ("old", "glad")
        if name != one.pole
        for _, level in one.levels
    )


def _goes_over(
    lab: Lab, base: Path, seed: int, sliders: tuple[str, str], topics: tuple[str, str]
) -> list[tuple[float, float]]:
    """The second slider's weights, each with the second topic's share of the two topics' words."""
    model = load(base)
    for pole in sliders:
        model.attach(pole, _slider(lab, base, seed, "lora", (pole,)))
    points = []
    for w in PREFIXES[::4] if lab.quick else PREFIXES:
        weights = dict(zip(sliders, (1 - w, w), strict=True))
        level = read(" ".join(_written(lab.quick, model, weights, seed)))
        first, second = (level.get(topic, 0.0) for topic in topics)
        points.append((w, second / (first + second) if first + second else 0.5))
    return points


def _plain(found: Sequence[Slid]) -> dict[str, Any]:
    """Degrees at the ends and the middle, mean over the seeds."""
    table: dict[str, Any] = {}
    for one in found:
        for at in (0, len(one.levels) // 2, -1):
            weight, level = one.levels[at]
            name = f"{one.arm}, {one.pole} at {weight:g}"
            table.setdefault(name, []).append(level.get(one.pole, 0.0))
    return {name: float(np.mean(values)) for name, values in table.items()}


def _chart(found: Sequence[Slid]) -> Any:
    """The degree of a slider's attribute by its position, for each attribute."""
    rows = [
        {"position": w, "degree": level.get(one.pole, 0.0), "arm": one.arm, "pole": one.pole}
        for one in found
        if one.arm != "confounded"
        for w, level in one.levels
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("position:Q", title="position of the slider"),
            y=alt.Y("mean(degree):Q", title="share of the attribute's words"),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=charts.WIDTH // 3, height=charts.HEIGHT // 2)
        .facet(column=alt.Column("pole:N", title=None))
    )
