"""Ask a model a task: every request of it at once, and what each question scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import Tokenizer
from maquette.evaluation.encoding import PairEncoder, rolling_requests
from maquette.evaluation.generation import generate_answers
from maquette.evaluation.likelihood import Likelihood, Request, log_likelihoods, truncated
from maquette.evaluation.tasks.filters import take_first
from maquette.evaluation.tasks.metrics import (
    Array,
    Values,
    choice_values,
    exact_match,
    likelihood_values,
    rolling_values,
)
from maquette.evaluation.tasks.task import SEED, Question, Task
from maquette.models.base import LanguageModel

Progress = Callable[[int, int], None]


@dataclass
class TaskScore:
    """What a model scored on a task, question by question."""

    task: str
    shots: int
    metrics: list[Values]
    texts: list[str]
    """every question with its right answer, without the examples: what training text may hold"""
    truncated: int
    """requests longer than the model's context, whose first tokens were left out"""
    requests: int
    answers: list[str] | None = None
    """what was generated, or the choice that was taken"""

    def __len__(self) -> int:
        return len(self.texts)


def evaluate_task(
    model: LanguageModel,
    tokenizer: Tokenizer,
    task: Task,
    shots: int = 0,
    *,
    limit: int | None = None,
    seed: int = SEED,
    progress: Progress = lambda done, total: None,
) -> TaskScore:
    """Score a task with so many examples shown. limit: of the questions. seed: of the examples' choice.

    Raises UserError for a task that cannot be asked, before anything is scored.
    """
    questions = task.questions(limit)
    prefixes = task.prefixes(shots, limit, seed)
    ways = {
        "multiple_choice": _choices,
        "loglikelihood": _likelihood,
        "loglikelihood_rolling": _rolling,
        "generate_until": _generate,
    }
    found = ways[task.config.output_type](
        _TaskInputs(model, tokenizer, task, questions, prefixes, progress)
    )
    rolling = task.config.output_type == "loglikelihood_rolling"
    between = task.config.target_delimiter
    texts = [q.answer if rolling else f"{_shown(q)}{between}{q.answer}" for q in questions]
    return TaskScore(
        task.name, shots, found.metrics, texts, found.truncated, found.requests, found.answers
    )


@dataclass
class _TaskInputs:
    model: LanguageModel
    tokenizer: Tokenizer
    task: Task
    questions: list[Question]
    prefixes: list[str]
    progress: Progress

    @property
    def names(self) -> list[str]:
        return [metric.name for metric in self.task.config.metric_list]

    def score(self, requests: Sequence[Request]) -> list[Likelihood]:
        return log_likelihoods(self.model, requests, progress=self.progress)


@dataclass
class _TaskScores:
    metrics: list[Values]
    truncated: int
    requests: int
    answers: list[str] | None = None


def _shown(question: Question) -> str:
    return question.texts[question.right[0]] if len(question.texts) > 1 else question.text


def _choices(asked: _TaskInputs) -> _TaskScores:
    encode, between = PairEncoder(asked.tokenizer), asked.task.config.target_delimiter
    calibrated, mutual = "acc_calibrated" in asked.names, "acc_mutual_info" in asked.names
    requests: list[Request] = []
    counts: list[int] = []
    for question, prefix in zip(asked.questions, asked.prefixes, strict=True):
        if len(question.texts) > 1:
            if calibrated or mutual:
                raise UserError(
                    f"{asked.task.name}: acc_calibrated and acc_mutual_info are of choices after one text, "
                    f"and here the text differs: leave them out"
                )
            pairs = [(prefix + text, between + question.targets[0]) for text in question.texts]
        else:
            contexts = [question.text, *question.neutral] if calibrated else [question.text]
            pairs = [(prefix + text, between + c) for text in contexts for c in question.choices]
            if mutual:
                pairs += [("", between + choice) for choice in question.choices]
        requests += [encode(*pair) for pair in pairs]
        counts.append(len(pairs))
    scores = iter(asked.score(requests))
    own: list[list[Likelihood]] = []
    prior: list[Array] = []
    unconditional: list[list[Likelihood]] = []
    for question, count in zip(asked.questions, counts, strict=True):
        found = [next(scores) for _ in range(count)]
        n = len(question.choices)
        own.append(found[:n])
        if calibrated:
            neutral = found[n : n * (1 + len(question.neutral))]
            prior.append(_prior(neutral, n))
        if mutual:
            unconditional.append(found[-n:])
    values = choice_values(
        asked.names,
        [q.choices for q in asked.questions],
        [q.right for q in asked.questions],
        own,
        prior if calibrated else None,
        unconditional if mutual else None,
    )
    taken = [
        q.choices[int(np.argmax([one.log_likelihood for one in found]))]
        for q, found in zip(asked.questions, own, strict=True)
    ]
    return _TaskScores(values, truncated(asked.model, requests), len(requests), taken)


def _prior(neutral: Sequence[Likelihood], choices: int) -> Array:
    """Log of the choices' mean probabilities when nothing is asked (Zhao et al. 2021, section 5)."""
    scores = np.array([one.log_likelihood for one in neutral]).reshape(-1, choices)
    if not len(scores):  # several contexts: there is nothing to leave out
        return np.zeros(choices)
    p = np.exp(scores - scores.max(1, keepdims=True))
    log: Array = np.log((p / p.sum(1, keepdims=True)).mean(0))
    return log


def _likelihood(asked: _TaskInputs) -> _TaskScores:
    encode = PairEncoder(asked.tokenizer)
    requests = [
        encode(prefix + question.text, question.targets[0])
        for question, prefix in zip(asked.questions, asked.prefixes, strict=True)
    ]
    values = likelihood_values(asked.names, asked.score(requests))
    return _TaskScores(values, truncated(asked.model, requests), len(requests))


def _rolling(asked: _TaskInputs) -> _TaskScores:
    texts = [question.answer for question in asked.questions]
    start, context = asked.tokenizer.special.start, asked.model.config.context
    requests: list[Request] = []
    owner: list[int] = []
    for number, text in enumerate(texts):
        own = list(rolling_requests(asked.tokenizer.encode(text), start, context))
        requests += own
        owner += [number] * len(own)
    nats = np.zeros(len(texts))
    for number, one in zip(owner, asked.score(requests), strict=True):
        nats[number] -= one.log_likelihood
    return _TaskScores(rolling_values(asked.names, texts, nats.tolist()), 0, len(requests))


def _generate(asked: _TaskInputs) -> _TaskScores:
    config = asked.task.config
    repeated = [i for i in range(len(asked.questions)) for _ in range(config.repeats)]
    prompts = [asked.prefixes[i] + asked.questions[i].text for i in repeated]
    if not all(prompts):
        config.fault("doc_to_text", "gives an empty prompt: write what the model is to continue")
    answers, cut = generate_answers(
        asked.model,
        asked.tokenizer,
        prompts,
        _kwargs(asked, repeated),
        until=config.generation_kwargs.get("until", [config.fewshot_delimiter]),
        progress=asked.progress,
    )
    if config.generation_kwargs.get("restrict") == "choices":
        answers = [text.removeprefix(config.target_delimiter) for text in answers]
    pipelines = config.filter_list or ((None, (take_first(),)),)
    values, first = [], None
    for name, steps in pipelines:
        filtered = []
        for number in range(len(asked.questions)):
            texts = answers[number * config.repeats : (number + 1) * config.repeats]
            for step in steps:
                texts = step(texts)
            if not texts:
                raise UserError(
                    f"{config.task}: the filter {name} leaves no answer: mend filter_list"
                )
            filtered.append(texts[0])
        first = first or filtered
        for metric in config.metric_list:
            scores = [
                exact_match(text, _targets(question), metric.options)
                for text, question in zip(filtered, asked.questions, strict=True)
            ]
            values.append(Values(metric.name, np.array(scores), None, name))
    return _TaskScores(values, cut, len(prompts), first)


def _targets(question: Question) -> Sequence[str]:
    return [question.choices[i] for i in question.right] if question.choices else question.targets


def _kwargs(asked: _TaskInputs, repeated: Sequence[int]) -> Mapping[str, Any]:
    """How answers are generated: the config's words, with the choices of every prompt."""
    config, given = asked.task.config, dict(asked.task.config.generation_kwargs)
    if given.get("restrict") == "choices":
        if config.doc_to_choice is None:
            config.fault(
                "generation_kwargs", "restricts to choices, and there is no doc_to_choice: add it"
            )
        # A prompt that ends with a letter is gone on from with a space.
        given["restrict"] = [
            tuple(config.target_delimiter + choice for choice in asked.questions[i].choices)
            for i in repeated
        ]
    return given
