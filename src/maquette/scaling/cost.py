"""Cost of a recipe or a published architecture: parameters, operations, memory, time, money."""

from dataclasses import dataclass, field
from typing import Any

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.models.published import Published
from maquette.scaling.budget import check_amounts
from maquette.scaling.devices import Device
from maquette.scaling.layouts import Choice
from maquette.scaling.plan_lines import (
    Line,
    chosen,
    layout_lines,
    layout_of,
    layout_warnings,
    short,
    time_line,
    unknown,
)
from maquette.training.datasets.text_config import TextData
from maquette.training.recipe import LanguageRecipe

BATCH = 512  # sequences a step, where the architecture's training was not published


@dataclass
class Cost:
    """The cost of a training, with a line for each figure."""

    recipe: LanguageRecipe
    parameters: int
    flops_per_token: float
    flops: float | None
    """operations of the whole training; None where its tokens are unknown"""
    tokens: int | None
    choice: Choice
    seconds: float | None = None
    money: float | None = None
    lines: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        best = chosen(self.choice)
        return {
            "parameters": self.parameters,
            "flops_per_token": self.flops_per_token,
            "flops": self.flops,
            "tokens": self.tokens,
            "layout": best.layout.name,
            "fits": best.fits,
            "memory": best.memory.total,
            "seconds_per_step": best.time.seconds,
            "utilisation": best.time.utilisation,
            "seconds": self.seconds,
            "cost": self.money,
            "warnings": self.warnings,
        }


def cost(
    recipe: LanguageRecipe,
    device: Device,
    devices: int = 1,
    published: Published | None = None,
    price: float | None = None,
) -> Cost:
    """The cost of training a recipe on some devices.

    published: the published architecture of the recipe, whose count is shown beside ours. Raises WrongUse
    for an architecture whose cost is not modelled.
    """
    model = recipe.model
    if not isinstance(model, DecoderConfig):
        raise WrongUse(
            f"{recipe.name} is no decoder: only a decoder's memory and time are modelled"
        )
    check_amounts(devices=devices, price=price)
    time, size = recipe.data.sequence, model.parameters()
    per_token = model.flops_per_token(time)
    known = published is None or published.training is not None
    tokens = recipe.steps * recipe.units_per_step if known else None
    flops = None if tokens is None else per_token * tokens
    choice = layout_of(recipe, device, devices)
    estimate = Cost(recipe, size, per_token, flops, tokens, choice)
    roles = ", ".join(
        f"{name} {count:,}" for name, count in model.parameters_by_role().items() if count
    )
    estimate.lines = [
        Line("parameters", f"{size:,}", f"by role: {roles}"),
        Line("shape", f"width {model.width}, {model.depth} blocks, {model.heads} heads of {model.head}, "
             f"vocabulary {model.vocabulary:,}, {time:,} positions", "the recipe's model"),
    ]  # fmt: skip
    if published is not None:
        estimate.lines.insert(1, Line("published", published.explanation, published.source))
        if published.note:
            estimate.warnings.append(published.note)
    attention = f"12 for every key that a query sees ({time:,} or the band)"
    estimate.lines.append(Line(
        "operations", f"{per_token:.4g} FLOP a token" + (f", {flops:.3g} in all" if flops else ""),
        f"6 for every matrix parameter, {attention}"))  # fmt: skip
    if tokens is not None:
        estimate.lines.append(Line("tokens", f"{short(tokens)}, {tokens / size:.3g} a parameter",
                                f"{recipe.steps:,} steps of {recipe.batch:,} sequences"))  # fmt: skip
    else:
        estimate.warnings.append(
            f"its training was not published: memory and time are for {BATCH} sequences a step"
        )
    best = chosen(choice)
    estimate.lines.append(Line("device", f"{devices} x {device.name}",
                            "; ".join(f"{k}: {v}" for k, v in device.sources.items())))  # fmt: skip
    estimate.lines += layout_lines(choice, device)
    if not best.fits:
        estimate.warnings.append(
            f"it does not fit: use more devices, or ones with more than "
            f"{best.memory.total / 2**30:.3g} GiB"
        )
    if best.time.seconds is None:
        estimate.warnings.append(f"the time is unknown: {unknown(best)}")
    else:
        steps = recipe.steps if tokens is not None else 1
        estimate.seconds = best.time.seconds * steps if tokens is not None else None
        estimate.lines.append(time_line(best, best.time.seconds * steps))
        if price is not None and estimate.seconds is not None:
            hours = estimate.seconds / 3600 * devices
            estimate.money = hours * price
            estimate.lines.append(Line("cost", f"{estimate.money:,.2f}",
                                    f"{hours:,.4g} device hours at {price:g}"))  # fmt: skip
    estimate.warnings += layout_warnings(choice)
    return estimate


def recipe_of(published: Published) -> LanguageRecipe:
    """A recipe of a published architecture, with its own batch where that was published."""
    sequence, batch, steps = published.config.context, BATCH, 1
    if published.training is not None:
        batch = published.training.batch
        steps = max(1, round(published.training.tokens / (batch * sequence)))
    return LanguageRecipe(
        name=published.name,
        model=published.config,
        data=TextData(sequence=sequence),
        batch=batch,
        steps=steps,
    )
