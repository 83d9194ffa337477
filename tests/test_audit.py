"""The audit commands, end to end, as a user and a program see them."""

import gzip
import json
import shutil

import pytest
from conftest import Texts, command, refused, some_text

from maquette.cli.main import main
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus

LONG = 99  # characters: from here on nothing is missed


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A corpus with a portrait, and a training document of it."""
    top = tmp_path_factory.mktemp("audit")
    corpus = build(
        top / "c", Texts(), BuildOptions(vocabulary=300, heldout=0.2, portrait=True, locator=True)
    )
    row = next(i for i, r in enumerate(corpus.documents.to_pylist()) if r["split"] == "train")
    return corpus, corpus.text(row).decode(), corpus.documents.to_pylist()[row]["source"]


def test_a_portrait_is_written_and_tells_what_was_seen(seen, tmp_path):
    corpus, text, _ = seen
    made = command("audit", "portrait", corpus.path, "--out", tmp_path / "p.bin", "--json")
    assert made.code == 0, made.err
    assert made.json["bytes"] == (tmp_path / "p.bin").stat().st_size
    assert made.json["guarantee"] == LONG
    asked = "zq" * 70 + text[50 : 50 + 300] + "xw" * 60
    (tmp_path / "t.txt").write_text(asked, encoding="utf-8")
    said = command("audit", "member", tmp_path / "p.bin", "--file", tmp_path / "t.txt", "--json")
    assert said.code == 0, said.err
    assert 0 < said.json["bound"] <= 0.01
    strong = [s for s in said.json["spans"] if s["strong"]]
    assert strong[0]["start"] >= 140 - 1
    assert strong[0]["end"] - strong[0]["start"] >= 300 - 2 * 67
    built = command("audit", "member", corpus.path, "--file", tmp_path / "t.txt", "--json")
    assert built.json["spans"] == said.json["spans"]  # the build wrote the same portrait


def test_member_writes_a_page(seen, tmp_path):
    corpus, text, _ = seen
    said = command("audit", "member", corpus.path, text[:400], "--html", tmp_path / "m.html")
    assert said.code == 0, said.err
    assert "% of the characters" in said.out
    assert "Was it seen?" in (tmp_path / "m.html").read_text(encoding="utf-8")


def test_a_trace_names_the_document(seen, tmp_path):
    corpus, text, source = seen
    asked = "zqzq " + text[40:140] + " xwxw"
    (tmp_path / "t.txt").write_text(asked, encoding="utf-8")
    words = ("audit", "trace", corpus.path, "--file", tmp_path / "t.txt")
    said = command(*words, "--all", "--json")
    assert said.code == 0, said.err
    longest = max(said.json["spans"], key=lambda s: s["end"] - s["start"])
    assert asked[longest["start"] : longest["end"]] == longest["text"]
    assert longest["end"] - longest["start"] >= 100
    assert longest["count"] >= 1
    origin = next(d for d in longest["documents"] if d["source"] == source)
    assert text[origin["offset"] :].startswith(asked[origin["start"] : origin["end"]])
    page = command(*words, "--html", tmp_path / "t.html")
    assert source in page.out
    assert source in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_the_locator_finds_long_passages_without_an_index(seen, tmp_path):
    corpus, text, source = seen
    asked = "é zq " + text[40:240] + " xwxw"
    said = command("audit", "trace", corpus.path, asked, "--locator", "--json")
    assert said.code == 0, said.err
    longest = said.json["spans"][0]
    assert asked[longest["start"] : longest["end"]] == longest["text"]
    assert longest["end"] - longest["start"] >= 200
    origin = longest["documents"][0]
    assert origin["source"] == source
    assert text[origin["offset"] :].startswith(longest["text"])
    page = command("audit", "trace", corpus.path, asked, "--locator", "--html", tmp_path / "l.html")
    assert page.code == 0, page.err
    assert source in (tmp_path / "l.html").read_text(encoding="utf-8")
    other = build(
        tmp_path / "other", Texts(), BuildOptions(vocabulary=300, heldout=0.2)
    )  # has none yet
    again = command("audit", "trace", other.path, asked, "--locator", "--json")
    assert again.json["spans"] == said.json["spans"]


def test_what_a_run_writes_is_traced_and_counted(trained):
    said = command("generate", trained, "the ", "--tokens", "12", "--trace", "--json")
    assert said.code == 0, said.err
    assert said.json["traces"][0]["text"].startswith("the ")
    said = command("audit", "memorised", trained, "--samples", "4", "--tokens", "20", "--json")
    assert said.code == 0, said.err
    assert 0 <= said.json["interval"][0] <= said.json["fraction"] <= said.json["interval"][1] <= 1
    assert said.json["samples"] == 4


def test_a_run_says_at_which_step_it_read_a_span(recipe, tmp_path):
    from dataclasses import replace

    from maquette.corpus.order import SampleOrder
    from maquette.workshop.train import train

    train(replace(recipe, steps=12), tmp_path / "run")
    corpus = Corpus(recipe.data.corpus)
    start = int(SampleOrder(len(corpus.train), 32, recipe.seed).starts(5 * recipe.batch, 1)[0])
    text = bytes(
        t for t in corpus.train.read(start, 32).tolist() if t != corpus.eos_token_id
    ).decode()
    said = command("audit", "trace", tmp_path / "run", text, "--all", "--least", "1", "--json")
    assert said.code == 0, said.err
    steps = [s for span in said.json["spans"] for d in span["documents"] for s in d["steps"]]
    assert 6 in steps  # samples 20 to 23 are the sixth batch of four
    words = command("audit", "trace", tmp_path / "run", text, "--sentences", "--json")
    assert words.code == 0, words.err
    for span in words.json["spans"]:
        assert "\n" not in span["text"].strip("\n")


@pytest.mark.parametrize(
    "words",
    [("audit", v) for v in ("portrait", "member", "trace", "memorised", "contamination")]
    + [("corpus", "build"), ("corpus", "show")],
)
def test_every_verb_has_an_example(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert f"example: maquette {' '.join(words)} " in " ".join(capsys.readouterr().out.split())


def test_the_report_says_what_of_the_corpus_is_in_the_run(recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What of it is in the model" in page
    assert "sampled tokens stand in the training text" in page
    audit = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert audit["verbatim"]["tokens"] > 0


def test_dirty_examples_are_found_and_scored_apart(seen, trained, tmp_path):
    corpus, text, source = seen
    words = text.split()
    examples = [{"text": " ".join(words[:30])}, {"question": some_text(7001, 6), "answer": "no"}]
    task = tmp_path / "task.jsonl"
    task.write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    said = command("audit", "contamination", corpus.path, task, "--json")
    assert said.code == 0, said.err
    found = said.json["tasks"][str(task)]
    assert (found["examples"], found["flagged"], found["fraction"]) == (2, [0], 0.5)
    assert {hit["source"] for hit in found["hits"]} == {source}
    assert (found["clean"], found["short"], found["too_short"]) == (0, 1, [1])
    said = command("eval", trained, task, "--json")
    assert said.code == 0, said.err
    score = said.json["tasks"][str(task)]
    assert score["dirty"]["examples"] == 1
    assert score["clean"]["examples"] == 0
    assert score["too_short"]["examples"] == 1  # seven words
    assert score["contaminated"] == 0.5
    assert score["bits_per_byte"] > 0


def test_runs_and_examples_that_cannot_be_are_one_line(trained, tmp_path):
    task = tmp_path / "t.jsonl"
    task.write_text('{"text": ""}', encoding="utf-8")
    refused(command("eval", trained, task), "holds no examples", code=1)
    task.write_text('{"text": "half \\ud800 a sign"}', encoding="utf-8")
    assert command("eval", trained, task).code == 0
    refused(command("eval", trained, task, "--bytes", "9"), "scored whole")
    refused(command("audit", "memorised", trained, "--tokens", "0"), "tokens is 0")
    refused(command("audit", "memorised", trained, "--bytes", "0"), "bytes is 0")
    (trained / "corpus.json").write_text("[]", encoding="utf-8")
    refused(command("eval", trained, task), "is damaged", code=1)
    (trained / "corpus.json").unlink()
    refused(command("generate", trained, "the ", "--trace"), "was not trained here", code=1)


def test_an_artefact_of_another_corpus_is_refused(seen, tmp_path):
    corpus, _, _ = seen
    assert command("audit", "trace", corpus.path, "some text").code == 0
    other = build(tmp_path / "other", Texts(documents=20), BuildOptions(vocabulary=300))
    shutil.copytree(corpus.path / "index", other.path / "index")
    refused(command("audit", "trace", other.path, "some text"), "belongs to another corpus", code=1)
    shutil.copy(corpus.path / "portrait.bin", other.path / "portrait.bin")
    refused(command("audit", "member", other.path, "text"), "belongs to another corpus", code=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["member", "nowhere", "text"], "there is no corpus nowhere"),
        (["member", "{corpus}"], "give the text itself, or a file"),
        (["trace", "{corpus}", "a", "--file", "b"], "give the text itself, or a file"),
        (["trace", "{corpus}", "--file", "{corpus}/portrait.bin"], "is not text in UTF-8"),
        (["member", "{corpus}/manifest.json", "text"], "is not a file of kind"),
        (["contamination", "{corpus}", "nowhere.jsonl"], "nowhere.jsonl is no task"),
        (["contamination", "{corpus}", "{corpus}/../t.txt", "--words", "-1"], "words is -1"),
        (["memorised", "nowhere"], "nowhere does not exist"),
        (["portrait", "{corpus}", "--bits", "0"], "bits is 0"),
        (["portrait", "{corpus}", "--out", "{corpus}"], "is a folder"),
        (["trace", "{corpus}", "a", "--locator", "--all"], "leave other options out"),
        (["trac", "{corpus}"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line(words, message, seen):
    corpus, _, _ = seen
    (corpus.path.parent / "t.txt").write_text("an example of a few words", encoding="utf-8")
    refused(command("audit", *(w.replace("{corpus}", str(corpus.path)) for w in words)), message)


def test_a_file_with_binary_in_it_does_no_harm(seen, tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\x00\x01 plain text \x7f" * 40)
    said = command("audit", "member", Corpus(seen[0].path).path, "--file", tmp_path / "b.txt")
    assert said.code == 0, said.err


def test_a_file_is_asked_as_the_corpus_reads_it(tmp_path):
    """A page, packed or not, records and a text with a mark: what was built of it is what is asked."""
    folder = tmp_path / "in"
    folder.mkdir()
    said = [some_text(i, 90) for i in range(6)]
    page = f"<html><title>T</title><nav>menu</nav><article><p>{said[0]}</p></article></html>"
    (folder / "a.html").write_text(page, encoding="utf-8")
    (folder / "b.html.gz").write_bytes(gzip.compress(page.replace(said[0], said[1]).encode()))
    records = [{"text": said[2]}, {"text": said[3]}]
    (folder / "c.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    (folder / "d.txt").write_text("\ufeff" + said[4], encoding="utf-8")
    for i in range(10, 40):
        (folder / f"x{i}.txt").write_text(some_text(i, 90), encoding="utf-8")
    options = BuildOptions(vocabulary=257, portrait=True, heldout=0.001, split="tail")
    built = build(tmp_path / "c", files([folder]), options)
    for name in ("a.html", "b.html.gz", "c.json", "d.txt"):
        answer = command("audit", "member", built.path, "--file", folder / name, "--json")
        assert answer.json["coverage"] > 0.7, name
        traced = command("audit", "trace", built.path, "--file", folder / name, "--json")
        assert "<p>" not in traced.json["text"] and "\ufeff" not in traced.json["text"]
    (tmp_path / "e.html").write_text("<html></html>", encoding="utf-8")
    refused(
        command("audit", "member", built.path, "--file", tmp_path / "e.html"), "no text in the page"
    )
    (tmp_path / "f.txt.gz").write_bytes(b"no gzip at all")
    refused(
        command("audit", "member", built.path, "--file", tmp_path / "f.txt.gz"), "damaged gz data"
    )


def test_a_short_text_is_said_to_be_too_short(seen, tmp_path):
    corpus, text, _ = seen
    page = tmp_path / "m.html"
    for length in (20, 99):
        asked = ("audit", "member", corpus.path, text[:length])
        said = command(*asked, "--html", page)
        assert "too short to be sure" in said.out and "maquette audit trace" in said.out
        assert "%" not in said.out
        assert "too short to be sure" in page.read_text(encoding="utf-8")
        answer = command(*asked, "--json").json
        assert (answer["too_short"], answer["coverage"], answer["sure_from"]) == (True, None, 166)
