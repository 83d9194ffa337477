"""Find words to put before the questions of a model behind an endpoint, by its log-probabilities alone.

    prompt_words(Endpoint(url, "small"), "questions.jsonl", Path("runs/words"), WordOptions())

Vectors cannot be sent, so every place of the prompt takes a word of a list, and the search is
`adaptation.search.Words` (Diao et al. 2022). `prompt.json` in the folder has the best prompt and its scores,
`search.jsonl` what the endpoint said and in which of its two ways, so that a search that was cut off pays
again for no more than it was at: one population with its favourite, or the held-out examples once.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from maquette.adaptation.black_box import LossName, Outcome, outcomes
from maquette.adaptation.search import Array, Words
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock, write_json
from maquette.base.machine import resident
from maquette.base.statistics import Share
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.example import Example, read_examples
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import Template
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import MANIFEST
from maquette.corpus.tokenizer import Tokenizer, byte_tokenizer
from maquette.serving.endpoint import Endpoint
from maquette.workshop.adapt_resume import check_begun, occupied
from maquette.workshop.prompt_search import (
    LOG,
    SearchLog,
    SearchOptions,
    begun_with,
    check_choices,
    drawn,
    has_choices,
    search,
)
from maquette.worlds.questions.registry import question_worlds

PROMPT = "prompt.json"
SHORTLIST = 100  # words of the examples
TESTED = 200  # examples that are scored before and after, at most
HELDOUT = 0.3  # of examples that no corpus has divided
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class WordOptions(SearchOptions):
    """How words are searched."""

    places: int = 5
    """number of words of the prompt"""
    loss: LossName = "cross-entropy"
    """loss over the choices of an example"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.places < 1:
            raise WrongUse(f"places is {self.places}: use at least 1")


def prompt_words(
    endpoint: Endpoint,
    source: str,
    path: Path,
    options: WordOptions,
    *,
    words: Path | None = None,
    fields: Mapping[str, str] | None = None,
    template: str = Template.text,
    resume: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Search words for a model behind an endpoint; returns what `prompt.json` in the folder `path` has.

    source: a corpus of examples, files of records, or a world of questions. words: file of words to choose
    from, one a line; None: the most frequent of the examples and the choices. Raises WrongUse where `path`
    exists and nothing is resumed, UserError for what the endpoint does not do.
    """
    if occupied(path) and not resume:
        raise WrongUse(f"{path} exists: choose another --run, or go on with --resume")
    check_begun(path / LOG, path)
    known, held, written = examples_of(source, fields, template)
    seen, others = drawn(known, options.examples, options.seed)
    shortlist = read_words(words) if words else frequent_words([*seen, *others])
    held = held[:TESTED]
    check_choices([*seen, *others, *held])
    with lock(path / ".lock", f"{path} is being searched by another process: wait for it"):
        identity = asdict(options) | {
            "endpoint": endpoint.url, "model": endpoint.model, "words": shortlist,
            "template": written.text, "data": [e.digest().hex()[:16] for e in (*seen, *others)],
        }  # fmt: skip
        begun = begun_with(path / LOG)
        if begun is None:  # says what the endpoint cannot do before anything is written
            endpoint.log_likelihoods([asked_of(seen[0], written, "")])
        else:
            endpoint.way = begun.get("way")
        log = SearchLog(path / LOG, identity | {"way": endpoint.way})

        def prompt(candidate: Array) -> str:
            return " ".join(shortlist[i] for i in candidate)

        def outcome(text: str, examples: Sequence[Example]) -> Outcome:
            return outcome_of(endpoint, examples, written, text, options.loss)

        def once(name: str, text: str) -> Outcome:
            record = log.next()
            if record is None:
                record = {name: asdict(outcome(text, held))}
                log.write(record)
            return Outcome(**record[name])

        before = once("before", "")
        found = search(
            Words(options.places, len(shortlist), options.population, options.seed), options, log,
            lambda candidates: [outcome(prompt(c), seen).loss for c in candidates],
            lambda candidate: outcome(prompt(candidate), others), progress=progress, say=say,
        )  # fmt: skip
        after = once("after", prompt(found.candidate))
        right = before.right is not None
        result = {  # the first as `Adaptation.to_dict` has them
            "run": str(path),
            "base": endpoint.url,
            "method": "black-box",
            "adapter": "words",
            "trained_parameters": 0,
            "base_parameters": None,
            "metric": "share of held-out questions answered right, of their choices"
            if right
            else "nats of a held-out answer",
            "metric_before": before.right if right else before.loss,
            "metric_after": after.right if right else after.loss,
            "stderr_before": _stderr(before, len(held)),
            "stderr_after": _stderr(after, len(held)),
            "scored": len(held),
            "forgetting": None,
            "minutes": found.seconds / 60,
            "peak_memory": float(resident()),
            "learning_rate": None,
            "weight_decay": None,
            "prompt": prompt(found.candidate),
            "model": endpoint.model,
            "template": written.text,
            "searched_words": len(shortlist),
            "before": asdict(before),
            "after": asdict(after),
            "chosen_by": asdict(found.chosen_by),
            "calls": found.calls,
            "requests": endpoint.requests,
        }
        write_json(path / PROMPT, result)
    return result


def examples_of(
    source: str, fields: Mapping[str, str] | None, template: str
) -> tuple[list[Example], list[Example], Template]:
    """Examples to search with, held-out ones, and how they are written; conversations are left out."""
    if (Path(source).expanduser() / MANIFEST).exists():
        corpus = ExamplesCorpus(source)
        sides = [corpus.examples(split) for split in ("train", "heldout")]
        written = _plain(corpus.manifest["template"], corpus.tokenizer)
    else:
        path = Path(source).expanduser()
        if not path.exists() and source not in question_worlds():
            raise UserError(f"{source} does not exist: name examples, with prompt and answer")
        sides, written = [[], []], _plain(template, byte_tokenizer())
        for example in dict.fromkeys(read_examples([path if path.exists() else source], fields)):
            key = int.from_bytes(example.prompt_digest()[:8], "big")
            sides[key < HELDOUT * 2**64].append(example)
    known, held = ([e for e in side if not e.history] for side in sides)
    if not held:
        raise UserError(f"{source} has {len(known)} examples, none of which is held out: name more")
    return known, held, written


def _plain(text: str, tokenizer: Tokenizer) -> Template:
    """The template that a question is sent in: a chat template is the endpoint's own to write."""
    template = template_of(text, tokenizer)
    return template if isinstance(template, Template) else Template()


def asked_of(example: Example, template: Template, prompt: str) -> tuple[str, tuple[str, ...]]:
    """A question as text after a prompt, and its answers; an answer without others alone."""
    context = template.context(example.prompt)
    answers = example.choices if has_choices(example) else (example.answer,)
    return (
        f"{prompt}\n{context}" if prompt else context,
        tuple(template.answer(example.prompt, answer) for answer in answers),
    )


def outcome_of(
    endpoint: Endpoint,
    examples: Sequence[Example],
    template: Template,
    prompt: str,
    loss: LossName,
) -> Outcome:
    """What the endpoint makes of examples after a prompt."""
    found = endpoint.log_likelihoods([asked_of(example, template, prompt) for example in examples])
    table = torch.full((1, len(found), max(map(len, found))), -torch.inf, dtype=torch.float64)
    for number, values in enumerate(found):
        table[0, number, : len(values)] = torch.tensor(values, dtype=torch.float64)
    right = [
        example.answer_index if example.answer_index is not None and len(values) > 1 else 0
        for example, values in zip(examples, found, strict=True)
    ]
    return outcomes(table, torch.tensor(right), loss)[0]


def _stderr(outcome: Outcome, examples: int) -> float | None:
    """The standard error of a share of so many examples that are right; None: a loss is known alone."""
    if outcome.right is None:
        return None
    return Share(round(outcome.right * examples), examples).mean.stderr


def frequent_words(examples: Sequence[Example]) -> list[str]:
    """The words of the choices, and the most frequent ones of the prompts."""
    chosen = dict.fromkeys(
        word for e in examples for text in (*e.choices, e.answer) for word in WORD.findall(text)
    )
    counts = Counter(word for example in examples for word in WORD.findall(example.prompt))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    words = list(dict.fromkeys([*list(chosen)[: SHORTLIST // 2], *ordered]))[:SHORTLIST]
    if len(words) < 2:
        raise UserError("the examples have too few words to choose from: name some with --words")
    return words


def read_words(path: Path) -> list[str]:
    """The words of a file, one a line."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a file with a word a line")
    lines = path.read_text(encoding="utf-8").splitlines()
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(words) < 2:
        raise UserError(f"{path} has {len(words)} words: write at least two, one a line")
    return words
