"""The shape of a super-resolution network: its settings, without torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.picture_config import PictureConfig
from maquette.nn.rules import Parametrisation


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig(PictureConfig):
    """The shape of a residual network from small pictures to large ones."""

    model_class: ClassVar[str] = "maquette.models.super_resolution.SuperResolution"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["super_resolution"] = "super_resolution"
    """kind of the architecture"""
    image_size: int = 64
    """height and width of the large picture in pixels"""
    scale: int = 4
    """image_size over the size of the small picture"""
    width: int = 48
    """number of channels"""
    depth: int = 6
    """number of residual blocks"""
    blur: float = 2.0
    """largest standard deviation of the blur before downsampling in training (large pixels)"""
    error: Literal["absolute", "squared"] = "absolute"
    """training loss: mean absolute or squared error (pixels are in [-1, 1])"""
    parametrisation: Parametrisation = field(
        default_factory=lambda: Parametrisation(base_width=48, base_depth=6)
    )
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 2, 16, "scale")
        within(self, 0, 64, "blur")
        if self.image_size % self.scale:
            raise WrongUse(
                f"image_size {self.image_size} is not a multiple of scale {self.scale}: "
                f"use {-(-self.image_size // self.scale) * self.scale}"
            )

    @property
    def small(self) -> int:
        """Height and width of the small picture in pixels."""
        return self.image_size // self.scale
