"""The part of `maquette generate` that writes pictures."""

import argparse
import itertools
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli.terminal import Terminal
from maquette.models.diffusion.drawing import AROUND, DRAWING, SOLVERS

OPTIONS = (
    "out",
    "count",
    "steps",
    "guidance",
    "solver",
    "picture",
    "mask",
    "outpaint",
    "variations_of",
    "text_diff",
    "toward",
    "prior",
    "upsample",
)
"""names of the options of picture runs, None where they are not given"""


def configure(group: argparse._ArgumentGroup) -> None:
    """Add the options of picture runs."""
    group.add_argument("--out", metavar="FILE", help="a .png, .jpg or .webp (default: picture.png)")
    group.add_argument(
        "--count", type=int, help="pictures of each prompt, on one sheet (default: 1)"
    )
    group.add_argument("--steps", type=int, help=f"of the solver (default: {DRAWING.steps})")
    group.add_argument("--guidance", type=float, help="how closely to follow the prompt, 1: not at "
                       f"all more than learned (default: {DRAWING.guidance:g})")  # fmt: skip
    group.add_argument(
        "--solver",
        help=f"{', '.join(SOLVERS)} "
        f"(default: {DRAWING.solver}, and {AROUND.solver} with --mask and --outpaint)",
    )
    group.add_argument("--picture", metavar="FILE", help="to change, to continue, or to enlarge")
    group.add_argument(
        "--mask",
        metavar="FILE",
        help="white where the picture is made anew, or the picture with a part erased",
    )
    group.add_argument("--outpaint", action="append", metavar="SIDE=PIXELS",
                       help="continue the picture: left, right, top, bottom")  # fmt: skip
    group.add_argument("--variations-of", metavar="FILE", help="make what a CLIP sees in a picture")
    group.add_argument("--text-diff", nargs=2, metavar=("FROM", "TO"),
                       help="with --variations-of: turn what one caption says into the other")  # fmt: skip
    group.add_argument("--toward", metavar="FILE", help="with --variations-of: the way to another")
    group.add_argument("--prior", metavar="RUN", help="makes the embeddings that a decoder reads")
    group.add_argument("--upsample", metavar="RUN", help="enlarges what was made")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the pictures and write them."""
    from maquette.base.files import write_atomic
    from maquette.workshop.load_pictures import load_pictures
    from maquette.workshop.picture_generation import make
    from maquette.workshop.picture_output import check_out, loses, sheet
    from maquette.workshop.picture_request import Extend, Fill, Options

    options = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    out = Path(options.pop("out", "picture.png")).expanduser()
    if "outpaint" in options:
        options["outpaint"] = dict(map(_side, options["outpaint"]))
    if "text_diff" in options:
        options["text_diff"] = tuple(options["text_diff"])
    request = Options(prompts=tuple(arguments.prompts), seed=arguments.seed, **options).request()
    check_out(out)
    terminal = Terminal(arguments.json)
    loaded = load_pictures(arguments.run)
    with terminal.stages(counts=True) as progress:
        asked = itertools.count(1)
        hook = loaded.model.register_forward_hook(
            lambda *_: progress("evaluations of the network", next(asked), None)
        )
        made = make(loaded, request)
        hook.remove()
    try:
        drawn = sheet(made.pixels, made.labels, out.suffix)
    except UserError as error:  # too large for that format: what was drawn is kept
        kept = out.with_suffix(".png")
        write_atomic(kept, sheet(made.pixels, made.labels, kept.suffix))
        raise UserError(f"{error}; {kept} is written") from error
    write_atomic(out, drawn)
    n, height, width = made.pixels.shape[:3]
    each = 1e3 * made.seconds / n
    notes = list(made.notes)
    if isinstance(request, Fill | Extend) and loses(out):
        notes.append(f"{out} is a JPEG, which keeps no pixel to the bit: a .png does")
    for note in notes:
        terminal.say(note)
    terminal.say(
        f"{out}: {n} of {width} x {height}, {each:.0f} ms each, "
        f"{made.evaluations} evaluations of the network"
    )
    return {
        "out": str(out),
        "pictures": n,
        "width": width,
        "height": height,
        "prompts": made.labels,
        "milliseconds": round(each, 2),
        "evaluations": made.evaluations,
        "notes": notes,
    }


def _side(text: str) -> tuple[str, int]:
    side, _, pixels = text.partition("=")
    if not pixels.isdigit():
        raise WrongUse(f"--outpaint {text}: write a side and pixels, as in right=64")
    return side, int(pixels)
