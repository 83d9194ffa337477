"""Cross-entropy straight from hidden states, in chunks, so that the logits never exist whole.

At 50,000 tokens the logits of one step weigh more than every activation together. Here a chunk
of rows is projected, turned into its loss *and* its gradient in one compiled pass, multiplied
back, and dropped: the backward pass only scales what forward has computed. Where every row's likelihood
is wanted (preferences, policy gradients), the backward pass computes a chunk's logits again.

z-loss: weight * logsumexp^2 keeps the logits from drifting (Chowdhery et al. 2022, section 5).
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maquette.nn import native, native_rows
from maquette.nn.fused import fused

CHUNK_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28}  # logits alive at one time


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    multiplier: float = 1.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of softmax(multiplier * hidden weight^T + bias) at `targets`.

    hidden: (rows, width); weight: (vocabulary, width) in fp32; targets: (rows,), negative ones
    are ignored; bias: (vocabulary,). The products run in hidden's precision, the rest in fp32.
    Returns the loss with z-loss (differentiable) and the plain cross-entropy (not), both nats.
    """
    keep = torch.is_grad_enabled()
    total, entropy = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, multiplier, z_loss, keep
    )
    return total, entropy


def linear_log_likelihoods(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    multiplier: float = 1.0,
) -> Tensor:
    """The log-probability of each row's target, (rows,) in fp32, differentiable; 0 for a negative target.

    See `linear_cross_entropy` for the arguments.
    """

    def chunk(h: Tensor, t: Tensor) -> Tensor:
        x = (h @ weight.to(h.dtype).T).float() * multiplier  # (rows, vocabulary)
        if bias is not None:
            x = x + bias.float()
        chosen = x.gather(1, t.clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(t >= 0, chosen - torch.logsumexp(x, -1), 0.0)

    parts = zip(*(t.split(_chunk_rows(hidden, weight)) for t in (hidden, targets)), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([chunk(h, t) for h, t in parts])
    return torch.cat([checkpoint(chunk, h, t, use_reentrant=False) for h, t in parts])


def _chunk_rows(hidden: Tensor, weight: Tensor) -> int:
    """Number of rows whose logits are alive at one time."""
    size = CHUNK_BYTES.get(hidden.device.type, 1 << 26)
    return max(1, size // (weight.shape[0] * hidden.element_size()))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        multiplier: float,
        z_loss: float,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden) if keep else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if keep else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if keep and bias is not None else None
        total = torch.zeros((), device=hidden.device)
        entropy = torch.zeros((), device=hidden.device)
        rows = _chunk_rows(hidden, weight)
        for start in range(0, hidden.shape[0], rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = h @ cast.T  # (rows, vocabulary)
            if native.usable(logits):
                losses, entropies = native_rows.cross_entropy_(
                    logits, bias, t, multiplier, z_loss, keep
                )
                d_logits = logits
            elif not keep:
                losses, entropies = _losses(logits, bias, t, multiplier, z_loss)
            else:
                losses, entropies, d_logits = _losses_and_gradient(
                    logits, bias, t, multiplier, z_loss
                )
            if keep:
                assert d_hidden is not None and d_weight is not None
                torch.mm(d_logits, cast, out=d_hidden[start : start + rows])
                d_weight += d_logits.T @ h
                if d_bias is not None:
                    d_bias += d_logits.sum(0, dtype=torch.float32)
            total += losses.sum()
            entropy += entropies.sum()
        if d_hidden is not None and d_weight is not None:
            if d_bias is not None:
                d_bias /= multiplier  # d_logits carries the multiplier of the product
            ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        d_bias = None if d_bias is None else d_bias * d_total
        d_total_hidden = d_total.to(d_hidden.dtype)
        return d_hidden * d_total_hidden, d_weight * d_total, d_bias, None, None, None, None


def _log_partition(
    logits: Tensor, bias: Tensor | None, targets: Tensor, multiplier: float, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = logits.float() * multiplier
    if bias is not None:
        x = x + bias.float()
    lse = torch.logsumexp(x, dim=-1)
    counted = targets >= 0
    entropy = lse - x.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    entropy = torch.where(counted, entropy, 0.0)
    return x, lse, entropy, counted


@fused
def _losses(
    logits: Tensor, bias: Tensor | None, targets: Tensor, multiplier: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    _, lse, entropy, counted = _log_partition(logits, bias, targets, multiplier, z_loss)
    return entropy + torch.where(counted, z_loss * lse * lse, 0.0), entropy


@fused
def _losses_and_gradient(
    logits: Tensor, bias: Tensor | None, targets: Tensor, multiplier: float, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    x, lse, entropy, counted = _log_partition(logits, bias, targets, multiplier, z_loss)
    loss = entropy + torch.where(counted, z_loss * lse * lse, 0.0)
    p = torch.exp(x - lse.unsqueeze(1)) * (1 + 2 * z_loss * lse).unsqueeze(1)
    hit = torch.arange(x.shape[1], device=x.device) == targets.unsqueeze(1)
    gradient = torch.where(counted.unsqueeze(1), p - hit.float(), 0.0) * multiplier
    return loss, entropy, gradient.to(logits.dtype)
