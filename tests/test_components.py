"""Mixtures built: component by component, repeated as the table says, recent text more often."""

import itertools
import json
from collections import Counter

import pytest
from conftest import command, refused, some_text

from maquette.base.errors import UserError
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.components import Components
from maquette.corpus.text.mixture import load_mixture


@pytest.fixture
def table(tmp_path):
    """Two folders of text and one of dated records, and a mixture of them."""
    for name, count in (("a", 40), ("b", 20)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.txt").write_text(
                some_text(100 * len(name) + i + count, 60), encoding="utf-8"
            )
    with (tmp_path / "news.jsonl").open("w", encoding="utf-8") as file:
        for i in range(300):
            record = {"text": some_text(5000 + i, 12), "created": f"{2000 + i % 20}-06-01"}
            file.write(json.dumps(record) + "\n")
    path = tmp_path / "mixture.yaml"
    path.write_text(
        f"""
tokens: 100K
components:
  - {{name: first, sources: [{tmp_path}/a], epochs: 1, licence: MIT}}
  - {{name: second, sources: [{tmp_path}/b], epochs: 2.5}}
  - {{name: news, sources: [{tmp_path}/news.jsonl], epochs: 2, date: created, half_life: 5y}}
""",
        encoding="utf-8",
    )
    return path


def built(table, out, workers=None):
    return build(
        out,
        Components(load_mixture(table)),
        BuildOptions(vocabulary=257, heldout=0.1),
        workers=workers,
    )


def test_documents_are_repeated_as_the_table_says(table, tmp_path):
    corpus = built(table, tmp_path / "c")
    rows = corpus.documents.to_pylist()
    copies = Counter(r["source"] for r in rows if r["split"] == "train")
    kind = {r["source"]: r["component"] for r in rows}
    assert {copies[s] for s in copies if kind[s] == "first"} == {1}
    second = [n for s, n in copies.items() if kind[s] == "second"]
    assert set(second) == {2, 3}
    heldout = Counter(r["source"] for r in rows if r["split"] == "heldout")
    assert set(heldout.values()) == {1}
    assert not heldout.keys() & copies.keys()
    assert {r["licence"] for r in rows if r["component"] == "first"} == {"MIT"}
    for i, row in enumerate(rows):
        stream = corpus.train if row["split"] == "train" else corpus.heldout
        assert corpus.text(i) == bytes(stream.read(row["offset"], row["tokens"]).tolist())


def test_recent_text_counts_more_and_the_component_stays_as_large(table, tmp_path):
    corpus = built(table, tmp_path / "c")
    copies = Counter()
    documents = Counter()
    for row in corpus.documents.to_pylist():
        if row["component"] == "news" and row["split"] == "train":
            copies[row["date"][:4]] += 1
            documents[row["date"][:4], row["source"]] = 1
    each = {year: n / sum(y == year for y, _ in documents) for year, n in copies.items()}
    assert each["2019"] > 1.8 * each["2010"]
    row = next(r for r in corpus.manifest["mixture"] if r["component"] == "news")
    written = corpus.manifest["components"]["news"]["train_bytes"]
    assert written == pytest.approx(row["effective_bytes"], rel=0.1)


def test_every_round_is_behind_the_one_before(table, tmp_path):
    rows = built(table, tmp_path / "c").documents.to_pylist()
    times = Counter()
    rounds = []
    for row in rows:
        times[row["source"]] += 1
        rounds.append(times[row["source"]])
    assert rounds == sorted(rounds)
    assert all(a["source"] != b["source"] for a, b in itertools.pairwise(rows))


def test_what_the_mixture_leaves_out_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(120):
        (tmp_path / "a" / f"{i}.txt").write_text(some_text(i, 20), encoding="utf-8")
    half = tmp_path / "half.yaml"
    half.write_text(
        f"components: [{{name: a, sources: [{tmp_path}/a], epochs: 0.5}}]", encoding="utf-8"
    )
    corpus = built(half, tmp_path / "c")
    gone = corpus.manifest["removed"]["mixture"]
    assert 30 < gone < 80
    assert corpus.manifest["documents"] == len(corpus.documents) == 120 - gone
    sources = set(corpus.documents["source"].to_pylist())
    left = next(i for i in range(120) if f"{tmp_path}/a/{i}.txt" not in sources)
    why = command("corpus", "show", corpus.path, "--why", f"a/{left}.txt").out
    assert "mixture: not drawn" in why


def test_a_component_that_would_be_repeated_for_ever_is_refused(table, tmp_path):
    text = table.read_text(encoding="utf-8").replace("epochs: 2.5", "epochs: 250")
    table.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="second would be written 250 times"):
        built(table, tmp_path / "c")


def test_a_mixture_is_the_same_for_any_number_of_workers(table, tmp_path, monkeypatch):
    one = built(table, tmp_path / "one", workers=1)
    monkeypatch.setattr("maquette.corpus.text.build.PART_BYTES", 20_000)
    monkeypatch.setattr("maquette.corpus.worker_pool.WORTH", 0)
    two = built(table, tmp_path / "two", workers=2)
    assert one.hash == two.hash
    assert one.manifest["mixture"] == two.manifest["mixture"]


def test_the_command_line_prints_and_draws_the_table(table, tmp_path):
    out = tmp_path / "c"
    said = command("corpus", "build", out, "--mixture", table, "--vocabulary", "257", "--json")
    assert said.code == 0, said.err
    assert [r["component"] for r in said.json["mixture"]] == ["first", "second", "news"]
    shown = command("corpus", "show", out, "--picture", tmp_path / "mix.png")
    assert "epochs at 100,000 tokens" in shown.out
    assert (tmp_path / "mix.png").read_bytes().startswith(b"\x89PNG")
    refused(
        command("corpus", "build", tmp_path / "d", tmp_path, "--mixture", table),
        "the mixture names the sources",
    )


def test_why_a_document_was_kept_or_dropped(tmp_path):
    top = tmp_path / "texts"
    top.mkdir()
    prose = "It was the best of times and it was the worst of times for the people of that town. "
    for i in range(12):
        (top / f"good{i}.txt").write_text(
            f"Number {i}. " + prose * 2 + some_text(i, 30), encoding="utf-8"
        )
    (top / "z-again.txt").write_text(
        (top / "good1.txt").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (top / "short.txt").write_text("Too short to be of any use to anybody.", encoding="utf-8")
    (top / "mail.txt").write_text(
        prose + "Write to jane.doe@corp-mail.com today. " + some_text(99, 60), encoding="utf-8"
    )
    out = tmp_path / "c"
    said = command(
        "corpus", "build", out, top, "--vocabulary", "257", "--near", "off",
        "--clean", "gopher:words,personal", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert said.json["removed"]["cleaning"] == 1
    assert said.json["removed"]["exact"] == 1
    why = command("corpus", "show", out, "--why", "short.txt").out
    assert "left out" in why
    assert "number of words" in why
    assert "the same text as" in command("corpus", "show", out, "--why", "z-again.txt").out
    kept = command("corpus", "show", out, "--why", "mail.txt", "--json")
    assert kept.json["documents"][0]["state"].startswith("kept")
    assert any("e-mail" in line for line in kept.json["documents"][0]["why"])
    refused(command("corpus", "show", out, "--why", "nowhere.txt"), "is called nowhere.txt", code=1)
    refused(
        command("corpus", "build", tmp_path / "d", top, "--clean", "qualty"),
        "did you mean 'quality'",
    )
