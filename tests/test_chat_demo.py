"""From a base to a model that answers: what it learns from, its stations' scores, going on."""

import json
from dataclasses import replace

import pytest
from conftest import command, refused, same_steps

from maquette.training.observer import Quiet
from maquette.training.recipe import language
from maquette.training.run import RunDirectory
from maquette.workshop import chat_demo as way
from maquette.workshop.chat_data import WORLDS, heldout_questions, small_talk
from maquette.workshop.train import train
from maquette.worlds.questions.registry import question_world


@pytest.fixture
def base(recipe, tmp_path, monkeypatch):
    """A run of a context that questions fit, and few questions."""
    for name, value in {
        "LEAST_STEPS": 6,
        "ASKED": 2,
        "QUESTIONS": ("Hello!", "Who are you?"),
    }.items():
        monkeypatch.setattr(way, name, value)
    recipe = replace(
        recipe,
        model=replace(recipe.model, context=160),
        data=replace(recipe.data, sequence=160),
        steps=3,
    )
    train(recipe, tmp_path / "demo")
    return tmp_path / "demo"


@pytest.mark.parametrize("world", WORLDS, ids=lambda one: one.world)
def test_what_is_asked_of_a_world_is_what_it_asks(world):
    """With its right answer, and the held-out side apart from the other."""
    for side in ("train", "heldout"):
        asked = list(question_world(world.world).stream(20, 0, side))
        examples = list(world.examples(20, side))
        assert all(one.heldout == (side == "heldout") for one in examples)
        for one, question in zip(examples, asked, strict=True):
            assert question.answer.startswith(one.answer)
            left = [w for w in ("Q:", "A:", "Answer:", "Sentiment:", "Output:") if w in one.prompt]
            assert not left, one.prompt
    sides = [{one.prompt for one in world.examples(60, side)} for side in ("train", "heldout")]
    assert not sides[0] & sides[1]


def test_the_way_to_chat_and_its_report(base):
    said = command("demo", "--chat", "--resume", "--run", base, "--minutes", "0.05", "--json")
    assert said.code == 0, said.err
    made = said.json["chat"]
    assert [station["name"] for station in made["stations"]] == ["base", "tuned"]
    groups = made["stations"][1]["groups"]
    assert groups.keys() == heldout_questions(2).keys()
    assert groups["arithmetic"]["examples"] == 4  # two worlds
    assert "arithmetic, right of 4" in said.err
    tuned = RunDirectory(base.with_name("demo-chat"))
    assert tuned.recipe().start == str(base)
    report = (tuned / "report.html").read_text(encoding="utf-8")
    kept = json.loads((tuned / "chat.json").read_text(encoding="utf-8"))
    for name, *values in kept["rows"]:
        assert name in report
        assert all(value in report for value in values)
    assert "Who are you?" in report
    text = [station["bits_per_byte"]["mean"] for station in made["stations"]]
    assert text[0] != text[1]
    answer = command("chat", tuned.path, "Hello!", "--tokens", 8, "--json")
    assert answer.json["learnt"] is True
    refused(
        command("demo", "--resume", "--run", base),
        "was not begun by maquette demo",
        "train --resume",
        code=2,
    )
    again = ("demo", "--chat", "--run", base)
    refused(command(*again), "demo-chat exists", "--resume", code=2)  # before minutes of training
    refused(command(*again, "notes", "--resume"), "goes on with its own text", "notes", code=2)


class Cut(Quiet):
    """An observer that is killed at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, record):
        if record["step"] == self.at:
            raise RuntimeError("killed")


def test_stations_that_were_cut_off_go_on_to_the_same_model(base, monkeypatch):
    """The tuning, and the base before it."""
    monkeypatch.setattr(way, "score_both", lambda *given: [])
    monkeypatch.setattr(way, "page", lambda *given: {"stations": [], "rows": [], "note": ""})
    way.chat_demo(base, base.with_name("whole"), seconds=0.001)
    begun = base.with_name("begun")
    with pytest.raises(RuntimeError, match="killed"):
        train(language(RunDirectory(base).recipe()), begun, observer=Cut(2))
    assert not RunDirectory(begun).finished
    with pytest.raises(RuntimeError, match="killed"):
        way.chat_demo(begun, base.with_name("cut"), seconds=0.001, resume=True, observer=Cut(5))
    way.chat_demo(begun, base.with_name("cut"), seconds=0.001, resume=True)
    for one, other in ((base, begun), (base.with_name("whole"), base.with_name("cut"))):
        same_steps(RunDirectory(one).records(), RunDirectory(other).records())
        assert RunDirectory(one).weights.read_bytes() == RunDirectory(other).weights.read_bytes()


def test_small_talk_is_true(base):
    answers = {one.prompt: one.answer for one in small_talk(RunDirectory(base))}
    size = RunDirectory(base).recipe().model.parameters()
    assert f"{size / 1e6:.1f} million parameters" in answers["Who are you?"]
    assert "stories and code" in answers["What were you trained on?"]
