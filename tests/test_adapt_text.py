"""Adapting a language model: examples and text, every method, what is counted, scored and refused."""

import argparse
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import command, refused

from maquette.adaptation.methods import METHODS, PICTURES, count
from maquette.adaptation.recipes import AdaptOptions, by_depth
from maquette.base.errors import WrongUse
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.evaluation.bits_per_byte import score_corpus
from maquette.models.smlp_config import SMLPConfig
from maquette.models.store import WEIGHTS, load_config, load_tensors, save_tensors
from maquette.models.vit_config import ViTConfig
from maquette.nn.rules import Parametrisation
from maquette.training.parameter_groups import group_of
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import text_of
from maquette.training.schedule import learning_rate_factor
from maquette.workshop.adapt_data import data_of, holds_examples
from maquette.workshop.load import load, score_examples

OPTIONS = ("--steps", 12, "--batch", 8, "--sequence", 32, "--prompts", 3, "--rank", 2)


@pytest.fixture
def questions(tmp_path):
    """Sums of one digit, as records."""
    path = tmp_path / "questions.jsonl"
    lines = [{"prompt": f"{a}+{b}=", "completion": f" {a + b}"} for a in range(9) for b in range(9)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def adapt(method, base, source, path, *more):
    return command("adapt", method, base, source, "--run", path, *OPTIONS, *more, "--json")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in PICTURES])
def test_every_method_learns_answers_and_says_what_it_cost(method, trained, questions, tmp_path):
    """The numbers printed and kept are those of the two models on the held-out halves."""
    before = (trained / WEIGHTS).read_bytes()
    said = adapt(method, trained, questions, tmp_path / "run")
    assert said.code == 0, said.err
    found = said.json
    assert {"run", "trained_parameters", "metric_before", "metric_after"} <= found.keys()
    kept = json.loads((tmp_path / "run" / "adaptation.json").read_text(encoding="utf-8"))
    assert kept == found and found["metric"] == "bits per byte of held-out answers"
    config = load_config(trained)
    whole = config.parameters()
    counted = count(config, AdaptOptions(method, prompts=3, rank=2).adapter("text"))
    assert found["trained_parameters"] == counted.trained and found["base_parameters"] == whole
    assert (counted.trained == whole) is (method == "full")
    corpus = ExamplesCorpus(tmp_path / "run-corpus")
    first, last = load(trained), load(tmp_path / "run")
    assert found["metric_before"] == score_examples(first.model, corpus).bits_per_byte
    assert found["metric_after"] == score_examples(last.model, corpus).bits_per_byte
    assert found["metric_after"] < found["metric_before"]
    own = text_of(RunDirectory(trained))
    for name, loaded in (("before", first), ("after", last)):
        score = score_corpus(loaded.model, own, start=loaded.tokenizer.special.start)["all"]
        assert found["forgetting"][name] == score.bits_per_byte
    assert found["minutes"] > 0 and found["peak_memory"] > 0 and found["adapter"] == method
    assert found["stderr_after"] == score_examples(last.model, corpus).stderr > 0
    assert (trained / WEIGHTS).read_bytes() == before
    assert f"{counted.trained:,} trained parameters" in said.err and "MiB at the most" in said.err


@pytest.mark.parametrize(
    ("name", "lines", "kind"),
    [
        ("a.jsonl", ['{"text": "some words of a text"}'] * 40, "text"),
        ("a.csv", ["question,answer"] + [f"q{i},a{i}" for i in range(40)], "examples"),
        ("a.txt", ["a line of a text that is long enough to be some"] * 40, "text"),
        (
            "a.jsonl",
            [
                json.dumps(
                    {"messages": [{"role": "user", "content": f"q{i}"},
                                  {"role": "assistant", "content": "a"}]}
                )
                for i in range(40)
            ],
            "examples",
        ),
    ],
)  # fmt: skip
def test_files_become_the_corpus_that_they_are(name, lines, kind, corpus, tmp_path):
    path = tmp_path / name
    text = [line.replace("some", f"some {i}") for i, line in enumerate(lines)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    assert holds_examples(path) is (kind == "examples")
    data = data_of(str(path), tmp_path / "built", corpus.tokenizer, 16)
    assert data.kind == kind and data.corpus == str(tmp_path / "built")
    assert data.open_corpus().tokenizer.vocabulary == corpus.tokenizer.vocabulary
    assert data_of(str(tmp_path / "built"), tmp_path / "other", corpus.tokenizer, 16) == data
    again = (str(path), tmp_path / "built", corpus.tokenizer, 16)
    assert data_of(*again, resume=True) == data
    with pytest.raises(WrongUse, match="is in the way of the corpus"):  # it may be another file's
        data_of(*again)
    with pytest.raises(WrongUse, match="was built with other template"):
        data_of(*again, template="{prompt} {answer}", resume=True)
    with pytest.raises(WrongUse, match="was built with other fields"):
        data_of(*again, fields={"prompt": "other"}, resume=True)
    path.write_text("\n".join([*text, text[-1] + "1"]) + "\n", encoding="utf-8")
    with pytest.raises(WrongUse, match="was built with other data"):
        data_of(*again, resume=True)


def test_text_is_learned_as_text(trained, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("an altogether other kind of text, number by number. " * 200, encoding="utf-8")
    said = adapt("lora", trained, path, tmp_path / "run")
    assert said.code == 0, said.err
    assert said.json["metric"] == "bits per byte of held-out text"
    assert said.json["metric_after"] < said.json["metric_before"]


def test_an_all_mlp_is_adapted_where_it_has_places(recipe, questions, tmp_path):
    from maquette.workshop.train import train

    model = SMLPConfig(
        vocabulary=257, context=32, width=32, dense=1, sparse=1,
        parametrisation=Parametrisation(base_width=32, base_depth=2),
    )  # fmt: skip
    train(replace(recipe, model=model, steps=4), tmp_path / "smlp")
    for method in ("lora", "adapter"):
        said = adapt(method, tmp_path / "smlp", questions, tmp_path / method)
        assert said.code == 0, said.err
        assert said.json["metric_after"] < said.json["metric_before"]
    for method in ("prompt", "p-tuning", "prefix"):
        said = adapt(method, tmp_path / "smlp", questions, tmp_path / method)
        refused(said, "smlp has no attention", "use lora or bottleneck", code=2)
        assert not (tmp_path / method).exists()


STOP = """
import os, signal, sys
from maquette.cli.main import main
from maquette.training import optimiser
calls, original = [], optimiser.set_learning_rate
def dying(*given):
    calls.append(1)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given)
optimiser.set_learning_rate = dying
main(sys.argv[1:])
"""


@pytest.mark.parametrize("method", ["prefix", "full"])
def test_killed_and_resumed_it_is_the_one_that_was_not(method, trained, questions, tmp_path):
    more = ("--rate-decay", 2, "--unfreeze", 2) if method == "full" else ()
    whole = adapt(method, trained, questions, tmp_path / "whole", *more)
    assert whole.code == 0, whole.err
    words = ["adapt", method, trained, questions, "--run", tmp_path / "cut", *OPTIONS, *more]
    done = subprocess.run(
        [sys.executable, "-c", STOP, *map(str, words)], env=dict(os.environ), check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == -9
    assert not (tmp_path / "cut" / "adaptation.json").exists()
    refused(command(*words), "exists", "--resume", code=2)
    said = command(*words, "--resume", "--json")
    assert said.code == 0, said.err
    timings = {"run", "minutes", "peak_memory"}
    a, b = ({k: v for k, v in one.items() if k not in timings} for one in (said.json, whole.json))
    assert a == b


def test_rates_by_depth_fall_from_the_top_and_layers_thaw_one_after_the_other(trained):
    """Howard and Ruder 2018: 2.6 a layer; of a tied model and of a classifier too."""
    config = load_config(trained)
    groups = by_depth(config, 2.6, 50)
    rates = {n: group_of(n, groups)[1:] for n, _ in config.build().named_parameters()}
    assert rates["output.weight"] == rates["norm.weight"] == (1.0, 0)
    assert rates["blocks.1.attention.qkv.weight"] == (pytest.approx(1 / 2.6), 50)
    assert rates["blocks.0.feedforward.up.weight"] == (pytest.approx(1 / 2.6**2), 100)
    assert rates["embedding.weight"] == (pytest.approx(1 / 2.6**3), 150)
    tied = by_depth(replace(config, tied=True), 2.0, 0)
    assert "output.*" not in [pattern for pattern, _, _ in tied]
    heads = {p: (r, f) for p, r, f in by_depth(ViTConfig(depth=2), 2.0, 5)}
    assert heads["heads.*"] == (1.0, 0) and heads["*"] == (1 / 8, 15)
    schedule = AdaptOptions("full", rate_decay=2.6).schedule
    rates = [learning_rate_factor(schedule, step, 100) for step in range(100)]
    assert max(rates) == 1.0 and rates.index(1.0) == 9  # a tenth of the steps up, then down
    slopes = [a - b for a, b in itertools.pairwise(rates[10:])]
    assert all(math.isclose(slope, slopes[0], rel_tol=1e-6) for slope in slopes)
    assert rates[-1] == pytest.approx(1 / 32, abs=0.02)


def test_what_cannot_be_adapted_is_refused_in_one_line(trained, questions, tmp_path):
    run = ("--run", tmp_path / "run")

    def of(*words):
        return command("adapt", *words)

    refused(of("vpt-deep", trained, questions, *run), "not for a run of text", code=2)
    refused(of("lora", trained, questions, *run, "--label", "x"), "--label is not for", code=2)
    refused(of("lora", trained, questions, *run, "--rate-decay", 2), "are of full", code=2)
    refused(of("full", trained, questions, *run, "--rate-decay", 0.5), "at least 1", code=2)
    refused(of("lora", trained, *run), "DATA is missing", code=2)
    refused(of("lora", trained, tmp_path / "none", *run), "does not exist", code=1)
    refused(of("lora", tmp_path / "none", questions, *run), "does not exist", code=1)
    refused(of("lora", trained, questions, "--run", trained), "exists", code=2)
    refused(of("prompt", trained, questions, *run, "--prompts", 0), "use at least 1", code=2)
    bad = tmp_path / "bad.jsonl"
    lines = questions.read_text(encoding="utf-8").splitlines()
    bad.write_text("\n".join([*lines[:3], '{"prompt": "only"}', *lines[3:]]), encoding="utf-8")
    refused(of("lora", trained, bad, *run), "bad.jsonl:4 has no answer", code=1)
    assert not (tmp_path / "run").exists()


def test_full_fine_tuning_is_an_ordinary_run(trained, questions, tmp_path):
    assert adapt("full", trained, questions, tmp_path / "run").code == 0
    before, after = load_tensors(trained / WEIGHTS), load_tensors(tmp_path / "run" / WEIGHTS)
    assert set(before) == set(after)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    again = adapt("lora", tmp_path / "run", questions, tmp_path / "second")
    assert again.code == 0, again.err
    save_tensors(trained / WEIGHTS, {name: t + 1 for name, t in before.items()})
    said = adapt("full", trained, questions, tmp_path / "run", "--resume")
    refused(said, "has changed since", code=1)


def test_a_job_that_is_refused_is_not_in_the_way_of_the_corrected_one(trained, questions, tmp_path):
    """Whatever it is refused for: text, no pairs, a context that is too short."""
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing is asked here, it is a text. " * 60, encoding="utf-8")
    run = ("--run", tmp_path / "run")
    refused(command("adapt", "dpo", trained, notes, *run), "is text", code=2)
    refused(command("adapt", "grpo", trained, notes, *run), "is text", code=2)
    refused(command("adapt", "dpo", trained, questions, *run), "rejected", code=1)
    refused(command("adapt", "full", trained, questions, *run, "--sequence", 999), "999", code=2)
    assert not list(tmp_path.glob("run*"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    refused(command("adapt", "full", trained, questions, *run, "--sequence", 999), "999", code=2)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("adapt", ["template"]), ("adapt_black_box", ["template"]), ("adapt_dpo", ["template"]),
        ("adapt_grpo", ["template", "answer_after"]), ("adapt_self_instruct", ["written"]),
        ("adapt_star", ["template", "answer_after", "hint"]), ("corpus_examples", ["template"]),
        ("chat", ["system"]), ("generate", ["stop"]),
    ],
)  # fmt: skip
def test_a_line_end_is_written_alike_in_every_option(verb, options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"maquette.cli.{verb}").configure(parser)
    actions = {action.dest: action for action in parser._actions}
    assert all(actions[name].type("a\\nb") == "a\nb" for name in options)
