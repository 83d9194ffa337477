"""Locators: every long run is found where it stands, and nothing is reported that is not there."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.base.errors import UserError
from maquette.corpus.document import Document
from maquette.corpus.text import locator, portrait
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.locator import LocatorBuilder, build_locator, open_locator
from maquette.corpus.text.ngram_hashes import as_bytes
from maquette.corpus.text.portrait import training_rows

SIGNS = "abcdefgh \n" + "éж漢😀"
STRANGE = "0123456789ABCDEFGHIJ"


class Mixed:
    """Documents that share stretches with one another and repeat themselves."""

    def __iter__(self):
        draw = random.Random(7)
        shared = ["".join(draw.choices(SIGNS, k=150)) for _ in range(5)]
        for i in range(40):
            own = "".join(draw.choices(SIGNS, k=draw.randrange(0, 300)))
            text = own + draw.choice(shared) + own[:80] + "=" * draw.randrange(0, 120)
            yield Document(text or "x", "made", f"made:{i}")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return build(
        tmp_path_factory.mktemp("corpora") / "mixed",
        Mixed(),
        BuildOptions(vocabulary=300, heldout=0.1),
    )


@pytest.fixture(scope="module")
def made(mixed):
    return build_locator(mixed)


def texts_of(corpus):
    return {int(row): corpus.text(int(row)) for row in training_rows(corpus)}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_every_run_of_99_bytes_is_found_where_it_stands(made, mixed, data):
    texts = texts_of(mixed)
    row = data.draw(st.sampled_from([r for r, t in texts.items() if len(t) >= 99]))
    at = data.draw(st.integers(0, len(texts[row]) - 99))
    run = texts[row][at : at + data.draw(st.integers(99, 300))]
    before, after = (
        data.draw(st.text(STRANGE, max_size=150)).encode(),
        data.draw(st.text(STRANGE, max_size=150)).encode(),
    )
    query = before + run + after
    matches = made.locate(query)
    for m in matches:  # what is reported stands there, and is as long as it can be
        text = texts[m.row]
        length = m.end - m.start
        assert query[m.start : m.end] == text[m.offset : m.offset + length]
        assert m.start == 0 or m.offset == 0 or query[m.start - 1] != text[m.offset - 1]
        beyond = m.offset + length
        assert m.end == len(query) or beyond == len(text) or query[m.end] != text[beyond]
    assert len({(m.start, m.row, m.offset) for m in matches}) == len(matches)
    samples = [o for o in range(0, len(texts[row]) - 32, 67) if at <= o <= at + len(run) - 33]
    assert samples
    for sample in samples:
        here = len(before) + sample - at
        assert any(m.start <= here and here + 33 <= m.end for m in matches)


def test_of_each_gram_the_first_place_is_known(made, mixed):
    texts = texts_of(mixed)
    first: dict[bytes, tuple[int, int]] = {}
    for row, text in texts.items():
        for offset in range(0, len(text) - 32, 67):
            first.setdefault(text[offset : offset + 33], (row, offset))
    assert len(first) < sum(len(range(0, len(t) - 32, 67)) for t in texts.values())
    for gram, place in first.items():
        assert [(row, offset) for _, row, offset in made._candidates(as_bytes(gram))] == [place]


def test_text_that_is_nowhere_is_found_nowhere(made):
    draw = random.Random(3)
    for length in (0, 1, 32, 33, 5000):
        assert made.locate("".join(draw.choices(STRANGE, k=length)).encode()) == []


def test_a_fingerprint_alone_convinces_nobody(made, mixed, monkeypatch):
    """With one bit of fingerprint strangers are looked up all the time, and never reported."""
    monkeypatch.setattr(locator, "FINGERPRINTS", (1, 1))
    weak = build_locator(mixed, mixed.path.with_name("weak.bin"))
    query = "".join(random.Random(4).choices(STRANGE, k=2000)).encode()
    assert len(weak._candidates(as_bytes(query))) > 100
    assert weak.locate(query) == []
    text = mixed.text(int(training_rows(mixed)[3]))
    assert weak.locate(text) == made.locate(text) != []


def test_documents_kept_in_memory_are_bounded_and_the_answers_are_the_same(
    mixed, made, monkeypatch
):
    queries = list(texts_of(mixed).values())
    before = [made.locate(query) for query in queries]
    monkeypatch.setattr(locator, "KEPT_BYTES", 1000)
    small = open_locator(mixed)
    assert [small.locate(query) for query in queries] == before
    assert sum(map(len, small._texts.values())) <= 1000


def test_the_file_is_the_same_over_the_disk(mixed, made, tmp_path, monkeypatch):
    monkeypatch.setattr(portrait, "BUFFER", 40)
    build_locator(mixed, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (mixed.path / "locator.bin").read_bytes()
    builder = LocatorBuilder(tmp_path / "scratch")
    for text in texts_of(mixed).values():
        builder.add(text)
    builder.finish(tmp_path / "streamed.bin", mixed.hash)
    assert (tmp_path / "streamed.bin").read_bytes() == (tmp_path / "again.bin").read_bytes()


def test_a_locator_of_another_corpus_is_refused(mixed, corpus, tmp_path):
    with pytest.raises(UserError, match="another corpus: build it again with maquette"):
        open_locator(corpus, mixed.path / "locator.bin")
    with pytest.raises(UserError, match="is not there"):
        open_locator(corpus, tmp_path / "none.bin")
    data = (mixed.path / "locator.bin").read_bytes()
    bad = data.replace(b'"fingerprint": 16', b'"fingerprint": 99')
    assert bad != data
    (tmp_path / "bad.bin").write_bytes(bad)
    with pytest.raises(UserError, match="damaged"):
        open_locator(mixed, tmp_path / "bad.bin")
