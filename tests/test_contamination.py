"""Shared n-grams are found exactly, whatever the text; what is dirty is dirty for a reason."""

import json
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.audit.contamination import (
    bits_per_byte,
    contamination,
    gap,
    mean,
    split_scores,
)
from maquette.base.errors import UserError
from maquette.corpus.build import build
from maquette.corpus.document import Document
from maquette.corpus.grams import BASE
from maquette.corpus.overlap import Hit, Overlap, gram_length, word_count
from maquette.corpus.tasks import read_tasks


def in_words(text: str) -> list[tuple[str, int, int]]:
    """Every word with its first byte and the byte after it, character by character."""
    found, word, place, start = [], "", 0, 0
    for c in text + " ":
        if unicodedata.category(c)[0] in "LMN":
            start = start if word else place
            word += c.lower() if len(c.lower()) == 1 else c
        elif word:
            found.append((word, start, place))
            word = ""
        place += len(c.encode("utf-8", "surrogatepass"))
    return found


def naive_hits(texts: list[str], data: str, n: int) -> list[Hit]:
    """Sets of word tuples, one example at a time."""
    found = in_words(data)
    hits = []
    for example, text in enumerate(texts):
        here = [word for word, _, _ in in_words(text)]
        grams = {tuple(here[i : i + n]) for i in range(len(here) - n + 1)}
        start = end = -1
        for i in range(len(found) - n + 1):
            if tuple(word for word, _, _ in found[i : i + n]) in grams:
                if start < 0 or found[i][1] > end:
                    if start >= 0:
                        hits.append(Hit(start, end, example))
                    start = found[i][1]
                end = found[i + n - 1][2]
        if start >= 0:
            hits.append(Hit(start, end, example))
    return sorted(hits)


FEW = st.text(alphabet="ab B-é\u0301É.ßİΣς 中ﬁ\u2003k\u212a𐐀𐐨\x00", max_size=60)
EXAMPLES = st.lists(FEW, max_size=6)


@given(EXAMPLES, FEW, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_what_is_found_is_what_sets_of_words_find(texts, data, n):
    assert Overlap(texts, n).scan(data.encode()) == naive_hits(texts, data, n)


@given(EXAMPLES, st.binary(max_size=40), FEW)
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_not_text_part_words(texts, junk, text):
    data = text.encode()[:20] + junk + text.encode()
    read = data.decode("utf-8", "replace")
    flagged = {hit.example for hit in Overlap(texts, 2).scan(data)}
    assert flagged == {hit.example for hit in naive_hits(texts, read, 2)}


def test_every_character_is_read_as_python_reads_it():
    """All of Unicode, each character between two words: is it in a word, and which."""
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    text = " ".join(f"x{c}x" for c in characters)
    expected = sum(
        1 if unicodedata.category(c)[0] in "LMN" else 2 for c in characters if ord(c) < 0x40000
    )
    beyond = sum(2 for c in characters if ord(c) >= 0x40000)
    assert word_count(text) == expected + beyond


def test_equal_hashes_are_told_apart():
    """Grams whose hashes are equal modulo 2^64 (the Thue-Morse sequence) are not taken as one."""
    signs = [0]
    while len(signs) < 2048:
        signs += [1 - s for s in signs]
    one = "".join("ab"[s] for s in signs)
    two = "".join("ba"[s] for s in signs)

    def polynomial(word: str) -> int:
        h = 0
        for c in word:
            h = (h * int(BASE) + ord(c)) % 2**64
        return h

    assert polynomial(one) == polynomial(two)
    both = Overlap([f"x {one} y", f"x {two} y", f"x {one} z"], 2)
    assert [hit.example for hit in both.scan(f"x {one}.".encode())] == [0, 2]
    assert [hit.example for hit in both.scan(f"x {two}.".encode())] == [1]
    assert [hit.example for hit in both.scan(f"{two} y".encode())] == [1]
    assert len(Overlap([f"x {one}"], 2).scan(f"x {two}".encode())) == 0


def test_case_punctuation_and_line_ends_do_not_hide_an_example():
    example = "The quick brown fox jumps over the lazy dog and runs away from the angry farmer"
    data = "xx\nTHE QUICK -- brown fox\njumps (over) the lazy dog, and runs; away... from the ANGRY farmer!"
    (hit,) = Overlap([example]).scan(data.encode())
    assert data[hit.start : hit.end].startswith("THE QUICK")
    assert data[hit.start : hit.end].endswith("farmer")
    assert not Overlap([example]).scan(data.replace("dog", "cat").encode())


def test_examples_end_where_they_end():
    """No gram crosses from an example into the next, and the last word of one is whole."""
    overlap = Overlap(["a b", "c d"], 2)
    assert [hit.example for hit in overlap.scan(b"a b, then c d")] == [0, 1]
    assert not overlap.scan(b"b c")
    assert Overlap(["one", "one two"], 2).short.tolist() == [True, False]
    assert Overlap([], 13).scan(b"whatever") == []
    assert Overlap(["a b"], 2).scan(b"") == []


def test_gram_length_is_the_fifth_percentile_between_eight_and_thirteen():
    assert gram_length(["word " * 3] * 50) == 8
    assert gram_length(["word " * 300] * 50) == 13
    assert gram_length(["word " * 10] * 10 + ["word " * 90] * 90) == 10
    assert gram_length([]) == 13


def remove(text: bytes, hits: list[Hit]) -> list[bytes]:
    """The pieces that remain between the cuts."""
    cuts = Overlap.cuts(text, hits)
    if cuts is None:
        return []
    assert cuts == sorted(cuts)
    edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
    return [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def spans(text: bytes, *places: tuple[int, int]) -> list[Hit]:
    return [Hit(start, end, 0) for start, end in places]


def test_a_collision_goes_with_two_hundred_characters_to_each_side():
    text = ("é" * 1000 + "X" * 50 + "中" * 1000).encode()
    start = text.index(b"X")
    left, right = remove(text, spans(text, (start, start + 50)))
    assert left.decode() == "é" * 800
    assert right.decode() == "中" * 800
    assert remove(text, []) == [text]
    assert remove(b"short", []) == [b"short"]
    assert remove(b"", []) == []
    assert remove(b"x" * 700, spans(text, (340, 350))) == []  # two pieces below 200 characters
    assert remove(b"x" * 700, spans(text, (0, 60), (40, 70))) == [b"x" * 430]


def test_what_falls_into_more_than_ten_pieces_goes_whole():
    text = b"x" * 13_000
    hits = [Hit(1000 * i, 1000 * i + 10, 0) for i in range(1, 13)]
    assert len(remove(text, hits[:9])) == 10
    assert remove(text, hits[:10]) == []


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 90)), max_size=8))
def test_what_is_kept_is_a_window_away_from_every_collision(places):
    text = "".join(chr(0x4E00 + i) for i in range(3100))  # every character once
    hits = [Hit(3 * a, 3 * (a + n), 0) for a, n in places]
    near = {i for a, n in places for i in range(a - 200, a + n + 200)}
    kept = [piece.decode() for piece in remove(text.encode(), hits)]
    assert not near & {ord(c) - 0x4E00 for piece in kept for c in piece}
    assert all(len(piece) >= 200 for piece in kept)
    clean = "".join(" " if i in near else c for i, c in enumerate(text)).split()
    assert kept == [run for run in clean if len(run) >= 200]


WORDS = [f"w{i}" for i in range(500)]


def prose(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(count))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Forty documents; examples 0-4 of a task stand in some of them, 5-9 in none."""
    examples = [prose(1000 + i, 40) for i in range(10)]
    documents = [Document(prose(i, 150), "made", f"made:{i}") for i in range(40)]
    for i in range(5):
        for j in range(i + 1):  # example i stands in i + 1 documents
            text = documents[8 * i + j].text
            inside = f"{text[:300]}\n{examples[i].upper()}.\n{text[300:]}"
            documents[8 * i + j] = Document(inside, "made", f"made:{8 * i + j}")
    path = tmp_path_factory.mktemp("planted") / "corpus"
    return build(path, documents, vocabulary=300, heldout=0.1), examples


@pytest.mark.parametrize("n", [13, 8, None])
def test_contamination_names_the_documents(planted, n):
    corpus, examples = planted
    found = contamination(corpus, {"task": examples, "other": ["nothing of this", prose(9, 40)]}, n)
    task, other = found["task"], found["other"]
    rows = {row: corpus.text(row).decode() for row in range(corpus.documents.num_rows)}
    splits = corpus.documents["split"].to_pylist()
    holds = {
        i: [row for row, text in rows.items() if splits[row] == "train" and e.upper() in text]
        for i, e in enumerate(examples)
    }
    assert task.flagged == [i for i in holds if holds[i]]
    assert len(task.flagged) >= 4
    for i in task.flagged:
        assert [hit.row for hit in task.hits if hit.example == i] == holds[i][:5]
    for hit in task.hits:
        text = rows[hit.row].encode()[hit.offset : hit.offset + hit.length]
        assert text.decode() == examples[hit.example].upper()
        assert corpus.documents["source"][hit.row].as_py() == hit.source
    assert (other.dirty, other.clean, other.short) == (1, 1, 1)
    assert task.examples == task.dirty + task.clean == 10
    low, high = task.interval
    assert low < task.fraction < high
    assert json.loads(json.dumps(task.to_dict()))["dirty"] == task.dirty


def test_how_many_documents_are_named_does_not_change_what_is_flagged(planted):
    corpus, examples = planted
    few, many = (contamination(corpus, {"": examples}, documents=d)[""] for d in (1, 50))
    assert few.flagged == many.flagged
    assert len(few.hits) == len(few.flagged) < len(many.hits)


def test_tasks_are_files(tmp_path):
    (tmp_path / "sub").mkdir()
    records = [{"text": "a b\u2028c"}, {"question": "why?", "answer": "so"}]
    (tmp_path / "sub" / "b.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n\n", encoding="utf-8"
    )
    (tmp_path / "a.txt").write_text("a whole\n\ndocument", encoding="utf-8")
    (tmp_path / "ignored.md").write_text("not a task", encoding="utf-8")
    tasks = read_tasks([tmp_path])
    assert list(tasks) == [str(tmp_path / "a.txt"), str(tmp_path / "sub" / "b.jsonl")]
    assert list(tasks.values()) == [["a whole\n\ndocument"], ["a b\u2028c", "why? so"]]
    assert read_tasks([tmp_path / "a.txt", tmp_path / "sub"]) == tasks


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"txt": "b"}', 'x.jsonl:2 has neither "text"'),
        ("x.jsonl", b'{"text": "a"}\n{"text"', "x.jsonl:2 is not JSON"),
        ("x.jsonl", b'["text"]', "x.jsonl:1 has neither"),
        ("x.jsonl", b"\n", "holds no examples"),
        ("x.txt", b"", "holds no examples"),
        ("x.txt", b"\xff\xfe", "is not text in UTF-8"),
        ("x.csv", b"a,b", "is no task"),
    ],
)
def test_a_task_that_cannot_be_read_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_tasks([tmp_path / name])
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        read_tasks([tmp_path / "absent.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        read_tasks([tmp_path / "empty"])


def test_means_and_their_errors():
    x = np.array([1.0, 2.0, 3.0, 6.0])
    assert mean(x).mean == 3
    assert mean(x).stderr == pytest.approx(x.std(ddof=1) / 2)
    assert mean(x, [5, 5, 5, 5]).stderr == pytest.approx(mean(x).stderr)
    assert mean([1, 3], [3, 1]).mean == 1.5
    parts = split_scores(x, [False, False, True, True])
    assert [(p.examples, p.mean) for p in parts.values()] == [(2, 1.5), (2, 4.5), (4, 3.0)]
    assert gap(parts).mean == -3
    assert gap(parts).stderr == pytest.approx(
        np.hypot(parts["clean"].stderr, parts["dirty"].stderr)
    )
    assert split_scores(x, [False] * 4)["dirty"].mean is None
    assert gap(split_scores(x, [False] * 4)).mean is None
    assert gap(split_scores(x, [True, False, False, False])).interval == (-np.inf, np.inf)


def test_the_error_of_a_mean_is_how_far_means_of_other_samples_lie():
    draw = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(2000):
        size = draw.integers(1, 50, 30)
        one = mean(draw.normal(size / 25, 1), size)
        means.append(one.mean)
        errors.append(one.stderr)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)


def test_bits_per_byte_of_examples_are_those_of_the_whole(trained):
    import maquette
    from maquette.evaluation.bits import score_documents

    run = maquette.load(trained)
    examples = ["the cat sat", "on a mat by the old stone wall of the tall tree", "é"]
    bits, sizes = bits_per_byte(run.model, run.tokenizer, examples)
    assert sizes.tolist() == [len(e.encode()) for e in examples]
    nats = list(
        score_documents(
            run.model,
            [np.array(run.tokenizer.encode(e)) for e in examples],
            run.tokenizer.special.start,
        )
    )
    assert float((bits * sizes).sum()) == pytest.approx(sum(nats) / np.log(2))
