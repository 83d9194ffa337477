"""The shape of a prior over picture embeddings: its settings, without torch and without a model."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.base.named import named
from maquette.models.picture_config import PictureConfig
from maquette.nn.rules import Parametrisation

VARIANTS = {
    "diffusion": "maquette.models.prior_diffusion.DiffusionPrior",
    "autoregressive": "maquette.models.prior_autoregressive.AutoregressivePrior",
}


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PictureConfig):
    """The shape of a prior (Ramesh et al. 2022): from a caption to the embedding of a picture."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["prior"] = "prior"
    """kind of the architecture"""
    variant: Literal["diffusion", "autoregressive"] = "diffusion"
    """diffusion: denoises the embedding; autoregressive: predicts its quantised components in turn"""
    embedding: int = 64
    """dimensions of an embedding: the encoder's"""
    vocabulary: int = 64
    """number of tokens of captions, the EOS token included"""
    caption_length: int = 24
    """most tokens of a caption, its EOS token included"""
    width: int = 128
    """width of the residual stream"""
    depth: int = 4
    """number of blocks"""
    heads: int = 4
    """number of attention heads"""
    drop: float = 0.1
    """fraction of training captions that are left out, for classifier-free guidance"""
    components: int | None = None
    """autoregressive: number of principal components that are predicted; None: three quarters of them"""
    buckets: int = 128
    """autoregressive: number of values that each component is quantised to"""
    parametrisation: Parametrisation = field(
        default_factory=lambda: Parametrisation(base_width=128, base_depth=4, base_head_dim=32)
    )
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, float("inf"), "embedding", "vocabulary", "caption_length", "heads")
        within(self, 1, self.embedding, "components")
        within(self, 2, float("inf"), "buckets")
        if self.width % self.heads:
            width = -(-self.width // self.heads) * self.heads
            raise WrongUse(
                f"width {self.width} is not divisible by heads {self.heads}: use width {width}"
            )
        if not 0 <= self.drop < 1:
            raise WrongUse(f"drop is {self.drop}: use 0 to below 1")

    @property
    def kept(self) -> int:
        """Number of principal components that are predicted."""
        return self.components or -(-3 * self.embedding // 4)

    def build(self) -> Any:
        """The prior of that variant, its parameters not yet filled."""
        return named(VARIANTS[self.variant])(self)
