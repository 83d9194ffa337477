"""The shape of a sparse all-MLP: its settings, and what they cost, without torch and without a model."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.architecture import Architecture
from maquette.nn.rules import Parametrisation, Role


@dataclass(frozen=True, kw_only=True)
class SMLPConfig(Architecture):
    """The shape of a sparse all-MLP (Yu et al. 2022)."""

    model_class: ClassVar[str] = "maquette.models.smlp.SMLP"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["smlp"] = "smlp"
    """kind of the architecture"""
    vocabulary: int = 4096
    """number of tokens, the EOS token included"""
    context: int = 256
    """longest sequence in tokens, and the size of the mixing matrices"""
    width: int = 256
    """width of the residual stream"""
    dense: int = 2
    """number of dense blocks (gMLP), which come first"""
    sparse: int = 2
    """number of sparse blocks, which come last: mixing by experts, then feed-forward experts"""
    hidden: int | None = None
    """width of the spatial gating layer, one half of which gates the other; None: 4 width"""
    expert_hidden: int | None = None
    """width of a feed-forward expert; None: 4 width"""
    feature_experts: int = 4
    """number of mixing matrices, and of chunks of the features, in a sparse block"""
    token_experts: int = 4
    """number of feed-forward experts in a sparse block; each token goes through one"""
    routing: Literal["deterministic", "partial", "naive"] = "deterministic"
    """deterministic: chunk i to matrix i; partial: by a gate that sees the prefix; naive: by a gate that
    sees the future (a control)"""
    prefix: float = 0.2
    """partial: fraction of the context that the gate sees, and that the loss does not count"""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """kind of normalisation"""
    norm_epsilon: float = 1e-5
    """epsilon of the normalisation"""
    mixing_multiplier: float = 256.0
    """factor of the mixing, over context; sets how fast the mixing matrices learn"""
    tied: bool = False
    """whether the output matrix is the embedding"""
    dropout: float = 0.0
    """dropout rate of the embedding and of each branch's output"""
    parametrisation: Parametrisation = field(default_factory=Parametrisation)
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        sizes = ("vocabulary", "context", "width", "hidden", "expert_hidden")
        within(self, 1, float("inf"), *sizes, "feature_experts", "token_experts")
        within(self, 0, float("inf"), "dense", "sparse", "mixing_multiplier")
        within(self, 0, 1, "norm_epsilon")
        if self.depth < 1:
            raise WrongUse("dense and sparse are both 0: a model has at least one block")
        chunks = 2 * self.feature_experts
        if self.inner % chunks:
            raise WrongUse(
                f"hidden {self.inner} is not divisible by 2 x feature_experts "
                f"{self.feature_experts}: use hidden {-(-self.inner // chunks) * chunks}"
            )
        if not 0 < self.prefix < 1:
            raise WrongUse(f"prefix is {self.prefix}: use a share between 0 and 1, such as 0.2")
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"dropout is {self.dropout}: use 0 to below 1")

    @property
    def depth(self) -> int:
        """Number of blocks, dense and sparse."""
        return self.dense + self.sparse

    @property
    def inner(self) -> int:
        return self.hidden or 4 * self.width

    @property
    def expert_inner(self) -> int:
        return self.expert_hidden or 4 * self.width

    @property
    def unpredicted(self) -> int:
        """Number of a document's first positions whose targets the loss does not count."""
        return max(1, int(self.prefix * self.context)) if self.routing == "partial" else 0

    def check_sequence(self, length: int) -> None:
        """Raise WrongUse where a sequence of `length` tokens has no target that counts."""
        if length < self.unpredicted:
            raise WrongUse(
                f"partial routing predicts from position {self.unpredicted} on, but a sequence has "
                f"{length}: use a longer data.sequence, a lower model.prefix, or deterministic routing"
            )

    def parameters_by_role(self) -> dict[str, int]:
        """Number of parameters of each role; they sum to `parameters`."""
        c, w, half = self, self.width, self.inner // 2
        experts = c.sparse * c.token_experts * 2 * w * c.expert_inner
        norms = c.dense * (w + half) + c.sparse * (2 * w + half) + w
        mixing = (c.dense + c.sparse * c.feature_experts) * c.context * (c.context + 1)
        return {
            Role.INPUT: c.vocabulary * w,
            Role.HIDDEN: c.depth * (w * c.inner + half * w) + experts,
            Role.OUTPUT: (0 if c.tied else c.vocabulary * w) + self._gates(),
            Role.VECTOR: norms + mixing,
        }

    def parameters(self) -> int:
        """Number of parameters, each expert and a tied matrix counted once."""
        return sum(self.parameters_by_role().values())

    def active_parameters(self) -> int:
        """Number of parameters that take part in one token: one feed-forward expert, and all others.

        The mixing matrices all take part, each in its chunk of the features.
        """
        unused = self.sparse * (self.token_experts - 1) * 2 * self.width * self.expert_inner
        return self.parameters() - unused

    def flops_per_token(self, time: int) -> float:
        """Operations of a training step a token: 6 per active matrix parameter, and the mixing.

        The mixing counts all `time` keys, as if it were not causal, as the decoder counts attention;
        forward is a third. More experts cost nothing but their gate.
        """
        c, half = self, self.inner // 2
        active = c.depth * (c.width * c.inner + half * c.width)
        active += c.sparse * 2 * c.width * c.expert_inner + c.vocabulary * c.width
        gates = c.sparse * c.width * c.token_experts * (c.token_experts > 1)
        if c._gated:
            gates += c.sparse * half * c.feature_experts  # at every position, of every chunk
        return 6.0 * (active + gates) + 6.0 * c.depth * half * time

    def kv_bytes_per_token(self, itemsize: int = 2) -> int:
        """Bytes of the cache per token, at `itemsize` bytes a number."""
        return self.depth * (self.inner // 2) * itemsize

    @property
    def _gated(self) -> bool:
        return self.routing != "deterministic" and self.feature_experts > 1

    def _gates(self) -> int:
        tokens = self.width * self.token_experts * (self.token_experts > 1)
        return self.sparse * (tokens + self.inner // 2 * self._gated)
