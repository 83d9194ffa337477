"""The shape of a decoder: its settings, and what they cost, without torch and without a model.

The counts are sums over the matrices that `decoder.py` makes; a test holds them against the model.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.architecture import Architecture
from maquette.nn.rules import Activation, Parametrisation, Role


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Architecture):
    """The shape of a decoder."""

    model_class: ClassVar[str] = "maquette.models.decoder.Decoder"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["decoder"] = "decoder"
    """kind of the architecture"""
    vocabulary: int = 4096
    """number of tokens, the EOS token included"""
    context: int = 256
    """longest sequence in tokens"""
    width: int = 256
    """width of the residual stream"""
    depth: int = 4
    """number of blocks"""
    heads: int = 4
    """number of query heads"""
    kv_heads: int | None = None
    """number of key-value heads; None: as many as heads, 1: multi-query, between: grouped-query attention"""
    head_dim: int | None = None
    """dimensions of a head; None: width / heads"""
    hidden: int | None = None
    """width of the feed-forward layer; None: 4 width (SwiGLU: 8/3 width, rounded up to a multiple of 32)"""
    activation: Activation = "swiglu"
    """activation function of the feed-forward layer"""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """kind of normalisation"""
    norm_epsilon: float = 1e-5
    """epsilon of the normalisation"""
    positions: Literal["learned", "rotary", "alibi", "none"] = "rotary"
    """position encoding"""
    rotary_dims: int | None = None
    """dimensions of each head with rotary positions; None: all"""
    rotary_base: float = 10000.0
    """base of the rotary frequencies (theta)"""
    rotary_pairs: Literal["half", "interleaved"] = "half"
    """pairs of rotated dimensions: half (i, i + d/2), interleaved (2i, 2i + 1)"""
    block: Literal["serial", "parallel"] = "serial"
    """serial: attention, then feed-forward; parallel: both from one norm"""
    norm_bias: bool = False
    """whether LayerNorm has a bias"""
    attention_bias: bool = False
    """whether the four attention projections have biases"""
    feedforward_bias: bool = False
    """whether the feed-forward projections have biases"""
    output_bias: bool = False
    """whether the logits have a bias"""
    embedding_norm: bool = False
    """whether the embedding is normalised (BLOOM)"""
    tied: bool = False
    """whether the output matrix is the embedding"""
    band: int | None = None
    """attention window of every second block in tokens (GPT-3); None: full attention everywhere"""
    dropout: float = 0.0
    """dropout rate of the embedding and of each branch's output"""
    parametrisation: Parametrisation = field(default_factory=Parametrisation)
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        sizes = (
            "vocabulary",
            "context",
            "width",
            "depth",
            "heads",
            "kv_heads",
            "head_dim",
            "hidden",
        )
        within(self, 1, float("inf"), *sizes, "band", "rotary_dims", "rotary_base")
        within(self, 0, 1, "norm_epsilon")
        if self.head_dim is None and self.width % self.heads:
            heads = max(h for h in range(1, self.heads + 1) if self.width % h == 0)
            width = -(-self.width // self.heads) * self.heads
            raise WrongUse(
                f"width {self.width} is not divisible by heads {self.heads}: "
                f"use heads {heads} or width {width}"
            )
        if self.heads % self.group_heads:
            raise WrongUse(
                f"heads {self.heads} is not divisible by kv_heads {self.group_heads}: "
                f"every key-value head serves equally many query heads"
            )
        if self.positions == "rotary" and (self.turned % 2 or self.turned > self.head):
            raise WrongUse(
                f"rotary_dims {self.turned} does not fit a head of {self.head}: "
                f"use an even number up to {self.head - self.head % 2}"
            )
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"dropout is {self.dropout}: use 0 to below 1")

    @property
    def head(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def group_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def turned(self) -> int:
        return self.rotary_dims or self.head

    @property
    def inner(self) -> int:
        if self.hidden is not None:
            return self.hidden
        return 4 * self.width if self.activation != "swiglu" else -(-8 * self.width // 96) * 32

    def window(self, layer: int) -> int | None:
        """Attention window of a block, None for full attention: GPT-3 alternates both."""
        return self.band if layer % 2 else None

    def check_sequence(self, length: int) -> None:
        """Raise WrongUse where the model cannot learn from sequences of `length` tokens: any will do."""

    def parameters_by_role(self) -> dict[str, int]:
        """Number of parameters of each role; they sum to `parameters`."""
        c, w = self, self.width
        projected = c.heads * c.head + 2 * c.group_heads * c.head  # queries, keys, values
        attention = w * projected + c.heads * c.head * w
        matrices = 3 if c.activation == "swiglu" else 2
        norm = w * (1 + (c.norm_bias and c.norm == "layernorm"))
        norms = c.depth * (1 if c.block == "parallel" else 2) + 1 + c.embedding_norm
        biases = c.depth * c.attention_bias * (projected + w)
        biases += c.depth * c.feedforward_bias * ((matrices - 1) * c.inner + w)
        return {
            Role.INPUT: c.vocabulary * w + c.context * w * (c.positions == "learned"),
            Role.HIDDEN: c.depth * (attention + matrices * w * c.inner),
            Role.OUTPUT: 0 if c.tied else c.vocabulary * w,
            Role.VECTOR: norms * norm + biases + c.vocabulary * c.output_bias,
        }

    def parameters(self) -> int:
        """Number of parameters, a tied matrix counted once."""
        return sum(self.parameters_by_role().values())

    def flops_per_token(self, time: int) -> float:
        """Operations of a training step a token: 6 per matrix parameter, and attention.

        Attention counts all `time` keys, as if it were not causal (the convention of Chowdhery et
        al. 2022, appendix B), or the window's; forward is a third. A look-up is no operation.
        """
        matrices = self.parameters_by_role()[Role.HIDDEN] + self.vocabulary * self.width
        seen = sum(min(time, self.window(layer) or time) for layer in range(self.depth))
        return 6.0 * matrices + 12.0 * self.heads * self.head * seen

    def kv_bytes_per_token(self, itemsize: int = 2) -> int:
        """Bytes of the key-value cache per token, at `itemsize` bytes a number."""
        return 2 * self.depth * self.group_heads * self.head * itemsize
