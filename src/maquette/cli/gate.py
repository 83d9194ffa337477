"""Who may use a gated run: asked for, accepted, rejected, revoked, in a log that only grows.

A run is gated where its folder has a gate.yaml, which may be empty, or holds `terms: "..."` that are shown to
who asks. Names are those of the server's keys (maquette keys). A server that runs takes every change from the
next request on.

example: maquette gate ask runs/demo ana
         maquette gate accept runs/demo ana
         maquette gate list runs/demo
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli.terminal import Terminal

ACTIONS = {"ask": "asked", "accept": "accepted", "reject": "rejected", "revoke": "revoked"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=(*ACTIONS, "list"))
    parser.add_argument("run", help="a run directory")
    parser.add_argument("name", nargs="?", help="of the user's key")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.api.gate import change, states, terms

    terminal, folder = Terminal(arguments.json), Path(arguments.run).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    if (arguments.name is None) != (arguments.action == "list"):
        raise WrongUse("list takes the run alone, the others a name, too")
    if arguments.action != "list":
        state: Any = ACTIONS[arguments.action]
        change(folder, arguments.name, state)
        if state == "asked" and (text := terms(folder)):
            terminal.say(f"terms: {text}")
        terminal.say(
            f"{arguments.name} is {state}" if state != "asked" else f"{arguments.name} has asked"
        )
    found = states(folder)
    if arguments.action == "list":
        terminal.table(["name", "state"], [list(item) for item in found.items()])
    return {"run": str(folder), "states": found}
