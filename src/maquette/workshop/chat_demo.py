"""From a base run to one that answers: examples, tuning, the scores of both stations, a report.

    chat_demo(Path("runs/demo"), Path("runs/demo-chat"), seconds=180)

The tuned run is an ordinary one that begins with the base's weights (as `adapt full` makes it); its examples
stand beside it. `chat.json` in it has the scores of each station, which its report shows in one table.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from maquette.adaptation.recipes import TEXT_RATES
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import write_json
from maquette.base.machine import measure
from maquette.base.statistics import Mean
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.chat_template import CHAT
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import Template
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import MANIFEST, Corpus
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.datasets.text_config import TextWatch
from maquette.training.loop import Outcome
from maquette.training.observer import Observer, Quiet
from maquette.training.recipe import LanguageRecipe, Schedule, language
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_corpus import text_of
from maquette.workshop.chat_data import chat_examples, heldout_pairs, heldout_questions
from maquette.workshop.chat_scores import Station, score_station
from maquette.workshop.load import load
from maquette.workshop.replan import Replan, going_on, shown
from maquette.workshop.report import CHAT as STATIONS
from maquette.workshop.report import write_report
from maquette.workshop.train import train

EPOCHS = 2  # of the examples
LEAST_STEPS = 20
ASKED, PAIRS = 60, 200  # held-out questions of each world, held-out pairs
GO_ON = "maquette demo --chat --resume"
"""the command, without --run, that goes on with what was stopped"""
QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What were you trained on?",
    "What is 7 plus 5?",
    "Thank you.",
)
"""of the conversation that is shown"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class ChatDemo:
    """The results of the way to chat."""

    path: Path
    """directory of the tuned run"""
    report: Path
    stations: list[Station]
    """scores of the base and of the tuned run"""
    examples: int
    """number of training examples"""
    seconds: float
    """time of all, in seconds"""


def chat_demo(
    base: Path,
    path: Path,
    *,
    seconds: float,
    resume: bool = False,
    say: Say = lambda text: None,
    observer: Observer | None = None,
    progress: Progress = silent,
) -> ChatDemo:
    """Tune the run `base`, trained on text, to answer, in about `seconds` of training; the run is `path`.

    resume: whether runs that were cut off go on, the base too. Raises WrongUse where `path` exists; UserError
    for what is wrong outside.
    """
    began = time.perf_counter()
    folder = check_room(path, resume)
    if not RunDirectory(base).finished:
        say(f"chat: going on with {base}")
        checked(train(None, base, resume=True, observer=observer), base)
    corpus, recipe = text_of(RunDirectory(base)), language(RunDirectory(base).recipe())
    pace = median(record["seconds"] for record in RunDirectory(base).records())
    steps = max(LEAST_STEPS, int(seconds / pace))
    examples = opened_examples(base, corpus, folder, steps * recipe.units_per_step, progress)
    counts = examples.manifest["splits"]["train"]
    say(
        f"chat: {counts['examples']:,} examples, {counts['tokens']:,} tokens, of which "
        f"{counts['counted']:,} are learned"
    )
    wanted: LanguageRecipe | None
    if not (path / RECIPE).exists():
        wanted = tuned(recipe, base, folder, steps)
        say(f"chat: {steps:,} steps, {1000 * pace:.0f} ms a step of the base")
        replan = Replan(steps, seconds, say)
    else:
        wanted, replan = None, going_on(RunDirectory(path), seconds, say)
    again = shown(replan, observer or Quiet())
    outcome = train(wanted, path, resume=resume, observer=observer, replan=again)
    checked(outcome, base)
    say("evaluation: the base and the tuned run, asked the same")
    stations = score_both(base, path, examples, corpus)
    write_json(path / STATIONS, page(stations, examples))
    report = write_report(path)
    return ChatDemo(path, report, stations, int(counts["examples"]), time.perf_counter() - began)


def check_room(path: Path, resume: bool = False) -> Path:
    """The folder of the examples of the run `path`. Raises WrongUse where either is in the way."""
    folder = path.with_name(f"{path.name}-corpus")
    for there in (path, folder):
        if there.exists() and not resume:
            raise WrongUse(f"{there} exists: choose another --run, or go on with --resume")
    return folder


def checked(outcome: Outcome, base: Path) -> None:
    """Raise UserError for a training that was stopped."""
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with {GO_ON} --run {base}")


def opened_examples(
    base: Path, corpus: Corpus, folder: Path, tokens: int, progress: Progress
) -> ExamplesCorpus:
    """The examples for so many training tokens; those in `folder`, where a run that was cut off left them."""
    if (folder / MANIFEST).exists():
        return ExamplesCorpus(folder)
    examples = chat_examples(RunDirectory(base), corpus, tokens // EPOCHS)
    return build_examples(folder, examples, corpus.tokenizer, template=CHAT, progress=progress)


def tuned(base: LanguageRecipe, run: Path, folder: Path, steps: int) -> LanguageRecipe:
    """The recipe that begins with the base's weights and learns the examples."""
    return replace(
        base,
        name="chat",
        start=str(run),
        data=ExamplesData(corpus=str(folder), sequence=base.data.sequence),
        optimiser=replace(base.optimiser, learning_rate=TEXT_RATES["full"]),
        schedule=Schedule(warmup=0.05, floor=0.0),
        steps=steps,
        watch=TextWatch(every=max(1, steps // 4), tokens=8192, sample_tokens=32, report=False),
    )


def score_both(base: Path, path: Path, examples: ExamplesCorpus, corpus: Corpus) -> list[Station]:
    """The scores of the base and of the tuned run, of the same questions."""
    template = Template(examples.manifest["template"])
    groups = heldout_questions(ASKED)
    cut = examples.examples("heldout")
    pairs = heldout_pairs(cut, PAIRS)
    groups["reading of held-out documents"] = heldout_pairs(cut, PAIRS, "reading")
    stations = []
    for name, run in (("base", base), ("tuned", path)):
        loaded = load(run)
        loaded.model.compute = torch.bfloat16 if measure().bf16 else torch.float32
        stations.append(score_station(name, loaded, template, corpus, groups, pairs, QUESTIONS))
    return stations


def page(stations: list[Station], examples: ExamplesCorpus) -> dict[str, Any]:
    """`chat.json`, as the report reads it."""
    return {
        "stations": [station.to_dict() for station in stations],
        "rows": table(stations),
        "examples": examples.manifest["splits"],
        "template": examples.manifest["template"],
        "note": "Both stations were asked the same held-out questions in the same words, greedily; an answer "
        "is right whatever its letters and spaces.",
    }


def table(stations: list[Station]) -> list[list[str]]:
    """A row for every score: its name, and its value at every station with its standard error."""
    rows = [["held-out text, bits per byte", *(_bits(s.bits_per_byte) for s in stations)]]
    if first := stations[0].pairs:
        about = "answers from held-out documents"
        rows.append([f"{about}, bits per byte", *(_bits(s.pair_bits) for s in stations)])
        rows.append([f"{about}, right of {first.examples}", *(_share(s.pairs) for s in stations)])
    for group, mean in stations[0].groups.items():
        shares = (_share(station.groups[group]) for station in stations)
        rows.append([f"{group}, right of {mean.examples}", *shares])
    return rows


def _bits(mean: Mean | None) -> str:
    assert mean is not None
    return f"{mean:.3f}"


def _share(mean: Mean | None) -> str:
    assert mean is not None and mean.mean is not None
    error = "" if mean.stderr is None else f" ± {100 * mean.stderr:.1f}"
    return f"{100 * mean.mean:.1f} %{error}"
