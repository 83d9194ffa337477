"""Tokenizers: nothing is lost, the file is Hugging Face's, and training is the same every time."""

import numpy as np
import pytest
from conftest import some_text
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.tokenizer import (
    EOS_TOKEN,
    byte_tokenizer,
    load_tokenizer,
    named_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TEXTS = [some_text(i, 400) + "naïve café 123456 \t\n\n  x=1;y  ≠ 漢字 🙂\n" for i in range(40)]


@pytest.fixture(scope="module")
def trained_tokenizer():
    return train_tokenizer(TEXTS, 300)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(trained_tokenizer, text):
    for tokenizer in (trained_tokenizer, byte_tokenizer()):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert all(0 <= t < tokenizer.vocabulary for t in tokens)
        assert tokenizer.eos_token_id not in tokens
        assert tokenizer.encode_batch([text], 1)[0].tolist() == tokens


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_the_hugging_face_library_reads_the_file_and_agrees(trained_tokenizer, text):
    from tokenizers import Tokenizer

    for tokenizer in (trained_tokenizer, byte_tokenizer()):
        theirs = Tokenizer.from_str(tokenizer.to_json())
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.token_to_id(EOS_TOKEN) == tokenizer.eos_token_id


def test_a_saved_tokenizer_is_the_same(trained_tokenizer, tmp_path):
    save_tokenizer(trained_tokenizer, tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(again) is type(trained_tokenizer)
    assert again.token_bytes == trained_tokenizer.token_bytes
    assert again.to_json() == trained_tokenizer.to_json()


def test_training_is_deterministic():
    assert train_tokenizer(TEXTS, 290).token_bytes == train_tokenizer(TEXTS, 290).token_bytes


def test_compression_pays(trained_tokenizer):
    assert len(trained_tokenizer.encode(TEXTS[0])) < 0.7 * len(TEXTS[0].encode())


def test_a_foreign_tokenizer_runs_through_its_own_library(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    theirs = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "sat": 2, "</s>": 3}, "[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    assert ours.encode("cat sat dog") == [1, 2, 0]
    assert ours.vocabulary == 4
    assert ours.eos_token_id == 3


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_largest():
    with pytest.raises(UserError, match=r"supports a vocabulary of 2\d\d, not 5000: pass --vocab"):
        train_tokenizer(["the cat sat on the mat"], 5000)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(WrongUse, match="too small for bytes: use 257"):
        train_tokenizer(TEXTS, 100)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    with pytest.raises(UserError, match="is not a tokenizer that can be read"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="is missing"):
        load_tokenizer(tmp_path / "none.json")


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_bytes_of_tokens_are_those_of_the_text(trained_tokenizer, text):
    for tokenizer in (trained_tokenizer, byte_tokenizer()):
        tokens = np.array(tokenizer.encode(text), np.int64)
        assert tokenizer.decode_bytes(tokens) == text.encode()


def test_digits_stand_by_themselves_where_that_is_asked():
    tokenizer = train_tokenizer(["in 1984 and 2001 and 1999, "] * 50, 300, or_fewer=True, digits=1)
    assert len(tokenizer.encode("1984")) == 4


def test_a_tokenizer_is_named_by_its_file_its_corpus_or_bytes(trained_tokenizer, tmp_path):
    save_tokenizer(trained_tokenizer, tmp_path / "tokenizer.json")
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        assert named_tokenizer(str(name)).to_json() == trained_tokenizer.to_json()
    assert named_tokenizer("bytes").vocabulary == 257
    with pytest.raises(UserError, match="there is no tokenizer nowhere"):
        named_tokenizer("nowhere")
    with pytest.raises(WrongUse, match="did you mean 'cl100k_base'"):
        named_tokenizer("tiktoken:cl100k_bas")
