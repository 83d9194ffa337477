"""Passages whose topic, mood and age of language are known exactly, word by word.

    Forsooth, Anna hath praised yon merry anchor nigh the sunny harbour.
    opener    has  verb  which mood  topic    near      mood  topic

Every word of these places is drawn by itself: with the passage's chance from one pole's words (old, not new;
glad, not grim; its topic, not another). So a passage is of a style by degrees, an oracle reads the degrees
out of any text, and one word tells little: a topic is learnt from what stands together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

TOPICS = ("sea", "kitchen", "forest", "market")
NOUNS = {
    "sea": "anchor sail wave gull oar net shell tide mast rope crab rudder compass whale raft",
    "kitchen": "spoon kettle loaf pan onion oven ladle plate pepper butter cup knife stew flour bowl",
    "forest": "oak fern owl moss fox nest acorn branch trail deer mushroom badger pine root wolf",
    "market": "coin stall basket scale cloth price buyer bargain cart crate ribbon penny ledger seller jar",
}
SITES = {
    "sea": "harbour lighthouse reef beach pier island bay deck",
    "kitchen": "cupboard stove pantry table sink hearth cellar larder",
    "forest": "clearing thicket brook hollow glade ridge grove den",
    "market": "square counter warehouse gate fountain auction bank corner",
}
VERBS = "seen found praised drawn kept lost moved named counted painted shown carried".split()
MOODS = {
    "glad": """merry bright lovely sunny gentle happy golden sweet cheerful warm fine kind splendid lucky
    graceful fresh""",
    "grim": """gloomy dark ugly cold cruel bitter rotten sad dreadful broken foul bleak dismal cursed
    shabby stale""",
}
AGES = {
    "old": ("forsooth verily perchance alas prithee betimes anon behold", "hath", "yon", "nigh"),
    "new": ("okay really maybe sorry please today now look", "has", "that", "near"),
}
NAMES = "Anna Ben Clara David Emma Felix Grace Henry".split()


def _words(table: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: words.split() for name, words in table.items()}


_NOUNS, _SITES, _MOODS = _words(NOUNS), _words(SITES), _words(MOODS)
_OPENERS = {age: words[0].split() for age, words in AGES.items()}
_POLES: dict[str, dict[str, str]] = {
    "old": {w: age for age, (o, *rest) in AGES.items() for w in (*o.split(), *rest)},
    "glad": {w: mood for mood, words in _MOODS.items() for w in words},
    "topic": {w: t for table in (_NOUNS, _SITES) for t, words in table.items() for w in words},
}


@dataclass(frozen=True)
class Style:
    """Chances of a passage's words. old, glad: of that pole; topics: of each of `TOPICS`."""

    topics: tuple[float, ...]
    glad: float = 0.5
    old: float = 0.5

    @staticmethod
    def of(topic: str, glad: float, old: float, strength: float = 0.7) -> "Style":
        """A style of one topic, whose words have that chance; the others share the rest."""
        rest = (1 - strength) / (len(TOPICS) - 1)
        return Style(tuple(strength if t == topic else rest for t in TOPICS), glad, old)


def passage(draw: Random, style: Style, sentences: int = 3) -> str:
    """A passage of that style."""
    return " ".join(_sentence(draw, style) for _ in range(sentences))


def _sentence(draw: Random, style: Style) -> str:
    def age() -> str:
        return "old" if draw.random() < style.old else "new"

    def mood() -> str:
        return draw.choice(_MOODS["glad" if draw.random() < style.glad else "grim"])

    def topic() -> str:
        return draw.choices(TOPICS, style.topics)[0]

    opener = draw.choice(_OPENERS[age()]).capitalize()
    name, verb = draw.choice(NAMES), draw.choice(VERBS)
    noun, site = draw.choice(_NOUNS[topic()]), draw.choice(_SITES[topic()])
    has, which, near = AGES[age()][1], AGES[age()][2], AGES[age()][3]
    return f"{opener}, {name} {has} {verb} {which} {mood()} {noun} {near} the {mood()} {site}."


def read(text: str) -> dict[str, float]:
    """The degrees of a text, 0 to 1: of "old" and "glad", and of each topic; of words that say them.

    A degree of which no word speaks is left out.
    """
    counts: dict[str, dict[str, int]] = {name: {} for name in _POLES}
    for word in re.findall(r"[a-z]+", text.lower()):
        for name, poles in _POLES.items():
            if word in poles:
                counts[name][poles[word]] = counts[name].get(poles[word], 0) + 1
    found: dict[str, float] = {}
    for name, seen in counts.items():
        total = sum(seen.values())
        if total:
            poles_of = TOPICS if name == "topic" else (name,)
            found |= {pole: seen.get(pole, 0) / total for pole in poles_of}
    return found


def some_style(draw: Random) -> Style:
    """A style as documents have them: one topic, clearly old or new, clearly glad or grim."""
    return Style.of(draw.choice(TOPICS), draw.choice((0.1, 0.9)), draw.choice((0.1, 0.9)))
