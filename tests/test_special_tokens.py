"""Imported tokenizers: the same tokens and the same text as transformers, begun and ended alike."""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers
from conftest import Texts, command, refused
from tiny_models import KINDS, Kind, byte_level, continued, write_files, write_model

import maquette
from maquette.corpus.special_tokens import SPECIAL
from maquette.corpus.tokenizer import load_tokenizer
from maquette.serving.hugging_face import import_model
from maquette.serving.hugging_face_tokenizer import write_tokenizer
from maquette.serving.sampler import Sampling

PROMPTS = [
    "Hello world",
    "",
    " ",
    " the cat",
    "the  cat\n",
    "日本語 🙂",
    "é\N{REPLACEMENT CHARACTER}",
    "a </s><|im_end|> b<|end|>",
]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module", params=KINDS)
def folders(request, tmp_path_factory):
    """A folder of transformers, the run it was imported into, and the folder that was exported again."""
    base = tmp_path_factory.mktemp("models")
    write_model(base / "theirs", KINDS[request.param])
    for words in (("import", "theirs", "run"), ("export", "run", "back")):
        said = command(words[0], "hf", base / words[1], base / words[2])
        assert said.code == 0, said.err
    return base


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_that_of_transformers(folders, prompt):
    run = maquette.load(folders / "run")
    start = list(run.tokenizer.special.start)
    text, tokens = continued(folders / "theirs", prompt, 24, start)
    pieces: list[str] = []
    results, _ = run.generate_batch([prompt], tokens=24, sampling=GREEDY, on_text=pieces.append)
    ends = run.tokenizer.special.eos_token_ids
    assert results[0].tokens == [token for token in tokens if token not in ends]
    assert results[0].text == text == "".join(pieces)
    assert results[0].finish == ("end" if tokens[-1] in ends else "length")
    both, _ = run.generate_batch([prompt, "the cat sat"], tokens=24, sampling=GREEDY)
    assert both[0] == results[0]


def test_the_exported_folder_is_read_as_the_run(folders):
    run = maquette.load(folders / "run")
    theirs = transformers.AutoTokenizer.from_pretrained(folders / "theirs")
    back = transformers.AutoTokenizer.from_pretrained(folders / "back")
    assert len(back) == len(theirs)
    assert back.eos_token == theirs.eos_token
    assert back.bos_token == theirs.bos_token
    for prompt in filter(None, PROMPTS):
        assert back(prompt)["input_ids"] == run.tokenizer.encode_prompt(prompt)
        assert back(prompt)["input_ids"] == theirs(prompt)["input_ids"]
    rows = back(["the cat sat, hello", "a"], padding=True, return_tensors="pt")
    assert rows["input_ids"].shape == rows["attention_mask"].shape
    assert int(rows["attention_mask"][1].sum()) < rows["input_ids"].shape[1]
    model = transformers.AutoModelForCausalLM.from_pretrained(folders / "back")
    written = model.generate(**rows, do_sample=False, max_new_tokens=6, min_new_tokens=6)
    alone = model.generate(
        **back(["a"], return_tensors="pt"), do_sample=False, max_new_tokens=6, min_new_tokens=6
    )
    assert written[1, -6:].tolist() == alone[0, -6:].tolist()
    start = list(run.tokenizer.special.start)
    prompt = "the cat sat"
    assert continued(folders / "back", prompt, 12, start) == continued(
        folders / "theirs", prompt, 12, start
    )
    kept = json.loads((folders / "back" / "generation_config.json").read_text(encoding="utf-8"))
    given = json.loads((folders / "theirs" / "generation_config.json").read_text(encoding="utf-8"))
    assert kept["eos_token_id"] == given["eos_token_id"]


def test_a_text_is_scored_after_what_begins_it(folders, tmp_path):
    text = "the cat sat, 日本 🙂 </s> hello"
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    said = command("eval", folders / "run", "--text", tmp_path / "t.txt", "--json").json
    run = maquette.load(folders / "run")
    ids = run.tokenizer.encode(text)
    nats = nats_of(folders / "theirs", list(run.tokenizer.special.start), ids)
    assert said["loss"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert said["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert said["tokens"] == len(ids)
    task = said_of_task(run, text)
    assert task == pytest.approx(said["bits_per_byte"], rel=1e-5)


@torch.no_grad()
def nats_of(folder, start: list[int], ids: list[int]) -> float:
    """The loss of tokens after others, by transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    rows = torch.tensor([[*start, *ids]])
    log_p = model(rows).logits[0, :-1].log_softmax(-1)
    return -float(log_p.gather(1, rows[0, 1:, None])[-len(ids) :].double().sum())


def test_heldout_documents_are_scored_after_the_models_own_beginning(tmp_path):
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions

    write_model(tmp_path / "theirs", KINDS["bos and a list of ends"])
    import_model(tmp_path / "theirs", tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    corpus = build(tmp_path / "c", Texts(20, 6), BuildOptions(heldout=0.3), tokenizer=run.tokenizer)
    rows = [row for row in corpus.documents.to_pylist() if row["split"] == "heldout"]
    documents = [corpus.heldout.read(row["offset"], row["tokens"]).tolist() for row in rows]
    start = list(run.tokenizer.special.prefix)
    expected = sum(nats_of(tmp_path / "theirs", start, document) for document in documents)
    assert len(documents) > 1
    assert len(start) == 1
    assert run.score_heldout(str(corpus.path))["all"].nats == pytest.approx(expected, rel=1e-5)


def said_of_task(run, text: str) -> float:
    from maquette.audit.contamination import bits_per_byte

    return float(bits_per_byte(run.model, run.tokenizer, [text])[0][0])


def test_tokens_that_are_none_are_never_chosen(tmp_path):
    kind = KINDS["a padded vocabulary"]
    model = write_model(tmp_path / "theirs", kind)
    with torch.no_grad():  # the padding is likelier than any token
        model.lm_head.weight[-kind.padded :] *= 20
    model.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    known = model.config.vocab_size - kind.padded
    for sampling in (GREEDY, Sampling(temperature=2.0, top_k=400), Sampling(top_p=0.9, min_p=0.01)):
        results, _ = run.generate_batch(["the", "a cat", ""], tokens=16, sampling=sampling)
        assert all(token < known for result in results for token in result.tokens)
        assert any(result.tokens for result in results)


def test_holes_in_the_numbers_are_counted_and_never_chosen(tmp_path):
    content = json.loads(byte_level().to_str())
    first = len(content["model"]["vocab"])
    content["model"]["vocab"]["</s>"] = first + 7  # as where tokens were taken out
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.vocabulary == first + 8
    assert tokenizer.eos_token_id == first + 7
    assert tokenizer.missing(first + 10) == [*range(first, first + 7), first + 8, first + 9]


FILES = {
    "tokenizer_config.json": {"eos_token": "<|end|>"},
    "special_tokens_map.json": {"eos_token": {"content": "<|eot|>"}},
    "generation_config.json": {"eos_token_id": [270, "<|eot|>"], "bos_token_id": "<|begin|>"},
    "config.json": {"eos_token_id": "<|endoftext|>", "bos_token_id": 1},
}
NAMES = ("<|begin|>", "<|end|>", "<|eot|>", "<|endoftext|>")


@pytest.mark.parametrize(
    ("files", "ends", "start"),
    [
        ([], ["<|endoftext|>"], "<|endoftext|>"),  # by its usual name
        (["config.json"], ["<|endoftext|>"], "<|endoftext|>"),  # where 1 is a letter and no BOS
        (["generation_config.json"], [270, "<|eot|>"], "<|begin|>"),
        (["special_tokens_map.json"], ["<|eot|>"], "<|eot|>"),
        (["tokenizer_config.json", "special_tokens_map.json"], ["<|end|>", "<|eot|>"], "<|end|>"),
        (list(FILES), ["<|end|>", "<|eot|>", 270, "<|endoftext|>"], "<|begin|>"),
    ],
)
def test_what_begins_and_ends_a_text_is_in_the_files(files, ends, start, tmp_path):
    made = byte_level(*NAMES)

    def number(name):
        return name if isinstance(name, int) else made.token_to_id(name)

    def numbered(value):
        if isinstance(value, list):
            return [numbered(v) for v in value]
        return number(value) if value in NAMES else value

    made.save(str(tmp_path / "tokenizer.json"))
    for name in files:
        content = FILES[name]
        if "tok" not in name:
            content = {key: numbered(value) for key, value in content.items()}
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    special = load_tokenizer(tmp_path / "tokenizer.json").special
    assert special.eos_token_ids == tuple(number(end) for end in ends)
    assert special.start == (number(start),)
    assert special.prefix == ()


@pytest.mark.parametrize(
    ("post", "settings", "prefix"),
    [
        ("", {}, ()),
        ("", {"add_bos_token": True}, ("<|begin|>",)),
        ("<|begin|>", {"add_bos_token": False}, ("<|begin|>",)),
        ("<|eot|>", {"add_bos_token": True}, ("<|eot|>",)),
    ],
)
def test_the_post_processor_comes_before_the_settings(post, settings, prefix, tmp_path):
    made = byte_level(*NAMES, begin=post)
    write_files(tmp_path, made, settings | {"bos_token": "<|begin|>", "eos_token": "<|end|>"})
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.special.prefix == tuple(made.token_to_id(name) for name in prefix)
    assert tokenizer.encode_prompt("a") == [*tokenizer.special.prefix, *tokenizer.encode("a")]
    assert tokenizer.encode_prompt("") == list(tokenizer.special.start)
    assert tokenizer.special.start == (made.token_to_id(prefix[0] if prefix else "<|begin|>"),)


def test_a_bos_of_the_settings_is_in_the_exported_tokenizer(tmp_path):
    kind = Kind(
        lambda: byte_level(*NAMES),
        {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True, "pad_token": "[P]",
         "additional_special_tokens": ["<|eot|>", {"content": "[Q]"}]},
        ("<|end|>",),
        "<|begin|>",
    )  # fmt: skip
    model = write_model(tmp_path / "theirs", kind)
    import_model(tmp_path / "theirs", tmp_path / "run")
    assert command("export", "hf", tmp_path / "run", tmp_path / "back").code == 0
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert back("the cat")["input_ids"] == tokenizer.encode_prompt("the cat")
    assert len(back) == model.config.vocab_size  # [P] and [Q] have no row and are not added
    kept = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert kept["additional_special_tokens"] == ["<|eot|>"]
    assert kept["add_bos_token"] is True
    assert back.pad_token == "<|end|>"


def test_runs_without_the_file_read_the_tokenizer_alone(tmp_path):
    write_model(tmp_path / "theirs", KINDS["pieces"])
    import_model(tmp_path / "theirs", tmp_path / "run")
    before = load_tokenizer(tmp_path / "run" / "tokenizer.json").special
    (tmp_path / "run" / SPECIAL).unlink()
    after = load_tokenizer(tmp_path / "run" / "tokenizer.json").special
    assert (after.eos_token_ids, after.prefix) == (before.eos_token_ids, before.prefix)
    (tmp_path / "run" / SPECIAL).write_text("{}", encoding="utf-8")
    refused(command("generate", tmp_path / "run", "a"), f"{SPECIAL} is damaged")


def test_a_corpus_with_a_tokenizer_of_no_known_end_is_refused_or_told(tmp_path):
    made = byte_level("<|start|>", "<|fin|>", begin="<|start|>")
    write_files(tmp_path / "odd", made, None)
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text(
            f"the cat sat {i} times, hello world\n" * 9, encoding="utf-8"
        )
    build = ("corpus", "build", tmp_path / "c", tmp_path / "texts", "--tokenizer")
    refused(command(*build, tmp_path / "odd"), "--eos-token", "special tokens: <|start|>, <|fin|>")
    refused(command(*build, tmp_path / "odd", "--eos-token", "<|fni|>"), "did you mean '<|fin|>'")
    refused(command(*build[:-1], "--eos-token", "<|fin|>"), "name it with --tokenizer")
    said = command(*build, tmp_path / "odd", "--eos-token", "<|fin|>", "--json")
    assert said.code == 0, said.err
    from maquette.corpus.text.store import Corpus

    corpus, end = Corpus(tmp_path / "c"), made.token_to_id("<|fin|>")
    assert corpus.eos_token_id == end
    assert int((corpus.train.read(0, len(corpus.train)) == end).sum()) >= 20
    assert corpus.tokenizer.special.start == (end,)  # its documents begin after an end, with no BOS
    write_files(tmp_path / "told", made, {"eos_token": "<|fin|>"})
    again = ("corpus", "build", tmp_path / "d", tmp_path / "texts", "--tokenizer")
    assert command(*again, tmp_path / "told").code == 0
    assert Corpus(tmp_path / "d").eos_token_id == end


def test_what_is_not_scored_is_not_counted(tmp_path):
    kind = Kind(lambda: byte_level("<|pad|>"), {}, ("<|pad|>",), None)
    model = write_model(tmp_path / "theirs", kind)
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "theirs" / name
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": None}),
            encoding="utf-8",
        )
    said = command("import", "hf", tmp_path / "theirs", tmp_path / "run")
    assert "names no token that ends a text" in said.out + said.err
    (tmp_path / "one.txt").write_text("hello", encoding="utf-8")
    refused(
        command("eval", tmp_path / "run", "--text", tmp_path / "one.txt"), "one.txt is one token"
    )
    (tmp_path / "few.txt").write_text("hello world cat", encoding="utf-8")
    said = command("eval", tmp_path / "run", "--text", tmp_path / "few.txt", "--json").json
    ids = load_tokenizer(tmp_path / "run" / "tokenizer.json").encode("hello world cat")
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    nats = -float(log_p.gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert said["tokens"] == len(ids) - 1
    assert said["bytes"] == len(" world cat")
    assert said["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(" world cat"), rel=1e-5)
    refused(command("generate", tmp_path / "run", "--temperature", "0"), "give a prompt")


def test_a_run_on_a_corpus_of_another_tokenizer_begins_as_its_documents(recipe, tmp_path):
    """They have no BOS: neither has what is generated, scored and exported."""
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions
    from maquette.workshop.train import train

    made = byte_level("<|begin|>", "<|end|>", begin="<|begin|>")
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True}
    write_files(tmp_path / "theirs", made, settings)
    tokenizer = load_tokenizer(tmp_path / "theirs" / "tokenizer.json")
    assert tokenizer.encode_prompt("a") == [made.token_to_id("<|begin|>"), *tokenizer.encode("a")]
    corpus = build(tmp_path / "c", Texts(), BuildOptions(heldout=0.2), tokenizer=tokenizer)
    model = replace(recipe.model, vocabulary=tokenizer.vocabulary)
    data = replace(recipe.data, corpus=str(corpus.path))
    train(replace(recipe, model=model, data=data, steps=2), tmp_path / "run")
    run = maquette.load(tmp_path / "run")
    assert run.tokenizer.encode_prompt("the cat") == tokenizer.encode("the cat")
    assert run.tokenizer.encode_prompt("") == [tokenizer.eos_token_id]
    assert run.score_heldout()["all"].tokens == sum(
        row["tokens"] for row in corpus.documents.to_pylist() if row["split"] == "heldout"
    )
    assert command("export", "hf", tmp_path / "run", tmp_path / "back").code == 0
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert back("the cat")["input_ids"] == tokenizer.encode("the cat")
    again = load_tokenizer(tmp_path / "back" / "tokenizer.json").special
    assert (again.start, again.prefix) == ((tokenizer.eos_token_id,), ())


def test_what_the_table_of_added_tokens_says_is_followed_and_not_made_up(tmp_path):
    """Special by the settings alone: hidden; not in the tokenizer at all: not exported."""
    made = byte_level("<|end|>")
    made.add_tokens(["<|think|>"])
    think = made.token_to_id("<|think|>")
    table = {
        str(think): {"content": "<|think|>", "special": True},
        str(think + 1): {"content": "[PAD]", "special": True},
    }
    write_files(tmp_path, made, {"eos_token": "<|end|>", "added_tokens_decoder": table})
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode([97, think, 98], skip_special_tokens=True) == "ab"
    (tmp_path / "out").mkdir()
    write_tokenizer(tokenizer, tmp_path / "out", 96)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == think + 1


def test_a_bos_that_is_null_stays_none(tmp_path):
    """As in Qwen's files, whose generation_config.json gives the number of the end."""
    made = byte_level("<|end|>")
    write_files(tmp_path, made, {"eos_token": "<|end|>", "bos_token": None})
    end = made.token_to_id("<|end|>")
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"bos_token_id": end, "eos_token_id": [end]}), encoding="utf-8"
    )
    (tmp_path / "out").mkdir()
    write_tokenizer(load_tokenizer(tmp_path / "tokenizer.json"), tmp_path / "out", 96)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").bos_token is None
