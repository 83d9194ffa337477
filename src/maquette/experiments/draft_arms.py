"""Arms of the claims on speculative decoding: a model, a draft, and a draft that has read other text.

All claims share the runs. The engine is the one that serves; only `unchecked` reaches into it.
"""

import functools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.named import open_corpus
from maquette.corpus.tokenizer import BYTES, byte_tokenizer
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.experiments.lab import Lab
from maquette.models import families
from maquette.models.base import LanguageModel
from maquette.models.store import load_model
from maquette.nn.rules import Parametrisation
from maquette.serving import engine as engine_file
from maquette.serving.engine import Engine, Request
from maquette.serving.sampler import RowSampler, Sampling
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule

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


def other_text(quick: bool) -> Path:
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
