"""Masked attention on a GPU without a dense mask: torch's FlexAttention (Dong et al. 2024).

The rule of a `Mask` and ALiBi's slopes are compiled into a fused kernel; blocks of 128 x 128 pairs that
a mask rules out are skipped. What is fastest for a plain causal mask, torch's own fused kernel, stays.
A kernel is compiled for it, so it is used where a run compiles (`fused.compiling`), and only after it
has computed a small case as the dense mask does. Left out: learned biases, and decoding.
"""

import dataclasses
import functools
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.nn import fused
from maquette.nn.mask import Mask

BLOCK = 128  # queries, and keys, of a block


def prepared(
    mask: Mask,
    batch: int,
    time: int,
    device: torch.device,
    slopes: bool,
    heads: tuple[int, int, int],
) -> Mask:
    """The mask with its `BlockMask`, where FlexAttention is to be used; otherwise the mask as it is.

    One call serves all layers with that mask. slopes: whether ALiBi is added to the scores.
    heads: heads, kv_heads and head_dim of the layers.
    """
    plain = mask.only_causal and not slopes
    if plain or device.type != "cuda" or not fused.compiling() or time < BLOCK:
        return mask
    return with_blocks(mask, batch, time, device, True) if works(*heads, device) else mask


def with_blocks(mask: Mask, batch: int, time: int, device: torch.device, compiled: bool) -> Mask:
    """The mask with its `BlockMask` for `time` queries and keys.

    compiled: find the blocks without ever holding the dense matrix.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def allows(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.allows(row, query, key, 0)

    by_row = any(t is not None for t in (mask.document_ids, mask.attention_mask, mask.pair_mask))
    blocks = create_block_mask(
        allows, batch if by_row else None, None, time, time, device=str(device), _compile=compiled
    )
    return dataclasses.replace(mask, block_mask=blocks)


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, slopes: Tensor | None
) -> Tensor:
    """Attention under a prepared mask; see `attention.attend`, which calls it."""
    from torch.nn.attention import flex_attention as flex

    def add_alibi(
        score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor
    ) -> Tensor:  # Press et al. 2022, section 3
        assert slopes is not None
        return score + slopes[head] * (key - query)

    kernel = flex.flex_attention
    if q.device.type == "cuda" and not torch.compiler.is_compiling():
        kernel = _compiled()
    return kernel(
        q,
        k,
        v,
        score_mod=None if slopes is None else add_alibi,
        block_mask=mask.block_mask,
        scale=scale,
        enable_gqa=k.shape[1] != q.shape[1],
    )


@functools.cache
def _compiled():  # type: ignore[no-untyped-def]
    from torch.nn.attention import flex_attention as flex

    return torch.compile(flex.flex_attention, dynamic=False)


@functools.cache
def works(heads: int, kv_heads: int, head_dim: int, device: torch.device) -> bool:
    """Whether the compiled kernel computes a small case, and its gradient, as the dense mask does.

    Tried once for each shape of a head; where it fails, a warning says why and the dense mask stays.
    """
    try:
        error = _error(heads, kv_heads, head_dim, device)
    except Exception as problem:  # whatever a compiler or its kernel can do wrong
        reason = str(problem).strip().splitlines()[:1] or [type(problem).__name__]
        warnings.warn(f"FlexAttention failed, going on with dense masks: {reason[0]}", stacklevel=2)
        return False
    if error > 0.05:
        warnings.warn(
            f"FlexAttention is off by {error:.2g}, going on with dense masks", stacklevel=2
        )
    return error <= 0.05


def _error(heads: int, kv_heads: int, head_dim: int, device: torch.device) -> float:
    """The largest difference of FlexAttention's result and gradients from those of a dense mask."""
    time = 2 * BLOCK
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.arange(time, device=device).div(100, rounding_mode="floor")[None]
    mask = with_blocks(Mask(causal=True, document_ids=ids), 1, time, device, True)
    q, k, v = (
        torch.randn(1, h, time, head_dim, device=device, generator=generator).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )
    actual = flex_attention(q, k, v, mask, scale=head_dim**-0.5, slopes=None)
    keys, values = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
    dense = mask.dense(1, time, time, device)
    expected = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=dense, scale=head_dim**-0.5
    )
    pairs = [(actual, expected)]
    pairs += zip(
        *(torch.autograd.grad(y.sum(), (q, k, v)) for y in (actual, expected)), strict=True
    )
    return max(float((a - b).abs().max()) for a, b in pairs)
