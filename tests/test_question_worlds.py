"""Worlds of questions: the same everywhere, exact, and never asked what was trained on."""

import ast
import hashlib
import json
import operator
import re
from dataclasses import astuple

import pytest

from maquette.base.errors import WrongUse
from maquette.worlds.questions.facts import land
from maquette.worlds.questions.in_context import KINDS
from maquette.worlds.questions.registry import question_world, question_worlds, side_of
from maquette.worlds.questions.scratchpad import LENGTHS
from maquette.worlds.questions.words import WORDS
from tests.conftest import command, refused

NAMES = list(question_worlds())
KNOWN = "3be9"  # of all worlds' first questions


def test_the_questions_are_the_same_everywhere():
    asked = [astuple(q) for name in NAMES for q in question_world(name).questions(5, seed=1)]
    assert hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:4] == KNOWN


@pytest.mark.parametrize("name", NAMES)
def test_sides_hold_other_questions_whatever_the_seed(name):
    world = question_world(name)
    heldout = world.questions(40, seed=0)
    assert heldout == world.questions(40, seed=0)
    assert heldout[:9] == world.questions(9, seed=0)
    assert heldout != world.questions(40, seed=1)
    keys = {q.key for q in heldout}
    for seed in (0, 1):
        trained = world.questions(200, seed, "train")
        assert (
            not {q.question for q in trained} & {q.question for q in heldout} or world.name in SHORT
        )
        if world.kept_apart:
            assert not {q.key for q in trained} & keys
    assert len({(q.question, q.answer) for q in heldout}) == len(heldout)


SHORT = ("letter_map", "linear_function", "order_of_years")
"""worlds whose question is held out by more than its text: its rule, or both of two years"""

SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def value(node):
    if isinstance(node, ast.BinOp):
        return SIGNS[type(node.op)](value(node.left), value(node.right))
    return node.value


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("arithmetic")])
def test_sums_are_right(name):
    for one in question_world(name).questions(50):
        text = re.fullmatch(r"Q: What is (.+)\?\nA:", one.question)[1]
        for word, sign in (("plus", "+"), ("minus", "-"), ("times", "*")):
            text = text.replace(word, sign)
        assert one.answer == str(value(ast.parse(text, mode="eval").body))


def test_the_steps_of_column_addition_are_exact_and_reach_the_sum():
    """Every line holds what is left of both numbers, the digits found so far and the carry."""
    for n in LENGTHS:
        for one in question_world(f"column_addition_{n}d").questions(20):
            a, b = re.fullmatch(r"(\d+)\+(\d+)=", one.question).groups()
            assert len(a) == len(b) == n and int(one.answer) == int(a) + int(b)
        for ending in ("_trace", "_hinted"):
            for one in question_world(f"column_addition_{n}d{ending}").questions(20):
                a, b, hint = re.fullmatch(r"(\d+)\+(\d+)=(?: \((\d+)\))?", one.question).groups()
                *lines, last = one.answer.split("\n")
                assert last == f"#### {int(a) + int(b)}" and len(lines) == n
                assert hint == (str(int(a) + int(b)) if ending == "_hinted" else None)
                carry = 0
                for column, line in enumerate(lines, 1):
                    added, left, found = line.split(",")
                    x, y = int(a[n - column]), int(b[n - column])
                    assert added == f"{x}+{y}+{carry}={x + y + carry:02}"
                    assert left == f"{a[: n - column]}+{b[: n - column]}"
                    part = int(a[n - column :]) + int(b[n - column :])
                    carry = part // 10**column
                    assert found == f"{part % 10**column:0{column}}"
    two = [question_world("column_addition_2d" + e) for e in ("", "_trace", "_hinted")]
    keys = [{q.key for q in world.questions(300, side="train")} for world in two]
    asked = {q.key for world in two for q in world.questions(100)}
    assert not asked & set.union(*keys)  # one side for all three


def test_operands_are_held_out_in_either_order():
    trained = {q.key for q in question_world("arithmetic_2da").questions(3000, side="train")}
    for one in question_world("arithmetic_2da").questions(200):
        a, b = map(int, re.findall(r"\d+", one.question))
        assert f"{min(a, b)} {max(a, b)}" not in trained


@pytest.mark.parametrize(
    "name", ["cycle_letters", "anagrams1", "anagrams2", "random_insertion", "reversed_words"]
)
def test_scrambled_letters_are_those_of_one_word(name):
    kept = {"anagrams1": 1, "anagrams2": 2}.get(name)
    for ending in ("", "_reverse"):
        for one in question_world(name + ending).questions(40):
            text, word = one.question.removesuffix(" ="), one.answer
            if ending:
                text, word = word, text
            assert word in WORDS and text != word
            letters = text[::2] if name == "random_insertion" else text
            assert sorted(letters) == sorted(word)
            if kept:
                assert (text[:kept], text[-kept:]) == (word[:kept], word[-kept:])
            if name == "cycle_letters":
                assert text in word + word
            if name == "reversed_words":
                assert text == word[::-1]


def test_a_fixed_rule_is_the_same_for_words_of_a_length_in_both_directions():
    there = {
        q.answer: q.question.removesuffix(" =")
        for q in question_world("anagrams1_fixed").questions(150)
    }
    back = {
        q.question.removesuffix(" ="): q.answer
        for q in question_world("anagrams1_reverse").questions(150)
    }
    common = there.keys() & back.keys()
    assert len(common) > 20
    assert all(there[word] == back[word] for word in common)
    rules = {}
    for word, text in there.items():
        if len(set(word)) == len(word):
            rule = tuple(word.index(letter) for letter in text)
            assert rules.setdefault(len(word), rule) == rule


def test_a_rule_can_be_found_from_the_examples_and_from_nothing_else():
    for one in question_world("letter_map").questions(30):
        table = dict(one.shown)
        assert len(table) == 8 == len(set(table.values()))
        assert one.shown[0] == (one.question, one.answer) and table[one.question] == one.answer
        assert set(one.choices) == set(table.values())
    for one in question_world("linear_function").questions(30):
        (x1, y1), (x2, y2), *rest = [(int(x.removesuffix(" ->")), int(y)) for x, y in one.shown]
        assert (y2 - y1) % (x2 - x1) == 0
        a = (y2 - y1) // (x2 - x1)
        x = int(one.question.removesuffix(" ->"))
        assert int(one.answer) == y1 + a * (x - x1)
        assert x not in {x1, x2, *(x for x, _ in rest)}
        assert all(y == y1 + a * (x - x1) for x, y in rest)


def test_an_invented_word_goes_with_its_kind():
    for one in question_world("invented_words").questions(30):
        kind = re.match(r'A "(\w+)" is (.+) known in', one.question)
        assert kind[1] not in WORDS
        assert one.answer in KINDS[kind[2]]
        assert sum(choice in KINDS[kind[2]] for choice in one.choices) == 1


def test_the_answer_is_a_part_of_its_passage():
    for one in question_world("reading").questions(50):
        passage, question = one.question.split("\nQuestion: ")
        assert one.answer in passage
        assert one.answer not in question


def test_the_country_of_those_who_are_asked_is_never_told():
    city_of, country_of = land()
    world = question_world("facts_two_hops")
    told = [q for q in world.questions(4000, side="train") if "the country of" in q.question]
    people = {q.question.split()[0] for q in told}
    asked = world.questions(60)
    for one in asked:
        person = one.question.split()[0]
        assert person not in people
        assert one.answer == country_of[city_of[person]]
        assert side_of("facts_two_hops", person) == "heldout"
    cities = [q for q in world.questions(4000, side="train") if "the city of" in q.question]
    assert {q.question.split()[0] for q in asked} <= {q.question.split()[0] for q in cities}


def test_a_corpus_of_examples_is_made_of_a_world(tmp_path):
    made = ("corpus", "examples", tmp_path / "sums", "arithmetic_2da", "--tokenizer", "bytes")
    said = command(*made, "--count", 300, "--template", "{prompt} {answer}", "--json")
    assert said.code == 0, said.err
    assert said.json["examples"] == 300
    from maquette.corpus.examples.store import ExamplesCorpus

    trained = ExamplesCorpus(tmp_path / "sums").examples("train")
    asked = {q.question for q in question_world("arithmetic_2da").questions(500)}
    assert not asked & {one.prompt for one in trained}
    assert trained[0].source == "arithmetic_2da"
    refused(
        command("corpus", "examples", tmp_path / "x", "arithmetic_2", "--tokenizer", "bytes"),
        "no task",
        code=1,
    )


def test_an_unknown_world_names_the_nearest():
    with pytest.raises(WrongUse, match="did you mean 'letter_map'"):
        question_world("letter_mop")
