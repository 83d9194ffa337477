"""Train a ladder of small models, read its frontier, and hold the prediction against a larger run.

    maquette plan ladder --budget 10 --corpus my-corpus --out my-ladder --verify

    my-ladder/design.json       what is trained, and the seconds a step that it was planned with
    my-ladder/runs/             one run directory each; a ladder that was cut off goes on with them
    my-ladder/ladder.json       the points and what follows from them (`scaling.user_law.read_ladder`)
    my-ladder/ladder.png        the budgets' curves with their minima, the frontier, the prediction

Of each size the longest run is trained first and the others branch off it. Where the least loss of a
budget is that of its smallest or largest size, a size more is trained there while the time lasts.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_atomic, write_json
from maquette.base.machine import cores
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import Corpus
from maquette.scaling import rungs
from maquette.scaling.extrapolate import Ladder, Prediction, analyse
from maquette.scaling.rungs import Cell, Design
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory
from maquette.workshop.branched_runs import branch
from maquette.workshop.train_many import Job, done, outcome, train_many

DESIGN, LADDER, PICTURE = "design.json", "ladder.json", "ladder.png"
ROUNDS = 3  # sizes that are added at most to either end
RUN_SECONDS = 1.5  # what a run costs besides its steps: building, scoring, saving
Say = Callable[[str], None]


MOST_MINUTES = 60 * 24 * 30


def run_ladder(
    minutes: float,
    corpus: str = "bytes",
    out: Path = Path("ladder"),
    *,
    verify: bool = False,
    workers: int | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Train the largest ladder that fits the minutes; returns what it says, as plain values.

    With `verify`, a run of four times the largest budget follows, outside the minutes, and its
    outcome stands beside the prediction. What an earlier call trained in `out` is kept. Raises
    WrongUse when the time or the corpus is too small, or when `out` holds another ladder.
    """
    start = time.monotonic()
    text, workers = open_corpus(corpus), workers or cores()
    design, speed = _design(minutes, text, corpus, out, workers, say)

    def step_seconds(width: int) -> float:
        return _interpolated(speed, rungs.size(width, text.vocabulary))

    planned = design.seconds(step_seconds, workers) + len(design.cells) * RUN_SECONDS / workers
    say(
        f"{len(design.cells)} runs of {len(design.trained_steps())} sizes at {len(design.budgets)} budgets, "
        f"{design.seeds} seed{'s' * (design.seeds > 1)}: about {planned / 60:.1f} minutes"
    )
    for _ in range(ROUNDS + 1):
        train_cells(design, out / "runs", workers, say)
        ladder = _analysed(design, text, out)
        wider = design.widened(ladder.minima)
        more = wider.seconds(step_seconds, workers) - design.seconds(step_seconds, workers)
        if wider == design or time.monotonic() - start + more > 60 * minutes:
            break
        say("a minimum is on the edge of its sizes: one more is trained")
        design = wider
    result = _result(design, ladder, out, workers)
    if verify and "prediction" in result:
        result["outcome"] = _verified(design, ladder, text, out, workers, step_seconds, say)
    write_json(out / LADDER, result | {"ladder": ladder.to_dict(), "corpus_hash": text.hash})
    from maquette.workshop.charts import png
    from maquette.workshop.ladder_chart import chart

    write_atomic(out / PICTURE, png(chart(ladder, result.get("outcome"))))
    return result


def train_cells(design: Design, runs: Path, workers: int, say: Say) -> None:
    """Train every run of the design: the longest of each size first, then what branches off it."""
    folder_of = {cell: runs / cell.name for cell in design.cells}
    longest = [cell for cell in design.cells if design.trunk(cell) == cell]
    for group in (longest, [cell for cell in design.cells if cell not in longest]):
        jobs: list[Job] = []
        for cell in group:
            recipe = design.recipe(cell)
            if not done(folder_of[cell]):
                _share(recipe, cell, design.cells, folder_of)
            jobs.append((recipe, folder_of[cell]))
        train_many(jobs, workers=workers, say=say)


def _share(
    recipe: LanguageRecipe, cell: Cell, cells: Sequence[Cell], folder_of: dict[Cell, Path]
) -> None:
    """Branch a run off a finished run of its size, if there is a fitting one."""
    for other in cells:
        if (other.width, other.seed) == (cell.width, cell.seed) and done(folder_of[other]):
            try:
                branch(folder_of[other], recipe, folder_of[cell])
            except WrongUse:
                raise
            except UserError:  # no checkpoint so early: it begins at the beginning
                continue
            return


def _design(
    minutes: float, text: Corpus, name: str, out: Path, workers: int, say: Say
) -> tuple[Design, list[list[float]]]:
    """The design in `out`, or a new one; with the measured (parameters, seconds a step)."""
    asked = {"minutes": minutes, "corpus": text.hash, "workers": workers}
    if (out / DESIGN).exists():
        kept = read_json(out / DESIGN)
        if kept["asked"] != asked:
            raise WrongUse(
                f"{out} holds a ladder of {kept['asked']['minutes']:g} minutes on "
                f"{kept['design']['corpus']}{_differing(kept['asked'], asked)}: "
                f"choose another --out, or ask for the same again"
            )
        content = kept["design"]
        content["budgets"] = tuple(content["budgets"])
        content["widths"] = tuple(tuple(widths) for widths in content["widths"])
        return Design(**content), kept["speed"]
    if not 0 < minutes <= MOST_MINUTES:
        raise WrongUse(
            f"--budget is {minutes:g} minutes: use a positive number up to {MOST_MINUTES:,}"
        )
    fixed: dict[str, Any] = {
        "vocabulary": text.vocabulary, "corpus": name, "text": len(text.train), "workers": workers,
    }  # fmt: skip
    rungs.design(math.inf, lambda width: 0.0, **fixed)  # refuses a text that is too short
    speed = _measured(text, name, out, workers, say)

    def step_seconds(width: int) -> float:
        return _interpolated(speed, rungs.size(width, text.vocabulary))

    planned = rungs.design(60 * minutes, step_seconds, run_seconds=RUN_SECONDS, **fixed)
    write_json(out / DESIGN, {"asked": asked, "design": asdict(planned), "speed": speed})
    return planned, speed


def _differing(kept: dict[str, Any], asked: dict[str, Any]) -> str:
    """The differences between the requested ladder and the folder's."""
    lines = []
    if kept["corpus"] != asked["corpus"]:
        lines.append("its text was another")
    if kept["workers"] != asked["workers"]:
        lines.append(f"it trains {kept['workers']} runs at a time, not {asked['workers']}")
    return f" ({', '.join(lines)})" if lines else ""


def _measured(text: Corpus, name: str, out: Path, workers: int, say: Say) -> list[list[float]]:
    """(parameters, seconds a step) of a small and a large rung, trained side by side."""
    widths, jobs = (rungs.WIDTHS[0], rungs.WIDTHS[6]), []
    for width in widths:
        recipe = rungs.rung_recipe(width, 100, text.vocabulary, name, heldout=1024)
        jobs.append((recipe, out / "runs" / f"timing-{width}"))
    say("timing a small and a large model")
    for _, path in jobs:
        shutil.rmtree(path, ignore_errors=True)  # of an earlier call, when the machine was another
    train_many(jobs, workers=workers)
    speed = []
    for width, (_, path) in zip(widths, jobs, strict=True):
        steps = [record["seconds"] for record in RunDirectory(path).records()]
        speed.append([float(rungs.size(width, text.vocabulary)), statistics.median(steps)])
    return speed


def _interpolated(speed: list[list[float]], parameters: float) -> float:
    """Seconds of a step: linear in the parameters, never less than the smallest model's."""
    (n0, t0), (n1, t1) = speed
    return max(t0, t0 + (t1 - t0) * (parameters - n0) / (n1 - n0))


def _analysed(design: Design, text: Corpus, out: Path) -> Ladder:
    points = []
    for cell in design.cells:
        loss = _heldout(out / "runs" / cell.name)
        points.append(design.rung(cell, loss))
    return analyse(points, bytes_per_token=heldout_bytes_per_token(text), source=design.corpus)


def _heldout(run: Path) -> float:
    """The held-out loss of a finished run."""
    loss = outcome(run).heldout_loss
    if loss is None:
        raise UserError(f"{run} ended without a held-out loss: remove it")
    return loss


def heldout_bytes_per_token(text: Corpus) -> float:
    """Bytes per held-out token."""
    parts = text.manifest["components"].values()
    tokens = sum(part["heldout_tokens"] for part in parts)
    size: int = sum(part["heldout_bytes"] for part in parts)
    return size / max(1, int(tokens))


def _result(design: Design, ladder: Ladder, out: Path, workers: int) -> dict[str, Any]:
    seconds = sum(outcome(out / "runs" / cell.name).seconds for cell in design.cells) / workers
    result: dict[str, Any] = {
        "path": str(out / LADDER),
        "picture": str(out / PICTURE),
        "corpus": design.corpus,
        "runs": len(design.cells),
        "seeds": design.seeds,
        "seconds": round(seconds, 1),
        "budgets": [
            {
                "flops": m.flops,
                "parameters": round(m.parameters),
                "tokens": round(m.tokens),
                "loss": m.loss,
                "bits_per_byte": ladder.bits_per_byte(m.loss),
                "edge": m.edge,
            }
            for m in ladder.minima
        ],
        "noise": ladder.noise,
        "warnings": [],
    }
    for m in ladder.minima:
        if m.edge:
            result["warnings"].append(
                f"at {m.flops:.2g} operations the {m.edge} size is best: "
                f"this budget is left out of the frontier"
            )
    try:
        ladder.predict(ladder.minima[-1].flops)
    except UserError as error:
        result["warnings"].append(str(error))
        return result
    a, frontier = ladder.split[0], ladder.frontier
    result["exponents"] = {"a": a, "b": 1 - a, "loss": frontier.slope}
    result["exponents_95"] = ladder.exponents()
    result["frontier"] = asdict(frontier)
    flops = rungs.LARGER * ladder.minima[-1].flops
    parameters, tokens = ladder.best(flops)
    result["prediction"] = {
        "flops": flops, "parameters": round(parameters), "tokens": round(tokens),
    } | predicted(ladder, ladder.predict(flops))  # fmt: skip
    return result


def predicted(ladder: Ladder, p: Prediction) -> dict[str, float]:
    """A prediction in nats a token and in bits per byte."""
    bits = {
        f"bits_per_byte{name}": ladder.bits_per_byte(value)
        for name, value in (("", p.loss), ("_low", p.low), ("_high", p.high))
    }
    return {"loss": p.loss, "low": p.low, "high": p.high, "times": p.times} | bits


def _verified(
    design: Design,
    ladder: Ladder,
    text: Corpus,
    out: Path,
    workers: int,
    step_seconds: Callable[[int], float],
    say: Say,
) -> dict[str, Any]:
    """Train the run that was predicted, in the nearest width, as often as there are seeds."""
    flops = rungs.LARGER * ladder.minima[-1].flops
    wanted = math.log(ladder.best(flops)[0])
    widths = range(8, 2 * max(rungs.WIDTHS), 8)
    width = min(widths, key=lambda w: abs(math.log(rungs.size(w, text.vocabulary)) - wanted))
    parameters = rungs.size(width, text.vocabulary)
    if flops / 6 / parameters > len(text.train):
        raise UserError(
            f"the predicted run reads {flops / 6 / parameters:,.0f} tokens, the corpus has "
            f"{len(text.train):,}: build a larger corpus, or leave --verify out"
        )
    steps = design.steps(width, flops)
    say(
        f"the predicted run: {parameters:,} parameters, {steps:,} steps, about "
        f"{steps * step_seconds(width) * math.ceil(design.seeds / workers) / 60:.1f} minutes"
    )
    cells = [Cell(flops, width, steps, seed) for seed in range(design.seeds)]
    jobs = []
    for cell in cells:
        recipe = rungs.rung_recipe(
            width, steps, design.vocabulary, design.corpus, cell.seed, heldout=design.heldout
        )
        jobs.append((recipe, out / "runs" / cell.name))
    train_many(jobs, workers=workers, say=say)
    loss = statistics.fmean(_heldout(run) for _, run in jobs)
    expected = ladder.predict(split=(parameters, design.rung(cells[0], loss).tokens))
    return {
        "flops": flops,
        "parameters": parameters,
        "tokens": design.rung(cells[0], loss).tokens,
        "loss": loss,
        "bits_per_byte": ladder.bits_per_byte(loss),
        "predicted": predicted(ladder, expected),
        "error": expected.loss / loss - 1,
        "inside": expected.low <= loss <= expected.high,
    }
