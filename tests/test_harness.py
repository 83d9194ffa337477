"""One task file, one model: lm-evaluation-harness' scores are ours, by its model and by our adapter."""

import json
from functools import partial

import pytest
import torch
import yaml
from tiny_models import KINDS, Kind, byte_level, write_files, write_model

import maquette
from maquette.evaluation.tasks.config import read_task
from maquette.evaluation.tasks.evaluate import evaluate_task
from maquette.evaluation.tasks.load import task_from
from maquette.serving.hugging_face import import_model
from tests.conftest import command

CHOICE = "acc acc_norm acc_bytes acc_mutual_info exact_match brier_score".split()
WORDS = "cat mat sat hello world Hello the".split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random GPT-2 of transformers, and the run that is imported of it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    kind = Kind(
        lambda: byte_level("<|endoftext|>"),
        {"eos_token": "<|endoftext|>"},
        ("<|endoftext|>",),
        None,
    )
    tokenizer = kind.tokenizer()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_embd=32, n_layer=2, n_head=2, n_positions=96,
        initializer_range=0.4, bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "hf")
    write_files(folder / "hf", tokenizer, kind.settings | {"bos_token": "<|endoftext|>"})
    import_model(folder / "hf", folder / "run")
    return folder / "hf", folder / "run"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A random LLaMA whose tokenizer begins every text with a token."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pieces")
    write_model(folder / "hf", KINDS["pieces"])
    import_model(folder / "hf", folder / "run")
    return folder / "hf", folder / "run"


def files(folder):
    """Four tasks, a kind each, of two files of records."""
    folder.mkdir(exist_ok=True)
    for split, first in (("train", 100), ("test", 0)):
        rows = []
        for n in range(first, first + 9):
            names = [WORDS[(n + i) % 7] * (1 + i % 2) for i in range(3)]
            text = f"Hello world, the cat {n} sat on the mat. " * (1 + 3 * (n % 3))
            rows.append(
                {"q": f"the {WORDS[n % 7]} {n} sat ", "names": names, "gold": n % 3, "text": text}
            )
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    usual = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {s: str(folder / f"{s}.jsonl") for s in ("train", "test")}
        },
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": "Q: {{q}}\nA:",
        "doc_to_target": "{{names[gold]}}",
    }
    letter = {"function": "regex", "regex_pattern": "([a-z])"}
    first = {"function": "take_first"}
    tasks = {
        "ours_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "names",
            "doc_to_target": "gold",
            "description": "Hello.\n\n",
            "metric_list": [{"metric": name} for name in CHOICE],
        },
        "ours_first": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{[q, names[0]]}}",
            "doc_to_target": 1,
            "fewshot_config": {"sampler": "first_n"},
            "fewshot_delimiter": "\n",
        },
        "ours_likelihood": {
            "output_type": "loglikelihood",
            "doc_to_target": " {{names[gold]}}",
            "num_fewshot": 1,
        },
        "ours_rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
        },
        "ours_answer": {
            "output_type": "generate_until",
            "filter_list": [
                {"name": "letter", "filter": [letter, first]},
                {"name": "whole", "filter": [first]},
            ],
            "doc_to_target": "s",
            "generation_kwargs": {"until": ["\n", "the"], "max_gen_toks": 9},
        },
    }
    for name, fields in tasks.items():
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump({"task": name} | usual | fields), encoding="utf-8"
        )
    return folder, list(tasks)


@pytest.mark.parametrize(
    ("models", "shots"), [("folders", 0), ("folders", 2), ("folders", 5), ("pieces", 2)]
)
def test_scores_are_those_of_the_harness(models, tmp_path, shots, monkeypatch, request):
    """At 5 shots most requests are longer than the context.

    Where a tokenizer begins texts, the harness scores that token as a text's, and Maquette does not.
    """
    lm_eval = pytest.importorskip("lm_eval", reason="the extra [harness] is not installed")
    pytest.importorskip("accelerate", reason="which the harness' Hugging Face model needs")
    from lm_eval.tasks import TaskManager

    from maquette.workshop import harness

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    hf, run = request.getfixturevalue(models)
    folder, names = files(tmp_path / "tasks")
    if models == "pieces":
        names.remove("ours_rolling")
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def asked(model, **arguments):
        same = {"tasks": names, "num_fewshot": shots, "task_manager": manager}
        found = lm_eval.simple_evaluate(model=model, bootstrap_iters=100, **same, **arguments)
        return found["results"]

    theirs = asked("hf", model_args=f"pretrained={hf},dtype=float32", batch_size=3, device="cpu")
    adapted = asked(harness.MaquetteLM(run=str(run)))
    loaded = maquette.load(run)
    compared = 0
    for name in names:
        ours = evaluate_task(
            loaded.model, loaded.tokenizer, task_from(read_task(folder / f"{name}.yaml")), shots
        )
        for values in ours.metrics:
            key = f"{values.metric},{values.filter or 'none'}"
            expected, mean = theirs[name][key], values.mean()
            assert adapted[name][key] == pytest.approx(expected, rel=1e-4, abs=1e-6), (name, key)
            assert mean.mean == pytest.approx(expected, rel=1e-4, abs=1e-6), (name, key)
            stderr = theirs[name].get(f"{values.metric}_stderr,{values.filter or 'none'}")
            if (
                isinstance(stderr, float) and values.metric != "perplexity"
            ):  # whose stderr they draw
                assert mean.stderr == pytest.approx(stderr, rel=1e-4, abs=1e-6), (name, key)
            compared += 1
    assert compared == 6 + 2 + 2 + 2 + 3 * ("ours_rolling" in names)


def test_a_task_file_is_asked_by_the_command(folders, tmp_path):
    folder, names = files(tmp_path / "tasks")
    said = command(
        "eval", folders[1], *(folder / f"{n}.yaml" for n in names), "--shots", "2,0", "--json"
    )
    assert said.code == 0, said.err
    tasks = said.json["tasks"]
    assert list(tasks) == names
    choice = tasks["ours_choice"]
    assert (choice["shots"], choice["metric"], choice["examples"]) == (2, "acc", 9)
    assert [entry["shots"] for entry in choice["curve"]] == [0, 2]
    assert choice["curve"][1]["metrics"] == choice["metrics"]
    assert choice["acc"] == choice["metrics"]["acc"]["value"]
    assert choice["contaminated"] is None
    assert tasks["ours_answer"]["metric"] == "exact_match,letter"
    single = command(
        "eval", folders[1], folder / "ours_likelihood.yaml", "--limit", 4, "--json"
    ).json
    entry = single["tasks"]["ours_likelihood"]
    assert (entry["shots"], entry["examples"]) == (1, 4)  # num_fewshot


def test_a_mistake_in_the_harness_command_is_one_line(tmp_path, monkeypatch, capsys):
    """Its own command takes seconds to begin: here is only what it does with the model's arguments."""
    pytest.importorskip("lm_eval", reason="the extra [harness] is not installed")
    from maquette.workshop import harness

    wrong = {
        f"run={tmp_path / 'none'}": "none does not exist: name a run directory",
        "run=x,revision=main": "model_args revision: write --model_args run=",
    }
    for arguments, said in wrong.items():
        made = partial(harness.MaquetteLM.create_from_arg_string, arguments, {"batch_size": 1})
        monkeypatch.setattr("lm_eval.__main__.cli_evaluate", made)
        with pytest.raises(SystemExit) as ended:
            harness.main()
        assert ended.value.code in (1, 2)
        assert said in capsys.readouterr().err.splitlines()[-1]
