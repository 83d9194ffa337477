"""STaR: what is kept, that every loop begins with the base, and that a killed run is the one that was not."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import command, refused

from maquette.adaptation.star import Attempt, StarOptions, kept_records
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.results import is_right
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.models.config import DecoderConfig
from maquette.models.store import WEIGHTS, load_tensors
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.datasets.text_config import TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser
from maquette.training.run import RunDirectory
from maquette.workshop import adapt_star as star
from maquette.workshop.load import load
from maquette.workshop.train import train

OPTIONS = StarOptions(loops=2, steps=3, growth=2.0, tokens=10, batch=4, sequence=24)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that writes "\\n####1" to whatever it is asked."""
    folder = tmp_path_factory.mktemp("star")
    path = folder / "always.jsonl"
    lines = [{"prompt": f"{a}{b}=", "answer": "\n####1"} for a in "klmno" for b in "klmnopqr"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    corpus = build_examples(folder / "always", [path], byte_tokenizer())
    recipe = LanguageRecipe(
        model=DecoderConfig(
            vocabulary=257, context=32, width=32, depth=1, heads=2,
            parametrisation=Parametrisation(base_width=32, base_depth=1),
        ),
        data=ExamplesData(corpus=str(corpus.path), sequence=24),
        optimiser=Optimiser(learning_rate=0.01),
        watch=TextWatch(every=60, sample_tokens=0, report=False),
        precision="fp32",
        compile="off",
        batch=8,
        steps=60,
    )  # fmt: skip
    train(recipe, folder / "base")
    return folder / "base"


@pytest.fixture
def questions(tmp_path):
    """A hundred and twenty questions, of which every second has the answer 1."""
    path = tmp_path / "questions.jsonl"
    lines = [
        {"prompt": f"{a}{b}=", "answer": str(1 + i % 2)}
        for a in "abcdefghijkl"
        for i, b in enumerate("abcdefghij")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def scripted(monkeypatch, written):
    """Let `written(model, prompt)` say what a model writes."""

    def answers(model, tokenizer, prompts, kwargs, *, until, progress):
        return [written(model, tokenizer.decode(list(prompt))) for prompt in prompts], 0

    monkeypatch.setattr(star, "generate_answers", answers)


def test_the_answer_is_read_after_the_last_marker_whatever_its_letters():
    options = StarOptions(answer_after="So:")
    assert is_right("a So: b So:  Yes \n", "Yes", "So:") and not is_right("Yes", "Yes", "So:")
    assert is_right("because So: yEs", "Yes", "So:") and not is_right("So: yes!", "yes", "So:")
    assert is_right("So: a  b", "thus So: A b", "So:")  # an answer with its own reasons
    assert options.hinted("{answer}?", "7") == "{answer}? (7)"  # braces in a question are its own
    assert replace(options, hint="[{answer}] {prompt}").hinted("q", "7") == "[7] q"
    assert [StarOptions().steps_of(loop) for loop in (1, 2, 3, 8)] == [40, 48, 58, 143]


def test_what_reached_the_answer_is_kept_without_its_hint():
    attempts = [
        Attempt("a", "1", "x####1", True),
        Attempt("b", "2", "x####1", False, "y####2"),
        Attempt("c", "3", "x####1", False),
    ]
    assert kept_records(attempts) == [
        {"prompt": "a", "answer": "x####1"},
        {"prompt": "b", "answer": "y####2"},
    ]


def test_failures_are_asked_again_with_the_answer_and_the_base_learns_what_was_kept(
    base, questions, tmp_path, monkeypatch
):
    """Loop 1 fails on the answer 2, and on aa even with a hint; loop 2 is asked of loop 1's model."""
    asked = []

    def written(model, prompt):
        asked.append((id(model), prompt))
        hint = prompt.partition(" (")[2].rstrip(")")
        return "\nthus####" + (hint if hint and not prompt.startswith("ab") else "1")

    scripted(monkeypatch, written)
    seen = []
    replayed = tmp_path / "replay.jsonl"
    replayed.write_text('{"prompt": "zz=", "answer": "\\nas ever####5"}\n', encoding="utf-8")
    done = star.adapt_star(
        base, str(questions), tmp_path / "run", OPTIONS, replay=[str(replayed)], on_loop=seen.append
    )
    corpus = ExamplesCorpus(tmp_path / "run" / "corpus")
    train_side, heldout = (corpus.examples(split) for split in ("train", "heldout"))
    first = json.loads((tmp_path / "run" / "loop-01" / star.ATTEMPTS).read_text("utf-8"))
    attempts = {one["prompt"]: Attempt(**one) for one in first["attempts"]}
    assert set(attempts) == {one.prompt for one in train_side}
    for prompt, one in attempts.items():
        assert one.right is (one.answer == "1")
        assert (one.rationalised is not None) is (not one.right and prompt != "ab=")
    hinted = {prompt for _, prompt in asked if "(" in prompt}
    assert hinted == {f"{p} (2)" for p, one in attempts.items() if not one.right}
    assert not hinted & {f"{one.prompt} (2)" for one in heldout}  # they are never shown an answer
    kept = (tmp_path / "run" / "loop-01" / star.KEPT).read_text("utf-8")
    records = [json.loads(line) for line in kept.splitlines()]
    assert {"prompt": "ad=", "answer": "\nthus####2"} in records and "(2)" not in kept
    assert records[-1] == {"prompt": "zz=", "answer": "\nas ever####5"}
    right = sum(one.answer == "1" for one in train_side)
    assert [(one.loop, one.asked, one.kept) for one in done.loops] == [
        (0, 0, 0), (1, len(train_side), right), (2, len(train_side), right),
    ]  # fmt: skip
    assert done.loops == seen and [one.steps for one in seen] == [0, 3, 6]
    shares = {one.heldout.value for one in seen}
    assert shares == {sum(one.answer == "1" for one in heldout) / len(heldout)}
    for loop in ("loop-01", "loop-02"):  # every loop begins with the base
        recipe = RunDirectory(tmp_path / "run" / loop / "run").recipe()
        assert recipe.start == str(base) and recipe.adapter is None
    last = load_tensors(tmp_path / "run" / "loop-02" / "run" / WEIGHTS)
    whole = load_tensors(tmp_path / "run" / WEIGHTS)
    assert all((last[name] == whole[name]).all() for name in last)


CHATML = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def test_questions_in_a_chat_template_are_asked_as_chat_asks_them(
    base, questions, tmp_path, monkeypatch
):
    """And what was written is learned in it; the spaces around an answer are the template's."""
    asked = []

    def written(model, prompt):
        asked.append(prompt)
        return " thus####1\n"

    scripted(monkeypatch, written)
    options = replace(OPTIONS, loops=1, hint="", questions=20, sequence=32)
    done = star.adapt_star(base, str(questions), tmp_path / "run", options, template=CHATML)
    assert done.loops[1].kept > 5
    assert all(prompt == f"<u>{prompt[3:6]}\n<a>" for prompt in asked)
    kept = ExamplesCorpus(tmp_path / "run" / "loop-01" / "corpus")
    assert kept.manifest["template"] == CHATML
    assert {one.answer for one in kept.examples("train")} == {"thus####1"}


def test_without_hints_what_fails_is_left_out(base, questions, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda model, prompt: "####1" if "(" not in prompt else "####2")
    options = replace(OPTIONS, loops=1, hint="", questions=20)
    done = star.adapt_star(base, str(questions), tmp_path / "run", options)
    assert (done.loops[1].asked, done.loops[1].rationalised) == (20, 0)


def test_a_loop_that_keeps_nothing_ends_in_a_line(base, questions, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda model, prompt: "1")  # right, but not after the marker
    with pytest.raises(
        UserError, match="loop 1 kept none of .* '####'; tune it on some rationales"
    ):
        star.adapt_star(base, str(questions), tmp_path / "run", OPTIONS)


class Killed(Exception):
    pass


def test_resume_touches_no_run_that_it_has_not_begun(base, questions, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    for path, parts in (
        (other, "was not begun by this command"),
        (base, "is the run that is adapt"),
    ):
        kept = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
        with pytest.raises(WrongUse, match=parts):
            star.adapt_star(base, str(questions), path, OPTIONS, resume=True)
        assert all(file.read_bytes() == content for file, content in kept.items())
        assert not (path / "corpus").exists()


def test_held_out_questions_are_not_replayed_and_a_refusal_leaves_nothing_in_the_way(
    base, questions, tmp_path, monkeypatch
):
    chat, made = tmp_path / "chat.jsonl", []
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    lines = [{"messages": [*turns, turns[0] | {"content": str(i)}, turns[1]]} for i in range(9)]
    chat.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for refusing, parts in ((tmp_path / "none", "does not exist"), (chat, "is a conversation")):
        with pytest.raises(UserError, match=parts):
            star.adapt_star(base, str(refusing), tmp_path / "run", OPTIONS)

    def stops(self, number, on_loop):
        made.append(self)
        raise Killed

    monkeypatch.setattr(star._Star, "loop", stops)
    with pytest.raises(Killed):
        star.adapt_star(base, str(questions), tmp_path / "run", OPTIONS, replay=[str(questions)])
    replayed = {one.prompt for one in made[0].replayed}
    assert len(replayed) > 50 and not replayed & {one.prompt for one in made[0].heldout}


POINTS = [("generate_answers", 5), ("train", 2), ("write_json", 4), ("_copy_run", 1)]
"""function of the module, and the number of its call that is cut off"""


def test_cut_off_anywhere_it_goes_on_to_the_same_run(base, questions, tmp_path, monkeypatch):
    """The model's own words: what it answers with 1 is kept, and loop 2 asks what loop 1 has made."""

    def adapted(path, resume=False):
        return star.adapt_star(base, str(questions), path, OPTIONS, resume=resume)

    whole = adapted(tmp_path / "whole")
    assert whole.loops[1].kept > 10 and whole.loops[0].heldout.right > 0
    for name, calls in POINTS:
        path, left, original = tmp_path / f"{name}-{calls}", [calls], getattr(star, name)

        def dying(*given, _left=left, _original=original, **named):
            _left[0] -= 1
            if not _left[0]:
                raise Killed
            return _original(*given, **named)

        with monkeypatch.context() as patched:
            patched.setattr(star, name, dying)
            with pytest.raises(Killed):
                adapted(path)
        again = adapted(path, resume=True)
        plain = [replace(one, seconds=0, memory=0) for one in again.loops]
        assert plain == [replace(one, seconds=0, memory=0) for one in whole.loops]
        assert (path / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
        assert not list(path.glob(".*.tmp"))
    with pytest.raises(WrongUse, match="was begun with another base, other questions or options"):
        star.adapt_star(
            base, str(questions), tmp_path / "whole", replace(OPTIONS, seed=1), resume=True
        )


def test_the_command_leaves_an_ordinary_run(base, questions, tmp_path):
    words = ("--loops", 1, "--steps", 3, "--batch", 4, "--tokens", 10, "--sequence", 24)
    path = tmp_path / "run"
    said = command("adapt", "star", base, questions, "--run", path, *words, "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found == json.loads((path / "adaptation.json").read_text("utf-8")) | {
        "picture": str(path / "loops.png")
    }
    assert (path / "loops.png").read_bytes().startswith(b"\x89PNG")
    assert found["metric_after"] == found["loops"][1]["accuracy"] and found["forgetting"]
    assert "held-out questions right" in said.err and "trained parameters" in said.err
    assert "1" in load(path).generate("ab=", tokens=8, temperature=0)
    assert command("eval", path, "--json").code == 0


def test_what_cannot_be_asked_is_refused_in_one_line(base, questions, tmp_path):
    def of(*words):
        return command("adapt", "star", base, questions, "--run", tmp_path / "run", *words)

    refused(of("--hint", "{prompt}"), "does not hold {prompt} and {answer}", code=2)
    refused(of("--answer-after", " "), "answer_after is empty", code=2)
    refused(of("--loops", 0), "loops is 0", code=2)
    refused(of("--growth", 0.5), "growth is 0.5", code=2)
    refused(of("--replay", tmp_path / "none"), "none does not exist", code=1)
    notes = tmp_path / "notes.txt"
    notes.write_text("a text of its own, without any question\n" * 40, encoding="utf-8")
    said = command("adapt", "star", base, notes, "--run", tmp_path / "text")
    refused(said, "holds text: star needs questions", code=2)
    chat = tmp_path / "chat.jsonl"
    turns = [{"role": r, "content": c} for r in ("user", "assistant") for c in "ab"]
    turns = [turns[0], turns[2], turns[1], turns[3]]
    chat.write_text(
        "".join(
            json.dumps({"messages": [turns[0] | {"content": str(i)}, *turns[1:]]}) + "\n"
            for i in range(9)
        ),
        encoding="utf-8",
    )
    said = command("adapt", "star", base, chat, "--run", tmp_path / "chat-run")
    refused(said, "is a conversation", code=1)
