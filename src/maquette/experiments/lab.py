"""The lab: where experiments are run, with the trained models that several claims share.

A base is trained once on a machine and kept in Maquette's home, under the hash of all that it depends on.
"""

import functools
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.base.files import home, read_json, write_json
from maquette.base.machine import cores, processor
from maquette.base.version import __version__
from maquette.training.recipe import Recipe

SEEDS = 2
"""number of runs of each arm in a full measurement; a claim may take more"""
MOST_SEEDS = 1000
MEASURED = "claims"
"""folder of the full measurements"""


class Lab:
    """The lab of an experiment: seeds, progress messages, and models that are trained once.

    seeds: number of runs of each arm. quick: the same code at toy size. say: takes a line of progress. A
    quick lab, and one with fewer than `SEEDS`, makes trials. Raises WrongUse for less than one seed.
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
    def commit(self) -> str:
        """The commit of the code, with + when it has changes; "" outside a checkout."""
        return _commit()

    @property
    def trial(self) -> str:
        """Why a result of this lab is a trial and no evidence; "" for a full measurement."""
        if self.quick:
            return "toy size"
        if self.seeds < SEEDS:
            return f"{self.seeds} of {SEEDS} seeds"
        return "code with changes that no commit holds" if self.commit.endswith("+") else ""

    @property
    def folder(self) -> Path:
        """Default folder of results: `claims`, or for trials Maquette's home."""
        return home() / "trials" if self.trial else Path(MEASURED)

    def train(self, recipe: Recipe) -> Path:
        """Train a recipe with all cores, or return its run from before; see `train_all`."""
        return self.train_all([recipe], workers=1)[0]

    def train_all(self, recipes: Sequence[Recipe], workers: int | None = None) -> list[Path]:
        """Train recipes side by side, each on its share of the cores; returns their runs.

        Small models gain nothing from a second core, so as many are trained at a time as there
        are cores (a toy: one), unless `workers` says otherwise. A run is kept in Maquette's home under the
        hash of its recipe, its corpus, its share of the cores, this Maquette and this torch: it is
        trained once, by whichever claim comes first, and one that was cut off goes on where it
        was. The result says when and by which commit each was trained.
        """
        from maquette.workshop.train_many import done, train_many

        workers = workers or (1 if self.quick else min(cores(), len(recipes)))
        paths = [self._base(recipe, workers) for recipe in recipes]
        for path in {p for p in paths if not done(p)}:
            write_json(_beside(path, ".json"), {"commit": self.commit, "date": today()})
        jobs = list(zip(recipes, paths, strict=True))
        for path, outcome in zip(
            paths, train_many(jobs, workers=workers, say=self.say), strict=True
        ):
            seconds = {"seconds": round(outcome.seconds, 1)}
            self.bases[path.name] = read_json(_beside(path, ".json")) | seconds
        return paths

    def train_branches(self, runs: Sequence[tuple[Recipe, Recipe]]) -> list[Path]:
        """Train (recipe, trunk) pairs, the trunks first; a recipe goes on from where both agree.

        A run that differs from its trunk in length alone costs its decay (`workshop/branched_runs.py`),
        and is the run from scratch to the last bit. A recipe may be its own trunk.
        """
        from maquette.workshop.branched_runs import branch
        from maquette.workshop.train_many import done

        workers = 1 if self.quick else min(cores(), len(runs))
        trunks = list(dict.fromkeys(trunk for _, trunk in runs))
        paths = dict(zip(trunks, self.train_all(trunks, workers), strict=True))
        for recipe, trunk in runs:
            target = self._base(recipe, workers)
            if recipe != trunk and not done(target):
                branch(paths[trunk], recipe, target)
        return self.train_all([recipe for recipe, _ in runs], workers)

    def _base(self, recipe: Recipe, workers: int) -> Path:
        corpus = recipe.data.open_corpus()
        share = max(1, cores() // workers)
        kind = [recipe.to_dict(), corpus.hash, share, __version__, version("torch"), processor()]
        identity = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
        return home() / "bases" / f"{recipe.name}-{identity}"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def today() -> str:
    """The date as results hold it: YYYY-MM-DD."""
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
