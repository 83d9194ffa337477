"""Near-duplicates are those of a brute force, and planted ones are found."""

import random
import unicodedata

import numpy as np
import pytest
from conftest import some_text
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.base.errors import WrongUse
from maquette.corpus.text import near_duplicates as module
from maquette.corpus.text.near_duplicates import (
    BINS,
    Near,
    jaccard,
    near_duplicates,
    signature,
    signatures,
)
from maquette.corpus.text.ngram_hashes import BASE, as_bytes, gram_hashes
from maquette.corpus.text.planted_duplicates import (
    Rate,
    check,
    edited,
    plant,
    score_near,
    similarity,
)


def brute_force(texts, threshold):
    """The first of each component of the pairs that are alike."""
    keep = list(range(len(texts)))
    for j in range(len(texts)):
        for i in range(j):
            if keep[i] != keep[j] and similarity(texts[i], texts[j]) >= threshold:
                low, high = sorted((keep[i], keep[j]))
                keep = [low if k == high else k for k in keep]
    return keep


def families(count, seed=0):
    """Texts in families: each the first one of its family, or a change of one already there."""
    draw = random.Random(seed)
    texts = [some_text(seed + i, 80).encode() for i in range(count // 3)]
    while len(texts) < count:
        texts.append(edited(draw.choice(texts), draw.choice((0.6, 0.75, 0.85, 0.95)), draw))
    draw.shuffle(texts)
    return texts


def found(texts, **options):
    return near_duplicates(signatures(texts), texts.__getitem__, **options)


@given(st.binary(max_size=70), st.sampled_from([1, 2, 5, 25]))
@settings(max_examples=100, deadline=None)
def test_rolled_hashes_are_those_of_horner(data, width):
    def mixed(h):
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            h = (h ^ h >> 33) * factor % 2**64
        return h ^ h >> 33

    expected = []
    for i in range(len(data) - width + 1):
        h = 0
        for byte in data[i : i + width]:
            h = (h * int(BASE) + byte + 1) % 2**64
        expected.append(mixed(h))
    assert gram_hashes(as_bytes(data), width).tolist() == expected


@given(st.text("aA b\n", max_size=60), st.text("aA b\n", max_size=60))
@settings(max_examples=100, deadline=None)
def test_jaccard_is_that_of_sets(a, b):
    """Few letters, so that grams are shared; shorter than a gram, and empty, too."""
    assert module.jaccard(a.encode(), b.encode()) == similarity(a.encode(), b.encode())


def test_case_and_white_space_make_no_difference():
    plain = signature(b"The quick  brown fox\njumps over the lazy dog.")
    other = signature(b"\n\tthe QUICK brown fox jumps\r\nover the lazy dog. ")
    np.testing.assert_array_equal(plain, other)
    assert plain.shape == (BINS,)
    assert (plain != signature("The quick brown föx jumps over the lazy dog.".encode())).any()
    np.testing.assert_array_equal(signature(b""), signature(b" \n"))
    assert (signature(b"short") == signature(b"other")).mean() < 0.1


@pytest.mark.parametrize("words", [10, 30, 300])
def test_bins_agree_with_the_probability_of_the_similarity(words):
    """Whether the grams fill the bins or most bins had to be filled from others."""
    draw = random.Random(1)
    agreement, alike = [], []
    for i in range(60):
        text = some_text(i, words).encode()
        other = edited(text, 0.7, draw)
        agreement.append((signature(text) == signature(other)).mean())
        alike.append(similarity(text, other))
    assert np.mean(agreement) == pytest.approx(np.mean(alike), abs=0.025)


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_the_components_are_those_of_a_brute_force(threshold):
    texts = families(150)
    keep = brute_force(texts, threshold)
    assert 60 < len(set(keep)) < 120
    result = found(texts, threshold=threshold)
    assert result.keep.tolist() == keep
    assert result.pairs_confirmed == len(texts) - len(set(keep))
    assert result.pairs_confirmed <= result.pairs_checked < 150 * 149 / 2
    assert all(similarity(texts[i], texts[j]) >= threshold for i, j in result.links)


def test_a_similarity_of_exactly_the_threshold_is_enough():
    texts = [
        b"The quick brown fox jumps over it",
        b"another text",
        b"the QUICK brown fox  jumps over it",
    ]
    assert module.jaccard(texts[0], texts[2]) == 1.0
    assert found(texts, threshold=1.0).keep.tolist() == [0, 1, 0]


def test_the_order_does_not_change_the_components(tmp_path):
    texts = families(120, seed=7)
    kept = found(texts)
    np.save(tmp_path / "signatures.npy", signatures(texts))
    mapped = np.load(tmp_path / "signatures.npy", mmap_mode="r")
    assert near_duplicates(mapped, texts.__getitem__).keep.tolist() == kept.keep.tolist()
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = found([texts[i] for i in order]).keep

    def groups(keep, names):
        return {frozenset(names[keep == k].tolist()) for k in keep}

    assert groups(shuffled, order) == groups(kept.keep, np.arange(len(texts)))


def test_what_resembles_in_a_chain_is_together():
    draw = random.Random(3)
    chain = [some_text(0, 200).encode()]
    for _ in range(3):
        chain.append(edited(chain[-1], 0.85, draw))
    assert similarity(chain[0], chain[-1]) < 0.7
    result = found([some_text(9, 100).encode(), *chain])
    assert result.keep.tolist() == [0, 1, 1, 1, 1]


def test_a_bucket_is_never_squared():
    """Copies of one text, and forms of one frame, of which no two share enough: as many again."""
    same = [some_text(0, 60).encode() + b" " * (i % 7) for i in range(300)]
    assert found(same).pairs_checked == 299
    frame = some_text(1, 60)
    forms = [(frame + some_text(50 + i, 14)).encode() for i in range(600)]
    half, whole = found(forms[:300]), found(forms)
    assert whole.pairs_confirmed == 0
    assert 5 * 300 < half.pairs_checked < whole.pairs_checked < 2.5 * half.pairs_checked


def test_nothing_and_one_and_a_wrong_threshold():
    assert found([]).keep.tolist() == []
    assert found([b"alone"]).keep.tolist() == [0]
    assert found([b"", b"x", b" ", b"X"]).keep.tolist() == [0, 1, 0, 1]
    with pytest.raises(WrongUse, match="use a Jaccard similarity from 0.5 to 1"):
        found([b"alone"], threshold=80)


@pytest.fixture(scope="module")
def planted():
    texts = [some_text(i, 350).encode() for i in range(240)]
    return plant(texts, exact=10, spaced=10, near=40, decoys=40, stretches=20)


def test_planted_copies_have_the_similarity_they_are_said_to_have(planted):
    kinds = [c.kind for c in planted.copies]
    assert {k: kinds.count(k) for k in kinds} == {
        "exact": 10,
        "spaced": 10,
        "near": 40,
        "decoy": 40,
    }
    for c in planted.copies:
        original, copy = planted.texts[c.original], planted.texts[c.copy]
        assert c.similarity == similarity(original, copy)
        low, high = {"near": (0.8, 0.85), "decoy": (0.7, 0.75)}.get(c.kind, (1, 1))
        assert low <= c.similarity <= high
        assert (original == copy) == (c.kind == "exact")
    for s in planted.stretches:
        assert planted.texts[s.host][s.start : s.end] in b"\xff".join(planted.texts[:120])


def test_planted_duplicates_are_found_and_nothing_else(planted):
    rates = score_near(planted, found(planted.texts))
    assert {name: str(r).split()[0] for name, r in rates.items()} == {
        "exact copies found": "1.0000",
        "spaced copies found": "1.0000",
        "near copies found": "1.0000",
        "decoys kept": "1.0000",
        "near-duplicate precision": "1.0000",
    }
    assert rates["near copies found"].of == 40


def test_the_score_shows_a_bad_result(planted):
    count = len(planted.texts)
    blind = Near(np.arange(count), np.empty((0, 2), np.int64), 0)
    assert [r.value for r in score_near(planted, blind).values()] == [0, 0, 0, 1, 1]
    links = np.stack([np.zeros(count - 1, np.int64), np.arange(1, count)], axis=1)
    greedy = Near(np.zeros(count, np.int64), links, count)
    rates = score_near(planted, greedy)
    assert rates["decoys kept"].value == 0
    assert rates["near-duplicate precision"].value < 0.05


def test_a_check_of_both_stages():
    rates = check([some_text(i, 350).encode() for i in range(200)])
    assert rates["stretches cut"].of == 100
    assert all(r.value == 1 and r.of >= 10 for r in rates.values())


def test_the_interval_is_wilson_s():
    assert Rate(10, 10).interval == pytest.approx((0.7225, 1), abs=1e-4)
    assert Rate(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998
    assert Rate(0, 0).interval == (0, 1)


def test_other_normal_forms_and_scripts_without_spaces_are_compared():
    for text in (
        "Được rồi, café à la crème brûlée près de la forêt. ",
        "文档机器学习是人工智能的一个分支。",
    ):
        texts = [unicodedata.normalize(form, text * 9).encode() for form in ("NFC", "NFD")]
        assert jaccard(*texts) == 1.0
        assert (signature(texts[0]) == signature(texts[1])).all()
    chinese = "机器学习是人工智能的一个分支，主要研究如何让计算机从数据中学习规律，并利用这些规律进行预测。"
    other = chinese[:44] + "判断和决策。"
    assert jaccard((chinese * 1).encode(), other.encode()) > 0.5
