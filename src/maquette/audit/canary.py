"""Canaries: random strings planted in the training text, to measure what a model memorises.

Before training, R + n strings are drawn alike from a seeded generator. n of them are planted, each
copied as often as its level says; the R others, the alternatives, are kept out. Afterwards all are
scored. Had training no effect on a planted string, every rank of its loss among itself and the
alternatives would be equally likely, so

    p = (1 + alternatives with a loss no higher) / (R + 1)      exact: no law of losses is assumed
    exposure = log2((R + 1) / rank)                             (Carlini et al. 2019, equation 2)

and exposure is -log2 p: 0 to log2(R + 1) bits, 1.44 on average where nothing is memorised. Extraction
is the stronger sign: given the first half, the model's likeliest continuation is the second half
(Carlini et al. 2022). A level of 0 copies is drawn, kept out and scored like the others: a control.

The strings come from SHAKE-256 of the seed, the same on every machine; their SHA-256 is saved
beside the seed, which is the proof that they were drawn before.
"""

import functools
import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.base.statistics import wilson
from maquette.corpus.document import Document
from maquette.corpus.tokenizer import Tokenizer

if TYPE_CHECKING:
    from maquette.models.base import LanguageModel

FORMAT = 1
LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Canaries:
    """The canaries: which strings are planted how often, and which are kept out, by the seed."""

    seed: int = 0
    copies: tuple[int, ...] = (1, 3, 10, 30, 100, 300)
    """numbers of copies of a canary, one for each level"""
    per_level: int = 8
    alternatives: int = 4095
    length: int = 24
    """letters of a canary, 4 bits each, in two words of half the length"""

    def __post_init__(self) -> None:
        if self.length < 4 or self.length % 4:
            raise WrongUse(f"length is {self.length}: use a multiple of 4, such as 24")
        if min(self.per_level, self.alternatives) < 1 or not self.copies or min(self.copies) < 0:
            raise WrongUse("per_level and alternatives must be 1 or more, copies 0 or more")

    @functools.cached_property
    def _drawn(self) -> list[str]:
        count = len(self.copies) * self.per_level + self.alternatives
        size = self.length // 2  # bytes
        stream = hashlib.shake_256(f"maquette canaries {self.seed}".encode()).digest(count * size)
        text = stream.hex().translate(LETTERS)
        half = self.length // 2
        starts = range(0, len(text), self.length)
        return [f"{text[i : i + half]} {text[i + half : i + self.length]}" for i in starts]

    @property
    def levels(self) -> list[tuple[int, list[str]]]:
        """Number of copies and canaries of each level."""
        n = self.per_level
        return [(c, self._drawn[i * n : (i + 1) * n]) for i, c in enumerate(self.copies)]

    @property
    def kept_out(self) -> list[str]:
        """The strings that are kept out of training: the alternatives."""
        return self._drawn[len(self.copies) * self.per_level :]

    @property
    def sha256(self) -> str:
        """SHA-256 of all strings in order."""
        return hashlib.sha256("\n".join(self._drawn).encode()).hexdigest()

    def documents(self, host: Iterable[Document]) -> list[Document]:
        """The host's documents with all copies of the canaries planted."""
        lines = [text for copies, texts in self.levels for text in texts for _ in range(copies)]
        return plant(host, lines, self.seed)

    def save(self, path: Path) -> None:
        """Write the seed and the checksum, before the training."""
        write_json(path, {"format": FORMAT} | asdict(self) | {"sha256": self.sha256})

    @classmethod
    def load(cls, path: Path) -> "Canaries":
        """Read what `save` wrote. Raises UserError where the strings are not those of the seed."""
        try:
            kept: dict[str, Any] = read_json(path)
            known = {field.name: kept[field.name] for field in fields(cls)}
            canaries = cls(**(known | {"copies": tuple(known["copies"])}))
            right = kept["format"] == FORMAT and kept["sha256"] == canaries.sha256
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} holds no canaries: name the file that Canaries.save wrote"
            ) from error
        if not right:
            raise UserError(
                f"{path} was changed after it was written: draw and plant canaries again"
            )
        return canaries

    def score(self, model: "LanguageModel", tokenizer: Tokenizer) -> list["Level"]:
        """Rank every canary among the alternatives, and try to extract it; a result for each level."""
        planted = [text for _, texts in self.levels for text in texts]
        nats = losses(model, tokenizer, planted + self.kept_out)
        alternatives = nats[len(planted) :]
        extracted = extract(model, tokenizer, planted)
        levels = []
        for i, copies in enumerate(self.copies):
            level = slice(i * self.per_level, (i + 1) * self.per_level)
            p = p_values(nats[level], alternatives).tolist()
            bits = ((alternatives.mean() - nats[level]) / math.log(2)).tolist()
            together = joint_p_value(nats[level], alternatives)
            levels.append(Level(copies, p, bits, extracted[level], together))
        return levels


@dataclass(frozen=True)
class Level:
    """Results of the canaries of one level."""

    copies: int
    p_values: list[float]
    """p-value of each canary"""
    bits: list[float]
    """memorised bits of each canary: the alternatives' mean loss less its own"""
    extracted: list[bool]
    p_value: float
    """joint p-value of the level's canaries"""

    @property
    def exposures(self) -> list[float]:
        """Exposure of each canary in bits."""
        return [-math.log2(p) for p in self.p_values]

    @property
    def exposure(self) -> float:
        """Mean exposure in bits."""
        return float(np.mean(self.exposures))

    @property
    def memorised_bits(self) -> float:
        """Mean of `bits`."""
        return float(np.mean(self.bits))

    @property
    def extraction_rate(self) -> float:
        return float(np.mean(self.extracted))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        interval = wilson(sum(self.extracted), len(self.extracted))
        return asdict(self) | {
            "exposure": self.exposure,
            "memorised_bits": self.memorised_bits,
            "extraction_rate": self.extraction_rate,
            "extraction_interval": list(interval),
        }


def p_values(planted: Array, alternatives: Array) -> Array:
    """p-value of each planted string: (1 + alternatives with a loss no higher) / (alternatives + 1)."""
    below = np.searchsorted(np.sort(alternatives), planted, side="right")
    return np.asarray((1 + below) / (len(alternatives) + 1), np.float64)


def joint_p_value(planted: Array, alternatives: Array, draws: int = 1999) -> float:
    """Joint p-value of several planted strings: an exact permutation test of their mean log rank.

    The p-values of a level share their alternatives and are not independent, so they must not be
    multiplied. But under the null the planted ones are any so many of all strings.
    """
    both = np.concatenate([planted, alternatives])
    logs = np.log(np.searchsorted(np.sort(both), both, side="right"))
    generator, count = np.random.default_rng(0), len(planted)
    sums = (logs[generator.choice(len(both), count, replace=False)].sum() for _ in range(draws))
    least = logs[:count].sum() + 1e-9  # the order of a sum must not break a tie
    return (1 + sum(bool(s <= least) for s in sums)) / (draws + 1)


def losses(model: "LanguageModel", tokenizer: Tokenizer, texts: Sequence[str]) -> Array:
    """Summed loss in nats of each text on a line of its own, (texts,)."""
    from maquette.evaluation.bits_per_byte import score_documents

    tokens = (np.array(tokenizer.encode("\n" + text), dtype=np.int64) for text in texts)
    return np.array(list(score_documents(model, tokens, tokenizer.special.start)))


def extract(model: "LanguageModel", tokenizer: Tokenizer, texts: Sequence[str]) -> list[bool]:
    """Whether the first word of each text, alone on its line, is continued greedily to the whole."""
    from maquette.serving.generate import generate
    from maquette.serving.sampler import Sampling

    heads = ["\n" + text.partition(" ")[0] for text in texts]
    tails = ["\n" + text for text in texts]
    sizes = [
        len(tokenizer.encode(t)) - len(tokenizer.encode(h))
        for h, t in zip(heads, tails, strict=True)
    ]
    greedy = Sampling(temperature=0)
    written, _ = generate(model, tokenizer, heads, tokens=max(sizes), sampling=greedy)
    rest = [text.removeprefix(head) for head, text in zip(heads, tails, strict=True)]
    return [sample.text.startswith(r) for sample, r in zip(written, rest, strict=True)]


def plant(host: Iterable[Document], lines: Sequence[str], seed: int) -> list[Document]:
    """The host's documents, with each of `lines` put on a line of its own somewhere in them.

    Places are drawn evenly over all line ends, with replacement.
    """
    documents = list(host)
    texts = [document.text.split("\n") for document in documents]
    ends = np.cumsum([len(text) for text in texts])
    draw = random.Random(seed)
    by_document: list[list[tuple[int, str]]] = [[] for _ in documents]
    for line in lines:
        offset = draw.randrange(int(ends[-1]))
        document = int(np.searchsorted(ends, offset, side="right"))
        by_document[document].append(
            (offset - int(ends[document]) + len(texts[document]) + 1, line)
        )
    for text, insertions in zip(texts, by_document, strict=True):
        for offset, line in sorted(insertions, key=lambda item: -item[0]):
            text.insert(offset, line)
    return [replace(d, text="\n".join(text)) for d, text in zip(documents, texts, strict=True)]
