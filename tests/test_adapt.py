"""Adapting a classifier: what changes, what does not, how it is counted, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command, refused

from maquette.adaptation.adapters.store import ADAPTER, ADAPTER_WEIGHTS
from maquette.adaptation.methods import METHODS, TEXT, adapter_of, count
from maquette.adaptation.recipes import AdaptOptions
from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import wilson
from maquette.evaluation.classify import accuracy
from maquette.models.cnn_config import CNNConfig
from maquette.models.store import WEIGHTS, load_tensors, tensors_of
from maquette.models.vit_config import ViTConfig
from maquette.nn.rules import Parametrisation
from maquette.training import optimiser
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.initial_model import make_model
from maquette.training.recipe import Optimiser
from maquette.workshop import adapt as workshop
from maquette.workshop.adapt import adapt
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.train import train
from maquette.worlds.shapes import Shapes

WORLD = Shapes(objects=1, colours=3, shapes=2)
OTHER = Shapes(objects=3, colours=2, shapes=2, counts=True)
MODEL = ViTConfig(
    image_size=16,
    patch=8,
    width=32,
    depth=2,
    heads=2,
    classes=(3, 2),
    parametrisation=Parametrisation(base_width=32, base_depth=2, base_head_dim=16),
)


def base_recipe(model=MODEL) -> PictureRecipe:
    return PictureRecipe(
        name="base",
        steps=40,
        batch=32,
        precision="fp32",
        model=model,
        data=PictureData(image_size=16, world=WORLD),
        optimiser=Optimiser(learning_rate=0.003, beta2=0.99),
        watch=PictureWatch(every=40, pictures=64, grid=0, report=False),
    )


SHARED = (
    "run base method adapter trained_parameters base_parameters metric metric_before metric_after "
    "stderr_before stderr_after scored forgetting minutes peak_memory learning_rate weight_decay"
).split()
"""what every adaptation says, of pictures and of endpoints too"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "base"
    train(base_recipe(), path)
    return path


def quick(method: str, base: Path, path: Path, *, sweep=False, resume=False, **changes):
    data = PictureData(image_size=16, world=OTHER, count=40)
    settings = {"labels": ("count",), "steps": 4, "batch": 16, "prompts": 3, "rank": 2}
    options = AdaptOptions(method, **(settings | changes))
    return adapt(base, data, path, options, sweep=sweep, resume=resume, pictures=50)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in TEXT])
def test_what_is_frozen_stays_and_what_is_counted_changes(base, tmp_path, method):
    """Bit for bit; an adapted run begins with the base's weights, and keeps none of them."""
    before, files = load_tensors(base / WEIGHTS), {p.name for p in base.iterdir()}
    done = quick(method, base, tmp_path / "run")
    assert {p.name for p in base.iterdir()} == files
    kept = load_tensors(tmp_path / "run" / (WEIGHTS if method == "full" else ADAPTER_WEIGHTS))
    after = tensors_of(load_pictures(tmp_path / "run").model)
    changed = heads = 0
    for name, tensor in kept.items():
        assert torch.equal(tensor, after[name]), name
        if name.startswith("heads."):
            heads += tensor.numel()
            assert name.startswith("heads.count-")
        else:
            assert method == "full" or name.startswith("adapters."), name
            changed += tensor.numel()
    for name, tensor in before.items():
        if not name.startswith("heads."):
            assert torch.equal(tensor, after[name]) is (method != "full"), name
    assert done.counted.trained == changed
    assert done.counted.heads == heads == 32 * 3 + 3
    assert done.counted.base == sum(t.numel() for n, t in before.items() if "heads" not in n)
    if method in ("linear", "vpt-shallow", "vpt-deep"):
        assert changed == {"linear": 0, "vpt-shallow": 96, "vpt-deep": 192}[method]
    written = json.loads((tmp_path / "run" / "adaptation.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(done.to_dict()))
    assert {field for field in SHARED if field not in written} == set()
    assert written["adapter"] == method and written["stderr_after"] is not None


def test_every_parameter_that_learns_moves(base, tmp_path):
    """Deep prompts of every block and both halves of every low-rank change leave their start."""
    for method, name in (("vpt-deep", "prompt"), ("lora", "lora"), ("adapter", "bottleneck")):
        path = tmp_path / method
        done = quick(method, base, path)
        first = dict(make_model(done.recipe).named_parameters())
        after = load_tensors(path / ADAPTER_WEIGHTS)
        wanted = {n for n in after if n.startswith(f"adapters.{name}.")}
        assert wanted and all(not torch.equal(first[n], after[n]) for n in wanted)
        if method == "vpt-deep":
            (only,) = wanted
            assert bool((first[only] != after[only]).flatten(1).any(1).all())


@pytest.mark.parametrize("method", ["vpt-deep", "full"])
def test_cut_off_at_a_step_it_goes_on_to_the_same_end(method, base, tmp_path, monkeypatch):
    whole = quick(method, base, tmp_path / "whole").to_dict()
    calls, original = [], optimiser.set_learning_rate

    def dying(*given):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("cut off")
        return original(*given)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="cut off"):
        patch.setattr(optimiser, "set_learning_rate", dying)
        quick(method, base, tmp_path / "cut")
    with pytest.raises(WrongUse, match="go on with --resume"):
        quick(method, base, tmp_path / "cut")
    again = quick(method, base, tmp_path / "cut", resume=True).to_dict()
    own = {"run": "", "minutes": 0, "peak_memory": 0}
    assert whole | own == again | own


def test_heads_go_on_where_the_labels_are_the_same(base, tmp_path):
    """The base reads its own labels before any step; of another task it knows nothing."""
    data = PictureData(image_size=16, world=WORLD, count=40)
    done = adapt(base, data, tmp_path / "same", AdaptOptions("linear", steps=1), pictures=200)
    own = data.open_corpus().split("heldout", 16)
    model = base_recipe().model.build()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(load_tensors(base / WEIGHTS)[name])
    assert done.accuracies[0].all == accuracy(model, own, pictures=200).all
    assert done.accuracies[0].factors["colour"].value > 0.5
    assert list(done.accuracies[1].factors) == ["colour", "shape"]
    other = quick("linear", base, tmp_path / "other")
    labels = other.recipe.data.open_corpus().split("heldout", 16).labels(np.arange(50))
    assert other.accuracies[0].all.right == int(
        (labels[:, 2] == 0).sum()
    )  # heads of 0 say the first class


def test_accuracy_counts_exact_matches(base):
    """Against the definition: all factors right, each factor right, Wilson's interval."""
    corpus = PictureData(image_size=16, world=WORLD).open_corpus()
    split = corpus.split("heldout", 16)
    model = base_recipe().model.build().initialise(3)
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.normal_()
    found = accuracy(model, split, names=corpus.label_names, pictures=30, first=5, batch=7)
    places = np.arange(5, 35)
    x = torch.from_numpy(split.pictures(places)).permute(0, 3, 1, 2) / 127.5 - 1
    guesses = torch.stack([one.argmax(1) for one in model.eval()(x)], 1).numpy()
    hits = guesses == split.labels(places)
    assert found.all.right == int(hits.all(1).sum()) and found.all.n == 30
    assert [s.right for s in found.factors.values()] == hits.sum(0).tolist()
    assert found.all.interval == wilson(found.all.right, 30)


def test_a_sweep_takes_the_best_and_the_smallest_rate_of_equals(base, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "FACTORS", (2.0**-30, 1.0))
    monkeypatch.setattr(workshop, "DECAYS", (0.0, 0.01))
    done = quick("linear", base, tmp_path / "run", sweep=True, learning_rate=0.02)
    low = 0.02 * 2.0**-30
    tried = [(t.learning_rate, t.weight_decay) for t in done.trials]
    assert tried == [(low, 0.0), (low, 0.01), (0.02, 0.0), (0.02, 0.01)]
    best = max(t.right for t in done.trials)
    first = next(t for t in done.trials if t.right == best)
    own = done.recipe.optimiser
    assert (own.learning_rate, own.weight_decay) == (first.learning_rate, first.weight_decay)
    assert done.recipe.data.count == 40  # trained again on all of them
    assert not (tmp_path / "run-sweep").exists()


def test_a_sweep_touches_no_folder_of_anothers(base, tmp_path, monkeypatch):
    mine = tmp_path / "run-sweep" / "mine" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("kept", encoding="utf-8")
    monkeypatch.setattr(workshop, "train_many", lambda jobs, say: pytest.fail("trained"))
    with pytest.raises(WrongUse, match="mine is in the way of the sweep's runs: move it"):
        quick("linear", base, tmp_path / "run", sweep=True, learning_rate=0.02)
    assert mine.read_text(encoding="utf-8") == "kept"


def test_the_command_says_what_it_did(base, tmp_path):
    said = command(
        "adapt", "vpt-deep", base, "shapes", "--run", tmp_path / "run", "--label", "count",
        "--world.objects", "3", "--world.counts", "true", "--world.colours", "2",
        "--examples", "30", "--steps", "3", "--batch", "8", "--prompts", "2", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    result = said.json
    assert {"run", "trained_parameters", "metric_before", "metric_after"} <= result.keys()
    assert result["trained_parameters"] == 2 * 2 * 32
    assert result["run"] == str(tmp_path / "run")
    assert "128 trained parameters" in said.err and "heads left out" in said.err
    assert (tmp_path / "run" / ADAPTER).exists()


def test_what_cannot_be_adapted_is_refused_in_one_line(base, trained, tmp_path):
    """A run of text, an unknown method or label, no labels, a run that is there, a setting that is not."""
    shapes = ("shapes", "--run", tmp_path / "run", "--steps", "1")
    refused(command("adapt", "linear", trained, *shapes), "not for a run of text", code=2)
    refused(command("adapt", "vpt-dep", base, *shapes), "vpt-deep", code=2)
    refused(command("adapt", "linear", base, *shapes, "--label", "colr 1"), "colour 1", code=2)
    refused(command("adapt", "linear", base, "moon", *shapes[1:]), "no labels", code=2)
    refused(command("adapt", "linear", base, "shapes", "--run", base), "exists", code=2)
    refused(command("adapt", "linear", tmp_path / "none", *shapes), "does not exist", code=1)
    refused(command("adapt", "linear", base, tmp_path / "none", *shapes[1:]), "no corpus", code=1)
    refused(command("adapt", "linear", base, *shapes, "--world.objects", "9"), "objects", code=2)
    refused(command("adapt", "linear", base, *shapes, "--world.objects", "x"), "objects", code=2)
    refused(command("adapt", "vpt-deep", base, *shapes, "--prompts", "0"), "prompts", code=2)
    assert not (tmp_path / "run").exists()


def test_prompts_and_low_rank_changes_need_a_transformer(base, tmp_path):
    cnn = CNNConfig(image_size=16, width=8, depth=1, classes=(3, 2))

    def of(method):
        return adapter_of(method, "pictures", length=2, size=2)

    assert count(cnn, of("linear")).trained == 0
    biases = [p.numel() for n, p in cnn.build().named_parameters() if n.endswith("bias")]
    heads = [p.numel() for n, p in cnn.build().heads.named_parameters() if n.endswith("bias")]
    assert count(cnn, of("bias")).trained == sum(biases) - sum(heads)
    for method in ("vpt-deep", "vpt-shallow", "lora", "adapter"):
        with pytest.raises(WrongUse, match="this run is a cnn: use .*bias or full"):
            count(cnn, of(method))
    with pytest.raises(WrongUse, match="prefix is not for a run of pictures"):
        of("prefix")
    quick("linear", base, tmp_path / "first")
    with pytest.raises(UserError, match="is an adapted run and keeps no whole model"):
        quick("vpt-deep", tmp_path / "first", tmp_path / "second")
    with pytest.raises(UserError):
        adapt(Path("nowhere"), PictureData(), Path("nothing"), AdaptOptions("linear"))


def test_every_setting_of_the_world_is_a_flag():
    """They are listed, because --help imports nothing heavy."""
    from dataclasses import fields

    from maquette.cli.adapt import WORLD
    from maquette.worlds.shapes import Shapes

    assert tuple(f.name for f in fields(Shapes)) == WORLD
