"""Scores of a station on the way to chat: what it is worth as a model of text, and what it answers.

Every station is asked the same held-out questions in the same words, greedily: the share of answers that are
right, with its standard error; bits per byte of answers cut from held-out documents; bits per
byte of held-out text; and a conversation.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maquette.base.statistics import Mean, weighted_mean
from maquette.corpus.examples.example import Example
from maquette.corpus.examples.results import is_right
from maquette.corpus.examples.template import Template
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import score_corpus
from maquette.evaluation.generation import generate_answers
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.serving.chat import Chat
from maquette.serving.sampler import Sampling
from maquette.workshop.load import Loaded

TEXT_BYTES = 200_000  # of held-out text
ANSWER = 40  # tokens of an answer


@dataclass(frozen=True)
class Station:
    """The scores of a station."""

    name: str
    run: str
    bits_per_byte: Mean
    """bits per byte of the base's held-out text"""
    pair_bits: Mean | None
    """bits per byte of answers cut from held-out documents; None: nothing could be cut"""
    pairs: Mean | None
    """share of these that are right"""
    groups: dict[str, Mean]
    """share of the held-out questions of each group of worlds that are right"""
    conversation: list[tuple[str, str]]
    """questions and answers of one conversation"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_station(
    name: str,
    loaded: Loaded,
    template: Template,
    corpus: Corpus,
    groups: dict[str, list[Example]],
    pairs: Sequence[Example],
    questions: Sequence[str],
) -> Station:
    """The scores of a run. corpus: the base's text; questions: of the conversation."""
    text = score_corpus(
        loaded.model, corpus, start=loaded.tokenizer.special.start, most_bytes=TEXT_BYTES
    )["all"]
    return Station(
        name,
        str(loaded.path),
        Mean(text.documents, text.bits_per_byte, text.stderr),
        answer_bits(loaded, template, pairs) if pairs else None,
        right(loaded, template, pairs) if pairs else None,
        {group: right(loaded, template, asked) for group, asked in groups.items() if asked},
        conversation(loaded, template, questions),
    )


def right(loaded: Loaded, template: Template, examples: Sequence[Example]) -> Mean:
    """The share of examples whose greedy answer is right, whatever its letters and spaces."""
    prompts = [template.context(one.prompt) for one in examples]
    most = min(ANSWER, loaded.model.config.context // 2)
    answers, _ = generate_answers(
        loaded.model, loaded.tokenizer, prompts, {"max_gen_toks": most}, until=["\n"]
    )
    scores = [
        float(is_right(answer, one.answer)) for answer, one in zip(answers, examples, strict=True)
    ]
    return weighted_mean(scores)


def answer_bits(loaded: Loaded, template: Template, examples: Sequence[Example]) -> Mean:
    """Bits per byte of the answers, each given its prompt; the ends are not scored."""
    requests, sizes = [], []
    for one in examples:
        ((context, learned),) = template.turns([(one.prompt, one.answer)], loaded.tokenizer)
        requests.append(Request(tuple(context), tuple(learned[:-1])))
        sizes.append(len(one.answer.encode()) + 1)  # the space before it
    scored = log_likelihoods(loaded.model, requests)
    bits = [
        -one.log_likelihood / math.log(2) / size for one, size in zip(scored, sizes, strict=True)
    ]
    return weighted_mean(bits, sizes)


def conversation(
    loaded: Loaded, template: Template, questions: Sequence[str]
) -> list[tuple[str, str]]:
    """One conversation, greedily."""
    tokens = min(ANSWER, loaded.model.config.context // 4)
    chat = Chat(
        loaded.model, loaded.tokenizer, template, tokens=tokens, sampling=Sampling(temperature=0)
    )
    for question in questions:
        chat.ask(question)
    return chat.history
