"""Bytes that autograd saves of a decoder's forward pass, operation by operation.

What autograd saves follows from what each operation of `nn` needs for its backward pass; a test holds
`saved_by_block` against torch's own hooks.
"""

from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role, Scaling
from maquette.scaling.training_step import ITEM, Precision


def saved_by_norm(
    config: DecoderConfig, tokens: int, item: int, *, compiled: bool = False, output: bool = True
) -> float:
    """Bytes a norm keeps: its input, statistics, and what the next layer reads (`output`)."""
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
    """Bytes attention keeps between its two projections: queries, keys, values, result, log-sum-exp."""
    c, tokens = config, sequences * time
    query, key = float(tokens * c.heads * c.head), float(tokens * c.group_heads * c.head)
    lse = 4.0 * tokens * c.heads
    if compiled:  # contiguous copies, and the result once more as the next layer reads it
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
    """Bytes the feed-forward layer keeps after its first projection."""
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

    tensor: over how many devices its matrices are split; the norms' part is whole on each. casts: with
    the bf16 copies of its weights, which ZeRO's stage 3 frees after the block.
    """
    c, item = config, ITEM[precision]
    tokens = sequences * time
    norms = 1 if c.block == "parallel" else 2
    kept = norms * saved_by_norm(c, tokens, item, compiled=compiled)
    inner = saved_by_attention(c, sequences, time, item, layer, compiled=compiled)
    inner += saved_by_feedforward(c, tokens, item, compiled=compiled)
    cast = hidden_parameters(c) / c.depth * item if precision == "bf16" and casts else 0.0
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
    freed = n * item * (2 + branches * has_residual_multiplier(c) + branches * (item == 2))
    if compiled:
        return freed
    norm = {("rmsnorm", 4): 4, ("rmsnorm", 2): 8, ("layernorm", 4): 0, ("layernorm", 2): 4}
    return freed + branches * norm[c.norm, item] * n + (16 if item == 4 else 22) * turned


def has_residual_multiplier(config: DecoderConfig) -> bool:
    """Whether the branches are multiplied by a constant, which is one more operation."""
    return Scaling(config.parametrisation, config.width, config.depth).residual_multiplier != 1.0


def hidden_parameters(config: DecoderConfig) -> float:
    """Number of parameters of all blocks' matrices."""
    return float(config.parameters_by_role()[Role.HIDDEN])
