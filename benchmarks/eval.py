"""Few-shot scoring: Maquette beside scoring one by one and lm-evaluation-harness' Hugging Face model.

    python benchmarks/eval.py                          6 x 384, 8 examples shown, 100 questions of 4 choices
    python benchmarks/eval.py --shape 12x768 --questions 50

One random GPT-2-shaped model, one task file, the same requests for all, as the harness writes them: contexts
of a few hundred tokens with the same examples before every question. The arms take turns; requests per
second, tokenisation included. The scores must be the same, which is printed. Needs lm_eval and accelerate.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict

from maquette.base.machine import keep_freed_memory, processor
from maquette.corpus.tokenizer import save_tokenizer, train_tokenizer
from maquette.evaluation.encoding import PairEncoder
from maquette.evaluation.likelihood import log_likelihoods
from maquette.models import families
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.serving.hugging_face import export_model
from maquette.workshop.harness import MaquetteLM
from maquette.worlds.questions.registry import question_world

VOCABULARY = 50257
Answers = list[tuple[float, bool]]


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="6x384", help="blocks x width (default: 6x384)")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="of the harness' model (default: 16)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    depth, width = map(int, arguments.shape.split("x"))
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        run, hf = write_model(Path(folder), depth, width)
        requests = write_requests(Path(folder), arguments.shots, arguments.questions)
        ours = MaquetteLM(run=str(run))
        theirs = HFLM(pretrained=str(hf), dtype="float32", batch_size=arguments.batch, device="cpu")
        loaded = ours._loaded
        encode = PairEncoder(loaded.tokenizer)

        def one_by_one(some: list[Any]) -> Answers:
            answers = []
            for request in some:
                (found,) = log_likelihoods(loaded.model, [encode(*request.args)])
                answers.append((found.log_likelihood, found.greedy))
            return answers

        arms: dict[str, Callable[[], Answers]] = {
            "Maquette": lambda: ours.loglikelihood(requests),
            "Maquette, one by one": lambda: one_by_one(requests),
            f"lm_eval hf, batches of {arguments.batch}": lambda: theirs.loglikelihood(
                requests, disable_tqdm=True
            ),
        }
        best = dict.fromkeys(arms, float("inf"))
        found: dict[str, Answers] = {}
        for _ in range(arguments.rounds):
            for name, arm in arms.items():
                start = time.perf_counter()
                found[name] = arm()
                best[name] = min(best[name], time.perf_counter() - start)
    lengths = [len(encode(*r.args).context) + len(encode(*r.args).continuation) for r in requests]
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32; "
        f"{arguments.shape}, {len(requests)} requests of {min(lengths)} to {max(lengths)} tokens, "
        f"{arguments.shots} shots"
    )
    reference = found["Maquette, one by one"]
    for name, seconds in best.items():
        apart = max(abs(a[0] - b[0]) for a, b in zip(found[name], reference, strict=True))
        same = all(a[1] == b[1] for a, b in zip(found[name], reference, strict=True))
        print(
            f"  {name:<28} {len(requests) / seconds:8.1f} requests/s   "
            f"{best['Maquette, one by one'] / seconds:5.2f} x   scores within {apart:.1e}, greedy "
            f"{'equal' if same else 'NOT EQUAL'}"
        )


def write_model(folder: Path, depth: int, width: int) -> tuple[Path, Path]:
    """A random GPT-2-shaped run, and the same for transformers."""
    run, hf = folder / "run", folder / "hf"
    run.mkdir()
    config = families.gpt2(
        vocabulary=VOCABULARY, context=1024, width=width, depth=depth, heads=width // 64
    )
    save_config(run, config)
    save_tensors(run / WEIGHTS, dict(config.build().initialise(0).named_parameters()))
    texts = [json.__doc__ or "", argparse.__doc__ or ""]
    texts += [q.question for q in question_world("invented_words").questions(200, 1, "train")]
    save_tokenizer(train_tokenizer(texts, 1024, or_fewer=True), run / "tokenizer.json")
    export_model(run, hf)
    return run, hf


def write_requests(folder: Path, shots: int, questions: int) -> list[Any]:
    """What the harness asks for a task file of questions with four choices."""
    world = question_world("invented_words")
    for split, side, count in (("train", "train", shots), ("test", "heldout", questions)):
        rows = [
            {
                "question": q.question,
                "choices": list(q.choices),
                "answer": q.choices.index(q.answer),
            }
            for q in world.questions(count, 0, side)  # type: ignore[arg-type]
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content = {
        "task": "words",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {s: str(folder / f"{s}.jsonl") for s in ("train", "test")}
        },
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": shots,
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    (folder / "words.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    task = get_task_dict(["words"], manager)["words"]
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    return list(task.instances)


if __name__ == "__main__":
    main()
