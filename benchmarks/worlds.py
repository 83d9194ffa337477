"""Speed of the world of shapes: scenes, pictures and captions a second of one processor core.

    python benchmarks/worlds.py                     the default world
    python benchmarks/worlds.py --world dense       four textured shapes on waves, noise and blur

Scenes, rendering and captions take turns on one thread; each figure is the median round, per second of
processor time. The limit of rendering is what this core writes in the same run when it does nothing
but fill arrays of the same size: bytes a second beside it are the pictures', three a pixel. "all" is
what a training run asks for: scenes, pictures and captions.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from maquette.base.machine import processor
from maquette.worlds.captions import captions
from maquette.worlds.draw import scenes
from maquette.worlds.render import masks, render
from maquette.worlds.shapes import Shapes

WORLDS = {
    "default": Shapes(),
    "dense": Shapes(objects=4, textures=3, backgrounds="texture", noise=0.1, blur=1.0),
}
BYTES = 100_000_000  # of pictures in a round, at most


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=WORLDS, default="default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    world = WORLDS[arguments.world]
    print(f"{processor()}, one thread, world {arguments.world}")
    print("side   pictures  scenes/s  pictures/s  captions/s  masks/s     all/s   MB/s  of filling")
    for size in arguments.sizes:
        count = min(20_000, BYTES // (3 * size * size))
        print(row(world, size, count, arguments.rounds), flush=True)


def row(world: Shapes, size: int, count: int, rounds: int) -> str:
    """One line of the table."""
    indices = np.arange(count)
    drawn = scenes(world, 0, indices)
    empty = np.zeros((count, size, size, 3), np.uint8)
    arms: dict[str, Callable[[], object]] = {
        "scenes": lambda: scenes(world, 0, indices),
        "render": lambda: render(drawn, size),
        "captions": lambda: captions(drawn),
        "masks": lambda: masks(drawn, size),
        "fill": lambda: empty.fill(3),
    }
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):  # the first compiles, and is not counted
        for name, function in arms.items():
            start = time.process_time()
            function()
            if turn:
                spent[name].append(time.process_time() - start)
    seconds = {name: sorted(times)[len(times) // 2] / count for name, times in spent.items()}
    whole = seconds["scenes"] + seconds["render"] + seconds["captions"]
    rate = 3 * size * size / seconds["render"]
    limit = 3 * size * size / seconds["fill"]
    return (
        f"{size:4}   {count:8,}  {1 / seconds['scenes']:8,.0f}  {1 / seconds['render']:10,.0f}  "
        f"{1 / seconds['captions']:10,.0f}  {1 / seconds['masks']:7,.0f}  {1 / whole:8,.0f}  "
        f"{rate / 1e6:5,.0f}  {100 * rate / limit:7.1f} %"
    )


if __name__ == "__main__":
    main()
