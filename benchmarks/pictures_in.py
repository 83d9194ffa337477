"""Reading pictures into a corpus: Maquette beside a plain Pillow loop, on JPEGs made here.

    python benchmarks/pictures_in.py                          1,200 of 640x480 and 60 of 4000x3000
    python benchmarks/pictures_in.py --shapes 640x480:200 --rounds 1

Every arm runs in a process of its own and they take turns; the table has the median. `plain` opens,
turns by EXIF, converts and fits each picture by Lanczos with all its pixels, then writes one array: what
a user would write. `limit` does no more than decode at reduced scale and resize, and keeps nothing: its
speed times the workers is the fraction's whole. Ours reads captions, hashes, drops duplicates, divides,
trains the tokenizer and writes. Memory is the most each process has held, summed over the workers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from maquette.base.files import home, write_atomic
from maquette.base.machine import cores, processor
from maquette.corpus.pictures.build import build_pictures
from maquette.corpus.pictures.build_options import PictureBuildOptions
from maquette.corpus.pictures.decode import decode
from maquette.corpus.pictures.window import peak

SHAPES = "640x480:1200,4000x3000:60"


def made(width: int, height: int, count: int) -> Path:
    """JPEGs of smooth colours and grain, with captions; kept for the next run."""
    folder = home() / "benchmarks" / f"jpeg-{width}x{height}-{count}"
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    grain = draw.integers(-12, 13, (height, width, 1), dtype=np.int16)
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        rough = draw.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
        if not path.with_suffix(".txt").exists():
            smooth = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
            pixels = np.clip(np.asarray(smooth, np.int16) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=90)
            write_atomic(path.with_suffix(".txt"), f"picture {i} of {count}")
    return folder


def arm(name: str, folder: Path, size: int) -> dict[str, float]:
    """One arm, in this process: pictures and bytes a second, and the memory it came to need."""
    paths = sorted(folder.glob("*.jpg"))
    size_read = sum(path.stat().st_size for path in paths)
    held = 0.0
    start = time.perf_counter()
    if name == "plain":
        squares = []
        for path in paths:
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
                fitted = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
                squares.append(np.asarray(fitted))
        with tempfile.TemporaryFile() as file:
            np.stack(squares).tofile(file)
    elif name == "limit":
        for path in paths:
            decode(path.read_bytes(), size)
    else:
        with tempfile.TemporaryDirectory() as where:
            workers = int(name.rsplit(maxsplit=1)[-1])
            corpus = build_pictures(
                Path(where) / "out", [folder], PictureBuildOptions(image_size=size), workers=workers
            )
            held = corpus.manifest["peak_memory"]
            assert sum(corpus.manifest["splits"].values()) == len(paths)
    seconds = time.perf_counter() - start
    return {
        "pictures": len(paths) / seconds,
        "bytes": size_read / seconds,
        "memory": held or peak(),
    }


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=SHAPES, help=f"WIDTHxHEIGHT:COUNT,... ({SHAPES})")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(arm(arguments.arm[0], Path(arguments.arm[1]), arguments.image_size)))
        return
    names = ["plain", "limit", *(f"maquette {n}" for n in sorted({1, arguments.workers}))]
    print(f"{processor()}, {cores()} cores; to {arguments.image_size} x {arguments.image_size}")
    for shape in arguments.shapes.split(","):
        width, height, count = map(int, shape.replace(":", "x").split("x"))
        folder = made(width, height, count)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(arguments.rounds):
            for name in names:
                command = [sys.executable, __file__, "--image-size", str(arguments.image_size)]
                out = subprocess.run([*command, "--arm", name, str(folder)],
                                     check=True, capture_output=True, encoding="utf-8")  # fmt: skip
                taken[name].append(json.loads(out.stdout))
        middle = {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in taken.items()
        }
        print(f"\n{count:,} JPEGs of {width} x {height}")
        print(f"  {'arm':<12} {'pictures/s':>10} {'MB/s':>7} {'of limit':>9} {'peak MiB':>9}")
        for name, run in middle.items():
            workers = int(name.split()[-1]) if name.startswith("maquette") else 1
            part = run["pictures"] / (workers * middle["limit"]["pictures"])
            print(
                f"  {name:<12} {run['pictures']:>10,.0f} {run['bytes'] / 1e6:>7.1f} "
                f"{part:>8.0%} {run['memory'] / 2**20:>9,.0f}"
            )


if __name__ == "__main__":
    main()
