"""GPT-3's five word tasks, and the reverse of each: from the letters to the word, from the word to them.

    cycle_letters     lyinevitab = inevitably
    anagrams1         criroptuon = corruption          all but the first and the last letter
    anagrams2         opoepnnt = opponent              all but two at either end
    random_insertion  s.u!c/c!e.s s i/o/n = succession
    reversed_words    stcejbo = objects

Brown et al. 2020, section 3.9.2; the names are lm-evaluation-harness'. There the letters are shuffled at
random. In the reverse tasks (NAME_reverse) a word is shuffled by a rule of its length, the same for all
words, so that one answer is right and the rule can be learned; NAME_fixed asks for the word after the same
rule, so that the two directions compare. What is held out are words.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register
from maquette.worlds.questions.words import WORDS

FIELDS = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 40}, "fewshot_delimiter": "\n"}
KNOWN = frozenset(WORDS)
SIGNS = " .,!?/-"
Scramble = Callable[[str, Random], str]


def cycled(word: str, draw: Random) -> str:
    """Its letters moved along, those at the end to the front."""
    k = draw.randrange(1, len(word))
    return word[k:] + word[:k]


def shuffled(kept: int, word: str, draw: Random) -> str:
    """Its letters shuffled, but for so many at either end."""
    inner = list(range(kept, len(word) - kept))
    for _ in range(20):
        moved = inner[:]
        draw.shuffle(moved)
        text = word[:kept] + "".join(word[i] for i in moved) + word[len(word) - kept :]
        if moved != inner and text != word:
            return text
    return word


def inserted(word: str, draw: Random) -> str:
    """A sign or a space between every two letters."""
    return "".join(letter + draw.choice(SIGNS) for letter in word[:-1]) + word[-1]


def backwards(word: str, draw: Random) -> str:
    """From its end to its beginning."""
    return word[::-1]


TASKS: dict[str, tuple[Scramble, int, str]] = {
    "cycle_letters": (cycled, 4, "letters of a word moved along in a circle"),
    "anagrams1": (partial(shuffled, 1), 5, "letters shuffled, but for the first and the last"),
    "anagrams2": (partial(shuffled, 2), 7, "letters shuffled, but for two at either end"),
    "random_insertion": (inserted, 4, "a sign between every two letters of a word"),
    "reversed_words": (backwards, 4, "a word written backwards"),
}


def scrambled(name: str, fixed: bool, word: str, draw: Random) -> str:
    """fixed: by the rule of the word's length."""
    way = TASKS[name][0]
    return way(word, Random(f"{name} {len(word)}") if fixed else draw)


def ask(name: str, fixed: bool, reverse: bool, draw: Random, side: Side) -> Asked:
    """A word and its scrambled letters, one given and the other asked for."""
    least = TASKS[name][1]
    while True:
        word = draw.choice(WORDS)
        text = scrambled(name, fixed, word, draw)
        if len(word) >= least and text != word and not _other(name, word, text):
            break
    given, wanted = (word, text) if reverse else (text, word)
    return Asked(f"{given} =", wanted, word)


def _other(name: str, word: str, text: str) -> bool:
    """Whether what was scrambled is of another word too."""
    if name == "cycle_letters":
        turns = {text[k:] + text[:k] for k in range(len(text))}
        return bool(turns & KNOWN - {word})
    return name != "reversed_words" and text in KNOWN


INTO = "Please unscramble the letters into a word, and write that word:\n"
OUT = "Please scramble the letters of the word as in the examples:\n"
WAYS = (("", False, False), ("_fixed", True, False), ("_reverse", True, True))
"""ending of a name, whether the rule is fixed, whether the scrambled letters are asked for"""
for task in TASKS:
    for ending, fixed, reverse in WAYS:
        if task == "reversed_words" and ending == "_fixed":
            continue  # its rule is
        register(
            QuestionWorld(
                task + ending,
                ("the reverse of " if reverse else "")
                + TASKS[task][2]
                + ", by a fixed rule" * fixed,
                partial(ask, task, fixed, reverse),
                FIELDS | {"description": OUT if reverse else INTO},
                group="letters",
            )
        )
