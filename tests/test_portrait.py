"""Portraits: what was seen is found, spans are where they are, accidents are as rare as is said."""

import itertools
import math
import random
import shutil
import unicodedata

import numpy as np
import pytest
import rbloom
from conftest import Texts
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.audit import member as member_module
from maquette.audit.member import chains, chance, hits_needed, member
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.text import fuse_filter, portrait
from maquette.corpus.text.ngram_hashes import as_bytes
from maquette.corpus.text.portrait import PortraitBuilder, build_portrait, open_portrait

SIGNS = "abcdefghijklmnopqrstuvwxyz ,.\n" + "éßñжя" + "漢字かな" + "😀🚀"
STRANGE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "ÄÖÜ" + "中文" + "🌍"


def made(seed, length, signs=SIGNS):
    return "".join(random.Random(seed).choices(signs, k=length))


def painted(folder, texts, bits=7, **grams):
    builder = PortraitBuilder(folder / "scratch", **grams)
    for text in texts:
        builder.add(text.encode())
    return builder.finish(folder / "portrait.bin", "c0ffee", bits)


DOCUMENTS = [made(i, 50 * i) for i in range(40)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A portrait of forty documents of up to 2,000 characters, some of several bytes."""
    return painted(tmp_path_factory.mktemp("portrait"), DOCUMENTS)


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """The same with 30 bits: no accidents."""
    return painted(tmp_path_factory.mktemp("sure"), DOCUMENTS, bits=30)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(2, 39), st.integers(0, 2000), st.integers(99, 400), st.integers(0, 300), st.data()
)
def test_every_run_of_99_characters_is_found(seen, number, at, length, before, data):
    document = DOCUMENTS[number]
    at = min(at, len(document) - 99)
    run = document[at : at + length]
    after = data.draw(st.integers(0, 300))
    text = made(1, before, STRANGE) + run + made(2, after, STRANGE)
    inside = [
        span
        for span in member(seen, text).spans
        if span.start < before + len(run) and span.end > before
    ]
    grams = [document.encode()[i : i + 33] for i in range(0, len(document.encode()) - 32, 67)]
    whole = [gram for gram in grams if gram in run.encode()]
    assert whole
    assert all(any(inside_of(span, text, gram) for span in inside) for gram in whole)


def inside_of(span, text, gram):
    """Whether a span has all whole characters of a gram."""
    core = gram.decode("utf-8", "ignore")
    return core in text[span.start : span.end]


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 39), st.integers(0, 100), st.integers(0, 1900), st.integers(0, 100))
def test_spans_are_of_whole_characters_that_were_seen(sure, number, before, cut, after):
    """The end of a document amid foreign text: one span, of its grams' whole characters exactly."""
    document = DOCUMENTS[number]
    cut = min(cut, len(document) - 99)
    text = made(3, before, STRANGE) + document[cut:] + made(4, after, STRANGE)
    [span] = member(sure, text).spans
    data, skipped = document.encode(), len(document[:cut].encode())
    grams = [at for at in range(0, len(data) - 32, 67) if at >= skipped]
    lead = data[skipped : grams[0]].decode("utf-8", "ignore")
    whole = data[grams[0] : grams[-1] + 33].decode("utf-8", "ignore")
    torn = data[grams[0]] & 0xC0 == 0x80  # the first gram begins inside a character
    assert span.start == before + len(lead) + torn
    assert text[span.start : span.end] == whole
    assert span.hits == len(grams)


def test_hits_are_those_of_a_bloom_filter_and_few_more(seen):
    """rbloom knows the same grams: nothing it knows is missing, and no more is there than 2^-7."""
    bloom = rbloom.Bloom(100_000, 1e-9)
    for document in DOCUMENTS:
        data = document.encode()
        bloom.update(data[i : i + 33] for i in range(0, len(data) - 32, 67))
    text = "".join(DOCUMENTS[20:30]).encode() + made(5, 50_000, STRANGE).encode()
    known = np.array([text[i : i + 33] in bloom for i in range(len(text) - 32)])
    hits = seen.hits(as_bytes(text))
    assert known.sum() > 100
    assert hits[known].all()
    strangers = (~known).sum()
    assert abs(hits[~known].sum() - strangers / 128) < 5 * math.sqrt(strangers / 128)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 7))
def test_chains_are_the_longest_runs_of_hits_a_stride_apart(hits, stride):
    naive = []
    for start, hit in enumerate(hits):
        if hit and not (start >= stride and hits[start - stride]):
            count = 1
            while start + count * stride < len(hits) and hits[start + count * stride]:
                count += 1
            naive.append((start, count))
    starts, lengths = chains(np.array(hits, np.bool_), stride)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == naive


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_accidents_are_as_rare_as_the_law_says(tmp_path, strength):
    """Texts of which nothing was seen, at an error of 1/16: equation 1 is a bound, and a close one."""
    coarse = painted(tmp_path, DOCUMENTS, bits=4)
    offsets = 300 - 33 + 1
    accidents = trials = 0
    for seed in range(3000):
        hits = coarse.hits(as_bytes(made(seed, 300, STRANGE[:36])))
        accidents += int(chains(hits, 67)[1].max(initial=0) >= strength)
        trials += 1
    bound = chance(coarse, offsets, strength)
    spread = math.sqrt(bound * (1 - bound) / trials)
    assert accidents / trials <= bound + 4 * spread
    if strength > 1:
        assert (
            accidents / trials >= bound * (1 - bound) - 4 * spread
        )  # pairs of accidents are rarer


def test_strong_spans_are_as_rare_as_the_bound(tmp_path):
    coarse = painted(tmp_path, DOCUMENTS, bits=3)
    shown = [member(coarse, made(seed, 400, STRANGE[:36]), error=0.3) for seed in range(1000)]
    bound = shown[0].bound
    assert 0.01 < bound <= 0.3
    rate = np.mean([any(s.strong for s in m.spans) for m in shown])
    assert rate <= bound + 4 * math.sqrt(bound / 1000)
    assert rate > 0
    assert all(s.strong == (s.bound <= 0.3) for m in shown for s in m.spans)


def test_the_bound_counts_different_grams(tmp_path):
    """A line of equal signs, once seen as a gram, is no proof for a page of them."""
    line = painted(tmp_path, ["=" * 99])
    page = member(line, "=" * 5000)
    assert [(s.start, s.end, s.strong) for s in page.spans] == [(0, 5000, False)]
    assert page.spans[0].hits == (5000 - 33) // 67 + 1
    assert page.coverage == 0
    text = made(0, 5000, SIGNS[:28])
    proof = member(painted(tmp_path, [text]), text)
    assert proof.spans[0].strong and proof.spans[0].bound < 1e-100
    assert proof.coverage > 0.98


def test_the_least_strength_that_is_strong(seen):
    for offsets in (0, 1, 67, 68, 500, 10**6, 10**12):
        for error in (0.5, 0.01, 1e-9):
            needed = hits_needed(seen, offsets, error)
            assert chance(seen, offsets, needed) <= error
            assert needed == 1 or chance(seen, offsets, needed - 1) > error
    assert chance(seen, 500, 1) == 1  # 500 / 128, capped
    assert chance(seen, 500, 2) == (500 - 67) / 128**2
    assert chance(seen, 500, 3) == (500 - 134) / 128**3
    with pytest.raises(WrongUse, match="error is 1: use a probability"):
        member(seen, "text", error=1)


def test_spans_of_each_kind_do_not_overlap_and_the_longest_is_first(tmp_path):
    coarse = painted(tmp_path, DOCUMENTS, bits=3)
    text = made(1, 2000, STRANGE) + DOCUMENTS[30] + made(2, 500, STRANGE) + DOCUMENTS[12]
    found = member(coarse, text)
    lengths = [s.end - s.start for s in found.spans]
    assert lengths == sorted(lengths, reverse=True)
    strong = sorted((s.start, s.end) for s in found.spans if s.strong)
    weak = sorted((s.start, s.end) for s in found.spans if not s.strong)
    assert len(strong) > 1 and len(weak) > 3
    for spans in (strong, weak):
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert not any(a <= c and d <= b for a, b in strong for c, d in weak)
    assert found.coverage == sum(b - a for a, b in strong) / len(text)


@pytest.mark.parametrize("text", ["", "a", "short é", "\ud800 alone " * 9, "x" * 32])
def test_texts_too_short_or_strange_have_no_spans(tmp_path, text):
    found = member(painted(tmp_path, DOCUMENTS, bits=32), text)
    assert found.spans == [] and (found.coverage is None) == found.too_short
    assert found.too_short == (len(text) < 99)


@pytest.mark.parametrize("documents", [[], [""], ["a", "b" * 32]])
def test_a_portrait_of_nothing_knows_nothing(tmp_path, documents):
    empty = painted(tmp_path, documents, bits=1)
    assert empty.grams == 0
    assert member(empty, "b" * 500).spans == []


def test_the_file_depends_on_the_grams_alone(tmp_path, monkeypatch, seen):
    """Another order, copies, a trip over the disk: the same bytes but for the counts."""
    monkeypatch.setattr(portrait, "BUFFER", 50)
    shuffled = painted(tmp_path, [*reversed(DOCUMENTS), *DOCUMENTS[:7]])
    assert shuffled.grams == seen.grams < shuffled.samples
    assert np.array_equal(shuffled.fuse.words, seen.fuse.words)
    assert np.array_equal(shuffled.fuse.partitions, seen.fuse.partitions)
    again = painted(tmp_path, DOCUMENTS)
    assert again.path.read_bytes() == seen.path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["portrait.bin"]
    for keys in (100, 2):  # partitions of several files, files of several partitions
        monkeypatch.setattr(fuse_filter, "PARTITION_KEYS", keys)
        parted = painted(tmp_path, DOCUMENTS)
        assert len(parted.fuse.partitions) > 1
        assert all(parted.hits(as_bytes(d))[::67].all() for d in DOCUMENTS)
        monkeypatch.setattr(portrait, "BUFFER", 1 << 20)
        assert painted(tmp_path, DOCUMENTS).path.read_bytes() == parted.path.read_bytes()
        monkeypatch.setattr(portrait, "BUFFER", 50)


def test_the_counts_are_those_of_a_naive_count(seen):
    grams = [d.encode()[i : i + 33] for d in DOCUMENTS for i in range(0, len(d.encode()) - 32, 67)]
    assert (seen.samples, seen.grams) == (len(grams), len(set(grams)))
    assert (seen.documents, seen.text_bytes) == (40, sum(len(d.encode()) for d in DOCUMENTS))
    assert seen.guarantee == 99 and seen.error == 1 / 128


def test_the_portrait_of_a_corpus_is_of_its_training_documents(corpus, tmp_path):
    said = []
    built = build_portrait(corpus, tmp_path / "p.bin", progress=lambda *done: said.append(done))
    rows = corpus.documents.to_pylist()
    texts = {d.source: d.text for d in Texts()}
    trained = [texts[row["source"]] for row in rows if row["split"] == "train"]
    assert built.corpus == corpus.hash
    assert said[-1][1] == said[-1][2] == built.text_bytes == sum(map(len, trained))
    assert all(member(built, text).coverage > 0.8 for text in trained)
    heldout = [texts[row["source"]] for row in rows if row["split"] == "heldout"]
    assert not any(member(built, text).coverage for text in heldout)
    shutil.copy(built.path, tmp_path / "alone.bin")
    alone = open_portrait(tmp_path / "alone.bin")  # without the corpus
    assert member(alone, trained[0]) == member(built, trained[0])


def test_what_cannot_be_is_said(tmp_path, seen):
    with pytest.raises(WrongUse, match="bits is 33: use 1 to 32"):
        painted(tmp_path, DOCUMENTS, bits=33)
    with pytest.raises(WrongUse, match="width 0"):
        painted(tmp_path, DOCUMENTS, width=0)
    with pytest.raises(UserError, match="is not there"):
        open_portrait(tmp_path / "none.bin")
    (tmp_path / "text.bin").write_text("no portrait " * 20, encoding="utf-8")
    with pytest.raises(UserError, match="not a file of kind MQPORTRA"):
        open_portrait(tmp_path / "text.bin")
    data = seen.path.read_bytes()
    for old, new in ((b'"bits": 7', b'"bits": 0'), (b'"width": 33', b'"width": 00'),
                     (b'"stride"', b'"strode"'), (b'"grams": ', b'"grams":-')):  # fmt: skip
        assert old in data
        (tmp_path / "bad.bin").write_bytes(data.replace(old, new))
        with pytest.raises(UserError, match="damaged"):
            open_portrait(tmp_path / "bad.bin")


@pytest.mark.parametrize("length", [0, 1, 33, 60, 98, 99, 120, 165, 166, 400])
def test_a_short_passage_is_too_short_and_never_nothing(tmp_path, length):
    """Shorter than what is sure to be found: no fraction, whether it was seen or not."""
    document = made(500, 900, "abcdefghijklmnop ,.\n")
    seen = painted(tmp_path, [document])
    for start in range(0, 134, 7):
        found = member(seen, document[start : start + length])
        assert found.too_short == (found.coverage is None)
        if length >= 166:
            assert found.coverage is not None and found.coverage > 0.3
            assert found.sure_from == length
        else:
            assert found.coverage != 0
            assert found.sure_from == 166
    assert (member(seen, "-" * length).coverage is None) == (length < 166)


ACCENTED = "Éloïse a mangé des crêpes à la fraise, Tiếng Việt có nhiều dấu, 한국어 문장도 있다; "


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_other_normal_forms_of_a_text_are_found_at_their_place(tmp_path, written, asked):
    text = "".join(f"{i} {ACCENTED}" for i in range(30))
    portrait = painted(tmp_path, [unicodedata.normalize(written, text)], bits=30)
    before = unicodedata.normalize(asked, "ộ" * 50)
    query = before + unicodedata.normalize(asked, text)
    found = member(portrait, query)
    (span,) = found.spans
    assert len(before) <= span.start <= len(before) + 99 * 3
    assert found.coverage is not None and found.coverage > 0.9 * len(text) / (len(text) + 50)
    for edge in (span.start, span.end):  # whole characters with their marks
        assert edge == len(query) or unicodedata.combining(query[edge]) == 0


def test_the_hits_of_parts_are_those_of_one_look_up(seen, monkeypatch):
    text = made(9, 700, STRANGE) + DOCUMENTS[30] + made(8, 300) + DOCUMENTS[12]
    whole = member(seen, text)
    data = as_bytes(text.encode())
    hits = seen.hits(data)
    assert hits.sum() > 20
    for chunk in (1, 7, 32, 33, 34, 67, 500, len(data) - 33, len(data)):
        monkeypatch.setattr(member_module, "CHUNK", chunk)
        assert np.array_equal(member_module.hits(seen, data), hits)
        assert member(seen, text) == whole
    for end in (0, 1, 32, 33, 34):
        assert np.array_equal(member_module.hits(seen, data[:end]), seen.hits(data[:end]))
