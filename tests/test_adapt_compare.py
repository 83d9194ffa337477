"""Comparing methods: every one on the same data, resumed, recommended for a reason that holds."""

import json
import math
import shutil

import pytest
from conftest import command, refused

from maquette.evaluation.bits_per_byte import Score
from maquette.workshop.adapt_compare import recommended

OPTIONS = ("--steps", 8, "--batch", 4, "--sequence", 32, "--prompts", 2, "--rank", 2)


@pytest.fixture
def questions(tmp_path):
    """Sums of one digit, as records."""
    path = tmp_path / "questions.jsonl"
    lines = [{"prompt": f"{a}+{b}=", "completion": f" {a + b}"} for a in range(9) for b in range(9)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def compare(base, source, folder, *more):
    return command("adapt", "compare", base, source, "--run", folder, *OPTIONS, *more, "--json")


def test_methods_are_compared_and_a_comparison_that_was_cut_off_goes_on(
    trained, questions, tmp_path
):
    folder = tmp_path / "compared"
    said = compare(trained, questions, folder, "--methods", "lora,bias,full")
    assert said.code == 0, said.err
    found = said.json
    assert json.loads((folder / "comparison.json").read_text(encoding="utf-8")) == {
        name: value for name, value in found.items() if name != "picture"
    }
    scores = [one["metric_after"] for one in found["methods"]]
    assert scores == sorted(scores) and len(scores) == 3
    assert {one["metric_before"] for one in found["methods"]} == {
        found["methods"][0]["metric_before"]
    }
    for one in found["methods"]:
        kept = json.loads((folder / one["method"] / "adaptation.json").read_text(encoding="utf-8"))
        assert kept == one and one["stderr_after"] > 0 and one["forgetting"] is not None
    assert found["run"] == str(folder / found["recommended"])
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")

    shutil.rmtree(folder / "bias")
    (folder / "comparison.json").unlink()
    untouched = (folder / "lora" / "adaptation.json").stat().st_mtime_ns
    again = compare(trained, questions, folder, "--methods", "lora,bias,full", "--resume")
    assert again.code == 0, again.err
    timings = ("minutes", "peak_memory")

    def numbers(result):
        return [{k: v for k, v in m.items() if k not in timings} for m in result["methods"]]

    assert numbers(again.json) == numbers(found)
    assert (folder / "lora" / "adaptation.json").stat().st_mtime_ns == untouched
    other = compare(trained, questions, folder, "--methods", "lora", "--resume", "--steps", "9")
    refused(other, "other options")


def test_what_cannot_be_compared_is_one_line(trained, questions, tmp_path):
    folder = tmp_path / "compared"
    refused(compare(trained, questions, folder, "--methods", "vpt-deep"), "not for a run of text")
    refused(compare(trained, questions, folder, "--methods", "lorra"), "unknown method lorra")
    refused(compare(trained, questions, folder, "--learning-rate", "0.1"), "own rate")
    refused(compare(trained, tmp_path / "nowhere.jsonl", folder), "does not exist")
    assert not folder.exists()
    folder.mkdir()
    refused(compare(trained, questions, folder), "exists: choose another --run")


def method(name, after, *, stderr=0.01, trained=10, lost=0.1):
    return {
        "method": name, "metric_before": 2.0, "metric_after": after, "trained_parameters": trained,
        "stderr_after": stderr, "forgetting": lost and {"before": 1.0, "after": 1.0 + lost},
    }  # fmt: skip


def test_the_recommendation_is_the_least_loss_of_those_that_cannot_be_told_apart():
    clear = [method("full", 1.0), method("lora", 1.5)]
    assert recommended(clear) == ("full", "its score is better than any other's")
    near = [method("full", 1.0, lost=0.5), method("lora", 1.01, lost=0.2), method("bias", 1.2)]
    name, why = recommended(near)
    assert name == "lora" and "full, lora" in why and "forgets least (+0.200" in why
    unknown = [method("full", 1.0, lost=None, trained=99), method("lora", 1.01, lost=None)]
    assert recommended(unknown)[0] == "lora" and "trains least (10" in recommended(unknown)[1]
    assert "no method has made" in recommended([method("full", 2.5)])[1]
    one_part = [method("full", 1.0, stderr=None), method("lora", 1.0001)]
    assert recommended(one_part)[0] == "full"


def test_the_standard_error_of_bits_per_byte_is_that_of_a_ratio():
    score = Score()
    assert score.stderr is None
    for nats, size in ((10.0, 10), (30.0, 20), (20.0, 10)):
        score.add(nats, size, size)
    ratio = 60 / 40
    squares = sum((n - ratio * s) ** 2 for n, s in ((10, 10), (30, 20), (20, 10)))
    assert score.stderr == pytest.approx(math.sqrt(3 / 2 * squares) / 40 / math.log(2))
    even = Score()
    for size in (5, 50):
        even.add(2.0 * size, size, size)
    assert even.stderr == pytest.approx(0.0)
