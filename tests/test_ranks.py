"""Two ranks are one: the same gradient, clipped as one; what each draws is its own. One spawn for all."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import in_ranks

from maquette.adaptation.grpo import Results
from maquette.corpus.examples.build import build_examples
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models.decoder import Decoder
from maquette.models.store import load_tensors
from maquette.parallel import group as group_module
from maquette.parallel.group import Group
from maquette.training.checkpoint import OPTIMISER
from maquette.training.datasets.dataset import open_dataset
from maquette.training.datasets.preferences_config import PreferencesData
from maquette.training.datasets.questions_config import QuestionsData
from maquette.training.recipe import Checkpoints
from maquette.training.run import RunDirectory
from maquette.workshop.train import run_rank, train

SHAPES = [(3,), (), (5, 4), (1, 1), (130,), (2, 3, 3), (7, 1), (1,), (64,)]
SIZES = [1, 4, 5, 64, 90, 200, 1 << 26]
"""of a bucket in bytes: less than a number, one, an edge inside a tensor, of a tensor, all of them"""


def made(rank: int, mixed: bool) -> list[torch.nn.Parameter]:
    """Parameters with gradients of that rank; the third has none on rank 1."""
    generator = torch.Generator().manual_seed(rank)
    kinds = [torch.float32, torch.bfloat16, torch.float64] if mixed else [torch.float32]
    parameters = []
    for i, shape in enumerate(SHAPES):
        p = torch.nn.Parameter(torch.zeros(shape, dtype=kinds[i % len(kinds)]))
        whole = torch.randint(-8, 9, shape, generator=generator)  # sums are exact in bf16, too
        if (rank, i) != (1, 2):
            p.grad = whole.to(p.dtype)
        parameters.append(p)
    wide = torch.nn.Parameter(torch.zeros(2, 4, 3, 3).to(memory_format=torch.channels_last))
    wide.grad = (
        torch.randn(2, 4, 3, 3, generator=generator).round().to(memory_format=torch.channels_last)
    )
    return [*parameters, wide]


def check_buckets(group: Group) -> None:
    """The sums are those of the ranks' gradients, whatever the size of a bucket and the types."""
    all_reduce = group_module.dist.all_reduce
    for mixed in (False, True):
        parts = [made(rank, mixed) for rank in range(group.world)]
        wanted = []
        for same in zip(*parts, strict=True):
            total = torch.zeros_like(same[0])
            for p in same:
                total += 0 if p.grad is None else p.grad
            wanted.append(total)
        for size in SIZES:
            group_module.BUCKET_BYTES = size
            mine = made(group.rank, mixed)
            flats, filled, held = [], 0, 0
            for p in mine:  # a bucket is full with the tensor that reaches its size
                filled, held = filled + p.numel() * p.element_size(), held + p.numel()
                if filled >= size:
                    flats.append(held)
                    filled = held = 0
            sent = []
            group_module.dist.all_reduce = lambda t, sent=sent: (sent.append(t), all_reduce(t))
            group.sum_gradients(mine)
            group_module.dist.all_reduce = all_reduce
            assert [t.numel() for t in sent] == flats + [held] * (held > 0)
            for p, total in zip(mine, wanted, strict=True):
                assert p.grad is not None and p.grad.dtype == p.dtype
                assert torch.equal(p.grad, total), (size, mixed, p.shape)
        group.sum_gradients([])
    group_module.BUCKET_BYTES = 700  # of the runs that follow: several a step


def check_clipping(group: Group) -> None:
    """Each rank clips the same sum in the same way."""
    from maquette.training.optimiser import clip_gradients

    whole = [
        sum(0 if p.grad is None else p.grad for p in same)
        for same in zip(*(made(rank, False) for rank in range(group.world)), strict=True)
    ]
    length = math.sqrt(sum(float(g.square().sum()) for g in whole))
    for clip in (0.0, 1.0, 10 * length):
        mine = made(group.rank, False)
        group.sum_gradients(mine)
        assert clip_gradients(mine, clip) == pytest.approx(length, rel=1e-5)
        factor = min(1.0, clip / length) if clip else 1.0
        for p, g in zip(mine, whole, strict=True):
            torch.testing.assert_close(p.grad, g * factor, rtol=1e-4, atol=1e-7)


def check_sums(group: Group) -> None:
    assert group.sum(1.0, group.rank) == [group.world, sum(range(group.world))]
    assert group.sum(2.0**53) == [2.0**54]  # in fp64
    assert group.sum(1 / 3) == [pytest.approx(group.world / 3, rel=1e-15)]


def even(results, number, answer):
    """A reward that half the answers of any model have."""
    return sum(answer) % 2 == 0


def as_rank(group: Group, folder: str) -> None:
    """What one rank does (at module level, to be sent to it)."""
    Results.right = even
    check_buckets(group)
    check_clipping(group)
    check_sums(group)
    for name in ("plain", "preferring", "reinforcing"):
        run_rank(RunDirectory(f"{folder}/{name}"), group)
    drawn, looked, original = [], [], Decoder.loss

    def recorded(model, batch, z_loss=0.0):
        if model.training:
            drawn.append(float(torch.rand(())))
        else:
            looked.append(len(batch.tokens))
        return original(model, batch, z_loss)

    Decoder.loss = recorded
    run_rank(RunDirectory(f"{folder}/dropping"), group)
    Path(f"{folder}/drawn-{group.rank}.json").write_text(
        json.dumps([drawn, looked]), encoding="utf-8"
    )


def prepared(recipe, path: Path) -> None:
    """A run directory from which ranks begin at the first step."""
    train(replace(recipe, stop=1), path)
    replace(RunDirectory(path).recipe(), stop=recipe.stop).save(path / "recipe.yaml")
    shutil.rmtree(path / "checkpoints")
    for name in ("model.safetensors", "outcome.json"):
        (path / name).unlink()


def preferences(recipe, folder: Path):
    """A recipe of pairs whose ranks have different numbers of them, from what was trained as `one`."""
    lines = [
        {"prompt": f"q{i}", "chosen": f"{i}" * (1 + i % 5), "rejected": "no"} for i in range(20)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tokenizer = load_tokenizer(folder / "one" / "tokenizer.json")
    corpus = build_examples(folder / "pairs", [folder / "pairs.jsonl"], tokenizer, heldout=0.2)
    data = PreferencesData(corpus=str(corpus.path), sequence=24)
    recipe = replace(recipe, data=data, start=str(folder / "one"), batch=2, steps=3)
    alone = open_dataset(replace(recipe, micro_batch=1), corpus).step(0)
    assert len({int(batch.counted.sum()) for batch in alone}) == 2
    return recipe


def test_two_ranks_train_as_one_and_draw_their_own(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "right", even)
    recipe = replace(
        recipe,
        optimiser=replace(recipe.optimiser, clip=0.5, z_loss=1e-3),
        checkpoints=Checkpoints(every=1, keep_every=1),
    )
    dropping = replace(recipe, model=replace(recipe.model, dropout=0.3), micro_batch=1, steps=3)
    train(recipe, tmp_path / "one")
    prepared(recipe, tmp_path / "plain")
    prepared(dropping, tmp_path / "dropping")
    preferring = preferences(recipe, tmp_path)
    data = QuestionsData(corpus=preferring.data.corpus, sequence=24, answer_tokens=12, group=6)
    others = {"preferring": preferring, "reinforcing": replace(preferring, data=data)}
    for name, other in others.items():
        train(other, tmp_path / f"{name}-one")
        prepared(other, tmp_path / name)
    in_ranks(as_rank, 2, str(tmp_path))

    # One training, from the first step on.
    for kind in others:
        ones, twos = (RunDirectory(tmp_path / name).records() for name in (f"{kind}-one", kind))
        times = {"seconds", "tokens_per_second", "flops_utilisation", "memory"}
        for a, b in zip(ones, twos, strict=True):
            for name in a.keys() - times:
                assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), (kind, name)
    assert len({r["reward"] for r in ones}) > 1  # there is something to sum
    ones, twos = (RunDirectory(tmp_path / name).records() for name in ("one", "plain"))
    for a, b in zip(ones, twos, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
        assert a["tokens"] == b["tokens"]
        if "heldout_loss" in a:
            assert a["heldout_loss"] == pytest.approx(b["heldout_loss"], rel=1e-5)
    assert ones[0]["gradient_norm"] > 0.5
    one, two = (
        load_tensors(tmp_path / name / "checkpoints" / "step-00000001" / OPTIMISER)
        for name in ("one", "plain")
    )
    moments = [name for name in one if name.endswith(".exp_avg")]
    for name in moments:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-7)
    length = math.sqrt(sum(float(two[name].double().square().sum()) for name in moments))
    assert length == pytest.approx(0.1 * 0.5, rel=1e-3)  # (1 - beta1) times the clipped length

    # Noise of its own for every rank, step and part.
    (first, looked), (second, looked_too) = (
        json.loads((tmp_path / f"drawn-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert len(first) == len(second) == 3 * 2
    assert len({*first, *second}) == 12
    assert sum(looked) + sum(looked_too) == 512 // 32  # every held-out window once
