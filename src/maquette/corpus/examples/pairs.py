"""Questions with answers that are cut from the documents of a corpus of text, without a model.

    definition   What is a shell?                               a program that reads commands
    docstring    What does the function `clock` do?             Return the processor time.
    heading      Under which heading stands this? ...           Exit codes
    next         Which sentence comes next? ...                 the sentence that follows
    blank        Fill in the blank: The ___ is closed.          file
    document     Which document says this? ...                  its title, or its file's name
    reading      Text: ... \\n What is a shell?                  a part of the text

The last kind can be answered from what is read alone, the others by who has read the document. What is cut
is a function of the document alone, so the same corpus gives the same pairs; the draw is by the document's
source. A prompt with two answers is left out, whole. Pairs of held-out documents are held out.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from random import Random

from maquette.corpus.examples.example import Example
from maquette.corpus.text.store import SPLITS, Corpus

MOST = 420  # characters of a pair, which fit 256 tokens of a small vocabulary
ANSWER = 160  # characters of an answer
EACH, MORE = 2, 8  # pairs of a kind of a document; of a held-out one, where there are few
LONGEST = 60_000  # characters of a document that are read
HELDOUT = 0.1  # of the pairs, those of held-out documents
SPARE = 1.3  # times as many pairs are cut as are wanted, for some have two answers
TRAIN_SIDE, HELDOUT_SIDE = SPLITS

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])")
WORD = re.compile(r"[^\W\d_]{4,}")
NUMBER = re.compile(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?![\w.])")
DEFINED = re.compile(
    r"^((?:An?|The) )?([^\W\d_][\w-]*(?: [\w-]+){0,2}) (is|are) ((?:an?|the|one) [^:;]{12,}?)\.$"
)
NO_THINGS = frozenset(
    "it this that there he she they which what here these those one each such if when we you i who its "
    "his her their our my where how as in on at for by and but or so not also then all some".split()
)
"""words that no definition defines"""
MARKED = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
UNDERLINED = re.compile(r"^(\S[^\n]{2,60})\n([=~^*-])\2{2,}[ \t]*$", re.MULTILINE)
CAPITALS = re.compile(r"^([A-Z][A-Z ]{3,30})[ \t]*$", re.MULTILINE)
DOCUMENTED = re.compile(
    r'^[ \t]*(def|class)[ \t]+(\w+)[^\n]*(?:\n[^\n"]*){0,4}?:[ \t]*\n'
    r'[ \t]*r?"""[ \t]*(\S[^\n"]+?)(?:"""|[ \t]*\n)',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Pair:
    """A prompt with its answer, and the kind of cut."""

    kind: str
    prompt: str
    answer: str

    @property
    def fits(self) -> bool:
        """Whether both are short, and neither is empty or broken."""
        both = self.prompt + self.answer
        return (
            0 < len(self.answer.strip()) <= ANSWER
            and len(both) <= MOST
            and both.replace("\n", " ").isprintable()
            and "\N{REPLACEMENT CHARACTER}" not in both
        )


def corpus_pairs(corpus: Corpus, count: int) -> Iterator[Example]:
    """At most `count` pairs of a corpus, a tenth of them of held-out documents, where these have so many.

    The source of an example is the document's with the kind behind #. Where no held-out document gives a
    pair, those of every tenth document are held out.
    """
    shares = {HELDOUT_SIDE: max(1, round(HELDOUT * count)), TRAIN_SIDE: count}
    cut = {side: _cut(corpus, side, round(SPARE * share)) for side, share in shares.items()}
    if len(cut[HELDOUT_SIDE]) < shares[HELDOUT_SIDE]:
        cut[HELDOUT_SIDE] = _cut(corpus, HELDOUT_SIDE, round(SPARE * shares[HELDOUT_SIDE]), MORE)
    answers: dict[str, set[str]] = {}
    for pairs in cut.values():
        for _, pair in pairs:
            answers.setdefault(pair.prompt, set()).add(pair.answer)
    left, seen = count, set[str]()
    table = corpus.documents.select(["source", "licence"]).to_pydict()
    licences = dict(zip(table["source"], table["licence"], strict=True))
    known = [source for source, _ in cut[TRAIN_SIDE]]
    apart = set() if cut[HELDOUT_SIDE] else {s for s in known if _key(s) % 10 == 0} | {*known[:1]}
    for side, pairs in cut.items():
        share = min(left, shares[side])
        for source, pair in pairs:
            if share and len(answers[pair.prompt]) == 1 and pair.prompt not in seen:
                seen.add(pair.prompt)
                held = side == HELDOUT_SIDE or source in apart
                yield Example(
                    pair.prompt, pair.answer, source=f"{source}#{pair.kind}", heldout=held,
                    licence=licences.get(source) or "",
                )  # fmt: skip
                share, left = share - 1, left - 1


def _cut(corpus: Corpus, side: str, wanted: int, each: int = EACH) -> list[tuple[str, Pair]]:
    """At least so many pairs of documents of a split, with their sources, in the order of their hashes."""
    table = corpus.documents.select(["split", "source", "title"]).to_pydict()
    rows = [row for row, split in enumerate(table["split"]) if split == side]
    rows.sort(key=lambda row: _key(table["source"][row]))
    found: list[tuple[str, Pair]] = []
    for row in rows:
        if len(found) >= wanted:
            break
        source, text = table["source"][row], corpus.text(row).decode("utf-8", "replace")
        found += [
            (source, pair) for pair in document_pairs(text, source, table["title"][row] or "", each)
        ]
    return found


def _key(source: str) -> int:
    return int.from_bytes(hashlib.sha256(source.encode("utf-8", "replace")).digest()[:8], "big")


def document_pairs(text: str, source: str, title: str = "", each: int = EACH) -> list[Pair]:
    """The pairs of a document: at most `each` of each kind, drawn by its source."""
    text, draw = text[:LONGEST], Random(_key(source))
    name = title.strip() or PurePath(source).name
    code = PurePath(source).suffix in (".py", ".pyi")
    sentences = [] if code else sentences_of(text)
    ways: list[Callable[[], list[Pair]]] = [
        lambda: docstrings(text) if code else [],
        lambda: definitions(sentences),
        lambda: [] if code else headings(text, name),
        lambda: following(sentences),
        lambda: blanks(sentences, draw),
        lambda: named(sentences, name),
        lambda: read(sentences, draw),
    ]
    pairs: list[Pair] = []
    for way in ways:
        fitting = [pair for pair in way() if pair.fits]
        pairs += draw.sample(fitting, min(each, len(fitting)))
    return pairs


def sentences_of(text: str) -> list[str]:
    """The sentences of a text's paragraphs of prose, in their order; what is no prose is left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", CAPITALS.sub("\n\n", text)):
        if paragraph[:1] in ("#", "|", ">", "`"):
            found.append("")
            continue
        for sentence in SENTENCE.split(" ".join(paragraph.split())):
            letters = sum(c.isalpha() or c in " ,.'" for c in sentence)
            whole = sentence.endswith((".", "!", "?")) and sentence[:1].isalpha()
            whole = whole and not sentence.endswith(("e.g.", "i.e.")) and "\\" not in sentence
            if whole and 24 <= len(sentence) <= 240 and letters >= 0.9 * len(sentence):
                found.append(sentence)
            else:
                found.append("")  # what stands on either side of it does not follow each other
    return found


def definitions(sentences: Sequence[str]) -> list[Pair]:
    """What a thing is, of sentences that say so."""
    return [
        Pair("definition", f"{asked}?", answer)
        for sentence in sentences
        for asked, answer in [_defined(sentence)]
        if asked
    ]


def _defined(sentence: str) -> tuple[str, str]:
    """ "What is X" and what it is; two empty texts for a sentence that defines nothing."""
    match = DEFINED.match(sentence)
    if match is None or NO_THINGS & set(match[2].lower().split()):
        return "", ""
    return f"What {match[3]} {(match[1] or '').lower()}{match[2]}", match[4]


def docstrings(text: str) -> list[Pair]:
    """What a function does or a class is, by the first line of its docstring."""
    pairs = []
    for word, name, line in DOCUMENTED.findall(text):
        if name.startswith(("_", "test", "Test")) or len(name) < 3 or len(line) < 12:
            continue
        kind = "function" if word == "def" else "class"
        verb = "does the function {} do" if word == "def" else "is the class {}"
        pairs.append(Pair("docstring", f"What {verb.format(name)}?", line))
        pairs.append(Pair("docstring", f"Which {kind} has this documentation? {line}", name))
    return pairs


def headings(text: str, document: str) -> list[Pair]:
    """What stands first under a heading, and the heading that a sentence stands under."""
    marks = sorted(
        (match.start(), match.end(), match[1].strip())
        for pattern in (MARKED, UNDERLINED, CAPITALS)
        for match in pattern.finditer(text)
    )
    pairs = []
    for number, (_, end, heading) in enumerate(marks):
        until = marks[number + 1][0] if number + 1 < len(marks) else len(text)
        under = next((s for s in sentences_of(text[end:until][:2000].strip()) if s), "")
        if under:
            pairs.append(Pair("heading", f"Under which heading stands this? {under}", heading))
            asked = f"How does the section {heading} of {document} begin?"
            pairs.append(Pair("heading", asked, under))
    return pairs


def following(sentences: Sequence[str]) -> list[Pair]:
    """The sentence after a sentence."""
    return [
        Pair("next", f"Which sentence comes next? {one}", two)
        for one, two in pairwise(sentences)
        if one and two
    ]


def blanks(sentences: Sequence[str], draw: Random) -> list[Pair]:
    """The word that is left out of a sentence, which holds it once."""
    pairs = []
    for sentence in filter(None, sentences):
        words = [m for m in WORD.finditer(sentence) if m.start() and sentence.count(m[0]) == 1]
        if words:
            word = draw.choice(words)
            left_out = f"{sentence[: word.start()]}___{sentence[word.end() :]}"
            pairs.append(Pair("blank", f"Fill in the blank: {left_out}", word[0]))
    return pairs


def named(sentences: Sequence[str], document: str) -> list[Pair]:
    """The document that says a sentence."""
    return [Pair("document", f"Which document says this? {s}", document) for s in sentences if s]


def read(sentences: Sequence[str], draw: Random) -> list[Pair]:
    """A passage of two sentences, and a question whose answer is a part of it."""
    pairs = []
    for one, two in pairwise(sentences):
        if not one or not two:
            continue
        passage = f"{one} {two}"
        questions = [_asked_of(s) for s in (one, two)]
        questions += [_after(s, draw) for s in (one, two)]
        if len(numbers := NUMBER.findall(passage)) == 1:
            questions.append(("Which number is in the text?", numbers[0]))
        known = [(q, a) for q, a in questions if q and a in passage]
        if known:
            question, answer = draw.choice(known)
            pairs.append(Pair("reading", f"Text: {passage}\n{question}", answer))
    return pairs


def _asked_of(sentence: str) -> tuple[str, str]:
    asked, answer = _defined(sentence)
    return (f"{asked}?", answer) if asked else ("", "")


def _after(sentence: str, draw: Random) -> tuple[str, str]:
    """What follows three words of a sentence: the next three."""
    words = sentence.rstrip(".!?").split()
    if len(words) < 8:
        return "", ""
    at = draw.randrange(len(words) - 6)
    return f"What follows: {' '.join(words[at : at + 3])}?", " ".join(words[at + 3 : at + 6])
