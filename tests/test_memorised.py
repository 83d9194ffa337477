"""Verbatim text is measured against brute force; canaries' p-values are exact."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maquette
from maquette.audit.canary import Canaries, joint_p_value, losses, p_values, plant
from maquette.audit.memorised import Memorised, memorised, verbatim
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Document
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


class Naive:
    """The index by brute force: the longest run of a text from each place that a document holds."""

    def __init__(self, *documents: str) -> None:
        self._documents = documents

    def matches(self, tokens):
        text = TOKENIZER.decode(tokens)
        lengths = [
            max(
                n
                for n in range(len(text) - i + 1)
                if any(text[i : i + n] in d for d in self._documents)
            )
            for i in range(len(text))
        ]
        counts = [
            sum(d[j:].startswith(text[i : i + n]) for d in self._documents for j in range(len(d)))
            if n and (i == 0 or n >= lengths[i - 1])
            else 0
            for i, n in enumerate(lengths)
        ]
        return np.array(lengths), np.array(counts)


AB = st.text(alphabet="ab", max_size=14)


@given(st.lists(AB, min_size=1, max_size=3), st.lists(AB, max_size=3), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_verbatim_tokens_are_those_inside_long_common_runs(documents, samples, least):
    encoded = [TOKENIZER.encode(sample) for sample in samples]
    found = verbatim(encoded, TOKENIZER, Naive(*documents), least)
    for number, sample in enumerate(samples):
        runs = [
            range(i, j)
            for i in range(len(sample))
            for j in range(i + least, len(sample) + 1)
            if any(sample[i:j] in document for document in documents)
        ]
        assert found.verbatim[number] == len(set().union(*runs))
    for span in found.spans:
        assert span.text == samples[span.sample][span.start : span.end]
        assert span.bytes == len(span.text.encode()) >= least
        assert any(span.text in document for document in documents)
    low, high = found.interval
    assert 0 <= low <= found.fraction <= high <= 1


def test_the_index_of_a_corpus_and_brute_force_agree(corpus):
    from maquette.audit.index import open_index

    splits = corpus.documents["split"].to_pylist()
    texts = [corpus.text(row).decode() for row, split in enumerate(splits) if split == "train"]
    samples = [texts[0][50:90] + "@" + texts[3][:70], texts[5][:30] + texts[6][100:160], "xyz"]
    encoded = [TOKENIZER.encode(sample) for sample in samples]
    ours = verbatim(encoded, TOKENIZER, open_index(corpus), 30)
    assert ours == verbatim(encoded, TOKENIZER, Naive(*texts), 30)
    assert ours.spans and ours.verbatim[2] == 0


def test_an_interval_is_as_wide_as_whole_samples_allow():
    """Ten samples, one of them a copy: not a thousand tokens that chose each for itself."""
    one = Memorised([100] * 10, [100] + [0] * 9, 50)
    spread = Memorised([100] * 10, [10] * 10, 50)
    assert one.fraction == spread.fraction == 0.1
    assert one.interval[1] - one.interval[0] > 0.3
    none = Memorised([100] * 10, [0] * 10, 50)
    assert none.interval[0] == 0
    assert 0.2 < none.interval[1] < 0.35
    assert Memorised([], [], 50).interval == (0, 1)


def test_what_a_model_writes_is_looked_up(trained):
    run = maquette.load(trained)
    everything = Naive(*(chr(c) for c in range(128)))
    found = memorised(run.model, run.tokenizer, everything, samples=3, tokens=9, least=1, seed=5)
    assert len(found.lengths) == 3
    assert max(found.lengths) <= 9
    assert found == memorised(
        run.model, run.tokenizer, everything, samples=3, tokens=9, least=1, seed=5
    )
    other = memorised(run.model, run.tokenizer, everything, samples=3, tokens=9, least=1, seed=6)
    assert [span.text for span in other.spans] != [span.text for span in found.spans]
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["tokens"] == sum(found.lengths)
    with pytest.raises(WrongUse, match="samples is 0"):
        memorised(run.model, run.tokenizer, everything, samples=0)


CANARIES = Canaries(seed=3, copies=(0, 1, 5), per_level=4, alternatives=63, length=16)


def test_canaries_follow_from_the_seed_and_differ():
    (none, zero), (one, first), (five, second) = CANARIES.levels
    assert (none, one, five) == (0, 1, 5)
    drawn = [*zero, *first, *second, *CANARIES.kept_out]
    assert len(set(drawn)) == len(drawn) == 3 * 4 + 63
    assert all(len(text) == 17 and text[8] == " " for text in drawn)
    assert replace(CANARIES).levels == CANARIES.levels
    assert not set(replace(CANARIES, seed=4).kept_out) & set(drawn)
    longer = replace(CANARIES, alternatives=200)  # more alternatives do not change who is planted
    assert longer.levels == CANARIES.levels
    letters = "".join(Canaries(alternatives=5000).kept_out).replace(" ", "")
    counts = np.array([letters.count(c) for c in "abcdefghijklmnop"])
    expected = len(letters) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 38  # chi-squared of 15, p = 0.001


def test_canaries_are_kept_and_what_was_changed_is_refused(tmp_path):
    CANARIES.save(tmp_path / "canaries.json")
    assert Canaries.load(tmp_path / "canaries.json") == CANARIES
    kept = json.loads((tmp_path / "canaries.json").read_text(encoding="utf-8"))
    for change in ({"seed": 4}, {"alternatives": 64}, {"sha256": "0"}, {"format": 9}):
        (tmp_path / "other.json").write_text(json.dumps(kept | change), encoding="utf-8")
        with pytest.raises(UserError, match="was changed"):
            Canaries.load(tmp_path / "other.json")
    for content in ("[]", "{}", '{"seed": 1}'):
        (tmp_path / "other.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="holds no canaries"):
            Canaries.load(tmp_path / "other.json")
    with pytest.raises(WrongUse, match="length is 6"):
        Canaries(length=6)
    with pytest.raises(WrongUse, match="copies 0 or more"):
        Canaries(copies=(-1,))


def test_every_copy_is_planted_on_a_line_of_its_own(tmp_path):
    host = [Document(f"one {i}\ntwo\nthree", "host", f"host:{i}") for i in range(20)]
    planted = CANARIES.documents(host)
    lines = [line for document in planted for line in document.text.split("\n")]
    for copies, texts in CANARIES.levels:
        assert all(lines.count(text) == copies for text in texts)
    assert not set(CANARIES.kept_out) & set(lines)
    strings = {text for _, texts in CANARIES.levels for text in texts}
    rest = ["\n".join(x for x in d.text.split("\n") if x not in strings) for d in planted]
    assert rest == [document.text for document in host]
    assert planted == CANARIES.documents(iter(host))
    corpus = build(tmp_path / "corpus", planted, BuildOptions(vocabulary=257, heldout=0.1))
    assert corpus.documents.num_rows == 20


def test_places_are_drawn_evenly_over_the_lines():
    host = [Document("a", "h", "1"), Document("a\nb\nc", "h", "2")]
    planted = plant(host, ["x"] * 4000, seed=0)
    assert planted[0].text.count("x") == pytest.approx(1000, abs=120)
    lines = planted[1].text.split("\n")
    assert lines[0] == "a"
    after_a = lines.index("b") - 1
    assert after_a == pytest.approx(1000, abs=120)


def test_the_p_value_of_a_canary_is_exact():
    """Over all orders of R + 1 losses, p is each of 1/(R + 1) ... 1 equally often."""
    values = [
        p_values(np.array(order[:1]), np.array(order[1:]))[0]
        for order in itertools.permutations([0.5, 1.0, 2.5, 3.0])
    ]
    assert sorted(values) == [0.25] * 6 + [0.5] * 6 + [0.75] * 6 + [1.0] * 6
    tied = p_values(np.array([1.0, 0.0]), np.array([1.0, 1.0, 2.0]))
    assert tied.tolist() == [0.75, 0.25]  # a tie counts against the canary


def test_the_p_value_of_a_level_is_never_too_small():
    """Uniform under the null, though the canaries share their alternatives; small where they rank low."""
    draw = np.random.default_rng(1)
    p = np.array(
        [joint_p_value(*np.split(draw.normal(size=12), [4]), draws=99) for _ in range(1500)]
    )
    for level in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / len(p))
    assert joint_p_value(np.zeros(8), np.arange(1.0, 200)) == 1 / 2000
    assert joint_p_value(np.arange(300.0, 308), np.arange(200.0)) == 1


def test_an_untrained_model_remembers_nothing_and_a_trained_one_does(tmp_path, recipe):
    from maquette.training.datasets.text_config import TextData, TextWatch
    from maquette.workshop.train import train

    canaries = Canaries(seed=1, copies=(0, 60), per_level=3, alternatives=99, length=16)
    host = [Document(f"line {i}\nand more of it\n", "host", f"host:{i}") for i in range(40)]
    corpus = build(
        tmp_path / "corpus", canaries.documents(host), BuildOptions(vocabulary=257, heldout=0.05)
    )
    more = replace(
        recipe,
        data=TextData(corpus=str(corpus.path), sequence=32),
        steps=260,
        watch=TextWatch(every=1000, tokens=64, sample_tokens=0, report=False),
    )
    train(more, tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    none, planted = canaries.score(run.model, run.tokenizer)
    assert (none.copies, planted.copies) == (0, 60)
    assert none.p_value > 0.01
    assert not any(none.extracted)
    assert planted.p_values == [0.01] * 3
    assert planted.exposures == pytest.approx([np.log2(100)] * 3)
    assert planted.memorised_bits > 20 > none.memorised_bits
    assert planted.p_value < 0.01
    assert planted.extraction_rate > none.extraction_rate == 0
    for level, (_, texts) in zip((none, planted), canaries.levels, strict=True):
        heads, tails = zip(*(text.split(" ") for text in texts), strict=True)
        written = [run.generate(f"\n{head}", tokens=9, temperature=0) for head in heads]
        assert level.extracted == [w == f" {tail}" for w, tail in zip(written, tails, strict=True)]
    assert json.loads(json.dumps(planted.to_dict()))["extraction_interval"][1] <= 1


def test_the_loss_of_a_canary_is_the_sum_over_its_line(trained):
    run = maquette.load(trained)
    texts = ["abcd efgh", "the cat", "x y"]
    found = losses(run.model, run.tokenizer, texts)
    import torch

    for text, nats in zip(texts, found, strict=True):
        tokens = torch.tensor([[run.tokenizer.eos_token_id, *run.tokenizer.encode("\n" + text)]])
        with torch.no_grad():
            logs = run.model(tokens[:, :-1]).log_softmax(-1)
        expected = -logs.gather(-1, tokens[:, 1:, None]).sum()
        assert nats == pytest.approx(float(expected), rel=1e-4)
