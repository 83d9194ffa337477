"""Metrics of a task: a value for every question, and how the values become one, with its standard error.

    mean         acc, acc_norm, acc_bytes, acc_calibrated, acc_mutual_info, exact_match, brier_score
    exponential  perplexity: exp of the mean; word_perplexity, byte_perplexity: weighted by words, bytes
    weighted     bits_per_byte: by bytes

The standard error of a mean is that of lm-evaluation-harness; those of the others are linearised (the
harness draws a bootstrap of perplexity, and gives none of what is weighted).
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.statistics import Mean, weighted_mean
from maquette.evaluation.likelihood import Likelihood
from maquette.evaluation.tasks.config import EXACT_MATCH, LOWER

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """A metric's value of every question."""

    metric: str
    values: Array
    weights: Array | None = None
    filter: str | None = None

    @property
    def name(self) -> str:
        """As results name it: with the filter, where that has a name."""
        return self.metric if self.filter in (None, "none") else f"{self.metric},{self.filter}"

    @property
    def higher_is_better(self) -> bool:
        return self.metric not in LOWER

    def mean(self, chosen: npt.NDArray[np.bool_] | None = None) -> Mean:
        """The metric over the questions, or some of them, with its standard error."""
        which = np.ones(len(self.values), bool) if chosen is None else chosen
        weights = None if self.weights is None else self.weights[which]
        found = weighted_mean(self.values[which], weights)
        if not self.metric.endswith("perplexity") or found.mean is None:
            return found
        value = math.exp(min(found.mean, 700))
        stderr = None if found.stderr is None else value * found.stderr
        return Mean(found.examples, value, stderr)


def choice_values(
    names: Sequence[str],
    choices: Sequence[Sequence[str]],
    right: Sequence[Sequence[int]],
    scores: Sequence[Sequence[Likelihood]],
    prior: Sequence[Array] | None = None,
    unconditional: Sequence[Sequence[Likelihood]] | None = None,
) -> list[Values]:
    """Of questions with choices. prior: log-probabilities of the choices with nothing asked."""
    rows: dict[str, list[float]] = {name: [] for name in names}
    for number, (texts, wanted, found) in enumerate(zip(choices, right, scores, strict=True)):
        s = np.array([one.log_likelihood for one in found])
        compared = {
            "acc": s,
            "acc_norm": s / [float(len(text)) for text in texts],
            "acc_bytes": s / [float(len(text.encode())) for text in texts],
        }
        if prior is not None:
            compared["acc_calibrated"] = s - prior[number]
        if unconditional is not None:
            compared["acc_mutual_info"] = s - [one.log_likelihood for one in unconditional[number]]
        for name in names:
            if name in compared:
                rows[name].append(float(int(np.argmax(compared[name])) in wanted))
            elif name == "exact_match":
                rows[name].append(float(any(found[i].greedy for i in wanted)))
            else:  # brier_score
                p = np.exp(s - s.max())
                truth = np.zeros(len(s))
                truth[wanted[0]] = 1
                rows[name].append(float(np.square(p / p.sum() - truth).sum()))
    return [Values(name, np.array(values)) for name, values in rows.items()]


def likelihood_values(names: Sequence[str], scores: Sequence[Likelihood]) -> list[Values]:
    """Of questions with one answer, whose likelihood is asked."""
    found = {
        "perplexity": [-one.log_likelihood for one in scores],
        "acc": [float(one.greedy) for one in scores],
    }
    return [Values(name, np.array(found[name])) for name in names]


def rolling_values(
    names: Sequence[str], texts: Sequence[str], nats: Sequence[float]
) -> list[Values]:
    """Of texts that are scored whole; empty ones count nothing. nats: minus the log-likelihood of each.

    Raises UserError where all are empty.
    """
    scored = [(text, value) for text, value in zip(texts, nats, strict=True) if text]
    if not scored:
        raise UserError("the task's texts are all empty: look at doc_to_target")
    sizes = np.array([float(len(text.encode())) for text, _ in scored])
    words = np.array([float(len(re.split(r"\s+", text))) for text, _ in scored])
    total = np.array([value for _, value in scored])
    found = {
        "word_perplexity": Values("word_perplexity", total / words, words),
        "byte_perplexity": Values("byte_perplexity", total / sizes, sizes),
        "bits_per_byte": Values("bits_per_byte", total / sizes / math.log(2), sizes),
    }
    return [found[name] for name in names]


def exact_match(answer: str, targets: Sequence[str], options: Mapping[str, Any]) -> float:
    """Whether an answer is one of the targets, but for what the options ignore."""
    assert options.keys() <= EXACT_MATCH

    def plain(text: str) -> str:
        for pattern in options.get("regexes_to_ignore") or ():
            text = re.sub(pattern, "", text)
        if options.get("ignore_case"):
            text = text.lower()
        if options.get("ignore_punctuation"):
            text = text.translate(str.maketrans("", "", string.punctuation))
        if options.get("ignore_numbers"):
            text = text.translate(str.maketrans("", "", string.digits))
        return text

    return float(plain(answer) in {plain(target) for target in targets})
