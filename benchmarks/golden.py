"""Short runs of every kind: keep their metrics and the hash of their weights, or compare with what was kept.

    python benchmarks/golden.py keep FOLDER       before a change of structure
    python benchmarks/golden.py compare FOLDER    after it: the same to the bit, or the first line that is not

Both on one machine with the same number of threads. `--only NAME ...` takes some of the runs. `--names
FILE` is for renamed parameters: JSON, {pattern of the name now: the name before}. A parameter's start is a
function of its name; with the old names a renamed model begins where it did.
"""

import argparse
import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from maquette.adaptation.adapters.store import ADAPTER
from maquette.cli.main import main as maquette
from maquette.models.store import WEIGHTS, tensors_of
from maquette.nn import parametrisation
from maquette.training import probe
from maquette.training.trained_model import open_model

TIMINGS = {"tokens_per_second", "pictures_per_second", "flops_utilisation", "memory", "seconds"}
TEXT = "--precision fp32 --compile off"
SMALL = "--model.width 64 --model.context 64 --data.sequence 64 --data.corpus tiny --batch 8"
SHALLOW = "--model.depth 2 --model.heads 4"
MIXED = "--model.dense 1 --model.sparse 1"
PICTURES = (
    "--precision fp32 --compile off --watch.pictures 32 --watch.grid 2 --watch.steps 3 "
    "--watch.every 10"
)
ENCODED = "--data.encoder {clip} --steps 20"
SPIKES = (
    "--optimiser.learning-rate 0.5 --guard.window 4 --guard.spike 2 --guard.patience 1 "
    "--guard.rewinds 100 --checkpoints.every 4"
)
RUNS = {  # name: arguments of train; {NAME} is an earlier run's folder
    "tiny": f"tiny --steps 60 {TEXT}",
    "tiny-bf16": "tiny --steps 40 --precision bf16 --compile off",
    "tiny-compiled": "tiny --steps 20 --precision bf16 --compile on",
    "tiny-accumulated": f"tiny --steps 30 --micro-batch 2 {TEXT}",
    "tiny-documents": f"tiny --steps 30 --data.document-mask {TEXT}",
    "tiny-average": f"tiny --steps 30 --optimiser.average 0.9 --optimiser.z-loss 0.001 {TEXT}",
    "tiny-dropout": f"tiny --steps 30 --model.dropout 0.1 --recompute {TEXT}",
    "tiny-ranks": f"tiny --steps 30 --ranks 2 --micro-batch 2 {TEXT}",
    "tiny-rewind": f"tiny --steps 40 {SPIKES} {TEXT}",
    "gpt3": "tiny --steps 20 --model.band 16 " + TEXT,
    "llama": f"llama-small --steps 20 {SHALLOW} --model.kv-heads 2 {SMALL} {TEXT}",
    "gptj": f"gptj-small --steps 20 {SHALLOW} {SMALL} {TEXT}",
    "bloom": f"bloom-small --steps 20 {SHALLOW} {SMALL} {TEXT}",
    "palm": f"palm-small --steps 20 {SHALLOW} {SMALL} {TEXT}",
    "smlp": f"smlp-small --steps 20 {MIXED} {SMALL} {TEXT}",
    "smlp-partial": f"smlp-small --steps 20 {MIXED} --model.routing partial {SMALL} {TEXT}",
    "vit": f"vit --steps 20 --batch 16 {PICTURES}",
    "cnn": f"cnn --steps 20 --batch 16 {PICTURES}",
    "clip": f"clip --steps 20 --batch 16 {PICTURES}",
    "siglip": f"siglip --steps 20 --batch 16 {PICTURES}",
    "diffusion": f"diffusion --steps 20 --batch 8 {PICTURES}",
    "diffusion-class": f"diffusion-class --steps 20 --batch 8 {PICTURES}",
    "diffusion-dit": f"diffusion-dit --steps 20 --batch 8 {PICTURES}",
    "inpainting": f"inpainting --start {{diffusion}} --steps 20 --batch 8 {PICTURES}",
    "upsampler": f"glide-upsampler --steps 10 --batch 4 {PICTURES}",
    "prior": f"dalle2-prior {ENCODED} --batch 16 {PICTURES}",
    "prior-autoregressive": f"dalle2-prior-autoregressive {ENCODED} --batch 64 {PICTURES}",
    "decoder": f"dalle2-decoder {ENCODED} --batch 8 {PICTURES}",
    "super-resolution": f"super-resolution --steps 20 --batch 8 {PICTURES}",
}
ADAPTED = {  # name: arguments of adapt
    "adapted-linear": "linear {vit}", "adapted-deep": "vpt-deep {vit}", "adapted-lora": "lora {vit}",
    "adapted-full": "full {cnn}",
}  # fmt: skip


def call_parameters(names: dict[str, str]) -> None:
    """Let parameters start as those of the old names did."""
    declared = parametrisation.declared

    def renamed(model: object) -> Iterator[parametrisation.Declared]:
        for p in declared(model):  # type: ignore[arg-type]
            name = p.name
            for pattern, before in names.items():
                name = re.sub(pattern, before, name)
            yield replace(p, name=name)

    parametrisation.declared = renamed


def run(arguments: list[str]) -> None:
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        code = maquette(arguments)
    if code:
        raise SystemExit(f"{' '.join(arguments)}\n{said.getvalue()}")


def tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a run; of an adapted one its base's, its heads and its adapter's."""
    if (folder / ADAPTER).exists():
        return tensors_of(open_model(folder))
    return load_file(folder / WEIGHTS)


def summary(folder: Path) -> list[str]:
    """A line a step without its timings, and one of all weights."""
    lines = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        lines.append(json.dumps({k: v for k, v in json.loads(line).items() if k not in TIMINGS}))
    content = sorted(
        (str(tuple(t.shape)), hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest())
        for t in tensors(folder).values()
    )
    return [*lines, "weights " + hashlib.sha256(json.dumps(content).encode()).hexdigest()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("keep", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--names", type=Path)
    arguments = parser.parse_args()
    if arguments.names:
        call_parameters(json.loads(arguments.names.read_text(encoding="utf-8")))
    probe._step_seconds = lambda *_: 1.0  # no choice by the clock
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = Path(tempfile.mkdtemp(prefix="golden"))
    bad = 0
    try:
        places = {name: str(runs / name) for name in RUNS}
        every = {n: f"train {t} --watch.no-report" for n, t in RUNS.items()}
        every |= {
            n: f"adapt {t} shapes --label count --world.counts true --examples 64 --steps 10 --batch 16"
            for n, t in ADAPTED.items()
        }
        wanted = set(arguments.only or every)
        wanted |= {n for n in RUNS if any("{" + n + "}" in every[other] for other in wanted)}
        for name, text in every.items():
            if name not in wanted:
                continue
            run([*text.format(**places).split(), "--run", str(runs / name)])
            now, kept = summary(runs / name), arguments.folder / f"{name}.txt"
            if arguments.verb == "keep":
                kept.write_text("\n".join(now) + "\n", encoding="utf-8")
                print(f"{name:24} {now[-2][:110]}", flush=True)
                continue
            before = kept.read_text(encoding="utf-8").splitlines()
            wrong = next(((a, b) for a, b in zip(before, now, strict=False) if a != b), None)
            same = wrong is None and len(before) == len(now)
            bad += not same
            print(f"{name:24} {'same' if same else 'DIFFERS'}", flush=True)
            if not same:
                before, after = wrong or (f"{len(before)} lines", f"{len(now)} lines")
                print(f"   before {before}\n   now    {after}")
    finally:
        shutil.rmtree(runs)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
