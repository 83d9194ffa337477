"""kill -9 of the real command line: what is resumed is the run that was not killed, wherever it was hit."""

import json
import time
from dataclasses import replace

import pytest
from conftest import command, process

from maquette.corpus.examples.build import build_examples
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.training.datasets.examples_config import ExamplesData
from maquette.workshop.train import train

LONG = 100
METHODS = {
    "lora": (("--steps", LONG, "--batch", 4, "--sequence", 32, "--rank", 2), "metrics.jsonl", 7),
    "grpo": (
        ("--steps", 40, "--batch", 2, "--group", 3, "--tokens", 6, "--answer-after", "####"),
        "metrics.jsonl",
        5,
    ),
    "pet": (
        ("--steps", LONG, "--distil-steps", LONG, "--batch", 4, "--unlabelled", "{more}"),
        "../run-pet/*/metrics.jsonl",
        3,
    ),
    "star": (
        ("--loops", 2, "--steps", LONG, "--batch", 4, "--tokens", 8, "--sequence", 24),
        "loop-01/run/metrics.jsonl",
        7,
    ),
}
"""of each its options, and the file (and its number of lines) after which it is killed"""
ITS_OWN = {"run", "picture", "minutes", "peak_memory", "seconds", "memory"}


@pytest.fixture
def base(recipe, tmp_path):
    """A run that answers every question with ####1, and the folder with its questions and texts."""
    marked = [{"prompt": f"{a}{b}=", "answer": "####1"} for a in "klmno" for b in "klmnopqr"]
    asked = [
        {"prompt": f"{a}{b}=", "answer": str(1 + (i + j) % 2)}
        for i, a in enumerate("abcdef")
        for j, b in enumerate("abcdefghij")
    ]
    for name, records in (("always", marked), ("questions", asked)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "more.txt").write_text("".join(f"{a}x=\n" for a in "abcdefgh"), encoding="utf-8")
    corpus = build_examples(tmp_path / "always", [tmp_path / "always.jsonl"], byte_tokenizer())
    data = ExamplesData(corpus=str(corpus.path), sequence=24)
    train(replace(recipe, data=data, steps=60), tmp_path / "base")
    return tmp_path / "base"


def lines_of(folder, pattern):
    """Lines of the longest file of a pattern; 0 where there is none yet."""
    return max((file.read_bytes().count(b"\n") for file in folder.glob(pattern)), default=0)


def without_its_own(value):
    if isinstance(value, list):
        return [without_its_own(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {k: without_its_own(v) for k, v in value.items() if k not in ITS_OWN}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_it_is_the_run_that_was_not(method, base, tmp_path):
    """The kill falls where it falls after a line of metrics: every moment must lead to the same bits."""
    options, watched, lines = METHODS[method]
    given = [str(word).format(more=tmp_path / "more.txt") for word in options]
    words = ["adapt", method, base, tmp_path / "questions.jsonl", *given]
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole, cut = (tmp_path / folder / "run" for folder in ("whole", "cut"))
    said = command(*words, "--run", whole, "--json")
    assert said.code == 0, said.err
    with process(*words, "--run", cut) as running:
        while running.poll() is None and lines_of(cut.parent, f"run/{watched}") < lines:
            time.sleep(0.002)
        running.kill()
        error = running.communicate()[1]
    assert running.returncode in (-9, 0), error  # 0: it was quicker than this process
    again = command(*words, "--run", cut, "--resume", "--json")
    assert again.code == 0, again.err
    assert without_its_own(again.json) == without_its_own(said.json)
    tensors = {
        str(path.relative_to(whole.parent)): path.read_bytes()
        for path in whole.parent.rglob("*.safetensors")
    }
    assert tensors == {name: (cut.parent / name).read_bytes() for name in tensors} and tensors
