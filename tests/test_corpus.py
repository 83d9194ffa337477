"""Building and reading corpora: nothing lost, the same for any number of workers, every source known."""

import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zstandard
from conftest import Texts, command, refused, some_text
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Document, Skipped
from maquette.corpus.pictures.store import PictureCorpus
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.store import SPLITS, Corpus
from maquette.evaluation.bits_per_byte import score_corpus
from maquette.training.datasets.picture_config import PictureData
from maquette.training.datasets.pictures import heldout_pictures, to_pixels
from maquette.training.datasets.text import heldout_batches
from maquette.workshop.train import train


def test_every_document_can_be_read_back_from_its_row(corpus):
    originals = {d.source: d for d in Texts()}
    rows = corpus.documents.to_pylist()
    assert len(rows) == 60 == corpus.manifest["documents"]
    for row in rows:
        stream = corpus.heldout if row["split"] == "heldout" else corpus.train
        tokens = stream.read(row["offset"], row["tokens"] + 1).tolist()
        original = originals[row["source"]]
        assert tokens.pop() == corpus.eos_token_id
        assert corpus.tokenizer.decode(tokens) == original.text
        assert row["sha256"] == original.digest()
        assert row["component"] == original.component
        assert row["bytes"] == len(original.text.encode())
    assert {row["split"] for row in rows} == {"train", "heldout"}


def test_the_counts_add_up(corpus):
    m = corpus.manifest
    for split, stream in (("train", corpus.train), ("heldout", corpus.heldout)):
        counted = sum(
            c[f"{split}_tokens"] + c[f"{split}_documents"] for c in m["components"].values()
        )
        assert counted == len(stream)  # each document has an end
    assert m["tokens"] == len(corpus.train) + len(corpus.heldout)
    assert m["bytes"] == sum(len(d.text.encode()) for d in Texts())


@pytest.mark.parametrize("vocabulary", [257, 300])
def test_the_result_does_not_depend_on_the_workers(vocabulary, tmp_path):
    one, many = (
        build(tmp_path / str(n), Texts(), BuildOptions(vocabulary=vocabulary), workers=n)
        for n in (1, 4)
    )
    assert one.hash == many.hash
    assert one.manifest == many.manifest
    for path in one.path.iterdir():
        if path.suffix != ".parquet":
            assert path.read_bytes() == (many.path / path.name).read_bytes(), path.name
    assert one.documents.equals(many.documents)


def test_the_heldout_split_is_of_whole_documents_by_their_text(tmp_path):
    """Another order, other names: the same documents are held out."""

    class Reversed:
        def __iter__(self):
            for d in reversed(list(Texts())):
                yield Document(d.text, d.component, "renamed:" + d.source)

    def heldout(source, name):
        rows = build(
            tmp_path / name, source, BuildOptions(vocabulary=257, heldout=0.2)
        ).documents.to_pylist()
        return {row["sha256"] for row in rows if row["split"] == "heldout"}

    assert heldout(Texts(), "a") == heldout(Reversed(), "b") != set()


def test_duplicates_are_kept_once(tmp_path):
    class Doubled:
        def __iter__(self):
            yield from Texts()
            yield from Texts()

    doubled = build(tmp_path / "doubled", Doubled(), BuildOptions(vocabulary=257))
    assert doubled.manifest["duplicates_removed"] == 60
    assert doubled.hash == build(tmp_path / "once", Texts(), BuildOptions(vocabulary=257)).hash


def test_few_documents_hold_out_their_tails(tmp_path):
    text = "".join(some_text(i, 50) for i in range(40))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    corpus = build(
        tmp_path / "c", files([tmp_path / "book.txt"]), BuildOptions(vocabulary=257, heldout=0.1)
    )
    assert corpus.manifest["split"] == "tail"
    cut = int(len(text) * 0.9)
    assert corpus.tokenizer.decode(corpus.train.read(0, cut).tolist()) == text[:cut]
    assert corpus.tokenizer.decode(corpus.heldout.read(0, len(text) - cut).tolist()) == text[cut:]


def test_shards_make_one_stream(tmp_path, monkeypatch, corpus):
    monkeypatch.setattr("maquette.corpus.text.streams.SHARD_TOKENS", 1000)
    cut = build(tmp_path / "cut", Texts(), BuildOptions(vocabulary=257, heldout=0.2))
    assert len(cut.manifest["shards"]["train"]) > 10
    assert len(cut.train) == len(corpus.train)
    for start, length in ((0, 5), (998, 7), (500, 4000), (len(cut.train) - 3, 3)):
        np.testing.assert_array_equal(
            cut.train.read(start, length), corpus.train.read(start, length)
        )
    with pytest.raises(IndexError):
        cut.train.read(len(cut.train) - 2, 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """One of everything a folder may hold."""
    top = tmp_path / "mixed"
    (top / "inner").mkdir(parents=True)
    (top / ".git").mkdir()
    (top / ".git" / "config").write_text("hidden", encoding="utf-8")
    (top / "a.txt").write_text("Plain prose, one. " * 30, encoding="utf-8")
    (top / "inner" / "b.py").write_text("print('code')\n" * 30, encoding="utf-8")
    records = [{"text": f"record {i} " * 20, "meta": {"pile_set_name": "Wiki"}} for i in range(3)]
    lines = "\n".join(json.dumps(r) for r in records)
    (top / "c.jsonl").write_text(lines + '\nnot json\n{"no": "text"}\n', encoding="utf-8")
    (top / "d.jsonl.gz").write_bytes(gzip.compress(lines.replace("record", "zipped").encode()))
    (top / "e.jsonl.zst").write_bytes(
        zstandard.compress(
            json.dumps({"text": "packed " * 20, "licence": "MIT", "date": "2020-01-01"}).encode()
        )
    )
    (top / "f.bin").write_bytes(bytes(range(256)) * 10)
    (top / "g.txt").write_text("", encoding="utf-8")
    (top / "h.txt").write_bytes("caf\xe9".encode("latin-1") * 30)
    (top / "i.jsonl.gz").write_bytes(b"not gzip")
    return top


def test_a_mixed_folder_gives_what_can_be_read_and_names_the_rest(folder):
    items = list(files([folder]))
    documents = [i for i in items if isinstance(i, Document)]
    skipped = {Path(i.source).name: i.reason for i in items if isinstance(i, Skipped)}
    components = [d.component for d in documents]
    assert components == ["prose", *6 * ["Wiki"], "records", "code"]
    assert (documents[7].licence, documents[7].date) == ("MIT", "2020-01-01")
    assert skipped == {
        "c.jsonl:4": "not JSON",
        "c.jsonl:5": "no field 'text' (has no: name one with --text-field)",
        "f.bin": "not text in UTF-8",
        "g.txt": "empty",
        "h.txt": "not text in UTF-8",
        "i.jsonl.gz": skipped["i.jsonl.gz"],
    }


def test_build_and_show_from_the_command_line(folder, tmp_path):
    out = tmp_path / "corpus"
    said = command("corpus", "build", out, folder, "--vocabulary", "257", "--json")
    assert said.code == 0, said.err
    assert said.json["documents"] == 9
    assert said.json["skipped"] == 6
    shown = command("corpus", "show", out, "--json")
    assert shown.json["hash"] == said.json["hash"]
    assert {"documents", "bytes", "tokens", "duplicates_removed", "seconds"} <= said.json.keys()
    text = command("corpus", "show", out).out
    assert "Wiki" in text
    assert "not text in UTF-8" in text


def test_a_long_file_is_cut_at_lines_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("maquette.corpus.records.LONGEST", 100)
    lines = [f"line {i} {'é' * (i % 9)}\n" for i in range(100)] + ["漢" * 200]
    (tmp_path / "long.txt").write_text("".join(lines), encoding="utf-8")
    documents = list(files([tmp_path / "long.txt"]))
    assert "".join(d.text for d in documents) == "".join(lines)
    assert max(len(d.text.encode()) for d in documents) <= 100
    assert documents[1].source.endswith("long.txt#1")
    assert all(d.text.endswith("\n") for d in documents[:5])


def test_broken_surrogates_in_records_do_no_harm(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "half \\ud83d and whole \\ud83d\\ude42 smile"}\n' * 2, encoding="utf-8"
    )
    documents = list(files([tmp_path / "a.jsonl"]))
    assert documents[0].text == "half � and whole 🙂 smile"


def test_the_default_corpus_has_its_components():
    documents = [d for d in Local(limit=1 << 15) if isinstance(d, Document)]
    components = {d.component for d in documents}
    assert {"code", "prose"} <= components <= {"code", "prose", "tests", "manual"}
    assert all(d.text.strip() for d in documents)
    assert any(d.source.startswith("python:") for d in documents)
    for name in components:
        assert sum(len(d.text) for d in documents if d.component == name) >= 1000


def test_an_interrupted_build_leaves_nothing(tmp_path):
    class Interrupted:
        def __iter__(self):
            yield from list(Texts())[:50]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "c", Interrupted(), BuildOptions(vocabulary=257))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_in_the_second_pass_too(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("maquette.corpus.text.build.encode_part", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "c", Texts(), BuildOptions(vocabulary=257))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(WrongUse, match="exists: choose another folder"):
        build(tmp_path / "mine", Texts(), BuildOptions(vocabulary=257))
    with pytest.raises(WrongUse, match="pass --replace to build it again"):
        build(corpus.path, Texts(), BuildOptions(vocabulary=257))


def test_replacing_a_corpus_replaces_all_of_it(tmp_path):
    build(tmp_path / "c", Texts(), BuildOptions(vocabulary=257))
    again = build(tmp_path / "c", Texts(documents=30), BuildOptions(vocabulary=257), replace=True)
    assert again.manifest["documents"] == 30
    assert {p.name for p in tmp_path.iterdir()} == {"c"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda top: None, "no files found"),
        (
            lambda top: (top / "x.bin").write_bytes(b"\0\1\2" * 99),
            "no text found (1 not text in UTF-8",
        ),
        (lambda top: (top / "x.txt").write_text("", encoding="utf-8"), "no text found (1 empty"),
    ],
)
def test_a_folder_without_text_is_refused(make, message, tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    make(top)
    refused(command("corpus", "build", tmp_path / "out", top), message, code=1)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_refused(tmp_path):
    refused(command("corpus", "build", tmp_path / "out", tmp_path / "nothing"), "does not exist")


def test_a_damaged_corpus_is_refused(tmp_path):
    corpus = build(tmp_path / "c", Texts(), BuildOptions(vocabulary=257))
    shard = corpus.path / "tokens-train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"tokens-train-00000.bin is missing or damaged"):
        len(Corpus(corpus.path).train)
    (corpus.path / "manifest.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="format 99, this Maquette reads format 3"):
        Corpus(corpus.path)
    (corpus.path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="is not valid JSON"):
        Corpus(corpus.path)
    with pytest.raises(UserError, match="is not a corpus"):
        Corpus(tmp_path)


def flip(path, at=-9):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_shard_that_was_changed_is_named(split, tmp_path):
    made = build(tmp_path / "c", Texts(), BuildOptions(vocabulary=257))
    said = command("corpus", "show", made.path, "--check", "--json")
    shards = list(made.path.glob("tokens-*.bin"))
    assert said.json["checked_bytes"] == sum(shard.stat().st_size for shard in shards) > 0
    damaged = made.path / f"tokens-{split}-00000.bin"
    flip(damaged)
    assert command("corpus", "show", made.path).code == 0
    refused(command("corpus", "show", made.path, "--check"), f"{damaged} is damaged", code=1)
    damaged.unlink()
    refused(command("corpus", "show", made.path, "--check"), f"{damaged} is missing", code=1)


def test_pictures_that_were_changed_are_named(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "b.png")
    (tmp_path / "captions.csv").write_text(
        "file_name,text\na.png,red\nb.png,blue\n", encoding="utf-8"
    )
    out = tmp_path / "out"
    assert command("corpus", "pictures", out, tmp_path, "--image-size", 8).code == 0
    assert command("corpus", "show", out, "--check", "--json").json["checked_bytes"] > 2 * 192
    pixels = next(p for p in out.glob("pictures-*.bin") if p.stat().st_size)
    flip(pixels)
    refused(command("corpus", "show", out, "--check"), f"{pixels} is damaged", code=1)


def test_a_run_does_not_go_on_from_a_damaged_shard(recipe, tmp_path):
    made = build(tmp_path / "c", Texts(), BuildOptions(vocabulary=257, heldout=0.2))
    own = replace(recipe, data=replace(recipe.data, corpus=str(made.path)), steps=2)
    train(own, tmp_path / "run")
    flip(made.path / "tokens-train-00000.bin")
    with pytest.raises(UserError, match=r"tokens-train-00000.bin is damaged"):
        train(replace(own, steps=3), tmp_path / "run", resume=True)
    flip(made.path / "tokens-train-00000.bin")
    assert train(replace(own, steps=3), tmp_path / "run", resume=True).step == 3


def test_the_held_out_share_is_what_was_asked_and_nothing_of_it_is_trained_on(tmp_path):
    """2,000 documents: the held-out ones are binomial in `heldout`; the two splits share no text."""
    documents = [Document(f"{i} {some_text(i, 5)}", "made", f"{i}") for i in range(2000)]
    for share in (0.02, 0.1, 0.5):
        made = build(tmp_path / f"{share}", documents, BuildOptions(vocabulary=257, heldout=share))
        table = made.documents.to_pylist()
        rows = {name: [r for r in table if r["split"] == name] for name in SPLITS}
        held, sigma = len(rows["heldout"]), math.sqrt(2000 * share * (1 - share))
        assert abs(held - 2000 * share) < 4 * sigma
        assert len(rows["train"]) + held == 2000
        assert not {r["sha256"] for r in rows["train"]} & {r["sha256"] for r in rows["heldout"]}
        trained = made.tokenizer.decode_bytes(made.train.read(0, len(made.train)))
        texts = [made.text(i) for i, r in enumerate(table) if r["split"] == "heldout"]
        assert not any(text in trained for text in texts)
        evaluated = {
            made.tokenizer.decode_bytes(made.heldout.read(r["offset"], r["tokens"]))
            for r in rows["heldout"]
        }
        assert evaluated == set(texts)  # what is scored is held out, and all of it


def test_what_is_looked_at_and_scored_is_the_held_out_text(recipe, corpus, monkeypatch):
    held = corpus.heldout.read(0, len(corpus.heldout))
    windows = torch.cat([torch.cat([b.tokens, b.targets[:, -1:]], 1) for b in
                         heldout_batches(recipe, corpus)])  # fmt: skip
    rows = {tuple(held[i : i + 33]) for i in range(0, len(held) - 32, 32)}
    assert len(windows) > 5
    assert {tuple(row) for row in windows.tolist()} <= rows
    asked = []

    def score(model, documents, end):
        asked.extend(documents)
        return iter([1.0] * len(asked))

    monkeypatch.setattr("maquette.evaluation.bits_per_byte.score_documents", score)
    scores = score_corpus(SimpleNamespace(), corpus)
    texts = {corpus.tokenizer.decode_bytes(tokens) for tokens in asked}
    table = enumerate(corpus.documents["split"].to_pylist())
    assert texts == {corpus.text(i) for i, split in table if split == "heldout"}
    assert scores["all"].documents == len(asked) == len(texts) >= 5


def test_held_out_pictures_are_a_share_of_all_and_never_those_trained_on(tmp_path):
    folder, count, share = tmp_path / "in", 400, 0.25
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}", encoding="utf-8")
    out = tmp_path / "out"
    words = (
        "corpus",
        "pictures",
        out,
        folder,
        "--image-size",
        8,
        "--heldout",
        share,
        "--workers",
        1,
    )
    assert command(*words).code == 0
    pictures = PictureCorpus(out)
    train, held = (pictures.split(name, 8) for name in SPLITS)
    assert len(train) + len(held) == count
    assert abs(len(held) - count * share) < 4 * math.sqrt(count * share * (1 - share))
    kept = [{p.tobytes() for p in split.pictures(np.arange(len(split)))} for split in (train, held)]
    assert len(kept[0]) == len(train) and not kept[0] & kept[1]
    watched = SimpleNamespace(
        data=PictureData(corpus=str(out), image_size=8), watch=SimpleNamespace(pictures=count)
    )
    looked = torch.cat([batch.pictures for batch in heldout_pictures(watched, pictures)])
    assert {p.tobytes() for p in to_pixels(looked)} == kept[1]


def test_a_name_that_is_not_utf8_does_no_harm(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text(
        "some text of a kind. " * 50, encoding="utf-8"
    )
    (folder / "plain.txt").write_text("another text of a kind. " * 50, encoding="utf-8")
    corpus = build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=257))
    sources = corpus.documents.column("source").to_pylist()
    assert len({s.removesuffix("#tail") for s in sources if "caf" in s}) == 1
    "".join(sources).encode()


def test_every_reason_for_skipping_has_an_example(tmp_path, monkeypatch):
    monkeypatch.setattr("maquette.corpus.text.build.SKIPS_NAMED", 3)
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "good.txt").write_text("some text of a kind. " * 50, encoding="utf-8")
    for i in range(9):
        (folder / f"a{i}.txt").write_bytes(b"\x00\x01\x02" * 50)
    (folder / "empty.txt").write_text("", encoding="utf-8")
    said = command("corpus", "build", tmp_path / "c", folder, "--vocabulary", "257")
    assert said.code == 0, said.err
    assert "empty.txt" in said.out


def test_a_cut_document_teaches_the_tokenizer_its_first_part_only(tmp_path):
    """Whatever the hash of the one text is, the tokenizer learns, and not from what is held out."""
    for i in range(6):
        book = tmp_path / f"{i}.txt"
        book.write_text(some_text(i, 900) + "qxqx " * 100, encoding="utf-8")
        corpus = build(tmp_path / f"c{i}", files([book]), BuildOptions(vocabulary=300, heldout=0.3))
        assert corpus.manifest["split"] == "tail"
        assert len(corpus.tokenizer.encode("qxqx")) == 4
        assert len(corpus.tokenizer.encode(" the tree")) < 9


def test_two_that_need_a_corpus_make_it_once(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from maquette.corpus.text.named import kept

    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path))
    made = []

    def make(path):
        made.append(path)
        build(path, Texts(), BuildOptions(vocabulary=257))

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: kept("shared", make), range(2))
    assert len(made) == 1
    assert a.hash == b.hash
