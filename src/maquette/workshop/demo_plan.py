"""The plan of the demo: a decoder of the ladder and the steps that fit the time, with their forecast.

The width is the ladder's best for the time; the pace is measured on the recipe's own model. The plan is kept
with what is expected of the run (`expected.json`), so that a demo that is cut off goes on with its own.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from maquette.base.errors import WrongUse
from maquette.base.files import read_json
from maquette.base.machine import Machine
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import Score
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.scaling.frontier import DEPTH, RUNGS, Forecast, best_rung, forecast
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.decide import Decisions, decide, keep_compiled_code
from maquette.training.loop import Outcome
from maquette.training.optimiser import clip_gradients, make_optimiser
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule, language
from maquette.training.run import RunDirectory
from maquette.workshop.forecast import EXPECTED
from maquette.workshop.replan import Replan, going_on

DEMO = "demo"
"""name of the demo's plan in what is expected of a run"""
CONTEXT = 256
BATCH = 8
FASTER, TRIES, PAUSE = 0.8, 4, 1.0  # of the pace; measurements at most; seconds between two
Say = Callable[[str], None]


def rung(width: int, corpus: Corpus, name: str, steps: int = 1000) -> LanguageRecipe:
    """The demo's recipe at one width of the ladder."""
    return LanguageRecipe(
        name="demo",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=CONTEXT,
            width=width,
            depth=DEPTH,
            heads=width // 64,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=128, base_depth=DEPTH, embedding_std=0.03, input_multiplier=32.0
            ),
        ),
        data=TextData(corpus=name, sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=0.008),
        schedule=Schedule(warmup=0.03, floor=0.05),
        batch=BATCH,
        steps=steps,
        watch=TextWatch(tokens=32768, sample_tokens=48),
    )


@dataclass
class DemoPlan:
    """The demo's plan: what it will train, and its forecast."""

    recipe: LanguageRecipe
    forecast: Forecast
    seconds: float
    why: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a run keeps them with what was expected of it."""
        return {
            "steps": self.recipe.steps,
            "seconds": self.seconds,
            "forecast": asdict(self.forecast),
            "why": [list(reason) for reason in self.why],
        }


def is_demo(run: RunDirectory) -> bool:
    """Whether a run was begun by a demo."""
    return (run / EXPECTED).exists() and DEMO in read_json(run / EXPECTED)["plan"]


def begun_plan(run: RunDirectory, say: Say) -> tuple[DemoPlan, bool, Replan]:
    """The plan of a demo that was cut off, whether its text is the user's, and what replans the rest.

    A length that was planned again stays. Raises WrongUse for a run that no demo began.
    """
    if not is_demo(run):
        raise WrongUse(
            f"{run.path} was not begun by maquette demo: go on with maquette train --resume --run {run.path}"
        )
    kept, recipe = read_json(run / EXPECTED)["plan"][DEMO], run.recipe()
    plan = DemoPlan(
        language(replace(recipe, steps=kept["steps"])),
        Forecast(**kept["forecast"]),
        kept["seconds"],
        [(name, reason) for name, reason in kept["why"]],
    )
    return plan, kept["own"], going_on(run, plan.seconds, say)


def plan_demo(
    corpus: Corpus, machine: Machine, seconds: float, hardness: float, say: Say
) -> DemoPlan:
    """Choose the width by the ladder, the steps by the pace of this machine.

    hardness: hardness of the text, see `scaling.frontier.forecast`.
    """
    name = str(corpus.path)
    costs = {}
    for width in RUNGS:
        model = rung(width, corpus, name).model
        costs[width] = (model.parameters(), model.flops_per_token(CONTEXT))
    peak = machine.peak(machine.precision)
    width = best_rung(peak, seconds, costs)
    size, flops = costs[width]
    say(f"plan: measuring the pace of a decoder of width {width} here")
    usual = flops * BATCH * CONTEXT / (peak * 0.4)
    recipe = rung(width, corpus, name, steps=max(50, int(seconds / usual)))
    pace, decisions = measure_pace(recipe, machine)
    steps = max(50, int(seconds / pace))
    tokens = steps * recipe.units_per_step
    recipe = replace(  # as its pace was measured
        rung(width, corpus, name, steps),
        compile="on" if decisions.compile else "kernels" if decisions.kernels else "off",
        precision=decisions.precision,
    )
    expected = forecast(size, tokens, hardness, len(corpus.train))
    why = [
        ("time", f"{seconds:.0f} s at {peak / 1e9:.0f} GFLOP/s of {machine.precision} products"),
        ("size", f"width {width}, {DEPTH} blocks, {size:,} parameters: "
                 f"the least loss for the time among widths {', '.join(map(str, RUNGS))}"),
        ("pace", f"{1000 * pace:.0f} ms a step measured; {decisions.why['compile']}"),
        ("tokens", f"{tokens:,} in {steps:,} steps of {recipe.units_per_step:,}, "
                   f"{tokens / len(corpus.train):.2f} epochs"),
        ("forecast", f"{forecast_line(expected)}; "
                     f"zstd needs {hardness:.3f} times the bits it needs for the ladder's text"),
    ]  # fmt: skip
    return DemoPlan(recipe, expected, seconds, why)


def forecast_line(expected: Forecast) -> str:
    """Bits per byte with their interval, and why that is wide."""
    wide = (
        ""
        if expected.inside
        else f" (an extrapolation: {expected.factor:.1f} times outside the ladder)"
    )
    return f"{expected.bits_per_byte:.2f} bits per byte, {expected.low:.2f} to {expected.high:.2f}{wide}"


def planned_again(plan: DemoPlan, replan: Replan, corpus: Corpus, hardness: float) -> DemoPlan:
    """The plan with the length that the first minute led to, and its forecast."""
    recipe = replace(plan.recipe, steps=replan.steps)
    tokens = recipe.steps * recipe.units_per_step
    expected = forecast(recipe.model.parameters(), tokens, hardness, len(corpus.train))
    why = (
        "again",
        f"{tokens:,} tokens in {recipe.steps:,} steps in place of {plan.recipe.steps:,}, at "
        f"{1000 * (replan.pace or 0):.0f} ms a step; {forecast_line(expected)}",
    )
    return replace(plan, recipe=recipe, forecast=expected, why=[*plan.why, why])


def measure_pace(
    recipe: LanguageRecipe, machine: Machine, steps: int = 6
) -> tuple[float, Decisions]:
    """Seconds of a training step, measured on the recipe's own model and made-up tokens."""
    device = torch.device(machine.device)
    model = recipe.model.build().initialise(recipe.seed)
    decisions = decide(recipe, machine, model)
    model.to(device).compute = decisions.dtype
    keep_compiled_code()
    if decisions.compile:
        model.compile_blocks()
    optimiser = make_optimiser(model, model.scaling, recipe.optimiser)

    def some() -> float:
        times = []
        for i in range(steps):
            start = time.perf_counter()
            torch.manual_seed(i)
            rows = torch.randint(recipe.model.vocabulary, (recipe.batch, recipe.data.sequence + 1))
            rows = rows.to(device)
            loss = model.loss(TokenBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
            (loss.total / loss.count).backward()
            clip_gradients(list(model.parameters()), recipe.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            float(loss.value)  # a GPU has finished when its result is here
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 3]

    with decisions.applied():
        return settled(some), decisions


def settled(measure: Callable[[], float], pause: float = PAUSE) -> float:
    """The least of several measurements, repeated until the last is no faster."""
    least = measure()
    for _ in range(TRIES - 1):
        time.sleep(pause)
        again = measure()
        if again > FASTER * least:
            return min(least, again)
        least = again
    return least


def plan_page(plan: DemoPlan, outcome: Outcome, whole: Score, own: bool) -> dict[str, Any]:
    """`plan.json`: what was planned beside what happened."""
    nats = whole.bytes / max(1, whole.tokens) * math.log(2)  # of a bit per byte, a token
    f = plan.forecast
    note = (
        "The forecast is read off the ladder of benchmarks/ladder.py, and multiplied by how many more "
        "bits zstd needs for this held-out text than for the ladder's."
    )
    if own:
        note += " The ladder's text is source and manuals: for other text it is a first guess."
    if plan.why[-1][0] == "again":
        note += " The steps were planned again after the first minute, to keep to the time."
    tokens = plan.recipe.steps * plan.recipe.units_per_step
    compared = [
        (
            "bits per byte of held-out text",
            f"{f.bits_per_byte:.3f} ({f.low:.3f} to {f.high:.3f})",
            f"{whole.bits_per_byte:.3f}",
        ),
        ("training tokens", f"{tokens:,}", f"{outcome.tokens:,}"),
        ("training time", f"{plan.seconds:.0f} s", f"{outcome.seconds:.0f} s"),
    ]
    return {
        "loss_predicted": f.bits_per_byte * nats,
        "loss_low": f.low * nats,
        "loss_high": f.high * nats,
        "bits_per_byte": f.bits_per_byte,
        "why": plan.why,
        "compared": [dict(zip(("name", "planned", "happened"), c, strict=True)) for c in compared],
        "note": note,
    }
