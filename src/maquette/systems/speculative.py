"""Speculative decoding: a small model drafts, the large one checks; the same text, sooner.

    maquette reproduce speculative          about 8 minutes on 2 cores, 2 seeds
    maquette generate RUN PROMPT --draft SMALL

Leviathan et al. 2022 and Chen et al. 2023 let a small model draft tokens, which the large one checks in one
pass. Of g drafted tokens, kept at a mean rate a, a pass gives (1 - a^(g+1)) / (1 - a) tokens; what is written
has the large model's distribution; the papers report 2 to 3.4 times the speed at drafts that cost a fiftieth
to a tenth of the model. Scaled down: a LLaMA of 11 million parameters and a draft of 0.2 million, trained for
minutes on bytes of this machine's text, 4 drafted bytes a pass, temperature 1, one answer at a time where
time is measured. Controls: a draft of the same size that has read other text (the same, backwards), and one
that checks nothing.

a is the paper's: the mean of sum min(p, q) over tokens that the large model wrote by itself (definition 3.1,
theorem 3.5, table 3), not the share that was kept in the run that is predicted. The distribution is
enumerated: three tokens of the 8 likeliest each. The bootstrap draws as many answers as were written from the
exact distribution, so that the bar is what a perfect sampler would meet in 39 of 40 measurements.

Expected: tokens of a pass within 5 % of the formula, a distribution that a bootstrap cannot tell from the
model's own, and 1.3 times the speed.
"""

import functools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import altair as alt
import numpy as np
import torch
from torch import Tensor

from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.named import open_corpus
from maquette.corpus.tokenizer import BYTES, byte_tokenizer
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models import families
from maquette.models.base import LanguageModel
from maquette.models.store import load_model
from maquette.nn.rules import Parametrisation
from maquette.serving import engine as engine_file
from maquette.serving.engine import Engine, Request
from maquette.serving.sampler import RowSampler, Sampling
from maquette.serving.speculative import expected_tokens
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.workshop import charts

CONTEXT, PROMPT = 128, 24  # tokens
DRAFTED = 4
OURS, OTHER, UNCHECKED, PLAIN = "draft", "draft of other text", "draft, unchecked", "no draft"
HORIZON, LIKELIEST = 3, 8  # tokens that are enumerated, and how many each may be
TURNS = 15
Prompts = list[tuple[int, ...]]


@dataclass(frozen=True)
class Trained:
    """The models of one seed, and prompts of held-out text."""

    model: LanguageModel
    drafts: dict[str, LanguageModel]
    prompts: Prompts


@claim(
    statement="a pass of the model gives as many tokens as the mean acceptance foretells",
    source="Leviathan et al. 2022, equation 1",
    metric="relative distance of the tokens of a pass from (1 - a^(g+1)) / (1 - a)",
    at_most=0.05,
    control="tokens of a pass with a draft of other text, against the same forecast",
    minutes=7,
)
def tokens_a_pass(lab: Lab) -> Measurement:
    """Measure the acceptance on text that the model wrote alone, then count tokens of passes."""
    rows: list[dict[str, Any]] = []
    for trained in models(lab):
        count, length = (4, 24) if lab.quick else (100, CONTEXT - PROMPT)
        prompts = trained.prompts[:count]
        texts = [
            (*prompt, *answer)
            for prompt, answer in zip(prompts, written(trained.model, prompts, length), strict=True)
        ]
        for name, draft in trained.drafts.items():
            rate = acceptance_rate(trained.model, draft, texts)
            per_pass, kept = counted(trained.model, draft, prompts, length)
            forecast = expected_tokens(rate, DRAFTED)
            rows.append(
                {
                    "draft": name,
                    "rate": rate,
                    "kept": kept,
                    "tokens": per_pass,
                    "forecast": forecast,
                }
            )
    ours, other = ([row for row in rows if row["draft"] == name] for name in (OURS, OTHER))
    distances = [abs(row["tokens"] / row["forecast"] - 1) for row in ours]
    against = [abs(o["tokens"] / row["forecast"] - 1) for o, row in zip(other, ours, strict=True)]
    return Measurement(
        value=float(np.mean(distances)),
        control=float(np.mean(against)),
        interval=(min(distances), max(distances)),
        details={"drafted": DRAFTED, "rows": rows},
        chart=tokens_chart(rows),
    )


@claim(
    statement="what is written with a draft has the distribution of the model alone",
    source="Leviathan et al. 2022, appendix A.1; Chen et al. 2023, theorem 1",
    metric="total variation from the exact distribution, over the bootstrap's 97.5 % for exact draws",
    at_most=1,
    control="a draft whose tokens are all kept",
    minutes=7,
)
def same_distribution(lab: Lab) -> Measurement:
    """Enumerate the answers of three tokens, and write many of them in three ways."""
    answers = 64 if lab.quick else 4000  # to each prompt
    shown = 1 if lab.quick else 2  # prompts of a seed
    distances: dict[str, list[float]] = {PLAIN: [], OURS: [], UNCHECKED: []}
    draws = []  # distances of exact draws, an array for each prompt
    random = np.random.default_rng(0)
    for trained in models(lab):
        for prompt in trained.prompts[:shown]:
            exact = enumerated(trained.model, prompt)
            names, p = list(exact), np.array(list(exact.values()))
            counts = random.multinomial(answers, p / p.sum(), 1000)
            draws.append(np.abs(counts / answers - p).sum(1) / 2)
            prompts, draft = [prompt] * answers, trained.drafts[OURS]
            ways = {
                PLAIN: written(trained.model, prompts, HORIZON, seed=1, top_k=LIKELIEST),
                OURS: written(
                    trained.model, prompts, HORIZON, seed=2, top_k=LIKELIEST, draft=draft
                ),
            }
            with unchecked():
                ways[UNCHECKED] = written(
                    trained.model, prompts, HORIZON, seed=3, top_k=LIKELIEST, draft=draft
                )
            for way, texts in ways.items():
                found = Counter(texts)
                shares = np.array([found[name] / answers for name in names])
                beyond = 1 - shares.sum()  # what the model alone cannot write
                distances[way].append(float(np.abs(shares - p).sum() + beyond) / 2)
    bar = float(np.quantile(np.mean(draws, 0), 0.975))
    ratios = [
        distance / float(np.quantile(d, 0.975))
        for distance, d in zip(distances[OURS], draws, strict=True)
    ]
    return Measurement(
        value=float(np.mean(distances[OURS])) / bar,
        control=float(np.mean(distances[UNCHECKED])) / bar,
        interval=(min(ratios), max(ratios)),
        details={
            "answers": answers,
            "bootstrap": [float(np.quantile(np.mean(draws, 0), q)) for q in (0.025, 0.5, 0.975)],
            "distances": distances,
            "no draft": float(np.mean(distances[PLAIN])) / bar,
        },
        chart=distances_chart(distances, np.mean(draws, 0).tolist()),
    )


@claim(
    statement="with a draft of at most 0.15 of its time, the model writes 1.3 times as fast",
    source="Leviathan et al. 2022, theorem 3.8 and table 2",
    metric="seconds a token without a draft over those with one, medians of turns; 0 for a dearer draft",
    at_least=1.3,
    control="a draft of other text",
    minutes=7,
    evidence="measured time",
)
def faster(lab: Lab) -> Measurement:
    """Let the arms write one answer at a time, in turns."""
    ratios: dict[str, list[float]] = {OURS: [], OTHER: []}
    costs, arms = [], []
    for number, trained in enumerate(models(lab)):
        seconds = timed(trained, 2 if lab.quick else TURNS, 16 if lab.quick else CONTEXT - PROMPT)
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        costs.append(medians["draft alone"] / medians[PLAIN])
        for name, found in ratios.items():
            found.append(medians[PLAIN] / medians[name])
        arms += [
            {"seed": number + 1, "arm": name, "ms": 1e3 * value}
            for name, values in seconds.items()
            for value in values
        ]
    return Measurement(
        value=float(np.mean(ratios[OURS])) if max(costs) <= 0.15 else 0.0,
        control=float(np.mean(ratios[OTHER])),
        interval=(min(ratios[OURS]), max(ratios[OURS])),
        details={"times as fast": ratios, "a draft's token over a token": costs},
        chart=times_chart(arms),
    )


def decoder(seed: int, quick: bool, corpus: str, large: bool) -> LanguageRecipe:
    """A LLaMA on bytes: the model, or a draft."""
    rules = Parametrisation(
        base_width=256, base_depth=2, base_head_dim=64, embedding_std=0.03, input_multiplier=32.0
    )
    if quick:
        sizes = {"width": 64, "depth": 2 if large else 1, "heads": 1}
    else:
        sizes = (
            {"width": 384, "depth": 6, "heads": 6}
            if large
            else {"width": 128, "depth": 1, "heads": 2}
        )
    model = families.llama(
        vocabulary=257, context=CONTEXT, **sizes,
        hidden=3 * sizes["width"], kv_heads=max(1, sizes["heads"] // 2), parametrisation=rules,
    )  # fmt: skip
    return LanguageRecipe(
        name="speculative-model" if large else "speculative-draft",
        model=model,
        data=TextData(corpus=corpus, sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=0.004, beta2=0.98),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=16,
        steps=10 if quick else 120 if large else 250,
        seed=seed,
        precision="fp32" if quick else "auto",
        compile="off",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )


@functools.cache  # all claims ask for them
def models(lab: Lab) -> list[Trained]:
    """Train the model and both drafts of every seed."""
    corpus, seeds = "tiny" if lab.quick else "bytes", range(1, lab.seeds + 1)
    backwards = str(other_text(lab.quick))
    kinds = ((corpus, True), (corpus, False), (backwards, False))
    recipes = [decoder(seed, lab.quick, text, large) for text, large in kinds for seed in seeds]
    loaded = []
    for run in lab.train_all(recipes):
        model = load_model(run)
        assert isinstance(model, LanguageModel)
        loaded.append(model.eval())
    n = lab.seeds
    return [
        Trained(large, {OURS: ours, OTHER: other}, held_out(corpus, seed))
        for large, ours, other, seed in zip(
            loaded[:n], loaded[n : 2 * n], loaded[2 * n :], seeds, strict=True
        )
    ]


def other_text(quick: bool) -> Any:
    """Folder of a corpus of this machine's text, every document backwards."""
    documents = [d for d in Local(1 << 16 if quick else 1 << 20) if isinstance(d, Document)]
    texts = [replace(d, text=d.text[::-1]) for d in documents]
    return kept_corpus("backwards", texts, BuildOptions(), byte_tokenizer()).path


def held_out(name: str, seed: int) -> Prompts:
    """Bytes at random places of text that no training has seen."""
    stream = open_corpus(name).heldout
    places = np.random.default_rng(seed).integers(len(stream) - PROMPT, size=100)
    return [tuple(stream.read(int(place), PROMPT).tolist()) for place in places]


def written(
    model: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    tokens: int,
    *,
    seed: int = 0,
    top_k: int | None = None,
    draft: LanguageModel | None = None,
) -> list[tuple[int, ...]]:
    """Answers of the engine to prompts, each with random numbers of its own."""
    engine = writer(model, draft, len(prompts))
    sampling = Sampling(temperature=1.0, top_k=top_k, seed=seed)
    for number, prompt in enumerate(prompts):
        engine.submit(Request(prompt=prompt, tokens=tokens, sampling=sampling.row(number)))
    answers: list[list[int]] = [[] for _ in prompts]
    while len(engine):
        for step in engine.step():
            answers[step.request].append(step.token)
    return [tuple(answer) for answer in answers]


def writer(model: LanguageModel, draft: LanguageModel | None, requests: int) -> Engine:
    """An engine for so many requests."""
    return Engine(
        model,
        byte_tokenizer(),
        memory=1 << 30,
        rows=256,
        queue=requests,
        draft=draft,
        drafted=DRAFTED,
    )


@torch.inference_mode()
def acceptance_rate(
    model: LanguageModel, draft: LanguageModel, texts: Sequence[tuple[int, ...]]
) -> float:
    """Mean of sum min(p, q) over the tokens of answers (Leviathan et al. 2022, theorem 3.5)."""
    total = count = 0.0
    for text in texts:
        tokens = torch.tensor([text])
        p, q = (of(tokens)[0, PROMPT - 1 : -1].softmax(-1) for of in (model, draft))
        total += float(torch.minimum(p, q).sum())
        count += len(p)
    return total / count


def counted(
    model: LanguageModel, draft: LanguageModel, prompts: Prompts, tokens: int
) -> tuple[float, float]:
    """Tokens of a pass, and the share of the checked tokens that was kept; an answer's last pass is cut."""
    engine = writer(model, draft, len(prompts))
    sampling = Sampling(temperature=1.0, seed=4)
    for number, prompt in enumerate(prompts):
        engine.submit(Request(prompt=prompt, tokens=tokens, sampling=sampling.row(number)))
    sizes: list[int] = []
    begun: set[int] = set()
    while len(engine):
        steps = engine.step()
        new = Counter(step.request for step in steps)
        ended = {step.request for step in steps if step.finish}
        sizes += [size for request, size in new.items() if request in begun - ended]
        begun |= new.keys()  # the first token of an answer is the prompt's
    passes = np.array(sizes)
    checked = np.minimum(passes, DRAFTED)
    return float(passes.mean()), float((passes - 1).sum() / checked.sum())


@torch.inference_mode()
def enumerated(model: LanguageModel, prompt: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The probability of every answer of `HORIZON` tokens, or up to EOS, each of the `LIKELIEST`."""
    ended: dict[tuple[int, ...], float] = {}
    going: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(HORIZON):
        contexts = torch.tensor([[*prompt, *answer] for answer in going])
        values, tokens = model(contexts)[:, -1].double().topk(LIKELIEST)
        longer = {
            (*answer, token): before * share
            for (answer, before), row, own in zip(
                going.items(), tokens.tolist(), values.softmax(-1).tolist(), strict=True
            )
            for token, share in zip(row, own, strict=True)
        }
        ended |= {answer: p for answer, p in longer.items() if answer[-1] == BYTES}  # EOS
        going = {answer: p for answer, p in longer.items() if answer[-1] != BYTES}
    return ended | going


@contextmanager
def unchecked() -> Iterator[None]:
    """Keep every drafted token meanwhile."""

    def keep(
        p: Tensor, q: Tensor, tokens: Tensor, rows: Sequence[RowSampler]
    ) -> tuple[Tensor, list[bool]]:
        return tokens, [True] * len(rows)

    with mock.patch.object(engine_file, "verify", keep):
        yield


def timed(trained: Trained, turns: int, tokens: int) -> dict[str, list[float]]:
    """Seconds a token of each arm, turn by turn, the answers one at a time, prompts left out."""
    arms = {
        PLAIN: (trained.model, None),
        "draft alone": (trained.drafts[OURS], None),
        OURS: (trained.model, trained.drafts[OURS]),
        OTHER: (trained.model, trained.drafts[OTHER]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(-1, turns):  # the first warms up
        for name, (model, draft) in arms.items():
            engine = writer(model, draft, 1)
            sampling = Sampling(temperature=1.0, seed=turn + 1).row(0)
            engine.submit(Request(prompt=trained.prompts[turn], tokens=tokens, sampling=sampling))
            engine.step()  # the prompt, and the first token
            count, start = 0, time.perf_counter()
            while len(engine):
                count += len(engine.step())
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / max(1, count))
    return seconds


def tokens_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Tokens of a pass by acceptance, beside the formula."""
    curve = [
        {"rate": rate, "tokens": expected_tokens(rate, DRAFTED)}
        for rate in np.linspace(0, 0.99, 100).tolist()
    ]
    x = alt.X("rate:Q", title="mean acceptance a")
    y = alt.Y("tokens:Q", title="tokens of a pass")
    line = alt.Chart(alt.Data(values=curve)).mark_line(color=charts.FAINT).encode(x, y)
    points = alt.Chart(alt.Data(values=list(rows))).mark_point(filled=True, size=80)
    color = alt.Color("draft:N", title=None, sort=[OURS, OTHER])
    return alt.layer(line, points.encode(x, y, color)).properties(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        title=f"Tokens of a pass, {DRAFTED} drafted; the line is the formula",
    )


def distances_chart(distances: dict[str, list[float]], exact: Sequence[float]) -> Any:
    """Distances of the arms as ticks, over those of exact draws."""
    drawn = alt.Chart(alt.Data(values=[{"tv": value} for value in exact]))
    rows = [{"arm": arm, "tv": float(np.mean(values))} for arm, values in distances.items()]
    x = alt.X("tv:Q", title="total variation from the exact distribution", bin=alt.Bin(maxbins=60))
    bars = drawn.mark_bar(color=charts.FAINT).encode(x, alt.Y("count()", title="exact draws"))
    color = alt.Color("arm:N", title=None, sort=list(distances))
    rules = alt.Chart(alt.Data(values=rows)).mark_rule(size=3).encode(alt.X("tv:Q"), color)
    return alt.layer(bars, rules).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Answers of three tokens"
    )


def times_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Milliseconds a token of every turn, by arm."""
    x = alt.X("ms:Q", title="milliseconds a token")
    y = alt.Y("arm:N", title=None, sort=[PLAIN, OURS, OTHER, "draft alone"])
    color = alt.Color("seed:N", title="seed")
    return (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_tick(thickness=2)
        .encode(x, y, color)
        .properties(width=charts.WIDTH, height=charts.HEIGHT // 2, title="One answer at a time")
    )
