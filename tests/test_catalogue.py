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
from maquette.experiments import catalogue, lab
from maquette.experiments.claims import Claim, Measurement, claim
from maquette.experiments.gallery import gallery
from maquette.experiments.lab import Lab
from maquette.experiments.results import measure, results

NEW = '''
"""Invented: a system that exists for a test.

The rest of its docstring.
"""
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
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
def folder(tmp_path, monkeypatch):
    """An empty folder of systems; what is written into it is scanned, and nothing else changes."""
    (tmp_path / "more").mkdir()
    monkeypatch.setenv("MAQUETTE_SYSTEMS", str(tmp_path / "more"))
    monkeypatch.setattr(maquette.systems, "__path__", [*maquette.systems.__path__])
    importlib.invalidate_caches()
    catalogue.systems.cache_clear()
    yield tmp_path / "more"
    catalogue.systems.cache_clear()
    sys.modules.pop("maquette.systems.invented", None)


@pytest.fixture
def invented(folder, monkeypatch):
    """A system in a folder of the user's own."""
    (folder / "invented.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(lab, "_commit", lambda: "0123456789ab")  # whatever is being edited here
    return folder.parent


def test_names_that_are_taken_and_folders_that_are_not_there_are_refused(folder, monkeypatch):
    (folder / "tiny.py").write_text(NEW, encoding="utf-8")
    said = command("systems")
    assert said.code == 2
    assert f"{folder}/tiny.py: " in said.err
    assert "systems/tiny.py has this name: rename the file" in said.err
    (folder / "tiny.py").rename(folder / "invented.py")
    (folder / "invented.py").write_text(NEW.replace("invented_small", "tiny"), encoding="utf-8")
    said = command("systems")
    assert said.code == 2
    assert "invented.py: tiny has a recipe tiny too: rename this one" in said.err
    monkeypatch.setenv("MAQUETTE_SYSTEMS", "nowhere")
    said = command("train", "tiny")
    assert said.code == 2
    assert "$MAQUETTE_SYSTEMS names nowhere, which is no folder" in said.err


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
    kept = json.loads((tmp_path / f"{result.id}.json").read_text(encoding="utf-8"))
    assert kept["holds"] is holds


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize(
    ("flags", "why"),
    [(["--quick"], "toy size"), (["--seeds", "1"], "1 of 2 seeds"), ([], "commit")],
)
def test_a_trial_never_replaces_a_measurement(invented, monkeypatch, flags, why):
    """At toy size, of fewer seeds, by code that no commit holds: the result is elsewhere."""
    monkeypatch.chdir(invented)
    monkeypatch.setenv("MAQUETTE_HOME", str(invented / "home"))
    assert command("reproduce", "invented").code == 0
    before = contents(Path("claims"))
    assert len(before) == 2
    if why == "commit":
        monkeypatch.setattr(lab, "_commit", lambda: "0123456789ab+")
    said = command("reproduce", "invented", *flags, "--json")
    assert said.code == 0, said.err
    assert contents(Path("claims")) == before
    assert "no evidence" in said.err
    for found in said.json["claims"]:
        assert Path(found["file"]).parent == invented / "home" / "trials"
        assert why in json.loads(Path(found["file"]).read_text(encoding="utf-8"))["trial"]

    said = command("reproduce", "invented", *flags, "--out", "claims")
    assert said.code == 2
    assert "is a full measurement" in said.err
    assert contents(Path("claims")) == before
    assert command("reproduce", "invented", *flags, "--out", "other").code == 0  # twice is no harm
    assert command("reproduce", "invented", *flags, "--out", "other").code == 0
    said = command("systems", "--claims", "other", "--gallery", "page.md", "--json")
    states = {k: v for s in said.json["systems"] for k, v in s["states"].items()}
    assert states["invented.two"] == states["invented.nine"] == "not measured"
    assert "Not measured yet: `maquette reproduce invented.two`" in Path("page.md").read_text(
        encoding="utf-8"
    )


def test_a_measurement_replaces_a_trial(invented, monkeypatch):
    monkeypatch.chdir(invented)
    assert command("reproduce", "invented.two", "--quick", "--out", "claims").code == 0
    assert results(Path("claims")) == {}
    assert command("reproduce", "invented.two").code == 0
    assert results(Path("claims"))["invented.two"].trial == ""


def test_a_measurement_that_was_cut_off_writes_nothing(tmp_path, monkeypatch):
    """Neither by a signal in the experiment, nor by a picture that cannot be drawn."""
    done = one(1.0, 9.0, at_most=2)
    measure(done, Lab(), tmp_path)
    before = contents(tmp_path)

    def stopped(lab: Lab) -> Measurement:
        raise KeyboardInterrupt

    def undrawn(lab: Lab) -> Measurement:
        return Measurement(value=2.0, control=4.0, chart="no chart")

    for function, error in ((stopped, KeyboardInterrupt), (undrawn, AttributeError)):
        with pytest.raises(error):
            measure(replace(done, function=function), Lab(), tmp_path)
        assert contents(tmp_path) == before


def test_words_in_a_terminal_have_no_stars(invented, monkeypatch):
    monkeypatch.chdir(invented)
    assert command("reproduce", "invented").code == 0
    said = command("systems")
    assert "two: holds, nine: fails" in said.out
    assert "*" not in said.out
    assert "**fails**" in command("systems", "--table").out


@pytest.mark.parametrize("seeds", ["0", "-1", "100000000"])
def test_seeds_that_cannot_be_are_refused(seeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command("reproduce", "gpt3", "--seeds", seeds)
    assert said.code == 2
    assert f"seeds is {seeds}: use 1 to 1000" in said.err


def test_a_claim_has_exactly_one_bar():
    with pytest.raises(AssertionError):
        one(1, 2)
    with pytest.raises(AssertionError):
        one(1, 2, at_most=1, at_least=1)


def test_every_system_opens_as_it_should():
    """Docstring with the paper, the command and what was scaled; every claim complete."""
    for system in catalogue.systems().values():
        if not system.claims:
            assert any(f"maquette train {name}" in system.doc for name in system.recipes)
        else:
            assert f"maquette reproduce {system.name}" in system.doc
            assert "Expected:" in system.doc
            assert "caled down" in system.doc
        for c in system.claims.values():
            assert c.statement
            assert c.source
            assert c.control
            assert 0 < c.minutes <= 25  # two seeds, with what the claim shares with others


@pytest.mark.slow
@pytest.mark.parametrize("name", [s for s, v in catalogue.systems().items() if v.claims])
def test_every_claim_runs_at_toy_size(name, tmp_path):
    """The same code as the real measurement; its number is marked as no evidence."""
    said = command("reproduce", name, "--quick", "--seeds", "1", "--out", tmp_path, "--json")
    assert said.code == 0, said.err
    for found in said.json["claims"]:
        kept = json.loads((tmp_path / f"{found['id']}.json").read_text(encoding="utf-8"))
        assert kept["quick"] is True
        assert (tmp_path / f"{found['id']}.png").read_bytes().startswith(b"\x89PNG")
    assert results(tmp_path) == {}


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
