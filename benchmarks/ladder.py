"""Train the ladder of small decoders on the default corpus, and write what each reached.

    python benchmarks/ladder.py [--widths 64 128 192] [--tokens 0.5 1 2 4]

Each rung is the demo's recipe (src/maquette/workshop/demo_plan.py) at one width, trained anew for each
number of tokens (millions) with its whole schedule. The result goes into
src/maquette/scaling/ladder.json, from which the demo's forecast is read, rung by rung; what is
there already is kept unless --again is given. The fit and its error are printed. About half an hour
on 2 cores.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from maquette.base.files import write_json
from maquette.base.machine import measure, processor
from maquette.base.version import __version__
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import Corpus
from maquette.scaling import frontier
from maquette.training.observer import Quiet
from maquette.workshop.demo import SCORED_BYTES, compress_heldout
from maquette.workshop.demo_plan import rung
from maquette.workshop.load import load
from maquette.workshop.train import train

TARGET = Path(frontier.__file__).with_name("ladder.json")


def main() -> None:
    """Train every rung; write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--tokens", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    arguments = parser.parse_args()
    corpus = open_corpus("default")
    folder = Path(tempfile.mkdtemp(prefix="ladder-"))
    there = (
        json.loads(TARGET.read_text(encoding="utf-8"))
        if TARGET.exists() and not arguments.again
        else {}
    )
    if there and there["corpus_hash"] != corpus.hash:
        parser.error("ladder.json was measured on another default corpus: pass --again")
    runs = there.get("runs", [])
    print(
        f"{'width':>6} {'parameters':>11} {'tokens':>10} {'bits/byte':>9} {'of peak':>8} {'s':>6}"
    )
    for width in arguments.widths:
        for millions in arguments.tokens:
            recipe = rung(width, corpus, "default")
            steps = round(millions * 1e6 / recipe.units_per_step)
            recipe = rung(width, corpus, "default", steps)
            if any(
                (r["width"], r["tokens"]) == (width, recipe.units_per_step * steps) for r in runs
            ):
                continue
            torch._dynamo.reset()  # another shape is no recompilation of the last one
            path = folder / f"{width}-{steps}"
            start = time.perf_counter()
            outcome = train(recipe, path, observer=Quiet())
            if not outcome.finished:
                return
            loaded = load(path)
            bits = loaded.score_heldout(most_bytes=SCORED_BYTES)["all"].bits_per_byte
            runs.append(
                {
                    "width": width,
                    "parameters": loaded.model.config.parameters(),
                    "tokens": outcome.tokens,
                    "bits_per_byte": round(bits, 5),
                    "utilisation": round(outcome.flops_utilisation, 4),
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
            r = runs[-1]
            print(
                f"{width:>6} {r['parameters']:>11,} {r['tokens']:>10,} {r['bits_per_byte']:>9.4f} "
                f"{100 * r['utilisation']:>7.1f}% {r['seconds']:>6.0f}",
                flush=True,
            )
            shutil.rmtree(path)
            write(runs, corpus)
    fit = frontier.surface()
    constants = {k: round(v, 4) for k, v in fit.law.constants().items()}
    print(json.dumps({"law": constants, "relative_error": round(fit.error, 5)}))


def write(runs: list[dict[str, float]], corpus: Corpus) -> None:
    """Write the runs so far, so that nothing is lost when the next is cut off."""
    machine = measure()
    about = {
        "command": "python benchmarks/ladder.py",
        "date": time.strftime("%Y-%m-%d"),
        "version": __version__,
        "processor": processor(),
        "bf16_flops": machine.bf16_flops,
        "corpus_hash": corpus.hash,
        "zstd": round(compress_heldout(corpus)["zstd -19"]["all"], 5),
        "runs": sorted(runs, key=lambda r: (r["width"], r["tokens"])),
    }
    write_json(TARGET, about)
    frontier.ladder.cache_clear()
    frontier.surface.cache_clear()


if __name__ == "__main__":
    main()
