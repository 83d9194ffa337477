"""Training on examples: packed whole, each once an epoch, none sees another, answers alone are learned."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.store import ExampleSplit
from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer, train_tokenizer
from maquette.models.vit_config import ViTConfig
from maquette.training.datasets.examples import ExamplesDataset, Packed, pack
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.recipe import Recipe, load_recipe
from maquette.workshop.load import load
from maquette.workshop.train import train
from tests.conftest import command, refused, same_steps

EOS = 256


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Sums with their answers."""
    folder = tmp_path_factory.mktemp("examples")
    records = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(12) for b in range(12)]
    source = folder / "sums.jsonl"
    source.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return build_examples(folder / "sums", [source], byte_tokenizer(), heldout=0.2)


@pytest.fixture
def tuned(recipe, examples):
    """A recipe on examples."""
    return replace(recipe, data=ExamplesData(corpus=str(examples.path), sequence=30))


def split_of(examples):
    """A split of (tokens, counted) pairs."""
    offsets = np.cumsum([0, *(len(t) for t, _ in examples)])
    tokens = np.concatenate([np.array(t, np.uint16) for t, _ in examples])
    return ExampleSplit(
        tokens, np.concatenate([np.array(c, np.uint8) for _, c in examples]), offsets
    )


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_item_is_packed_once_and_no_bin_overflows(lengths):
    sizes = np.array(lengths)
    bins = pack(sizes, np.arange(len(sizes)), 20)
    assert sorted(i for one in bins for i in one) == list(range(len(sizes)))
    assert all(sizes[one].sum() <= 20 for one in bins)
    assert sum(sizes[one].sum() <= 10 for one in bins) <= 1  # two of these would be one


def test_an_epoch_reads_every_example_once(tuned, examples):
    dataset = ExamplesDataset(replace(tuned, batch=1), examples)
    rows = [dataset.step(sample)[0] for sample in range(2 * dataset.order.samples)]
    epochs = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    wanted = sorted(
        tuple(examples.train.read(n, 99)[0].tolist()) for n in range(len(examples.train))
    )
    orders = []
    for epoch in epochs:
        read = []
        for batch in epoch:
            for document in batch.document_ids[0].unique():
                inside = batch.document_ids[0] == document
                if (targets := batch.targets[0][inside]).max() < 0:
                    assert (batch.tokens[0][inside] == EOS).all()  # padding
                    continue
                assert batch.positions[0][inside].tolist() == list(range(int(inside.sum())))
                read.append((*batch.tokens[0][inside].tolist(), int(targets[-1])))
        assert sorted(read) == wanted
        orders.append(read)
    assert orders[0] != orders[1]


def test_a_target_is_the_token_that_follows_where_the_mask_says_so(examples):
    packed = Packed(examples.train, 30, EOS, seed=1)
    batch = packed.batch(np.arange(len(packed)))
    counted = batch.targets >= 0
    assert int(counted.sum()) == examples.manifest["splits"]["train"]["counted"]
    followed = torch.roll(batch.tokens, -1, 1)
    inside = counted & (torch.roll(batch.document_ids, -1, 1) == batch.document_ids)
    inside[:, -1] = False
    assert (batch.targets[inside] == followed[inside]).all()
    assert (batch.targets[counted & ~inside] == EOS).all()  # an example's last target
    assert not (counted & (torch.roll(batch.tokens, -1, 1) == ord("="))).any()  # of the prompt


def test_the_ranks_split_a_step(tuned, examples):
    whole = ExamplesDataset(tuned, examples).step(4)[0]
    parts = [
        part
        for rank in range(2)
        for part in ExamplesDataset(replace(tuned, micro_batch=1), examples).step(4, rank, 2)
    ]
    for name in ("tokens", "targets", "document_ids", "positions"):
        torch.testing.assert_close(
            getattr(whole, name), torch.cat([getattr(part, name) for part in parts])
        )


def test_longer_examples_are_cut_and_those_without_an_answer_left_out():
    split = split_of(
        [([1, 2, 3], [0, 1, 1]), ([1] * 9, [0, 0] + [1] * 7), ([1] * 9, [0] * 8 + [1])]
    )
    packed = Packed(split, 4, EOS, seed=0)
    assert (packed.cut, packed.left_out, len(packed)) == (1, 1, 2)
    rows = packed.batch(np.arange(2))
    assert sorted((rows.targets >= 0).sum(1).tolist()) == [2, 3]
    with pytest.raises(UserError, match="no example has an answer that begins"):
        Packed(split_of([([1] * 9, [0] * 8 + [1])]), 4, EOS, seed=0)


def test_the_gradient_is_that_of_each_answer_alone(tuned, examples):
    """Packed and masked, as if every example were computed by itself and its answer's loss summed."""
    model = tuned.model.build().initialise(3)
    (batch,) = ExamplesDataset(tuned, examples).step(0)
    loss = model.loss(batch)
    loss.total.backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    count = 0
    total = torch.zeros(())
    for row in range(len(batch)):
        for document in batch.document_ids[row].unique():
            inside = batch.document_ids[row] == document
            targets = batch.targets[row][inside]
            if targets.max() < 0:
                continue
            logits = model(batch.tokens[row][inside][None])[0]
            total = total + F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
            count += int((targets >= 0).sum())
    total.backward()
    assert int(loss.count) == count
    torch.testing.assert_close(loss.total.detach(), total.detach())
    for p, grad in zip(model.parameters(), packed, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=1e-4)


def test_heldout_batches_are_the_same_and_within_what_is_watched(tuned, examples):
    dataset = ExamplesDataset(tuned, examples)
    first, second = dataset.heldout(), dataset.heldout()
    assert sum(len(batch) for batch in first) <= tuned.watch.tokens // 30
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))


def test_a_run_is_tuned_from_another_and_resumed_to_the_bit(trained, tuned, tmp_path):
    tuned = replace(tuned, start=str(trained), steps=8)
    whole = train(tuned, tmp_path / "whole")
    train(replace(tuned, stop=4), tmp_path / "cut")
    again = train(tuned, tmp_path / "cut", resume=True)
    assert again.finished
    assert again.heldout_loss == whole.heldout_loss
    first, second = load(tmp_path / "whole"), load(tmp_path / "cut")
    steps = ([{k: v for k, v in r.items() if k != "heldout_loss"} for r in run.metrics]
             for run in (first, second))  # fmt: skip # the cut one looked where it was cut
    same_steps(*steps)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.metrics[-1]["tokens"] == 8 * tuned.batch * 30


def test_another_tokenizer_or_modality_is_refused(tuned, examples, tmp_path):
    (tmp_path / "run").mkdir()
    save_tokenizer(train_tokenizer(["abab"], 258), tmp_path / "run" / "tokenizer.json")
    begun = replace(tuned, start=str(tmp_path / "run"))
    with pytest.raises(WrongUse, match="another tokenizer than the run"):
        ExamplesDataset(begun, examples).check()
    with pytest.raises(WrongUse, match="a vit learns from pictures, data.kind is examples"):
        Recipe(model=ViTConfig(), data=ExamplesData(corpus="x"))


def test_the_command_trains_by_yaml_and_by_flags(tuned, examples, trained, tmp_path):
    tuned = replace(tuned, steps=2)
    tuned.save(tmp_path / "a.yaml")
    assert load_recipe(tmp_path / "a.yaml") == tuned
    said = command("train", tmp_path / "a.yaml", "--run", tmp_path / "a", "--json")
    assert said.code == 0, said.err
    assert (tmp_path / "a" / "report.html").exists()
    sample = sorted((tmp_path / "a" / "samples").glob("*.txt"))[0].read_text(encoding="utf-8")
    assert "=" in sample.split("\n")[0]  # it goes on from a held-out prompt
    flags = ["--data.kind", "examples", "--data.corpus", examples.path, "--steps", "2",
             "--watch.no-report", "--start", trained]  # fmt: skip
    text = trained / "recipe.yaml"
    said = command("train", text, "--run", tmp_path / "b", *flags)
    assert said.code == 0, said.err
    assert load(tmp_path / "b").recipe.data.kind == "examples"
    refused(command("train", "tiny", "--data.kind", "examples"), "data.corpus is empty", code=2)
    refused(command("train", "vit", "--data.kind", "examples"), "learns from pictures", code=2)
    scored = command("eval", tmp_path / "a", "--json").json["tasks"]["all"]
    heldout = examples.manifest["splits"]["heldout"]
    assert scored["tokens"] == heldout["counted"]
    assert scored["bytes"] == heldout["counted"] - heldout["examples"]  # all but the ends
    assert scored["documents"] == heldout["examples"]
    outcome = load(tmp_path / "a").metrics[-1]["heldout_loss"]  # of all of them, by as many tokens
    assert scored["loss"] == pytest.approx(outcome, rel=0.02)
    base = command("eval", trained, "--corpus", examples.path, "--json").json["tasks"]["all"]
    assert base["tokens"] == heldout["counted"]
    refused(command("eval", tmp_path / "a", "--bytes", 100), "scored whole", code=2)
    refused(command("audit", "trace", tmp_path / "a", "text"), "a run of examples", code=2)
