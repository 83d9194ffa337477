"""Results: what an experiment measured, in `claims/SYSTEM.CLAIM.json` with its picture."""

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_atomic, write_json
from maquette.base.machine import cores, processor
from maquette.base.version import __version__
from maquette.experiments.claims import Claim, Evidence
from maquette.experiments.lab import Lab, today

NEVER = 1e30
"""number in place of infinity and NaN in a result file"""


@dataclass(frozen=True)
class Result:
    """A measured claim, as `claims/SYSTEM.CLAIM.json` holds it."""

    id: str
    statement: str
    source: str
    metric: str
    evidence: Evidence
    measured: float
    interval: list[float] | None
    bound: str
    threshold: float
    control: str
    control_measured: float
    holds: bool
    quick: bool
    seeds: int
    seconds: float
    date: str
    commit: str
    version: str
    processor: str
    cores: int
    torch: str
    details: dict[str, Any]
    trial: str = ""
    """why the result is a trial and no evidence; "" for a full measurement"""

    @property
    def full(self) -> bool:
        """Whether the result is a full measurement and no trial."""
        return not self.quick and not self.trial


def measure(claim: Claim, lab: Lab, out: Path | None = None) -> Result:
    """Run a claim's experiment; write its JSON and its picture into `out`, by default `lab.folder`.

    Raises WrongUse, before anything is run, where a trial would replace a full measurement. An
    experiment that was cut off writes nothing.
    """
    import torch

    out = lab.folder if out is None else out
    trial = lab.trial
    _refuse_to_replace(claim, trial, out)
    start = time.perf_counter()
    lab.bases = {}
    measured = claim.function(lab)
    result = Result(
        id=claim.id,
        statement=claim.statement,
        source=claim.source,
        metric=claim.metric,
        evidence=claim.evidence,
        measured=_finite(measured.value),
        interval=None if measured.interval is None else [_finite(x) for x in measured.interval],
        bound=claim.bound,
        threshold=claim.threshold,
        control=claim.control,
        control_measured=_finite(measured.control),
        holds=bool(claim.meets(measured.value) and not claim.meets(measured.control)),
        quick=lab.quick,
        seeds=measured.seeds or lab.seeds,
        seconds=round(time.perf_counter() - start, 1),
        date=today(),
        commit=lab.commit,
        version=__version__,
        processor=processor(),
        cores=cores(),
        torch=str(torch.__version__),
        details=measured.details | {"bases": lab.bases, "python": platform.python_version()},
        trial=trial,
    )
    picture = None
    if measured.chart is not None:
        from maquette.workshop.charts import png

        picture = png(measured.chart)  # one that cannot be drawn leaves the earlier result whole
    write_json(out / f"{claim.id}.json", asdict(result))
    if picture is not None:
        write_atomic(out / f"{claim.id}.png", picture)
    return result


def _refuse_to_replace(claim: Claim, trial: str, out: Path) -> None:
    """Raise WrongUse where a trial would replace a full measurement."""
    path = out / f"{claim.id}.json"
    if trial and path.exists() and _result(path).full:
        raise WrongUse(
            f"{path} is a full measurement, which a trial ({trial}) does not replace: leave --out out, "
            f"or name another folder"
        )


def results(folder: Path) -> dict[str, Result]:
    """The full measurements in a folder, by id; trials are left out."""
    loaded = {path.stem: _result(path) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in loaded.items() if result.full}


def _result(path: Path) -> Result:
    try:
        return Result(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path} is no result of a claim: move it out of the folder") from error


def _finite(value: float) -> float:
    """A value that JSON can hold: infinity and no number become `NEVER`."""
    return float(max(-NEVER, min(NEVER, value))) if value == value else NEVER
