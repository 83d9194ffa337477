"""Captions of scenes: labels to text, and back without loss.

    a red circle left of a blue square         a blue square with a red circle to its left

A caption names shapes and links between them. Each link says one relation from one of its two ends;
within a caption all of them go the same way, so that the words determine the labels. Every grammar
uses the words of `WORDS` alone.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse, did_you_mean
from maquette.worlds.shapes import (
    COLOURS,
    COUNTS,
    PHRASINGS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Integers,
    Scenes,
    Shapes,
    checked_labels,
    label_names,
    label_sizes,
)

# One column per grammar: the second shape comes first where the link begins with a minus, and the
# part after "..." follows the shape.
LINKS = {
    "left of": (
        "left of", "to the left of", "left of", "-right of", "-with ... to its left",
        "-to the right of",
    ),
    "above": ("above", "over", "on top of", "-below", "-with ... above it", "-under"),
    "inside": ("inside", "within", "in the middle of", "-around", "-with ... inside it",
               "-surrounding"),
}  # fmt: skip
OPENINGS = ("", "", "there is", "", "", "a picture of")
PLURALS = tuple("crosses" if name == "cross" else name + "s" for name in SHAPES)


def _words() -> tuple[str, ...]:
    links = " ".join(" ".join(column) for column in LINKS.values())
    rest = [*re.findall(r"[a-z]+", links), *" ".join(OPENINGS).split(), "are"]
    words = ["a", "an", *SIZES, *TEXTURES[1:], *COLOURS, *SHAPES, *COUNTS, *PLURALS, *rest]
    return tuple(dict.fromkeys(words))


WORDS = _words()
"""every word of every caption, in a fixed order"""


def captions(scenes: Scenes) -> list[str]:
    """One caption for each scene, in the scene's own phrasing."""
    labels, phrasings = scenes.labels.tolist(), scenes.phrasing.tolist()
    world = scenes.world
    return [_said(world, tuple(row), p) for row, p in zip(labels, phrasings, strict=True)]


def caption_of(
    labels: npt.ArrayLike | Sequence[int], world: Shapes | None = None, phrasing: int = 0
) -> str:
    """The caption of one scene's labels (factors,), in one of the grammars.

    Raises WrongUse for labels that the world lacks.
    """
    world = world or Shapes()
    if not 0 <= phrasing < PHRASINGS:
        raise WrongUse(f"phrasing is {phrasing}: use 0 to {PHRASINGS - 1}")
    row = checked_labels(world, np.asarray(labels)[None])[0]
    return _said(world, tuple(row.tolist()), phrasing)


@cache
def _nouns(world: Shapes, plural: bool = False) -> dict[tuple[int, ...], str]:
    """The words for every kind of shape: colour, shape and the other attributes in label order."""
    sizes = label_sizes(world)
    width = 2 + world.sizes + (world.textures > 1)
    nouns = {}
    for values in np.ndindex(*sizes[:width]):
        rest = list(values[2:])
        words = [SIZES[rest.pop(0)]] if world.sizes else []
        words += [TEXTURES[rest[0]]] if rest and rest[0] else []
        words += [COLOURS[values[0]], (PLURALS if plural else SHAPES)[values[1]]]
        nouns[values] = " ".join(words)
    return nouns


def _said(world: Shapes, labels: tuple[int, ...], phrasing: int) -> str:
    width = 2 + world.sizes + (world.textures > 1)
    opening = OPENINGS[phrasing] + " " if OPENINGS[phrasing] else ""
    if world.counts:
        several = labels[-1] > 0
        noun = _nouns(world, several)[labels[:width]]
        opening = opening.replace("is", "are") if several and opening == "there is " else opening
        return f"{opening}{COUNTS[labels[-1]]} {noun}"
    nouns = _nouns(world)
    parts = [_with_article(nouns[labels[i : i + width]]) for i in _starts(world, width)]
    links = [LINKS[world.relations[r]][phrasing] for r in labels[width * world.objects :]]
    if links and links[0][0] == "-":
        parts, links = parts[::-1], [link[1:] for link in links[::-1]]
    text = parts[0]
    for link, part in zip(links, parts[1:], strict=True):
        before, _, after = link.partition(" ... ")
        text += f" {before} {part}" + (f" {after}" if after else "")
    return opening + text


def _starts(world: Shapes, width: int) -> range:
    return range(0, width * world.objects, width)


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def parse(caption: str, world: Shapes | None = None) -> Integers:
    """The labels that a caption says, (factors,): the inverse of `caption_of`, for every grammar.

    Raises WrongUse for an unknown word, with the nearest that the world has, or for words that are
    no caption of this world.
    """
    world = world or Shapes()
    words = caption.lower().replace(",", " ").rstrip(" .").split()
    known = _vocabulary(world)
    for word in words:
        if word not in known:
            raise WrongUse(f"unknown word {word}{did_you_mean(word, known)}")
    text = " ".join(words)
    for opening in sorted({*OPENINGS, "there are"} - {""}, key=len, reverse=True):
        if text.startswith(opening + " "):
            text = text[len(opening) + 1 :]
            break
    row = _counted(text, world) if world.counts else _linked(text, world)
    if row is None:
        example = caption_of([0] * len(label_names(world)), world)
        raise WrongUse(f"no caption of this world: {caption!r}; write, for example, {example!r}")
    return np.array(row, np.int64)


@cache
def _vocabulary(world: Shapes) -> frozenset[str]:
    """The words that captions of this world may use."""
    nouns = [*_nouns(world).values(), *(_nouns(world, True).values() if world.counts else ())]
    links = " ".join(" ".join(LINKS[name]) for name in world.relations)
    texts = [*nouns, *OPENINGS, *COUNTS[: world.objects if world.counts else 0]]
    words = {word for text in texts for word in text.split()} | {"a"}
    if any(noun[0] in "aeiou" for noun in nouns):
        words.add("an")
    if world.counts:
        words.add("are")
    elif world.objects > 1:
        words |= set(re.findall(r"[a-z]+", links))
    return frozenset(words)


def _counted(text: str, world: Shapes) -> list[int] | None:
    first, _, noun = text.partition(" ")
    first = "one" if first in ("a", "an") else first
    if first not in COUNTS[: world.objects]:
        return None
    many = COUNTS.index(first)
    tokens = _by_noun(world, many > 0).get(noun)
    return None if tokens is None else [*tokens, many]


@cache
def _by_noun(world: Shapes, plural: bool = False) -> dict[str, tuple[int, ...]]:
    return {noun: values for values, noun in _nouns(world, plural).items()}


@cache
def _grammar(world: Shapes) -> tuple[re.Pattern[str], dict[tuple[str, str], tuple[int, bool]]]:
    """A pattern of a noun with its link, and the relation and direction of each link."""
    links = {}
    for index, name in enumerate(world.relations):
        for link in LINKS[name]:
            before, _, after = link.lstrip("-").partition(" ... ")
            links[before, after] = (index, link[0] == "-")
    nouns = "|".join(sorted(map(_with_article, _by_noun(world)), key=len, reverse=True))
    before = "|".join(sorted({b for b, _ in links}, key=len, reverse=True))
    after = "|".join(sorted({a for _, a in links if a}, key=len, reverse=True))
    pattern = rf"(?:(?P<before>{before}) )?(?P<noun>{nouns})(?: (?P<after>{after}))?(?: |$)"
    return re.compile(pattern), links


def _linked(text: str, world: Shapes) -> list[int] | None:
    pattern, links = _grammar(world)
    things: list[tuple[int, ...]] = []
    relations: list[int] = []
    turned: set[bool] = set()
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            return None
        link = (match["before"] or "", match["after"] or "")
        if not things:
            if link != ("", ""):
                return None
        elif link not in links:
            return None
        else:
            relation, backwards = links[link]
            relations.append(relation)
            turned.add(backwards)
        things.append(_by_noun(world)[match["noun"].partition(" ")[2]])
        at = match.end()
    if len(things) != world.objects or len(turned) > 1:
        return None
    if turned == {True}:
        things, relations = things[::-1], relations[::-1]
    return [*(value for thing in things for value in thing), *relations]


assert set(LINKS) == set(RELATIONS) and all(len(column) == PHRASINGS for column in LINKS.values())
