"""GPT-3's arithmetic: sums, differences and products of whole numbers, and three digits in brackets.

Brown et al. 2020, section 3.9.1, with lm-evaluation-harness' names: operands are uniform below 10 to the
number of digits. What is held out are operands, in either order where the order does not matter.
"""

from functools import partial
from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register

FIELDS = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 16}}
OPERATIONS = {
    "+": ("plus", "addition"),
    "-": ("minus", "subtraction"),
    "*": ("times", "multiplication"),
}


def operation(digits: int, sign: str, draw: Random, side: Side) -> Asked:
    """Two numbers of at most so many digits."""
    a, b = draw.randrange(10**digits), draw.randrange(10**digits)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    key = f"{a} {b}" if sign == "-" else f"{min(a, b)} {max(a, b)}"
    return Asked(f"Q: What is {a} {OPERATIONS[sign][0]} {b}?\nA:", str(value), key)


def composite(draw: Random, side: Side) -> Asked:
    """Three digits, the last two in brackets: 6 + (4 * 8)."""
    a, b, c = (draw.randrange(10) for _ in range(3))
    first, second = draw.choice("+-*"), draw.choice("+-*")
    inner = {"+": b + c, "-": b - c, "*": b * c}[second]
    value = {"+": a + inner, "-": a - inner, "*": a * inner}[first]
    text = f"{a}{first}({b}{second}{c})"
    return Asked(f"Q: What is {text}?\nA:", str(value), text)


for count, sign, letter in [(n, sign, sign_letter) for sign, sign_letter in (("+", "a"), ("-", "s"))
                            for n in (2, 3, 4, 5)] + [(2, "*", "m")]:  # fmt: skip
    register(
        QuestionWorld(
            f"arithmetic_{count}d{letter}",
            f"{OPERATIONS[sign][1]} of numbers of {count} digits",
            partial(operation, count, sign),
            FIELDS,
        )
    )
register(QuestionWorld("arithmetic_1dc", "three digits and two operations, one in brackets", composite,
                       FIELDS))  # fmt: skip
