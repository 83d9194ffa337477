"""Instructions: every text asks for one task, every answer is right, and sides share nothing."""

from random import Random

import pytest

from maquette.worlds.questions import instructions
from maquette.worlds.questions.instruction_oracle import (
    THEN,
    composable,
    composed,
    imperative,
    read,
    right,
    right_answer,
    sentence,
)
from maquette.worlds.questions.instruction_tasks import CLUSTERS, NOUNS, TASKS
from maquette.worlds.questions.registry import question_world

RIGHT = {
    "reverse_letters": ("stone", "enots"),
    "reverse_words": ("a bc d", "d bc a"),
    "upper_case": ("cat", "CAT"),
    "capitalise": ("cat", "Cat"),
    "first_letter": ("cat", "c"),
    "last_letter": ("cat", "t"),
    "second_letter": ("cat", "a"),
    "first_word": ("b a", "b"),
    "last_word": ("b a", "a"),
    "sort_words": ("tin ant sea", "ant sea tin"),
    "sort_letters": ("stone", "enost"),
    "count_letters": ("stone", "5"),
    "count_vowels": ("stone", "2"),
    "count_words": ("tin ant sea", "3"),
    "remove_vowels": ("stone", "stn"),
    "remove_first": ("stone", "tone"),
    "remove_last": ("stone", "ston"),
    "say_twice": ("cat", "cat cat"),
    "double_letters": ("cat", "ccaatt"),
    "longest": ("ant stone sea", "stone"),
    "shortest": ("ants stone sea", "sea"),
    "is_palindrome": ("level", "yes"),
    "begins_with_vowel": ("tin", "no"),
    "sum": ("1 20 3", "24"),
    "largest": ("9 20 3", "20"),
    "smallest": ("9 20 10", "9"),
    "sort_up": ("9 20 10", "9 10 20"),
    "sort_down": ("9 20 10", "20 10 9"),
    "add_one": ("9", "10"),
    "subtract_one": ("10", "9"),
    "double": ("21", "42"),
    "is_even": ("7", "no"),
    "above_ten": ("11", "yes"),
    "hyphens": ("a bc", "a-bc"),
    "commas": ("a bc", "a, bc"),
    "together": ("a bc", "abc"),
    "quote": ("cat", '"cat"'),
    "brackets": ("cat", "(cat)"),
    "exclaim": ("cat", "cat!"),
}


def test_every_task_has_its_right_answer():
    assert RIGHT.keys() == TASKS.keys()
    for name, (argument, answer) in RIGHT.items():
        assert TASKS[name].accepts(argument)
        assert TASKS[name].answer(argument) == answer, name


def test_every_phrasing_asks_for_its_task_alone():
    texts = set()
    for task in TASKS.values():
        assert len(task.phrasings) >= 6
        for phrasing in task.phrasings:
            for noun in NOUNS[task.takes]:
                text = sentence(phrasing, noun)
                assert read(text) == (task,)
                texts.add(text)
    assert len(texts) == sum(3 * len(task.phrasings) for task in TASKS.values())


def test_every_composition_asks_for_its_two_tasks():
    for number, (first, second) in enumerate(composable()):
        then = THEN[number % len(THEN)]
        for a in filter(imperative, first.phrasings):
            b = [text for text in second.phrasings if imperative(text)][-1]
            assert read(composed(a, b, NOUNS[first.takes][0], then)) == (first, second)


@pytest.mark.parametrize("text", ["", "Do it.", "Reverse", "Reverse the letters of these words.",
                                  "Count the words, then spell the result backwards."])  # fmt: skip
def test_what_asks_for_no_task_is_known(text):
    assert read(text) is None
    assert not right(text, "cat", "tac")


def test_an_answer_is_right_for_its_instruction_and_argument():
    text = "Spell the word backwards."
    assert right(text, "cat", " tac ")
    assert not right(text, "cat", "act")
    assert not right(text, "cat dog", "god tac")  # of another kind
    both = "Give the first of the words, then spell the result backwards."
    assert right(both, "cat dog", "tac") and not right(both, "cat dog", "cat")


def test_sides_share_neither_phrasings_nor_tasks_nor_compositions():
    for task in TASKS.values():
        train, held = (
            instructions.phrasings_of(task, "train"),
            instructions.phrasings_of(task, "heldout"),
        )
        assert len(held) == 2 and set(train) | set(held) == set(task.phrasings)
        assert any(map(imperative, train))
    asked = {side: _tasks("instructions_tasks", side) for side in ("train", "heldout")}
    held = {(task.name,) for task in instructions.held_out_tasks()}
    assert asked["heldout"] == held and not asked["train"] & held
    clusters = {TASKS[name].cluster for (name,) in asked["train"]}
    assert clusters == set(CLUSTERS)
    pairs = {side: _tasks("instructions_composed", side) for side in ("train", "heldout")}
    assert all(len(one) == 2 for one in pairs["heldout"]) and not pairs["train"] & pairs["heldout"]
    assert {name for pair in pairs["heldout"] for name in pair} <= {
        name for pair in pairs["train"] for name in pair
    }


def _tasks(world, side):
    found = set()
    for one in question_world(world).questions(900, 0, side):
        text, argument, _ = one.question.split("\n")
        tasks = read(text)
        argument = argument.removeprefix("Input: ")
        assert right(text, argument, one.answer) and one.answer == right_answer(tasks, argument)
        found.add(tuple(task.name for task in tasks))
    return found


def test_arguments_are_of_one_side():
    task, draw = TASKS["sum"], Random(0)
    sides = {
        side: {instructions.argument_of(task, draw, side) for _ in range(300)}
        for side in ("train", "heldout")
    }
    assert not sides["train"] & sides["heldout"]
