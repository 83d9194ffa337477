"""Self-instruct: what is read from what a model writes, what is dropped, a job that is cut off anywhere."""

import json
from dataclasses import replace
from random import Random

import pytest
from conftest import command, refused

from maquette.adaptation.recipes import AdaptOptions
from maquette.adaptation.rouge_l import RougePool
from maquette.adaptation.self_instruct import (
    Instruction,
    SelfInstructOptions,
    chosen,
    fault,
    instances,
    items,
    listed,
    sound,
    worked,
)
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock, write_json
from maquette.models.store import WEIGHTS
from maquette.serving.generate import Generated
from maquette.training.run_terms import terms_of
from maquette.workshop import adapt_self_instruct
from maquette.workshop.adapt_self_instruct import GENERATED, read_seeds, self_instruct
from maquette.workshop.load import Loaded
from maquette.workshop.train import train


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        ("the cat sat on the mat", "the cat on the mat sat", 2 * 5 / 12),
        ("Reverse the letters of this word.", "reverse THE letters of the word", 2 * 5 / 12),
        ("a b c", "a x b y c z", 2 * 3 / 9),
        ("one two", "three four", 0.0),
        ("same words", "same words", 1.0),
        ("it's", "it s", 1.0),  # rouge-score divides at all but letters and digits
        ("", "words", 0.0),
    ],
)
def test_rouge_l_is_rouge_scores(a, b, score):
    assert RougePool([a]).scores(b)[0] == pytest.approx(score)
    assert RougePool(["some other text", b, "x"]).scores(a)[1] == pytest.approx(score)


def test_rouge_l_of_many_is_the_longest_common_subsequence():
    draw = Random(0)
    texts = [" ".join(draw.choices("abcd", k=draw.randrange(1, 9))) for _ in range(30)]
    pool = RougePool(texts)
    for text in [*texts[:8], "a z b", "y"]:
        words = text.split()
        for other, score in zip(texts, pool.scores(text), strict=True):
            table = {(-1, j): 0 for j in range(-1, 9)} | {(i, -1): 0 for i in range(9)}
            for i, x in enumerate(words):
                for j, y in enumerate(other.split()):
                    table[i, j] = (
                        table[i - 1, j - 1] + 1 if x == y else max(table[i - 1, j], table[i, j - 1])
                    )
            common = table[len(words) - 1, len(other.split()) - 1]
            assert score == pytest.approx(2 * common / (len(words) + len(other.split())))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Count the words.", "fewer than 4 words"),
        ("word " * 151, "more than 150 words"),
        ("Describe what is in this picture.", "the word picture"),
        ("Go to the page and read it.", "the word go to"),
        ("Write a program that adds numbers.", "asks for a program"),
        ("- Say how many there are.", "begins with punctuation"),
        ("Écris le mot à l'envers.", "begins with a letter that is not ASCII"),
        ("Say what a mapping of words is.", ""),
    ],
)
def test_an_instruction_is_dropped_for_a_reason(text, reason):
    assert fault(text, SelfInstructOptions()) == reason


def test_instructions_are_read_from_a_list():
    text = " Sort the words.\n10. Count\n the letters. \n11.\n12. Cut o"
    assert items(text, False, 8) == ["Sort the words.", "Count the letters.", "Cut o"]
    assert items(text, True, 8) == ["Sort the words.", "Count the letters."]
    assert items(text, False, 1) == ["Sort the words."]
    shown = listed([Instruction("Do this.", "a"), Instruction("Do that.", "b")])
    assert shown.splitlines()[1:] == ["1. Do this.", "2. Do that.", "3."]


def test_instances_are_read_and_those_that_contradict_are_left_out():
    text = "Example 1\nInput: cat\nOutput: tac\nExample 2\nInput: a\nb\nOutput: b\na\nExample 3\nInput: x"
    assert instances(text, False, False) == [("cat", "tac"), ("a\nb", "b\na")]
    assert instances("Example 1\nOutput: alone", False, False) == [("", "alone")]
    cut = "Example 1\nInput: cat\nOutput: tac\nExample 2\nInput: dog\nOutput: go"
    assert instances(cut, False, True) == [("cat", "tac")]
    labels = "Label: yes\nInput: level\nLabel: no\nInput: cat"
    assert instances(labels, True, False) == [("level", "yes"), ("cat", "no")]
    found = [("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("c", ""), ("d", "d"), ("e", "5")]
    kept, left_out = sound(found, False)
    assert kept == [("a", "1"), ("e", "5")]
    assert left_out == {"duplicate": 1, "contradictory": 2, "empty": 1, "output is the input": 1}


def test_what_is_written_is_what_is_read():
    """A prompt's examples are in the form that instances are read in."""
    seed = Instruction("Spell it backwards.", "a", instances=[("cat", "tac"), ("dog", "god")])
    for labels in (False, True):
        text = worked([seed], "Sort it.", labels).split("Task: Spell it backwards.\n")[1]
        assert instances(text.split("\n\n")[0], labels, False) == seed.instances


def test_a_prompt_shows_six_seeds_and_two_of_its_own():
    seeds = [Instruction(str(n), "a") for n in range(20)]
    own = [Instruction(str(n), "round 1") for n in range(9)]
    options = SelfInstructOptions()
    for count in (0, 1, 9):
        shown = chosen(seeds, own[:count], options, Random(1))
        assert len(shown) == 8 and sum(one.origin == "round 1" for one in shown) == min(2, count)


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", 0), ("rouge_l", 0.0), ("samples", 2), ("written", "{instruction}")],
)
def test_settings_that_cannot_be_are_refused(field, value):
    with pytest.raises(WrongUse):
        SelfInstructOptions(**{field: value})


SEEDS = [
    {"instruction": f"Give the {word} of them all.", "input": "b a c", "output": word}
    for word in "first last best worst".split()
] + [{"instruction": "Is it a vowel?", "input": "a", "output": "yes", "is_classification": True},
     {"instruction": "Is it a vowel?", "input": "b", "output": "no", "is_classification": True}]  # fmt: skip


@pytest.fixture
def base(recipe, tmp_path):
    """A run whose context holds a prompt."""
    model = replace(recipe.model, context=320)
    train(replace(recipe, model=model, steps=2), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in SEEDS), encoding="utf-8")
    return path


def test_seeds_are_read_in_every_form(tmp_path, seeds):
    read = read_seeds(seeds)
    assert len(read) == 5 and read[-1].labels and not read[0].labels
    assert read[-1].instances == [("a", "yes"), ("b", "no")]
    path = tmp_path / "other.json"
    path.write_text(
        json.dumps([{"instruction": "x", "instances": [{"input": "a", "output": "b"}]},
                    {"prompt": "y", "answer": 3}]), encoding="utf-8")  # fmt: skip
    assert [(one.text, one.instances) for one in read_seeds(path)] == [
        ("x", [("a", "b")]),
        ("y", [("", "3")]),
    ]
    for line, message in (
        ({"input": "a"}, "no instruction"),
        ({"instruction": "a"}, "no output"),
        (3, "no object"),
    ):
        path.write_text(json.dumps([line]), encoding="utf-8")
        with pytest.raises(UserError, match=f"other.json:1.*{message}"):
            read_seeds(path)


def scripted(self, prompts, *, tokens, sampling, stop):
    """A model that writes instructions, some of them bad, and instances, by the seed alone."""
    found = []
    for row, prompt in enumerate(prompts):
        draw = Random(f"{sampling.seed} {row} {prompt}")
        words = draw.sample("alpha beta gamma delta epsilon zeta eta theta".split(), 5)
        if prompt.startswith("Come up with a series"):
            text = f" {' '.join(words)}.\n9. Too short.\n10. {SEEDS[0]['instruction']}\n"
            text += f"11. Draw {' '.join(words)}"
        elif prompt.startswith("Is the answer"):
            text = draw.choice(["Yes", "No", "no idea"])
        elif "label" in prompt.splitlines()[0]:
            text = f"Label: yes\nInput: {words[0]}\nLabel: no\nInput: {words[1]}"
        else:
            text = f"Example 1\nInput: {words[0]}\nOutput: {words[1]}\nExample 2\nInput: {words[0]}"
            text += f"\nOutput: {words[1]}"
        found.append(Generated(text, [], "stop"))
    return found, None


OPTIONS = SelfInstructOptions(count=20, rounds=4, prompts=3, shown=4, items=4)
LEARNING = AdaptOptions("full", steps=6, batch=2, sequence=128)


def taught(base, seeds, path, resume=False):
    return self_instruct(base, seeds, path, OPTIONS, LEARNING, tokens=16, resume=resume)


def test_a_job_that_is_cut_off_anywhere_goes_on_to_the_same(base, seeds, tmp_path, monkeypatch):
    monkeypatch.setattr(Loaded, "generate_batch", scripted)
    term = {"licence": "llama2", "source": "the model", "forbids": ["others"]}
    write_json(base / "terms.json", [term])
    whole = taught(base, seeds, tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / GENERATED).open(encoding="utf-8")]
    own = [row for row in rows if row["origin"].startswith("round")]
    kept = [row for row in own if not row["dropped"]]
    assert len(kept) == whole.to_dict()["instructions"] > 2
    assert {row["dropped"] for row in own} == {
        "", "fewer than 4 words", "ROUGE-L above 0.7", "the word draw"}  # fmt: skip
    assert all(row["rouge_l"] <= 0.7 and row["nearest"] for row in kept)
    assert all(row["instances"] for row in kept)
    assert {row["labels"] for row in kept} == {True, False}
    examples = (tmp_path / "whole-written" / "examples.jsonl").read_text(encoding="utf-8")
    prompts = [json.loads(line)["prompt"] for line in examples.splitlines()]
    assert len(prompts) == sum(len(r["instances"]) for r in rows if not r["dropped"])
    by_model = [json.loads(line) for line in examples.splitlines() if "round" in line]
    assert by_model and all(row["licence"] == "llama2" for row in by_model)
    assert "licence" not in json.loads(examples.splitlines()[0])  # of a seed
    assert {term.licence for term in terms_of(tmp_path / "whole")} == {"llama2"}
    assert f"{SEEDS[0]['instruction']}\nInput: b a c\nOutput:" in prompts
    keeps = whole.written.rounds + 2  # rounds, one batch of instances, the end
    calls = []
    write = adapt_self_instruct.write_json

    class Killed(BaseException):
        pass

    def dies_after(*arguments):
        write(*arguments)
        calls.append(arguments)
        raise Killed

    for point in range(keeps + 1):  # after each of them, and then in the training
        name = "again"
        if point < keeps:
            monkeypatch.setattr(adapt_self_instruct, "write_json", dies_after)
        else:
            monkeypatch.setattr(adapt_self_instruct, "write_json", write)
            monkeypatch.setattr("maquette.workshop.adapt_text.train", dies_after_training)
        with pytest.raises((Killed, KeyboardInterrupt)):
            taught(base, seeds, tmp_path / name, resume=point > 0)
    monkeypatch.undo()
    monkeypatch.setattr(Loaded, "generate_batch", scripted)
    again = taught(base, seeds, tmp_path / "again", resume=True)
    assert len(calls) == keeps
    for file in (WEIGHTS, GENERATED):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    same = ("metric_after", "dropped", "instances", "rounds", "forgetting")
    assert [again.to_dict()[k] for k in same] == [whole.to_dict()[k] for k in same]
    with pytest.raises(WrongUse, match="other settings"):
        self_instruct(base, seeds, tmp_path / "again", SelfInstructOptions(), LEARNING,
                      tokens=16, resume=True)  # fmt: skip
    with pytest.raises(WrongUse, match="exists"):
        taught(base, seeds, tmp_path / "again")


def test_a_corpus_of_another_run_is_refused_before_anything_is_written(base, seeds, tmp_path):
    (tmp_path / "run-corpus").mkdir()
    (tmp_path / "run-corpus" / "manifest.json").touch()
    for resume in (False, True):
        with pytest.raises(WrongUse, match="run-corpus"):
            taught(base, seeds, tmp_path / "run", resume=resume)
    assert not (tmp_path / "run-written").exists()


def dies_after_training(recipe, path, **options):
    train(recipe, path, **options)
    raise KeyboardInterrupt


def test_the_command_says_what_was_written_and_dropped(base, seeds, tmp_path):
    """A model that writes noise learns the seeds alone."""
    words = ("adapt", "self-instruct", base, seeds, "--run", tmp_path / "run", "--steps", 4)
    said = command(*words, "--batch", 2, "--rounds", 1, "--prompts", 2, "--tokens", 8, "--shown", 2,
                   "--sequence", 128, "--json")  # fmt: skip
    assert said.code == 0, said.err
    kept = json.loads((tmp_path / "run" / "adaptation.json").read_text(encoding="utf-8"))
    assert kept == said.json and kept["method"] == "self-instruct" and kept["seeds"] == 5
    assert kept["instructions"] == 0 and "the seeds alone" in said.err
    refused(command(*words), "exists: choose another --run", code=2)
    with lock(tmp_path / ".run.lock"):
        refused(command(*words, "--resume"), "by another process", code=2)
    refused(command("adapt", "self-instruct", base, tmp_path / "none", "--run", tmp_path / "x"),
            "none", code=1)  # fmt: skip
