"""Bytes of memory that a training step of a decoder holds on each device, counted tensor by tensor.

A step's memory has moments: the loss at the top of the forward pass, the backward pass at the last
block and at the first, the optimiser's update, and between steps an evaluation and the copies of a
checkpoint. The peak is the largest of the moments, and the parts that are given are those alive at that
moment, so they sum to it. What autograd saves of each operation is in `saved_tensors.py`.

This trainer keeps weights, gradients and both moments of Adam in fp32 and casts weights where they
are used. States are shared out as in ZeRO (Rajbhandari et al. 2020, section 3.1 and figure 1).
At stage 3 two blocks' weights are whole at a time, the one computed and the one fetched.
Left out: documents' masks outside the fused kernels, and the data loader.
"""

from dataclasses import dataclass
from typing import Literal

from maquette.nn.rules import Role
from maquette.scaling.saved_tensors import (
    hidden_parameters,
    saved_by_block,
    saved_by_norm,
    temporaries_of_block,
)
from maquette.scaling.training_step import TrainingStep

Kind = Literal["cpu", "cuda"]
CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}  # nn.loss.CHUNK_BYTES, which cannot be read without torch
FRAMEWORK = {"cpu": 79e6, "cuda": 600e6}  # libraries and their scratch; a CUDA context
COMPILER = 120e6  # modules of the compiler, and its kernels
TILE = (256, 1 << 22)  # rows, and bytes of the scores, of a tile of nn.tiled_attention
HOLES = {4: 1.3, 2: 0.6}  # of a block's temporaries that stay holes in the heap, by item size
COMPILED = 0.25  # of what autograd keeps of compiled blocks: holes again, beside those of attention's tiles
MARGIN = 0.05  # of what the allocator of an accelerator hands out and takes back at every step


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device at the fullest moment of a step."""

    moment: str
    """name of the fullest moment: forward, backward, update or evaluation"""
    parameters: float
    """bytes of the weights"""
    gradients: float
    """bytes of the gradients that are alive"""
    optimiser: float
    """bytes of Adam's two moments"""
    activations: float
    """bytes that autograd saves for the backward pass"""
    working: float
    """bytes of an operation while it runs: the loss's chunk, the temporaries of a block"""
    saving: float
    """bytes of the copies that a checkpoint is written from"""
    framework: float
    """bytes of libraries and their scratch memory"""
    margin: float
    """bytes that the allocator holds beside what is in use"""
    why: dict[str, str]
    """derivation of each part, by the part's name"""

    @property
    def total(self) -> float:
        """The sum of the parts: what a process grows by when it trains."""
        kept = self.parameters + self.gradients + self.optimiser + self.activations
        return kept + self.working + self.saving + self.framework + self.margin


def memory(
    step: TrainingStep,
    *,
    device: Kind = "cuda",
    saving: bool | None = None,
    evaluated: int = 0,
) -> Memory:
    """Memory of a step on the fullest device of its layout.

    saving: whether the copies of a checkpoint being written are counted (None: on a processor, whose
    memory they share). evaluated: number of held-out sequences scored at a time.
    """
    held = _states(step)
    saved = _saved(step)
    moments = [
        _forward(step, device, held, saved),
        _backward_at_last_block(step, device, held, saved),
        _backward_at_first_block(step, device, held, saved),
        _Moment("update", held.gradients, 0.0, 0.0, "nothing besides"),
    ]
    if evaluated:
        moments.append(_evaluation(step, device, evaluated))
    fullest = max(moments, key=lambda moment: moment.size)
    margin, why_margin = _margin(step, device, saved, fullest)
    if (device == "cpu") if saving is None else saving:
        copies, why_copies = _copies(device, held, margin)
    else:
        copies, why_copies = 0.0, "none"
    return Memory(
        fullest.name,
        held.parameters,
        fullest.gradients,
        held.optimiser,
        fullest.activations,
        fullest.working,
        copies,
        FRAMEWORK[device] + _compiler(step, device),
        margin,
        {
            "moment": f"{fullest.name}: the fullest of a step",
            **held.why,
            "activations": saved.why,
            "working": fullest.why,
            "framework": "libraries and scratch of the first step",
            "margin": why_margin,
            "saving": why_copies,
        },
    )


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


# Held through the whole step.


@dataclass(frozen=True)
class _States:
    """Weights, gradients and Adam's moments of one device."""

    local: float
    """number of parameters of the device's stage and part of the matrices"""
    parameters: float
    gradients: float
    optimiser: float
    why: dict[str, str]


def _states(step: TrainingStep) -> _States:
    c, layout = step.config, step.layout
    blocks, split = _blocks(step), layout.tensor
    roles = c.parameters_by_role()
    ends = roles[Role.INPUT] + roles[Role.OUTPUT]
    if layout.pipeline > 1:
        ends = max(roles[Role.INPUT], roles[Role.OUTPUT] or roles[Role.INPUT])
    local = roles[Role.HIDDEN] / c.depth * blocks / split + ends / split
    local += roles[Role.VECTOR] * blocks / c.depth
    weights, gradients, optimiser = states(local, layout.zero, layout.shard)
    shared = f", stage {layout.zero} over {layout.shard}" if layout.zero else ""
    part = f" of {c.parameters():,}" if local != c.parameters() else ""
    why = {
        "parameters": f"{local:,.0f}{part} parameters x 4 bytes (fp32)"
        f"{shared if layout.zero == 3 else ''}",
        "gradients": f"{local:,.0f} x 4 bytes (fp32){shared if layout.zero >= 2 else ''}",
        "optimiser": f"{local:,.0f} x 8 bytes (two fp32 moments of Adam){shared}",
    }
    if layout.zero >= 2 and layout.micro_batches > 1:
        why["gradients"] += (
            f", reduced and shared out after each of {layout.micro_batches} micro-batches"
        )
    return _States(local, weights, gradients, optimiser, why)


# Saved by the forward pass for the backward pass.


@dataclass(frozen=True)
class _Saved:
    """Bytes that autograd has saved when the loss is reached."""

    block: float
    """bytes of the block that saves most"""
    embedding: float
    """bytes of tokens, positions and the embedding's norm"""
    final_norm: float
    """bytes of the last norm"""
    total: float
    """bytes of all blocks, both ends, and the gradients that the loss has already computed"""
    why: str


def _saved(step: TrainingStep) -> _Saved:
    c, layout, item, tokens = step.config, step.layout, step.item, step.tokens
    n, blocks, flying = _stream(step), _blocks(step), _in_flight(step)
    layers = [
        saved_by_block(
            c, step.micro_batch, step.time_here, step.precision,
            layer=i, compiled=step.compiled, tensor=layout.tensor, casts=layout.zero < 3,
        )
        for i in range(min(2, c.depth))
    ]  # fmt: skip
    block = max(layers)
    if layout.recompute:
        kept = n * item * blocks * flying
        each = f"{blocks} blocks x {n * item:,.0f} bytes of input, recomputed from"
    else:
        kept = (layers[0] * (blocks - blocks // 2) + layers[-1] * (blocks // 2)) * flying
        each = f"{blocks} blocks x {block:,.0f} bytes that autograd keeps"
    rotary = 4.0 * step.time_here * c.turned if c.positions == "rotary" else 0.0
    learned = 8.0 * step.time_here if c.positions == "learned" else 0.0
    embedding = tokens * 8.0 + rotary + learned
    if c.embedding_norm:
        embedding += saved_by_norm(c, tokens, item, output=False)
    final_norm = saved_by_norm(c, tokens, item, output=False)
    top = n * item + 4.0 * c.vocabulary * c.width / layout.tensor
    pieces = f" x {flying} micro-batches under way" if flying > 1 else ""
    why = (
        f"{each} ({step.micro_batch} x {step.time_here} tokens, {step.precision}){pieces}, "
        f"and {embedding + final_norm + top:,.0f} of embedding, last norm and loss"
    )
    return _Saved(block, embedding, final_norm, kept + embedding + final_norm + top, why)


# The moments of a step.


@dataclass(frozen=True)
class _Moment:
    """Bytes that are alive at one moment of a step, beside weights and the optimiser's states."""

    name: str
    gradients: float
    activations: float
    working: float
    why: str
    """derivation of `working`"""

    @property
    def size(self) -> float:
        return self.gradients + self.activations + self.working


def _forward(step: TrainingStep, device: Kind, held: _States, saved: _Saved) -> _Moment:
    """The loss: everything is saved, and a chunk of logits is computed with its gradients."""
    c, item, split = step.config, step.item, step.layout.tensor
    rows = min(step.tokens, max(1, CHUNK[device] * split // (c.vocabulary * item)))
    logits = float(rows) * c.vocabulary / split
    chunk = logits * (2 * item if step.compiled else item + 17)
    cast = c.vocabulary * c.width * item / split if step.precision == "bf16" else 0.0
    loss = chunk + _stream(step) * item + cast + 16.0 * rows
    gathered, why_gathered = _gathered_weights(step)
    why = (
        f"the loss: {rows} rows of {c.vocabulary} logits at a time, "
        f"{chunk / max(1.0, logits):.0f} bytes each{why_gathered}"
    )
    return _Moment("forward", _summed_gradients(step, held), saved.total, loss + gathered, why)


def _backward_at_last_block(
    step: TrainingStep, device: Kind, held: _States, saved: _Saved
) -> _Moment:
    """The last norm and block: everything is still saved, and their temporaries come to it."""
    n, item = _stream(step), step.item
    norm = n * (14 if item == 2 else 12)
    if step.config.norm != "rmsnorm":
        norm = n * (6 if item == 2 else 4)
    inside = _temporaries(step, device)
    block = (saved.block - n * item + inside) if step.layout.recompute else inside
    working = max(norm, block - saved.final_norm - n * item)
    behind, why = _unshared(step)
    return _Moment("backward", _summed_gradients(step, held), saved.total, working + behind, why)


def _backward_at_first_block(
    step: TrainingStep, device: Kind, held: _States, saved: _Saved
) -> _Moment:
    """The first block: everything above has its gradients, and nothing else is saved."""
    c, layout = step.config, step.layout
    roles = c.parameters_by_role()
    done = 1 - (roles[Role.HIDDEN] / c.depth + roles[Role.INPUT]) / layout.tensor / held.local
    done = 1.0 if layout.micro_batches > 1 else max(0.0, done)
    activations, again = saved.embedding + saved.block, 0.0
    if layout.recompute:
        block_input = _stream(step) * step.item
        activations, again = saved.embedding + block_input, saved.block - block_input
    behind, why = _unshared(step)
    working = again + _temporaries(step, device) + behind
    return _Moment("backward", held.gradients * done, activations, working, why)


def _evaluation(step: TrainingStep, device: Kind, sequences: int) -> _Moment:
    """A forward pass without gradients: one block's widest point, or the loss's chunk."""
    c, item = step.config, step.item
    tokens = sequences * step.time
    n = float(tokens) * c.width
    matrices = 4 if c.activation == "swiglu" else 2
    block = 2 * n * item + matrices * float(tokens) * c.inner * item
    norm = n * (item + 12)
    rows = min(tokens, max(1, CHUNK[device] // (c.vocabulary * item)))
    loss = n * item + float(rows) * c.vocabulary * (item + 12)
    why = f"{sequences} held-out sequences at a time, no gradients"
    return _Moment("evaluation", 0.0, 0.0, max(block, norm, loss), why)


# Parts of the moments.


def _stream(step: TrainingStep) -> float:
    """Numbers of the residual stream of one pass: tokens x width."""
    return float(step.tokens) * step.config.width


def _blocks(step: TrainingStep) -> int:
    """Number of blocks on the fullest stage of the pipeline."""
    return -(-step.config.depth // step.layout.pipeline)


def _in_flight(step: TrainingStep) -> int:
    """Number of micro-batches whose activations the first stage holds: 1F1B, Narayanan et al. 2021,
    section 2.2."""
    return min(step.layout.micro_batches, step.layout.pipeline)


def _summed_gradients(step: TrainingStep, held: _States) -> float:
    """Bytes of the gradients of earlier micro-batches."""
    return held.gradients * (step.layout.micro_batches > 1)


def _temporaries(step: TrainingStep, device: Kind) -> float:
    """Bytes of gradients inside one block's backward pass."""
    c = step.config
    matrices = 2 if c.activation == "swiglu" else 1
    hidden = matrices * float(step.tokens) * c.inner * step.item / step.layout.tensor
    return _stream(step) * step.item + hidden + _tiles(step, device)


def _tiles(step: TrainingStep, device: Kind) -> float:
    """Bytes of the scores and probabilities of `nn.tiled_attention`, and of the gradients of both."""
    if not (step.compiled and device == "cpu"):
        return 0.0
    rows = step.config.heads / step.layout.tensor * min(TILE[0], step.time_here)
    sequence = rows * step.time * step.item  # at least one sequence is in a tile
    return 4 * max(sequence, min(float(TILE[1]), step.micro_batch * sequence))


def _gathered_weights(step: TrainingStep) -> tuple[float, str]:
    """Bytes of two blocks' whole weights at ZeRO's stage 3, and what is said of them."""
    if step.layout.zero < 3:
        return 0.0, ""
    block = _block_parameters(step)
    each = 6 if step.precision == "bf16" else 4  # fp32 as sent, and the cast that is multiplied
    gathered = 2.0 * each * block
    return gathered, (
        f", and {gathered:,.0f} bytes of gathered weights: 2 blocks x {block:,.0f} x "
        f"{each} bytes, freed after each block"
    )


def _unshared(step: TrainingStep) -> tuple[float, str]:
    """Bytes of whole weights and whole gradients of a block under ZeRO, and what a backward pass needs."""
    gathered, why_gathered = _gathered_weights(step)
    why = f"the temporaries of one block{', recomputed' * step.layout.recompute}{why_gathered}"
    if step.layout.zero < 2:
        return gathered, why
    gradients = 4.0 * _block_parameters(step)
    why += f", and {gradients:,.0f} of a block's gradients until they are shared out"
    return gathered + gradients, why


def _block_parameters(step: TrainingStep) -> float:
    """Number of parameters of one block's matrices on one device, not shared out."""
    return hidden_parameters(step.config) / step.config.depth / step.layout.tensor


# Beside the moments.


def _compiler(step: TrainingStep, device: Kind) -> float:
    """Bytes of torch's compiler where it has compiled the blocks."""
    return COMPILER if step.compiled and not step.kernels and device == "cpu" else 0.0


def _margin(step: TrainingStep, device: Kind, saved: _Saved, fullest: _Moment) -> tuple[float, str]:
    """Bytes that the allocator holds beside what is in use, and why."""
    if device == "cuda":
        margin = MARGIN * (fullest.activations + fullest.working + fullest.gradients)
        return margin, f"{MARGIN:.0%} of what is allocated anew at every step, for fragmentation"
    holes = temporaries_of_block(step.config, step.tokens, step.item, compiled=step.compiled)
    held = _blocks(step) * _in_flight(step)
    share = HOLES[2 if step.compiled else step.item]
    margin = share * holes * held
    if (
        step.layout.recompute
    ):  # blocks come and go: half the holes are filled, a block's room is not
        margin = margin / 2 + saved.block
    why = (
        f"{held} x {share:.0%} of {holes:,.0f} bytes of a block's temporaries: the C "
        f"library's allocator does not fill the holes they leave"
    )
    if step.compiled:
        more = COMPILED * saved.total + _tiles(step, device)
        margin += more
        why += f"; {more:,.0f} of what compiled blocks keep, {COMPILED:.0%}, and of tiles"
    return margin, why


def _copies(device: Kind, held: _States, margin: float) -> tuple[float, str]:
    """Bytes of the copies of weights and moments while a checkpoint is written, and why.

    They are made when a step's activations are gone, and lie in the holes that these have left.
    """
    why = "copies of weights and moments while a checkpoint is written"
    size = held.parameters + held.optimiser
    if device == "cpu":
        return max(0.0, size - margin), why + ", beyond what the margin's holes hold"
    return max(0.0, size), why
