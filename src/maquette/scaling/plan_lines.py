"""Lines of a plan on a layout over devices: a line for each number, with its derivation."""

from dataclasses import dataclass
from typing import Any

from maquette.base.machine import BF16_PAYS
from maquette.models.config import DecoderConfig
from maquette.scaling.devices import Device
from maquette.scaling.layouts import Choice, Option, choose
from maquette.scaling.training_step import Precision
from maquette.training.recipe import LanguageRecipe

LOST = 4  # alternatives that are shown


@dataclass(frozen=True)
class Line:
    """A line of a plan: a number and its derivation."""

    name: str
    text: str
    why: str


def layout_of(recipe: LanguageRecipe, device: Device, devices: int) -> Choice:
    """The layouts of a recipe's step over devices; blocks are compiled on an accelerator."""
    assert isinstance(recipe.model, DecoderConfig)
    return choose(
        recipe.model,
        recipe.batch,
        recipe.data.sequence,
        device,
        devices,
        precision_on(device),
        compiled=device.kind == "cuda",
    )


def precision_on(device: Device) -> Precision:
    """bf16 where its products are faster, as training chooses."""
    bf16, fp32 = device.peak("bf16"), device.peak("fp32")
    return "fp32" if bf16 is None or (fp32 is not None and bf16 < BF16_PAYS * fp32) else "bf16"


def chosen(choice: Choice) -> Option:
    """The fastest layout that fits and that this version trains; the fastest where it trains none."""
    return choice.runnable or choice.best


def fields_of(option: Option) -> dict[str, Any]:
    """The fields of a recipe that a layout decides."""
    fields: dict[str, Any] = {
        "layout": option.layout.name,
        "recompute": option.layout.recompute,
        "ranks": option.layout.devices,
    }
    if option.layout.runnable:
        fields["micro_batch"] = option.micro_batch
    return fields


def layout_lines(choice: Choice, device: Device) -> list[Line]:
    """Lines of layout, memory and alternatives."""
    best = chosen(choice)
    layout, held = best.layout, best.memory
    again = ", recomputed in the backward pass" if layout.recompute else ""
    room = f" of {device.memory / 2**30:.3g}" if device.memory is not None else ""
    parts = {
        "weights": held.parameters, "gradients": held.gradients, "Adam": held.optimiser,
        "activations": held.activations, "working": held.working, "copies": held.saving,
        "libraries": held.framework, "margin": held.margin,
    }  # fmt: skip
    memory = ", ".join(f"{name} {size / 2**30:.3g}" for name, size in parts.items() if size >= 1e6)
    derived = "; ".join(f"{name}: {text}" for name, text in held.why.items())
    lines = [
        Line("layout", f"{layout.name}, {best.micro_batch} sequences at a time on each device{again}",
             f"{'the fastest that fits' if best.fits else 'the smallest; none fits'} of those that divide "
             f"{layout.devices} devices; {layout.micro_batches} micro-batches a step"),
        Line("memory", f"{held.total / 2**30:.3g} GiB{room} a device: {memory}", derived),
    ]  # fmt: skip
    lost = choice.why_lost(best)
    lines += [
        Line("not chosen" if i == 0 else "", _brief(text), text)
        for i, text in enumerate(lost[:LOST])
    ]
    if len(lost) > LOST:
        lines.append(Line("", f"and {len(lost) - LOST} more kinds", "; ".join(lost[LOST:])))
    return lines


def _brief(text: str) -> str:
    """Why a layout lost, in its first words; the rest is the derivation."""
    head, slower, rest = text.partition(" slower: ")
    return f"{head}{slower}{rest.partition(' ')[0]}" if slower else text


def layout_warnings(choice: Choice) -> list[str]:
    """Warnings of a layout that this version cannot train."""
    best, ours = choice.best, choice.runnable
    if best.layout.runnable or not best.fits:
        return []
    if ours is None:
        return [
            f"{best.layout.name} is what fits, and this version trains ddp only: it cannot be run yet"
        ]
    gained = ""
    if best.time.seconds and ours.time.seconds:
        gained = f" and would be {ours.time.seconds / best.time.seconds - 1:.1%} faster"
    return [f"{best.layout.name} fits{gained}; this version trains ddp only"]


def unknown(option: Option) -> str:
    """Why a step's time is unknown."""
    return "; ".join(f"{part}: {option.time.why.get(part, '')}" for part in option.time.unknown)


def time_line(option: Option, seconds: float) -> Line:
    """The line of the time, with its fraction of the peak."""
    time = option.time
    parts = sorted(((v or 0.0, k) for k, v in time.parts.items()), reverse=True)[:4]
    times = ", ".join(f"{name} {1e3 * value:.3g}" for value, name in parts)
    reached = f", {time.utilisation:.0%} of the peak" if time.utilisation is not None else ""
    return Line(
        "time",
        f"{clock(seconds)}, {time.seconds:.3g} s a step{reached} (ms: {times})",
        "; ".join(f"{name}: {text}" for name, text in time.why.items()),
    )


def short(number: float) -> str:
    """12.3 M, 4.5 G ..."""
    for factor, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """2 d 3:04:05"""
    whole = round(seconds)
    days, hours = whole // 86400, whole // 3600 % 24
    clock = f"{hours}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{days} d {clock}" if days else clock
