"""The row kernels that work in place, called where backward passes are written by hand."""

import ctypes

import torch
from torch import Tensor

from maquette.nn.native import call


class Tile(ctypes.Structure):
    """A tile of scores (batch, heads, rows, keys): where it stands and what its rows may attend to."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in
          ("batch", "heads", "rows", "keys", "first_row", "first_key", "window", "time")),
        ("scale", ctypes.c_float),
        ("slopes", ctypes.c_void_p),
        ("document_ids", ctypes.c_void_p),
    )  # fmt: skip


def make_tile(
    scores: Tensor,
    first_row: int,
    first_key: int,
    window: int,
    scale: float,
    slopes: Tensor | None,
    document_ids: Tensor | None,
) -> Tile:
    """scores: (batch, heads, rows, keys). slopes: (heads,) fp32. document_ids: (batch, time) int32.

    first_row, first_key: positions of the tile's first row and key. window: 0 for all keys before. The
    tensors must live, and be contiguous, as long as the tile is used.
    """
    batch, heads, rows, keys = scores.shape
    assert slopes is None or (slopes.dtype, slopes.shape) == (torch.float32, (heads,))
    assert document_ids is None or (document_ids.dtype, len(document_ids)) == (torch.int32, batch)
    time = 0 if document_ids is None else document_ids.shape[1]
    return Tile(
        batch, heads, rows, keys, first_row, first_key, window, time, scale,
        None if slopes is None else slopes.data_ptr(),
        None if document_ids is None else document_ids.data_ptr(),
    )  # fmt: skip


def softmax_(scores: Tensor, tile: Tile) -> Tensor:
    """Turn scores into probabilities in place; returns the log-sum-exp, (batch, heads, rows) fp32."""
    logsumexp = torch.empty(scores.shape[:3], dtype=torch.float32)
    call("softmax", scores.dtype, ctypes.byref(tile), scores, logsumexp)
    return logsumexp


def softmax_backward_(
    scores: Tensor, d_probabilities: Tensor, logsumexp: Tensor, delta: Tensor, tile: Tile
) -> None:
    """Turn scores into probabilities, and their gradient into the scores', both in place.

    logsumexp, delta: (batch, heads, rows) fp32, contiguous; delta: the sum of d_out * out.
    """
    tensors = (scores, d_probabilities, logsumexp, delta)
    call("softmax_backward", scores.dtype, ctypes.byref(tile), *tensors)


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Sums of a * b over the last dimension, fp32."""
    a, b = a.contiguous(), b.contiguous()
    sums = torch.empty(a.shape[:-1], dtype=torch.float32)
    call("row_products", a.dtype, sums.numel(), a.shape[-1], a, b, sums)
    return sums


def cross_entropy_(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    multiplier: float,
    z_loss: float,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Losses with z-loss and plain, (rows,) fp32; see `loss.linear_cross_entropy`.

    logits: (rows, vocabulary), contiguous; their gradient takes their place where it is wanted.
    """
    if len(targets) and int(targets.max()) >= logits.shape[1]:
        raise IndexError(f"target {int(targets.max())} of {logits.shape[1]} logits")
    loss, entropy = torch.empty(2, len(logits)).unbind(0)
    bias, targets = None if bias is None else bias.float().contiguous(), targets.contiguous()
    call(
        "cross_entropy", logits.dtype, *logits.shape, logits, bias, targets,
        float(multiplier), float(z_loss), int(gradient), loss, entropy,
    )  # fmt: skip
    return loss, entropy
