"""Examples: read from records of every shape, written with a loss mask, opened again."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.example import Example, example_of, read_examples
from maquette.corpus.examples.template import Template, encode
from maquette.corpus.open import open_folder
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import byte_tokenizer, train_tokenizer
from tests.conftest import command, refused

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "ciao"},
]
RECORDS = [
    ({"prompt": "2+2=", "answer": 4}, Example("2+2=", "4")),
    ({"instruction": "Add", "input": "3 4", "output": "7"}, Example("Add\n3 4", "7")),
    ({"passage": "A cat.", "question": "A dog?", "answer": False}, Example("A cat.\nA dog?", "false")),
    ({"question": "Where?", "choices": ["here", "there"], "answer": "B"},
     Example("Where?", "there", None, ("here", "there"), 1)),
    ({"question": {"stem": "Where?", "choices": [{"text": "up", "label": "A"},
                                                 {"text": "down", "label": "B"}]}, "answerKey": "A"},
     Example("Where?", "up", None, ("up", "down"), 0)),
    ({"prompt": "Say hi", "chosen": "hi", "rejected": "no"}, Example("Say hi", "hi", "no")),
    ({"messages": CHAT}, Example("bye", "ciao", history=(("Be brief.\n\nhi", "hello"),))),
    ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
     Example("hi", "ho")),
    ({"prompt": "hi", "chosen": CHAT[1:3], "rejected": [CHAT[1], CHAT[4]]}, Example("hi", "hello", "ciao")),
]  # fmt: skip


@pytest.mark.parametrize(("record", "example"), RECORDS)
def test_a_record_of_every_usual_shape_is_an_example(record, example):
    assert example_of(record, "f:1") == dataclasses.replace(example, source="f:1")


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ("text", ["f:1", "no object"]),
        ({"prompt": "hi"}, ["f:1", "no answer", "it has prompt", "--fields"]),
        ({"prompt": "hi", "answer": " "}, ["f:1", "an answer that is empty"]),
        ({"answer": "hi"}, ["f:1", "no prompt", "it has answer"]),
        ({"messages": CHAT[:-1]}, ["f:1", "does not end with a message of the assistant"]),
        ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, ["without a role"]),
    ],
)
def test_what_is_no_example_is_said_in_one_line_with_its_place(record, parts):
    with pytest.raises(UserError) as said:
        example_of(record, "f:1")
    assert all(part in str(said.value) for part in parts), said.value


def test_fields_name_the_parts_of_records_that_are_not_known():
    record = {"a": {"b": "one"}, "c": "two", "d": "three", "where": "there"}
    fields = {"prompt": "a.b,c", "answer": "d", "source": "where"}
    assert example_of(record, "f:1", fields) == Example("one\ntwo", "three", source="there")
    with pytest.raises(UserError, match="no field 'e' \\(answer\\): it has a, c, d"):
        example_of(record, "f:1", fields | {"answer": "e"})
    with pytest.raises(WrongUse, match="unknown part anser"):
        next(read_examples([], {"anser": "d"}))


def test_every_kind_of_file_gives_the_same_examples(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"prompt": f"{n}?", "answer": f"{n}!", "id": f"r{n}"} for n in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(records), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    wanted = [Example(f"{n}?", f"{n}!", source=f"r{n}") for n in range(5)]
    for ending in ("jsonl", "yaml", "parquet"):
        assert list(read_examples([tmp_path / f"a.{ending}"])) == wanted, ending
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="holds no records"):
        list(read_examples([tmp_path / "a.txt"]))


def test_a_template_says_what_is_learned():
    tokenizer, template = byte_tokenizer(), Template("Q: {prompt}\nA: {answer}.\n")
    tokens, counted = encode(Example("{answer}", "no"), template, tokenizer)
    wanted = tokenizer.decode(tokens[counted == 1].tolist())
    assert tokenizer.decode(tokens[counted == 0].tolist()) == "Q: {answer}\nA:"
    assert wanted == " no.\n<|endoftext|>"
    for wrong in ("{prompt}", "{answer}{prompt}", "{prompt}{answer}{answer}"):
        with pytest.raises(WrongUse, match="each once"):
            Template(wrong)


def test_every_answer_of_a_conversation_is_learned_with_its_end():
    tokenizer = byte_tokenizer()
    tokens, counted = encode(example_of({"messages": CHAT}, ""), Template(), tokenizer)
    assert tokenizer.decode(tokens.tolist()) == (
        "Be brief.\n\nhihello<|endoftext|>byeciao<|endoftext|>"
    )
    assert tokenizer.decode(tokens[counted == 1].tolist()) == "hello<|endoftext|>ciao<|endoftext|>"


def test_context_and_answer_are_the_tokens_of_each_alone():
    """No token holds the end of a prompt and the start of an answer."""
    tokenizer = train_tokenizer(["the cat sat on the mat. "] * 200, 270, or_fewer=True)
    tokens, counted = encode(Example("the c", "at sat"), Template(), tokenizer)
    assert tokens[counted == 0].tolist() == tokenizer.encode("the c")
    assert tokens[counted == 1].tolist() == [*tokenizer.encode("at sat"), tokenizer.eos_token_id]
    assert tokenizer.encode("the cat sat") != tokenizer.encode("the c") + tokenizer.encode("at sat")


def written(path, records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def some(tmp_path, count=60, answers=2):
    """Examples of `count` prompts with two answers each, and a file of them."""
    records = [{"prompt": f"{n} squared? ", "answer": str(n * n + extra)}
               for n in range(count) for extra in range(answers)]  # fmt: skip
    return written(tmp_path / "squares.jsonl", records)


def test_a_corpus_holds_every_example_once_with_its_mask(tmp_path):
    source = some(tmp_path)
    again = written(tmp_path / "again.jsonl", [{"prompt": "3 squared? ", "answer": "9"}] * 2)
    corpus = build_examples(tmp_path / "c", [source, again], byte_tokenizer(), heldout=0.2)
    assert corpus.manifest["duplicates_removed"] == 2
    sides = {"train": corpus.train, "heldout": corpus.heldout}
    read = {}
    for name, side in sides.items():
        examples = corpus.examples(name)
        assert len(examples) == len(side) > 0
        for number, example in enumerate(examples):
            tokens, counted = side.read(number, 1000)
            expected = encode(example, Template(), byte_tokenizer())
            np.testing.assert_array_equal(tokens, expected[0])
            np.testing.assert_array_equal(counted, expected[1] == 1)
        read[name] = {dataclasses.replace(one, source="") for one in examples}
    wanted = {dataclasses.replace(one, source="") for one in read_examples([source])}
    assert read["train"] | read["heldout"] == wanted
    prompts = [{one.prompt for one in read[name]} for name in read]
    assert not prompts[0] & prompts[1]  # both answers to a prompt stand on one side
    assert corpus.train.read(0, 4)[0].shape == (4,)


def test_an_example_keeps_its_side_and_the_corpus_its_hash(tmp_path):
    first = build_examples(tmp_path / "a", [some(tmp_path)], byte_tokenizer(), heldout=0.2)
    held = {one.prompt for one in first.examples("heldout")}
    assert build_examples(tmp_path / "b", [some(tmp_path)], byte_tokenizer(), heldout=0.2).hash == (
        first.hash
    )
    more = build_examples(tmp_path / "d", [some(tmp_path, 90)], byte_tokenizer(), heldout=0.2)
    assert held <= {one.prompt for one in more.examples("heldout")}
    other = build_examples(
        tmp_path / "e", [some(tmp_path)], byte_tokenizer(), template="{prompt}\n{answer}"
    )
    assert len({first.hash, more.hash, other.hash}) == 3


def test_few_examples_hold_one_prompt_out(tmp_path):
    corpus = build_examples(tmp_path / "c", [some(tmp_path, 2)], byte_tokenizer(), heldout=0.01)
    assert [len(corpus.train), len(corpus.heldout)] == [2, 2]
    with pytest.raises(UserError, match="fewer than two prompts"):
        build_examples(tmp_path / "d", [some(tmp_path, 1)], byte_tokenizer())
    assert not (tmp_path / "d").exists()


def test_a_folder_is_opened_by_its_kind_and_damage_is_found(tmp_path):
    corpus = build_examples(tmp_path / "c", [some(tmp_path)], byte_tokenizer())
    opened = open_folder(tmp_path / "c")
    assert type(opened) is type(corpus)
    assert opened.check() > 0
    mask = bytearray((tmp_path / "c" / "counted-train.bin").read_bytes())
    mask[0] ^= 1
    (tmp_path / "c" / "counted-train.bin").write_bytes(mask)
    with pytest.raises(UserError, match=r"counted-train.bin is damaged"):
        open_folder(tmp_path / "c").check()
    with pytest.raises(UserError, match="is a corpus of examples: name one of text"):
        Corpus(tmp_path / "c")


def test_the_commands_build_show_and_refuse(tmp_path):
    source = written(
        tmp_path / "a.jsonl", [{"q": f"{n}?", "topic": "sums", "a": f"{n}"} for n in range(9)]
    )
    out = tmp_path / "c"
    refused(
        command("corpus", "examples", out, source, "--tokenizer", "bytes"), "a.jsonl:1", "--fields"
    )
    assert not out.exists()
    fields = ["--fields", "prompt=topic,q,answer=a", "--template", "{prompt}\\nIt is {answer}"]
    built = command("corpus", "examples", out, source, "--tokenizer", "bytes", *fields, "--json")
    assert built.code == 0, built.err
    assert built.json["examples"] == 9
    shown = command("corpus", "show", out, "--check", "--json").json
    assert shown["hash"] == built.json["hash"]
    assert shown["shown"][0]["read"].startswith("sums\n")
    assert shown["shown"][0]["learned"].endswith("<|endoftext|>")
    refused(command("corpus", "show", out, "--planted"), "--planted is for text", code=2)
    refused(command("corpus", "examples", out, source, "--tokenizer", "bytes"), "exists", code=2)
    refused(
        command("corpus", "examples", out, source, "--tokenizer", "bytes", "--fields", "x"),
        "no list of PART=NAME",
        code=2,
    )
