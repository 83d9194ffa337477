"""A model in 4 bits where its 16-bit weights alone do not fit: decoding under a limit of the address space.

    python benchmarks/memory_limit.py                24 x 1024 with a vocabulary of 8,192 (325 M parameters)
    python benchmarks/memory_limit.py --shape 4x256

A run with random weights is written, and quantised. Each kind of weights is then opened by `maquette.load` in
a process of its own that may map what it had mapped once everything was imported, and besides it `--share`
of the bytes of the 16-bit weights (default: 0.9): a model in 16 bits cannot survive that, however well it is
loaded.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer
from maquette.models.config import DecoderConfig
from maquette.models.quantised import quantise, stored_tensors
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.nn.quantised import Format

TOKENS = 16


def main() -> None:
    """Write the runs, try each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="24x1024", help="blocks x width (default: 24x1024)")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--share", type=float, default=0.9, help="of the 16-bit weights (0.9)")
    parser.add_argument(
        "--child", nargs=3, metavar=("RUN", "WEIGHTS", "BYTES"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), arguments.child[1], int(arguments.child[2]))
        return
    depth, width = map(int, arguments.shape.split("x"))
    config = DecoderConfig(
        vocabulary=arguments.vocabulary, context=512, width=width, depth=depth, heads=width // 64
    )
    room = int(arguments.share * 2 * config.parameters())
    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), config)
        count = config.parameters()
        print(f"{arguments.shape}, {count:,} parameters: {2 * count / 1e6:.0f} MB in 16 bits; "
              f"room for {room / 1e6:.0f} MB\n")  # fmt: skip
        results = {}
        for name, (run, weights) in runs.items():
            command = [sys.executable, __file__, "--child", str(run), weights, str(room)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            last = (done.stderr.strip().splitlines() or [""])[-1]
            said = done.stdout.strip() if done.returncode == 0 else f"no: {last[:90]}"
            results[name] = done.returncode == 0
            print(f"{name:<8} {said}", flush=True)
    print(json.dumps(results))
    if results != {"16 bits": False, "4 bits": True}:
        raise SystemExit("that is not what should be")


def write_runs(folder: Path, config: DecoderConfig) -> dict[str, tuple[Path, str]]:
    """A run with weights in 16 bits, and the same in 4."""
    model = config.build().initialise(0)
    whole, few = folder / "whole", folder / "few"
    for run in (whole, few):
        run.mkdir()
        save_config(run, config)
        save_tokenizer(byte_tokenizer(), run / "tokenizer.json")
    save_tensors(whole / WEIGHTS, {n: p.bfloat16() for n, p in model.named_parameters()})
    quantise(model, Format(bits=4))
    save_tensors(few / WEIGHTS, *stored_tensors(model))
    return {"16 bits": (whole, "bf16"), "4 bits": (few, "auto")}


def child(run: Path, weights: str, room: int) -> None:
    """Open a run and generate, with `room` bytes."""
    import torch

    from maquette.models.decoder import Decoder
    from maquette.workshop.load import load

    tiny = Decoder(DecoderConfig(vocabulary=64, context=64, width=64, depth=1, heads=1))
    tiny.initialise(0)(torch.zeros(1, 20, dtype=torch.long))  # what loads at the first call
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    mapped = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + room, mapped + room))
    loaded = load(run).optimise(weights)
    loaded.generate("a", tokens=TOKENS, temperature=0)
    print(f"yes: {TOKENS} tokens")


if __name__ == "__main__":
    main()
