"""The catalogue as plain values, for the server's page, and trials that are started from there."""

import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, did_you_mean
from maquette.experiments.catalogue import systems
from maquette.experiments.gallery import number, state, wanted
from maquette.experiments.results import results

LINES = 200  # of what a trial has said


def described(folder: Path) -> list[dict[str, Any]]:
    """Every system, with its claims and what was measured in a folder of results."""
    measured = results(folder) if folder.is_dir() else {}
    rows = []
    for system in systems().values():
        claims = []
        for claim in system.claims.values():
            result = measured.get(claim.id)
            claims.append(
                {
                    "id": claim.id,
                    "statement": claim.statement,
                    "source": claim.source,
                    "metric": claim.metric,
                    "wanted": wanted(claim),
                    "control": claim.control,
                    "minutes": claim.minutes,
                    "state": state(result),
                    "measured": None if result is None else number(result.measured),
                    "control_measured": None if result is None else number(result.control_measured),
                    "evidence": claim.evidence,
                    "date": None if result is None else result.date,
                    "picture": result is not None and (folder / f"{claim.id}.png").exists(),
                }
            )
        rows.append(
            {
                "name": system.name,
                "title": system.title,
                "doc": system.doc,
                "recipes": list(system.recipes),
                "claims": claims,
            }
        )
    return rows


def picture(folder: Path, claim: str) -> bytes | None:
    """The picture of a measured claim of the catalogue; None where there is none."""
    known = {c.id for system in systems().values() for c in system.claims.values()}
    path = folder / f"{claim}.png"
    return path.read_bytes() if claim in known and path.is_file() else None


class Trials:
    """`maquette reproduce SYSTEM --quick` in a process of its own, one at a time."""

    def __init__(self) -> None:
        self._system, self._lines = "", deque[str](maxlen=LINES)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self, system: str) -> None:
        """Start a trial of a system. Raises UserError where one is under way, or nothing can be measured."""
        known = systems()
        if system not in known:
            raise UserError(f"unknown system {system}{did_you_mean(system, known)}")
        if not known[system].claims:
            raise UserError(f"{system} makes no claims")
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise UserError(f"a trial of {self._system} is under way: wait for it")
            self._system, self._lines = system, deque[str](maxlen=LINES)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "maquette", "reproduce", system, "--quick"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            reader = threading.Thread(
                target=_read, args=(self._process, self._lines), daemon=True, name="trial"
            )
            reader.start()

    def state(self) -> dict[str, Any]:
        """The system, the lines that its trial has said, and its exit code once it has ended."""
        code = None if self._process is None else self._process.poll()
        running = self._process is not None and code is None
        return {
            "system": self._system,
            "lines": list(self._lines),
            "running": running,
            "code": code,
        }

    def close(self) -> None:
        """End the trial that is under way."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _read(process: subprocess.Popen[str], lines: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
    process.wait()
