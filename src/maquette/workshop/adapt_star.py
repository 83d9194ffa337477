"""Let a language model teach itself to reason (STaR), from questions with answers that can be checked.

    adapt_star(Path("runs/base"), "corpus/sums", Path("runs/star"), StarOptions(loops=8))

runs/star/
    corpus/             the questions, where DATA are files; a tenth is held out and never asked in a loop
    star.json           what was asked for
    loop-00/            the base: what it answers to the held-out questions
    loop-01/            attempts.json (every question asked, what was written), kept.jsonl, corpus/ and run/
                        (the base tuned on them), heldout.jsonl (its answers), loop.json when it is done
    ...
    config.json, ...    the run of the last loop: an ordinary run

A loop is a function of the one before it: whatever is done is read again by `resume`, what was cut off is
done again or, for a training, goes on.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from maquette.adaptation.methods import count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.adaptation.star import Attempt, StarOptions, kept_records
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_atomic, write_json
from maquette.base.machine import resident
from maquette.base.statistics import Share
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.example import Example, read_examples
from maquette.corpus.examples.results import is_right
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.progress import Progress, silent
from maquette.corpus.terms import Term, terms_of_manifest
from maquette.corpus.text.store import MANIFEST, TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.evaluation.generation import generate_answers
from maquette.models.registry import ModelConfig
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.observer import Quiet
from maquette.training.run import RunDirectory
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of, is_text, source_terms
from maquette.workshop.adapt_resume import base_identity, check_begun, tidy
from maquette.workshop.adapt_text import SEQUENCE, language_base, own_corpus, score
from maquette.workshop.adapted import Adaptation
from maquette.workshop.chat import template_for
from maquette.workshop.load import Loaded, load
from maquette.workshop.train import train

ASKED_FOR, LOOP, ATTEMPTS, KEPT = "star.json", "loop.json", "attempts.json", "kept.jsonl"
ANSWERED = "heldout.jsonl"
SCORED = 1000  # held-out questions that are asked after a loop
WATCHED = 0.02  # of what is kept, held out of a loop's training for its loss alone


@dataclass(frozen=True)
class Loop:
    """What came of a loop; loop 0 is the base."""

    loop: int
    """number of the loop"""
    heldout: Share
    """held-out questions answered right by the model of this loop"""
    asked: int = 0
    """number of questions that were asked"""
    kept: int = 0
    """number of questions of which what was written without a hint is learned"""
    rationalised: int = 0
    """number of questions of which what was written with a hint is learned"""
    steps: int = 0
    """number of optimiser steps"""
    seconds: float = 0.0
    """seconds of asking, training and scoring"""
    memory: float = 0.0
    """largest memory of the process, in bytes"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `loop.json` has them."""
        share = self.heldout.mean
        return asdict(self) | {"accuracy": share.mean, "stderr": share.stderr}


@dataclass(frozen=True, kw_only=True)
class AdaptedStar(Adaptation):
    """A run that has taught itself, and what came of every loop."""

    loops: list[Loop]
    """what came of the base and of every loop"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | {"loops": [loop.to_dict() for loop in self.loops]}


@tidy(ASKED_FOR)
def adapt_star(
    run: Path,
    source: str,
    path: Path,
    options: StarOptions,
    *,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    replay: Sequence[str] = (),
    resume: bool = False,
    on_loop: Callable[[Loop], None] = lambda loop: None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> AdaptedStar:
    """Let the language model of `run` teach itself the questions of a corpus or files, as the run `path`.

    source, fields, template: see `adapt_data.data_of`. replay: corpora or files of examples that every loop
    learns too, each a question with its rationale and answer; those of held-out questions are left out.
    on_loop: given every loop when it is done. Raises WrongUse for options that do not fit and a `path` that
    exists; UserError where a loop keeps nothing, and for what is wrong outside.
    """
    start, config = language_base(run, path, resume)
    tokenizer = load_tokenizer(start / TOKENIZER)
    sequence = options.sequence or min(config.context, SEQUENCE)
    check_begun(path / ASKED_FOR, path, but=("corpus",))
    if is_text(source, fields):
        raise WrongUse(f"{source} holds text: star needs questions with a prompt and an answer")
    found = _replayed(replay)
    with RunDirectory(path).locked():
        data = data_of(
            source, path / "corpus", tokenizer, sequence,
            fields=fields, template=template_for(start, template), resume=resume, progress=progress,
        )  # fmt: skip
        assert isinstance(data, ExamplesData)
        corpus = ExamplesCorpus(data.corpus)
        kept_apart = {one.prompt_digest() for one in corpus.examples("heldout")}
        again = [one for one in found if one.prompt_digest() not in kept_apart]
        if len(again) < len(found):
            say(f"{len(found) - len(again)} replayed examples are of held-out questions: left out")
        asked_for = json.loads(json.dumps({
            **base_identity(start), "corpus": corpus.hash,
            "replay": [[one.prompt, one.answer] for one in again], "options": asdict(options),
        }))  # fmt: skip
        terms = [*terms_of_manifest(corpus.manifest), *source_terms(replay)]
        star = _Star(start, config, path, corpus, data, options, again, terms, progress, say)
        if not (path / ASKED_FOR).exists():
            write_json(path / ASKED_FOR, asked_for)
        elif read_json(path / ASKED_FOR) != asked_for:
            raise WrongUse(
                f"{path} was begun with another base, other questions or options: give the same, or choose "
                f"another --run"
            )
        loops = [star.loop(number, on_loop) for number in range(options.loops + 1)]
        own = own_corpus(start, say)
        last = star.run_of(options.loops)
        optimiser = RunDirectory(last).recipe().optimiser
        done = AdaptedStar(
            path=path,
            base=str(start),
            method="star",
            adapter="full",
            counted=count(config, None),
            metric="share of held-out questions answered right",
            before=loops[0].heldout.mean,
            after=loops[-1].heldout.mean,
            own=None if own is None else (score(load(start), own), score(load(last), own)),
            seconds=sum(loop.seconds for loop in loops),
            memory=max(loop.memory for loop in loops),
            learning_rate=optimiser.learning_rate,
            weight_decay=optimiser.weight_decay,
            loops=loops,
        )
        _copy_run(last, path)
        write_json(path / ADAPTATION, done.to_dict())
    return done


@dataclass
class _Star:
    """The loops of one run."""

    start: Path
    config: ModelConfig
    path: Path
    corpus: ExamplesCorpus
    data: ExamplesData
    options: StarOptions
    replayed: list[Example]
    terms: list[Term]
    progress: Progress
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.template = template_of(self.corpus.manifest["template"], self.corpus.tokenizer)
        self.questions, heldout = (self.corpus.examples(split) for split in ("train", "heldout"))
        self.heldout = heldout[:SCORED]
        for one in (*self.questions, *self.heldout):
            if one.history:
                raise UserError(
                    f"{one.source} is a conversation: star asks single questions, leave it out"
                )

    def folder(self, loop: int) -> Path:
        return self.path / f"loop-{loop:02}"

    def run_of(self, loop: int) -> Path:
        """The run of a loop; of loop 0 the base."""
        return self.folder(loop) / "run" if loop else self.start

    def loop(self, number: int, on_loop: Callable[[Loop], None]) -> Loop:
        """Ask, keep, train from the base and score; what is done is not done again."""
        folder, done = self.folder(number), self.folder(number) / LOOP
        if done.exists():
            kept = read_json(done)
            one = Loop(**{n: v for n, v in kept.items() if n in Loop.__dataclass_fields__})
            one = replace(one, heldout=Share(**kept["heldout"]))
            on_loop(one)
            return one
        folder.mkdir(exist_ok=True)
        one = Loop(number, Share(0, 0))
        if number:
            attempts, seconds = self.attempts(number)
            corpus = self.kept_corpus(number, attempts)
            options = AdaptOptions(
                "full", steps=self.options.steps_of(number), batch=self.options.batch,
                learning_rate=self.options.learning_rate, seed=self.options.seed,
            )  # fmt: skip
            data = replace(self.data, corpus=str(corpus.path))
            recipe = replace(
                text_recipe(options, self.start, self.config, data),
                name="star",
            )
            shown = _Shown(f"loop {number}: steps", self.progress)
            outcome = train(recipe, self.run_of(number), resume=True, observer=shown)
            if not outcome.finished:
                raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume")
            records = RunDirectory(self.run_of(number)).records()
            one = replace(
                one,
                asked=len(attempts),
                kept=sum(a.right for a in attempts),
                rationalised=sum(a.rationalised is not None for a in attempts),
                steps=options.steps,
                seconds=seconds + sum(record["seconds"] for record in records),
                memory=max(record["memory"] for record in records),
            )
        began = time.perf_counter()
        answered = self.asked(
            load(self.run_of(number)).optimise(), self.heldout, "held-out answers"
        )
        write_atomic(folder / ANSWERED, "".join(json.dumps(asdict(a)) + "\n" for a in answered))
        one = replace(
            one,
            heldout=Share(sum(a.right for a in answered), len(answered)),
            seconds=one.seconds + time.perf_counter() - began,
            memory=max(one.memory, float(resident())),
        )
        write_json(done, one.to_dict())
        on_loop(one)
        return one

    def attempts(self, number: int) -> tuple[list[Attempt], float]:
        """What the model of the loop before writes to the questions of a loop, and the seconds that took."""
        path = self.folder(number) / ATTEMPTS
        if path.exists():
            kept = read_json(path)
            return [Attempt(**one) for one in kept["attempts"]], float(kept["seconds"])
        began = time.perf_counter()
        loaded, chosen = load(self.run_of(number - 1)).optimise(), self.questions
        most = self.options.questions
        if most is not None and most < len(chosen):
            drawn = Random(f"star {self.options.seed} {number}").sample(range(len(chosen)), most)
            chosen = [chosen[i] for i in sorted(drawn)]
        attempts = self.asked(loaded, chosen, f"loop {number}: answers")
        failed = [i for i, one in enumerate(attempts) if not one.right]
        if self.options.hint and failed:
            hinted = [
                replace(chosen[i], prompt=self.options.hinted(chosen[i].prompt, chosen[i].answer))
                for i in failed
            ]
            again = self.asked(loaded, hinted, f"loop {number}: rationalisations")
            for i, one in zip(failed, again, strict=True):
                if one.right:
                    attempts[i] = replace(attempts[i], rationalised=one.written)
        seconds = time.perf_counter() - began
        write_json(path, {"seconds": seconds, "attempts": [asdict(one) for one in attempts]})
        return attempts, seconds

    def asked(self, loaded: Loaded, questions: Sequence[Example], stage: str) -> list[Attempt]:
        """What a model writes to questions, greedily."""
        most = self.options.tokens
        texts, cut = generate_answers(
            loaded.model,
            loaded.tokenizer,
            [self.template.conversation([], one.prompt, loaded.tokenizer) for one in questions],
            {} if most is None else {"max_gen_toks": most},
            until=(),
            progress=lambda done, total: self.progress(stage, done, total),
        )
        if cut:
            self.say(f"{stage}: {cut:,} prompts are longer than the context leaves room for: cut")
        attempts = []
        for one, text in zip(questions, texts, strict=True):
            written = self.template.read(one.prompt, text)
            right = is_right(written, one.answer, self.options.answer_after)
            attempts.append(Attempt(one.prompt, one.answer, written, right))
        return attempts

    def kept_corpus(self, number: int, attempts: Sequence[Attempt]) -> ExamplesCorpus:
        """The corpus of what a loop learns. Raises UserError where nothing was kept."""
        folder = self.folder(number)
        if (folder / "corpus" / MANIFEST).exists():
            return ExamplesCorpus(folder / "corpus")
        records = kept_records(attempts)
        if not records:
            raise UserError(
                f"loop {number} kept none of {len(attempts):,} questions: the model must answer some of them "
                f"after {self.options.answer_after!r}; tune it on some rationales first (adapt full)"
            )
        records += [{"prompt": one.prompt, "answer": one.answer} for one in self.replayed]
        if len({one["prompt"] for one in records}) < 2:  # one of them is held out
            raise UserError(f"loop {number} kept one question alone: ask more, or --replay some")
        write_atomic(folder / KEPT, "".join(json.dumps(one) + "\n" for one in records))
        return build_examples(
            folder / "corpus",
            [folder / KEPT],
            self.corpus.tokenizer,
            template=self.template.text,
            heldout=WATCHED,
            terms=self.terms,
            progress=self.progress,
        )


class _Shown(Quiet):
    """The training of a loop as a stage of the progress."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress, self._steps = stage, progress, 0

    def start(self, step: int, steps: int) -> None:
        self._steps = steps

    def step(self, record: dict[str, Any]) -> None:
        self._progress(self._stage, record["step"], self._steps)


def _replayed(sources: Sequence[str]) -> list[Example]:
    """The examples of corpora, their training side, and of files."""
    found: list[Example] = []
    for source in sources:
        path = Path(source).expanduser()
        if (path / MANIFEST).exists():
            found += ExamplesCorpus(path).examples("train")
        elif path.exists():
            found += read_examples([path])
        else:
            raise UserError(
                f"{source} does not exist: name a corpus or a file of examples to replay"
            )
    return found


def _copy_run(source: Path, path: Path) -> None:
    """Copy the files of a finished run into the folder `path`, each whole or not at all."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            aside = path / f".{file.name}.tmp"
            shutil.copyfile(file, aside)
            os.replace(aside, path / file.name)
