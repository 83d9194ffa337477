"""Mixtures: a table of how much of each component, as the Pile's (Gao et al. 2020, table 1).

    tokens: 300M                  # what a model is to be trained on: for the column "epochs at ..."
    seed: 0                       # which documents are written once more, where epochs are not whole
    today: 2026-01-01             # what ages are counted from; default: the newest date found
    components:
      - name: code
        sources: [~/src, data/x.jsonl.zst]
        weight: 2                 # or epochs: 1.5, and for all components the same of the two
        licence: MIT
        text: body                # the field of records that holds the text
        date: created             # and the date
        half_life: 5y             # a document's weight falls by half with each so much of age
        clean: [quality, personal]

`epochs` says how often a component is written into the corpus, 1 where nothing is said; `weight`, its
share of the bytes, from which epochs follow: the component that has the fewest gets 1, so that no text
is left out. Everything here is a pure function of the table and of sizes; nothing depends on the
clock.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import yaml

from maquette.base.errors import UserError, WrongUse, did_you_mean, within

UNITS = {"d": 1.0, "w": 7.0, "y": 365.2425}  # days
MULTIPLES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
MOST = 4.0
"""No document counts more than so many times its component's mean, however new it is: up to four
epochs are nearly as good as new text, more are not (Muennighoff et al. 2023, section 6)."""
ANY = 1e18


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component of a mixture."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    name: str
    """name of the component"""
    sources: tuple[str, ...]
    """files and folders of the component"""
    weight: float | None = None
    """share of the bytes, in any unit"""
    epochs: float | None = None
    """number of epochs: copies of each document"""
    licence: str | None = None
    """licence of documents that name none"""
    text: str | None = None
    """field of records that holds the text; a.b for b inside of a"""
    date: str | None = None
    """field of records that holds the date"""
    half_life: str | None = None
    """age that halves a document's weight: 90d, 26w, 5y"""
    clean: tuple[str, ...] = ()
    """names of cleaning rules, or of groups of rules"""

    def __post_init__(self) -> None:
        within(self, 0, ANY, "weight", "epochs")
        if self.weight is not None and self.epochs is not None:
            raise WrongUse(f"component {self.name} has weight and epochs: give one of the two")
        if self.weight == 0 or self.epochs == 0:
            raise WrongUse(f"component {self.name} is to be left out: remove it from the table")
        if not self.sources:
            raise WrongUse(f"component {self.name} has no sources: name a file or a folder")
        if self.half_life is not None:
            days(self.half_life)
        if self.clean:
            from maquette.corpus.text.clean import rules_named

            rules_named(self.clean)

    @property
    def half_life_days(self) -> float | None:
        return None if self.half_life is None else days(self.half_life)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The mixture as a table of components."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    components: tuple[Component, ...]
    tokens: int | None = None
    """tokens of a training run; in a file also with K, M, B or T"""
    seed: int = 0
    """seed of the choice of documents for a fraction of an epoch"""
    today: datetime.date | None = None
    """date from which ages are counted; None: the newest date"""

    def __post_init__(self) -> None:
        names = [component.name for component in self.components]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if not names:
            raise WrongUse("the mixture has no components: list at least one")
        if twice:
            raise WrongUse(f"component {twice[0]} is listed twice: give each a name of its own")
        weighted = [c.name for c in self.components if c.weight is not None]
        others = [c.name for c in self.components if c.weight is None]
        if weighted and others:
            raise WrongUse(
                f"component {weighted[0]} has a weight and {others[0]} has none: "
                "give all of them a weight, or none"
            )
        within(self, 1, ANY, "tokens")

    def key(self, digest: bytes) -> float:
        """A number in [0, 1) for `repeats`, by the document's hash and the seed.

        It is independent of the number that decides whether the document is held out.
        """
        drawn = hashlib.sha256(f"repeat {self.seed} ".encode() + digest).digest()
        return int.from_bytes(drawn[:6], "big") / 2**48

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain


def load_mixture(path: Path) -> Mixture:
    """Read a table, or say which field of which file is wrong and what was probably meant."""
    if not path.is_file():
        raise WrongUse(f"{path} does not exist: name a YAML file with components")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise WrongUse(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WrongUse(f"{path} holds no mixture: write 'components:' and a list")
    return mixture_from(content, str(path))


def mixture_from(content: Mapping[str, Any], where: str) -> Mixture:
    """The mixture of plain values. Raises WrongUse for a wrong field, naming it."""
    from pydantic import TypeAdapter, ValidationError

    try:
        tokens = content.get("tokens")
        fields = dict(content) | {"tokens": None if tokens is None else tokens_from(tokens)}
        return TypeAdapter(Mixture).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, WrongUse):
            raise WrongUse(f"{where}: {cause}") from error
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            kind = Component if len(location) > 1 else Mixture
            names = [f.name for f in dataclasses.fields(kind)]
            raise WrongUse(
                f"{where}: unknown field {'.'.join(location)}{did_you_mean(location[-1], names)}"
            ) from error
        if first["type"].startswith("missing"):
            raise WrongUse(f"{where}: {'.'.join(location)} is missing: add it") from error
        raise WrongUse(
            f"{where}: {'.'.join(location)} is {first['input']!r}: {first['msg'].lower()}"
        ) from error
    except WrongUse as error:
        raise WrongUse(f"{where}: {error}") from error


def tokens_from(text: int | str) -> int:
    """A number of tokens: 300000000, 300M, 1.5B."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMBGT]?)", str(text).strip().upper())
    if not match:
        raise WrongUse(f"tokens is {text!r}: write a number such as 300000000 or 300M")
    return round(float(match[1]) * MULTIPLES[match[2]])


def days(half_life: str) -> float:
    """The length of a half-life: 90d, 26w, 5y."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([dwy])", half_life.strip().lower())
    if not match or not float(match[1]):
        raise WrongUse(
            f"half_life is {half_life!r}: write days, weeks or years, as in 90d, 26w, 5y"
        )
    return float(match[1]) * UNITS[match[2]]


@dataclass(frozen=True)
class ComponentSize:
    """Size of a component, each document counted once."""

    raw_bytes: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Row:
    """One line of the table, with the columns of the Pile's."""

    component: str
    licence: str | None
    raw_bytes: int
    documents: int
    tokens: int
    weight: float
    """share of the effective bytes"""
    epochs: float
    """number of copies of each document in the corpus"""
    effective_bytes: float
    mean_document: float
    """mean bytes of a document"""
    budget: int | None
    epochs_at_budget: float | None
    """number of times that a training run of the budget's tokens reads the component"""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan(
    mixture: Mixture, sizes: Mapping[str, ComponentSize], tokens: int | None = None
) -> list[Row]:
    """The table, in the mixture's order. tokens: the budget, where it is not the mixture's own."""
    budget = tokens or mixture.tokens
    own = {c.name: sizes.get(c.name, ComponentSize(0, 0, 0)) for c in mixture.components}
    epochs = _epochs(mixture, own)
    effective = {name: size.raw_bytes * epochs[name] for name, size in own.items()}
    whole = sum(effective.values()) or 1.0
    written = sum(size.tokens * epochs[name] for name, size in own.items())
    passes = budget / written if budget and written else None
    return [
        Row(
            component.name,
            component.licence,
            own[component.name].raw_bytes,
            own[component.name].documents,
            own[component.name].tokens,
            effective[component.name] / whole,
            epochs[component.name],
            effective[component.name],
            own[component.name].raw_bytes / max(1, own[component.name].documents),
            budget,
            None if passes is None else epochs[component.name] * passes,
        )
        for component in mixture.components
    ]


def _epochs(mixture: Mixture, sizes: Mapping[str, ComponentSize]) -> dict[str, float]:
    """The epochs of each component: as given, or in proportion to weight / bytes, the least being 1."""
    rates = {}
    for component in mixture.components:
        if component.weight is None:
            continue
        if not sizes[component.name].raw_bytes:
            raise UserError(
                f"component {component.name} has a weight and no text: name other sources for it, "
                "or remove it"
            )
        rates[component.name] = component.weight / sizes[component.name].raw_bytes
    if rates:
        return {name: rate / min(rates.values()) for name, rate in rates.items()}
    return {c.name: 1.0 if c.epochs is None else c.epochs for c in mixture.components}


def repeats(key: float, epochs: float) -> int:
    """Number of copies of a document, for a number of epochs that need not be whole.

    key: a number in [0, 1), independent of the number that decides whether the document is held out.
    """
    whole = math.floor(epochs)
    return whole + (key < epochs - whole)


@functools.lru_cache(1 << 16)
def date_from(text: str | None) -> datetime.date | None:
    """The day of an ISO 8601 date or time; the middle of the month or year where no more is said."""
    if not text:
        return None
    try:
        return datetime.date.fromisoformat(text.strip()[:10])
    except ValueError:
        match = re.match(r"\s*(\d{4})(?:-(\d\d))?(?!\d)", text)
    try:
        return match and datetime.date(int(match[1]), int(match[2] or 7), 15 if match[2] else 1)
    except ValueError:
        return None


def age_weight(date: datetime.date, today: datetime.date, half_life: float) -> float:
    """2^(-age / half_life), both in days; what is dated after today has no age."""
    return float(2.0 ** (-max(0, (today - date).days) / half_life))


def age_weights(
    mixture: Mixture,
    components: Sequence[str],
    dates: Sequence[str | None],
    sizes: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> list[float]:
    """Factor of each document's number of epochs, by its age.

    components, dates, sizes: a value for each document; without sizes all count alike. The mean over a
    component, by size, is 1, so that it stays as large as the table says. A document without a date
    gets that mean: nothing is known of its age, and it should be neither favoured nor lost.
    """
    parsed = [date_from(date) for date in dates]
    today = mixture.today or max((date for date in parsed if date), default=None)
    result = np.ones(len(components))
    weighed = np.ones(len(components)) if sizes is None else np.asarray(sizes, np.float64)
    for component in mixture.components:
        half_life = component.half_life_days
        if half_life is None or today is None:
            continue
        dated = [i for i, c in enumerate(components) if c == component.name and parsed[i]]
        ages = np.array([max(0, (today - date).days) for i in dated if (date := parsed[i])])
        if dated and weighed[dated].sum() > 0:
            newest = ages.min()  # only ratios count, and the largest is then no tiny number
            result[dated] = _scaled(2.0 ** (-(ages - newest) / half_life), weighed[dated])
    return [float(weight) for weight in result]


def _scaled(weights: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In proportion to the weights, but none above MOST, with the mean 1 by size."""
    free = np.ones(len(weights), np.bool_)
    while True:
        room = sizes.sum() - MOST * sizes[~free].sum()
        sought = float((weights[free] * sizes[free]).sum())
        if not sought:  # what is left is so old that its weights are zeros, or empty
            scaled = np.where(free, room / max(1.0, float(sizes[free].sum())), MOST)
            return np.minimum(scaled, MOST)
        scaled = np.where(free, weights * room / sought, MOST)
        if (scaled <= MOST).all():
            return scaled
        free &= scaled < MOST


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table as text; rows: those of `plan`, by `Row.to_dict`."""
    budget = rows[0]["budget"] if rows else None
    head = ["component", "raw bytes", "weight", "epochs", "effective bytes", "mean document"]
    lines = [
        [
            row["component"],
            f"{row['raw_bytes']:,}",
            f"{100 * row['weight']:.2f} %",
            f"{row['epochs']:.2f}",
            f"{row['effective_bytes']:,.0f}",
            f"{row['mean_document']:,.0f}",
            *([f"{row['epochs_at_budget']:.2f}"] if row["epochs_at_budget"] is not None else []),
        ]
        for row in rows
    ]
    if not rows:
        return head, lines
    raw, documents = (sum(row[name] for row in rows) for name in ("raw_bytes", "documents"))
    effective = sum(row["effective_bytes"] for row in rows)
    epochs, mean = effective / max(1, raw), raw / max(1, documents)
    whole = [
        "the mixture",
        f"{raw:,}",
        "100.00 %",
        f"{epochs:.2f}",
        f"{effective:,.0f}",
        f"{mean:,.0f}",
    ]
    if len(lines[0]) > len(head):
        tokens = sum(row["tokens"] for row in rows)
        head.append(f"epochs at {budget:,} tokens")
        whole.append(f"{budget / max(1, tokens):.2f}")
    return head, [*lines, whole]
