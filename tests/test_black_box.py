"""Black-box tuning: populations in one batch, searches, their record, and the run that comes out."""

import json
import random
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import command, refused

from maquette.adaptation import black_box
from maquette.adaptation.adapters.adapter import attach, detach
from maquette.adaptation.adapters.config import PromptConfig
from maquette.adaptation.adapters.prefix import drawn_rows
from maquette.adaptation.black_box import Outcome, Projection, Question, Scorer, outcomes
from maquette.adaptation.search import Evolution, RandomSearch, Words
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.example import Example
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.models.config import DecoderConfig
from maquette.models.store import WEIGHTS, load_tensors, save_tensors
from maquette.nn.rules import Parametrisation
from maquette.workshop.load import load
from maquette.workshop.prompt_search import SearchLog, SearchOptions, drawn, search

SMALL = DecoderConfig(
    vocabulary=50, context=24, width=32, depth=2, heads=2, kv_heads=1,
    parametrisation=Parametrisation(base_width=32, base_depth=2, base_head_dim=16),
)  # fmt: skip
QUESTIONS = [
    Question((1, 2, 3), ((4,), (5,)), 0),
    Question((6, 7), ((8, 9, 10), (11,), (8, 12)), 2),
    Question(tuple(range(1, 23)), ((3, 4, 5, 6), (7, 8)), 1),  # longer than the context
    Question((2,), ((9,),), 0),
]
OPTIONS = (
    "--calls",
    24,
    "--population",
    4,
    "--examples",
    6,
    "--every",
    8,
    "--size",
    5,
    "--prompts",
    3,
)


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi"])
def test_a_population_is_scored_as_each_prompt_alone(positions, monkeypatch):
    """Against the likelihoods of evaluation with the prompt attached, whatever is batched with what."""
    model = replace(SMALL, positions=positions).build().initialise(0).eval()
    prompts = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(1))
    scorer = Scorer(model, QUESTIONS)
    found = scorer.log_likelihoods(prompts)
    assert found.shape == (5, 4, 3) and scorer.log_likelihoods(None).shape == (1, 4, 3)
    monkeypatch.setattr(black_box, "POSITIONS", 60)  # parts of rows, and of prompts
    torch.testing.assert_close(scorer.log_likelihoods(prompts), found, atol=1e-5, rtol=0)
    asked = [Request(q.context, answer) for q in QUESTIONS for answer in q.answers]
    for number in (0, 4):
        adapter = PromptConfig(length=3).build(model)
        adapter.vectors.data = prompts[number]
        attach(model, "prompt", adapter)
        alone = iter([one.log_likelihood for one in log_likelihoods(model, asked)])
        detach(model, "prompt")
        for q, row in zip(QUESTIONS, found[number], strict=True):
            expected = [next(alone) for _ in q.answers]
            assert row[: len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
            assert (row[len(expected) :] == -torch.inf).all()


def test_losses_are_what_they_are_by_hand():
    found = torch.tensor([[[-1.0, -3.0], [-2.0, -0.5]]], dtype=torch.float64)
    right = torch.tensor([0, 0])
    (entropy,) = outcomes(found, right, "cross-entropy")
    by_hand = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(1.5))]
    assert entropy.loss == pytest.approx(np.mean(by_hand)) and entropy.right == 0.5
    (hinge,) = outcomes(found, right, "hinge")
    assert hinge.loss == pytest.approx((0 + 3.5) / 2)  # margin 2: none over, and 2 + 1.5
    (alone,) = outcomes(found[:, :, :1], right, "cross-entropy")
    assert alone == Outcome(1.5, None)
    assert Outcome(9.0, 0.9).rank < Outcome(1.0, 0.8).rank < Outcome(2.0, 0.8).rank


def test_changes_are_as_large_as_embeddings_and_begin_at_tokens():
    """BBTv2: the standard deviation of A z is that of the embeddings, for z of standard deviation 1."""
    model = replace(SMALL, width=64).build().initialise(0)
    projection = Projection(model, 10, 20, seed=3)
    assert projection(np.zeros((1, 20)))[0].tolist() == drawn_rows(model, 10, 3).tolist()
    z = np.random.default_rng(0).standard_normal((200, 20))
    spread = (projection(z) - projection.start).std()
    table = model.embedding.weight.detach() * model.scaling.input_multiplier
    assert float(spread / table.std()) == pytest.approx(1.0, abs=0.05)
    whole = Projection(model, 10, None, seed=3)
    assert whole.size == 640
    change = whole(np.eye(640)[:1]) - whole.start
    assert float(change.flatten()[0]) == pytest.approx(float(table.std()), rel=1e-4)
    again = Projection(model, 10, 20, seed=3)
    assert torch.equal(again(z), projection(z)) and not torch.equal(
        Projection(model, 10, 20, seed=4)(z), projection(z)
    )


def test_evolution_finds_a_minimum_and_follows_its_seed_and_losses_alone():
    target = np.linspace(-1, 1, 6)

    def run(evolution, generations=60):
        asked = []
        for _ in range(generations):
            candidates = evolution.ask()
            asked.append(candidates)
            evolution.tell([float(((c - target) ** 2).sum()) for c in candidates])
        return np.array(asked)

    first = Evolution(6, 10, seed=1)
    asked = run(first)
    assert np.abs(first.favourite - target).max() < 0.01
    np.random.seed(7)  # another's generator does not matter
    assert (run(Evolution(6, 10, seed=1)) == asked).all()
    assert not (Evolution(6, 10, seed=2).ask() == asked[0]).all()
    chance = RandomSearch(6, 10, seed=1)
    run(chance)
    best = ((chance.favourite - target) ** 2).sum()
    assert 0.01 < best < (target**2).sum()


def test_words_settle_on_those_that_cost_least():
    words = Words(3, 8, 20, seed=0)
    for _ in range(60):
        words.tell([float((c != [1, 5, 2]).sum()) for c in words.ask()])
    assert words.favourite.tolist() == [1, 5, 2]
    assert (
        words.probabilities.sum(1) == pytest.approx(1.0) and words.probabilities.max(1).min() > 0.5
    )


def test_a_search_ends_with_the_favourite_that_others_liked_best(tmp_path):
    """Losses fall towards 1, and those who choose like 0.5 better, where the search passes by."""
    options = SearchOptions(calls=400, population=10, every=10, seed=2)

    def judge(z):
        return Outcome(float(np.abs(z - 0.5).max()), None)

    strategy = Evolution(2, 10, 2, sigma=0.1)
    found = search(
        strategy, options, SearchLog(tmp_path / "log", {}),
        lambda zs: [float(((z - 1) ** 2).sum()) for z in zs], judge,
    )  # fmt: skip
    assert np.abs(strategy.favourite - 1).max() < 0.01 and found.calls == 400
    assert found.chosen_by == judge(found.candidate) and found.chosen_by.loss < 0.3


def test_examples_are_shared_out_evenly_and_none_twice():
    examples = [Example(f"q{i}", "ab"[i % 5 == 0], choices=("a", "b")) for i in range(50)]
    seen, others = drawn(examples, 8, seed=1)
    assert sorted(e.answer for e in seen) == sorted("ab" * 4) == sorted(e.answer for e in others)
    assert not {e.prompt for e in seen} & {e.prompt for e in others}
    assert drawn(examples, 8, seed=1) == (seen, others) != drawn(examples, 8, seed=2)
    assert [len(part) for part in drawn(examples[:5], 8, seed=1)] == [2, 2]
    with pytest.raises(UserError, match="1 examples"):
        drawn(examples[:1], 8, seed=1)


@pytest.fixture
def questions(tmp_path):
    """Reviews with two choices, as records."""
    path, draw = tmp_path / "questions.jsonl", random.Random(0)
    lines = [
        {"prompt": f"{draw.choice('abcdef')}{i} is", "choices": [" good", " bad"], "answer": i % 2}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def tune(base, source, path, *more):
    return command("adapt", "black-box", base, source, "--run", path, *OPTIONS, *more, "--json")


def test_a_prompt_is_found_kept_and_found_again_after_a_kill(
    trained, questions, tmp_path, monkeypatch
):
    """Bit for bit, though the record ends within a line; what comes out is a run with a prompt."""
    said = tune(trained, questions, tmp_path / "whole")
    assert said.code == 0, said.err
    found = said.json
    assert {"run", "trained_parameters", "metric_before", "metric_after"} <= found.keys()
    assert json.loads((tmp_path / "whole/adaptation.json").read_text(encoding="utf-8")) == found
    assert found["calls"] == 24 and found["trained_parameters"] == 3 * 32
    assert (
        found["metric"].startswith("share of held-out questions")
        and found["forgetting"]["after"] > 0
    )
    log = (tmp_path / "whole/search.jsonl").read_text(encoding="utf-8").splitlines()
    judged = [json.loads(line)["outcome"] for line in log[1:]]
    best = min((Outcome(**one) for one in judged if one), key=lambda one: one.rank)
    assert found["chosen_by"] == {"loss": best.loss, "right": best.right} and len(log) == 1 + 1 + 6
    adapted = load(tmp_path / "whole")
    assert list(adapted.adapters) == ["prompt"] and adapted.generate("a1 is", tokens=2) is not None

    original, calls = Scorer.outcomes, []

    def dying(self, prompts):
        calls.append(1)
        if len(calls) == 7:
            raise InterruptedError
        return original(self, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "outcomes", dying)
        assert tune(trained, questions, tmp_path / "cut").code == 1
    path = tmp_path / "cut/search.jsonl"
    kept = len(path.read_bytes().splitlines())
    assert 2 < kept < len(log)
    with path.open("ab") as file:
        file.write(b'{"calls": 1')
    refused(tune(trained, questions, tmp_path / "cut"), "exists", "--resume", code=2)
    other = tune(trained, questions, tmp_path / "cut", "--resume", "--seed", 1)
    refused(other, "another seed (0)", code=2)
    assert tune(trained, questions, tmp_path / "cut", "--resume").code == 0
    again = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(a)["losses"] for a in again[1:]] == [
        json.loads(b)["losses"] for b in log[1:]
    ]
    files = [tmp_path / name / "adapter.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_resume_goes_on_with_a_search_of_the_same_base_alone(
    trained, questions, tmp_path, monkeypatch
):
    shutil.copytree(trained, tmp_path / "other")
    said = tune(trained, questions, tmp_path / "other", "--resume")
    refused(said, "is no search for a prompt", code=2)
    assert (
        not (tmp_path / "other-corpus").exists() or not (tmp_path / "other/search.jsonl").exists()
    )

    def stops(*given):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "outcomes", stops)
        assert tune(trained, questions, tmp_path / "cut").code == 1
    tensors = load_tensors(trained / WEIGHTS)
    save_tensors(trained / WEIGHTS, {name: t + 1 for name, t in tensors.items()})
    said = tune(trained, questions, tmp_path / "cut", "--resume")
    refused(said, "adapts another model than", code=1)


def test_examples_have_choices_all_or_none(trained, questions, tmp_path):
    """One without would always be right."""
    with questions.open("a", encoding="utf-8") as file:
        file.write("".join(f'{{"prompt": "z{i}", "answer": " good"}}\n' for i in range(60)))
    said = tune(trained, questions, tmp_path / "run")
    refused(said, "has no choices, and others have", code=1)
    words = ("--endpoint", "http://127.0.0.1:1", "--model", "x", "--run", tmp_path / "words")
    said = command("adapt", "black-box", questions, *words)
    refused(said, "has no choices, and others have", code=1)
    assert not list(tmp_path.glob("run*")) and not (tmp_path / "words").exists()


def test_what_is_held_at_a_time_does_not_grow_with_the_questions(monkeypatch):
    model = SMALL.build().initialise(0).eval()
    found = Scorer(model, QUESTIONS).log_likelihoods(None)
    sizes = {"hidden": [], "logits": []}
    for name, kept in sizes.items():
        original = getattr(model, name)

        def counted(x, _original=original, _kept=kept):
            out = _original(x)
            _kept.append(x.numel() if x.dtype == torch.long else out.numel())
            return out

        monkeypatch.setattr(model, name, counted)
    monkeypatch.setattr(black_box, "POSITIONS", 60)
    monkeypatch.setattr(black_box, "SCORES", 150)
    for prompts in (None, torch.zeros(1, 2, 32)):
        again = Scorer(model, QUESTIONS * 3).log_likelihoods(prompts)
        assert max(sizes["hidden"]) <= 60 and max(sizes["logits"]) <= 150
        if prompts is None:
            torch.testing.assert_close(again[:, :4], found, atol=1e-5, rtol=0)


def test_what_cannot_be_searched_is_one_line(trained, questions, tmp_path, monkeypatch):
    run = tmp_path / "run"
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing is asked here, it is a text. " * 60, encoding="utf-8")
    refused(tune(trained, notes, run), "is text, which asks nothing", code=2)
    refused(
        tune(trained, questions, run, "--population", 1), "population is 1: use at least 2", code=2
    )
    refused(tune(trained, questions, run, "--population", 30), "calls is 24", code=2)
    refused(tune(trained, questions, run, "--model", "x"), "--model is of an endpoint", code=2)
    refused(command("adapt", "black-box", trained), "name a run and examples", code=2)
    with pytest.raises(WrongUse, match="hinge loss is of choices"):
        Scorer(SMALL.build(), QUESTIONS[3:], "hinge")
    monkeypatch.setitem(sys.modules, "cma", None)
    refused(tune(trained, questions, run), "cma is not installed", "maquette[blackbox]", code=1)
    assert not run.exists() and not (tmp_path / "run-corpus").exists()
