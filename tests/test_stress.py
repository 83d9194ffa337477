"""Context under stress: what fills it, what is measured, and where half is gone."""

import json

import numpy as np
import pytest

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.evaluation.likelihood import Likelihood
from maquette.evaluation.tasks import stress as module
from maquette.evaluation.tasks.builtin import builtin_task
from maquette.evaluation.tasks.stress import KINDS, Point, Stress, stress
from maquette.models import families
from maquette.models.store import WEIGHTS, save_config, save_tensors
from tests.conftest import command, refused

CONTEXT = 400


def model():
    shape = {"vocabulary": 257, "context": CONTEXT, "width": 32, "depth": 1, "heads": 2}
    return families.llama(**shape).build().initialise(0).eval()


def watched(monkeypatch, name, answer, shots=1):
    """The stress of a task by a made-up model, and every (prompt, choice) that it was asked."""
    tokenizer, asked = byte_tokenizer(), []

    def oracle(model, requests, progress=None):
        found = []
        for request in requests:
            assert len(request.context) + len(request.continuation) <= CONTEXT + 1  # nothing is cut
            prompt = tokenizer.decode(request.context, skip_special_tokens=True)
            choice = tokenizer.decode(request.continuation)
            asked.append((prompt, choice))
            found.append(Likelihood(answer(prompt, choice), False))
        return found

    monkeypatch.setattr(module, "log_likelihoods", oracle)
    task = builtin_task(name, 24)
    return stress(model(), tokenizer, task, shots, other="Quite other text. " * 40), asked, task


def test_accuracy_and_distance_fall_from_the_examples_to_the_prior(monkeypatch):
    """A model that knows the answer until its prompt has 200 characters, and then says "negative"."""
    right = {q.text: q.answer for q in builtin_task("sentiment", 24).questions()}

    def answer(prompt, choice):
        known = next((a for q, a in right.items() if prompt.endswith(q)), "negative")
        with_examples = prompt.count("Review:") > 1
        given = known if with_examples and len(prompt) < 200 else "negative"
        return 0.0 if choice == f" {given}" else -50.0

    found, _, task = watched(monkeypatch, "sentiment", answer)
    share = np.mean([q.answer == "negative" for q in task.questions()])
    assert found.prior == pytest.approx(share)
    for kind in KINDS:
        points = found.curves[kind]
        assert points[0].tokens == 0 and points[0].accuracy == 1.0
        assert points[0].distance == pytest.approx(
            1 - share
        )  # of those that are answered otherwise alone
        assert [p.tokens for p in points] == sorted({p.tokens for p in points})
        assert points[-1].tokens <= found.room
        assert points[-1].accuracy == pytest.approx(share)
        assert points[-1].distance == pytest.approx(0, abs=1e-9)
        assert points[0].divergence == pytest.approx(50 * (1 - share))  # 1 on what had e^-50 alone
        assert points[-1].divergence == pytest.approx(0, abs=1e-9)
        assert 0 < found.half_point(kind) < 200
        assert found.half_distance(kind) == pytest.approx(found.half_point(kind))
    assert found.modal["off_domain"] == {"answer": "negative", "share": 1.0}
    assert found.modal["in_domain"]["share"] == pytest.approx(max(share, 1 - share))


def test_every_kind_of_garbage_is_what_it_says(monkeypatch):
    found, asked, task = watched(monkeypatch, "sentiment", lambda prompt, choice: 0.0, shots=0)
    questions = {q.text for q in task.questions()}
    right = {one.question: one.answer for one in task.examples()}
    counted = dict.fromkeys(("wrong", "repeated", "examples"), 0)
    for prompt, _ in asked:
        question = next((q for q in questions if prompt.endswith(q)), None)
        if question is None:
            continue
        shown = [
            part for part in prompt.removesuffix(question).split("\n\n") if "Sentiment:" in part
        ]
        if not shown or any(not part.startswith("Review:") for part in shown):
            continue  # alone, or other garbage
        pairs = [part.rsplit(" ", 1) for part in shown]
        truths = [right[text + " "] == answer for text, answer in pairs]
        if len(shown) > 1:
            kind = (
                "wrong" if not any(truths) else "repeated" if len(set(shown)) == 1 else "examples"
            )
            assert all(truths) or not any(truths)
            counted[kind] += 1
    assert all(counted.values()), counted
    assert found.curves["random"][-1].tokens == found.room


def test_a_map_of_letters_is_filled_with_its_own_pairs(monkeypatch):
    _, asked, task = watched(monkeypatch, "letter_map", lambda prompt, choice: 0.0, shots=8)
    pairs = [{one.text for one in task.examples(n)} for n in range(24)]
    whole = [prompt for prompt, _ in asked if prompt.count(" -> ") > 40]
    for prompt in whole:
        lines = {line + "\n" for line in prompt.split("\n")[:-1]}
        assert any(len(lines & own) == 8 for own in pairs)  # its own examples are there
    assert any(lines <= own for prompt in whole for own in pairs
               for lines in [{line + "\n" for line in prompt.split("\n")[:-1]}])  # fmt: skip


def test_half_is_found_between_points():
    def made(*values):
        points = [
            Point(tokens, value, None, value / 2, None, value, None) for tokens, value in values
        ]
        return Stress("t", 1, 1, 100, 0.2, {"random": points}, None)

    assert made((0, 1.0), (10, 0.8), (20, 0.4)).half_point("random") == pytest.approx(15)
    assert made((0, 1.0), (10, 0.7)).half_point("random") is None
    assert made((0, 0.2), (10, 0.1)).half_point("random") is None  # nothing to lose
    assert made((0, 1.0), (10, 0.9), (30, 0.1)).half_distance("random") == pytest.approx(20)


def test_what_cannot_be_stressed_is_refused():
    with pytest.raises(WrongUse, match="arithmetic_2da has no choices"):
        stress(model(), byte_tokenizer(), builtin_task("arithmetic_2da", 4), 1)
    with pytest.raises(UserError, match="leaves no room for garbage: show fewer"):
        stress(model(), byte_tokenizer(), builtin_task("sentiment", 4), 9)


def test_the_command_draws_its_curves(tmp_path):
    from maquette.corpus.tokenizer import save_tokenizer

    made = model()
    save_config(tmp_path, made.config)
    save_tensors(tmp_path / WEIGHTS, dict(made.named_parameters()))
    save_tokenizer(byte_tokenizer(), tmp_path / "tokenizer.json")
    picture = tmp_path / "stress.png"
    said = command(
        "eval",
        tmp_path,
        "sentiment",
        "--stress",
        "--shots",
        1,
        "--limit",
        6,
        "--picture",
        picture,
        "--json",
    )
    assert said.code == 0, said.err
    task = said.json["tasks"]["sentiment"]
    assert set(task["stress"]["kinds"]) == set(KINDS)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.dumps(task)
    refused(
        command("eval", tmp_path, "sentiment", "--picture", picture),
        "--picture is of --stress",
        code=2,
    )
    refused(
        command("eval", tmp_path, "sentiment", "--stress", "--shots", "1,2"), "are several", code=2
    )
