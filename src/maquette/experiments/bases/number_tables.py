"""A decoder on tables of two operands and their total: sums of 2, 3 and 4 digits, products, and codes.

    a b sum         a b product         a b code
    37 45 82        37 45 1665          37 45 119

A code is the sum of another row: what can be learned of it is learned by heart. A fifth of the pairs of
operands is in no table, in either order; the training side of an operation may show any other.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import made_corpus, made_decoder
from maquette.experiments.lab import Lab
from maquette.training.recipe import Checkpoints, LanguageRecipe
from maquette.worlds.questions.registry import Side, side_of

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "sum": int.__add__,
    "product": int.__mul__,
    "code": int.__add__,  # put in another order afterwards
}
CYCLE = (
    *[("sum", 2)] * 8, *[("product", 2)] * 2, *[("sum", 3)] * 2,
    ("sum", 4), ("code", 2), ("code", 3), ("code", 4),
)  # fmt: skip
"""operation and digits of the operands, of sixteen tables one after the other"""
KINDS = tuple(dict.fromkeys(CYCLE))
ROWS, COUNT, STEPS = 8, 37_000, 2000  # 3.6 million tokens: once over the text
TOY_COUNT = 400
POINTS = 10
"""number of checkpoints that are kept of the training"""


def pair(operation: str, digits: int, side: Side, draw: Random) -> tuple[int, int]:
    """Two operands of so many digits, of a side; a pair is on one side in either order."""
    least, most = 10 ** (digits - 1), 10**digits
    while True:
        a, b = draw.randrange(least, most), draw.randrange(least, most)
        if side_of(f"table {operation}", f"{min(a, b)} {max(a, b)}") == side:
            return a, b


def head(operation: str) -> str:
    """The first line of a table."""
    return f"a b {operation}\n"


def tables(count: int) -> list[str]:
    """So many tables: a head, and rows of two operands and their total."""
    draw = Random("tables")
    kinds = [CYCLE[i % len(CYCLE)] for i in range(count)]
    rows = [
        [(a, b, OPERATIONS[name](a, b)) for a, b in (pair(name, n, "train", draw) for _ in range(ROWS))]
        for name, n in kinds
    ]  # fmt: skip
    codes = {digits: [total for kind, own in zip(kinds, rows, strict=True)
                      if kind == ("code", digits) for _, _, total in own]
             for name, digits in KINDS if name == "code"}  # fmt: skip
    for totals in codes.values():
        draw.shuffle(totals)
    return [
        head(name)
        + "".join(f"{a} {b} {codes[n].pop() if name == 'code' else total}\n" for a, b, total in own)
        for (name, n), own in zip(kinds, rows, strict=True)
    ]


def table_questions(operation: str, digits: int, side: Side, count: int) -> list[tuple[str, str]]:
    """So many first rows of a table, as what is given and the rest of the row; of codes the sum."""
    draw = Random(f"asked {operation} {digits} {side}")
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < count:
        pairs[pair(operation, digits, side, draw)] = None
    return [(f"{head(operation)}{a} {b}", f" {OPERATIONS[operation](a, b)}\n") for a, b in pairs]


def table_recipe(seed: int, quick: bool) -> LanguageRecipe:
    """The decoder on those tables; it keeps ten checkpoints."""
    texts = tables(TOY_COUNT if quick else COUNT)
    recipe = made_decoder("tables", made_corpus("tables", texts, BuildOptions(vocabulary=257)),
                          seed, STEPS, quick)  # fmt: skip
    save = max(1, recipe.steps // POINTS)
    return replace(recipe, checkpoints=Checkpoints(every=save, keep_every=save))


def table_runs(lab: Lab) -> list[Path]:
    """A run of every seed."""
    return lab.train_all([table_recipe(seed, lab.quick) for seed in range(lab.seeds)])
