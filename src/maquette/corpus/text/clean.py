"""Cleaning as attributes: rules say what they found and where, and a text is never rewritten.

    found = attributes(text, ["quality", "personal"], component="prose")
    applied = apply(text, found, ["quality", "personal"])       (text, or what dropped it)

A rule is a pure function of a text to attributes: spans with a score (the idea and the triples are
Dolma's, Soldaini et al. 2024). What a build does with them is the rule's action: a document is
dropped whose score is outside the rule's bounds; a span is cut or masked; a mark is only kept. As the
scores stay beside the corpus, it can be said of every document why it is in or not.

    quality      Rae et al. 2021, appendix A1.1 and table A1 (Gopher): is it running text?
    c4           Raffel et al. 2020, section 2.2: for web pages, where a paragraph is one line
    boilerplate  lines about cookies and JavaScript, menus, lines that come again and again
    personal     e-mail addresses, IP addresses, card numbers
    language     which; language:en drops what is not English (any other code likewise)
    licence      which; licence:permissive drops what is known to be under another

Rules for prose are not asked about source code (components `code` and `tests`): braces, short lines
and repeated ones are no fault there. What knows English alone (Gopher's stop words, C4's lines and
sentences) is not asked about a text that is surely in another language, and that is marked as
`not-english:CODE`; of a text whose language is unsure it is asked. Where words are not parted by spaces,
characters are counted as parts of words (scripts.py), and nothing is said of the length of words.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.text import language, personal
from maquette.corpus.text.language import View

Action = Literal["drop document", "cut span", "mask span", "mark"]
NOT_PROSE = frozenset(["code", "tests"])
FOREIGN = "not-english"  # the mark of a text that rules for English were not asked about
MOST_LIKELY = 0.5  # a language more probable than all others together
ROWS = 1 << 16  # of a sidecar, written and skipped together


class Attribute(NamedTuple):
    """A rule's score of the characters start .. end of a document."""

    start: int
    end: int
    score: float
    rule: str


@dataclass(frozen=True)
class Rule:
    """A cleaning rule: a measure of a text, and the action that follows."""

    name: str
    action: Action
    description: str
    find: Callable[[View], list[Attribute]]
    least: float = -math.inf
    """least score; a document with a lower score is dropped"""
    most: float = math.inf
    """largest score; a document with a higher score is dropped"""
    placeholder: str = ""
    """text in place of a masked span"""
    prose: bool = False
    """whether the rule is for prose, not source code"""
    english: bool = False
    """whether the rule is for English alone"""
    spaced: bool = False
    """whether the rule is for text with spaces between words"""

    def __call__(self, text: str) -> list[Attribute]:
        return self.find(View(text))

    def keeps(self, score: float) -> bool:
        """Whether a score is within the bounds; rounded, as it may have been a float32."""
        return self.least <= round(score, 6) <= self.most


@dataclass(frozen=True)
class Applied:
    """The result of cleaning a text."""

    text: str | None
    """cleaned text; None: the document is dropped"""
    dropped_by: str | None
    """name of the first rule that dropped the document"""
    removed: int
    """number of characters cut"""
    masked: int
    """number of spans masked"""


def attributes(text: str, rules: Sequence[str], component: str) -> list[Attribute]:
    """Attributes of a document of a component by rules, or groups of rules, rule by rule."""
    view = View(text)
    asked = rules_named(tuple(rules))
    prose = component not in NOT_PROSE
    spans: list[Attribute] = []
    foreign = None
    for rule in asked:
        if (rule.prose and not prose) or (rule.spaced and view.unspaced):
            continue
        matches = rule.find(view)
        if rule.english and not all(
            rule.action == "drop document" and rule.keeps(a.score) for a in matches
        ):
            foreign = foreign or view.foreign  # looked at only where it matters: it takes its time
            if foreign is not None:
                continue
        spans += matches
    if foreign is not None:
        code, probability = foreign
        spans.append(Attribute(0, len(text), probability, f"{FOREIGN}:{code}"))
    return spans


def apply(text: str, attributes: Sequence[Attribute], rules: Sequence[str]) -> Applied:
    """Apply the actions of the given rules alone. Where spans overlap, cutting wins."""
    asked = {rule.name: rule for rule in rules_named(tuple(rules))}
    spans: list[tuple[int, int, str]] = []  # with what stands there afterwards
    for attribute in attributes:
        rule = asked.get(attribute.rule)
        if rule is None or rule.action == "mark":
            continue
        if rule.action != "drop document":
            spans.append((attribute.start, attribute.end, rule.placeholder))
        elif not rule.keeps(attribute.score):
            return Applied(None, attribute.rule, 0, 0)
    cuts = _merged(sorted((start, end) for start, end, sign in spans if not sign))
    masks = sorted((span for span in spans if span[2]), key=lambda span: (span[0], -span[1]))
    pieces: list[str] = []
    at = removed = masked = 0
    for start, end, sign in sorted([*((*cut, "") for cut in cuts), *_outside(masks, cuts)]):
        pieces += [text[at:start], sign]
        at = end
        removed += 0 if sign else end - start
        masked += bool(sign)
    left = "".join([*pieces, text[at:]])
    if text.strip() and not left.strip():
        lengths: dict[str, int] = defaultdict(int)
        for attribute in attributes:
            lengths[attribute.rule] += attribute.end - attribute.start
        cutting = [name for name, rule in asked.items() if rule.action == "cut span"]
        return Applied(None, max(cutting, key=lambda name: lengths[name]), removed, masked)
    return Applied(left, None, removed, masked)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _outside(
    masks: Iterable[tuple[int, int, str]], cuts: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, str]]:
    """Sorted masks that touch no cut and no mask before them."""
    at = cut = 0
    for start, end, sign in masks:
        while cut < len(cuts) and cuts[cut][1] <= start:
            cut += 1
        if start >= at and (cut == len(cuts) or end <= cuts[cut][0]):
            yield start, end, sign
            at = end


def why(attributes: Sequence[Attribute], rules: Sequence[str]) -> list[str]:
    """Lines that say which rule dropped the document, what was cut and masked, and which rules it passed."""
    dropped, changed, passed = [], [], []
    by_rule: dict[str, list[Attribute]] = defaultdict(list)
    for attribute in attributes:
        by_rule[attribute.rule].append(attribute)
    asked = {rule.name: rule for rule in rules_named(tuple(rules))}
    for name, own in by_rule.items():
        group, _, part = name.partition(":")
        rule = asked.get(name)
        if rule is None or rule.action == "mark":
            if group == FOREIGN:
                passed.append(
                    f"rules for English not asked: {part}, probability {own[0].score:.2f}"
                )
                continue
            kind, size = group, sum(a.end - a.start for a in own)
            sure = f", probability {own[0].score:.2f}" if group == "language" else ""
            passed.append(f"{kind}: {part} in {size:,} characters{sure}")
        elif rule.action == "drop document":
            score = own[0].score
            shown = f"{score:,.0f}" if score == round(score) else f"{score:.3g}"
            if rule.keeps(score):
                passed.append(f"passed {group}: {rule.description} {shown}, {_bounds(rule)}")
            else:
                bar = f"< {rule.least:,g}" if score < rule.least else f"> {rule.most:,g}"
                dropped.append(f"dropped by {group}: {rule.description} {shown} {bar}")
        else:
            verb = "cut" if rule.action == "cut span" else "masked"
            size = sum(a.end - a.start for a in own)
            spans = f"{len(own):,} span{'s' * (len(own) > 1)}, {size:,} characters"
            changed.append(f"{verb} by {group}: {rule.description} ({spans})")
    return [*dropped, *changed, *passed] or ["kept: no rule has anything to say of it"]


def _bounds(rule: Rule) -> str:
    if rule.least <= 0:
        return f"at most {rule.most:,g}"
    return f"at least {rule.least:,g}" + (
        "" if rule.most in (1, math.inf) else f", at most {rule.most:,.0f}"
    )


def _measures(
    kind: str,
    name: str,
    description: str,
    least: float,
    most: float,
    english: bool = False,
    spaced: bool = False,
) -> Rule:
    """A rule over a measure of `View.gopher` or `View.repetition`."""

    def find(view: View) -> list[Attribute]:
        return [Attribute(0, len(view.text), getattr(view, kind)[name], f"gopher:{name}")]

    return Rule(
        f"gopher:{name}", "drop document", description, find, least, most,
        prose=True, english=english, spaced=spaced,
    )  # fmt: skip


def _spans(
    name: str,
    action: Action,
    description: str,
    finder: Callable[[View], list[tuple[int, int]]],
    placeholder: str = "",
    prose: bool = False,
    english: bool = False,
) -> Rule:
    """A rule over the spans that `finder` returns; the score of each is 1."""

    def find(view: View) -> list[Attribute]:
        return [Attribute(start, end, 1.0, name) for start, end in finder(view)]

    return Rule(
        name, action, description, find, placeholder=placeholder, prose=prose, english=english
    )


def _counts(name: str, description: str, count: Callable[[View], float], least: float, most: float,
            prose: bool, english: bool = False) -> Rule:  # fmt: skip
    """A rule over one number of the whole document."""

    def find(view: View) -> list[Attribute]:
        return [Attribute(0, len(view.text), float(count(view)), name)]

    return Rule(name, "drop document", description, find, least, most, prose=prose, english=english)


def _language(view: View) -> list[Attribute]:
    code, probability = next(iter(view.language.items()))
    return [Attribute(0, len(view.text), probability, f"language:{code}")]


def _licences(view: View) -> list[Attribute]:
    licences = personal.licences(view.text, view.lower)
    return [Attribute(start, end, 1.0, f"licence:{name}") for start, end, name in licences]


def _restricted(view: View) -> int:
    licences = personal.licences(view.text, view.lower)
    return sum(not personal.permissive(name) for _, _, name in licences)


def _rules() -> Iterator[Rule]:
    # Rae et al. 2021, appendix A1.1, "Quality Filtering"
    gopher = functools.partial(_measures, "gopher")
    repetition = functools.partial(_measures, "repetition")
    yield gopher("words", "number of words", 50, 100_000)
    yield gopher("mean-word-length", "mean word length", 3, 10, spaced=True)
    yield gopher("hash-ratio", "signs # to words", 0, 0.1)
    yield gopher("ellipsis-ratio", "ellipses to words", 0, 0.1)
    yield gopher("bullet-lines", "fraction of lines that start with a bullet", 0, 0.9)
    yield gopher("ellipsis-lines", "fraction of lines that end with an ellipsis", 0, 0.3)
    yield gopher("alphabetic-words", "fraction of words with a letter", 0.8, 1)
    yield gopher("stop-words", "different English stop words of eight", 2, 8, english=True)
    # Rae et al. 2021, table A1
    for name in ("line", "paragraph"):
        yield repetition(f"duplicate-{name}s", f"fraction of duplicate {name}s", 0, 0.3)
        description = f"fraction of characters in duplicate {name}s"
        yield repetition(f"duplicate-{name}-characters", description, 0, 0.2)
    for n, most in zip(language.TOP, (0.20, 0.18, 0.16), strict=True):
        description = f"fraction of characters in the most frequent {n}-gram"
        yield repetition(f"top-{n}-gram", description, 0, most)
    for n, most in zip(language.DUPLICATE, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
        description = f"fraction of characters in duplicate {n}-grams"
        yield repetition(f"duplicate-{n}-gram", description, 0, most)
    # Raffel et al. 2020, section 2.2; its list of bad words is left out, and what stands in several
    # documents is for deduplication
    yield _spans("c4:terminal-punctuation", "cut span", "lines without terminal punctuation",
                 language.unterminated, prose=True, english=True)  # fmt: skip
    yield _spans("c4:short-lines", "cut span", f"lines of fewer than {language.C4_WORDS} words",
                 language.short_lines, prose=True, english=True)  # fmt: skip
    yield _counts("c4:lorem-ipsum", "times 'lorem ipsum'",
                  lambda view: view.lower.count("lorem ipsum"), 0, 0, True)  # fmt: skip
    yield _counts("c4:curly-bracket", "curly brackets",
                  lambda view: view.text.count("{"), 0, 0, True)  # fmt: skip
    yield _counts("c4:sentences", "sentences in the lines that C4 keeps", language.sentences,
                  3, math.inf, True, english=True)  # fmt: skip
    yield _spans("boilerplate:notice", "cut span", "notices about cookies, policies, JavaScript",
                 language.notices, prose=True)  # fmt: skip
    yield _spans("boilerplate:menu", "cut span", "menus", language.menus, prose=True)
    yield _spans("boilerplate:repeated-lines", "cut span", "lines that stand three times or more",
                 language.repeated_lines, prose=True)  # fmt: skip
    yield _spans("personal:email", "mask span", "e-mail addresses",
                 lambda view: personal.emails(view.text), "<EMAIL>")  # fmt: skip
    yield _spans("personal:ip", "mask span", "IP addresses",
                 lambda view: personal.ip_addresses(view.text), "<IP>")  # fmt: skip
    yield _spans("personal:card", "mask span", "card numbers",
                 lambda view: personal.cards(view.text), "<CARD>")  # fmt: skip
    yield Rule("language", "mark", "the most probable language", _language, prose=True)
    yield Rule("licence", "mark", "SPDX identifiers and licence headers", _licences)
    yield _counts("licence:permissive", "licences that are not permissive", _restricted,
                  0, 0, False)  # fmt: skip


RULES: dict[str, Rule] = {rule.name: rule for rule in _rules()}
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name in RULES if name.partition(":")[0] == prefix)
    for group, prefix in (
        ("quality", "gopher"), ("c4", "c4"), ("boilerplate", "boilerplate"),
        ("personal", "personal"),
    )
}  # fmt: skip


@functools.lru_cache
def rules_named(names: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules that names of rules and of groups stand for, each once.

    Raises WrongUse, and says what was probably meant, for what is neither.
    """
    rules: dict[str, Rule] = {}
    for name in names:
        for rule in GROUPS.get(name, (name,)):
            rules[rule] = RULES.get(rule) or _language_rule(rule)
    return tuple(rules.values())


def _language_rule(name: str) -> Rule:
    prefix, _, code = name.partition(":")
    if prefix != "language":
        raise WrongUse(f"unknown cleaning rule {name}{did_you_mean(name, [*GROUPS, *RULES])}")
    if code not in language.languages():
        raise WrongUse(f"unknown language {code}{did_you_mean(code, language.languages())}")
    return _counts(name, f"probability of {code}", lambda view: view.language[code],
                   MOST_LIKELY, 1, True)  # fmt: skip
