"""The catalogue finds systems by itself; claims run, fail visibly, and cannot move their bar."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, command

import maquette
import maquette.systems
from maquette.systems import catalogue
from maquette.systems.claims import Claim, Lab, Measurement, claim, measure, results
from maquette.systems.gallery import catalogue_table, gallery

NEW = '''
"""Invented: a system that exists for a test.

The rest of its docstring.
"""
from maquette.systems.catalogue import recipe
from maquette.systems.claims import Lab, Measurement, claim
from maquette.training.recipe import Recipe


@recipe
def invented_small() -> Recipe:
    return Recipe(steps=3)


RECIPES = {f"invented-{n}": lambda n=n: Recipe(steps=n) for n in (8, 9)}


@claim(statement="two is at most three", source="Peano 1889", metric="two", at_most=3, control="four",
       minutes=0.01, evidence="exact count")
def two(lab: Lab) -> Measurement:
    return Measurement(value=2.0, control=4.0)


@claim(statement="nine is at most three", source="nobody", metric="nine", at_most=3, control="four",
       minutes=0.01)
def nine(lab: Lab) -> Measurement:
    return Measurement(value=9.0, control=4.0)
'''


@pytest.fixture
def invented(tmp_path, monkeypatch):
    """A new file in the package's path, and nothing else changed."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "invented.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(
        maquette.systems, "__path__", [*maquette.systems.__path__, str(tmp_path / "more")]
    )
    importlib.invalidate_caches()
    catalogue.systems.cache_clear()
    yield tmp_path
    catalogue.systems.cache_clear()
    sys.modules.pop("maquette.systems.invented", None)


def test_a_new_file_is_a_new_system(invented, monkeypatch):
    monkeypatch.chdir(invented)
    said = command("systems", "--json")
    (found,) = [s for s in said.json["systems"] if s["name"] == "invented"]
    assert found["title"] == "Invented: a system that exists for a test."
    assert found["recipes"] == ["invented-8", "invented-9", "invented-small"]
    assert catalogue.recipe_named("invented-9").steps == 9
    assert catalogue.recipe_named("invented-9").name == "invented-9"
    assert found["claims"] == ["invented.two", "invented.nine"]
    assert catalogue.recipe_named("invented-small").steps == 3
    assert "The rest of its docstring" in command("systems", "invented").out


def test_claims_are_measured_and_failures_are_shown_as_failures(invented, monkeypatch):
    monkeypatch.chdir(invented)
    said = command("reproduce", "invented", "--json")
    assert said.code == 0, said.err
    by_id = {c["id"]: c for c in said.json["claims"]}
    assert by_id["invented.two"]["holds"] is True
    assert by_id["invented.nine"]["holds"] is False
    assert "FAILS" in said.err
    kept = json.loads(Path("claims/invented.nine.json").read_text(encoding="utf-8"))
    assert kept["holds"] is False
    assert {
        "measured",
        "interval",
        "threshold",
        "seeds",
        "seconds",
        "commit",
        "processor",
        "evidence",
    } <= kept.keys()
    command("systems", "--gallery", "docs/claims.md")
    page = Path("docs/claims.md").read_text(encoding="utf-8")
    assert "## `invented.nine`: **fails**" in page
    assert "| `invented.two` | two is at most three | 2 (at most 3) | holds |" in page
    assert "Not measured yet" in page  # the real claims


def one(value: float, control: float, **bound: float) -> Claim:
    def experiment(lab: Lab) -> Measurement:
        return Measurement(value=value, control=control)

    return claim(statement="s", source="s", metric="m", control="c", minutes=1, **bound)(experiment)


@pytest.mark.parametrize(
    ("value", "control", "bound", "holds"),
    [
        (1.0, 9.0, {"at_most": 2}, True),
        (3.0, 9.0, {"at_most": 2}, False),
        (1.0, 1.5, {"at_most": 2}, False),  # a control that passes too proves nothing
        (9.0, 1.0, {"at_least": 2}, True),
        (1.0, 0.0, {"at_least": 2}, False),
        (float("nan"), 9.0, {"at_most": 2}, False),
        (1.0, float("inf"), {"at_most": 2}, True),
    ],
)
def test_a_claim_holds_when_it_meets_its_bar_and_its_control_does_not(
    value, control, bound, holds, tmp_path
):
    result = measure(one(value, control, **bound), Lab(), tmp_path)
    assert result.holds is holds
    assert results(tmp_path)[result.id].holds is holds


def test_a_claim_has_exactly_one_bar():
    with pytest.raises(AssertionError):
        one(1, 2)
    with pytest.raises(AssertionError):
        one(1, 2, at_most=1, at_least=1)


def test_every_system_opens_as_it_should():
    """Docstring with the paper, the command and what was scaled; every claim complete."""
    for system in catalogue.systems().values():
        assert f"maquette {'reproduce' if system.claims else 'train'} {system.name}" in system.doc
        if system.claims:
            assert "Expected:" in system.doc
            assert "caled down" in system.doc
        for c in system.claims.values():
            assert c.statement
            assert c.source
            assert c.control
            assert 0 < c.minutes <= 25  # two seeds, with what the claim shares with others


@pytest.mark.claims
@pytest.mark.parametrize("name", [s for s, v in catalogue.systems().items() if v.claims])
def test_every_claim_runs_at_toy_size(name, tmp_path):
    """The same code as the real measurement; its number is marked as no evidence."""
    said = command("reproduce", name, "--quick", "--seeds", "1", "--out", tmp_path, "--json")
    assert said.code == 0, said.err
    for found in said.json["claims"]:
        kept = json.loads((tmp_path / f"{found['id']}.json").read_text(encoding="utf-8"))
        assert kept["quick"] is True
        assert (tmp_path / f"{found['id']}.png").read_bytes().startswith(b"\x89PNG")
    assert "toy size" in catalogue_table(results(tmp_path))


def test_no_two_systems_offer_a_recipe_of_the_same_name():
    offered = [name for system in catalogue.systems().values() for name in system.recipes]
    assert len(offered) == len(set(offered)) == len(catalogue.recipes())
    assert {"gpt3-175b", "palm-540b", "llama-65b", "bloom-176b", "gptj-6b"} <= set(offered)


def test_a_base_is_trained_once(tmp_path):
    from maquette.systems.tiny import tiny

    said = []
    recipe = replace(tiny(), steps=5)
    lab = Lab(say=said.append)
    first = lab.train_all([recipe, replace(recipe, seed=1), recipe])
    assert first[0] == first[2] != first[1]
    assert len(said) == 2
    assert lab.train_all([recipe, replace(recipe, seed=1)]) == first[:2]
    assert len(said) == 2


def test_the_committed_page_is_what_the_code_generates(tmp_path):
    page = ROOT / "docs" / "claims.md"
    before = page.read_text(encoding="utf-8")
    gallery(tmp_path / "docs" / "claims.md", ROOT / "claims")
    written = (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    assert _without_links(written) == _without_links(before), "run make docs"


def _without_links(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("![")]


def test_the_python_face_reproduces(invented, monkeypatch):
    monkeypatch.chdir(invented)
    found = maquette.reproduce("invented.two")
    assert [r.holds for r in found] == [True]
