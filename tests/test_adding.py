"""The page of what can be added, followed: its code, in a folder, trains; no file of the house knows it."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import command

import maquette.systems
from maquette.corpus import open as corpora
from maquette.experiments import catalogue
from maquette.models import registry
from maquette.training import learner
from maquette.training.datasets import config as data_config
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
    tables = (corpora.KINDS, registry.KINDS, data_config.KINDS, learner.LEARNERS, kinds.KINDS)
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
