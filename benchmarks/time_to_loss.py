"""Held-out bits per byte by seconds of training: the demo's recipe beside nanochat's, on the same text.

    python benchmarks/time_to_loss.py --nanochat CHECKOUT [--python ITS_INTERPRETER] [--minutes 3]

CHECKOUT is your own clone of nanochat; nothing of it is kept here, and nothing is downloaded. Both train a
byte-pair tokenizer of the same size and a decoder on the same documents (text of this machine), one after
the other, on all cores. Ours is what `maquette demo` plans for the time. Nanochat's is its dial: `--depth`,
with the width, batch and context of `--width`, `--batch`, `--context`, its own optimisers and rates, bf16
where this machine has it, and as many steps as it takes in the time at the pace of its first steps. Seconds
are each project's own count of its training steps, without scoring and saving: nanochat's leaves out its
first steps, in which it compiles, ours counts all.

Scores are of all held-out documents, one after the other with the token that each project puts between
them, cut into windows of a context that do not overlap; the nats of every token, that token's too, over the
documents' bytes. Nanochat's loader takes from each document what fits its rows and drops the rest, so its
documents are cut into pieces of about a row; its own "validation bpb", of such pieces, is printed beside.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.machine import measure
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.store import Corpus
from maquette.training.datasets.text_config import TextWatch
from maquette.training.run import RunDirectory
from maquette.workshop.demo_plan import plan_demo
from maquette.workshop.train import train

VOCABULARY, HELDOUT = 4096, 0.006
SKIPPED = 11  # first steps, which nanochat does not time
Curve = list[tuple[float, float]]
"""(seconds of training, bits per byte of the held-out text)"""
SCORER = """
import json, math, sys
import torch
from nanochat.checkpoint_manager import load_model
texts, context, steps = json.load(open(sys.argv[1], encoding="utf-8"))
for step in steps:
    model, tokenizer, _ = load_model("base", torch.device("cpu"), phase="eval", step=step)
    model.eval()
    stream = [t for text in texts for t in tokenizer.encode(text, prepend=tokenizer.get_bos_token_id())]
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(stream) - 1, context):
            window = torch.tensor([stream[start : start + context + 1]])
            nats += float(model(window[:, :-1], window[:, 1:], loss_reduction="none").float().sum())
    print("scored", step, nats / math.log(2) / sum(len(text.encode()) for text in texts), flush=True)
"""


def our_curve(corpus: Corpus, folder: Path, seconds: float, looks: int) -> Curve:
    """Train the demo's recipe."""
    plan = plan_demo(corpus, measure(), seconds, 1.0, print)
    every = max(1, plan.recipe.steps // looks)
    watch = TextWatch(every=every, tokens=len(corpus.heldout), sample_tokens=0, report=False)
    train(replace(plan.recipe, watch=watch), folder)
    heldout = sum(
        int(row["bytes"]) for row in corpus.documents.to_pylist() if row["split"] == "heldout"
    )
    per_byte = len(corpus.heldout) / heldout / math.log(2)
    curve, passed = [], 0.0
    for record in RunDirectory(folder).records():
        passed += record.get("seconds", 0.0)
        if "heldout_loss" in record:
            curve.append((passed, record["heldout_loss"] * per_byte))
    return curve


def their_curve(corpus: Corpus, base: Path, arguments: argparse.Namespace) -> Curve:
    """Train nanochat's, in a folder of its own."""
    data = base / "base_data_climbmix"  # the folder that it reads
    data.mkdir(parents=True)
    splits = corpus.documents["split"].to_pylist()
    texts: dict[str, list[str]] = {"train": [], "heldout": []}
    for row, split in enumerate(splits):
        texts[split].append(corpus.text(row).decode(errors="replace"))
    for number, split in enumerate(("train", "heldout")):  # its last file is its held-out text
        table = pa.table({"text": pieces(texts[split], 3 * arguments.context)})
        pq.write_table(table, data / f"shard_{number:05d}.parquet", row_group_size=256)
    run = Nanochat(arguments, base)
    list(run("-m", "scripts.tok_train", "--vocab-size", VOCABULARY, "--max-chars", 40_000_000))
    tokens = arguments.batch * arguments.context
    dial = [
        "-m", "scripts.base_train",
        "--depth", arguments.depth, "--aspect-ratio", arguments.width // arguments.depth,
        "--head-dim", 64, "--max-seq-len", arguments.context, "--window-pattern", "L",
        "--device-batch-size", arguments.batch, "--total-batch-size", tokens,
        "--core-metric-every", -1, "--sample-every", -1, "--device-type", measure().device,
    ]  # fmt: skip
    trial = run(*dial, "--num-iterations", 40, "--eval-every", -1)
    paces = sorted(seconds for line in trial if (seconds := timed(line)) is not None)
    pace = paces[len(paces) // 2]
    steps = max(40, int(60 * arguments.minutes / pace))
    print(f"nanochat: {1000 * pace:.0f} ms a step of {tokens} tokens, {steps} steps")
    every = max(1, steps // arguments.looks)
    passed = {0: 0.0}
    looks = ["--eval-every", every, "--eval-tokens", len(corpus.heldout) // tokens * tokens]
    for line in run(*dial, "--num-iterations", steps, *looks, "--save-every", every):
        if "Validation bpb" in line:
            print("nanochat's own:", line.strip())
        if (seconds := timed(line)) is not None:
            done = len(passed)
            passed[done] = passed[done - 1] + (seconds if done >= SKIPPED else 0.0)
    saved = [*range(every, steps, every), steps]
    asked = base / "asked.json"
    asked.write_text(json.dumps([texts["heldout"], arguments.context, saved]), encoding="utf-8")
    scores = [line.split() for line in run("-c", SCORER, asked) if line.startswith("scored ")]
    return [(passed[int(step)], float(score)) for _, step, score in scores]


def pieces(texts: list[str], length: int) -> list[str]:
    """Texts cut into pieces of that many characters: of a longer one its loader would drop the rest."""
    return [text[i : i + length] for text in texts for i in range(0, len(text), length)]


class Nanochat:
    """Runs its modules with its interpreter, in a folder of its own; gives the lines that they print."""

    def __init__(self, arguments: argparse.Namespace, base: Path) -> None:
        self._python, self._checkout = arguments.python, arguments.nanochat
        self._environment = {
            **os.environ, "NANOCHAT_BASE_DIR": str(base), "WANDB_MODE": "disabled",
            "NANOCHAT_DTYPE": "bfloat16" if measure().bf16 else "float32",
        }  # fmt: skip

    def __call__(self, *flags: object) -> Iterator[str]:
        command = [self._python, "-u", *map(str, flags)]
        last: list[str] = []
        with subprocess.Popen(
            command, cwd=self._checkout, env=self._environment, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                last = [*last, line][-20:]
                yield line
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:4])} failed:\n{''.join(last)}")


def timed(line: str) -> float | None:
    """Seconds of the training step that a line of nanochat's reports."""
    found = re.match(r"step \d+/\d+ .*\| dt: ([\d.]+)ms", line)
    return float(found[1]) / 1000 if found else None


def reached(curve: Curve, score: float) -> float | None:
    """Seconds until a curve is as low as a score, between two looks by a straight line."""
    before = None
    for seconds, value in curve:
        if value <= score:
            if before is None:
                return seconds
            share = (before[1] - score) / (before[1] - value)
            return before[0] + share * (seconds - before[0])
        before = seconds, value
    return None


def main() -> None:
    """Train both, print the curves and the time that ours takes to nanochat's last score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanochat", type=Path, required=True, help="a checkout of nanochat")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that has what it needs"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each (default: 3)")
    parser.add_argument("--looks", type=int, default=20, help="scores along the way (default: 20)")
    parser.add_argument("--depth", type=int, default=4, help="nanochat's dial (default: 4)")
    parser.add_argument("--width", type=int, default=128, help="of its model (default: 128)")
    parser.add_argument("--batch", type=int, default=8, help="its sequences a step (default: 8)")
    parser.add_argument(
        "--context", type=int, default=256, help="its tokens a sequence (default: 256)"
    )
    arguments = parser.parse_args()
    if not (arguments.nanochat / "scripts" / "base_train.py").exists():
        raise SystemExit(f"{arguments.nanochat} is no checkout of nanochat: clone it first")
    arguments.nanochat = arguments.nanochat.resolve()
    folder = Path(tempfile.mkdtemp())
    try:
        options = BuildOptions(vocabulary=VOCABULARY, heldout=HELDOUT)
        corpus = build(folder / "corpus", Local(limit=8 << 20), options)
        print(f"{len(corpus.train):,} training and {len(corpus.heldout):,} held-out tokens")
        curves = {
            "Maquette": our_curve(corpus, folder / "run", 60 * arguments.minutes, arguments.looks),
            "nanochat": their_curve(corpus, folder / "nanochat", arguments),
        }
    finally:
        shutil.rmtree(folder)
    report(curves)


def report(curves: dict[str, Curve]) -> None:
    """Print the curves side by side."""
    machine = measure()
    print(f"\n{machine.processor}, {machine.threads} threads, torch {machine.torch}")
    print("\n".join(table(curves)))
    seconds, score = curves["nanochat"][-1]
    ours = reached(curves["Maquette"], score)
    result: dict[str, Any] = {"curves": curves, "nanochat_last": [seconds, score], "seconds": ours}
    if ours is None:
        print(f"ours does not reach nanochat's {score:.3f} bits per byte in the time")
    else:
        first = "at most " if ours == curves["Maquette"][0][0] else ""
        print(
            f"nanochat's {score:.3f} bits per byte after {seconds:.0f} s, ours after {first}{ours:.0f} s"
        )
    print(json.dumps(result))


def table(curves: dict[str, Curve]) -> list[str]:
    """A line for each look."""
    lines = []
    for name, curve in curves.items():
        lines += [f"\n{name}", "seconds  bits per byte"]
        lines += [f"{seconds:7.0f}  {value:.3f}" for seconds, value in curve]
    return lines


if __name__ == "__main__":
    main()
