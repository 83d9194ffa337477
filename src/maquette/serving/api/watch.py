"""What the page shows besides the served runs: trainings as they go, and the catalogue of systems.

/runs  /runs/NAME/metrics?after=BYTES  /runs/NAME/report
/systems  /systems/CLAIM/picture  /trial

Where a run is gated, its name alone is told to who may not use it. How trainings and systems are found is
others' business (`workshop/serve_page.py`, `experiments/watch.py`); names of a request are looked up among
what was found, and never become paths.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from maquette.serving.api.call import Call, call_of
from maquette.serving.api.errors import ApiError
from maquette.serving.api.gate import admitted
from maquette.serving.api.sse import reply

CallOf = Annotated[Call, Depends(call_of)]
REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""header fields of a report, whose charts are scripts: it has an origin of its own and reaches nothing"""


@dataclass(frozen=True)
class Training:
    """A run that is trained, or was."""

    gates: tuple[Path, ...] | None
    """folders that its bytes are from, each of which may be gated; None: they cannot be told, so nobody is
    shown it"""
    summary: Callable[[], dict[str, Any]]
    """plain values of one row: how far, how good, how fast"""
    metrics: Callable[[int], dict[str, Any]]
    """records that were written after so many bytes, and the number of bytes with them"""
    report: Path
    """HTML file, where the training has finished"""


class Trials(Protocol):
    """Claims that are measured at toy size, one system at a time."""

    def start(self, system: str) -> None:
        """Start one. Raises UserError where another is under way, or the system is unknown."""
        ...

    def state(self) -> dict[str, Any]:
        """The system, what it has said, and whether it has ended."""
        ...


@dataclass(frozen=True)
class Watched:
    """What there is to watch."""

    trainings: Callable[[], Mapping[str, Training]]
    """trainings by name, the latest first"""
    systems: Callable[[], Sequence[Mapping[str, Any]]]
    """plain values of every system, with its claims"""
    picture: Callable[[str], bytes | None]
    """picture (PNG) of a measured claim by the claim's id"""
    trials: Trials | None = None
    """None where clients may not start any"""


class TrialBody(BaseModel):
    """Body of POST /trial."""

    system: str = Field(max_length=256)


def watch_routes(app: FastAPI, watched: Watched) -> None:
    """Add the routes."""

    def training(call: Call, name: str) -> Training:
        found = watched.trainings().get(name)
        if found is None:
            raise ApiError(404, "there is no such run")
        if not _open(call, found):
            raise ApiError(403, f"{name} is gated", code="gated")
        return found

    @app.get("/runs", tags=["trainings"])
    async def list_trainings(call: CallOf) -> Response:
        """List the trainings in the folders of the served runs."""

        def rows() -> list[dict[str, Any]]:
            return [
                {"name": name} | (one.summary() | {"report": one.report.exists()}
                if _open(call, one) else {"state": "unreadable" if one.gates is None else "gated"})
                for name, one in watched.trainings().items()
            ]  # fmt: skip

        return reply({"runs": await asyncio.to_thread(rows)})

    @app.get("/runs/{name}/metrics", tags=["trainings"])
    async def show_metrics(
        call: CallOf, name: str, after: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    ) -> Response:
        """Show what a training has logged since so many bytes."""
        return reply(await asyncio.to_thread(lambda: training(call, name).metrics(after)))

    @app.get("/runs/{name}/report", tags=["trainings"])
    async def show_report(call: CallOf, name: str) -> Response:
        """Show the report of a finished training."""
        found = await asyncio.to_thread(training, call, name)
        try:
            content = await asyncio.to_thread(found.report.read_bytes)
        except OSError as error:
            raise ApiError(404, f"{name} has no report yet") from error
        return Response(content, headers=REPORT_HEADERS, media_type="text/html; charset=utf-8")

    @app.get("/systems", tags=["systems"])
    async def list_systems(call: CallOf) -> Response:
        """List the catalogue's systems with their claims."""
        systems = await asyncio.to_thread(watched.systems)
        return reply({"systems": systems, "trials": watched.trials is not None})

    @app.get("/systems/{claim}/picture", tags=["systems"])
    async def show_picture(call: CallOf, claim: str) -> Response:
        """Show the picture of a measured claim."""
        content = await asyncio.to_thread(watched.picture, claim)
        if content is None:
            raise ApiError(404, "there is no such picture")
        return Response(content, media_type="image/png")

    @app.get("/trial", tags=["systems"])
    async def show_trial(call: CallOf) -> Response:
        """Show the trial that is under way, or was last."""
        return reply(_trials(watched).state())

    @app.post("/trial", tags=["systems"])
    async def start_trial(call: CallOf, body: TrialBody) -> Response:
        """Measure a system's claims at toy size."""
        trials = _trials(watched)
        await asyncio.to_thread(trials.start, body.system)
        return reply(trials.state())


def _trials(watched: Watched) -> Trials:
    if watched.trials is None:
        raise ApiError(403, "this server starts no trials: it is open to others, or has replicas")
    return watched.trials


def _open(call: Call, training: Training) -> bool:
    name = None if call.account is None else call.account.key.name
    return training.gates is not None and admitted(training.gates, name) is None
