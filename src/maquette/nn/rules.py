"""Maximal-update parametrisation: hyper-parameters tuned on a small model hold for a large one.

Every module declares the *role* of its parameters; from roles, and from how much wider and
deeper the model is than the base it was tuned at, follow the initialisation, the learning
rate, the weight decay and the forward multiplier of each tensor. With m = width / base width
and l = depth / base depth:

    role      dimensions that grow   init std          Adam rate   decay   forward
    input     width out              embedding_std     1           1       input_multiplier
    hidden    width in and out       gain / sqrt(in)   1 / m       m       1
    output    width in               gain / sqrt(base) 1           1       output_multiplier / m
    vector    width                  0 or 1            1           0       1

    attention logits  q k sqrt(base head) / head       residual branch  l ** -depth_exponent
    hidden rate       times l ** (depth_exponent - 1)  tied output      the input's start and rate

Sources: Yang et al. 2022, "Tensor Programs V", table 8; Dey et al. 2025, "CompleteP", table 1
(depth, and decay scaled by m so that rate x decay keeps its strength). "standard" is GPT-2's:
std 0.02 everywhere, 1/sqrt(2 depth) less where a branch writes into the residual stream, every
multiplier 1. Tests hold rates, decays, starts and three steps of training against the package `mup`,
which decays vectors, too. Left out: SGD's rules; transfer in batch size and length, which theory does
not give; starting the output or the queries at 0; and two lines of CompleteP, Adam's epsilon over m l (the
default is small instead) and, for other exponents than 1, the factor of the hidden rate on the vectors
inside blocks.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

from maquette.base.errors import within

Activation = Literal["gelu", "gelu_tanh", "relu", "swiglu"]


class Role(StrEnum):
    """Role of a parameter: which of its dimensions grow with the width."""

    INPUT = "input"
    HIDDEN = "hidden"
    OUTPUT = "output"
    VECTOR = "vector"


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """Rules by which start and learning rates scale with the model; a field of the model's config."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["mup", "standard"] = "mup"
    """mup: maximal-update rules; standard: one learning rate for all"""
    base_width: int = 256
    """width at which the hyper-parameters were tuned"""
    base_depth: int = 4
    """depth at which the hyper-parameters were tuned"""
    base_head_dim: int = 64
    """head size at which attention is scaled by 1/sqrt(head size)"""
    depth_exponent: float = 1.0
    """exponent a of the depth rules: branches are multiplied by l^-a, hidden rates by l^(a - 1);
    l = depth / base_depth"""
    gain: float = 1.0
    """gain of hidden matrices, which start with standard deviation gain / sqrt(fan in)"""
    embedding_std: float = 0.1
    """initial standard deviation of the embeddings"""
    input_multiplier: float = 1.0
    """factor of the embeddings"""
    output_multiplier: float = 1.0
    """factor of the logits, over width / base_width"""

    def __post_init__(self) -> None:
        within(self, 1, float("inf"), "base_width", "base_depth", "base_head_dim")
        within(self, 0, float("inf"), "gain", "embedding_std")
        within(self, 0, float("inf"), "input_multiplier", "output_multiplier", "depth_exponent")


@dataclass(frozen=True)
class Multipliers:
    """Initial standard deviation, learning-rate factor and weight-decay factor of one tensor."""

    std: float
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Scaling:
    """A parametrisation applied to one model's width and depth."""

    rules: Parametrisation
    width: int
    depth: int

    @property
    def mup(self) -> bool:
        return self.rules.kind == "mup"

    @property
    def width_ratio(self) -> float:
        return self.width / self.rules.base_width if self.mup else 1.0

    @property
    def depth_ratio(self) -> float:
        return self.depth / self.rules.base_depth if self.mup else 1.0

    @property
    def input_multiplier(self) -> float:
        return self.rules.input_multiplier if self.mup else 1.0

    @property
    def output_multiplier(self) -> float:
        return self.rules.output_multiplier / self.width_ratio if self.mup else 1.0

    @property
    def residual_multiplier(self) -> float:
        return float(self.depth_ratio**-self.rules.depth_exponent)

    def attention_scale(self, head_dim: int) -> float:
        """Factor of q k: 1/sqrt(head_dim) at base_head_dim, falling as 1/head_dim."""
        if self.mup:
            return math.sqrt(self.rules.base_head_dim) / head_dim
        return 1 / math.sqrt(head_dim)

    def multipliers(self, role: Role, fan_in: int, residual: bool = False) -> Multipliers:
        """The multipliers of one tensor, by the table in this file's docstring."""
        rules = self.rules
        if role == Role.VECTOR:
            return Multipliers(0.0, 1.0, 0.0)
        if not self.mup:
            std = 0.02 / math.sqrt(2 * self.depth) if residual else 0.02
            return Multipliers(std, 1.0, 1.0)
        if role == Role.INPUT:
            return Multipliers(rules.embedding_std, 1.0, 1.0)
        if role == Role.OUTPUT:
            return Multipliers(rules.gain / math.sqrt(rules.base_width), 1.0, 1.0)
        rate = self.depth_ratio ** (rules.depth_exponent - 1) / self.width_ratio
        return Multipliers(rules.gain / math.sqrt(fan_in), rate, self.width_ratio)
