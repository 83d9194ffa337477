"""The main job, end to end: text -> corpus -> plan -> train -> samples -> evaluation -> report."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maquette.base.errors import UserError
from maquette.base.files import write_json
from maquette.base.machine import measure
from maquette.corpus.progress import Progress
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.named import kept, open_corpus
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import Score, heldout_documents
from maquette.evaluation.compressors import compressors
from maquette.scaling.frontier import Forecast, ladder_zstd
from maquette.training.loop import Outcome
from maquette.training.observer import Observer
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_corpus import text_of
from maquette.workshop.demo_plan import (
    CONTEXT,
    DEMO,
    Say,
    begun_plan,
    plan_demo,
    plan_page,
    planned_again,
)
from maquette.workshop.load import load
from maquette.workshop.replan import Replan, shown
from maquette.workshop.report import EVALUATION, PLAN, write_report
from maquette.workshop.run_audit import audit_run
from maquette.workshop.train import train

SCORED_BYTES = 600_000  # of held-out text, by the model and by the compressors
NEEDED_BYTES = 100_000
NEAR = 0.8  # Jaccard similarity above which a document of one's own is a duplicate
VOCABULARIES = ((400_000, 512), (2_000_000, 1024), (8_000_000, 2048))  # less text, fewer tokens


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
    resume: bool = False,
    go_on: str = "maquette demo --resume",
) -> Demo:
    """Run the demo: from text to a report in about `minutes` of training and another minute.

    sources: files and folders; none for the default corpus. path: the run directory to make. resume: whether
    a demo that was cut off goes on, with its own text and plan. go_on: the command, without --run, that goes
    on with a training that was stopped. Raises WrongUse for a run that is resumed and is of no demo.
    """
    start = time.perf_counter()
    run = RunDirectory(path)
    begun = resume and (run / RECIPE).exists()
    own = bool(sources)
    if begun:
        corpus = text_of(run)
    else:
        corpus = own_corpus(sources, progress) if own else open_corpus("default", progress)
    say(
        f"corpus: {corpus.manifest['documents']:,} documents, {corpus.manifest['bytes'] / 1e6:.1f} "
        f"MB, {corpus.manifest['tokens']:,} tokens in {', '.join(corpus.components)}"
    )
    machine = measure()
    compressed = compress_heldout(corpus)
    hardness = compressed["zstd -19"]["all"] / ladder_zstd()
    if begun:
        plan, own, replan = begun_plan(run, say)
    else:
        plan = plan_demo(corpus, machine, minutes * 60, hardness, say)
        replan = Replan(plan.recipe.steps, plan.seconds, say)
    for name, reason in plan.why:
        say(f"plan: {name}: {reason}")
    outcome = train(
        None if begun else plan.recipe,
        path,
        resume=begun,
        observer=observer,
        planned={DEMO: plan.to_dict() | {"own": own}},
        replan=shown(replan, observer),
    )
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with {go_on} --run {path}")
    if begun:
        took = sum(record.get("seconds", 0.0) for record in run.records())
        outcome = replace(outcome, seconds=took)
    if replan.steps != plan.recipe.steps:
        plan = planned_again(plan, replan, corpus, hardness)
        say(f"plan: {': '.join(plan.why[-1])}")
    say("evaluation: held-out text, the model beside the compressors")
    loaded = load(path)
    loaded.model.compute = torch.bfloat16 if machine.bf16 else torch.float32
    scores = loaded.score_heldout(most_bytes=SCORED_BYTES)
    first = run.records()[0]["loss"]
    prompts = ("def ", "The ", "class ") if not own else ("", "The ", "")
    samples = [
        prompt + loaded.generate(prompt, tokens=60, temperature=0.7, seed=i)
        for i, prompt in enumerate(prompts)
    ]
    write_json(run / EVALUATION, evaluation_page(scores, compressed))
    say("audit: portrait, trace and verbatim text")
    audit = audit_run(path, progress)
    write_json(run / PLAN, plan_page(plan, outcome, scores["all"], own))
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
