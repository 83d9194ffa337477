"""A decoder's training step on a layout of devices: what memory and time are estimated for."""

from dataclasses import dataclass
from typing import Literal

from maquette.base.errors import WrongUse, within
from maquette.models.config import DecoderConfig
from maquette.parallel.layout import LAYOUTS

Precision = Literal["bf16", "fp32"]
ITEM = {"bf16": 2, "fp32": 4}
"""bytes of one number of each precision"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Placement of a run's tensors over devices, and number of micro-batches of a step.

    A layout is a product: replicate x shard x tensor x pipeline x context devices.
    """

    replicate: int = 1
    """number of copies of the whole model"""
    shard: int = 1
    """number of devices that share the states of one copy, at ZeRO stage `zero`"""
    tensor: int = 1
    """number of devices that divide each matrix"""
    pipeline: int = 1
    """number of devices that divide the blocks"""
    context: int = 1
    """number of devices that divide each sequence"""
    zero: int = 0
    """stage of ZeRO: 1 shares the optimiser's states, 2 gradients too, 3 weights too; 0: none"""
    micro_batches: int = 1
    """number of micro-batches that a device computes in one step"""
    recompute: bool = False
    """whether activations are recomputed in the backward pass"""

    def __post_init__(self) -> None:
        names = ("replicate", "shard", "tensor", "pipeline", "context", "micro_batches")
        within(self, 1, float("inf"), *names)
        within(self, 0, 3, "zero")
        if self.shard > 1 and not self.zero:
            raise WrongUse(f"shard is {self.shard} without a ZeRO stage: use zero 1, 2 or 3")

    @property
    def devices(self) -> int:
        """Number of devices of the layout."""
        return self.replicate * self.shard * self.tensor * self.pipeline * self.context

    @property
    def name(self) -> str:
        """As a recipe's `layout` has it: "ddp", "zero3:8", "zero1:8,tensor:2"."""
        parts = [f"zero{self.zero}:{self.shard}"] if self.zero else []
        if self.replicate > 1 and parts:
            parts.insert(0, f"ddp:{self.replicate}")
        for kind in ("tensor", "pipeline", "context"):
            size = getattr(self, kind)
            if size > 1:
                parts.append(f"{kind}:{size}")
        if not parts:
            return "ddp"
        return ",".join(
            parts if self.zero or self.replicate == 1 else [f"ddp:{self.replicate}", *parts]
        )

    @property
    def runnable(self) -> bool:
        """Whether this version's trainer runs the layout."""
        return all(part.partition(":")[0] in LAYOUTS for part in self.name.split(","))


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step of a decoder: `layout.micro_batches` passes of (micro_batch, time) tokens."""

    config: DecoderConfig
    micro_batch: int
    """number of sequences in one pass of a device"""
    time: int
    """tokens per sequence"""
    precision: Precision
    """number format of products and activations; states are fp32"""
    layout: Layout
    compiled: bool = False
    """whether the blocks are compiled, or computed by the row kernels of `nn.native`"""
    kernels: bool = False
    """whether it is the row kernels alone, without torch's compiler"""

    @property
    def item(self) -> int:
        """Bytes of one activation."""
        return ITEM[self.precision]

    @property
    def time_here(self) -> int:
        """Tokens of each sequence on one device, whose context the layout divides."""
        return -(-self.time // self.layout.context)

    @property
    def tokens(self) -> int:
        """Tokens of one pass on one device."""
        return self.micro_batch * self.time_here
