"""`maquette COMMAND`: find the command, run it, turn what went wrong into one line.

Commands are imported when they are called, so that `maquette --help` needs neither torch nor time.
"""

import argparse
import atexit
import errno
import importlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.version import __version__
from maquette.cli import interrupts

COMMANDS = {
    "demo": "the main job, end to end: text to a trained, measured model and a report",
    "corpus": "build a corpus of text, examples or pictures, or show one",
    "plan": "what to train with a budget: size, tokens, expected loss, and why",
    "sweep": "tune on a small model what a large one will use",
    "train": "train a recipe",
    "generate": "continue a prompt, or make pictures of it",
    "chat": "talk to a run's model in the terminal",
    "serve": "OpenAI's API and a page over runs",
    "keys": "keys of the server's users, with limits",
    "gate": "who may use a gated run",
    "eval": "loss, bits per byte, accuracy, what an oracle sees",
    "audit": "what is in a corpus, and what of it is in a model",
    "adapt": "change a trained model: head, bias, prompts, LoRA, or all of it",
    "import": "read a Hugging Face model",
    "export": "write a run for Hugging Face",
    "runs": "list runs, or compare some",
    "doctor": "check this machine and measure its peaks",
    "systems": "the catalogue of published systems and their claims",
    "reproduce": "measure claims again",
}
MODULES = {"eval": "evaluate", "import": "import_"}  # where the module's name must differ
MENDS = {
    errno.ENOENT: "name what is there",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
}
INTERRUPTED = "interrupted: nothing half-written is left"
HIDDEN = {"rank"}  # a rank that `train --ranks` starts


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, with the nearest valid word."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message}: see {self.prog} --help")


def entry() -> NoReturn:
    """The program: `main`, and out.

    A rank takes no interpreter down: gloo's threads may outlive their group, and one that drops a
    tensor then is aborted for it, after the work was done.
    """
    try:
        code = main()
    except KeyboardInterrupt:  # another, amid the line about the first
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is only to leave
    if "WORLD_SIZE" in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code: 0 done, 1 failed, 2 wrong use."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # "?" for what a terminal or a pipe cannot show
            stream.reconfigure(errors="replace")
    try:
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return 0


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"maquette {__version__}")
        return 0
    name, rest = words[0], words[1:]
    try:
        if name not in COMMANDS and name not in HIDDEN:
            raise WrongUse(f"unknown command {name}{did_you_mean(name, COMMANDS)}")
        with interrupts.heard():
            result = _run(name, rest)
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        mend = MENDS.get(error.errno or 0, "free space or mend the permission")
        return _complain(f"{error.strerror or error}{where}: {mend}", 1)
    except Exception as error:
        if interrupts.raised():
            return _complain(
                INTERRUPTED, 1
            )  # numpy and safetensors make errors of their own of one
        if reason := _full_disk(error) or _no_memory(error):
            return _complain(reason, 1)
        raise
    if result is not None and "--json" in rest:
        print(json.dumps(_finite(result), allow_nan=False))
    return 0


def _finite(value: Any) -> Any:
    """Values for JSON: null for infinity and NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _run(name: str, words: list[str]) -> dict[str, Any] | None:
    module: ModuleType = importlib.import_module(f"maquette.cli.{MODULES.get(name, name)}")
    if os.environ.get("MAQUETTE_SYSTEMS"):  # a user's files may have models and kinds of data
        importlib.import_module("maquette.experiments.catalogue").systems()
    verbs: dict[str, str] = getattr(module, "VERBS", {})
    if words and words[0] in verbs:  # a verb with options of its own
        module = importlib.import_module(f"maquette.cli.{verbs[words[0]]}")
        name, words = f"{name} {words[0]}", words[1:]
    parser = Parser(
        prog=f"maquette {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    module.configure(parser)
    if getattr(module, "TAKES_FIELDS", False):
        named = words and not words[0].startswith("-")  # RECIPE comes first: fields take words, too
        words = [f"--recipe={words[0]}", *words[1:]] if named else words
        known, fields = parser.parse_known_args(words)
        known.fields = fields
    else:
        mixed = getattr(module, "WORDS_ANYWHERE", False)
        known = parser.parse_intermixed_args(words) if mixed else parser.parse_args(words)
    result: dict[str, Any] | None = module.run(known)
    return result


def _complain(message: str, code: int) -> int:
    print(f"maquette: {' '.join(message.split())}", file=sys.stderr)
    return code


def _full_disk(error: Exception) -> str | None:
    """Libraries in Rust and C++ report a full disk in words of their own."""
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return "no space left on the device: free space and run again; nothing finished is lost"
    return None


def _no_memory(error: Exception) -> str | None:
    """PyTorch and NumPy report memory that is not there in words of their own."""
    text = str(error)
    words = ("allocate memory", "out of memory", "Unable to allocate", "size calculation overflow")
    if isinstance(error, MemoryError) or any(word in text for word in words):
        return "there is not enough memory: use a smaller model, batch or context, or --micro-batch"
    return None


def _silence_stdout() -> None:
    """The reader of a pipe has gone: leave without Python's complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> str:
    lines = [
        "usage: maquette COMMAND ...      (mq for short; maquette COMMAND --help for each)",
        "",
        "A corpus and a budget in, a trained, measured, traceable model out.",
        "",
        *(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
        "",
        "example: maquette demo",
    ]
    return "\n".join(lines)
