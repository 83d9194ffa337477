"""What is asked of a decoder's context is what its documents did not tell, and is scored as it should be."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maquette.corpus.tokenizer import byte_tokenizer
from maquette.evaluation.likelihood import log_likelihoods
from maquette.experiments.bases import few_shot_ladder, number_tables
from maquette.experiments.bases.bursts import World
from maquette.experiments.bases.made_documents import asked, exact_matches, right_choices
from maquette.models.config import DecoderConfig
from maquette.systems import (
    arithmetic_tokens,
    bursty_data,
    gpt3_arithmetic,
    gpt3_few_shot,
    gpt3_words,
    gpt3_years,
    stress,
)


@pytest.fixture(scope="module")
def run():
    model = DecoderConfig(vocabulary=257, context=64, width=16, depth=1, heads=1).build()
    model.initialise(0).eval()
    with torch.no_grad():  # as initialised all scores are alike
        model.output.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.output.weight[128:] = 0  # so that what greedy decoding writes is text
    return SimpleNamespace(model=model, tokenizer=byte_tokenizer())


def test_the_first_answer_is_right_where_it_is_the_likeliest(run):
    answers = ["x", "y", "z"]
    scores = [one.log_likelihood for one in log_likelihoods(run.model, asked(run, "ab:", answers))]
    best = answers[int(np.argmax(scores))]
    questions = [
        ("ab:", [first, *(other for other in answers if other != first)]) for first in answers
    ]
    assert right_choices(run, questions) == [first == best for first in answers]


def test_an_exact_match_is_what_greedy_decoding_writes(run):
    tokens = [256, *b"ab:"]
    for _ in range(3):
        with torch.inference_mode():
            tokens.append(int(run.model(torch.tensor([tokens]))[0, -1].argmax()))
    written = bytes(tokens[-3:]).decode()
    other = chr(tokens[-1] ^ 1)
    questions = [("ab:", written), ("ab:", written[:2] + other), ("ab:", other + written[1:])]
    assert exact_matches(run, questions) == [True, False, other == written[0]]


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


def unordered(rows):
    """The two operands of each (a, b, ...), without their order."""
    return {frozenset(row[:2]) for row in rows}


def rows_of(texts, operation):
    """The rows of all tables of an operation, as numbers."""
    return [
        tuple(map(int, row.split()))
        for text in texts
        if text.startswith(number_tables.head(operation))
        for row in text.splitlines()[1:]
    ]


def test_what_is_asked_of_tables_is_in_none():
    texts = number_tables.tables(240)
    for name, n in number_tables.KINDS:
        told = unordered(rows_of(texts, name))
        asked = number_tables.table_questions(name, n, "heldout", 50)
        for context, answer in asked:
            a, b = map(int, context.splitlines()[1].split())
            assert frozenset((a, b)) not in told
            assert 10 ** (n - 1) <= min(a, b) <= max(a, b) < 10**n
            assert int(answer) == number_tables.OPERATIONS[name](a, b)


def test_totals_are_right_but_those_of_codes_which_are_others_of_their_digits():
    texts = number_tables.tables(240)
    for name in ("sum", "product"):
        rows = rows_of(texts, name)
        assert [total for _, _, total in rows] == [
            number_tables.OPERATIONS[name](a, b) for a, b, _ in rows
        ]
    codes = rows_of(texts, "code")
    for n in (2, 3, 4):
        own = [row for row in codes if len(str(row[0])) == n]
        assert Counter(total for _, _, total in own) == Counter(a + b for a, b, _ in own)
        assert np.mean([a + b == total for a, b, total in own]) < 0.1


@pytest.mark.parametrize(
    ("right", "points"), [([90.0, 50.0, 20.0], 70), ([90.0, 95.0, 20.0], 0), ([0.0, 0.0, 0.0], 0)]
)
def test_a_fall_goes_down_all_the_way(right, points):
    assert gpt3_arithmetic.fall(right) == points


@pytest.mark.parametrize(
    ("curve", "share"), [([0, 0, 8, 10], 0.8), ([-4, -3, -2], 0.5), ([1, 1, 1], 0)]
)
def test_a_jump_is_the_largest_share_of_a_rise(curve, share):
    assert gpt3_arithmetic.jump(np.array(curve)) == pytest.approx(share)


def test_years_that_are_asked_were_not_compared():
    told = set()
    for line in "".join(gpt3_years.sentences(3000)).splitlines():
        if found := re.fullmatch(r"(\d+) came (before|after) (\d+)", line):
            a, b = int(found[1]), int(found[3])
            span = next(span for span, years in gpt3_years.SPANS.items() if a in years)
            assert span != "outside"
            assert b in gpt3_years.SPANS[span]
            assert gpt3_years.order(span, a, b) == found[2]
            told.add(frozenset((a, b)))
    for span in gpt3_years.SPANS:
        for context, (right, wrong) in gpt3_years.year_questions(span, 100):
            a, (way, b) = int(context.split()[0]), right.split()
            assert frozenset((a, int(b))) not in told
            assert way == gpt3_years.order(span, a, int(b)) != wrong.split()[0]


def test_only_the_years_of_the_second_calendar_stand_for_others():
    for span, years in gpt3_years.SPANS.items():
        when = gpt3_years.time_of(span)
        assert sorted(when.values()) == list(years)
        assert (list(when.values()) == list(years)) == (span != "renamed")


def test_word_tasks_are_asked_by_rules_that_no_document_has():
    rules = [set(gpt3_words.rules(side)) for side in ("train", "heldout")]
    assert not rules[0] & rules[1]
    for back in (True, False):
        for nonce in (True, False):
            for context, wanted in gpt3_words.word_questions(back, nonce, False, 20):
                *shown, last = (context + wanted).split()
                pairs = [re.split("[=:]", pair) for pair in (*shown, last)]
                words = [pair[1 if back else 0] for pair in pairs]
                others = [pair[0 if back else 1] for pair in pairs]
                assert nonce or set(words) <= set(gpt3_words.KNOWN)
                assert any(
                    all(
                        gpt3_words.scrambled(w, rule) == o
                        for w, o in zip(words, others, strict=True)
                    )
                    for rule in rules[1]
                )


def test_maps_that_are_asked_are_in_no_document():
    told = {frozenset(text.split()) for text in few_shot_ladder.documents(300)}
    asked = gpt3_few_shot.questions(16, 50)
    for context, answers in asked:
        *shown, letter = context.split()
        pairs = dict(map(tuple, shown))
        assert pairs.get(letter, answers[0]) == answers[0]
        assert set(pairs.values()) <= set(answers)
        assert len(set(answers)) == few_shot_ladder.LETTERS
        assert frozenset(shown) not in told


def test_random_pairs_keep_the_letters_that_are_asked_and_tell_nothing():
    right, random = (gpt3_few_shot.questions(16, 100, random=way) for way in (False, True))
    assert [answers for _, answers in right] == [answers for _, answers in random]
    kept = [a[::3] == b[::3] for (a, _), (b, _) in zip(right, random, strict=True)]
    assert all(kept)
    told = [
        {pair for pair in context.split() if pair[0] == context[-1]} == {context[-1] + answers[0]}
        for context, answers in random
        if context.count(context[-1]) > 2
    ]
    assert np.mean(told) < 0.5


@pytest.mark.parametrize(("curve", "points"), [([20, 30, 90], 70), ([20, 60, 50], 0)])
def test_a_rise_does_not_fall_in_between(curve, points):
    assert gpt3_few_shot.rise(np.array(curve, float)) == points


def test_sums_that_are_asked_are_in_no_document():
    text = "".join(arithmetic_tokens.documents(400))
    told = {tuple(sorted(map(int, pair))) for pair in re.findall(r"(\d+)\+(\d+)=", text)}
    assert len(told) > 200
    for world in arithmetic_tokens.WORLDS.values():
        for context, answer in arithmetic_tokens.held_out(world, 50):
            a, b = map(int, re.findall(r"\d+", context))
            assert tuple(sorted((a, b))) not in told
            assert int(answer) == a + b
