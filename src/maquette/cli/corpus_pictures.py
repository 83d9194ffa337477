"""Make a corpus of captioned pictures, for models of pictures.

A source is a folder (the caption in NAME.txt, .caption or .json beside NAME.jpg, or in a table of files and
captions: .csv, .tsv, .json, .jsonl, .parquet; else the name of the sub-folder is class and caption), a
WebDataset shard (.tar), a parquet table with a column of pictures, or hf://DATASET. Every picture becomes
a square of --image-size pixels in sRGB. What cannot be read, has no caption or is there twice is left out and
counted.

example: maquette corpus pictures corpus/birds ~/Pictures/birds --image-size 64
         maquette corpus pictures corpus/web shards/*.tar train.parquet --columns caption=alt_text
         maquette corpus show corpus/birds --picture birds.png
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.corpus.pictures.store import PictureCorpus

SHOWN, EXAMPLES, NAMES = 64, 6, 2
CLASSES_SHOWN = 12


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="folder to write")
    parser.add_argument("sources", nargs="+", help="folders, .tar shards, .parquet tables, hf://")
    parser.add_argument(
        "--image-size", type=int, default=64, help="height and width in pixels (64)"
    )
    parser.add_argument("--crop", choices=("center", "none"), default="center",
                        help="the middle square, or the whole picture on white")  # fmt: skip
    parser.add_argument("--heldout", type=float, default=0.05, help="fraction kept for evaluation")
    parser.add_argument("--vocabulary", type=int, default=2048,
                        help="tokens of the captions' tokenizer at most (2048)")  # fmt: skip
    parser.add_argument("--columns", metavar="PART=NAME,...", default="",
                        help="of tables and records: image=..., caption=..., label=...")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    parser.add_argument("--replace", action="store_true", help="build an existing corpus again")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.corpus.pictures.build import build_pictures
    from maquette.corpus.pictures.build_options import PictureBuildOptions
    from maquette.corpus.progress import Stages

    terminal = Terminal(arguments.json)
    options = PictureBuildOptions(
        image_size=arguments.image_size,
        crop=arguments.crop,
        heldout=arguments.heldout,
        vocabulary=arguments.vocabulary,
        columns=_columns(arguments.columns),
    )
    start = time.perf_counter()
    with terminal.stages() as progress:
        corpus = build_pictures(
            Path(arguments.out),
            arguments.sources,
            options,
            workers=arguments.workers,
            replace=arguments.replace,
            progress=Stages(progress),
        )
    seconds = time.perf_counter() - start
    describe(corpus, terminal)
    m = corpus.manifest
    pictures = sum(m["splits"].values())
    terminal.say(
        f"built: {arguments.out} in {seconds:.1f} s ({pictures / seconds:,.0f} pictures/s, "
        f"{amount(m['bytes_read'] / seconds, 'B/s')}), "
        f"peak memory {m['peak_memory'] / 2**20:,.0f} MiB"
    )
    return summarise(corpus) | {"seconds": round(seconds, 3)}


def _columns(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not sign or not name.strip() for _, sign, name in pairs):
        raise WrongUse(f"--columns {text} is no list of PART=NAME: write image=...,caption=...")
    return {part.strip(): name.strip() for part, _, name in pairs}


def show(name: str, picture: str | None, terminal: Terminal) -> dict[str, Any]:
    """What is in a corpus of pictures; `picture`: a file for a grid of them."""
    import numpy as np

    from maquette.base.files import write_atomic
    from maquette.corpus.pictures.store import open_pictures

    corpus = open_pictures(name)
    if corpus.manifest["kind"] == "pictures":
        describe(corpus, terminal)
    image_size = int(corpus.manifest.get("image_size", 32))
    train = corpus.split("train", image_size)
    terminal.say()
    for caption in train.captions(_spread(len(train), EXAMPLES)):
        terminal.say(f"  {caption[:100]}")
    if picture:
        from maquette.workshop.charts import png_grid

        write_atomic(Path(picture), png_grid(train.pictures(_spread(len(train), SHOWN))))
        terminal.say(f"picture: {picture}")
    lines = train.captions(np.arange(min(EXAMPLES, len(train))))
    return summarise(corpus) | {"examples": lines}


def _spread(n: int, shown: int) -> Any:
    """So many numbers below n, at equal distances; the first ones of an endless corpus."""
    import numpy as np

    return np.unique(np.linspace(0, min(n, 1 << 32) - 1, min(n, shown)).astype(np.int64))


def summarise(corpus: "PictureCorpus") -> dict[str, Any]:
    """Summary of a corpus of pictures for --json."""
    m = corpus.manifest
    keys = ("kind", "image_size", "splits", "label_names", "label_sizes", "classes", "vocabulary",
            "duplicates", "skipped", "skipped_reasons", "converted", "bytes_read", "peak_memory",
            "hash")  # fmt: skip
    known = {key: m[key] for key in keys if key in m}
    return known | {"pictures": sum(m["splits"].values())}


def describe(corpus: "PictureCorpus", terminal: Terminal) -> None:
    """Counts, captions and classes, and a line for every reason to leave out or to change."""
    m = corpus.manifest
    s = m["caption_tokens"]
    total, heldout = sum(m["splits"].values()), m["splits"]["heldout"]
    terminal.say(
        f"  {total:,} picture{'s' * (total != 1)} of {m['image_size']} x {m['image_size']}: "
        f"{m['splits']['train']:,} to train on, {f'{heldout:,}' if heldout else 'none'} held out"
        + (" (a run needs one to be evaluated on: add a second picture)" if not heldout else "")
    )
    terminal.say(
        f"  captions of {s['median']} tokens (99 % have at most {s['99 %']}); "
        f"vocabulary {m['vocabulary']:,}; hash {m['hash'][:12]}"
    )
    if m["classes"]:
        sizes = zip(m["classes"], m["class_counts"], strict=True)
        named = [f"{name[:30]} {count:,}" for name, count in sizes]
        more = " ..." if len(named) > CLASSES_SHOWN else ""
        terminal.say(f"  {len(named):,} classes: {', '.join(named[:CLASSES_SHOWN])}{more}")
    elif m["unlabelled"]:
        terminal.say(f"  no labels: {m['unlabelled']:,} pictures have no class")
    for reason, count in m["skipped_reasons"].items():
        examples = [e["source"] for e in m["skipped_named"] if e["reason"] == reason][:NAMES]
        terminal.say(f"  skipped {count:,}: {reason} (such as {', '.join(examples)})")
    for conversion, count in m["converted"].items():
        terminal.say(f"  changed {count:,}: {conversion}")
