"""What to train with a budget: size, tokens, settings, layout, memory, time, loss, and why each.

The budget is operations, or time on devices. A law splits it between parameters and tokens; the
decoder nearest in size is taken from a ladder of shapes; the layout over the devices is the fastest
that fits, and what it is expected to reach of their peak is what the budget was counted with (the
two are iterated until they agree). Every number carries the line that derives it.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.models.config import DecoderConfig
from maquette.scaling.budget import Budget, operations
from maquette.scaling.budget_split import (
    Interval,
    Split,
    Text,
    is_small,
    loss_surface,
    repeated,
    split,
)
from maquette.scaling.epochs import Repeats
from maquette.scaling.frontier import BYTES_PER_TOKEN, forecast
from maquette.scaling.laws import Kaplan, Law, ScalingLaw
from maquette.scaling.layouts import Choice, Option
from maquette.scaling.model_shapes import batch_tokens, nearest_shape, non_embedding, shape_rule
from maquette.scaling.plan_lines import (
    Line,
    chosen,
    clock,
    fields_of,
    layout_lines,
    layout_of,
    layout_warnings,
    precision_on,
    short,
    time_line,
    unknown,
)
from maquette.scaling.user_law import LadderLaw
from maquette.training.datasets.text_config import TextData
from maquette.training.recipe import LanguageRecipe

UTILISATION = 0.4  # of the peak, where no device is named; and where the iteration begins
LARGE, SMALL = (32768, 1024), (4096, 256)  # vocabulary and context, where neither is given
SMALLEST_LARGE = 30e6  # parameters: below, 32,768 embeddings would be most of the model
LEAST_STEPS = 10
BESIDE = (0.25, 0.5, 2.0, 4.0)  # sizes whose cost is shown, as multiples of the chosen one


@dataclass(frozen=True)
class Beside:
    """A model of another size at the same budget."""

    parameters: float
    tokens: float
    loss: float
    share: float | None
    """fraction of the budget that the best size would need for that loss; None where tokens repeat"""


@dataclass
class Plan:
    """A budget turned into a recipe."""

    flops: float
    parameters: int
    tokens: int
    batch_tokens: int
    loss_predicted: float | None
    """predicted loss in nats per token; None where only bits per byte are known"""
    loss_interval: Interval | None
    law: ScalingLaw
    recipe: LanguageRecipe
    parameters_interval: Interval | None = None
    """95 % interval of the best size; None where the law has none"""
    tokens_interval: Interval | None = None
    """tokens of the sizes in that interval at the same budget"""
    utilisation: float | None = None
    seconds: float | None = None
    cost: float | None = None
    epochs: float | None = None
    choice: Choice | None = None
    """layout over the devices; None where no device was named or nothing fits"""
    beside: list[Beside] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    """lines of the plan, in the order of derivation"""
    warnings: list[str] = field(default_factory=list)

    @property
    def model(self) -> DecoderConfig:
        """The config of the model."""
        assert isinstance(self.recipe.model, DecoderConfig)
        return self.recipe.model

    @property
    def option(self) -> Option | None:
        """The layout of the plan."""
        return chosen(self.choice) if self.choice else None

    @property
    def small(self) -> bool:
        """Whether the model is smaller than the published law's; our own small models then give the loss."""
        return is_small(self.law, self.parameters)

    @property
    def surface(self) -> ScalingLaw:
        """The surface that gives the loss: the law, or the small models' in bits per byte."""
        return loss_surface(self.law, self.parameters)

    @property
    def why(self) -> list[tuple[str, str]]:
        """(name, reason) of every number."""
        return [(line.name, line.why) for line in self.lines if line.name]

    def forecast(self) -> dict[str, Any]:
        """The forecast of a run, kept with the recipe and shown beside the outcome."""
        low, high = self.loss_interval or (None, None)
        return {
            "flops": self.flops,
            "law": self.law.name,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "loss_predicted": self.loss_predicted,
            "loss_low": low,
            "loss_high": high,
        }


def make_plan(
    budget: Budget,
    law: ScalingLaw,
    *,
    text: Text | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    inference_tokens: float | None = None,
) -> Plan:
    """Spend the budget as the law says is best.

    text: the corpus; its vocabulary replaces `vocabulary`, and where it is short of tokens they
    repeat. vocabulary, context: None for what suits the size. inference_tokens: to be served
    afterwards; the model is then smaller and trained longer, within the same training budget. Raises
    UserError where a law has no answer.
    """
    vocabulary = text.vocabulary if text else vocabulary
    device, reached = budget.device, budget.utilisation or UTILISATION
    for _ in range(6):
        flops, how = operations(budget, reached)
        best = split(law, flops, text, inference_tokens)
        recipe, lines = _recipe(law, best, text, (vocabulary, context), budget)
        if device is None:
            choice = None
            break
        choice = layout_of(recipe, device, budget.devices)
        utilisation = chosen(choice).time.utilisation
        if budget.utilisation or utilisation is None:
            break
        before, reached = reached, utilisation
        if abs(reached / before - 1) < 0.002 or budget.flops is not None:
            break
    assert isinstance(recipe.model, DecoderConfig)
    size, tokens = recipe.model.parameters(), recipe.steps * recipe.units_per_step
    plan = Plan(
        best.flops, size, tokens, recipe.units_per_step, None, None, law, recipe,
        utilisation=reached if device is not None else None, choice=choice,
    )  # fmt: skip
    spans = best.intervals(size, tokens)
    if spans is not None:
        plan.parameters_interval, plan.tokens_interval = spans
    plan.lines = [Line("budget", f"{flops:.3g} FLOP", how), *lines]
    if best.flops < flops:
        plan.warnings.append(
            f"{best.flops:.3g} of the {flops:.3g} FLOP are spent: on {short(text.tokens if text else 0)} "
            f"tokens of text the rest would buy less than 0.1 % of the loss, or was never measured"
        )
    _loss(plan, text)
    _spent(plan, budget)
    _others(plan, best.parameters, text)
    return plan


def _recipe(
    law: ScalingLaw,
    best: Split,
    text: Text | None,
    shape_given: tuple[int | None, int | None],
    budget: Budget,
) -> tuple[LanguageRecipe, list[Line]]:
    """The nearest shape, its tokens and its settings. shape_given: vocabulary and context, None: default."""
    flops, ideal = best.flops, best.parameters
    usual = LARGE if ideal >= SMALLEST_LARGE else SMALL
    vocabulary, context = (
        usual[i] if value is None else value for i, value in enumerate(shape_given)
    )
    embedded = not isinstance(law, Kaplan)
    model = nearest_shape(ideal, vocabulary, context, embedded)
    per_token = model.flops_per_token(context)
    wanted = batch_tokens(flops / per_token, context)
    batch = -(-max(1, wanted // context) // budget.devices) * budget.devices
    steps = round(flops / per_token / (batch * context))
    if steps < LEAST_STEPS:
        least = LEAST_STEPS * batch * context * per_token
        raise WrongUse(
            f"{flops:.3g} FLOP are {steps} steps of {short(model.parameters())} parameters: give "
            f"{least:.2g} or more, fewer devices, or a shorter --context"
        )
    recipe = LanguageRecipe(
        name="planned",
        model=model,
        data=TextData(corpus=text.name if text else "default", sequence=context),
        batch=batch,
        steps=steps,
        ranks=budget.devices,
    )
    o, tokens, size = recipe.optimiser, steps * batch * context, model.parameters()
    spans = best.intervals(size, tokens) or (None, None)
    wide = (
        ""
        if spans[0] is None
        else (
            "; interval of 95 % by the law's own errors"
            + (", widened to the nearest shape" if best.distance(size) > (best.sure or 1.0) else "")
        )
    )
    rules = model.parametrisation
    counted = "" if embedded else f"; without embeddings, as {law.name} counts"
    return recipe, [
        Line("law", f"L = {law.formula}", f"{law.name}: {law.source}"),
        Line("parameters", f"{short(size)}{_span(spans[0])}",
             f"{size:,}, the shape nearest to {ideal:,.0f}{counted}: {best.why}{wide}"),
        Line("shape", f"width {model.width}, {model.depth} blocks, {model.heads} heads of {model.head}",
             f"{shape_rule(model.width)}; vocabulary {model.vocabulary:,}, "
             f"{context:,} positions"),
        Line("tokens",
             f"{short(tokens)}{_span(spans[1])}, {tokens / size:.3g} a parameter",
             f"{tokens:,} = {steps:,} steps; {flops:.3g} / {per_token:.4g} FLOP a token (6 for every "
             f"matrix parameter, and attention over {context:,} positions)"),
        Line("batch", f"{batch * context:,} tokens a step",
             f"{batch:,} sequences of {context:,}: the power of two nearest to the root of the tokens "
             f"(GPT-3 and Chinchilla took 2 to 6 times that), filled up to {budget.devices} devices"),
        Line("settings", f"learning rate {o.learning_rate:g} at width {rules.base_width}, "
             f"{recipe.schedule.kind} with {recipe.schedule.warmup:.0%} warm-up",
             f"maximal-update rules carry the rate to width {model.width}: hidden matrices get "
             f"{rules.base_width / model.width:.3g} of it; confirm it for your text with maquette sweep "
             f"RECIPE --width {rules.base_width}"),
    ]  # fmt: skip


def _loss(plan: Plan, text: Text | None) -> None:
    """The loss to expect, with its interval and with what limits it."""
    law, size, tokens = plan.law, float(plan.parameters), float(plan.tokens)
    if isinstance(law, Kaplan):
        size = float(non_embedding(plan.model))
    value = plan.surface.loss(size, tokens)
    why = f"L(N, D) = {getattr(plan.surface, 'formula', '')}"
    repeats = repeated(law, plan.parameters, text)
    if text is not None and tokens > text.tokens:
        value = _epochs(plan, text, repeats, value)
        why += " with the tokens that the repeated ones are worth" if repeats else ""
    elif text is not None:
        plan.epochs = tokens / text.tokens
    if plan.small:
        _small(plan, text, value, why)
        return
    plan.loss_predicted = value
    if isinstance(law, LadderLaw):
        try:
            prediction = law.predict(size, tokens)
        except UserError as error:
            plan.warnings.append(f"{error}: the loss here is the frontier's, extended")
        else:
            plan.loss_interval = (prediction.low, prediction.high)
            why += f"; {prediction.times:.3g} times the ladder's largest budget, interval of 95 %"
    elif isinstance(law, Law) and (sure := law.sure_loss(plan.flops)) is not None:
        plan.loss_interval = (value - 1.96 * sure * value, value + 1.96 * sure * value)
        why += (
            f"; interval of 1.96 times {sure:.2%}: how its own runs lie about it, and what the "
            f"constants' errors come to at this budget"
        )
    ends = plan.loss_interval
    interval = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    plan.lines.append(Line("loss", f"{value:.3f} nats a token{interval}", why))


def _epochs(plan: Plan, text: Text, repeats: Repeats | None, fresh: float) -> float:
    """Say how often the text is read and what that is worth; returns the loss."""
    plan.epochs = plan.tokens / text.tokens
    count = f"{plan.tokens:.3g} / {text.tokens:.3g} tokens of {text.name}"
    if repeats is None:
        plan.lines.append(Line("epochs", f"{plan.epochs:.3g}", count))
        plan.warnings.append(
            f"the corpus is read {plan.epochs:.3g} times, of which {plan.law.name} says nothing: the "
            f"loss is that of fresh text"
        )
        return fresh
    spent = repeats.at(plan.parameters, plan.tokens)
    plan.lines.append(Line(
        "epochs", f"{spent.epochs:.3g}",
        f"{count}, worth {spent.effective_tokens:.3g} fresh ones; the next epoch is worth "
        f"{spent.next_epoch:.0%} of fresh text (Muennighoff et al. 2023)"))  # fmt: skip
    if spent.next_epoch < 0.25:
        plan.warnings.append(
            f"the corpus is read {spent.epochs:.3g} times and another pass is worth "
            f"{spent.next_epoch:.0%} of fresh text: more text would help more than more compute"
        )
    return spent.loss


def _small(plan: Plan, text: Text | None, bits: float, why: str) -> None:
    """Below the sizes that a published law was fitted on, the loss is our own small models'."""
    near = forecast(plan.parameters, plan.tokens)
    low, high = (bits * end / near.bits_per_byte for end in (near.low, near.high))
    known = {257: 1.0, SMALL[0]: BYTES_PER_TOKEN}  # of the corpora that are built in
    size = text.bytes_per_token if text else known.get(plan.model.vocabulary)
    nats, wide = "", "" if near.factor <= 1 else " and what leaving out its largest runs has cost"
    if size is not None:
        plan.loss_predicted = bits * math.log(2) * size
        plan.loss_interval = (low * math.log(2) * size, high * math.log(2) * size)
        nats = f", {plan.loss_predicted:.3f} nats a token"
    plan.lines.append(Line(
        "loss", f"{bits:.3f} bits per byte ({low:.3f} to {high:.3f}){nats}",
        f"{why}, in bits per byte: the small models of benchmarks/ladder.py on the default corpus; "
        f"interval of twice the fit's error{wide}"))  # fmt: skip
    plan.warnings.append(
        f"{plan.law.name} was fitted on models of {short(plan.law.smallest)} parameters and more: here "
        f"its split is a guide, and the loss is read off small models of the default corpus"
        + ("" if near.inside else ", extended beyond them")
        + "; maquette plan ladder measures your own"
    )


def _spent(plan: Plan, budget: Budget) -> None:
    """Layout, memory, time and money."""
    device, choice = budget.device, plan.choice
    if device is None or choice is None:
        return
    best = chosen(choice)
    if not best.fits:
        plan.warnings.append(
            f"no layout of {budget.devices} x {device.name} holds this model: the least is "
            f"{best.layout.name} with {best.memory.total / 2**30:.3g} GiB a device; use more devices, "
            f"or a smaller budget"
        )
    plan.recipe = replace(plan.recipe, **fields_of(best))
    plan.lines += layout_lines(choice, device)
    if best.time.seconds is not None:
        plan.seconds = best.time.seconds * plan.recipe.steps
        plan.utilisation = best.time.utilisation
        plan.lines.append(time_line(best, plan.seconds))
    peak = device.peak(precision_on(device))
    if budget.utilisation is not None and peak is not None:
        plan.seconds = plan.flops / (peak * budget.utilisation * budget.devices)
        plan.utilisation = budget.utilisation
        plan.lines.append(Line(
            "as given", f"{clock(plan.seconds)} at {budget.utilisation:.0%} of the peak",
            f"{plan.flops:.3g} FLOP / ({budget.devices} x {peak:.3g} x {budget.utilisation:g})"))  # fmt: skip
    if plan.seconds is not None and budget.price is not None:
        hours = plan.seconds / 3600 * budget.devices
        plan.cost = hours * budget.price
        plan.lines.append(Line("cost", f"{plan.cost:,.2f}",
                               f"{hours:,.4g} device hours at {budget.price:g}"))  # fmt: skip
    if best.time.seconds is None:
        plan.warnings.append(f"the time is unknown: {unknown(best)}")
    plan.warnings += layout_warnings(choice)


def _others(plan: Plan, ideal: float, text: Text | None) -> None:
    """The loss at other sizes, where the law is a surface."""
    law, unit = plan.surface, " bits per byte" if plan.small else ""
    if not isinstance(law, Law):
        return
    repeats = repeated(plan.law, plan.parameters, text)
    for factor in BESIDE:
        n = ideal * factor
        d = plan.flops / 6 / n
        if repeats is not None and d > repeats.unique:
            plan.beside.append(Beside(n, d, repeats.loss(n, d), None))
        else:
            excess = law.excess(plan.flops, n)
            plan.beside.append(Beside(n, d, excess.loss, None if plan.epochs else excess.share))
    costs = ", ".join(
        f"{factor:g}x {b.loss:.3f}" for factor, b in zip(BESIDE, plan.beside, strict=True)
    )
    shares = ", ".join(f"{b.share:.0%}" for b in plan.beside if b.share is not None)
    why = f"; the best size reaches these losses with {shares} of it" if shares else ""
    plan.lines.append(Line("other sizes", f"loss at {costs}{unit}", f"at the same budget{why}"))


def _span(ends: Interval | None) -> str:
    """An interval as text behind its number."""
    return "" if ends is None else f" ({short(ends[0])} to {short(ends[1])})"
