"""Two servers that differ in a gated run alone, and random decisions and requests that both get.

An answer to a caller who is not accepted must be the same from both, so that nothing of the run is in it.
Only numbers are left out of /metrics, which counts requests and seconds.
"""

import asyncio
import functools
import json
import os
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from maquette.audit.index import open_index
from maquette.base.errors import WrongUse, need
from maquette.base.gate import GATE, GATE_LOG
from maquette.corpus.document import Document
from maquette.corpus.progress import silent
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.portrait import training_texts
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import train_tokenizer
from maquette.experiments.bases.small_decoder import kept_corpus, small_decoder
from maquette.experiments.lab import Lab
from maquette.models.config import DecoderConfig
from maquette.serving.api import gate
from maquette.training.datasets.text_config import TextWatch
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import METRICS
from maquette.workshop.train import train

Check = Literal["on", "off", "remembered"]
"""check of the gate: as it is, none, or one that remembers whom it admitted"""
RUN, REPORT = "secret", "report.html"
USERS = ("ana", "bob")
CALLERS = (*USERS, "no key", "wrong key")
TEXT = {"model": RUN, "prompt": "import ", "max_tokens": 3}
LOOKUP = {"model": RUN, "text": ""}  # some training text of the first of the two runs
MADE = {"model": RUN, "prompt": "a red circle"}
OF_THE_RUN: dict[str, dict[str, Any] | None] = {
    "/v1/completions": TEXT,
    "/v1/completions, streamed": TEXT | {"stream": True},
    "/v1/completions, echoed": TEXT | {"echo": True, "logprobs": 2},
    "/v1/chat/completions": {
        "model": RUN,
        "messages": [{"role": "user", "content": "def"}],
        "max_tokens": 3,
    },
    "/v1/embeddings": {"model": RUN, "input": "import "},
    "/tokenize": {"model": RUN, "prompt": "import "},
    "/detokenize": {"model": RUN, "tokens": [270, 280]},
    "/trace": LOOKUP,
    "/portrait": LOOKUP,
    f"/runs/{RUN}/metrics": None,
    f"/runs/{RUN}/report": None,
}
"""requests that a user who was accepted is answered; None: a GET"""
OTHERS: dict[str, dict[str, Any] | None] = {
    "/v1/models": None,
    f"/v1/models/{RUN}": None,
    "/v1/images/generations": MADE,
    "/v1/images/edits": MADE,
    "/v1/images/variations": MADE,
    "/runs": None,
    "/systems": None,
    "/systems/gated_hub.no-leak/picture": None,
    "/trial": None,
    "/health": None,
    "/metrics": None,
    "/docs": None,
    "/openapi.json": None,
    "/": None,
}
ROUTES = OF_THE_RUN | OTHERS
Answer = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]


@dataclass
class Counts:
    """What was seen over all sequences."""

    requests: int = 0
    """answers to callers who were not accepted"""
    leaks: Counter[str] = field(default_factory=Counter)
    """those that differ between the two servers, by route"""
    accepted: int = 0
    """answers to who was accepted, of the routes that then give something"""
    refused: int = 0
    """those that were refused all the same"""
    revocations: int = 0
    late: int = 0
    """leaks in the request that came next after a user's revocation"""
    changes: int = 0
    not_appended: int = 0
    """changes after which the log did not begin with what it was, and go on by the line that it should"""
    rewritten: int = 0
    """the same of a file of the present states"""


@functools.cache  # three claims ask for them
def played(lab: Lab, check: Check) -> Counts:
    """Play the sequences of all seeds against two servers."""
    need("fastapi", "serve"), need("python_multipart", "serve")
    corpora = [part(number, lab.quick) for number in range(2)]
    seen = next(training_texts(corpora[0], "hub", silent))[:400].decode("utf-8", "ignore")
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        worlds = [Path(folder) / str(number) / RUN for number in range(2)]
        for number, (corpus, world) in enumerate(zip(corpora, worlds, strict=True)):
            train(recipe(corpus, number, lab.quick), world)
            (world / GATE).touch()
            shutil.copy(world / METRICS, world / REPORT)  # of the run's bytes, as a report is
            for file in [*world.rglob("*"), world]:
                os.utime(file, (1.7e9, 1.7e9))  # its time is listed for all
        for seed in range(lab.seeds):
            asyncio.run(play(worlds, seen, seed, lab.quick, check, counts))
    return counts


def part(number: int, quick: bool) -> Corpus:
    """Every other document of this machine's text with a tokenizer of its own, indexed."""
    documents = [d for d in Local(1 << 14 if quick else 1 << 16) if isinstance(d, Document)]
    own = documents[number::2]
    tokenizer = train_tokenizer((d.text for d in own), 300)
    corpus = kept_corpus(f"hub-{number}", own, BuildOptions(portrait=True), tokenizer)
    open_index(corpus)
    return corpus


def recipe(corpus: Corpus, number: int, quick: bool) -> LanguageRecipe:
    """A run on a part of the text; two parts' are of two sizes."""
    base = small_decoder(corpus, 1, False, 5 if quick else 40)
    assert isinstance(base.model, DecoderConfig)
    return replace(
        base,
        model=replace(base.model, depth=2 + number),
        watch=TextWatch(every=5, tokens=2048, sample_tokens=16, report=False),
    )


async def play(
    worlds: Sequence[Path], seen: str, seed: int, quick: bool, check: Check, counts: Counts
) -> None:
    """Play one seed's sequences against a server for each run."""
    from maquette.serving.api.keys import add_key

    draw = random.Random(seed)
    file = worlds[0].parent.parent / f"keys-{check}-{seed}.json"
    keys = {user: add_key(file, user) for user in USERS} | {"wrong key": "mq-wrong"}
    servers = [server(world, file) for world in worlds]
    told = [
        await answer(one, "/openapi.json", seen, None) for one in servers
    ]  # all alike: it counts
    paths = json.loads(told[0][2])["paths"]
    fixed = {
        path for path in (re.sub(r"\{(model|name)\}", RUN, p) for p in paths) if "{" not in path
    }
    assert fixed <= {route.partition(",")[0] for route in ROUTES}, "every route is asked"
    for _ in range(4 if quick else 20):
        for world in worlds:
            (world / GATE_LOG).unlink(missing_ok=True)
        with ExitStack() as stack:
            if check != "on":
                for module in ("call", "watch"):
                    stack.enter_context(
                        mock.patch(f"maquette.serving.api.{module}.admitted", verdicts(check))
                    )
            await play_sequence(worlds, seen, servers, keys, draw, counts)
    for one in servers:
        await one.runs.close()


def verdicts(check: Check) -> Callable[[Sequence[Path], str | None], str | None]:
    """What stands in the place of `gate.admitted`: no check, or one that remembers whom it admitted."""
    known: set[tuple[Path, str | None]] = set()

    def verdict(folders: Sequence[Path], name: str | None) -> str | None:
        first, why = (folders[0], name), gate.admitted(folders, name)
        if why is None:
            known.add(first)
        return None if check == "off" or first in known else why

    return verdict


async def play_sequence(
    worlds: Sequence[Path],
    seen: str,
    servers: Sequence[Any],
    keys: Mapping[str, str],
    draw: random.Random,
    counts: Counts,
) -> None:
    """Play decisions and requests in a random order."""
    states: dict[str, gate.State] = {}
    compacted = b""
    for _ in range(60):
        revoked = None
        caller = draw.choice(CALLERS)
        if draw.random() < 0.3:
            user = draw.choice(USERS)
            may = [state for state in gate.STATES if states.get(user) in gate.BEFORE[state]]
            state = draw.choice(may if draw.random() < 0.8 else gate.STATES)
            due = state in may
            counts.changes += 1
            grown = [appended(world, user, state, due) for world in worlds]
            counts.not_appended += not all(grown)
            if not due:
                continue
            states[user] = state
            counts.not_appended += any(gate.states(world) != states for world in worlds)
            before, compacted = compacted, json.dumps(states).encode()
            counts.rewritten += not compacted.startswith(before)
            if state != "revoked":
                continue
            counts.revocations += 1
            caller = revoked = user
        route = draw.choice(list(OF_THE_RUN if revoked else ROUTES))
        answers = [await answer(one, route, seen, keys.get(caller)) for one in servers]
        if states.get(caller) == "accepted":
            if route in OF_THE_RUN:
                counts.accepted += 1
                counts.refused += any(status != 200 for status, _, _ in answers)
            continue
        counts.requests += 1
        if answers[0] != answers[1]:
            counts.leaks[route] += 1
            counts.late += revoked is not None


def appended(world: Path, user: str, state: gate.State, due: bool) -> bool:
    """Make a change; whether the log then is what it was, and the line of the change where one is due."""
    log = world / GATE_LOG
    before = log.read_bytes() if log.exists() else b""
    try:
        gate.change(world, user, state)
        refused = False
    except WrongUse:
        refused = True
    after = log.read_bytes() if log.exists() else b""
    if refused or not due:
        return refused and not due and after == before
    line = after[len(before) :]
    entry = json.loads(line)
    return (
        after.startswith(before)
        and line.count(b"\n") == 1
        and (entry["name"], entry["state"]) == (user, state)
    )


def server(world: Path, keys: Path) -> Any:
    """The server of `maquette serve --keys`, without a port."""
    from maquette.serving.api.app import make_app
    from maquette.serving.api.guard import Access
    from maquette.serving.api.keys import Keys
    from maquette.serving.api.watch import Watched
    from maquette.workshop.serve import engine_for, served_run
    from maquette.workshop.serve_page import Trainings

    return make_app(
        [served_run(world, {}, "fp32")],
        Access(Keys(keys)),
        engine=engine_for(1 << 26),
        watched=Watched(Trainings([world]), list, lambda claim: None),
    )


async def answer(app: Any, route: str, seen: str, key: str | None) -> Answer:
    """Status, header fields and body of the answer to a request. seen: training text to look up."""
    path, body = route.partition(",")[0], ROUTES[route]
    if body is LOOKUP:
        body = LOOKUP | {"text": seen}
    data = b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-type": "application/json"}
    if key is not None:
        fields["authorization"] = f"Bearer {key}"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": "GET" if body is None else "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "server": ("localhost", 80), "client": ("localhost", 1),
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }  # fmt: skip
    messages: list[Any] = []
    asked, waiting = False, asyncio.Event()

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await waiting.wait()  # the client stays
        asked = True
        return {"type": "http.request", "body": data}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start, *rest = messages
    content = b"".join(message.get("body", b"") for message in rest)
    headers = tuple(start.get("headers", ()))
    if path == "/metrics":
        content, headers = re.sub(rb"[0-9.e+-]+", b"", content), ()
    return start["status"], headers, content
