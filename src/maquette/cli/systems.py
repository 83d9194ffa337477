"""The catalogue: every published system, its recipes, its claims and what was measured.

example: maquette systems
         maquette systems gpt2
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one system, in full")
    parser.add_argument("--claims", default="claims", help="folder of results (default: claims)")
    parser.add_argument("--gallery", metavar="FILE", help="write the page of all results")
    parser.add_argument("--table", action="store_true", help="print the catalogue as Markdown")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse, did_you_mean
    from maquette.experiments.catalogue import systems
    from maquette.experiments.gallery import catalogue_table, gallery, state
    from maquette.experiments.results import results

    terminal = Terminal(arguments.json)
    known = systems()
    measured = results(Path(arguments.claims))
    if arguments.name is not None:
        if arguments.name not in known:
            raise WrongUse(f"unknown system {arguments.name}{did_you_mean(arguments.name, known)}")
        terminal.say(known[arguments.name].doc)
    elif arguments.gallery:
        gallery(Path(arguments.gallery), Path(arguments.claims))
        terminal.say(f"written: {arguments.gallery}")
    elif arguments.table:
        terminal.say(catalogue_table(measured))
    else:
        rows = []
        for system in known.values():
            ids = [claim.id for claim in system.claims.values()]
            states = ", ".join(f"{i.partition('.')[2]}: {state(measured.get(i))}" for i in ids)
            rows.append([system.name, ", ".join(system.recipes) or "-", states or "-"])
        terminal.table(["system", "recipes", "claims"], rows)
    return {
        "systems": [
            {
                "name": s.name,
                "title": s.title,
                "recipes": list(s.recipes),
                "claims": [c.id for c in s.claims.values()],
                "states": {c.id: state(measured.get(c.id)) for c in s.claims.values()},
            }
            for s in known.values()
        ]
    }
