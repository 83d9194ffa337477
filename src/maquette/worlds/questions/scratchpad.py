"""Sums of two numbers of n digits, with the steps of column addition: what STaR teaches itself.

    column_addition_3d          624+259=  883                    the sum alone
    column_addition_3d_trace    624+259=  4+9+0=13,62+25,3       a line a column
                                          2+5+1=08,6+2,83
                                          6+2+0=08,+,883
                                          #### 883
    column_addition_3d_hinted   624+259= (883)  the same         the sum is shown

A line holds the column's two digits and the carry with their sum, what is left of both numbers, and the
digits found so far; the sum stands after ####, as in GSM8K. All three hold out the same pairs of numbers, in
either order. Zelikman et al. 2022, section 4.3, after Nye et al. 2021; there a first line says both numbers
again, and no line says the digits that it adds, which a small decoder needs far longer to find. Digits are
apart for a tokenizer of bytes or of single digits.
"""

from functools import partial
from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register

MARK = "####"
"""stands before the answer, after its rationale"""
HINT = "{prompt} ({answer})"
"""how a question shows its answer"""
LENGTHS = range(1, 9)


def trace(a: int, b: int) -> str:
    """The steps of the column addition of two numbers of equally many digits, and the sum."""
    left, right = str(a), str(b)
    carry, found, lines = 0, "", []
    while left:
        total = int(left[-1]) + int(right[-1]) + carry
        column = f"{left[-1]}+{right[-1]}+{carry}={total:02}"
        carry, digit = divmod(total, 10)
        left, right, found = left[:-1], right[:-1], f"{digit}{found}"
        lines.append(f"{column},{left}+{right},{found}")
    return "\n".join([*lines, f"{MARK} {a + b}"])


def column_addition(digits: int, traced: bool, hinted: bool, draw: Random, side: Side) -> Asked:
    """Two numbers of exactly so many digits, of one digit 0 too."""
    first = 10 ** (digits - 1) if digits > 1 else 0
    a, b = draw.randrange(first, 10**digits), draw.randrange(first, 10**digits)
    question, answer = f"{a}+{b}=", str(a + b)
    if hinted:
        question = HINT.format(prompt=question, answer=answer)
    return Asked(question, trace(a, b) if traced else answer, f"{min(a, b)} {max(a, b)}")


ANSWER_ALONE = [
    {
        "name": "last-number",
        "filter": [
            {"function": "regex", "regex_pattern": r"(\d+)\s*$"},
            {"function": "take_first"},
        ],
    }
]
"""filters that find the sum, whether steps are written before it or not"""
WAYS = (
    ("", "", False, False),
    ("_trace", ", column by column", True, False),
    ("_hinted", ", column by column, with the sum shown before", True, True),
)
"""ending of a name, of its description, whether the steps are asked for, whether the sum is shown"""
for count in LENGTHS:
    for ending, about, traced, hinted in WAYS:
        most = (count + 2) * (count + 16)  # tokens of a trace, of bytes
        fields = {"generation_kwargs": {"until": ["\n\n"], "max_gen_toks": most}}
        register(
            QuestionWorld(
                f"column_addition_{count}d{ending}",
                f"the sum of two numbers of {count} digits{about}",
                partial(column_addition, count, traced, hinted),
                fields if traced else fields | {"filter_list": ANSWER_ALONE},
                group="column_addition",
            )
        )
