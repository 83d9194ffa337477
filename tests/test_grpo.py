"""Policy gradients from checked answers: gradient and formula, rewards, seeds, resume, the command."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import command, refused, same_steps

from maquette.adaptation.adapters.config import LoRAConfig
from maquette.adaptation.grpo import (
    GRPO,
    Results,
    advantages,
    answer_batch,
    kl_estimate,
    policy_loss,
)
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.results import result_of
from maquette.models.config import DecoderConfig
from maquette.parallel.group import Group
from maquette.serving.generate import generate, sample_tokens
from maquette.serving.sampler import Sampling
from maquette.training import optimiser
from maquette.training.datasets.dataset import open_dataset
from maquette.training.datasets.questions import Questions
from maquette.training.datasets.questions_config import QuestionsData
from maquette.training.decide import load_decisions
from maquette.training.heldout import derived_seed
from maquette.training.learner import make_learner
from maquette.training.run import DECISIONS, RunDirectory
from maquette.workshop import adapt_grpo
from maquette.workshop.adapt_data import data_of
from maquette.workshop.load import load
from maquette.workshop.train import train


@pytest.fixture
def questions(tmp_path):
    """Questions of which even an untrained model answers some: the right answer is a part of a byte."""
    path = tmp_path / "questions.jsonl"
    lines = [{"prompt": "q" * (1 + i % 3) + str(i), "answer": "the"} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def built(questions, shared_run, tmp_path):
    tokenizer = load(shared_run).tokenizer
    return build_examples(tmp_path / "built", [questions], tokenizer, heldout=0.2)


@pytest.fixture
def reinforcing(recipe, shared_run, built):
    """A recipe of eight steps on the questions."""
    data = QuestionsData(corpus=str(built.path), sequence=12, answer_tokens=4, group=4)
    return replace(recipe, data=data, start=str(shared_run), batch=4, steps=8)


@pytest.fixture
def rewarded(monkeypatch):
    """Answers with an e are right: some of every few are."""

    def right(self, number, answer):
        return "e" in self._tokenizer.decode(answer)

    monkeypatch.setattr(Results, "right", right)


def learner_of(recipe, tmp_path):
    train(replace(recipe, stop=1), tmp_path / "decided")
    decisions = load_decisions(tmp_path / "decided" / DECISIONS)
    learner = make_learner(recipe, decisions, torch.device("cpu"))
    assert isinstance(learner, GRPO)
    return learner


def test_the_expected_gradient_is_that_of_the_expected_reward():
    """Over all answers of two tokens, each as often as the model gives it; any baseline leaves it."""
    torch.manual_seed(0)
    model = DecoderConfig(vocabulary=5, context=8, width=8, depth=1, heads=2).build().initialise(0)
    prompt, every = [1, 2, 3], list(itertools.product(range(5), repeat=2))
    rewards = torch.rand(len(every), generator=torch.Generator().manual_seed(1))
    rows = answer_batch([prompt] * len(every), every, 6, 0)
    log_p = model.log_likelihoods(rows)
    p = log_p.sum(1).exp()
    assert float(p.detach().sum()) == pytest.approx(
        1, abs=1e-5
    )  # the answers' tokens, and no others
    wanted = torch.autograd.grad((p * rewards).sum(), model.parameters(), retain_graph=True)
    for baseline in (0.0, float(rewards.mean())):
        loss = policy_loss(log_p, p.detach() * (rewards - baseline))
        found = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(-a, b, rtol=1e-3, atol=1e-6)


def test_advantages_are_rewards_less_their_groups_mean():
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    wanted = [[0.5, -0.5, -0.5, 0.5], [0] * 4, [0] * 4, [0.75, -0.25, -0.25, -0.25]]
    assert advantages(rewards).tolist() == wanted


def test_the_estimate_of_the_divergence_is_unbiased_and_never_negative():
    p, q = (
        torch.randn(7, generator=torch.Generator().manual_seed(i)).log_softmax(0) for i in (0, 1)
    )
    each = kl_estimate(p, q)
    assert (each >= 0).all() and torch.equal(kl_estimate(p, p), torch.zeros(7))
    assert float((p.exp() * each).sum()) == pytest.approx(
        float((p.exp() * (p - q)).sum()), rel=1e-5
    )


@pytest.mark.parametrize(
    ("text", "after", "result"),
    [
        (" 42\n", "", "42"),
        ("The  Answer", "", "the answer"),
        ("so 6 x 7 #### 42 ", "####", "42"),
        ("#### 1 or #### 2", "####", "2"),
        ("no mark: 42", "####", None),
        ("", "", ""),
    ],
)
def test_results_are_read_from_answers(text, after, result):
    assert result_of(text, after) == result


def test_an_answer_is_right_by_its_result(shared_run, tmp_path):
    """The template's words behind an answer belong to it; a mark in the right answer is read there, too."""
    path = tmp_path / "a.jsonl"
    lines = [{"prompt": f"p{i}", "answer": f"because #### {i}"} for i in range(8)]
    lines += [{"prompt": f"r{i}", "answer": f"Yes {i}"} for i in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tokenizer = load(shared_run).tokenizer
    corpus = build_examples(
        tmp_path / "b", [path], tokenizer, template="{prompt}: {answer}", heldout=0.3
    )
    results = Results(corpus, "train", "####")
    for number, example in enumerate(corpus.examples("train")):
        right = example.answer.rpartition("#### ")[2].lower()
        assert results.right(number, tokenizer.encode(f" what? ####  {right.upper()}"))
        assert not results.right(number, tokenizer.encode(f" what? #### {right}1"))
        assert not results.right(number, tokenizer.encode(right))


def test_a_step_is_what_sampling_scoring_and_the_formula_say(
    reinforcing, built, tmp_path, rewarded
):
    """Answers by their own seeds, rewards, and the mean over all tokens of advantage x log p."""
    learner = learner_of(reinforcing, tmp_path)
    dataset = open_dataset(reinforcing, built)
    (batch,) = dataset.step(8)
    losses = learner.backward([batch], 3)
    model, tokenizer = learner.model, built.tokenizer
    total, tokens, rights, entropy = torch.zeros(()), 0, [], 0.0
    model.eval()
    chosen = dataset.order.starts(8, 4).tolist()
    examples = built.examples("train")
    for place, row in enumerate(chosen, 8):
        prompt = examples[dataset.questions.numbers[row]].prompt
        group = []
        for number in range(4):
            sampling = Sampling(temperature=1.0, seeds=(derived_seed(0, place, number),))
            (said,), _ = generate(model, tokenizer, [prompt], tokens=4, sampling=sampling)
            answer = said.tokens + [tokenizer.eos_token_id] * (said.finish == "end")
            whole = torch.tensor([*tokenizer.encode_prompt(prompt), *answer])
            log_p = model(whole[None, :-1]).log_softmax(-1)[0, -len(answer) :]
            group.append((log_p.gather(1, whole[-len(answer) :, None]).sum(), "e" in said.text))
            tokens += len(answer)
        mean = sum(right for _, right in group) / 4
        total = total - sum((right - mean) * log_p for log_p, right in group)
        rights.append([right for _, right in group])
        entropy -= sum(float(log_p.detach()) for log_p, _ in group)
    assert 0 < sum(map(sum, rights)) < 16
    count = float(losses.count)
    means = losses.means(count, [float(t) for t in losses.totals()])
    assert count == tokens and means["answer_tokens"] == tokens / 16
    assert means["reward"] == sum(map(sum, rights)) / 16
    assert means["groups_with_signal"] == sum(0 < sum(g) < 4 for g in rights) / 4
    assert means["loss"] == pytest.approx(float(total.detach()) / tokens, rel=1e-4)
    assert means["entropy"] == pytest.approx(entropy / tokens, rel=1e-4)
    wanted = torch.autograd.grad(total / tokens, learner.optimiser.trained)
    norm = learner.reduce(Group(), count)
    assert norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in wanted)), rel=1e-3)
    scale = min(1.0, reinforcing.optimiser.clip / norm)
    for p, gradient in zip(learner.optimiser.trained, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient * scale, rtol=2e-3, atol=1e-5)


def test_an_answers_random_numbers_are_its_own(reinforcing, built, shared_run):
    """The same in any batch: of a prompt in a step, not of its neighbours."""
    model, tokenizer = load(shared_run).model, built.tokenizer
    prompts = [tokenizer.encode_prompt(p) for p in ("q1", "qq2", "q", "qqq3")]
    seeds = (11, 12, 11, 13)

    def sampled(rows):
        sampling = Sampling(temperature=1.0, seeds=tuple(seeds[i] for i in rows))
        chosen = [prompts[i] for i in rows]
        return sample_tokens(model, tokenizer, chosen, tokens=6, sampling=sampling)

    together = sampled([0, 1, 2, 3])
    assert len({tuple(answer) for answer in together}) == 4
    assert [sampled([i])[0] for i in range(4)] == together
    assert sampled([3, 1]) == [together[3], together[1]]
    ending = together[0][2]

    class Ends:  # as if that token were an end
        special = SimpleNamespace(eos_token_ids=(ending,))

        def missing(self, vocabulary):
            return []

    sampling = Sampling(temperature=1.0, seeds=seeds)
    ended = sample_tokens(model, Ends(), prompts, tokens=6, sampling=sampling)
    assert ended == [a[: a.index(ending) + 1] if ending in a else a for a in together]
    dataset = open_dataset(reinforcing, built)
    (whole,) = dataset.step(4)
    halves = [dataset.step(4, rank, 2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.samples for half in halves]), whole.samples)
    assert torch.equal(torch.cat([half.numbers for half in halves]), whole.numbers)
    assert whole.samples.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("adapter", [None, LoRAConfig(rank=2)])
def test_cut_off_and_resumed_it_is_the_run_that_was_not(adapter, reinforcing, tmp_path, rewarded):
    """With the tie to the start too, whose model is another one, or this one without its adapter."""
    reinforcing = replace(
        reinforcing, adapter=adapter, data=replace(reinforcing.data, kl=0.1), micro_batch=2
    )
    train(reinforcing, tmp_path / "whole")
    train(replace(reinforcing, stop=3), tmp_path / "cut")
    train(replace(reinforcing, stop=None), tmp_path / "cut", resume=True)
    whole, cut = (RunDirectory(tmp_path / name).records() for name in ("whole", "cut"))
    cut[2].pop("heldout_loss")  # looked at because the call ended there
    same_steps(whole, cut)
    a, b = (RunDirectory(tmp_path / name).weights.read_bytes() for name in ("whole", "cut"))
    assert a == b
    assert whole[0]["kl"] == pytest.approx(0, abs=1e-6) and whole[-1]["kl"] > 0
    assert any(r["groups_with_signal"] > 0 for r in whole)
    assert len({r["reward"] for r in whole}) > 1 and len({r["entropy"] for r in whole}) == 8


OPTIONS = ("--steps", 10, "--batch", 2, "--tokens", 4, "--rank", 2, "--group", 3)


def test_the_command_goes_on_and_says_what_is_right(
    shared_run, questions, tmp_path, monkeypatch, rewarded
):
    words = ["adapt", "grpo", shared_run, questions, *OPTIONS]
    whole = command(*words, "--run", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    calls, original = [], optimiser.set_learning_rate

    def dying(*given):
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("killed")
        return original(*given)

    monkeypatch.setattr(optimiser, "set_learning_rate", dying)
    with pytest.raises(RuntimeError, match="killed"):
        command(*words, "--run", tmp_path / "cut")
    refused(command(*words, "--run", tmp_path / "cut"), "exists", "--resume", code=2)
    said = command(*words, "--run", tmp_path / "cut", "--resume", "--json")
    assert said.code == 0, said.err
    timings = {"run", "minutes", "peak_memory"}
    a, b = ({k: v for k, v in one.items() if k not in timings} for one in (said.json, whole.json))
    assert a == b
    held = load(tmp_path / "whole")
    corpus = held.recipe.data.open_corpus()
    rights = [
        "e" in held.generate(e.prompt, tokens=4, temperature=0) for e in corpus.examples("heldout")
    ]
    assert said.json["metric_after"] == pytest.approx(sum(rights) / len(rights))
    monkeypatch.setattr(adapt_grpo, "ASKED", 3)  # of more that there are
    monkeypatch.setattr(adapt_grpo, "AT_A_TIME", 2)
    some = adapt_grpo.accuracy(held, corpus, held.recipe.data)
    assert (some.examples, some.mean) == (3, pytest.approx(sum(rights[:3]) / 3))
    records = RunDirectory(tmp_path / "whole").records()
    assert said.json["reward_last"] == records[-1]["reward"]
    assert "trained parameters" in said.err and "moved from the base" in said.err


def test_what_cannot_be_learned_from_is_refused_in_one_line(
    reinforcing, shared_run, built, tmp_path
):
    text = tmp_path / "text.txt"
    text.write_text("a line of a text that is long enough to be some\n" * 40, encoding="utf-8")
    run = ("--run", tmp_path / "run", *OPTIONS)
    refused(command("adapt", "grpo", shared_run, text, *run), "is text", code=2)
    refused(command("adapt", "grpo", shared_run, "nowhere", *run), "does not exist", code=1)
    for wrong in ({"group": 1}, {"answer_tokens": 0}, {"kl": -1.0}):
        with pytest.raises(WrongUse, match=next(iter(wrong))):
            replace(reinforcing.data, **wrong)
    with pytest.raises(WrongUse, match="leaves no room for a prompt"):
        replace(reinforcing, data=replace(reinforcing.data, answer_tokens=12))
    with pytest.raises(WrongUse, match="name that as start"):
        replace(reinforcing, start="", data=replace(reinforcing.data, kl=0.1))
    with pytest.raises(UserError, match="prompts have 2 tokens at least"):
        Questions(built.train, 1)


def test_longer_prompts_are_left_out_and_a_world_is_asked(reinforcing, built, shared_run, tmp_path):
    most = max(map(len, Questions(built.train, 99).prompts))
    room = Questions(built.train, most - 1)
    assert room.left_out == len(built.train) - len(room) > 0
    assert max(map(len, room.prompts)) == most - 1
    data = replace(reinforcing.data, sequence=most + 2)  # one token less than all need
    (note,) = open_dataset(replace(reinforcing, data=data), built).check()
    assert note.startswith(f"{room.left_out:,} of {len(built.train):,} prompts")
    tokenizer = load(shared_run).tokenizer
    world = data_of("facts_one_hop", tmp_path / "w", tokenizer, 128, template="{prompt} {answer}")
    asked = world.open_corpus().examples("train")
    assert world.kind == "examples" and {example.source for example in asked} == {"facts_one_hop"}
