"""PaLM: attention and feed-forward side by side, one key-value head (Chowdhery et al. 2022).

    maquette plan palm-540b --device A100 --devices 6144
    maquette train palm-small             about a minute on 2 cores
    maquette reproduce palm               about 9 minutes on 2 cores, 2 seeds and the control

PaLM's block is y = x + MLP(norm x) + Attention(norm x) where GPT-3's is y = x + A(norm x), then
y + MLP(norm y). The paper finds it about 15 % faster at scale, because the matrices that read the
same input are multiplied as one and because tensor parallelism sums once instead of twice; at 8
billion parameters a small loss is paid for it, at 62 billion none (section 2). The queries share
one head of keys and values (Shazeer 2019). The recipes `palm-8b` to `palm-540b` are the rows of
table 1, with AdamW for its Adafactor.

Scaled down: 2.2 million parameters, plain bytes of the default corpus, a million tokens; no
devices to sum over. The serial block has the same matrices, and one norm more (768 parameters,
0.04 %). Time is that of whole training steps, the arms taking turns. The input matrices are
multiplied one by one: joined to one product they were tried, and slower on a processor.

Expected: a loss within 0.05 nats of the serial block's, a step in at most 0.97 of its time, a cache
of exactly one head's size. The first fails, 0.055 over two seeds (0.078 and 0.032; half as many
blocks: 0.207), and so does the second: a parallel step takes 0.983 of a serial one's time on 2 cores.
Whether more and narrower blocks would lose less is not measured.
"""

import time
from dataclasses import replace
from typing import Any, Literal

import altair as alt
import numpy as np
import torch

from maquette.base.machine import keep_freed_memory, measure
from maquette.base.statistics import bootstrap_arrays
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.decoder_recipes import SMALL, published_recipes, small_recipe
from maquette.experiments.lab import Lab
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.published import published
from maquette.training.optimiser import clip_gradients, make_optimiser
from maquette.training.probe import DTYPE
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory
from maquette.workshop import charts

SIZES = ("palm-8b", "palm-62b", "palm-540b")
RECIPES = published_recipes(*SIZES)
STEPS = 500  # of 2,048 tokens
ROUNDS = 100  # of one step an arm
ARMS = ("serial", "parallel", "serial again")
MODEL = families.palm(**SMALL)


@recipe
def palm_small() -> LanguageRecipe:
    """Four parallel blocks of 192, six query heads on one of keys and values."""
    return small_recipe(MODEL)


@claim(
    statement="the parallel block costs little or no loss against the serial one",
    source="Chowdhery et al. 2022, section 2; Wang and Komatsuzaki 2021",
    metric="held-out loss of the parallel block less the serial's (nats a byte), equal tokens",
    at_most=0.05,
    control="parallel blocks of the same width, half as many",
    minutes=7,
)
def parallel_loss(lab: Lab) -> Measurement:
    """Train both blocks with every seed, and half the parallel blocks with the first."""
    arms = [arm("parallel", s, lab.quick) for s in range(lab.seeds)]
    arms += [arm("serial", s, lab.quick) for s in range(lab.seeds)]
    arms.append(arm("parallel", 0, lab.quick, blocks=0.5))
    losses = [RunDirectory(path).records()[-1]["heldout_loss"] for path in lab.train_all(arms)]
    parallel, serial = np.array(losses[:-1]).reshape(2, lab.seeds)
    each = parallel - serial
    return Measurement(
        value=float(each.mean()),
        control=float(losses[-1] - serial[0]),
        interval=(float(each.min()), float(each.max())),
        details={
            "parallel": parallel.tolist(),
            "serial": serial.tolist(),
            "half_as_many_blocks": losses[-1],
            "seeds_apart": float(np.ptp(serial)),
            "parameters": [arms[i].model.parameters() for i in (0, lab.seeds)],
        },
        chart=bars(
            [("parallel", x) for x in parallel]
            + [("serial", x) for x in serial]
            + [("half the blocks", losses[-1])],
            "held-out loss (nats a byte)",
            "Parallel and serial blocks after equal tokens",
        ),
    )


@claim(
    statement="a training step of the parallel block takes less time than one of the serial block",
    source="Chowdhery et al. 2022, section 2 (about 15 % at large scale)",
    metric="time of a parallel training step over that of a serial one, median over rounds",
    at_most=0.97,
    control="a second serial model over the first",
    minutes=1.5,
    evidence="measured time",
)
def parallel_time(lab: Lab) -> Measurement:
    """Step the arms in turns, the order reversed every round, and compare round by round."""
    times = step_times(lab.quick, 6 if lab.quick else ROUNDS)
    ratios = {name: times[name] / times["serial"] for name in ARMS[1:]}
    value, control = (float(np.median(ratios[name])) for name in ARMS[1:])
    parallel = ratios["parallel"]
    interval = bootstrap_arrays(
        len(parallel), lambda rows: np.median(parallel[rows], axis=1), draws=1000
    )
    return Measurement(
        value=value,
        control=control,
        interval=interval,
        seeds=1,
        details={
            "milliseconds": {name: 1e3 * float(np.median(times[name])) for name in ARMS},
            "rounds": len(times["serial"]),
            "precision": measure("cpu").precision,
        },
        chart=bars(
            [(name, 1e3 * x) for name in ARMS for x in times[name]],
            "milliseconds a step",
            f"A parallel step takes {value:.3f} of a serial one",
        ),
    )


@claim(
    statement="multi-query attention caches one head's keys and values instead of all heads'",
    source="Shazeer 2019, section 3; Chowdhery et al. 2022, section 2",
    metric="bytes cached a token, times the heads, over those of multi-head attention: the largest",
    at_most=1.0,
    control="multi-head attention itself",
    minutes=0.1,
    evidence="exact count",
)
def multi_query(lab: Lab) -> Measurement:
    """Count the cache's tensors for the small model and the three published ones."""
    configs = {"palm-small": MODEL} | {n: published(n).config for n in SIZES}
    ratios, plain = {}, {}
    for name, config in configs.items():
        multi_head = cached_bytes(replace(config, kv_heads=config.heads))
        ratios[name] = cached_bytes(config) * config.heads / multi_head
        plain[name] = {"multi-query": cached_bytes(config), "multi-head": multi_head}
    return Measurement(
        value=max(ratios.values()),
        control=float(min(config.heads for config in configs.values())),
        seeds=1,
        details={"bytes_a_token": plain, "times_heads": ratios},
        chart=bars(
            [(f"{name} {kind}", count / 1024) for name, both in plain.items()
             for kind, count in both.items()],
            "KiB cached a token", "The cache of multi-query and multi-head attention", log=True,
        ),
    )  # fmt: skip


def shape(block: Literal["serial", "parallel"], quick: bool) -> DecoderConfig:
    """The small model with that block; at toy size narrower and shallower."""
    if quick:
        return replace(MODEL, block=block, width=48, hidden=192, depth=2, context=32)
    return replace(MODEL, block=block)


def arm(
    block: Literal["serial", "parallel"], seed: int, quick: bool, blocks: float = 1.0
) -> LanguageRecipe:
    """A training of it, with that fraction of its blocks; at toy size a few steps on little text."""
    model = shape(block, quick)
    base = small_recipe(replace(model, depth=round(blocks * model.depth)))
    base = replace(
        base,
        name=f"palm-{block}",
        steps=STEPS,
        seed=seed,
        compile="off",
        watch=replace(base.watch, every=10_000, tokens=524_288, sample_tokens=0, report=False),
    )
    if quick:
        data = replace(base.data, corpus="tiny")
        return replace(base, data=data, steps=10, watch=replace(base.watch, tokens=4096))
    return base


def cached_bytes(config: DecoderConfig) -> int:
    """Bytes of the cache's tensors for one token, counted from the tensors themselves."""
    with torch.device("meta"):
        cache = Decoder(config).cache(batch=1, room=1)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)


def step_times(quick: bool, rounds: int) -> dict[str, Any]:
    """Seconds of whole training steps by arm, (rounds,) each, the first three rounds left out."""
    keep_freed_memory()
    settings, precision = palm_small(), measure("cpu").precision
    generator = torch.Generator().manual_seed(0)
    size = (settings.batch, shape("serial", quick).context + 1)
    tokens = torch.randint(0, MODEL.vocabulary, size, generator=generator)
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:])
    arms: dict[str, tuple[Decoder, torch.optim.AdamW]] = {}
    for name in ARMS:
        model = Decoder(shape("parallel" if name == "parallel" else "serial", quick)).initialise(0)
        model.compute = DTYPE[precision]
        arms[name] = (model, make_optimiser(model, model.scaling, settings.optimiser))
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for turn in range(rounds + 3):
        for name in ARMS if turn % 2 else reversed(ARMS):
            model, optimiser = arms[name]
            start = time.perf_counter()
            loss = model.loss(batch)
            (loss.total / loss.count).backward()
            clip_gradients(list(model.parameters()), settings.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds[3:]) for name, seconds in times.items()}


def bars(rows: list[tuple[str, float]], axis: str, title: str, log: bool = False) -> Any:
    """Every measurement as a tick, and the median of each arm as a point."""
    order = list(dict.fromkeys(name for name, _ in rows))
    data = alt.Chart(alt.Data(values=[{"arm": n, "value": float(v)} for n, v in rows]))
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    y = alt.Y("arm:N", title=None, sort=order)
    x = alt.X("value:Q", title=axis, scale=scale)
    middle = alt.X("median(value):Q", title=axis, scale=scale)
    return alt.layer(
        data.mark_tick(color=charts.FAINT, thickness=1).encode(x, y),
        data.mark_point(filled=True, size=90, color=charts.ACCENT).encode(middle, y),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT // 2, title=title)
