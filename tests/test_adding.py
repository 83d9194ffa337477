"""The page of what can be added, followed: its code, in a folder, trains; no file of the house knows it."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import command

import maquette.systems
from maquette.adaptation.adapters import config as adapters
from maquette.adaptation.adapters.adapter import adapters_of
from maquette.corpus import open as corpora
from maquette.experiments import catalogue
from maquette.models import registry
from maquette.models.store import load_tensors
from maquette.training import learner
from maquette.training.datasets import config as data_config
from maquette.training.trained_model import open_model
from maquette.workshop import kinds

PAGE = Path(__file__).parent.parent / "docs" / "adding.md"


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """The page's code as a file of a folder that `$MAQUETTE_SYSTEMS` names."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "counting.py").write_text("\n".join(code), encoding="utf-8")
    monkeypatch.setenv("MAQUETTE_SYSTEMS", str(tmp_path / "more"))
    monkeypatch.setattr(maquette.systems, "__path__", [*maquette.systems.__path__])
    importlib.invalidate_caches()
    tables = (
        corpora.KINDS,
        registry.KINDS,
        data_config.KINDS,
        learner.LEARNERS,
        kinds.KINDS,
        adapters.KINDS,
    )
    before = [dict(table) for table in tables]
    catalogue.systems.cache_clear()
    yield tmp_path
    catalogue.systems.cache_clear()
    sys.modules.pop("maquette.systems.counting", None)
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def test_what_the_page_adds_trains_goes_on_and_is_reported(counting):
    run = counting / "run"
    half = command("train", "counting", "--run", run, "--stop", 20, "--json")
    assert half.code == 0, half.err
    said = command("train", "counting", "--run", run, "--resume", "--stop", "None", "--json")
    assert said.code == 0, said.err
    assert said.json["step"] == 40 and said.json["rows"] == 320
    assert (run / "report.html").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    whole = command("train", "counting", "--run", counting / "whole", "--json")
    assert whole.json["loss"] == said.json["loss"]
    assert (run / "model.safetensors").read_bytes() == (
        counting / "whole" / "model.safetensors"
    ).read_bytes()


def test_flags_of_what_was_added_are_fields(counting):
    said = command("train", "counting", "--run", counting / "a", "--model.width", 2, "--steps", 2)
    assert said.code == 0, said.err
    said = command("train", "counting", "--run", counting / "b", "--model.widht", 2)
    assert said.code == 2 and "did you mean 'model.width'" in said.err


def test_two_ranks_find_it_too(counting):
    said = command("train", "counting", "--run", counting / "two", "--ranks", 2, "--json")
    assert said.code == 0, said.err
    one = command("train", "counting", "--run", counting / "one", "--json")
    assert said.json["loss"] == pytest.approx(one.json["loss"], rel=1e-3)


def test_an_adapter_of_the_page_trains_alone_goes_on_and_is_opened(counting):
    """The run keeps its one number, and the opened model is the base with it."""
    base, run = counting / "base", counting / "adapted"
    assert command("train", "counting", "--run", base, "--steps", 4).code == 0
    recipe = (base / "recipe.yaml").read_text(encoding="utf-8")
    assert "adapter: null" in recipe and "start: ''" in recipe
    recipe = recipe.replace("adapter: null", "adapter: {kind: gain}")
    (counting / "r.yaml").write_text(
        recipe.replace("start: ''", f"start: {base}").replace("average: 0.0", "average: 0.5"),
        encoding="utf-8",
    )
    half = command("train", counting / "r.yaml", "--run", run, "--steps", 20, "--stop", 10)
    assert half.code == 0, half.err
    said = command("train", "--run", run, "--resume", "--stop", "None", "--steps", 20, "--json")
    assert said.code == 0, said.err
    whole = command("train", counting / "r.yaml", "--run", counting / "w", "--steps", 20, "--json")
    assert whole.json["loss"] == said.json["loss"]
    kept = load_tensors(run / "adapter.safetensors")
    assert set(kept) == {"adapters.gain.gain"} and bool(kept["adapters.gain.gain"].any())
    model, plain = open_model(run), open_model(base)
    x = torch.arange(6.0).view(2, 3)
    added = kept["adapters.gain.gain"] * x.sum(-1, keepdim=True)
    assert torch.allclose(model.output(x), plain.output(x) + added)
    assert all(torch.equal(model.get_parameter(n), p) for n, p in plain.named_parameters())
    adapters_of(model)["gain"].weight = 0
    assert torch.equal(model.output(x), plain.output(x))
