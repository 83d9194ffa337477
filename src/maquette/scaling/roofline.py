"""Seconds of a training step, operation by operation, from what a device was measured to do.

Each matrix product takes its operations over the speed of its shape, or its bytes over the
bandwidth, whichever is longer (Williams et al. 2009); what is pointwise takes its bytes over the
speed of streams of that size, or its numbers over the arithmetic; every operation has a price of
its own; and a layout adds what it sends. The inventory of operations is that of `nn`.

An accelerator attains a fraction of its peak, which is its data sheet's or was measured: products
`Device.attained` of it, fitted to published runs (`benchmarks/plan.py --published`), streams 0.85 of
the bandwidth. It computes while operations are started, so `Device.rates`, whose short calls would
time their start, serve for processors only.
What a step as a whole attains was published: 46 % (PaLM, Chowdhery et al. 2022, table 3),
44 to 52 % (Megatron, Narayanan et al. 2021, table 1).
Left out: overlap of communication with computation, and the data loader.
"""

import math
from dataclasses import dataclass

from maquette.base.probes import Rates, at
from maquette.nn.rules import Role
from maquette.scaling.devices import Device
from maquette.scaling.memory import CHUNK
from maquette.scaling.saved_tensors import has_residual_multiplier
from maquette.scaling.training_step import ITEM, Precision, TrainingStep

STREAMS = 0.85  # of a data sheet's bandwidth
LINKS = 0.8  # of a data sheet's link
BETWEEN = 8  # tensors of its size that a step touches between two uses of one: the cache holds them
OPERATION = 5e-6  # seconds that an operation takes beside its work, where it was not measured
TILE = 128  # rows of nn.tiled_attention


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step by part; None where a number of the device is unknown.

    parts: seconds by part. flops: model operations of the step on one device (recomputation is no
    part of them). utilisation: flops over the peak. why: the derivation of each part.
    """

    parts: dict[str, float | None]
    flops: float
    utilisation: float | None
    why: dict[str, str]

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole step; None when a part is unknown."""
        known = [value for value in self.parts.values() if value is not None]
        return sum(known) if len(known) == len(self.parts) else None

    @property
    def unknown(self) -> list[str]:
        """Names of the parts that cannot be estimated."""
        return [name for name, value in self.parts.items() if value is None]


@dataclass(frozen=True)
class _Speeds:
    """Speeds of a device, from measurements or from a data sheet."""

    peak: float
    bandwidth: float
    rates: Rates | None
    precision: Precision
    attained: float
    kind: str

    def product(self, flops: float, width: float, numbers: float) -> float:
        """Seconds of products whose smallest dimension is `width`, reading and writing numbers."""
        if self.rates is None:
            moved = numbers * ITEM[self.precision] / (STREAMS * self.bandwidth)
            return max(flops / (self.attained * self.peak), moved)
        curve = self.rates.products[self.precision]
        return flops / (at(curve, width) * min(1.0, width / curve[0][0]))

    def stream(self, size: float, operands: float) -> float:
        """Seconds to move `operands` tensors of `size` bytes, one operation after the other."""
        if self.rates is None:
            return size * operands / (STREAMS * self.bandwidth)
        return size * operands / at(self.rates.stream, size * BETWEEN)

    def pointwise(self, numbers: float, operands: float, item: int) -> float:
        """Seconds of a pointwise operation on `numbers` numbers; bf16 may be bound by its arithmetic."""
        moved = self.stream(numbers * item, operands)
        if self.rates is None or item == 4:
            return moved
        return max(moved, numbers * operands / 3 / self.rates.arithmetic["bf16"])

    def exponential(self, numbers: float, item: int) -> float:
        """Seconds of an operation with an exponential in it."""
        moved = self.stream(numbers * item, 2)
        if self.rates is None:
            return moved
        return max(moved, numbers / self.rates.exponential["bf16" if item == 2 else "fp32"])

    def cast(self, numbers: float) -> float:
        """Seconds of a cast between fp32 and bf16."""
        moved = self.stream(numbers * 4, 1.5)
        return moved if self.rates is None else max(moved, numbers / self.rates.cast)

    def rows(self, numbers: float) -> float:
        """Seconds of multiplications of halves of rows."""
        moved = self.stream(numbers * 4, 3)
        return moved if self.rates is None else max(moved, numbers / self.rates.rows)

    def update(self, size: float) -> float:
        """Seconds to pass over `size` bytes in place."""
        return size / (STREAMS * self.bandwidth if self.rates is None else self.rates.update)

    @property
    def operation(self) -> float:
        return OPERATION if self.rates is None else self.rates.operation


def step_time(step: TrainingStep, device: Device) -> StepTime:
    """Seconds of one optimiser step on each device of the step's layout."""
    c, layout, why = step.config, step.layout, {}
    time, tokens, micro_batches = step.time, step.tokens, step.layout.micro_batches
    precision, compiled = step.precision, step.compiled
    flops = c.flops_per_token(time) * tokens * micro_batches / layout.tensor / layout.pipeline
    peak = device.peak(precision)
    if peak is None or device.bandwidth is None:
        lacking = f"the {precision} speed" if peak is None else "the bandwidth"
        reason = f"unknown: no source gives {lacking} of {device.name}"
        return StepTime({"compute": None}, flops, None, {"compute": reason})
    rates = device.rates if device.kind == "cpu" else None
    speeds = _Speeds(peak, device.bandwidth, rates, precision, device.attained, device.kind)
    parts: dict[str, float | None] = {}
    blocks = c.depth / layout.pipeline
    repeats = micro_batches * (4 / 3 if layout.recompute else 1.0)

    # Products of the blocks and of the output, 2 operations a parameter and token, three times.
    roles = c.parameters_by_role()
    hidden, output = float(roles[Role.HIDDEN]), float(c.vocabulary * c.width)
    stage = hidden / layout.tensor / layout.pipeline
    narrow = min(c.width, c.inner / layout.tensor, tokens)
    sent = 3 * tokens * (2 * c.width + 2 * c.inner / layout.tensor) * 2 * blocks + 3 * stage
    parts["products"] = repeats * speeds.product(6 * tokens * stage, narrow, sent)
    tail = output / layout.tensor
    logits = float(tokens) * c.vocabulary / layout.tensor
    projected = speeds.product(6 * tokens * tail, min(narrow, c.vocabulary), 3 * (logits + tail))
    parts["loss"] = micro_batches * (projected + _loss(speeds, logits, tokens, precision, compiled))
    measured = "measured at this width" if rates else f"{device.attained:.0%} of the peak"
    why["products"] = (
        f"6 x {tokens} tokens x {stage:,.0f} parameters x {micro_batches} / {measured} "
        f"{precision} speed" + (", a third more to recompute" if layout.recompute else "")
    )
    why["loss"] = f"6 x {tokens} x {tail:,.0f} operations, and {logits:,.0f} logits in fp32"

    parts["attention"] = repeats * blocks * _attention(step, speeds)
    why["attention"] = (
        f"12 x {time} keys x {c.heads * c.head / layout.tensor:.0f} operations a token and block"
        + (", half of them masked" if compiled or device.kind != "cpu" else "")
    )

    moved, count = _pointwise(step, speeds)
    parts["pointwise"] = repeats * blocks * moved
    why["pointwise"] = (
        f"norms, positions, {c.activation}, residual: {1e3 * moved:.3g} ms a block and micro-batch"
    )
    tensors = 2 + c.depth * (6 if c.block == "serial" else 5)
    number = (
        micro_batches * (60 + blocks * count * (4 / 3 if layout.recompute else 1)) + 6 * tensors
    )
    hidden_away = device.kind != "cpu"  # an accelerator computes while operations are started
    parts["operations"] = 0.0 if hidden_away else number * speeds.operation
    why["operations"] = (
        "0: an accelerator computes while the next operation is started"
        if hidden_away
        else f"{number:,.0f} operations x {1e6 * speeds.operation:.2g} us"
    )

    # Weights are cast once a micro-batch, gradients cast back and added up; then the optimiser.
    local = stage + (output if c.tied else 2 * output) / layout.tensor / layout.pipeline
    share = layout.shard if layout.zero else 1
    weights = speeds.update(40.0 * local / share)
    if precision == "bf16":
        weights += micro_batches * 2 * speeds.cast(local)
    held = local / (layout.shard if layout.zero >= 2 else 1)
    weights += (micro_batches - 1) * speeds.update(12.0 * held)
    parts["optimiser"] = weights
    why["optimiser"] = f"{local / share:,.0f} parameters x 40 bytes (norm, clip, AdamW)" + (
        ", cast to bf16 and back at each micro-batch" if precision == "bf16" else ""
    )

    computed = sum(value for value in parts.values() if value is not None)
    if layout.pipeline > 1:
        stages = layout.pipeline
        bubble = (stages - 1) / (micro_batches + stages - 1)
        parts["bubble"] = computed * bubble / (1 - bubble)
        why["bubble"] = (
            f"({stages} - 1) / ({micro_batches} + {stages} - 1) = {bubble:.1%} of the whole "
            f"(Narayanan et al. 2021, section 2.2)"
        )
    parts |= _communication(step, local, device, why)
    whole = StepTime(parts, flops, None, why).seconds
    return StepTime(parts, flops, None if whole is None else flops / whole / peak, why)


def _loss(s: _Speeds, logits: float, tokens: int, precision: Precision, compiled: bool) -> float:
    """Seconds of the loss between its two products, a chunk of logits at a time."""
    item = ITEM[precision]
    chunk = min(logits, CHUNK["cpu" if s.kind == "cpu" else "cuda"] / item)
    parts = logits / chunk
    if compiled:
        return parts * (2 * s.exponential(chunk, 4) + s.pointwise(chunk, 2, item))
    passes = 21 if item == 4 else 18
    once = s.pointwise(chunk, passes, 4) + 2 * s.exponential(chunk, 4)
    return parts * (once + (2 * s.cast(chunk) if item == 2 else 0.0))


def _attention(step: TrainingStep, s: _Speeds) -> float:
    """Seconds of one block's attention, forward and backward, between its two projections."""
    c, sequences, queries, keys = step.config, step.micro_batch, step.time_here, step.time
    heads = c.heads / step.layout.tensor
    pairs = float(sequences) * heads * queries * keys
    flops = 12 * pairs * c.head
    seen = 1.0 if c.band is None else 0.5 + 0.5 * min(1.0, c.band / keys)
    if s.kind != "cpu" or s.rates is None:
        causal = seen * flops * 3.5 / 3 / 2  # fused kernels skip the mask, and recompute scores
        return s.product(causal, c.head, 8.0 * sequences * queries * heads * c.head)
    if step.compiled:  # tiles: nn.tiled_attention
        part = seen * min(1.0, 0.5 * (1 + min(TILE, keys) / keys))
        products = s.product(flops * part * 7 / 6, c.head, 0.0)
        return products + pairs * part * 2 / s.rates.exponential["fp32"]
    curves = s.rates.attention[step.precision]
    low, high = min(curves), max(curves)
    head = min(max(c.head, low), high)
    part = math.log(head / low) / math.log(high / low)
    speed = at(curves[low], keys) ** (1 - part) * at(curves[high], keys) ** part
    return float(flops / speed)


def _pointwise(step: TrainingStep, s: _Speeds) -> tuple[float, int]:
    """Seconds of one block's pointwise work in both directions, and its number of operations."""
    c, tokens, item, tensor = step.config, step.tokens, step.item, step.layout.tensor
    n = float(tokens) * c.width
    h = float(tokens) * c.inner / tensor
    q = float(tokens) * c.heads * c.head / tensor
    kv = float(tokens) * c.group_heads * c.head / tensor
    norms = 1 if c.block == "parallel" else 2
    gated = c.activation == "swiglu"
    if step.compiled:  # one kernel reads and writes each tensor once
        seconds = norms * s.pointwise(n, 2 + 4, item) + s.pointwise(n, 4, item)
        seconds += s.pointwise(q + 2 * kv, 4, item) + s.pointwise(h, 8 if gated else 5, item)
        seconds += 2 * s.exponential(h, 4) - 2 * s.stream(4 * h, 2)
        return max(0.0, seconds), 60
    casts = 4 * s.cast(n) if item == 2 else 0.0
    if c.norm == "rmsnorm":
        seconds = norms * (s.pointwise(n, 7 + 23, 4) + casts)
        count = norms * 30
    else:
        seconds = norms * (s.pointwise(n, 2 + 3, 4) + casts)
        count = norms * 8
    if c.positions == "rotary":
        for numbers in (q, kv):
            seconds += s.pointwise(numbers / 2, 22, 4) + s.rows(4 * numbers)
            seconds += 2 * s.cast(numbers) if item == 2 else 0.0
        count += 60
    if gated:
        seconds += 2.5 * s.exponential(h, item) + s.pointwise(h, 3 + 6 + 4, item)
    else:
        seconds += 2.5 * s.exponential(h, item)
    branches = 1 if c.block == "parallel" else 2
    seconds += s.pointwise(n, branches * 6 + 4 * branches * has_residual_multiplier(c), item)
    seconds += s.pointwise(q + 2 * kv, 2, item)  # gradients of queries, keys, values put together
    if c.attention_bias:
        seconds += s.pointwise(q + 2 * kv, 1, item) + s.pointwise(n, 1, item)
    if c.feedforward_bias:
        seconds += s.pointwise(h, 1, item) + s.pointwise(n, 1, item)
    return seconds, count + 110


def _communication(
    step: TrainingStep, local: float, device: Device, why: dict[str, str]
) -> dict[str, float | None]:
    """Seconds of each kind of message of the layout, none of it hidden behind computation.

    local: number of parameters on each device.
    """
    c, layout, tokens, item = step.config, step.layout, step.tokens, step.item
    parts: dict[str, float | None] = {}
    node = device.per_node or 1
    blocks = c.depth / layout.pipeline

    def across(group: int) -> bool:
        """Whether neighbouring devices in groups of that size lie on more than one node."""
        return group > node or (layout.devices > node and node % group > 0)

    def send(name: str, size: float, between: bool, text: str) -> None:
        speed = device.network if between else device.link
        where = "between nodes" if between else "within a node"
        if speed is None:
            parts[name] = None
            why[name] = f"unknown: {text}, but no source gives {device.name}'s speed {where}"
            return
        parts[name] = size / (LINKS * speed)
        why[name] = f"{text} = {size / 1e9:.3g} GB at {LINKS:.0%} of {speed / 1e9:.3g} GB/s {where}"

    # Neighbours: tensor, then context, then a pipeline that a node holds, else replicas first.
    t, x, p = layout.tensor, layout.context, layout.pipeline
    inside = t * x if across(t * x * p) else t * x * p
    n, m = layout.shard, layout.micro_batches
    if n > 1:
        # Stage 1 adds gradients up at home and exchanges them once; stage 2 keeps a share only, so it
        # reduces and scatters those of every micro-batch; stage 3 gathers weights twice besides.
        times, reasons = {
            1: (2, "gradients scattered and weights gathered once"),
            2: (
                m + 1,
                f"gradients scattered after each of {m} micro-batches, weights gathered once",
            ),
            3: (
                3 * m,
                f"weights gathered twice, gradients scattered, for each of {m} micro-batches",
            ),
        }[layout.zero]
        size = times * 4.0 * local * (n - 1) / n
        text = f"{times} x 4 bytes x {local:,.0f} parameters x ({n} - 1) / {n} ({reasons})"
        send("gradients", size, across(inside * n), text)
    r = layout.replicate * x
    if r > 1:
        # Ranks of a context hold the same weights; each of a group that shares sends its part alone.
        size = 2 * 4.0 * local / n * (r - 1) / r
        text = f"2 x 4 bytes x {local / n:,.0f} parameters x ({r} - 1) / {r}, once a step"
        send(
            "replicas" if n > 1 else "gradients", size, across(inside * n * layout.replicate), text
        )
    if t > 1:
        number = (2 if c.block == "parallel" else 4) * blocks * m
        number *= 1.5 if layout.recompute else 1.0
        size = number * 2 * (t - 1) / t * tokens * c.width * item
        send(
            "tensor", size, across(t),
            f"{number:g} all-reduces x 2 x ({t} - 1) / {t} x {tokens} x {c.width} numbers x {item} bytes",
        )  # fmt: skip
    if x > 1:
        numbers = 2.0 * tokens * c.group_heads * c.head / t
        send(
            "context", 3 * numbers * item * (x - 1) * blocks * m, across(t * x),
            f"3 x {numbers:,.0f} keys and values x {item} bytes x ({x} - 1) steps around the ring "
            f"x {blocks:g} blocks x {m} micro-batches",
        )  # fmt: skip
    if p > 1:
        send(
            "pipeline", 2.0 * tokens * c.width * item * m, across(t * x * p),
            f"{m} micro-batches x 2 activations x {tokens} x {c.width} numbers x {item} bytes",
        )  # fmt: skip
    return parts
