"""Answers held to choices, expressions and schemas: whatever the model would say, what it says is one."""

import json
import re
import sys

import pytest
from tiny_models import KINDS, write_model

import maquette
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.tokenizer import byte_tokenizer, train_tokenizer
from maquette.models import families
from maquette.serving.engine import Engine, Request
from maquette.serving.generate import drain, generate
from maquette.serving.hugging_face import import_model
from maquette.serving.restrict import Answers, Grammars, Restriction
from maquette.serving.sampler import Sampling
from tests.conftest import command, refused

pytest.importorskip("llguidance", reason="the extra [restrict] is not installed")
CHOICES = ("yes", "yesterday", 'a "b"\\n\n')
SCHEMA = """{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99},
"c": {"enum": ["x", "y"]}}, "required": ["n", "c"], "additionalProperties": false}"""
TOKENIZERS = {
    "bytes": byte_tokenizer,
    "pairs": lambda: train_tokenizer(["yes yesterday the 12 cats said " * 40], 300, or_fewer=True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_is_one_of_those_that_may_be(name):
    tokenizer = TOKENIZERS[name]()
    config = families.llama(
        vocabulary=tokenizer.vocabulary + 5, context=96, width=32, depth=1, heads=2
    )
    model = config.build().initialise(0).eval()
    grammars = Grammars(tokenizer, config.vocabulary)
    prompts, seen = ["the", "said: ", "12", "cats"], set()
    for seed in range(6):
        for answers in (Answers(CHOICES), Answers(regex="[0-9]{2,3}x?"), Answers(schema=SCHEMA)):
            restriction = Restriction(grammars, [answers] * len(prompts))
            results, _ = generate(
                model, tokenizer, prompts, tokens=40, restriction=restriction,
                sampling=Sampling(temperature=2.0, seed=seed),
            )  # fmt: skip
            for result in results:
                assert result.finish == "end"
                if answers.choices:
                    assert result.text in CHOICES
                    seen.add(result.text)
                elif answers.regex:
                    assert re.fullmatch(answers.regex, result.text)
                else:
                    found = json.loads(result.text)
                    assert 0 <= found["n"] <= 99 and found["c"] in ("x", "y") and len(found) == 2
    assert seen == set(CHOICES)  # all of them, "yes" and what goes on from it too
    mixed = [Answers(("yes",)), Answers(regex="[0-9]{9}"), Answers(("yesterday",)), Answers(("a",))]
    results, _ = generate(  # rows end one after the other, and leave the batch
        model, tokenizer, prompts, tokens=40, restriction=Restriction(grammars, mixed),
        sampling=Sampling(temperature=0),
    )  # fmt: skip
    assert [r.text for r in results][::2] == ["yes", "yesterday"] and results[3].text == "a"
    assert re.fullmatch("[0-9]{9}", results[1].text)


@pytest.mark.parametrize("name", ["bos and a list of ends", "pieces"])
def test_an_imported_tokenizer_is_held_too(name, tmp_path):
    write_model(tmp_path / "hf", KINDS[name])
    import_model(tmp_path / "hf", tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    for seed in range(4):
        text = run.generate(
            "the cat", tokens=20, temperature=2.0, seed=seed, answers=Answers(("hello", "Hello!"))
        )
        assert text in ("hello", "Hello!")


def test_what_is_no_expression_or_schema_is_said_in_one_line():
    grammars = Grammars(byte_tokenizer(), 257)
    for answers in (Answers(regex="("), Answers(schema='{"type": "foo"}'), Answers(schema="{")):
        with pytest.raises(WrongUse, match="mend"):
            grammars.matcher(answers)
    with pytest.raises(WrongUse, match="give one of them"):
        Answers(("a",), regex="b")
    with pytest.raises(WrongUse, match="a choice is empty"):
        Answers(("a", ""))


class Holes(type(byte_tokenizer())):
    """Bytes without an x and a y, as a vocabulary has them that lacks characters."""

    def missing(self, vocabulary):
        return [ord("x"), ord("y"), *super().missing(vocabulary)]


def test_what_cannot_be_written_is_refused_or_ends_as_a_dead_end():
    tokenizer = Holes(byte_tokenizer().token_bytes)
    config = families.llama(vocabulary=257, context=32, width=32, depth=1, heads=2)
    model = config.build().initialise(0).eval()
    grammars, engine = Grammars(tokenizer, 257), Engine(model, tokenizer, memory=1 << 20)
    for answers in (Answers(regex="()"), Answers(("x", "yes"))):
        with pytest.raises(WrongUse, match="has no tokens"):
            Restriction(grammars, [answers])
        with pytest.raises(WrongUse, match="has no tokens"):
            engine.submit(Request(prompt=(1,), tokens=3, answers=answers))
    sampling = Sampling(temperature=2.0)
    for answers, text, finish in (
        (Answers(("abxc",)), "ab", "dead end"),
        (Answers(("ab", "x")), "ab", "end"),
        (Answers(regex="ab(xc)?"), "ab", "end"),
    ):
        restriction = Restriction(grammars, [answers])
        (alone,), _ = generate(
            model, tokenizer, ["q"], tokens=9, sampling=sampling, restriction=restriction
        )
        request = Request(prompt=(113,), tokens=9, answers=answers, sampling=sampling.row(0))
        (served,), _ = drain(engine, [request])
        assert (alone.text, alone.finish) == (served.text, served.finish) == (text, finish)


def test_the_command_holds_its_answers(trained, tmp_path):
    said = command(
        "generate", trained, "the", "a", "--choices", "red,blue", "--tokens", 9, "--json"
    )
    assert set(said.json["texts"]) <= {"red", "blue"}
    (tmp_path / "s.json").write_text(SCHEMA, encoding="utf-8")
    said = command(
        "generate", trained, "", "--schema", tmp_path / "s.json", "--tokens", 30, "--json"
    )
    assert json.loads(said.json["text"]).keys() == {"n", "c"}
    refused(command("generate", trained, "", "--regex", "("), "mend", code=2)
    refused(command("generate", trained, "", "--schema", tmp_path / "no.json"), "no.json", code=1)


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"pip install 'maquette\[restrict\]'"):
        Grammars(byte_tokenizer(), 257)
