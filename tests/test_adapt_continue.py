"""Continued pre-training: what is read of documents and of the base's own text, resumed, and refused."""

import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import command, refused, same_steps

from maquette.adaptation.continued import ContinueOptions, continued_recipe
from maquette.audit.trace import seen_at
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.order import Interleaving, SampleOrder
from maquette.corpus.text.store import Corpus
from maquette.models.store import WEIGHTS, load_config, load_tensors
from maquette.training import optimiser
from maquette.training.datasets.text import TextDataset
from maquette.training.datasets.text_config import TextData
from maquette.training.run import RunDirectory
from maquette.workshop.load import load

OPTIONS = ("--steps", 12, "--batch", 4, "--sequence", 32)


@pytest.fixture
def documents(tmp_path):
    """Text of another kind than the base's."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(12):
        text = f"An altogether other text, with number {i} of twelve of them in it. " * 9
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


def go_on(base, documents, path, *more):
    words = ("adapt", "continue", base, documents, "--run", path, *OPTIONS, *more, "--json")
    return command(*words)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 1 / 3, 0.9])
def test_a_share_is_spread_evenly_and_every_sample_has_its_number(share):
    spread, n = Interleaving(share), np.arange(3000)
    second = np.diff(spread.second_before(n))
    assert set(second.tolist()) <= {0, 1}
    assert abs(spread.second_before(2999) - 2999 * Fraction(share)) < 1
    first = np.flatnonzero(second == 0)
    assert [spread.number(k) for k in range(len(first))] == first.tolist()
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Interleaving(1.0)


def test_samples_are_of_both_corpora_whatever_the_ranks_and_are_traced(trained, corpus, tmp_path):
    """A quarter is the base's text, in an order of its own; the rest is what it is without replay."""
    from maquette.corpus.document import Document
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions

    text = [Document("~" * 40 + str(i) * 90, "own", f"own:{i}") for i in range(30)]
    own = build(tmp_path / "own", text, BuildOptions(heldout=0.2), tokenizer=corpus.tokenizer)
    base = RunDirectory(trained).recipe()
    data = TextData(corpus=str(own.path), sequence=32, replay=0.25)
    both = replace(base, data=data, start=str(trained), batch=6)
    dataset, plain = (
        TextDataset(both, own),
        TextDataset(replace(both, data=replace(data, replay=0)), own),
    )
    rows = torch.cat([dataset.step(sample)[0].tokens for sample in (0, 6, 12, 18)])
    second = np.diff(Interleaving(0.25).second_before(np.arange(25)))
    starts = SampleOrder(len(corpus.train), 32, base.seed).starts(0, 6)
    expected = np.stack([corpus.train.read(int(start), 32) for start in starts])
    assert rows[np.flatnonzero(second)].tolist() == expected.tolist()
    kept = rows[np.flatnonzero(second == 0)]
    assert torch.equal(kept, torch.cat([plain.step(sample)[0].tokens for sample in (0, 6, 12)]))
    halves = [dataset.step(6, rank, 2)[0].tokens for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), dataset.step(6)[0].tokens)
    position = int(dataset.order.starts(10, 1)[0])
    assert (
        seen_at(dataset.order, position, 6, 4, 0.25)[0]
        == int(np.flatnonzero(second == 0)[10]) // 6 + 1
    )


def test_what_goes_on_learns_the_documents_and_is_an_ordinary_run(trained, documents, tmp_path):
    said = go_on(trained, documents, tmp_path / "run", "--replay", 0.25)
    assert said.code == 0, said.err
    found, recipe = said.json, RunDirectory(tmp_path / "run").recipe()
    assert found["method"] == "continue" and found["metric"] == "bits per byte of held-out text"
    assert found["metric_after"] < found["metric_before"]
    assert (
        found["forgetting"]["before"] > 0
        and found["trained_parameters"] == load_config(trained).parameters()
    )
    assert recipe.data.replay == 0.25 and recipe.start == str(trained)
    before = RunDirectory(trained).recipe().optimiser
    assert replace(recipe.optimiser, learning_rate=before.learning_rate) == before
    rates = [record["learning_rate"] for record in RunDirectory(tmp_path / "run").records()]
    assert max(rates) == recipe.optimiser.learning_rate < before.learning_rate
    assert rates[-1] < max(rates) / 5  # warmed up again, and decayed
    begun, ended = load_tensors(trained / WEIGHTS), load_tensors(tmp_path / "run" / WEIGHTS)
    assert begun.keys() == ended.keys()
    assert "12 steps" in said.err and "25 % of the sequences replayed" in said.err
    assert load(tmp_path / "run").generate("An", tokens=3)


def test_cut_off_and_resumed_it_is_the_one_that_was_not(trained, documents, tmp_path, monkeypatch):
    assert go_on(trained, documents, tmp_path / "whole").code == 0
    calls, original = [], optimiser.set_learning_rate

    def cut(*given):
        calls.append(1)
        if len(calls) == 8:
            raise InterruptedError
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(optimiser, "set_learning_rate", cut)
        assert go_on(trained, documents, tmp_path / "cut").code == 1
    refused(go_on(trained, documents, tmp_path / "cut"), "exists", "--resume", code=2)
    kept = trained / "corpus.json"
    content, own = (
        kept.read_text(encoding="utf-8"),
        Corpus(RunDirectory(trained).recipe().data.corpus),
    )
    shutil.copytree(own.path, tmp_path / "other")  # the base's text is another, and its run says so
    for file, old in ((tmp_path / "other" / "manifest.json", None), (kept, content)):
        text = (old or file.read_text(encoding="utf-8")).replace(own.hash, own.hash[::-1])
        file.write_text(text.replace(str(own.path), str(tmp_path / "other")), encoding="utf-8")
    said = go_on(trained, documents, tmp_path / "cut", "--resume")
    refused(said, "was trained on another corpus", code=1)
    kept.write_text(content, encoding="utf-8")
    page = documents / "0.txt"
    before = page.read_text(encoding="utf-8")
    page.write_text(before + "more", encoding="utf-8")
    said = go_on(trained, documents, tmp_path / "cut", "--resume")
    refused(said, "was built with other data", code=2)
    page.write_text(before, encoding="utf-8")
    assert go_on(trained, documents, tmp_path / "cut", "--resume").code == 0
    same_steps(*(RunDirectory(tmp_path / name).records() for name in ("cut", "whole")))


def test_without_the_bases_text_nothing_is_replayed_and_a_line_says_so(
    trained, documents, tmp_path
):
    moved = tmp_path / "moved"
    kept = RunDirectory(trained)
    content = (kept / "corpus.json").read_text(encoding="utf-8")
    where = Corpus(kept.recipe().data.corpus).path
    (kept / "corpus.json").write_text(content.replace(str(where), str(moved)), encoding="utf-8")
    said = go_on(trained, documents, tmp_path / "run")
    refused(said, "nothing can be replayed", "no longer at", "--replay 0", code=1)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run-corpus").exists()
    said = go_on(trained, documents, tmp_path / "run", "--replay", 0)
    assert said.code == 0 and said.json["forgetting"] is None
    assert "what is forgotten is not scored" in said.err
    shutil.copytree(where, moved)
    (moved / "manifest.json").write_text(
        (moved / "manifest.json").read_text(encoding="utf-8").replace('"hash": "', '"hash": "0'),
        encoding="utf-8",
    )
    recipe = replace(kept.recipe(), start=str(trained))
    recipe = replace(recipe, data=replace(recipe.data, replay=0.5))
    with pytest.raises(UserError, match="has changed since this run"):
        TextDataset(recipe, Corpus(where))


def test_what_cannot_go_on_is_one_line(trained, documents, recipe, tmp_path):
    run = tmp_path / "run"
    refused(go_on(trained, tmp_path / "none", run), "none does not exist", code=1)
    refused(go_on(tmp_path / "none", documents, run), "does not exist", code=1)
    refused(go_on(trained, documents, run, "--replay", 1), "0 to below 1", code=2)
    (tmp_path / "run-corpus").mkdir()
    refused(go_on(trained, documents, run), "in the way of the corpus", code=2)
    assert not run.exists()
    with pytest.raises(WrongUse, match="start names no run"):
        replace(recipe, data=replace(recipe.data, replay=0.1))


def test_steps_and_batch_fit_the_documents(recipe, tmp_path):
    """Passes over the documents, within bounds; a batch is never more than there is."""
    data = TextData(corpus="x", sequence=32)

    def made(tokens, **options):
        options = ContinueOptions(replay=0, **options)
        return continued_recipe(options, tmp_path, recipe.model, recipe, data, tokens)

    assert made(100).batch == 3 and made(100).steps < made(100_000).steps
    assert made(16 * 32 * 100).steps == 400 and made(100, steps=7).steps == 7
    rates = [made(100, steps=n).optimiser.learning_rate for n in (10, 250, 1000, 2000)]
    assert rates == pytest.approx([0.001, 0.005, 0.01, 0.01])  # of the run's own 0.01
    assert made(100, learning_rate=0.02).optimiser.learning_rate == 0.02
    assert continued_recipe(
        ContinueOptions(replay=0.5), tmp_path, recipe.model, None, data, 16 * 32 * 100
    ).steps == 800  # fmt: skip
