"""The main job, end to end: text -> corpus -> plan -> train -> samples -> evaluation -> report."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maquette.base.errors import UserError
from maquette.base.files import write_json
from maquette.base.machine import Machine, measure
from maquette.corpus.progress import Progress
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.named import kept, open_corpus
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import Score, heldout_documents
from maquette.evaluation.compressors import compressors
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.scaling.frontier import DEPTH, RUNGS, Forecast, best_rung, forecast, ladder_zstd
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.decide import Decisions, decide, keep_compiled_code
from maquette.training.loop import Outcome
from maquette.training.observer import Observer
from maquette.training.optimiser import clip_gradients, make_optimiser
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.training.run import RunDirectory
from maquette.workshop.load import load
from maquette.workshop.replan import Replan, shown
from maquette.workshop.report import EVALUATION, PLAN, write_report
from maquette.workshop.run_audit import audit_run
from maquette.workshop.train import train

CONTEXT = 256
BATCH = 8
FASTER, TRIES, PAUSE = 0.8, 4, 1.0  # of the pace; measurements at most; seconds between two
SCORED_BYTES = 600_000  # of held-out text, by the model and by the compressors
NEEDED_BYTES = 100_000
NEAR = 0.8  # Jaccard similarity above which a document of one's own is a duplicate
VOCABULARIES = ((400_000, 512), (2_000_000, 1024), (8_000_000, 2048))  # less text, fewer tokens
Say = Callable[[str], None]


@dataclass
class Demo:
    """The results of the demo."""

    run: Path
    report: Path
    corpus: Corpus
    outcome: Outcome
    forecast: Forecast
    scores: dict[str, Score]
    compressed: dict[str, dict[str, float]]
    loss_first: float
    samples: list[str]
    audit: dict[str, Any]
    seconds: float


def demo(
    sources: Sequence[str],
    path: Path,
    *,
    minutes: float,
    say: Say,
    observer: Observer,
    progress: Progress,
    go_on: str = "maquette train --resume",
) -> Demo:
    """Run the demo: from text to a report in about `minutes` of training and another minute.

    sources: files and folders; none for the default corpus. path: the run directory to make. go_on: the
    command, without --run, that goes on with a training that was stopped.
    """
    start = time.perf_counter()
    corpus = own_corpus(sources, progress) if sources else open_corpus("default", progress)
    say(
        f"corpus: {corpus.manifest['documents']:,} documents, {corpus.manifest['bytes'] / 1e6:.1f} "
        f"MB, {corpus.manifest['tokens']:,} tokens in {', '.join(corpus.components)}"
    )
    machine = measure()
    compressed = compress_heldout(corpus)
    hardness = compressed["zstd -19"]["all"] / ladder_zstd()
    plan = plan_demo(corpus, machine, minutes * 60, hardness, say)
    for name, reason in plan.why:
        say(f"plan: {name}: {reason}")
    replan = Replan(plan.recipe.steps, plan.seconds, say)
    outcome = train(plan.recipe, path, observer=observer, replan=shown(replan, observer))
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with {go_on} --run {path}")
    if replan.steps != plan.recipe.steps:
        plan = planned_again(plan, replan, corpus, hardness)
        say(f"plan: {': '.join(plan.why[-1])}")
    say("evaluation: held-out text, the model beside the compressors")
    loaded = load(path)
    loaded.model.compute = torch.bfloat16 if machine.bf16 else torch.float32
    scores = loaded.score_heldout(most_bytes=SCORED_BYTES)
    run = RunDirectory(path)
    first = run.records()[0]["loss"]
    prompts = ("def ", "The ", "class ") if not sources else ("", "The ", "")
    samples = [
        prompt + loaded.generate(prompt, tokens=60, temperature=0.7, seed=i)
        for i, prompt in enumerate(prompts)
    ]
    write_json(run / EVALUATION, evaluation_page(scores, compressed))
    say("audit: portrait, trace and verbatim text")
    audit = audit_run(path, progress)
    write_json(run / PLAN, plan_page(plan, outcome, scores["all"], own=bool(sources)))
    report = write_report(path)
    seconds = time.perf_counter() - start
    return Demo(
        path,
        report,
        corpus,
        outcome,
        plan.forecast,
        scores,
        compressed,
        first,
        samples,
        audit,
        seconds,
    )


def own_corpus(sources: Sequence[str], progress: Progress) -> Corpus:
    """The user's text as a corpus in Maquette's home, built once for the same files."""
    source = files(sources)
    name = source.fingerprint()[:12]
    vocabulary = next((v for most, v in VOCABULARIES if source.size < most), 4096)
    corpus = kept(
        f"{source.paths[0].resolve().name}-{name}",
        lambda path: build(
            path,
            source,
            BuildOptions(vocabulary=vocabulary, or_fewer=True, near=NEAR, portrait=True),
            progress=progress,
        ),
    )
    if corpus.manifest["bytes"] < NEEDED_BYTES:
        raise UserError(
            f"{sources[0]} holds {corpus.manifest['bytes']:,} bytes of text: a demo needs "
            f"{NEEDED_BYTES:,} or more; name a larger folder"
        )
    return corpus


def rung(width: int, corpus: Corpus, name: str, steps: int = 1000) -> LanguageRecipe:
    """The demo's recipe at one width of the ladder."""
    return LanguageRecipe(
        name="demo",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=CONTEXT,
            width=width,
            depth=DEPTH,
            heads=width // 64,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=128, base_depth=DEPTH, embedding_std=0.03, input_multiplier=32.0
            ),
        ),
        data=TextData(corpus=name, sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=0.008),
        schedule=Schedule(warmup=0.03, floor=0.05),
        batch=BATCH,
        steps=steps,
        watch=TextWatch(tokens=32768, sample_tokens=48),
    )


@dataclass
class DemoPlan:
    """The demo's plan: what it will train, and its forecast."""

    recipe: LanguageRecipe
    forecast: Forecast
    seconds: float
    why: list[tuple[str, str]]


def plan_demo(
    corpus: Corpus, machine: Machine, seconds: float, hardness: float, say: Say
) -> DemoPlan:
    """Choose the width by the ladder, the steps by the pace of this machine.

    hardness: hardness of the text, see `scaling.frontier.forecast`.
    """
    name = str(corpus.path)
    costs = {}
    for width in RUNGS:
        model = rung(width, corpus, name).model
        costs[width] = (model.parameters(), model.flops_per_token(CONTEXT))
    peak = machine.peak(machine.precision)
    width = best_rung(peak, seconds, costs)
    size, flops = costs[width]
    say(f"plan: measuring the pace of a decoder of width {width} here")
    usual = flops * BATCH * CONTEXT / (peak * 0.4)
    recipe = rung(width, corpus, name, steps=max(50, int(seconds / usual)))
    pace, decisions = measure_pace(recipe, machine)
    steps = max(50, int(seconds / pace))
    tokens = steps * recipe.units_per_step
    recipe = replace(  # as its pace was measured
        rung(width, corpus, name, steps),
        compile="on" if decisions.compile else "kernels" if decisions.kernels else "off",
        precision=decisions.precision,
    )
    expected = forecast(size, tokens, hardness, len(corpus.train))
    why = [
        ("time", f"{seconds:.0f} s at {peak / 1e9:.0f} GFLOP/s of {machine.precision} products"),
        ("size", f"width {width}, {DEPTH} blocks, {size:,} parameters: "
                 f"the least loss for the time among widths {', '.join(map(str, RUNGS))}"),
        ("pace", f"{1000 * pace:.0f} ms a step measured; {decisions.why['compile']}"),
        ("tokens", f"{tokens:,} in {steps:,} steps of {recipe.units_per_step:,}, "
                   f"{tokens / len(corpus.train):.2f} epochs"),
        ("forecast", f"{forecast_line(expected)}; "
                     f"zstd needs {hardness:.3f} times the bits it needs for the ladder's text"),
    ]  # fmt: skip
    return DemoPlan(recipe, expected, seconds, why)


def forecast_line(expected: Forecast) -> str:
    """Bits per byte with their interval, and why that is wide."""
    wide = (
        ""
        if expected.inside
        else f" (an extrapolation: {expected.factor:.1f} times outside the ladder)"
    )
    return f"{expected.bits_per_byte:.2f} bits per byte, {expected.low:.2f} to {expected.high:.2f}{wide}"


def planned_again(plan: DemoPlan, replan: Replan, corpus: Corpus, hardness: float) -> DemoPlan:
    """The plan with the length that the first minute led to, and its forecast."""
    recipe = replace(plan.recipe, steps=replan.steps)
    tokens = recipe.steps * recipe.units_per_step
    expected = forecast(recipe.model.parameters(), tokens, hardness, len(corpus.train))
    why = (
        "again",
        f"{tokens:,} tokens in {recipe.steps:,} steps in place of {plan.recipe.steps:,}, at "
        f"{1000 * (replan.pace or 0):.0f} ms a step; {forecast_line(expected)}",
    )
    return replace(plan, recipe=recipe, forecast=expected, why=[*plan.why, why])


def measure_pace(
    recipe: LanguageRecipe, machine: Machine, steps: int = 6
) -> tuple[float, Decisions]:
    """Seconds of a training step, measured on the recipe's own model and made-up tokens."""
    device = torch.device(machine.device)
    model = recipe.model.build().initialise(recipe.seed)
    decisions = decide(recipe, machine, model)
    model.to(device).compute = decisions.dtype
    keep_compiled_code()
    if decisions.compile:
        model.compile_blocks()
    optimiser = make_optimiser(model, model.scaling, recipe.optimiser)

    def some() -> float:
        times = []
        for i in range(steps):
            start = time.perf_counter()
            torch.manual_seed(i)
            rows = torch.randint(recipe.model.vocabulary, (recipe.batch, recipe.data.sequence + 1))
            rows = rows.to(device)
            loss = model.loss(TokenBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
            (loss.total / loss.count).backward()
            clip_gradients(list(model.parameters()), recipe.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            float(loss.value)  # a GPU has finished when its result is here
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 3]

    with decisions.applied():
        return settled(some), decisions


def settled(measure: Callable[[], float], pause: float = PAUSE) -> float:
    """The least of several measurements, repeated until the last is no faster."""
    least = measure()
    for _ in range(TRIES - 1):
        time.sleep(pause)
        again = measure()
        if again > FASTER * least:
            return min(least, again)
        least = again
    return least


def compress_heldout(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Bits per byte of each compressor on each component of the scored text, and on all of it."""
    rows = heldout_documents(corpus, SCORED_BYTES)
    texts: dict[str, bytes] = {}
    for row in rows:
        tokens = corpus.heldout.read(row["offset"], row["tokens"]).tolist()
        text = corpus.tokenizer.decode(tokens).encode()
        for name in (row["component"], "all"):
            texts[name] = texts.get(name, b"") + text
    result: dict[str, dict[str, float]] = {}
    for name, text in texts.items():
        for compressor, bits in compressors(text).items():
            result.setdefault(compressor, {})[name] = bits
    return result


def evaluation_page(
    scores: dict[str, Score], compressed: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """`evaluation.json`, as the report reads it."""
    return {
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "compressors": compressed,
        "note": "Each compressor got all documents of a line as one stream at its strongest "
        "setting, and had read nothing before; the model has read the training text, and sees "
        f"{CONTEXT} tokens at a time.",
    }


def plan_page(plan: DemoPlan, outcome: Outcome, whole: Score, own: bool) -> dict[str, Any]:
    """`plan.json`: what was planned beside what happened."""
    nats = whole.bytes / max(1, whole.tokens) * math.log(2)  # of a bit per byte, a token
    f = plan.forecast
    note = (
        "The forecast is read off the ladder of benchmarks/ladder.py, and multiplied by how many more "
        "bits zstd needs for this held-out text than for the ladder's."
    )
    if own:
        note += " The ladder's text is source and manuals: for other text it is a first guess."
    if plan.why[-1][0] == "again":
        note += " The steps were planned again after the first minute, to keep to the time."
    tokens = plan.recipe.steps * plan.recipe.units_per_step
    compared = [
        (
            "bits per byte of held-out text",
            f"{f.bits_per_byte:.3f} ({f.low:.3f} to {f.high:.3f})",
            f"{whole.bits_per_byte:.3f}",
        ),
        ("training tokens", f"{tokens:,}", f"{outcome.tokens:,}"),
        ("training time", f"{plan.seconds:.0f} s", f"{outcome.seconds:.0f} s"),
    ]
    return {
        "loss_predicted": f.bits_per_byte * nats,
        "loss_low": f.low * nats,
        "loss_high": f.high * nats,
        "bits_per_byte": f.bits_per_byte,
        "why": plan.why,
        "compared": [dict(zip(("name", "planned", "happened"), c, strict=True)) for c in compared],
        "note": note,
    }
