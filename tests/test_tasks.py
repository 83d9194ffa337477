"""Tasks: what a file says is followed or refused with its line, and what is asked is what is meant."""

import json
import random

import pytest
import torch
import yaml

import maquette
from maquette.base.errors import UserError
from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer
from maquette.evaluation.encoding import PairEncoder
from maquette.evaluation.likelihood import log_likelihoods
from maquette.evaluation.tasks.builtin import builtin_task, task_names
from maquette.evaluation.tasks.config import read_task, task_config
from maquette.evaluation.tasks.evaluate import evaluate_task
from maquette.evaluation.tasks.filters import FILTERS
from maquette.evaluation.tasks.load import open_task, task_from
from maquette.evaluation.tasks.metrics import exact_match
from maquette.evaluation.tasks.task import Task
from maquette.models import families
from maquette.models.store import WEIGHTS, save_config, save_tensors
from tests.conftest import ROOT, command, process, refused

ROWS = [
    {"land": "France", "cities": ["Paris", "Lyon"], "right": 0, "name": "Paris"},
    {"land": "Spain", "cities": ["Vigo", "Madrid", "Soria"], "right": 1, "name": "Madrid"},
    {"land": "Italy", "cities": ["Rome", "Bari"], "right": 0, "name": "Rome"},
]
CHOICE = """\
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {train: shots.jsonl, test: rows.jsonl}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "The capital of {{land}} is"
doc_to_choice: cities
doc_to_target: right
"""


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("shots", ROWS[:2]), ("rows", ROWS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A random model of bytes, as an imported run."""
    path = tmp_path_factory.mktemp("run")
    config = families.llama(vocabulary=257, context=160, width=32, depth=1, heads=2)
    model = config.build().initialise(0)
    save_config(path, config)
    save_tensors(path / WEIGHTS, dict(model.named_parameters()))
    save_tokenizer(byte_tokenizer(), path / "tokenizer.json")
    return path


def written(folder, text, name="t.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def changed(text, **fields):
    """A task file with other fields, in their order; None: without."""
    content = yaml.safe_load(text) | fields
    return yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False)


def test_a_prompt_is_description_examples_and_question(folder):
    task = task_from(read_task(written(folder, changed(CHOICE, description="Towns:\n", target_delimiter="~",
                                                       fewshot_config={"sampler": "first_n"}))))  # fmt: skip
    shown = "The capital of France is~Paris\n\nThe capital of Spain is~Madrid\n\n"
    assert task.prefixes(2) == ["Towns:\n" + shown] * 3
    first, second, _ = task.questions()
    assert (first.text, first.choices, first.right) == (
        "The capital of France is",
        ("Paris", "Lyon"),
        (0,),
    )
    assert second.answer == "Madrid"
    assert [q.text for q in task.questions(1)] == [first.text]


def test_examples_of_the_questions_split_are_never_the_question(folder):
    for sampler in ("first_n", "default"):
        config = {"sampler": sampler}
        text = changed(CHOICE, fewshot_split="test", fewshot_config=config)
        task = task_from(read_task(written(folder, text)))
        assert task.available == 2
        for prefix, question in zip(task.prefixes(2), task.questions(), strict=True):
            assert question.text not in prefix
            assert prefix.count("capital") == 2
    with pytest.raises(UserError, match="2 examples to show, 3 are asked for"):
        task.prefixes(3)


FAULTS = [
    (changed(CHOICE, doc_to_txt="x"), ["t.yaml:13: doc_to_txt is no field", "did you mean 'doc_to_text'"]),
    (changed(CHOICE, output_type="multiple"), ["t.yaml:9: output_type", "did you mean 'multiple_choice'"]),
    (changed(CHOICE, doc_to_choice=None), ["doc_to_choice is missing"]),
    (changed(CHOICE, doc_to_choice=[]), ["t.yaml:11: doc_to_choice is an empty list"]),
    (changed(CHOICE, doc_to_choice="{{[]}}"), ["t.yaml:11: doc_to_choice gives an empty list", "rows.jsonl"]),
    (changed(CHOICE, doc_to_choice="{{land}}"), ["doc_to_choice gives no list"]),
    (changed(CHOICE, doc_to_choice=["a", ""], doc_to_target=0), ["gives an empty choice"]),
    (changed(CHOICE, doc_to_text="{{ land[:0] }} "), ["t.yaml:10: doc_to_text renders nothing"]),
    (changed(CHOICE, doc_to_text="{{country}}"), ["asks for what is not there", "'country'", "land, cities"]),
    (changed(CHOICE, doc_to_text="{{land"), ["t.yaml:10: doc_to_text is no template"]),
    (changed(CHOICE, doc_to_text="{{ ''.__class__.__mro__ }}"), ["doc_to_text", "unsafe"]),
    (changed(CHOICE, doc_to_target=7), ["doc_to_target is 7: it must be one of the choices (Paris, Lyon)"]),
    (changed(CHOICE, metric_list=[{"metric": "f2"}]), ["metric_list has f2", "choose from"]),
    (changed(CHOICE, metric_list=[{"metric": "acc", "ignore_case": True}]), ["gives acc the option"]),
    (changed(CHOICE, metric_list=[{"metric": "acc", "aggregation": "median"}]), ["aggregates acc by median"]),
    (changed(CHOICE, fewshot_config={"sampler": "balanced"}), ["the sampler balanced"]),
    (changed(CHOICE, fewshot_split="dev"), ["fewshot_split is dev", "train, test"]),
    (changed(CHOICE, test_split=None), ["test_split is missing"]),
    (changed(CHOICE, dataset_path="allenai/ai2_arc"), ["t.yaml:2: dataset_path", "no local data"]),
    (changed(CHOICE, dataset_kwargs={"data_files": {"test": "no.jsonl"}}), ["names no.jsonl, which is not"]),
    (changed(CHOICE, process_docs="x"), ["process_docs asks for Python code"]),
    (changed(CHOICE, num_fewshot=-1), ["num_fewshot is -1"]),
    (changed(CHOICE, filter_list=[{"name": "a", "filter": [{"function": "regx"}]}]), ["'regex'"]),
    (changed(CHOICE, filter_list=[{"name": "a", "filter": [{"function": "regex", "regex_pattern": "("}]}]),
     ["is no expression"]),
    (changed(CHOICE, generation_kwargs={"max_gen_toks": 0}), ["max_gen_toks 0"]),
    (changed(CHOICE, generation_kwargs={"stop": "x"}), ["generation_kwargs has stop"]),
    (changed(CHOICE, generation_kwargs={"temperature": "hot"}), ["temperature 'hot': use a number"]),
    (changed(CHOICE, generation_kwargs={"top_k": 0.5}), ["top_k 0.5: use a number"]),
    (changed(CHOICE, generation_kwargs={"restrict": {"regex": 5}}), ["has restrict: write choices"]),
    (changed(CHOICE, metric_list=[{"metric": "exact_match", "regexes_to_ignore": ["("]}]), ["no expression"]),
    (changed(CHOICE, metric_list=[{"metric": "exact_match", "regexes_to_ignore": ","}]), ["list of texts"]),
    (changed(CHOICE, fewshot_config={"samples": [{"land": "a"}], "fewshot_indices": [1]}),
     ["fewshot_indices [1]: list places of the 1 samples"]),
    ("include: t.yaml\n", ["t.yaml includes itself"]),
    (CHOICE + "process_docs: !function utils.process\n", ["t.yaml:11", "!function is Python code"]),
    ("task: [", ["t.yaml:1"]),
    ("- a", ["t.yaml is no task"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), FAULTS)
def test_what_cannot_be_followed_is_one_line_before_anything_is_scored(folder, run, text, parts):
    path = written(folder, text)
    refused(command("eval", run, path), *parts, code=1)


def test_a_file_includes_another(folder):
    written(folder, CHOICE, "base.yaml")
    task = read_task(written(folder, "include: base.yaml\ntask: other\ntarget_delimiter: ''\n"))
    assert (task.task, task.target_delimiter, task.doc_to_target) == ("other", "", "right")


@pytest.mark.parametrize("kind", ["csv", "parquet", "text"])
def test_records_are_read_from_other_files(folder, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"n{i}", "right": i % 2} for i in range(4)]
    path = folder / f"rows.{'txt' if kind == 'text' else kind}"
    if kind == "csv":
        path.write_text(
            "text,right\n" + "".join(f"n{i},{i % 2}\n" for i in range(4)), encoding="utf-8"
        )
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(f"n{i}\n" for i in range(4)), encoding="utf-8")
    text = changed(CHOICE, dataset_path=kind, dataset_kwargs={"data_files": path.name}, test_split="train",
                   fewshot_split=None, doc_to_text="text", doc_to_choice=["no", "yes"],
                   doc_to_target=0 if kind == "text" else "right")  # fmt: skip
    questions = task_from(read_task(written(folder, text))).questions()
    assert [q.text for q in questions] == ["n0", "n1", "n2", "n3"]
    assert [q.answer for q in questions] == (["no"] * 4 if kind == "text" else ["no", "yes"] * 2)


def test_a_calibrated_score_is_over_that_of_a_question_that_says_nothing(folder, run):
    """By the definition, request by request: Zhao et al. 2021."""
    metrics = [{"metric": "acc"}, {"metric": "acc_calibrated"}]
    choices = ["red", "blue", "green"]
    text = changed(CHOICE, doc_to_choice=choices, doc_to_target=2, metric_list=metrics,
                   fewshot_config={"sampler": "first_n"})  # fmt: skip
    task = task_from(read_task(written(folder, text)))
    loaded = maquette.load(run)
    found = evaluate_task(loaded.model, loaded.tokenizer, task, 1)
    assert [values.name for values in found.metrics] == ["acc", "acc_calibrated"]
    encode = PairEncoder(loaded.tokenizer)

    def scores(land):
        prompt = f"The capital of France is green\n\nThe capital of {land} is"
        one_by_one = [log_likelihoods(loaded.model, [encode(prompt, f" {c}")])[0] for c in choices]
        return torch.tensor([one.log_likelihood for one in one_by_one])

    prior = torch.stack([scores(said).softmax(0) for said in ("N/A", "[MASK]", "")]).mean(0)
    expected = [float((scores(row["land"]) - prior.log()).argmax() == 2) for row in ROWS]
    assert found.metrics[1].values.tolist() == expected
    plain = [float(scores(row["land"]).argmax() == 2) for row in ROWS]
    assert found.metrics[0].values.tolist() == plain


def test_answers_are_held_to_the_choices(folder, run):
    pytest.importorskip("llguidance", reason="the extra [restrict] is not installed")
    how = {"restrict": "choices", "temperature": 2.0, "max_gen_toks": 12}
    text = changed(CHOICE, output_type="generate_until", repeats=2, generation_kwargs=how)
    task = task_from(read_task(written(folder, text)))
    loaded = maquette.load(run)
    found = evaluate_task(loaded.model, loaded.tokenizer, task, 1)
    for answer, row in zip(found.answers, ROWS, strict=True):
        assert answer in row["cities"]


def test_filters_and_what_exact_match_ignores():
    answers = [" The answer is 12, or 7.", "7"]
    ways = {
        "regex": FILTERS["regex"](regex_pattern=r"(\d+)", group_select=-1),
        "first": FILTERS["take_first"](),
        "vote": FILTERS["majority_vote"](),
        "map": FILTERS["map"](mapping_dict={"7": "seven"}, default_value="none"),
        "space": FILTERS["remove_whitespace"](),
    }
    assert ways["regex"](answers) == ["7", "7"]
    assert ways["first"](answers) == answers[:1]
    assert ways["vote"](["a", "b", "b"]) == ["b"]
    assert ways["map"](answers) == ["none", "seven"]
    assert ways["space"](answers)[0][0] == "T"
    assert FILTERS["regex"](regex_pattern="x")(["y"]) == ["[invalid]"]
    assert (
        exact_match("Yes!", ["no", "yes"], {"ignore_case": True, "ignore_punctuation": True}) == 1
    )
    assert exact_match("Yes", ["yes"], {}) == 0
    assert exact_match("a1b2", ["ab"], {"ignore_numbers": True}) == 1
    assert exact_match("x ab", ["ab"], {"regexes_to_ignore": ["x "]}) == 1


def test_another_seed_shows_other_examples_before_the_same_questions(run):
    one, other = builtin_task("reversed_words", 9), builtin_task("reversed_words", 9, seed=1)
    assert one.questions() == other.questions()
    assert one.prefixes(3)[0] != other.prefixes(3)[0]


def perfect(task, questions):
    """Whether exact_match of a task's own answers is 1 after its filters."""
    steps = task.config.filter_list[0][1]
    answers = [" " + q.answer for q in questions]
    return all(
        steps[1](steps[0]([answer])) == [q.targets[0]]
        for answer, q in zip(answers, questions, strict=True)
    )


@pytest.mark.parametrize("name", task_names())
def test_a_built_in_task_can_be_asked(name):
    task = builtin_task(name, 12)
    questions = task.questions()
    assert len(questions) == 12
    assert task.available >= 8
    assert len(set(task.prefixes(4))) == (12 if name in ("letter_map", "linear_function") else 1)
    if task.config.output_type == "generate_until":
        assert perfect(task, questions)
        assert (
            max(len(q.answer) for q in questions)
            <= task.config.generation_kwargs["max_gen_toks"] - 2
        )
        assert not any(
            stop in q.answer for q in questions for stop in task.config.generation_kwargs["until"]
        )


def test_a_model_that_knows_the_answers_scores_all(run, monkeypatch):
    """An oracle in place of the model's likelihoods: the right choice is found wherever it stands."""
    loaded = maquette.load(run)
    from maquette.evaluation.likelihood import Likelihood
    from maquette.evaluation.tasks import evaluate

    for name in ("invented_words", "facts_two_hops", "sentiment"):
        task = builtin_task(name, 20)
        wanted = {q.text: q.answer for q in task.questions()}
        draw = random.Random(0)

        def oracle(model, requests, progress=None, wanted=wanted, draw=draw):
            texts = [loaded.tokenizer.decode(r.context + r.continuation) for r in requests]
            right = [any(text.endswith(f"{q} {a}") for q, a in wanted.items()) for text in texts]
            return [Likelihood(-1.0 if r else -50 - draw.random(), r) for r in right]

        monkeypatch.setattr(evaluate, "log_likelihoods", oracle)
        found = evaluate_task(loaded.model, loaded.tokenizer, task, 2)
        assert found.metrics[0].mean().mean == 1.0, name


def test_the_command_asks_built_in_tasks(run):
    said = command(
        "eval", run, "letter_map", "arithmetic_2da", "--shots", "0,2", "--limit", 6, "--json"
    )
    assert said.code == 0, said.err
    assert "2 of" not in said.err or "longer than the context" in said.err
    tasks = said.json["tasks"]
    assert tasks["arithmetic_2da"]["exact_match"] == 0.0
    assert tasks["letter_map"]["examples"] == 6
    assert "letter_map" in command("eval", "--list").out
    refused(command("eval", run, "arithmetic_2d"), "no task and no file", "did you mean", code=2)
    refused(command("eval", run, "letter_map", "--shots", "a"), "no list of numbers", code=2)
    refused(command("eval", run, "letter_map", "--shots", "40"), "32 examples to show", code=1)
    refused(command("eval", run, "--limit", "3"), "--limit is for tasks", code=2)
    refused(command("eval"), "no run is named", code=2)


def test_what_is_in_the_training_text_is_said_beside_the_score(trained, corpus, tmp_path):
    """Of four questions one is a passage of a training document."""
    row = next(row for row in corpus.documents.to_pylist() if row["split"] == "train")
    passage = corpus.tokenizer.decode(corpus.train.read(row["offset"], 200).tolist())[:180]
    rows = [{"q": passage}] + [{"q": " ".join(f"w{n}x{i}" for i in range(20))} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content = yaml.safe_load(CHOICE) | {
        "task": "seen",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "fewshot_split": None,
        "doc_to_text": "q",
        "doc_to_choice": ["a", "b"],
        "doc_to_target": 0,
    }
    path = written(tmp_path, yaml.safe_dump(content))
    said = command("eval", trained, path, "--json")
    task = said.json["tasks"]["seen"]
    assert task["contaminated"] == 0.25
    assert [task["metrics"]["acc"][side]["examples"] for side in ("clean", "dirty")] == [3, 1]
    assert "1 of 4 questions are in the training text" in said.err
    assert task["truncated"] == 8  # of a context of 32
    assert "8 of 8 requests are longer than the context of 32" in said.err


def test_a_task_may_be_made_in_python(run):
    config = task_config(
        {"task": "mine", "output_type": "loglikelihood", "doc_to_text": "q", "doc_to_target": "a"}
    )
    task = Task(config, [({"q": "one", "a": " two"}, "")], [])
    loaded = maquette.load(run)
    assert len(evaluate_task(loaded.model, loaded.tokenizer, task)) == 1
    assert loaded.evaluate("letter_map", shots=[1], limit=3)["letter_map"]["shots"] == 1
    assert open_task("letter_map").name == "letter_map"


def test_the_file_on_the_page_of_evaluation_is_a_task(tmp_path):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    rows = [{"country": "France", "cities": ["Lyon", "Paris"], "answer": "Paris"},
            {"country": "Spain", "cities": ["Madrid", "Vigo"], "answer": 0}]  # fmt: skip
    for name in ("shots", "capitals"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions = task_from(read_task(written(tmp_path, text))).questions()
    assert [q.answer for q in questions] == ["Paris", "Madrid"]
    assert questions[0].text == "The capital of France is"
    assert questions[0].neutral == tuple(f"The capital of {x} is" for x in ("N/A", "[MASK]", ""))


def test_the_world_on_the_page_of_evaluation_is_asked(tmp_path, run):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    written(tmp_path, f'"""Mine: a world of questions."""\n\n{code}', "mine.py")
    asked = process(
        "eval",
        run,
        "doubled",
        "--limit",
        "3",
        "--shots",
        "2",
        "--json",
        MAQUETTE_SYSTEMS=str(tmp_path),
    )
    out, err = asked.communicate(timeout=300)
    assert asked.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["tasks"]["doubled"]["examples"] == 3
