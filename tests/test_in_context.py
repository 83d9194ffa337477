"""What is asked of a decoder's context is what its documents did not tell, and is scored as it should be."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maquette.corpus.tokenizer import byte_tokenizer
from maquette.evaluation.likelihood import log_likelihoods
from maquette.experiments.bases.bursts import World
from maquette.experiments.bases.made_documents import asked, right_choices
from maquette.models.config import DecoderConfig
from maquette.systems import bursty_data, stress


@pytest.fixture(scope="module")
def run():
    model = DecoderConfig(vocabulary=257, context=64, width=16, depth=1, heads=1).build()
    model.initialise(0).eval()
    with torch.no_grad():  # as initialised all scores are alike
        model.output.weight.normal_(generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(model=model, tokenizer=byte_tokenizer())


def test_the_first_answer_is_right_where_it_is_the_likeliest(run):
    answers = ["x", "y", "z"]
    scores = [one.log_likelihood for one in log_likelihoods(run.model, asked(run, "ab:", answers))]
    best = answers[int(np.argmax(scores))]
    questions = [
        ("ab:", [first, *(other for other in answers if other != first)]) for first in answers
    ]
    assert right_choices(run, questions) == [first == best for first in answers]


def test_both_orders_hold_the_same_pairs_and_one_has_bursts():
    world = World(0)
    bursty, other = (world.documents(300, bursty) for bursty in (True, False))
    assert Counter(bursty.ravel().tolist()) == Counter(other.ravel().tolist())
    before = [(row[:-1] == row[-1]).sum() for row in bursty]
    assert min(before) >= 3
    assert np.mean([(row[:-1] == row[-1]).sum() for row in other]) < 1


def pairs(context):
    """The names that a context shows, with their labels."""
    return re.findall(r"([A-Z][a-z]{2})(.)", context)


def test_new_names_are_in_no_document_and_known_ones_not_in_their_own_context():
    world = World(1)
    assert not set(world.known) & set(world.never)
    found = bursty_data.questions(world, 50)
    for context, answers in found[bursty_data.CONTEXT]:
        name = context[-3:]
        assert name in world.never
        shown = pairs(context)
        assert Counter(label for other, label in shown if other == name) == {answers[0]: 4}
        assert Counter(label for other, label in shown if other != name) == {answers[1]: 4}
    for context, answers in found[bursty_data.HEART]:
        name = context[-3:]
        assert answers[0] == world.labels[world.known.index(name)]
        assert name not in [other for other, _ in pairs(context)]


@pytest.mark.parametrize("questions", [stress.known_questions, stress.fresh_questions])
def test_kinds_of_labels_differ_in_the_labels_alone(questions):
    world = World(2)
    kinds = {
        kind: questions(world, kind, 20) for kind in (stress.RIGHT, stress.RANDOM, stress.OUTSIDE)
    }
    for right, random, outside in zip(*kinds.values(), strict=True):
        assert right[1] == random[1] == outside[1]
        shown = [pairs(context) for context, _ in (right, random, outside)]
        assert len({tuple(name for name, _ in each) for each in shown}) == 1
        assert len({context[-3:] for context, _ in (right, random, outside)}) == 1
        assert all(label.isupper() for _, label in shown[2])
        assert right[0] != random[0]


def test_correlation_inflates_the_variance_as_the_law_says():
    ratios = stress.inflation(3, 400)
    assert ratios[:, 0] == pytest.approx(1)
    law = 1 / (1 - np.square(stress.CORRELATIONS))
    assert np.abs(ratios / law - 1).max() < 0.25
