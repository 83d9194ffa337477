"""Bits per byte: every token once, the right sums, and a known value."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import Texts, command, refused, some_text
from hypothesis import given
from hypothesis import strategies as st

import maquette
from maquette.base.errors import UserError
from maquette.corpus.document import Document
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.evaluation.bits_per_byte import (
    heldout_documents,
    score_corpus,
    score_documents,
    windows,
)
from maquette.evaluation.compressors import compressors
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder


@given(length=st.integers(1, 200), context=st.integers(1, 40), with_end=st.booleans())
def test_windows_score_every_token_once_with_half_a_context_before_it(length, context, with_end):
    document = torch.arange(1, length + 1)
    scored = []
    for window, skip in windows(document, context, [0] if with_end else []):
        assert 2 <= len(window) <= context + 1
        scored += window[1:][skip:].tolist()
        if window[0] > 1:  # not the first window: what is scored has half a context before it
            assert skip + 1 >= context - context // 2
    assert scored == list(range(1 if with_end else 2, length + 1))


def model_and(corpus, zero: bool = False) -> Decoder:
    model = Decoder(families.llama(vocabulary=257, context=16, width=32, depth=2, heads=2))
    model.initialise(0)
    if zero:
        with torch.no_grad():
            model.output.weight.zero_()
    return model.eval()


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(corpus):
    scores = score_corpus(model_and(corpus, zero=True), corpus)
    assert set(scores) == {"stories", "code", "all"}
    for score in scores.values():
        assert score.loss == pytest.approx(math.log(257), rel=1e-6)
        assert score.bits_per_byte == pytest.approx(math.log2(257), rel=1e-6)  # a token is a byte
        assert score.tokens == score.bytes
    assert scores["all"].bytes == scores["stories"].bytes + scores["code"].bytes
    assert scores["all"].nats == pytest.approx(scores["stories"].nats + scores["code"].nats)


def test_the_batched_score_is_the_plain_one(corpus):
    """Document by document, window by window, with the definition of cross-entropy."""
    model = model_and(corpus)
    rows = heldout_documents(corpus, None)
    texts = [corpus.heldout.read(r["offset"], r["tokens"])[:50] for r in rows][:7]
    found = list(score_documents(model, texts, [corpus.eos_token_id]))
    for text, nats in zip(texts, found, strict=True):
        expected = 0.0
        for window, skip in windows(torch.from_numpy(text), 16, [corpus.eos_token_id]):
            with torch.no_grad():
                log_p = model(window[None, :-1]).log_softmax(-1)[0]
            chosen = log_p.gather(1, window[1:, None]).squeeze(1)
            expected -= float(chosen[skip:].sum())
        assert nats == pytest.approx(expected, rel=1e-5)


def test_bits_are_those_of_the_bytes_and_not_of_tokens_or_characters(tmp_path):
    texts = [Document(f"naïve 漢字 {i} {some_text(i, 30)}", "a", str(i)) for i in range(30)]
    corpus = build(tmp_path / "c", texts, BuildOptions(vocabulary=300, heldout=0.3))
    config = families.llama(vocabulary=corpus.vocabulary, context=16, width=32, depth=1, heads=2)
    model = Decoder(dataclasses.replace(config, dropout=0.5)).initialise(0)
    held = [
        i for i, split in enumerate(corpus.documents["split"].to_pylist()) if split == "heldout"
    ]
    size = sum(len(corpus.text(row)) for row in held)
    tokens = sum(corpus.documents["tokens"].to_pylist()[row] for row in held)
    score = score_corpus(model.train(), corpus)["all"]
    assert (score.bytes, score.tokens, score.documents) == (size, tokens, len(held))
    assert tokens < sum(len(corpus.text(row).decode()) for row in held) < size
    assert score.bits_per_byte == pytest.approx(score.loss * tokens / math.log(2) / size)
    again = score_corpus(model.train(), corpus)["all"]  # nothing is dropped in evaluation
    assert again.nats == score.nats
    assert score.loss == pytest.approx(math.log(corpus.vocabulary), abs=1.0)


def test_a_part_of_the_heldout_text_is_shared_out_over_the_components(corpus):
    whole = heldout_documents(corpus, None)
    part = heldout_documents(corpus, sum(r["bytes"] for r in whole) // 2)
    assert {r["component"] for r in part} == {r["component"] for r in whole}
    assert len(part) < len(whole)
    assert part == heldout_documents(corpus, sum(r["bytes"] for r in whole) // 2)


def test_eval_from_the_command_line(trained, tmp_path):
    said = command("eval", trained, "--json")
    assert said.code == 0, said.err
    assert {"stories", "code", "all"} == said.json["tasks"].keys()
    assert said.json["bits_per_byte"] == said.json["tasks"]["all"]["bits_per_byte"] > 0
    (tmp_path / "t.txt").write_text("the cat sat on a mat — naïve\n" * 9, encoding="utf-8")
    said = command("eval", trained, "--text", tmp_path / "t.txt", "--json")
    assert said.json["bytes"] == len((tmp_path / "t.txt").read_bytes()) == said.json["tokens"]
    run = maquette.load(trained)
    assert run.score_text(tmp_path / "t.txt").bits_per_byte == said.json["bits_per_byte"]
    assert said.json["bits_per_byte"] == pytest.approx(said.json["loss"] / math.log(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe\0", "is not text in UTF-8"), (None, "No such file")],
)
def test_a_file_that_cannot_be_scored_is_refused(content, message, trained, tmp_path: Path):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    refused(command("eval", trained, "--text", path), message)


def test_a_corpus_with_another_vocabulary_is_refused(trained, tmp_path):
    build(tmp_path / "c", Texts(), BuildOptions(vocabulary=280))
    refused(
        command("eval", trained, "--corpus", tmp_path / "c"), "has another tokenizer than the model"
    )


def test_compressors_give_bits_per_byte():
    found = compressors(b"the same words again and again " * 400)
    assert set(found) == {"zstd -19", "xz -9e"}
    assert all(0 < bits < 0.5 for bits in found.values())


def test_a_corpus_with_another_tokenizer_of_the_same_size_is_refused(corpus, tmp_path):
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions
    from maquette.workshop.load import Loaded

    a, b = (
        build(
            tmp_path / f"{n}",
            Texts(documents=n, words=300),
            BuildOptions(vocabulary=280, heldout=0.2),
        )
        for n in (20, 50)
    )
    model = Decoder(DecoderConfig(vocabulary=280, context=32, width=32, depth=1, heads=2))
    loaded = Loaded(tmp_path, model.initialise(0), a.tokenizer)
    assert loaded.score_heldout(str(a.path))["all"].bytes > 0
    with pytest.raises(UserError, match="another tokenizer than the model"):
        loaded.score_heldout(str(b.path))


def test_the_bytes_of_a_file_are_scored_as_they_are(trained, tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"the cat\r\nsat on a mat\r\n")
    said = command("eval", trained, "--text", tmp_path / "dos.txt", "--json")
    assert said.json["tasks"]["text"]["bytes"] == 23
