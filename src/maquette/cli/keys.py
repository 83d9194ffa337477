"""Keys of the server's users, in a file that holds their hashes and limits.

The key is printed once, when it is made; a server that runs takes every change from the next request on.

example: maquette keys add ana --file keys.json --requests 60 --tokens 20000 --concurrent 4
         maquette keys list --file keys.json
         maquette keys revoke ana --file keys.json
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal

LIMITS = ("requests", "tokens", "concurrent")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("add", "list", "revoke"))
    parser.add_argument("name", nargs="?", help="of the user")
    parser.add_argument("--file", default="keys.json", help="(keys.json)")
    parser.add_argument("--requests", type=int, help="a minute at most")
    parser.add_argument("--tokens", type=int, help="a minute at most, of prompts and answers")
    parser.add_argument("--concurrent", type=int, help="requests at a time at most")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.api.keys import add_key, read_keys, revoke_key

    terminal, path = Terminal(arguments.json), Path(arguments.file).expanduser()
    limits = {name: getattr(arguments, name) for name in LIMITS}
    if arguments.action != "add" and any(value is not None for value in limits.values()):
        raise WrongUse("limits are given with add: revoke the key, and make another")
    if (arguments.name is None) != (arguments.action == "list"):
        raise WrongUse("add and revoke take the name of a user, list takes none")
    if arguments.action == "list":
        keys = read_keys(path) if path.exists() else []
        rows = [
            [
                key.name,
                *(getattr(key, n) or "no limit" for n in LIMITS),
                "revoked" if key.revoked else "valid",
            ]
            for key in keys
        ]
        terminal.table(["name", "requests a minute", "tokens a minute", "at a time", ""], rows)
        return {
            "keys": [
                {"name": k.name, "revoked": k.revoked} | {n: getattr(k, n) for n in LIMITS}
                for k in keys
            ]
        }
    if arguments.action == "revoke":
        revoke_key(path, arguments.name)
        terminal.say(f"{arguments.name} is refused from the next request on")
        return {"name": arguments.name, "revoked": True}
    key = add_key(path, arguments.name, **limits)
    terminal.say(f"the key of {arguments.name}, which is shown this once: {key}")
    return {"name": arguments.name, "key": key}
