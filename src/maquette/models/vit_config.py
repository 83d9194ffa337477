"""The shape of a Vision Transformer, without torch and without a model."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.classifier_config import ClassifierConfig
from maquette.nn.rules import Parametrisation


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ClassifierConfig):
    """The shape of a Vision Transformer (Dosovitskiy et al. 2021)."""

    model_class: ClassVar[str] = "maquette.models.vit.ViT"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["vit"] = "vit"
    """which architecture"""
    image_size: int = 32
    """pixels of a side"""
    patch: int = 4
    """pixels of a patch's side"""
    width: int = 128
    """size of the residual stream"""
    depth: int = 6
    """blocks"""
    heads: int = 4
    """attention heads"""
    hidden: int | None = None
    """size of the feed-forward layer: None for 4 width"""
    pool: Literal["cls", "mean"] = "cls"
    """what the heads read: a token of its own, or the mean of the patches"""
    positions: Literal["learned", "sincos2d", "none"] = "learned"
    """how a patch knows where it stands"""
    norm_epsilon: float = 1e-6
    """added to the variance"""
    parametrisation: Parametrisation = field(
        default_factory=lambda: Parametrisation(base_width=128, base_depth=6, base_head_dim=32)
    )
    """how parameters scale with the size"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, float("inf"), "patch", "heads", "hidden")
        within(self, 0, 1, "norm_epsilon")
        if self.image_size % self.patch:
            raise WrongUse(
                f"image_size {self.image_size} is not divisible by patch {self.patch}: use image_size "
                f"{-(-self.image_size // self.patch) * self.patch}, or a patch that divides {self.image_size}"
            )
        if self.width % self.heads:
            raise WrongUse(
                f"width {self.width} is not divisible by heads {self.heads}: "
                f"use width {-(-self.width // self.heads) * self.heads}"
            )
        if self.positions == "sincos2d" and self.width % 4:
            raise WrongUse(f"width {self.width} is not a multiple of 4, which sincos2d wants")

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch) ** 2
