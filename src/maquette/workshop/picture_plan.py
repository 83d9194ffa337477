"""The cost of training a picture recipe, from a counted and timed step on this machine.

Operations and kept bytes are torch's own count of one step (`training.cost`); the time is that step's on
this machine. Another device is given the share of its peak that this machine reaches: a guess, and said
to be one.
"""

from dataclasses import dataclass
from typing import Any

from maquette.base.errors import WrongUse
from maquette.base.machine import Machine, measure
from maquette.scaling.devices import Device
from maquette.scaling.memory import FRAMEWORK
from maquette.scaling.plan_lines import Line
from maquette.training.datasets.picture_config import PictureRecipe
from maquette.training.datasets.pictures import PictureDataset
from maquette.training.decide import Decisions, decide
from maquette.training.initial_model import make_model
from maquette.training.recipe import Recipe


@dataclass(frozen=True)
class Needs:
    """Memory and time of a whole run in one process."""

    memory: float
    """bytes beyond the process' memory before"""
    memory_why: dict[str, str]
    seconds: float
    seconds_why: dict[str, str]


def needs(recipe: Recipe, on_cpu: bool, decisions: Decisions) -> Needs:
    """Memory and time of a run, from the measured memory and time of a step."""
    size = recipe.model.parameters()
    copies = 5 if recipe.optimiser.average else 4  # weights, gradients, two moments, the average
    saving = (copies - 1) * 4.0 * size if on_cpu else 0.0
    framework = FRAMEWORK["cpu" if on_cpu else "cuda"]
    tensors = "weights, gradients, two moments" + (", average" if copies == 5 else "")
    return Needs(
        copies * 4.0 * size + saving + decisions.activations + framework,
        {
            "weights": f"{copies} x 4 bytes x {size:,} parameters: {tensors}",
            "saving": f"{saving:,.0f} bytes of copies while a checkpoint is written",
            "activations": f"{decisions.activations:,.0f} bytes, counted on one micro-batch",
            "framework": f"{framework:,.0f} bytes of libraries and their scratch",
        },
        decisions.seconds * recipe.last_step,
        {"step": f"{1e3 * decisions.seconds:.1f} ms a step, measured before the start"},
    )


def plan_pictures(
    recipe: PictureRecipe, device: Device | None = None
) -> tuple[list[Line], dict[str, Any]]:
    """Lines and numbers of what a recipe takes; device: another than this machine.

    Raises WrongUse for several ranks, whose sharing of a picture model is not modelled.
    """
    if recipe.ranks != 1:
        raise WrongUse(
            f"{recipe.name} has ranks {recipe.ranks}: plan it with one, time divides by them"
        )
    machine: Machine = measure(recipe.device)
    decisions = decide(
        recipe, machine, make_model(recipe), PictureDataset(recipe, recipe.data.open_corpus())
    )
    needed = needs(recipe, machine.device == "cpu", decisions)
    pictures = recipe.last_step * recipe.units_per_step
    flops = decisions.flops * pictures
    share = flops / needed.seconds / machine.peak(decisions.precision)
    lines = [
        Line("parameters", f"{recipe.model.parameters():,}", "the model's, made without memory"),
        Line("pictures", f"{pictures:,} of {recipe.data.image_size} x {recipe.data.image_size}",
             f"{recipe.last_step:,} steps of {recipe.batch:,}"),
        Line("operations", f"{decisions.flops:.4g} FLOP a picture, {flops:.3g} in all",
             "products and convolutions of a step, forward and backward, as torch counts them"),
        Line("memory", f"{needed.memory / 2**30:.2f} GiB", "; ".join(needed.memory_why.values())),
        Line("time", f"{needed.seconds / 60:.3g} minutes here, {100 * share:.0f} % of the peak",
             f"{needed.seconds_why['step']}; {decisions.why['precision']}"),
    ]  # fmt: skip
    numbers: dict[str, Any] = {
        "parameters": recipe.model.parameters(),
        "pictures": pictures,
        "flops": flops,
        "memory": needed.memory,
        "seconds": needed.seconds,
        "utilisation": share,
    }
    peak = None if device is None else (device.peak("bf16") or device.peak("fp32"))
    if device is not None and peak is not None:
        there = flops / (share * peak)
        numbers["seconds_there"] = there
        lines.append(
            Line("there", f"{there / 60:.3g} minutes on one {device.name}, as a guess",
                 f"{100 * share:.0f} % of its peak of {peak:.3g} FLOP/s, the share reached here")
        )  # fmt: skip
    return lines, numbers
