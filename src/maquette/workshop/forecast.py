"""Forecast of a run's memory, time and loss, beside the outcome.

Before the first step the memory and the time are estimated from the machine's measured limits
(`scaling.memory`, `scaling.roofline`) and kept in `expected.json` with what the recipe's plan said of
the loss; afterwards the report and the command show both. An estimate is kept as it was made.
"""

from typing import Any

from maquette.base.files import read_json, write_json
from maquette.base.machine import Machine
from maquette.models.config import DecoderConfig
from maquette.scaling.devices import from_machine
from maquette.scaling.memory import memory
from maquette.scaling.roofline import step_time
from maquette.scaling.training_step import Layout, TrainingStep
from maquette.training.datasets.text_config import TokenData
from maquette.training.decide import Decisions
from maquette.training.length import lengths_of
from maquette.training.recipe import Recipe
from maquette.training.run import OUTCOME, RunDirectory
from maquette.workshop.picture_plan import needs

EXPECTED = "expected.json"


def expect(
    run: RunDirectory,
    recipe: Recipe,
    machine: Machine,
    decisions: Decisions,
    planned: dict[str, Any],
    before: int,
) -> None:
    """Write the forecast of a run. Decoders and picture models in one process are modelled.

    The step of a picture model was timed and counted when the run was decided on. before: bytes that
    the process held before the model was made.
    """
    expected: dict[str, Any] = {
        "tokens": recipe.last_step * recipe.units_per_step,
        "plan": planned,
    }
    if decisions.flops and recipe.ranks == 1:
        expected |= _counted(recipe, machine, decisions, before)
    elif (
        isinstance(recipe.data, TokenData)
        and isinstance(recipe.model, DecoderConfig)
        and recipe.ranks == 1
    ):
        part = recipe.micro_batch or recipe.batch
        layout = Layout(micro_batches=recipe.batch // part, recompute=recipe.recompute)
        step = TrainingStep(
            recipe.model,
            part,
            recipe.data.sequence,
            decisions.precision,
            layout,
            decisions.compile or decisions.kernels,
            not decisions.compile,
        )
        held = memory(step, device="cuda" if machine.device == "cuda" else "cpu")
        time = step_time(step, from_machine(machine))
        before = before if machine.device == "cpu" else 0
        expected |= {
            "memory": before + held.total,
            "memory_why": {"before": f"{before:,} bytes before the model was made"} | held.why,
            "seconds": None if time.seconds is None else time.seconds * recipe.last_step,
            "seconds_why": time.why,
        }
    write_json(run / EXPECTED, expected)


def _counted(recipe: Recipe, machine: Machine, decisions: Decisions, before: int) -> dict[str, Any]:
    """Memory and time of a run, from the measured memory and time of a step."""
    on_cpu = machine.device == "cpu"
    needed = needs(recipe, on_cpu, decisions)
    before = before if on_cpu else 0
    return {
        "memory": before + needed.memory,
        "memory_why": {"before": f"{before:,} bytes before the model was made"} | needed.memory_why,
        "seconds": needed.seconds,
        "seconds_why": needed.seconds_why,
    }


def compared(run: RunDirectory) -> dict[str, Any] | None:
    """The table of forecast and outcome; None for a run without a forecast or an end."""
    if not (run / EXPECTED).exists() or not (run / OUTCOME).exists():
        return None
    expected, outcome = read_json(run / EXPECTED), read_json(run / OUTCOME)
    records, plan = run.records(), expected.get("plan", {})
    rows = [(f"training {run.recipe().unit}", f"{expected['tokens']:,}", f"{outcome['tokens']:,}")]
    comparison: dict[str, Any] = {"loss_predicted": None}
    if expected.get("seconds") is not None:
        took = sum(r["seconds"] for r in records)
        comparison["seconds"] = [expected["seconds"], took]
        rows.append(("seconds in training steps", f"{expected['seconds']:.4g}", f"{took:.4g}"))
    if expected.get("memory") is not None:
        peak = max(r["memory"] for r in records)
        comparison["memory"] = [expected["memory"], peak]
        rows.append(
            ("memory at most", f"{expected['memory'] / 2**30:.2f} GiB", f"{peak / 2**30:.2f} GiB")
        )
    size = run.recipe().model.parameters()
    changes = lengths_of(run.path).changes
    same = (
        not changes
        and plan.get("parameters", size) == size
        and plan.get("tokens", expected["tokens"]) == (expected["tokens"])
    )
    if plan.get("loss_predicted") is not None and not same:
        rows.append(("held-out loss, nats a token", "of another size or length", "-"))
    elif plan.get("loss_predicted") is not None:
        wanted, loss = plan["loss_predicted"], outcome["heldout_loss"]
        low, high = (plan.get(name) or wanted for name in ("loss_low", "loss_high"))
        comparison |= {"loss_predicted": wanted, "loss_low": low, "loss_high": high}
        between = f" ({low:.3f} to {high:.3f})" if low < high else ""
        happened = "-" if loss is None else f"{loss:.3f}"
        rows.append(("held-out loss, nats a token", f"{wanted:.3f}{between}", happened))
    comparison["compared"] = [
        dict(zip(("name", "planned", "happened"), r, strict=True)) for r in rows
    ]
    comparison["note"] = (
        "Time and memory were estimated from this machine's measured limits before the start."
    )
    for change in changes:
        comparison["note"] += (
            f" At step {change.step:,} its length became {change.after:,} steps, not {change.before:,}."
        )
    comparison["why"] = [
        *(expected.get("memory_why") or {}).items(),
        *(expected.get("seconds_why") or {}).items(),
    ]
    return comparison
