"""Write what the documentation shows from what the code says.

    python docs/build.py

- docs/pictures/architecture.png: the house, drawn from the import contract in pyproject.toml
- README.md: the catalogue's table and a plan's output, between their markers
- docs/pictures/plan.png: that plan's picture
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import vl_convert

from maquette.base.files import write_atomic
from maquette.experiments.gallery import catalogue_table
from maquette.experiments.results import results

ROOT = Path(__file__).parents[1]
WORDS = {
    "cli": "one thin file per command",
    "face": "import maquette",
    "systems": "one file per published system: recipes, claims",
    "experiments": "claims, the lab, shared bases, arms, gallery",
    "workshop": "jobs made of stations: train, demo, report, load",
    "corpus": "text, pictures in",
    "worlds": "exact truth",
    "scaling": "what to train",
    "training": "recipe, loop",
    "adaptation": "change a part",
    "parallel": "ranks, layouts",
    "evaluation": "bits, oracles",
    "audit": "seen, traced",
    "serving": "generate, formats",
    "models": "whole architectures",
    "nn": "blocks: tensors in, tensors out",
    "base": "errors, files, statistics, the machine",
}
ORDER = (
    "worlds",
    "corpus",
    "scaling",
    "training",
    "adaptation",
    "parallel",
    "evaluation",
    "audit",
    "serving",
)


def architecture() -> str:
    """An SVG of the layers, top to bottom, the stations side by side in the order data walks."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    layers = [
        [name.strip().removeprefix("maquette.") for name in layer.split("|")]
        for layer in contract["contracts"][0]["layers"]
    ]
    width, height, gap, left = 1120, 62, 26, 20
    parts = []
    y = 20
    for layer in layers:
        names = sorted(layer, key=lambda n: ORDER.index(n) if n in ORDER else 0)
        stations = len(names) > 2
        room = (width - 2 * left - (len(names) - 1) * 12) / len(names)
        for i, name in enumerate(names):
            x = left + i * (room + 12)
            fill = "#fbe9e1" if stations else "#eaf1f4"
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{room:.0f}" height="{height}" rx="6" '
                f'fill="{fill}" stroke="#9aa5ad"/>'
                f'<text x="{x + room / 2:.0f}" y="{y + 26}" text-anchor="middle" '
                f'font-size="17" font-weight="bold">{name}</text>'
                f'<text x="{x + room / 2:.0f}" y="{y + 46}" text-anchor="middle" '
                f'font-size="{12 if stations else 13}">{WORDS[name]}</text>'
            )
        y += height + gap
        if layer is not layers[-1]:
            middle = width / 2
            parts.append(
                f'<path d="M {middle} {y - gap + 3} v {gap - 10} m -5 -6 l 5 7 l 5 -7" '
                f'fill="none" stroke="#6b7780" stroke-width="1.6"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
        f'font-family="Helvetica, Arial, sans-serif" fill="#22303c">'
        f'<rect width="{width}" height="{y}" fill="white"/>{"".join(parts)}</svg>'
    )


PLAN = "maquette plan --device H100 --devices 8 --hours 24 --picture docs/pictures/plan.png"


def session(command: str) -> str:
    """A console block: the command as a user types it, and what it prints."""
    said = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return f"```console\n$ {command}\n{said.stdout.rstrip()}\n```"


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between two markers replaced."""
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- end( {name})? -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        count=1,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write everything."""
    picture = vl_convert.svg_to_png(architecture(), scale=2)
    write_atomic(ROOT / "docs" / "pictures" / "architecture.png", bytes(picture))
    readme = ROOT / "README.md"
    text = between(readme.read_text(encoding="utf-8"), "plan", session(PLAN))
    text = between(text, "catalogue", catalogue_table(results(ROOT / "claims")))
    write_atomic(readme, text)


if __name__ == "__main__":
    main()
