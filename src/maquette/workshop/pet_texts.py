"""The texts of PET: read, split, written in each pattern, and scored by a model."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from maquette.adaptation.pet import Array, Numbers, find_words
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.cloze import Words, encode_contexts, encode_words
from maquette.corpus.examples.patterns import (
    LabelledText,
    Pattern,
    Patterns,
    labelled_texts,
    plain_patterns,
    unlabelled_texts,
)
from maquette.corpus.tokenizer import Tokenizer
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.models.base import LanguageModel
from maquette.workshop.load import Loaded

HELDOUT = 0.2  # of labelled texts in files, where none are held out by name
ROWS = 64  # contexts of a batch
Context = tuple[int, ...]


@dataclass(frozen=True)
class Texts:
    """Labelled, held-out and unlabelled texts, and the names of the labels."""

    labels: tuple[str, ...]
    labelled: list[LabelledText]
    heldout: list[LabelledText]
    unlabelled: list[LabelledText]

    @property
    def numbers(self) -> Numbers:
        """Number of the label of each labelled text."""
        return self._numbers(self.labelled)

    @property
    def heldout_numbers(self) -> Numbers:
        """Number of the label of each held-out text."""
        return self._numbers(self.heldout)

    def _numbers(self, texts: Sequence[LabelledText]) -> Numbers:
        return np.array([self.labels.index(text.label or "") for text in texts], np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what decides an outcome."""
        sides = (self.labelled, self.heldout, self.unlabelled)
        return {"texts": [[[dict(t.fields), t.label] for t in side] for side in sides]}


def read_texts(
    source: str,
    unlabelled: str,
    heldout: str | None,
    patterns: Patterns | None,
    *,
    fields: Mapping[str, str] | None = None,
    labels: int | None = None,
    seed: int = 0,
) -> tuple[Texts, Patterns]:
    """Labelled texts of a corpus of examples or of files, texts without labels, and the patterns.

    heldout: a file of held-out texts with labels; None: the corpus' own, a fifth of the files'. labels:
    number of labelled texts that are drawn by the seed; None: all. Held-out texts are taken out of the
    others. Raises UserError where nothing is left, and for a label without a word.
    """
    known, own, choices = labelled_texts(source, fields)
    if heldout is not None:
        first, second, more = labelled_texts(heldout, fields)
        own, choices = [*first, *second], (*choices, *more)
    elif not own:
        known.sort(key=lambda text: hashlib.sha256(text.prompt.encode()).digest())
        size = max(1, round(HELDOUT * len(known)))
        own, known = known[:size], known[size:]
    if patterns is None:
        patterns = plain_patterns([*known, *own], choices)
    patterns.check([*known, *own])
    apart = {text.prompt for text in own}
    known = [text for text in known if text.prompt not in apart]
    pool = [text for text in unlabelled_texts(unlabelled, fields) if text.prompt not in apart]
    if labels is not None and labels < len(known):
        known = _balanced(known, labels, seed)
    for name, texts in {"labelled": known, "held-out": own, "unlabelled": pool}.items():
        if not texts:
            raise UserError(f"there is no {name} text besides the others: add some")
    return Texts(patterns.labels, known, own, pool), patterns


def _balanced(texts: list[LabelledText], count: int, seed: int) -> list[LabelledText]:
    """Texts drawn by the seed, of every label as many as there can be."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    by_label: dict[str | None, list[int]] = {}
    for number in order:
        by_label.setdefault(texts[number].label, []).append(number)
    rounds = [
        number
        for place in range(len(texts))
        for label in sorted(by_label, key=str)
        for number in by_label[label][place : place + 1]
    ]
    return [texts[number] for number in rounds[:count]]


@dataclass(frozen=True)
class PatternTexts:
    """Texts as one pattern writes them, in tokens.

    words: of each label, as text. word_tokens: the same in tokens. sequence: tokens that the longest context
    takes with the longest word. labels, heldout_labels: numbers of the right labels.
    """

    pattern: Pattern
    words: Mapping[str, tuple[str, ...]]
    word_tokens: Words
    labelled: list[Context]
    heldout: list[Context]
    unlabelled: list[Context]
    labels: Numbers
    heldout_labels: Numbers
    sequence: int

    def scores(self, model: LanguageModel, contexts: Sequence[Context]) -> Array:
        """How likely the words of each label follow, (texts, labels) in nats: means over the words."""
        requests = [
            Request(context, word)
            for context in contexts
            for own in self.word_tokens
            for word in own
        ]
        found = iter(log_likelihoods(model, requests))
        return np.array(
            [
                [np.mean([next(found).log_likelihood for _ in own]) for own in self.word_tokens]
                for _ in contexts
            ]
        )

    def accuracy(self, model: LanguageModel, which: Literal["labelled", "heldout"]) -> Any:
        """Whether the likeliest label of each text is the right one, (texts,) bool."""
        contexts, labels = {
            "labelled": (self.labelled, self.labels),
            "heldout": (self.heldout, self.heldout_labels),
        }[which]
        return self.scores(model, contexts).argmax(-1) == labels


def views(
    base: Loaded,
    tokenizer: Tokenizer,
    texts: Texts,
    patterns: Patterns,
    found_words: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[PatternTexts]:
    """The texts in every pattern; found_words: see `PetOptions`."""
    context, shown = base.model.config.context, []
    for pattern in patterns.patterns:
        words, tokens = dict(patterns.words), encode_words(patterns, pattern, tokenizer)
        if found_words:
            tokens = _found(base.model, tokenizer, texts, pattern, found_words, context)
            words = {
                label: tuple(tokenizer.decode(word) for word in own)
                for label, own in zip(texts.labels, tokens, strict=True)
            }
            say(
                f"words of {pattern.text!r}: "
                + "; ".join(f"{k}: {', '.join(v)}" for k, v in words.items())
            )
        longest = max(len(word) for own in tokens for word in own)
        if longest >= context:
            raise WrongUse(
                f"a word has {longest} tokens, more than the model's context: shorten it"
            )
        room = context - longest + 1
        labelled, heldout, unlabelled = (
            encode_contexts(pattern, side, tokenizer)
            for side in (texts.labelled, texts.heldout, texts.unlabelled)
        )
        everything = [*labelled, *heldout, *unlabelled]
        if cut := sum(len(one) > room for one in everything):
            say(
                f"{cut:,} texts are longer than the model's context in {pattern.text!r}: they lose their "
                "beginning"
            )
        shown.append(
            PatternTexts(
                pattern, words, tokens,
                [c[-room:] for c in labelled],
                [c[-room:] for c in heldout],
                [c[-room:] for c in unlabelled],
                texts.numbers, texts.heldout_numbers,
                min(room, max(map(len, everything))) + longest - 1,
            )
        )  # fmt: skip
    return shown


@torch.inference_mode()
def _found(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Texts,
    pattern: Pattern,
    count: int,
    context: int,
) -> Words:
    """Words for every label of a pattern, found on the labelled texts by the model as it is."""
    contexts = encode_contexts(pattern, texts.labelled, tokenizer)
    device = model.device
    rows = [
        model(torch.tensor([one[-context:]], device=device))[0, -1]
        .log_softmax(-1)
        .double()
        .cpu()
        .numpy()
        for one in contexts
    ]
    before = pattern.word("")
    vocabulary = min(tokenizer.vocabulary, model.config.vocabulary)
    written = [tokenizer.decode([token]) for token in range(vocabulary)]
    candidates = np.array(
        [
            token
            for token, text in enumerate(written)
            if text.startswith(before) and len(word := text[len(before) :]) > 1 and word.isalpha()
        ],
        np.int64,
    )  # Schick et al. 2020: tokens that begin a word, of two letters at least
    if not len(candidates):
        raise WrongUse("the tokenizer has no token that is a word: name the words in --patterns")
    found = find_words(np.stack(rows), texts.numbers, count, candidates)
    for label, own in zip(texts.labels, found, strict=False):
        if not own:
            raise UserError(
                f"no word was found for {label}: give more labelled texts, or its words"
            )
    if len(found) < len(texts.labels):
        raise UserError(f"{texts.labels[len(found)]} has no labelled text: words need one at least")
    return tuple(tuple((token,) for token in own) for own in found)
