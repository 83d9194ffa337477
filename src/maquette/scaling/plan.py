"""What to train with a budget: the size, the tokens, the shape, the settings, and why each.

The budget is operations, or time on a device. A published law splits it between parameters and
tokens; the decoder whose size is nearest is taken from a ladder of shapes; and the rest follows
from rules that are printed with the numbers they gave.
"""

from dataclasses import dataclass, field

from maquette.base.errors import WrongUse
from maquette.base.machine import Machine
from maquette.models.config import DecoderConfig
from maquette.scaling.devices import peak
from maquette.scaling.laws import Law, law

UTILISATION = 0.4  # of the matrix-product peak, where nothing was measured
HEAD = 64


@dataclass(frozen=True)
class Plan:
    """A budget turned into a model and a number of tokens."""

    flops: float
    parameters: int
    tokens: int
    batch_tokens: int
    loss_predicted: float
    law: Law
    model: DecoderConfig
    seconds: float | None
    why: list[tuple[str, str]] = field(default_factory=list)
    """(what, why) for every number, in the order they were derived"""
    warnings: list[str] = field(default_factory=list)


def budget(
    machine: Machine | None,
    *,
    flops: float | None = None,
    device: str | None = None,
    devices: int = 1,
    hours: float | None = None,
    utilisation: float = UTILISATION,
) -> tuple[float, float | None, str]:
    """Operations, seconds (None if unknown) and how they were found.

    Give `flops`; or `hours` on `devices` of a known `device`; or `hours` on the measured `machine`.
    """
    if (flops is None) == (hours is None):
        raise WrongUse("give a budget: --flops F, or --hours H with --device D (or this machine)")
    if not 0 < utilisation <= 1:
        raise WrongUse(f"utilisation is {utilisation}: use a fraction above 0, up to 1")
    for name, value in (("flops", flops), ("hours", hours), ("devices", devices)):
        if value is not None and not 0 < value < 1e40:
            raise WrongUse(f"{name} is {value}: use a positive number")
    rate = None
    if device is not None:
        rate, what = peak(device) * devices, f"{devices} x {device}'s data sheet"
    elif machine is not None:
        rate, what = machine.peak(machine.precision), "this machine's measured peak"
    if flops is not None:
        return flops, None if rate is None else flops / rate / utilisation, "given"
    assert hours is not None
    if rate is None:
        raise WrongUse("say which device: --device H100, for one")
    seconds = hours * 3600
    reason = f"{hours:g} h x {rate:.3g} FLOP/s ({what}) x {utilisation:.0%} utilisation"
    return rate * utilisation * seconds, seconds, reason


def make_plan(
    flops: float,
    *,
    seconds: float | None = None,
    reason: str = "given",
    law_name: str = "besiroglu",
    vocabulary: int = 32768,
    context: int = 1024,
    corpus_tokens: int | None = None,
) -> Plan:
    """Spend `flops` on a decoder and tokens as the law says is best."""
    chosen = law(law_name)
    why = [("budget", f"{flops:.3g} FLOP: {reason}")]
    ideal, _ = chosen.best(flops)
    why.append(("law", f"{chosen.name}: {chosen.source}"))
    model = nearest_shape(ideal, vocabulary, context)
    size, per_token = costs(model)
    tokens = int(flops / per_token)
    why += [
        (
            "parameters",
            f"{size:,}: the law's best is {ideal:,.0f}; the nearest shape of the ladder",
        ),
        (
            "shape",
            f"width {model.width}, depth {model.depth}: heads of {HEAD}, 64 wide a block",
        ),
        ("tokens", f"{tokens:,}: {flops:.3g} / {per_token:.4g} FLOP a token, attention counted"),
    ]
    batch = batch_tokens(tokens, context)
    why.append(
        ("batch", f"{batch:,} tokens: near the root of the tokens, as GPT-3 and Chinchilla chose")
    )
    loss = chosen.loss(size, tokens)
    why.append(
        (
            "loss",
            f"{loss:.3f} nats a token: {chosen.E} + {chosen.A} / N^{chosen.alpha} "
            f"+ {chosen.B} / D^{chosen.beta}",
        )
    )
    warnings = []
    if size < chosen.smallest:
        warnings.append(
            f"the law was fitted on models of {chosen.smallest / 1e6:.0f} M parameters and more, on "
            f"web text: at {size / 1e6:.3g} M its split is a guide, its loss is not"
        )
    if corpus_tokens is not None and tokens > corpus_tokens:
        warnings.append(
            f"the corpus has {corpus_tokens:,} tokens: {tokens / corpus_tokens:.1f} epochs; "
            f"up to 4 cost little (Muennighoff et al. 2023)"
        )
    return Plan(flops, size, tokens, batch, loss, chosen, model, seconds, why, warnings)


def nearest_shape(parameters: float, vocabulary: int, context: int) -> DecoderConfig:
    """The decoder of the ladder whose size is nearest by ratio (see `shape`)."""
    best: DecoderConfig | None = None
    best_distance = float("inf")
    for step in range(1, 400):
        config = shape(HEAD * step, vocabulary, context)
        size, _ = costs(config)
        distance = abs(size / parameters - 1) if size > parameters else parameters / size - 1
        if distance >= best_distance:
            break
        best, best_distance = config, distance
    assert best is not None
    return best


def shape(width: int, vocabulary: int, context: int) -> DecoderConfig:
    """One rung: depth = width / 64 (nanochat's ratio), four blocks at least."""
    return DecoderConfig(
        vocabulary=vocabulary,
        context=context,
        width=width,
        depth=max(4, width // HEAD),
        heads=max(1, width // HEAD),
    )


def costs(config: DecoderConfig) -> tuple[int, float]:
    """Parameters, and operations of a training step a token, without making the model."""
    return config.parameters(), config.flops_per_token(config.context)


def batch_tokens(tokens: int, context: int) -> int:
    """Tokens a step: the power of two nearest to their root, a sequence at least.

    GPT-3 took 0.5 to 3.2 M for 300 G tokens (root 0.55 M), Chinchilla 1.5 to 3 M for 1.4 T (1.2 M),
    and 2,048 to 4,096 served best for 3 M tokens here (docs/log.md).
    """
    return max(context, 1 << round(0.5 * (tokens.bit_length() - 0.5)))
