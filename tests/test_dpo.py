"""Direct preference optimisation: the loss against its formula, batches, resume, and what is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command, refused, same_steps

from maquette.adaptation.dpo import DPO, dpo_loss, preference_loss
from maquette.base.errors import UserError, WrongUse
from maquette.cli.main import main
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.models.store import WEIGHTS, load_tensors, save_tensors
from maquette.parallel.group import Group
from maquette.training import optimiser
from maquette.training.datasets.dataset import open_dataset
from maquette.training.datasets.preferences import PackedPairs, Pairs, pair_log_likelihoods
from maquette.training.datasets.preferences_config import PreferencesData
from maquette.training.decide import load_decisions
from maquette.training.initial_model import make_model
from maquette.training.learner import make_learner
from maquette.training.run import DECISIONS, RunDirectory
from maquette.workshop import adapt_dpo, adapt_grpo
from maquette.workshop.load import load
from maquette.workshop.train import train

TEMPLATE = "Q:{prompt}A: {answer}."


def records(count=24):
    """Pairs whose answers differ in one character, in length, and in nothing but their last character."""
    for i in range(count):
        good = str(i * 7 % 10) * (1 + i % 3)
        bad = (str(i % 7) * (1 + i % 2), good + ".", "")[i % 3] or "x" + good[1:]
        yield {"prompt": f"q{i}", "chosen": good, "rejected": bad}


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path):
    return written(tmp_path / "pairs.jsonl", records())


@pytest.fixture
def built(pairs, shared_run, tmp_path):
    """A corpus of pairs with the tokenizer of `shared_run`."""
    tokenizer = load(shared_run).tokenizer
    return build_examples(tmp_path / "built", [pairs], tokenizer, template=TEMPLATE, heldout=0.2)


@pytest.fixture
def preferring(recipe, shared_run, built):
    """A recipe of eight steps on the pairs."""
    data = PreferencesData(corpus=str(built.path), sequence=32, beta=0.5)
    return replace(recipe, data=data, start=str(shared_run), batch=2, steps=8)


def log_probability(model, tokenizer, prompt, answer):
    """log p(answer, end | prompt) by the plain forward pass of one sequence, as the template writes it."""
    context = tokenizer.encode_prompt(f"Q:{prompt}A:")
    wanted = [*tokenizer.encode(f" {answer}."), tokenizer.eos_token_id]
    tokens = torch.tensor([context + wanted])
    logits = model(tokens[:, :-1]).double().log_softmax(-1)[0, len(context) - 1 :]
    return logits.gather(1, torch.tensor(wanted)[:, None]).sum()


def test_loss_and_gradient_are_those_of_the_formula(preferring, built, shared_run):
    """Rafailov et al. 2023, equation 7, pair by pair without packing, padding or masks."""
    torch.manual_seed(0)
    model, base = make_model(preferring), load(shared_run)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    batches = open_dataset(preferring, built)
    (batch,) = batches.step(0)
    examples = [e for e in built.examples("train") if e.rejected]
    order = [n for row in batches.order.starts(0, 2).tolist() for n in batches.rows.numbers[row]]
    assert len(order) == int(batch.counted.sum()) > 2
    beta, losses, margins = 0.5, [], []
    for example in (examples[n] for n in order):
        ratios = [
            log_probability(model, base.tokenizer, example.prompt, answer)
            - log_probability(base.model, base.tokenizer, example.prompt, answer).detach()
            for answer in (example.answer, example.rejected)
        ]
        margins.append(beta * (ratios[0] - ratios[1]))
        losses.append(-torch.log(torch.sigmoid(margins[-1])))
    wanted = torch.stack(losses).sum()
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    part = preference_loss(model, batch, preferring.data)
    assert float(part.value) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert int(part.count) == len(losses)
    found = torch.autograd.grad(part.total, list(model.parameters()))
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-3, atol=1e-5)
    right = [0.5 + 0.5 * math.copysign(m != 0, m) for m in (float(m.detach()) for m in margins)]
    sums = {name: float(value) for name, (value, _) in part.recorded.items()}
    assert sums["reward_accuracy"] == sum(right)
    assert sums["reward_margin"] == pytest.approx(float(sum(margins).detach()), abs=1e-4)
    assert sums["chosen_reward"] - sums["rejected_reward"] == pytest.approx(sums["reward_margin"])


def test_the_loss_of_known_margins():
    margins = torch.tensor([0.0, 2.0, -1.0])
    plain = dpo_loss(margins)
    assert plain.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-2)),
                                            math.log(1 + math.e)])  # fmt: skip
    mixed = 0.9 * plain + 0.1 * dpo_loss(-margins)
    torch.testing.assert_close(dpo_loss(margins, 0.1), mixed)


def test_answers_alone_count_and_padding_changes_nothing(built, shared_run):
    """Every counted target is of an answer; other lengths of row and other neighbours give the same."""
    model, tokenizer = load(shared_run).model, built.tokenizer
    scores = {}
    for sequence in (24, 32):
        pairs = Pairs(built, "train", sequence)
        scores[sequence] = pair_log_likelihoods(model, pairs)
    torch.testing.assert_close(scores[24], scores[32], rtol=1e-5, atol=1e-5)
    pairs = Pairs(built, "train", 32)
    batch = PackedPairs(pairs, torch.zeros(len(pairs), 2), 0).batch(np.array([0]))
    row = batch.answers.targets[1]
    text = tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=True)
    numbers = PackedPairs(pairs, torch.zeros(len(pairs), 2), 0).numbers[0]
    examples = built.examples("train")
    assert text == "".join(f" {examples[n].rejected}." for n in numbers)
    alone = [
        [
            float(log_probability(model, tokenizer, e.prompt, a).detach())
            for a in (e.answer, e.rejected)
        ]
        for e in examples[:5]
    ]
    torch.testing.assert_close(scores[32][:5], torch.tensor(alone), rtol=1e-4, atol=1e-4)


def test_of_a_conversation_the_last_answer_counts(shared_run, tmp_path):
    """The answers of its history are the prompt's, of both."""

    def said(*texts):
        roles = ("user", "assistant") * 2
        return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]

    lines = [{"chosen": said("a", "b", f"c{i}", "yes"), "rejected": said("a", "b", f"c{i}", "no")}
             for i in range(6)]  # fmt: skip
    path = written(tmp_path / "talk.jsonl", lines)
    corpus = build_examples(tmp_path / "built", [path], load(shared_run).tokenizer, heldout=0.2)
    for split in ("train", "heldout"):
        for chosen, rejected in Pairs(corpus, split, 32).answers:
            wanted = [corpus.tokenizer.decode(t[c].tolist(), skip_special_tokens=True)
                      for t, c in (chosen, rejected)]  # fmt: skip
            assert wanted == ["yes", "no"]


def test_the_reference_is_the_start_and_is_computed_once(preferring, built, monkeypatch):
    """At the first step both models are one: every margin is 0 and the loss log 2."""
    first = open_dataset(preferring, built)
    part = preference_loss(make_model(preferring).eval(), first.step(0)[0], preferring.data)
    assert float(part.value / part.count) == pytest.approx(math.log(2), abs=1e-5)
    assert float(part.recorded["reward_margin"][0]) == pytest.approx(0, abs=1e-4)
    assert len(first.heldout_rows)
    monkeypatch.setattr("maquette.training.datasets.preferences.open_model", None)
    again = open_dataset(preferring, built)  # from the files: no model is opened
    assert torch.equal(again.step(0)[0].reference, first.step(0)[0].reference)
    other = replace(preferring, data=replace(preferring.data, sequence=24))
    with pytest.raises(TypeError):  # of other rows there is none
        open_dataset(other, built).step(0)


def test_other_rejected_answers_are_another_corpus(built, shared_run, tmp_path):
    """They are in no token file, and what the reference says of them must not be taken for these."""
    lines = [{**line, "rejected": line["rejected"] + "!"} for line in records()]
    path = written(tmp_path / "others.jsonl", lines)
    tokenizer = load(shared_run).tokenizer
    other = build_examples(tmp_path / "o", [path], tokenizer, template=TEMPLATE, heldout=0.2)
    names = [n for n in built.manifest["files"] if n.endswith(".bin")]
    assert all(other.manifest["files"][n] == built.manifest["files"][n] for n in names)
    assert other.hash != built.hash


def test_cut_off_and_resumed_it_is_the_run_that_was_not(preferring, tmp_path):
    train(preferring, tmp_path / "whole")
    train(replace(preferring, stop=3), tmp_path / "cut")
    train(replace(preferring, stop=None), tmp_path / "cut", resume=True)
    whole, cut = (RunDirectory(tmp_path / name).records() for name in ("whole", "cut"))
    cut[2].pop("heldout_loss")  # looked at because the call ended there
    same_steps(whole, cut)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "cut" / WEIGHTS).read_bytes()
    assert whole[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert whole[-1]["loss"] < math.log(2) and whole[-1]["reward_margin"] > 0
    assert whole[-1]["heldout_loss"] != whole[0]["loss"]


def test_a_reference_that_has_changed_is_refused(preferring, shared_run, tmp_path):
    """A run that goes on would learn from another one than it began with."""
    start = tmp_path / "start"
    shutil.copytree(shared_run, start)
    preferring = replace(preferring, start=str(start))
    train(replace(preferring, stop=3), tmp_path / "run")
    tensors = load_tensors(start / WEIGHTS)
    save_tensors(start / WEIGHTS, {name: 1.01 * tensor for name, tensor in tensors.items()})
    with pytest.raises(UserError, match=r"^start .*start has changed since this run began"):
        train(replace(preferring, stop=None), tmp_path / "run", resume=True)


def test_a_batch_counts_its_pairs_alike_whatever_its_parts(preferring, built, tmp_path):
    """Gradients of one micro-batch and of two are those of the mean over all pairs."""
    train(replace(preferring, stop=1), tmp_path / "run")
    decisions = load_decisions(tmp_path / "run" / DECISIONS)
    norms = []
    for micro in (None, 1):
        recipe = replace(preferring, micro_batch=micro)
        learner = make_learner(recipe, decisions, torch.device("cpu"))
        assert isinstance(learner, DPO)
        losses = learner.backward(open_dataset(recipe, built).step(0), 1)
        norms.append(learner.reduce(Group(), float(losses.count)))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


OPTIONS = ("--steps", 10, "--batch", 2, "--sequence", 32, "--rank", 2, "--beta", 0.5)


def test_the_command_says_what_held_out_pairs_say(shared_run, pairs, tmp_path):
    said = command("adapt", "dpo", shared_run, pairs, "--run", tmp_path / "run", *OPTIONS,
                   "--train", "lora", "--learning-rate", 0.01, "--json")  # fmt: skip
    assert said.code == 0, said.err
    found = said.json
    assert json.loads((tmp_path / "run" / "adaptation.json").read_text("utf-8")) == found
    corpus = ExamplesCorpus(tmp_path / "run-corpus")
    held = [e for e in corpus.examples("heldout") if e.rejected and e.rejected != e.answer]
    both = Pairs(corpus, "heldout", 32)
    for name, run in (("before", shared_run), ("after", tmp_path / "run")):
        scores = pair_log_likelihoods(load(run).model, both)
        right = float((scores[:, 0] > scores[:, 1]).double().mean())
        assert found[f"metric_{name}"] == pytest.approx(right) and found["scored"] == len(held)
    assert found["kl_divergence"]["mean"] > 0 and found["forgetting"]["after"] > 0
    assert found["scores"]["before"]["bits_per_byte"] != found["scores"]["after"]["bits_per_byte"]
    assert 0 < found["trained_parameters"] < found["base_parameters"]
    assert "trained parameters" in said.err and "moved from the base" in said.err


def test_cut_off_the_command_goes_on(shared_run, pairs, tmp_path, monkeypatch):
    words = ["adapt", "dpo", shared_run, pairs, *OPTIONS]
    whole = command(*words, "--run", tmp_path / "whole", "--json")
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
    assert a == b and a["trained_parameters"] == a["base_parameters"]
    ours, theirs = (load_tensors(tmp_path / n / WEIGHTS) for n in ("cut", "whole"))
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_what_cannot_be_preferred_is_refused_in_one_line(preferring, shared_run, tmp_path):
    plain = written(
        tmp_path / "plain.jsonl", [{"prompt": f"q{i}", "answer": "a"} for i in range(30)]
    )
    text = tmp_path / "text.txt"
    text.write_text("a line of a text that is long enough to be some\n" * 40, encoding="utf-8")

    def of(data, *more):
        name = f"run-{Path(data).suffix[1:]}{len(more)}"
        return command("adapt", "dpo", shared_run, data, "--run", tmp_path / name, *OPTIONS, *more)

    refused(of(plain), "have no rejected answers", "--fields rejected=NAME", code=1)
    refused(of(text), "is text", code=2)
    refused(of(plain, "--train", "nothing"), "unknown method nothing", code=2)
    with pytest.raises(WrongUse, match="name its run as start"):
        replace(preferring, start="")
    for wrong in ({"beta": 0.0}, {"label_smoothing": 0.5}, {"beta": -1.0}):
        with pytest.raises(WrongUse, match=next(iter(wrong))):
            PreferencesData(corpus="x", **wrong)
    short = replace(preferring, data=replace(preferring.data, sequence=4))
    with pytest.raises(UserError, match="no pair has answers that begin within"):
        open_dataset(short, preferring.data.open_corpus()).check()


def test_pairs_that_are_left_out_are_counted(shared_run, tmp_path):
    lines = [*records(12), {"prompt": "p", "answer": "a"}, {"prompt": "e", "chosen": "a", "rejected": "a"},
             {"prompt": "long " * 9, "chosen": "a", "rejected": "b"},
             {"prompt": "cut", "chosen": "a" * 50, "rejected": "b"}]  # fmt: skip
    path = written(tmp_path / "pairs.jsonl", lines)
    corpus = build_examples(tmp_path / "b", [path], load(shared_run).tokenizer, heldout=0.01)
    counts = [0, 0, 0, 0]
    for split in ("train", "heldout"):
        try:
            p = Pairs(corpus, split, 32)
        except UserError:
            continue
        found = (p.unpaired, p.equal, p.left_out, p.cut)
        counts = [a + b for a, b in zip(counts, found, strict=True)]
        assert len(p.notes()) == sum(n > 0 for n in found)
    equal = sum(line["chosen"] == line.get("rejected") for line in records(12))
    assert counts == [1, 1 + equal, 1, 1]


def test_the_help_says_the_default_rates(capsys):
    for name, rate in (("dpo", adapt_dpo.RATE), ("grpo", adapt_grpo.RATE)):
        with pytest.raises(SystemExit):
            main(["adapt", name, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert f"(default: {rate:g} of that of adapt METHOD)" in said
