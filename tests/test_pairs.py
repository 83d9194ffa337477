"""Questions with answers that are cut from documents: what of each kind, filtered, held out by document."""

import pytest
from conftest import command

from maquette.corpus.document import Document
from maquette.corpus.examples.pairs import corpus_pairs, document_pairs, sentences_of
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions

PROSE = """# Shells

A shell is a program that reads commands. It starts other programs, and waits for them.
Most systems have 7 shells or so, of which one is yours.

## Leaving

Type exit to leave the shell. The number that you give is its exit code.
"""
CODE = '''def clock(zone):
    """Return the time of a zone."""


class Sundial(Clock):
    """A clock that needs the sun.

    It does not work at night.
    """


def _hidden():
    """What nobody asks about."""
'''


def cut(text, source, kind):
    return {(p.prompt, p.answer) for p in document_pairs(text, source, "Guide") if p.kind == kind}


def test_what_is_cut_of_a_text():
    assert cut(PROSE, "a.md", "definition") == {
        ("What is a shell?", "a program that reads commands")
    }
    headings = set().union(*(cut(PROSE, f"{n}.md", "heading") for n in range(8)))  # two each
    assert headings == {
        ("Under which heading stands this? Type exit to leave the shell.", "Leaving"),
        ("Under which heading stands this? A shell is a program that reads commands.", "Shells"),
        ("How does the section Leaving of Guide begin?", "Type exit to leave the shell."),
        (
            "How does the section Shells of Guide begin?",
            "A shell is a program that reads commands.",
        ),
    }
    after = {"A shell is a program that reads commands.": "It starts other programs, and waits for them.",
             "It starts other programs, and waits for them.":
             "Most systems have 7 shells or so, of which one is yours.",
             "Type exit to leave the shell.": "The number that you give is its exit code."}  # fmt: skip
    for prompt, answer in cut(PROSE, "a.md", "next"):
        assert after[prompt.removeprefix("Which sentence comes next? ")] == answer
    for prompt, answer in cut(PROSE, "a.md", "blank"):
        assert prompt.removeprefix("Fill in the blank: ").replace("___", answer) in PROSE.replace(
            "\n", " "
        )
    assert {answer for _, answer in cut(PROSE, "a.md", "document")} == {"Guide"}
    reading = cut(PROSE, "a.md", "reading")
    assert reading
    assert all(answer in prompt.rpartition("\n")[0] for prompt, answer in reading)


def test_what_is_cut_of_code():
    found = set().union(*(cut(CODE, f"{n}.py", "docstring") for n in range(8)))  # two of each draw
    assert found == {
        ("What does the function clock do?", "Return the time of a zone."),
        ("Which function has this documentation? Return the time of a zone.", "clock"),
        ("What is the class Sundial?", "A clock that needs the sun."),
        ("Which class has this documentation? A clock that needs the sun.", "Sundial"),
    }
    assert {p.kind for p in document_pairs(CODE, "a.py")} == {"docstring"}


@pytest.mark.parametrize(
    "text",
    ["x = 3; y = [1, 2]; z = {}; a = f(x, y, z).", "too short.", "no end is there, and nothing else",
     "| a | table | of some things | in rows.", r"It\(cqs of troff and its leftovers everywhere."],
)  # fmt: skip
def test_what_is_no_prose_is_left_out(text):
    assert not any(sentences_of(text))


class Guides:
    """Documents that each define a thing of their own, and all one word, each otherwise."""

    def __iter__(self):
        for n in range(40):
            name = chr(97 + n % 26) + chr(97 + n // 26)
            text = (
                f"A {name}fish is a creature of the {name} waters. "
                f"A word is a sign for the {name} people.\n\n"
                f"The {name} waters are deep and cold in winter. Nobody has seen the ground of them.\n"
            )
            yield Document(text * 2, "prose", f"guide-{name}.txt")


def test_pairs_are_held_out_by_document_and_none_has_two_answers(tmp_path):
    corpus = build(tmp_path / "c", Guides(), BuildOptions(vocabulary=257, heldout=0.2))
    table = corpus.documents.to_pydict()
    side = dict(zip(table["source"], table["split"], strict=True))
    assert set(side.values()) == {"train", "heldout"}
    pairs = list(corpus_pairs(corpus, 200))
    assert pairs == list(corpus_pairs(corpus, 200))
    assert {one.heldout for one in pairs} == {True, False}
    for one in pairs:
        document, _, kind = one.source.rpartition("#")
        assert one.heldout == (side[document] == "heldout")
        assert kind
    prompts = [one.prompt for one in pairs]
    assert len(set(prompts)) == len(prompts)
    assert any("fish?" in prompt for prompt in prompts)
    assert "What is a word?" not in prompts  # forty answers
    assert len(list(corpus_pairs(corpus, 25))) == 25
    none_held = build(tmp_path / "d", Guides(), BuildOptions(vocabulary=257, heldout=0.0001))
    apart = {one.heldout for one in corpus_pairs(none_held, 200)}
    assert apart == {True, False}
    made = command("corpus", "examples", tmp_path / "e", tmp_path / "c", "--tokenizer", "bytes",
                   "--count", 200, "--template", "chat", "--json")  # fmt: skip
    assert made.code == 0, made.err
    assert made.json["splits"]["heldout"]["examples"] == sum(bool(one.heldout) for one in pairs)
    assert made.json["template"] == "Q: {prompt}\nA: {answer}"
