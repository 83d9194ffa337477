"""Talk to a run's model: a prompt in the terminal, answers as they are written.

Questions are asked in one conversation: those named, or the lines of standard input where it is no
terminal, or what is typed. A conversation is written as the run's examples were, or as the chat template
of an imported model says. Ctrl-C stops an answer; /quit, or the end of the input, leaves.

    /reset       forget the conversation
    /save FILE   add the conversation to FILE, a record that maquette corpus examples reads
    /help        these lines

example: maquette chat runs/demo-chat
         maquette chat runs/demo-chat "What is 7 plus 5?" --temperature 0
         echo "What is a shell?" | maquette chat runs/demo-chat --json
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli import interrupts
from maquette.cli.generate import adapter_named
from maquette.cli.terminal import Terminal
from maquette.cli.texts import WEIGHTS, line_ends

if TYPE_CHECKING:
    from maquette.serving.chat import Chat, Reply

COMMANDS = (
    "/reset forgets the conversation, /save FILE keeps it, /quit leaves; Ctrl-C stops an answer"
)
TEMPERATURE = 0.6
WORDS_ANYWHERE = True  # questions before options, or after them


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help="asked one after the other"
    )
    parser.add_argument("--system", type=line_ends, default="",
                        help="text before the first question; \\n is a line end")  # fmt: skip
    parser.add_argument("--tokens", type=int, help="of an answer at most (128)")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="0: greedy (0.6)")
    parser.add_argument("--top-k", type=int, help="choose among the k likeliest")
    parser.add_argument("--top-p", type=float, help="choose among the likeliest of mass p")
    parser.add_argument("--min-p", type=float, help="drop what is less than p times the likeliest")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=WEIGHT",
                        help="attach an adapted run of this one, with a weight (default: 1)")  # fmt: skip
    parser.add_argument("--base", help="where the base of an adapted run is now")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto",
                        help="of the model (default: as they are, in the faster precision here)")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.sampler import Sampling
    from maquette.workshop.chat import NOT_LEARNT, open_chat
    from maquette.workshop.load import load

    sampling = Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    terminal = Terminal(arguments.json)
    loaded = load(arguments.run, arguments.base)
    for given in arguments.adapter:
        loaded.attach(*adapter_named(given, Path(arguments.run)))
    chat, learnt = open_chat(
        loaded, system=arguments.system, tokens=arguments.tokens, sampling=sampling
    )
    loaded.optimise(arguments.weights)
    if not (learnt or arguments.adapter):
        print(NOT_LEARNT, file=sys.stderr)
    if arguments.questions or not sys.stdin.isatty():
        questions = arguments.questions or filter(None, map(str.strip, sys.stdin))
        replies = ask_all(chat, questions, terminal)
    else:
        terminal.say(COMMANDS)
        replies = converse(chat, typed, terminal)
    return {
        "run": arguments.run,
        "template": chat.template.text,
        "learnt": learnt,
        "messages": chat.messages(),
        "answers": [reply.text for reply in replies],
        "finish": [reply.finish for reply in replies],
        "dropped": sum(reply.dropped for reply in replies),
        "tokens_per_second": round(replies[-1].tokens_per_second, 1) if replies else None,
    }


def talk(path: Path, terminal: Terminal) -> None:
    """A conversation with a run in the terminal, at the usual settings."""
    from maquette.serving.sampler import Sampling
    from maquette.workshop.chat import open_chat
    from maquette.workshop.load import load

    loaded = load(path)
    chat, _ = open_chat(loaded, sampling=Sampling(temperature=TEMPERATURE))
    loaded.optimise()
    terminal.say(COMMANDS)
    converse(chat, typed, terminal)


def ask_all(chat: "Chat", questions: Iterable[str], terminal: Terminal) -> "list[Reply]":
    """The answers to questions that are given. Raises WrongUse where there are none."""
    replies = []
    for question in questions:
        replies.append(answered(chat, question, terminal))
    if not replies:
        raise WrongUse("there is no question: name one, or write a line to standard input")
    return replies


def converse(chat: "Chat", read: Callable[[], str], terminal: Terminal) -> "list[Reply]":
    """Answer what is typed until the end of the input or /quit. read: returns a line, raises EOFError."""
    replies: list[Reply] = []
    while True:
        try:
            line = read().strip()
        except EOFError:
            terminal.say()
            return replies
        except KeyboardInterrupt:
            if not interrupts.ctrl_c():
                raise
            terminal.say("\n/quit leaves")
            continue
        if line == "/quit":
            return replies
        try:
            if line.startswith("/"):
                terminal.say(obeyed(chat, line))
            elif line:
                replies.append(answered(chat, line, terminal))
        except KeyboardInterrupt:
            if not interrupts.ctrl_c():
                raise
            terminal.say(" ... stopped")
        except UserError as error:
            terminal.say(str(error))
        except OSError as error:
            terminal.say(f"{error.strerror} ({error.filename}): name another file")


def answered(chat: "Chat", question: str, terminal: Terminal) -> "Reply":
    """Ask, and print the answer as it is written, with a line where exchanges no longer fit."""

    def write(piece: str) -> None:
        print(piece, end="", file=terminal.file, flush=True)

    reply = chat.ask(question, write)
    terminal.say(" ..." if reply.finish == "length" else "")
    if reply.dropped:
        oldest = "exchange no longer fits" if reply.dropped == 1 else "exchanges no longer fit"
        print(
            f"[the oldest {reply.dropped} {oldest} the context of "
            f"{chat.model.config.context} tokens, and was left out]",
            file=sys.stderr,
        )
    return reply


def obeyed(chat: "Chat", line: str) -> str:
    """Do what a line that begins with / says; returns what to print."""
    word, _, name = line.partition(" ")
    if word == "/help":
        return COMMANDS
    if word == "/reset":
        chat.reset()
        return "the conversation is forgotten"
    if word == "/save":
        if not name.strip():
            return "name a file: /save talk.jsonl"
        if not chat.history:
            return "there is nothing to save yet"
        path = Path(name.strip()).expanduser()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": chat.messages()}, ensure_ascii=False) + "\n")
        return f"saved: {path}"
    return f"unknown command {word}: {COMMANDS}"


def typed() -> str:
    """A line from the terminal, with the editing that readline gives."""
    with contextlib.suppress(ImportError):  # there is none on Windows
        import readline  # noqa: F401  (its import is what makes input() edit)
    return input("> ")
