"""The feed-forward layer of a block: GELU or ReLU (GPT) and SwiGLU (PaLM, LLaMA).

SwiGLU: Shazeer 2020, eq. 6. Quick GELU, x sigmoid(1.702 x): what CLIP was trained with.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn import native, native_operators
from maquette.nn.linear import Linear
from maquette.nn.rules import Activation

AnyActivation = Activation | Literal["quick_gelu"]


class FeedForward(nn.Module):
    """width -> hidden -> width; SwiGLU has a third matrix that gates the hidden layer."""

    def __init__(self, width: int, hidden: int, activation: AnyActivation, *, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        gated = activation == "swiglu"
        self.up = Linear(width, 2 * hidden if gated else hidden, bias=bias)  # gate first, then up
        self.down = Linear(hidden, width, bias=bias, residual=True)

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> (..., width)
        if self.activation in native_operators.ACTIVATIONS and native.usable(x):
            whole = self.activation == "swiglu" or bool(self.up._forward_hooks)  # adapters' hooks
            inner = self.up(x) if whole else self.up.product(x)
            bias = None if whole else self.up.bias
            return self.down(native_operators.activate(inner, bias, self.activation))  # type: ignore[no-any-return]
        return self.down(activate(self.up(x), self.activation))  # type: ignore[no-any-return]


def activate(h: Tensor, activation: AnyActivation) -> Tensor:
    """Apply the activation function; SwiGLU halves the last dimension."""
    if activation == "swiglu":
        gate, up = h.chunk(2, dim=-1)
        return F.silu(gate) * up
    if activation == "relu":
        return F.relu(h)
    if activation == "quick_gelu":
        return h * torch.sigmoid(1.702 * h)
    if activation == "gelu_tanh" and torch.compiler.is_compiling():
        x = h.float()  # the same function with one exponential, twice as fast as its tanh
        return (x * (1.5957691216057308 * (x + 0.044715 * x**3)).sigmoid()).to(h.dtype)
    return F.gelu(h, approximate="tanh" if activation == "gelu_tanh" else "none")
