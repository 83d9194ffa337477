"""What can only be learned from the examples shown: a map of letters, a linear function, an invented word.

Every question has a rule of its own, and examples of its own: with none shown the answer cannot be known.
Held out are rules. Sources: Garg et al. 2022 (functions in context), Brown et al. 2020, section 3.9.5
(novel words).
"""

import string
from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register
from maquette.worlds.questions.words import invented

SHOWN = 32
LETTERS = 8
SHORT = {"until": ["\n"], "max_gen_toks": 12}


def letter_map(draw: Random, side: Side) -> Asked:
    """Eight letters, each with another one that stands for it; the letter that is asked was shown."""
    left = draw.sample(string.ascii_lowercase, LETTERS)
    right = draw.sample(string.ascii_lowercase, LETTERS)
    pairs = list(zip(left, right, strict=True))
    order: list[tuple[str, str]] = []
    while len(order) < SHOWN:  # every letter once, then every letter again
        order += draw.sample(pairs, LETTERS)
    a, b = order[0]  # so that one example is enough to know it
    return Asked(f"{a} ->", b, " ".join(map("".join, sorted(pairs))), tuple(sorted(right)),
                 tuple((f"{x} ->", y) for x, y in order))  # fmt: skip


def linear_function(draw: Random, side: Side) -> Asked:
    """y = a x + b for whole a and b; no x comes twice."""
    a, b = draw.choice([n for n in range(-9, 10) if n]), draw.randrange(-20, 21)
    numbers = draw.sample(range(-20, 21), SHOWN + 1)
    asked, *shown = [(f"{x} ->", str(a * x + b)) for x in numbers]
    return Asked(*asked, f"{a} {b}", (), tuple(shown))


KINDS = {
    "a small animal": ("ate from my hand", "ran under the fence", "was asleep in its nest"),
    "a kind of vehicle": ("would not start this morning", "was parked outside", "needs new tyres"),
    "a sweet dish": ("tasted of honey", "was served with cream", "is best when it is warm"),
    "a heavy tool": ("was hanging in the shed", "has a wooden handle", "was sharpened last week"),
    "a game for two": ("lasted three hours", "ended in a draw", "is played on a board"),
    "a piece of clothing": (
        "had lost a button",
        "was too tight for him",
        "is washed in cold water",
    ),
}
PLACES = "the north,the islands,the mountains,the old town,the desert,the coast".split(",")


def invented_word(draw: Random, side: Side) -> Asked:
    """What an invented word is, then a sentence with it: only one ending fits the kind of thing."""
    kinds = draw.sample(list(KINDS), 4)
    word = invented(draw)
    right = draw.choice(KINDS[kinds[0]])
    choices = [right, *(draw.choice(KINDS[kind]) for kind in kinds[1:])]
    draw.shuffle(choices)
    place = draw.choice(PLACES)
    text = f'A "{word}" is {kinds[0]} known in {place}.\nA sentence that uses the word: The {word}'
    return Asked(text, right, word, tuple(choices))


register(QuestionWorld("letter_map", "a map of letters, found from its pairs", letter_map,
                       {"fewshot_delimiter": "\n"}))  # fmt: skip
register(QuestionWorld("linear_function", "a linear function, found from its values", linear_function,
                       {"fewshot_delimiter": "\n", "generation_kwargs": SHORT}))  # fmt: skip
register(
    QuestionWorld("invented_words", "a sentence with a word that was just explained", invented_word)
)
