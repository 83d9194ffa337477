"""Bytes of memory that a training step of a decoder holds on each device, counted tensor by tensor.

A step's memory has moments: the loss at the top of the forward pass, the backward pass at the last
block and at the first, the optimiser. The peak is the largest of them, and the parts that are
given are those alive at that moment, so they sum to it. What autograd keeps follows from what each
operation of `nn` saves (`saved_by_block`); a test holds it against torch's own hooks.

This trainer keeps weights, gradients and both moments of Adam in fp32 and casts weights where they
are used. States are shared out as in ZeRO (Rajbhandari et al. 2020, section 3.1 and figure 1).
At stage 3 two blocks' weights are whole at a time, the one computed and the one fetched.
Left out: documents' masks outside the fused kernels, and the data loader.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role, Scaling

if TYPE_CHECKING:
    from maquette.scaling.layouts import Layout

Precision = Literal["bf16", "fp32"]
ITEM = {"bf16": 2, "fp32": 4}
CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}  # nn.loss.CHUNK_BYTES, which cannot be read without torch
FRAMEWORK = {"cpu": 79e6, "cuda": 600e6}  # libraries and their scratch; a CUDA context
COMPILER = 120e6  # modules of the compiler, and its kernels
TILE = (128, 1 << 25)  # rows and most bytes of the scores of nn.tiled_attention
HOLES = {4: 1.3, 2: 0.6}  # of a block's temporaries that stay holes in the heap, by item size
COMPILED = 0.25  # of what autograd keeps of compiled blocks: holes again, beside those of attention's tiles
MARGIN = 0.05  # of what the allocator of an accelerator hands out and takes back at every step


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device at the fullest moment of a step."""

    moment: str
    """forward, backward, update or evaluation"""
    parameters: float
    gradients: float
    optimiser: float
    activations: float
    """what autograd keeps for the backward pass"""
    working: float
    """what an operation needs while it runs: the loss's chunk, the temporaries of a block"""
    saving: float
    """the copies that a checkpoint is written from"""
    framework: float
    margin: float
    why: dict[str, str]

    @property
    def total(self) -> float:
        """The sum of the parts: what a process grows by when it trains."""
        kept = self.parameters + self.gradients + self.optimiser + self.activations
        return kept + self.working + self.saving + self.framework + self.margin


def states(
    parameters: float,
    zero: int = 0,
    ranks: int = 1,
    each: tuple[float, float, float] = (4.0, 4.0, 8.0),
) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimiser on each of `ranks` data-parallel devices.

    zero: stage 1 shares the optimiser out, 2 the gradients too, 3 the weights too (Rajbhandari et
    al. 2020, figure 1). each: bytes a parameter; in fp32, as this trainer keeps them, 4 + 4 + 8.
    """
    shared = (ranks if zero >= 3 else 1, ranks if zero >= 2 else 1, ranks if zero >= 1 else 1)
    weights, gradients, optimiser = (parameters * b / r for b, r in zip(each, shared, strict=True))
    return weights, gradients, optimiser


def saved_by_norm(
    config: DecoderConfig, tokens: int, item: int, *, compiled: bool = False, output: bool = True
) -> float:
    """Bytes a norm keeps: its input, statistics, and what the next map reads (`output`)."""
    n = float(tokens) * config.width
    statistics = tokens * 4 * (1 if config.norm == "rmsnorm" else 2)
    if compiled:
        return n * item + statistics + n * item * output
    # In fp32 the input is the residual stream itself; in bf16 its fp32 copy.
    kept = 4 * n + (4 * n if config.norm == "rmsnorm" else 0)
    return kept + statistics + n * item * output


def saved_by_attention(
    config: DecoderConfig, sequences: int, time: int, item: int, layer: int, *, compiled: bool
) -> float:
    """Bytes attention keeps between its two maps: queries, keys, values, result, log-sum-exp."""
    c, tokens = config, sequences * time
    query, key = float(tokens * c.heads * c.head), float(tokens * c.group_heads * c.head)
    lse = 4.0 * tokens * c.heads
    if compiled:  # contiguous copies, and the result once more as the next map reads it
        return (2 * query + 2 * key + query) * item + lse
    grouped = c.group_heads != c.heads
    turned = c.positions == "rotary"
    kept = 3 * query if grouped else (2 * query if turned else 0.0)  # repeated, or turned
    if not grouped or not turned:
        kept += query + 2 * key  # views of the joint projection keep all of it
    if grouped and not turned:
        kept -= query
    mask = 0.0
    if c.window(layer) is not None or c.positions == "alibi":
        mask = float(time * time) * (c.heads if c.positions == "alibi" else 1)
    return (kept + query + mask) * item + lse


def saved_by_feedforward(config: DecoderConfig, tokens: int, item: int, *, compiled: bool) -> float:
    """Bytes the feed-forward layer keeps after its first map."""
    hidden = float(tokens) * config.inner * item
    if config.activation == "swiglu":
        return hidden * (3 if compiled else 4)  # gate and up, [silu,] their product
    return hidden if config.activation == "relu" and not compiled else 2 * hidden


def saved_by_block(
    config: DecoderConfig,
    sequences: int,
    time: int,
    precision: Precision,
    *,
    layer: int = 0,
    compiled: bool = False,
    tensor: int = 1,
    casts: bool = True,
) -> float:
    """Bytes that autograd keeps of one block's forward pass.

    tensor: over how many devices its maps are split; the norms' part is whole on each. casts: with
    the bf16 copies of its weights, which ZeRO's stage 3 frees after the block.
    """
    c, item = config, ITEM[precision]
    tokens = sequences * time
    norms = 1 if c.block == "parallel" else 2
    kept = norms * saved_by_norm(c, tokens, item, compiled=compiled)
    inner = saved_by_attention(c, sequences, time, item, layer, compiled=compiled)
    inner += saved_by_feedforward(c, tokens, item, compiled=compiled)
    cast = _hidden(c) / c.depth * item if precision == "bf16" and casts else 0.0
    if c.dropout:
        kept += norms * float(tokens) * c.width  # one byte each
    return kept + (inner + cast) / tensor


def temporaries_of_block(
    config: DecoderConfig, tokens: int, item: int, *, compiled: bool = False
) -> float:
    """Bytes that one block's forward pass allocates and frees again between what it keeps.

    In bf16 they are of two sizes, and what is kept fits into some of the holes: `HOLES` is the
    share that stayed open in runs of the trainer, those of benchmarks/plan.py among them.
    """
    c = config
    n = float(tokens) * c.width
    turned = float(tokens) * (c.heads + c.group_heads) * c.head * (c.positions == "rotary")
    branches = 1 if c.block == "parallel" else 2
    # What each branch adds, before and after its multiplier; in bf16 their sum is copied to fp32.
    freed = n * item * (2 + branches * residual_factor(c) + branches * (item == 2))
    if compiled:
        return freed
    norm = {("rmsnorm", 4): 4, ("rmsnorm", 2): 8, ("layernorm", 4): 0, ("layernorm", 2): 4}
    return freed + branches * norm[c.norm, item] * n + (16 if item == 4 else 22) * turned


def memory(
    config: DecoderConfig,
    micro_batch: int,
    time: int,
    precision: Precision,
    layout: "Layout",
    recompute: bool = False,
    *,
    compiled: bool = False,
    device: Literal["cpu", "cuda"] = "cuda",
    saving: bool | None = None,
    evaluated: int = 0,
) -> Memory:
    """Memory of a step on the fullest device of a layout.

    micro_batch: sequences a device computes at a time, of `time` tokens each. saving: count the
    copies of a checkpoint being written (None: on a processor, whose memory they share).
    evaluated: held-out sequences scored at a time.
    """
    c, item, why = config, ITEM[precision], {}
    t, p = layout.tensor, layout.pipeline
    time_here = -(-time // layout.context)
    tokens = micro_batch * time_here
    n = float(tokens) * c.width
    blocks = -(-c.depth // p)

    # Weights, gradients, moments.
    roles = c.parameters_by_role()
    ends = roles[Role.INPUT] + roles[Role.OUTPUT]
    if p > 1:
        ends = max(roles[Role.INPUT], roles[Role.OUTPUT] or roles[Role.INPUT])
    local = roles[Role.HIDDEN] / c.depth * blocks / t + ends / t
    local += roles[Role.VECTOR] * blocks / c.depth
    weights, gradients, moments = states(local, layout.zero, layout.shard)
    shared = f", stage {layout.zero} over {layout.shard}" if layout.zero else ""
    split = f" of {c.parameters():,}" if local != c.parameters() else ""
    why["parameters"] = (
        f"{local:,.0f}{split} parameters x 4 bytes (fp32){shared if layout.zero == 3 else ''}"
    )
    why["gradients"] = f"{local:,.0f} x 4 bytes (fp32){shared if layout.zero >= 2 else ''}"
    if layout.zero >= 2 and layout.micro_batches > 1:
        why["gradients"] += (
            f", reduced and shared out after each of {layout.micro_batches} micro-batches"
        )
    why["optimiser"] = f"{local:,.0f} x 8 bytes (two fp32 moments of Adam){shared}"

    # What autograd keeps.
    layers = [
        saved_by_block(
            c, micro_batch, time_here, precision,
            layer=i, compiled=compiled, tensor=t, casts=layout.zero < 3,
        )
        for i in range(min(2, c.depth))
    ]  # fmt: skip
    block = max(layers)
    flying = min(layout.micro_batches, p)  # 1F1B: Narayanan et al. 2021, section 2.2
    whole = (layers[0] * (blocks - blocks // 2) + layers[-1] * (blocks // 2)) * flying
    kept = n * item * blocks * flying if recompute else whole
    rotary = 4.0 * time_here * c.turned if c.positions == "rotary" else 0.0
    first = tokens * 8.0 + rotary + (8.0 * time_here if c.positions == "learned" else 0.0)
    if c.embedding_norm:
        first += saved_by_norm(c, tokens, item, output=False)
    final = saved_by_norm(c, tokens, item, output=False)
    top = n * item + 4.0 * c.vocabulary * c.width / t  # gradients the loss has already computed
    activations = kept + first + final + top
    each = (
        f"{blocks} blocks x {n * item:,.0f} bytes of input, recomputed from"
        if recompute
        else f"{blocks} blocks x {block:,.0f} bytes that autograd keeps"
    )
    pieces = f" x {flying} micro-batches under way" if flying > 1 else ""
    why["activations"] = (
        f"{each} ({micro_batch} x {time_here} tokens, {precision}){pieces}, "
        f"and {first + final + top:,.0f} of embedding, last norm and loss"
    )

    # What operations need while they run.
    rows = min(tokens, max(1, CHUNK[device] * t // (c.vocabulary * item)))
    logits = float(rows) * c.vocabulary / t
    chunk = logits * (2 * item if compiled else item + 17)
    cast_output = c.vocabulary * c.width * item / t if precision == "bf16" else 0.0
    loss = chunk + n * item + cast_output + 16.0 * rows
    of_one = _hidden(c) / c.depth / t
    each_gathered = 6 if precision == "bf16" else 4  # fp32 as sent, and the cast that is multiplied
    gathered = 2.0 * each_gathered * of_one if layout.zero == 3 else 0.0
    whole_gradients = 4.0 * of_one if layout.zero >= 2 else 0.0  # of a block, until shared out
    behind = gathered + whole_gradients
    maps = 2 if c.activation == "swiglu" else 1
    inside = n * item + maps * float(tokens) * c.inner * item / t
    tiles = 0.0
    if compiled and device == "cpu":  # scores, probabilities, and the gradients of both
        rows_of_tile = float(micro_batch) * c.heads / t * min(TILE[0], time_here) * time
        tiles = 4 * min(TILE[1], rows_of_tile * item)
    inside += tiles
    over = _norm_backward(c, n, item)
    of_block = (block - n * item + inside) if recompute else inside
    back_last = max(over, of_block - final - n * item)
    forward = _Moment(
        "forward", gradients * (layout.micro_batches > 1), activations, loss + gathered
    )
    backward = _Moment(
        "backward", gradients * (layout.micro_batches > 1), activations, back_last + behind
    )
    # At the first block everything above has its gradients, and nothing else is kept.
    done = 1 - (roles[Role.HIDDEN] / c.depth + roles[Role.INPUT]) / t / local
    done = 1.0 if layout.micro_batches > 1 else max(0.0, done)
    held_then = (first + n * item, block - n * item) if recompute else (first + block, 0.0)
    ending = _Moment("backward", gradients * done, held_then[0], held_then[1] + inside + behind)
    update = _Moment("update", gradients, 0.0, 0.0)
    moments_of_step = [forward, backward, ending, update]
    if evaluated:
        moments_of_step.append(_evaluation(c, evaluated, time, item, device, compiled=False))
    moment = max(moments_of_step, key=lambda m: m.size)
    what = {
        "forward": f"the loss: {rows} rows of {c.vocabulary} logits at a time, "
        f"{chunk / max(1.0, logits):.0f} bytes each",
        "backward": "the temporaries of one block" + (", recomputed" if recompute else ""),
        "update": "nothing besides",
        "evaluation": f"{evaluated} held-out sequences at a time, no gradients",
    }
    why["working"] = what[moment.name]
    if gathered and moment.name in ("forward", "backward"):
        why["working"] += (
            f", and {gathered:,.0f} bytes of gathered weights: 2 blocks x {of_one:,.0f} x "
            f"{each_gathered} bytes, freed after each block"
        )
    if whole_gradients and moment.name == "backward":
        why["working"] += (
            f", and {whole_gradients:,.0f} of a block's gradients until they are shared out"
        )
    why["framework"] = "libraries and scratch of the first step"
    if device == "cuda":
        margin = MARGIN * (moment.activations + moment.working + moment.gradients)
        why["margin"] = f"{MARGIN:.0%} of what is allocated anew at every step, for fragmentation"
    else:
        holes = temporaries_of_block(c, tokens, item, compiled=compiled)
        held = blocks * flying
        open_share = HOLES[2 if compiled else item]
        margin = open_share * holes * held
        if recompute:  # blocks come and go: half the holes are filled, a block's room is not
            margin = margin / 2 + block
        why["margin"] = (
            f"{held} x {open_share:.0%} of {holes:,.0f} bytes of a block's temporaries: the C "
            f"library's allocator does not fill the holes they leave"
        )
        if compiled:
            more = COMPILED * activations + tiles
            margin += more
            why["margin"] += (
                f"; {more:,.0f} of what compiled blocks keep, {COMPILED:.0%}, and of tiles"
            )
    # Copies are made when a step's activations are gone, and lie in the holes that these have left.
    copies = (device == "cpu") if saving is None else saving
    saved = max(0.0, weights + moments - (margin if device == "cpu" else 0.0)) if copies else 0.0
    why["saving"] = (
        "copies of weights and moments while a checkpoint is written"
        + (", beyond what the margin's holes hold" if device == "cpu" else "")
        if copies
        else "none"
    )
    return Memory(
        moment.name,
        weights,
        moment.gradients,
        moments,
        moment.activations,
        moment.working,
        saved,
        FRAMEWORK[device] + (COMPILER if compiled and device == "cpu" else 0.0),
        margin,
        {"moment": f"{moment.name}: the fullest of a step"} | why,
    )


@dataclass(frozen=True)
class _Moment:
    name: str
    gradients: float
    activations: float
    working: float

    @property
    def size(self) -> float:
        return self.gradients + self.activations + self.working


def _norm_backward(config: DecoderConfig, n: float, item: int) -> float:
    """Temporaries of the last norm's backward pass, beyond the gradient that comes in."""
    if config.norm == "rmsnorm":
        return n * (14 if item == 2 else 12)
    return n * (6 if item == 2 else 4)


def _evaluation(
    config: DecoderConfig, sequences: int, time: int, item: int, device: str, *, compiled: bool
) -> _Moment:
    """A forward pass without gradients: one block's widest point, or the loss's chunk."""
    c = config
    tokens = sequences * time
    n = float(tokens) * c.width
    maps = 4 if c.activation == "swiglu" else 2
    block = 2 * n * item + maps * float(tokens) * c.inner * item
    norm = n * (item + 12)
    rows = min(tokens, max(1, CHUNK[device] // (c.vocabulary * item)))
    loss = n * item + float(rows) * c.vocabulary * (item + 12)
    return _Moment("evaluation", 0.0, 0.0, max(block, norm, loss))


def residual_factor(config: DecoderConfig) -> bool:
    """Whether the branches are multiplied by a constant, which is one more operation."""
    return Scaling(config.parametrisation, config.width, config.depth).residual_multiplier != 1.0


def _hidden(config: DecoderConfig) -> float:
    return float(config.parameters_by_role()[Role.HIDDEN])
