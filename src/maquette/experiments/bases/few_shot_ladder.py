"""Decoders of three sizes on bursts of examples: a document is one map of letters, told by its pairs alone.

    kd mq kd ru xa ...      six letters, each with the one that stands for it: new in every document

Nothing but the pairs tells the map, so what is learned is to learn from them. Held out are maps. The sizes
grow in width and in depth, as GPT-3's do (Brown et al. 2020, table 2.1), and read as many tokens.
"""

import string
from pathlib import Path
from random import Random

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import made_corpus, made_decoder
from maquette.experiments.lab import Lab
from maquette.training.recipe import LanguageRecipe
from maquette.worlds.questions.registry import Side, side_of

SIZES = ((16, 1), (32, 2), (64, 2))
"""width and depth"""
LETTERS = 6  # of a map
PAIRS = 36  # of a document: 109 tokens with its beginning
DOCUMENTS, STEPS = 13_000, 800  # 1.4 million tokens: once over the text
TOY_DOCUMENTS = 300
Map = dict[str, str]


def letter_map(draw: Random, side: Side) -> Map:
    """Six letters, each with the one that stands for it, of a side."""
    while True:
        left, right = (draw.sample(string.ascii_lowercase, LETTERS) for _ in range(2))
        pairs = dict(zip(left, right, strict=True))
        if side_of("letters", str(sorted(pairs.items()))) == side:
            return pairs


def text(pairs: Map, letters: list[str]) -> str:
    """Letters and what stands for them, one pair after the other."""
    return "".join(f"{letter}{pairs[letter]} " for letter in letters)


def documents(count: int) -> list[str]:
    """So many documents of the training side."""
    draw, texts = Random("letters"), []
    for _ in range(count):
        pairs = letter_map(draw, "train")
        texts.append(text(pairs, draw.choices(list(pairs), k=PAIRS)))
    return texts


def ladder_recipe(size: tuple[int, int], seed: int, quick: bool) -> LanguageRecipe:
    """The decoder of a size, on those documents."""
    texts = documents(TOY_DOCUMENTS if quick else DOCUMENTS)
    corpus = made_corpus("letter-maps", texts, BuildOptions(vocabulary=257))
    return made_decoder("letter-maps", corpus, seed, STEPS, quick, size)


def ladder_runs(lab: Lab) -> list[tuple[tuple[int, int], int, Path]]:
    """A decoder of every size for every seed: size, seed and run."""
    cells = [(size, seed) for seed in range(lab.seeds) for size in SIZES]
    paths = lab.train_all([ladder_recipe(size, seed, lab.quick) for size, seed in cells])
    return [(*cell, path) for cell, path in zip(cells, paths, strict=True)]
