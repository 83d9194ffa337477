"""A server in a thread of the test's process, whose runs say what the tests want to see on the page.

The run `parrot` is a language model over bytes whose engine says a text that its prompt asks for, as
`PHRASES` has it, going on from what is already there; some wait for permits. `tiny` has the real engine.
"""

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
from conftest import ROOT
from PIL import Image
from served import engine, language_model, run_of

from maquette.audit.member import Membership
from maquette.audit.member import Span as Seen
from maquette.audit.trace import Origin, Span, Trace
from maquette.experiments.watch import Trials, described, picture
from maquette.models.config import DecoderConfig
from maquette.serving.api.app import make_app
from maquette.serving.api.guard import Access
from maquette.serving.api.limits import Limits
from maquette.serving.api.run import PicturesMade
from maquette.serving.api.server import listening
from maquette.serving.api.watch import Watched
from maquette.serving.request import Step
from maquette.workshop.serve_page import Trainings

HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\"> <script>document.title='broken'</script> "
    "[click](javascript:document.title='broken') ![p](http://example.invalid/p.png) "
    "[ok](https://example.invalid/) **<b>bold</b>** `<i>`"
)
LONG = "".join(f"word{n % 97} " if n % 12 else f"line *{n % 7}*\n\n" for n in range(1600))[:10_000]
PHRASES = {
    "LONG": LONG,
    "HOSTILE": HOSTILE,
    "MARKDOWN": "# Title\n\nSome **strong** text.\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "```\ncode <b>\n```\n\nThe end.",
    "HELD": "one two three four five six seven eight nine ten",
}
OTHERWISE = "The cat sat on the mat."
CONTEXT = 20_000
SURE, LESS, LEAST = -0.1, -3.0, -5.0  # log-probabilities
PASSAGE = "cat sat on the"
EVIL = "<img src=x onerror=\"document.title='broken'\">"


class Parrot:
    """An engine that says a phrase; in place of `Engine`."""

    context_shift = False

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.requests: list[Any] = []
        self.cancelled: list[int] = []
        self._rows: dict[int, tuple[Any, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def submit(self, request: Any) -> int:
        self.requests.append(request)
        asked = bytes(t for t in request.prompt if t < 256).decode()
        weight = request.adapters.get("pirate", 0.0)
        text = next((said for word, said in PHRASES.items() if word in asked), OTHERWISE)
        if weight:
            text = f"Arr, at {weight:g}."
        begun = next((n for n in range(len(text), 0, -1) if asked.endswith(text[:n])), 0)
        row = [*text[begun:].encode(), 256][: request.tokens]
        self._rows[len(self.requests)] = (request, row)
        return len(self.requests)

    def cancel(self, number: int) -> None:
        if self._rows.pop(number, None):
            self.cancelled.append(number)

    def step(self) -> list[Step]:
        steps = []
        for number, (request, row) in list(self._rows.items()):
            held = b"HELD" in bytes(t for t in request.prompt if t < 256)
            if held and not self.permits.acquire(timeout=0.01):
                continue
            token = row.pop(0)
            others = ((token, SURE), (ord("X"), LESS), (ord("<"), LEAST))
            finish = None if row else "end" if token == 256 else "length"
            text = "" if token == 256 else chr(token)
            steps.append(Step(number, token, text, SURE, others[: request.alternatives], finish))
            if finish:
                del self._rows[number]
        return steps


class Painter:
    """A picture run that paints one colour; it keeps its orders."""

    def __init__(self) -> None:
        self.orders: list[Any] = []

    def make(self, order: Any, stopped: Any) -> PicturesMade:
        self.orders.append(order)
        width = 16 + sum(order.outpaint.values())
        file = io.BytesIO()
        Image.new("RGB", (width, 16), (200, 30, 60)).save(file, "PNG")
        return PicturesMade([file.getvalue()] * order.count, width, 16, order.steps or 20, [EVIL])


def trace(text: str) -> dict[str, Any]:
    """A trace that finds one passage, in a document with a hostile title."""
    at = text.find(PASSAGE)
    spans = []
    if at >= 0:
        end = at + len(PASSAGE)
        origin = Origin(
            0, "stories", "made:1", EVIL, None, "CC0", 0, 17, at, end, f"before {EVIL} ", " after"
        )
        spans.append(Span(at, end, PASSAGE, 4, 2, -9.0, [origin]))
    return asdict(Trace(text, len(text), spans, len(spans), 3, 0.5 if spans else 0.0))


def portrait(text: str) -> dict[str, Any]:
    """A membership of the whole text."""
    spans = [Seen(0, len(text), 9, 1e-6, True)]
    return asdict(Membership(spans, 1e-3, 0.01, 2, 0.1, 1.0, False, 40, 99))


class Served:
    """A server and what it serves."""

    def __init__(self, folder: Path, access: Access | None = None) -> None:
        self.folder, self.parrot, self.painter, self.trials = folder, Parrot(), Painter(), Trials()
        config = DecoderConfig(vocabulary=257, context=CONTEXT, width=16, depth=1, heads=2)
        decoder = config.build().initialise(0).eval()
        model = language_model(
            model=decoder, trace=trace, portrait=portrait, adapters={"pirate": 0.0}
        )
        about = {"context": CONTEXT, "parameters": 1000, "chat": True, "adapters": ["pirate"]}
        pictures = {"image_size": 16, "task": "generate", "condition": "text"}
        runs = [
            run_of(folder, model, "parrot", about=about),
            run_of(
                folder,
                language_model(),
                "tiny",
                about={"context": 384, "parameters": 10, "chat": True},
            ),
            run_of(folder, self.painter, "painter", kind="pictures", about=pictures),
        ]
        claims = ROOT / "claims"
        watched = Watched(
            trainings=Trainings([folder / "parrot"]),
            systems=lambda: described(claims),
            picture=lambda claim: picture(claims, claim),
            trials=self.trials,
        )
        self.app = make_app(
            runs,
            access or Access(),
            engine=lambda opened: self.parrot if opened is model else engine(opened),  # type: ignore[arg-type, return-value]
            limits=Limits(unread=CONTEXT),
            watched=watched,
        )
        self.address = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator["Served"]:
        """The server listens within the context, on a port that the system chose."""
        listener = listening("127.0.0.1", 0)
        config = uvicorn.Config(self.app, lifespan="on", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            self.parrot.permits.release(1000)
            thread.join()
            listener.close()
            self.trials.close()
