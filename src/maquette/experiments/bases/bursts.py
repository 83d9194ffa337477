"""Names with labels in documents, bursty or not: small decoders that learn labels from context or by heart.

A class is a name such as Abc, one of 12,800, drawn by Zipf's law with exponent 1; its label is one of 26
letters, the same in all documents. A document is eight names with their labels and one more. In a bursty one
this last name comes three times before, so does another, and two others once. The other arm has the same
pairs, to the last one, in random order over all documents. Labels are letters as names are, so that a head
that continues names continues them with labels.

Source: Chan et al. 2022, "Data distributional properties drive emergent in-context learning in
transformers", section 2.
"""

import itertools
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import made_corpus, made_decoder
from maquette.experiments.lab import Lab
from maquette.training.recipe import LanguageRecipe

CLASSES, SHOWN = 12_800, 8
LETTERS = string.ascii_lowercase
NAMES = [f"{a}{b}{c}" for a, b, c in itertools.product(LETTERS.upper(), LETTERS, LETTERS)]
LABELS = list(LETTERS)
BURSTY, RANDOM = "bursty", "random order"
DOCUMENTS, STEPS = 70_000, 1400  # 2.5 million tokens: once over the text
TOY_DOCUMENTS = 500


class World:
    """Names with their labels: 12,800 that documents show, the other 4,776 never."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        draw = np.random.default_rng((seed, 0))
        names = draw.permutation(NAMES).tolist()
        self.known, self.never = names[:CLASSES], names[CLASSES:]
        self.labels = draw.choice(LABELS, CLASSES).tolist()
        frequencies = 1 / np.arange(1, CLASSES + 1)  # Zipf's law
        self._frequencies = frequencies / frequencies.sum()

    def documents(self, count: int, bursty: bool) -> npt.NDArray[np.int64]:
        """The classes of so many documents: (count, 9)."""
        draw = np.random.default_rng((self.seed, 1))
        asked, other, *rest = draw.choice(CLASSES, (4, count), p=self._frequencies)
        shown = draw.permuted(np.stack([asked] * 3 + [other] * 3 + rest, 1), axis=1)
        rows = np.concatenate([shown, asked[:, None]], 1)
        return rows if bursty else draw.permutation(rows.ravel()).reshape(rows.shape)

    def text(self, classes: Sequence[int]) -> str:
        """Names and labels, one after the other."""
        return "".join(self.known[i] + self.labels[i] for i in classes)

    def different(
        self, draw: np.random.Generator, count: int, commonest: int = CLASSES
    ) -> list[int]:
        """So many different classes, drawn by Zipf's law among the commonest."""
        frequencies = self._frequencies[:commonest]
        drawn = draw.choice(commonest, 50 * count, p=frequencies / frequencies.sum())
        found: list[int] = list(dict.fromkeys(drawn.tolist()))[:count]
        return found


def burst_recipe(world: World, arm: str, quick: bool) -> LanguageRecipe:
    """The decoder of an arm, on that world's documents."""
    rows = world.documents(TOY_DOCUMENTS if quick else DOCUMENTS, arm == BURSTY)
    corpus = made_corpus("bursts", map(world.text, rows), BuildOptions(vocabulary=257))
    return made_decoder("bursts", corpus, world.seed, STEPS, quick)


def burst_runs(lab: Lab, *arms: str) -> list[tuple[str, World, Path]]:
    """A decoder of every arm for every seed: arm, world and run."""
    cells = [(arm, World(seed)) for seed in range(lab.seeds) for arm in arms]
    paths = lab.train_all([burst_recipe(world, arm, lab.quick) for arm, world in cells])
    return [(*cell, path) for cell, path in zip(cells, paths, strict=True)]
