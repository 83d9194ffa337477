"""Runs with an adapter: what they keep, that they resume, whose base they want, how they are used."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import command, refused, same_steps
from test_training import KILL

import maquette
from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.config import (
    BiasConfig,
    BottleneckConfig,
    LoRAConfig,
    PrefixConfig,
    PromptConfig,
)
from maquette.adaptation.adapters.store import ADAPTER, ADAPTER_WEIGHTS
from maquette.base.errors import UserError
from maquette.models.store import WEIGHTS, load_tensors, tensors_of
from maquette.serving.sampler import Sampling
from maquette.training.recipe import recipe_from
from maquette.training.run import RunDirectory
from maquette.training.trained_model import open_model
from maquette.workshop.load import load
from maquette.workshop.train import train

LORA = LoRAConfig(rank=2, alpha=4.0)


@pytest.fixture
def adapted(recipe, trained):
    """A recipe that adapts the trained run."""
    return replace(recipe, start=str(trained), adapter=LORA, name="adapted")


def records(path):
    return RunDirectory(path).records()


@pytest.mark.parametrize(
    "adapter",
    [LORA, BiasConfig(), BottleneckConfig(size=3), PromptConfig(length=3), PrefixConfig(length=3)],
    ids=lambda adapter: adapter.kind,
)
def test_every_kind_learns_and_keeps_its_change_alone(adapter, adapted, trained, tmp_path):
    """The base is untouched, the loss falls, and the opened run is the base with the kept tensors."""
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    path = tmp_path / "run"
    train(replace(adapted, adapter=adapter), path)
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before
    assert not (path / WEIGHTS).exists()
    kept = load_tensors(path / ADAPTER_WEIGHTS)
    assert kept and all(name.startswith(f"adapters.{adapter.kind}.") for name in kept)
    for checkpoint in (path / "checkpoints").iterdir():
        assert set(load_tensors(checkpoint / "model.safetensors")) == set(kept)
    after, base = tensors_of(open_model(path)), load_tensors(trained / WEIGHTS)
    assert set(after) == set(base) | set(kept)
    assert all(torch.equal(after[n], t) for n, t in (base | kept).items())
    steps = records(path)
    assert steps[-1]["heldout_loss"] < records(trained)[-1]["heldout_loss"]


def test_a_p_tuned_run_drops_its_network_when_it_ends(adapted, trained, tmp_path):
    """Opened from its last checkpoint, network and all, it is the finished run; cut off, it goes on alike."""
    recipe = replace(adapted, adapter=PromptConfig(length=3, reparametrised=True), steps=6)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    assert set(load_tensors(whole / ADAPTER_WEIGHTS)) == {"adapters.prompt.vectors"}
    train(replace(recipe, stop=3), parts)
    checkpoint = next(iter((parts / "checkpoints").iterdir()))
    assert "adapters.prompt.network.output.weight" in load_tensors(checkpoint / "model.safetensors")
    train(recipe, parts, resume=True)
    names = (whole / ADAPTER_WEIGHTS, parts / ADAPTER_WEIGHTS)
    assert names[0].read_bytes() == names[1].read_bytes()
    x = torch.arange(9)[None]
    finished = open_model(whole)(x)
    attached = load(trained).attach("one", whole).model(x)
    (whole / ADAPTER_WEIGHTS).unlink()
    assert torch.allclose(open_model(whole)(x), finished, atol=1e-5)
    assert torch.allclose(attached, finished, atol=1e-5)


def test_killed_at_any_moment_and_resumed_is_the_uninterrupted_run(adapted, tmp_path):
    one = replace(adapted, optimiser=replace(adapted.optimiser, average=0.9))
    train(one, tmp_path / "whole")
    one.save(tmp_path / "r.yaml")
    words = [sys.executable, "-c", KILL, str(tmp_path / "r.yaml"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for moment in done.stdout.split():
        path = tmp_path / moment
        assert not RunDirectory(path).finished
        train(one, path, resume=True)
        same_steps(records(tmp_path / "whole"), records(path))
        for name in (ADAPTER_WEIGHTS, "checkpoints/step-00000012/optimiser.safetensors"):
            assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), moment


def test_another_base_is_refused_in_one_line_wherever_it_is_asked(adapted, trained, tmp_path):
    path = tmp_path / "run"
    train(replace(adapted, stop=4), path)
    weights = trained / WEIGHTS
    tensors = weights.read_bytes()
    weights.write_bytes(tensors[:-1] + bytes([tensors[-1] ^ 1]))
    refused(command("eval", path), "adapts another model than", "put its base there", code=1)
    refused(command("train", "--run", path, "--resume", "--stop", "None"), "adapts another", code=1)
    refused(command("generate", trained, "a", "--adapter", path), "adapts another model", code=1)
    weights.write_bytes(tensors)
    config = trained / "config.json"
    content = config.read_text(encoding="utf-8")
    config.write_text(content.replace('"rotary_base": 10000.0', '"rotary_base": 5000.0'), "utf-8")
    refused(command("generate", path, "a"), "adapts another model than", code=1)
    config.write_text(content, "utf-8")
    assert command("generate", path, "a", "--tokens", 2).code == 0


def test_a_base_is_found_where_it_was_beside_the_run_or_where_it_is_said_to_be(
    adapted, trained, tmp_path
):
    path = tmp_path / "run"
    train(adapted, path)
    said = load(path).generate("the", tokens=5)
    moved = tmp_path / "elsewhere" / "base"
    shutil.move(trained, moved)
    refused(command("generate", path, "the"), "is not at", "--base", code=1)
    assert load(path, moved).generate("the", tokens=5) == said
    assert maquette.load(path, base=moved).generate("the", tokens=5) == said
    assert command("generate", path, "the", "--base", moved, "--tokens", 5).code == 0
    shutil.move(path, moved.parent / "run")
    shutil.move(moved, moved.parent / trained.name)
    assert load(moved.parent / "run").generate("the", tokens=5) == said  # beside it
    plain = moved.parent / trained.name
    refused(command("generate", plain, "a", "--base", plain), "is no adapted run", code=2)


def test_an_adapted_run_is_a_recipe(adapted, tmp_path):
    assert recipe_from(adapted.to_dict(), "here") == adapted
    adapted.save(tmp_path / "r.yaml")
    said = command(
        "train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--adapter.rank", 3, "--json"
    )
    assert said.code == 0, said.err
    written = json.loads((tmp_path / "run" / ADAPTER).read_text(encoding="utf-8"))
    assert (tmp_path / "run" / "report.html").exists()
    assert written["adapter"]["kind"] == "lora" and written["adapter"]["rank"] == 3
    replace(adapted, adapter=None).save(tmp_path / "plain.yaml")
    flags = ("--adapter.kind", "prefix", "--adapter.length", 2, "--steps", 1)
    said = command("train", tmp_path / "plain.yaml", "--run", tmp_path / "flags", *flags)
    assert said.code == 0, said.err
    assert RunDirectory(tmp_path / "flags").recipe().adapter == PrefixConfig(length=2)
    refused(
        command("train", tmp_path / "plain.yaml", "--adapter.kind", "prefx"), "did you mean", code=2
    )
    for words in (("eval", tmp_path / "run"), ("runs", tmp_path / "run", tmp_path / "flags")):
        said = command(*words, "--json")
        assert said.code == 0 and said.json, said.err
    text = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    for wrong, part in (("kind: loar", "did you mean"), ("kind: lora\n  rnak: 2", "adapter.rnak")):
        (tmp_path / "w.yaml").write_text(text.replace("kind: lora", wrong), encoding="utf-8")
        refused(command("train", tmp_path / "w.yaml", "--run", tmp_path / "w"), part, code=2)
    (tmp_path / "w.yaml").write_text(text.replace("'*'", '"x.*"'), encoding="utf-8")
    refused(command("train", tmp_path / "w.yaml", "--run", tmp_path / "w"), "no linear map", code=2)


def test_groups_are_of_what_an_adapter_trains(adapted, trained, tmp_path):
    """Half of it from step 7 on; and no group sets the base free."""
    groups = (("*.blocks.0.*", 1.0, 0), ("adapters.*", 0.5, 6), ("*", 1.0, 3))
    one = replace(adapted, optimiser=replace(adapted.optimiser, groups=groups))
    for stop in (6, None):
        train(replace(one, stop=stop), tmp_path / "parts", resume=stop is None)
        kept = load_tensors(tmp_path / "parts" / ADAPTER_WEIGHTS)
        moved = {n: bool(t.any()) for n, t in kept.items() if n.endswith("lora_b")}
        for name, has in moved.items():
            assert has is (stop is None or ".blocks.0." in name), name
    train(one, tmp_path / "whole")
    a, b = (load_tensors(tmp_path / n / ADAPTER_WEIGHTS) for n in ("whole", "parts"))
    assert all(torch.equal(a[n], b[n]) for n in a)
    base, after = load_tensors(trained / WEIGHTS), tensors_of(open_model(tmp_path / "whole"))
    assert all(torch.equal(after[n], t) for n, t in base.items())


def test_sliders_mix_adapted_runs_of_one_base(adapted, trained, tmp_path):
    """From Python and from the command; alone, together, against each other, a row of its own each."""
    for name, seed in (("first", 1), ("second", 2)):
        train(replace(adapted, seed=seed), tmp_path / name)
    run = load(trained)
    plain = run.model(tokens := torch.arange(20)[None])
    run.attach("first", tmp_path / "first").attach("second", tmp_path / "second", -0.3)
    mixed = run.model(tokens)
    with run.weighted({"second": 0.0}):
        assert torch.equal(run.model(tokens), open_model(tmp_path / "first")(tokens))
    with run.weighted({"first": 0.0, "second": 0.0}):
        assert torch.equal(run.model(tokens), plain)
    assert torch.equal(run.model(tokens), mixed) and not torch.allclose(mixed, plain)
    greedy = Sampling(temperature=0.0)
    rows, _ = run.generate_batch(
        ["the"] * 3, tokens=12, sampling=greedy,
        adapters={"first": [0.0, 1.0, 0.7], "second": [0.0, 0.0, -0.3]},
    )  # fmt: skip
    for row, weights in zip(rows, ((0.0, 0.0), (1.0, 0.0), (0.7, -0.3)), strict=True):
        given = dict(zip(("first", "second"), weights, strict=True))
        alone, _ = run.generate_batch(["the"], tokens=12, sampling=greedy, adapters=given)
        assert row.text == alone[0].text
    said = command(
        "generate", trained, "the", "--adapter", "first=0.7", "--adapter",
        f"{tmp_path / 'second'}=-0.3", "--tokens", 12, "--temperature", 0, "--weights", "fp32",
        "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert said.json["text"] == rows[2].text
    both = load(tmp_path / "first").attach("second", tmp_path / "second", -0.3)
    assert set(both.adapters) == {"lora", "second"}
    for words, part in (
        (("first=x",), "x is no weight"), (("none=1",), "none does not exist"),
        ((trained,), "holds no adapter"), (("first", "--adapter", "first"), "cannot be called first"),
    ):  # fmt: skip
        refused(command("generate", trained, "a", "--adapter", *words), part)
    with pytest.raises(UserError, match="no adapter"):
        load(trained).attach("x", trained)


def test_a_merged_run_is_an_ordinary_one(adapted, tmp_path):
    train(adapted, tmp_path / "run")
    tokens = torch.arange(20)[None]
    wanted = open_model(tmp_path / "run")(tokens)
    said = command("adapt", "merge", tmp_path / "run", "--run", tmp_path / "merged", "--json")
    assert said.code == 0 and said.json["run"] == str(tmp_path / "merged"), said.err
    model = open_model(tmp_path / "merged")
    assert not adapters_of(model)
    assert torch.allclose(model(tokens), wanted, atol=1e-4)
    train(replace(adapted, start=str(tmp_path / "merged"), steps=2), tmp_path / "again")
    train(replace(adapted, adapter=PromptConfig(length=2), steps=2), tmp_path / "prompt")
    for words, part in (
        ((tmp_path / "prompt", "--run", tmp_path / "x"), "only lora can"),
        ((tmp_path / "merged", "--run", tmp_path / "x"), "nothing to merge"),
        ((tmp_path / "run", "--run", tmp_path / "merged"), "exists"),
    ):
        refused(command("adapt", "merge", *words), part, code=2)
    assert not os.path.exists(tmp_path / "x")
    refused(command("train", "tiny", "--start", tmp_path / "run"), "keeps no whole model", code=1)
