"""Position encodings: rotary embeddings and ALiBi (learned positions are an `Embedding`).

Rotary: Su et al. 2021, eq. 34. Its pairs are (i, i + d/2) in LLaMA and PaLM ("half") and
(2i, 2i + 1) in GPT-J ("interleaved"): the same rotation under a permutation of the weights.
ALiBi: Press et al. 2022, section 3.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from maquette.nn import native, native_operators


def rotary_table(positions: Tensor, dims: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles at `positions` (..., time): two of (..., time, dims / 2)."""
    frequency = base ** (-torch.arange(0, dims, 2, device=positions.device).float() / dims)
    angle = positions.float().unsqueeze(-1) * frequency
    return angle.cos(), angle.sin()


def rotate(
    x: Tensor, cosine: Tensor, sine: Tensor, pairs: Literal["half", "interleaved"]
) -> Tensor:
    """Rotate the first dimensions of every head by the angles of its position.

    x: (batch, time, heads, head_dim); cosine, sine: (time, dims / 2) or (batch, time, dims / 2).
    """
    if native.usable(x):
        return native_operators.rotate(x, cosine, sine, pairs == "interleaved")
    dims = 2 * cosine.shape[-1]
    cosine, sine = cosine.unsqueeze(-2), sine.unsqueeze(-2)  # (..., time, 1, dims / 2)
    turned, rest = x[..., :dims].float(), x[..., dims:]
    if pairs == "half":
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
    else:
        a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), rest), dim=-1)


def alibi_slopes(heads: int) -> list[float]:
    """One slope per head: 2^(-8/n), 2^(-16/n), ... for n heads, n a power of two.

    Other counts take the slopes of the power of two below and every second one of the power of
    two above, as the authors' code and BLOOM do.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    extra = [2 ** (-4 * (2 * i + 1) / below) for i in range(heads - below)]
    return slopes + extra
