"""Claims: a statement of a paper that can fail, and the experiment that lets it.

    @claim(
        statement="loss falls as a power of the number of parameters",
        source="Kaplan et al. 2020, figure 1",
        metric="relative error of the largest model's predicted loss",
        at_most=0.03,
        control="prediction by the mean of the smaller models",
        minutes=12,
    )
    def power_law(lab: Lab) -> Measurement: ...

The threshold is in the file before the measurement and is not moved after it. Every claim has a
negative control, measured in the same run, that must miss the threshold: a claim holds when it
meets its threshold and its control does not. What does not hold is shown as not holding.

Only a full measurement is evidence. One at toy size, of fewer seeds, or by code that no commit holds
is a trial: it says so, is kept apart, and never replaces a measurement.
"""

import functools
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.files import home, read_json, write_atomic, write_json
from maquette.base.machine import cores, processor
from maquette.base.version import __version__
from maquette.training.recipe import BaseRecipe

NEVER = 1e30
"""what a result file holds for infinity and for no number"""
SEEDS = 2
"""runs of each arm in a full measurement; a claim may take more"""
MOST_SEEDS = 1000
MEASURED = "claims"
"""folder of the full measurements"""
Evidence = Literal["learning curve", "exact count", "measured time", "synthetic time"]


@dataclass
class Measurement:
    """What an experiment found."""

    value: float
    """the metric; a mean over seeds where there are several"""
    control: float
    """the same metric of the negative control"""
    interval: tuple[float, float] | None = None
    """lowest and highest over the seeds, or a bootstrap interval; None for exact counts"""
    details: dict[str, Any] = field(default_factory=dict)
    """whatever else a reader should see, plain values"""
    chart: Any = None
    """an Altair chart"""
    seeds: int | None = None
    """how many were used, where not as many as the lab's"""


@dataclass(frozen=True)
class Claim:
    """One falsifiable statement with its threshold and its experiment."""

    name: str
    statement: str
    source: str
    metric: str
    bound: Literal["at most", "at least"]
    threshold: float
    control: str
    minutes: float
    evidence: Evidence
    function: Callable[["Lab"], Measurement]
    system: str = ""

    @property
    def id(self) -> str:
        return f"{self.system}.{self.name}"

    def meets(self, value: float) -> bool:
        """Whether a value is within the threshold (a value that is no number is not)."""
        return value <= self.threshold if self.bound == "at most" else value >= self.threshold


def claim(
    *,
    statement: str,
    source: str,
    metric: str,
    control: str,
    minutes: float,
    at_most: float | None = None,
    at_least: float | None = None,
    evidence: Evidence = "learning curve",
) -> Callable[[Callable[["Lab"], Measurement]], Claim]:
    """Make a claim of an experiment. Exactly one of at_most and at_least is the threshold."""
    assert (at_most is None) != (at_least is None), "give at_most or at_least"

    def wrap(function: Callable[[Lab], Measurement]) -> Claim:
        bound: Literal["at most", "at least"] = "at most" if at_most is not None else "at least"
        threshold = at_most if at_most is not None else at_least
        assert threshold is not None
        return Claim(
            function.__name__.replace("_", "-"),
            statement,
            source,
            metric,
            bound,
            threshold,
            control,
            minutes,
            evidence,
            function,
        )

    return wrap


class Lab:
    """What an experiment works with: seeds, a say, and bases that are trained once.

    seeds: runs of each arm. quick: the same code at toy size. A quick lab, and one with fewer than
    `SEEDS`, makes trials. Raises WrongUse for less than one seed.
    """

    def __init__(
        self,
        seeds: int = SEEDS,
        quick: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not 1 <= seeds <= MOST_SEEDS:
            raise WrongUse(f"seeds is {seeds}: use 1 to {MOST_SEEDS}")
        self.seeds, self.quick, self.say = seeds, quick, say
        self.bases: dict[str, dict[str, Any]] = {}
        """the trained models of the claim at hand: commit, date and seconds of each"""

    @property
    def trial(self) -> str:
        """Why what is measured here is a trial and no evidence; "" for a full measurement."""
        if self.quick:
            return "toy size"
        if self.seeds < SEEDS:
            return f"{self.seeds} of {SEEDS} seeds"
        return "code with changes that no commit holds" if _commit().endswith("+") else ""

    @property
    def folder(self) -> Path:
        """Where results go when no folder is named: `claims`, or for trials Maquette's home."""
        return home() / "trials" if self.trial else Path(MEASURED)

    def train(self, recipe: BaseRecipe) -> Path:
        """Train a recipe with all cores, or return its run from before; see `train_all`."""
        return self.train_all([recipe], workers=1)[0]

    def train_all(self, recipes: Sequence[BaseRecipe], workers: int | None = None) -> list[Path]:
        """Train recipes side by side, each on its share of the cores; returns their runs.

        Small models gain nothing from a second core, so as many are trained at a time as there
        are cores (a toy: one), unless `workers` says otherwise. A run is kept in Maquette's home under the
        hash of its recipe, its corpus, its share of the cores, this Maquette and this torch: it is
        trained once, by whichever claim comes first, and one that was cut off goes on where it
        was. The result says when and by which commit each was trained.
        """
        from maquette.workshop.many import done, train_many

        workers = workers or (1 if self.quick else min(cores(), len(recipes)))
        paths = [self._base(recipe, workers) for recipe in recipes]
        for path in {p for p in paths if not done(p)}:
            write_json(_beside(path, ".json"), {"commit": _commit(), "date": _today()})
        jobs = list(zip(recipes, paths, strict=True))
        for path, outcome in zip(
            paths, train_many(jobs, workers=workers, say=self.say), strict=True
        ):
            seconds = {"seconds": round(outcome.seconds, 1)}
            self.bases[path.name] = read_json(_beside(path, ".json")) | seconds
        return paths

    def train_branches(self, runs: Sequence[tuple[BaseRecipe, BaseRecipe]]) -> list[Path]:
        """Train (recipe, trunk) pairs, the trunks first; a recipe goes on from where both agree.

        A run that differs from its trunk in length alone costs its decay (`workshop/branch.py`),
        and is the run from scratch to the last bit. A recipe may be its own trunk.
        """
        from maquette.workshop.branch import branch
        from maquette.workshop.many import done

        workers = 1 if self.quick else min(cores(), len(runs))
        trunks = list(dict.fromkeys(trunk for _, trunk in runs))
        paths = dict(zip(trunks, self.train_all(trunks, workers), strict=True))
        for recipe, trunk in runs:
            target = self._base(recipe, workers)
            if recipe != trunk and not done(target):
                branch(paths[trunk], recipe, target)
        return self.train_all([recipe for recipe, _ in runs], workers)

    def _base(self, recipe: BaseRecipe, workers: int) -> Path:
        from maquette.workshop.corpora import corpus_of

        corpus = corpus_of(recipe)
        share = max(1, cores() // workers)
        kind = [recipe.to_dict(), corpus.hash, share, __version__, version("torch"), processor()]
        identity = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
        return home() / "bases" / f"{recipe.name}-{identity}"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


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
    """why it is no evidence, where it is none"""

    @property
    def full(self) -> bool:
        """Whether it is a measurement, which a trial is not."""
        return not self.quick and not self.trial


def measure(one: Claim, lab: Lab, out: Path | None = None) -> Result:
    """Run a claim's experiment; write its JSON and its picture into `out`, by default `lab.folder`.

    Raises WrongUse, before anything is run, where a trial would replace a full measurement. An
    experiment that was cut off writes nothing.
    """
    import torch

    out = lab.folder if out is None else out
    trial = lab.trial
    _spare(one, trial, out)
    start = time.perf_counter()
    lab.bases = {}
    m = one.function(lab)
    result = Result(
        id=one.id,
        statement=one.statement,
        source=one.source,
        metric=one.metric,
        evidence=one.evidence,
        measured=_finite(m.value),
        interval=None if m.interval is None else [_finite(x) for x in m.interval],
        bound=one.bound,
        threshold=one.threshold,
        control=one.control,
        control_measured=_finite(m.control),
        holds=bool(one.meets(m.value) and not one.meets(m.control)),
        quick=lab.quick,
        seeds=m.seeds or lab.seeds,
        seconds=round(time.perf_counter() - start, 1),
        date=_today(),
        commit=_commit(),
        version=__version__,
        processor=processor(),
        cores=cores(),
        torch=str(torch.__version__),
        details=m.details | {"bases": lab.bases, "python": platform.python_version()},
        trial=trial,
    )
    picture = None
    if m.chart is not None:
        from maquette.workshop.charts import png

        picture = png(m.chart)  # a chart that cannot be drawn leaves the earlier result whole
    write_json(out / f"{one.id}.json", asdict(result))
    if picture is not None:
        write_atomic(out / f"{one.id}.png", picture)
    return result


def _spare(one: Claim, trial: str, out: Path) -> None:
    """WrongUse where a trial would replace a full measurement."""
    path = out / f"{one.id}.json"
    if trial and path.exists() and _result(path).full:
        raise WrongUse(
            f"{path} is a full measurement, which a trial ({trial}) does not replace: leave --out out, "
            f"or name another folder"
        )


def select(names: list[str]) -> list[Claim]:
    """The claims that `SYSTEM` or `SYSTEM.CLAIM` name; all of them for no name."""
    from maquette.experiments.catalogue import systems

    known = systems()
    chosen: list[Claim] = []
    for name in names or [s for s in known if known[s].claims]:
        system, _, one = name.partition(".")
        if system not in known:
            raise WrongUse(f"unknown system {system}{did_you_mean(system, known)}")
        claims = known[system].claims
        if one and one not in claims:
            ids = [f"{system}.{c}" for c in claims]
            raise WrongUse(f"unknown claim {name}{did_you_mean(name, ids)}")
        if not claims:
            raise WrongUse(f"{system} makes no claims")
        chosen += [claims[one]] if one else claims.values()
    return chosen


def results(folder: Path) -> dict[str, Result]:
    """The full measurements in a folder, by id; trials are left out."""
    found = {path.stem: _result(path) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in found.items() if result.full}


def _result(path: Path) -> Result:
    try:
        return Result(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path} is no result of a claim: move it out of the folder") from error


def _finite(value: float) -> float:
    """JSON has no infinity: what never happened is a very large number."""
    return float(max(-NEVER, min(NEVER, value))) if value == value else NEVER


def _today() -> str:
    return time.strftime("%Y-%m-%d")


@functools.cache
def _commit() -> str:
    """The commit of the checkout this runs from, with + when it has changes; "" outside one.

    Asked once: what is edited while a measurement runs is not what it measures.
    """
    here = Path(__file__).parents[1]  # the package: what any of it does may change the number
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, encoding="utf-8", timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True, encoding="utf-8", timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
        return head + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""
