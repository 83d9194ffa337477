"""Serve runs by OpenAI's API, and a page to use them in the browser.

The server listens on this machine alone; to open it to others, name --host and --keys (maquette keys makes
the file). Runs are read into memory when they are asked for. Ctrl-C lets the answers finish, a second one
stops at once.

example: maquette serve runs/demo-chat
         maquette serve runs/demo runs/diffusion --memory 4GB --port 8000
         maquette serve runs/demo --adapter runs/medieval
         maquette serve runs/demo --host 0.0.0.0 --keys keys.json
         maquette serve runs/demo --replicas 2 --autoscale 8
"""

import argparse
import ipaddress
import sys
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.cli.texts import WEIGHTS

PORT = 8080
UNITS = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "": 1,
}
CACHE_SHARE = 4  # of --memory, all caches of keys and values have one part in so many
WORDS_ANYWHERE = True  # runs before options, or after them


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument("--port", type=int, default=PORT, help=f"({PORT}; 0: any that is free)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (this machine)")
    parser.add_argument("--keys", metavar="FILE", help="who may use it, made by maquette keys")
    parser.add_argument("--adapter", action="append", default=[], metavar="RUN",
                        help="an adapted run of a served one, asked for by its name")  # fmt: skip
    parser.add_argument("--draft", metavar="RUN",
                        help="a smaller run whose tokens the served one checks")  # fmt: skip
    parser.add_argument("--context-shift", action="store_true",
                        help="go on when the context is full, and drop the middle of it")  # fmt: skip
    parser.add_argument("--memory", metavar="SIZE", help="of all models at most, such as 4GB")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="of text models (default: as they are, in the faster precision here)",
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN",
                        help="a site whose pages may call it, such as https://example.org")  # fmt: skip
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of an answer (600)")
    parser.add_argument("--replicas", type=int, metavar="N",
                        help="so many servers behind Ray Serve, each with its own limits")  # fmt: skip
    parser.add_argument("--autoscale", type=int, metavar="N",
                        help="up to so many replicas, as many as the requests ask for")  # fmt: skip
    parser.add_argument("--log-prompts", action="store_true", help="write requests to the log, too")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    import logging
    from contextlib import ExitStack

    from maquette.base.errors import need

    need("fastapi", "serve"), need("uvicorn", "serve"), need("python_multipart", "serve")
    from maquette.experiments.watch import Trials
    from maquette.serving.api.server import listening
    from maquette.serving.api.server import run as listen

    local = loopback(arguments.host)
    if not local and arguments.keys is None:
        raise WrongUse(
            f"--host {arguments.host} opens the server to others: name who may use it with --keys FILE"
        )
    replicas = 1 if arguments.replicas is None else arguments.replicas
    most = replicas if arguments.autoscale is None else arguments.autoscale
    if not 1 <= replicas <= most:
        raise WrongUse(
            f"{replicas} replicas, {most} at most: use numbers from 1, the second not smaller"
        )
    many = arguments.replicas is not None or arguments.autoscale is not None
    if many:
        for name in ("runs", "adapter"):  # replicas run in folders of their own
            setattr(arguments, name, [_absolute(one) for one in getattr(arguments, name)])
        arguments.keys = arguments.keys and _absolute(arguments.keys)
        arguments.draft = arguments.draft and _absolute(arguments.draft)
    limits = limits_of(arguments)
    with ExitStack() as ends:
        trials = None if many or not local or arguments.keys else Trials()
        if trials is not None:
            ends.callback(trials.close)
        app, names = application(arguments, trials)
        listener = listening(arguments.host, arguments.port)
        port = listener.getsockname()[1]
        shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{shown}:{port}"

        def started() -> None:
            print(f"serving {', '.join(names)} at {url} (API: {url}/v1, Ctrl-C ends)", flush=True)

        if many:
            from maquette.serving.api.replicas import run as replicate

            listener.close()  # the proxy takes the port
            replicate(
                lambda: application(arguments, None)[0],
                arguments.host, port, limits, replicas, most, started,
            )  # fmt: skip
        else:
            logging.basicConfig(
                stream=sys.stderr,
                level=logging.INFO,
                format="%(asctime)s %(levelname)s %(message)s",
            )
            logging.getLogger("uvicorn").setLevel(logging.WARNING)
            logging.raiseExceptions = False  # a full disk under the log stops nothing
            listen(app, listener, limits, started)
    return {"url": url, "runs": names}


def application(arguments: argparse.Namespace, trials: Any) -> tuple[Any, list[str]]:
    """The server, and the names of its runs. trials: the reproductions that its page starts; None: none."""
    from maquette.experiments.lab import MEASURED
    from maquette.experiments.watch import described, picture
    from maquette.serving.api.app import make_app
    from maquette.serving.api.gate import gated
    from maquette.serving.api.guard import LOOPBACK, Access
    from maquette.serving.api.keys import Keys
    from maquette.serving.api.watch import Watched
    from maquette.workshop.serve import engine_for, served_runs
    from maquette.workshop.serve_page import Trainings

    memory = None if arguments.memory is None else size(arguments.memory)
    access = Access(
        keys=None if arguments.keys is None else Keys(Path(arguments.keys)),
        hosts=LOOPBACK if loopback(arguments.host) else None,
        origins=tuple(origin.rstrip("/") for origin in arguments.cors),
        log_prompts=arguments.log_prompts,
    )
    runs = served_runs(
        [Path(run) for run in arguments.runs],
        [Path(run) for run in arguments.adapter],
        arguments.weights,
        None if arguments.draft is None else Path(arguments.draft).expanduser(),
    )
    closed = next((one.name for one in runs if any(gated(f) for f in one.gates)), None)
    if closed is not None and access.keys is None:
        raise WrongUse(f"{closed} is gated, and without --keys nobody could use it: name the keys")
    texts = sum(one.kind == "text" for one in runs)
    cache = None if memory is None else memory // CACHE_SHARE // max(1, texts)
    watched = Watched(
        trainings=Trainings([one.folder for one in runs]),
        systems=lambda: described(Path(MEASURED)),
        picture=lambda claim: picture(Path(MEASURED), claim),
        trials=trials,
    )
    app = make_app(
        runs,
        access,
        engine=engine_for(cache, arguments.context_shift, texts),
        limits=limits_of(arguments),
        memory=memory,
        cache=cache or 0,
        watched=watched,
    )
    return app, [one.name for one in runs]


def limits_of(arguments: argparse.Namespace) -> Any:
    """The server's limits."""
    from dataclasses import replace

    from maquette.serving.api.limits import Limits

    if arguments.timeout is None:
        return Limits()
    if not 0 < arguments.timeout < 10**6:
        raise WrongUse(f"--timeout is {arguments.timeout:g}: use a number of seconds above 0")
    return replace(Limits(), answer_seconds=arguments.timeout)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def size(text: str) -> int:
    """Bytes of such as 4GB. Raises WrongUse for another text."""
    number = text.strip().upper().rstrip("BKMGI")
    unit = text.strip().upper()[len(number) :]
    try:
        amount = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        amount = 0
    if amount < 1:
        raise WrongUse(f"--memory {text}: write a size such as 4GB or 512MiB")
    return amount
