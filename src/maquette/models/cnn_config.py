"""The shape of a residual CNN that reads labels from pictures: its settings, without torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.classifier_config import ClassifierConfig
from maquette.nn.rules import Parametrisation


@dataclass(frozen=True, kw_only=True)
class CNNConfig(ClassifierConfig):
    """The shape of a residual CNN classifier."""

    model_class: ClassVar[str] = "maquette.models.cnn.CNN"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["cnn"] = "cnn"
    """which architecture"""
    image_size: int = 32
    """height and width of a picture in pixels"""
    width: int = 32
    """channels of the first stage; the second has twice, the third four times as many"""
    depth: int = 2
    """residual blocks of each of the three stages"""
    noise: float = 0.0
    """training: white noise is added, of a standard deviation up to this (pixels are in [-1, 1])"""
    blur: float = 0.0
    """training: pictures are blurred, with a standard deviation of up to so many pixels"""
    parametrisation: Parametrisation = field(
        default_factory=lambda: Parametrisation(base_width=32, base_depth=2)
    )
    """how parameters scale with the size"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 8, float("inf"), "image_size")
        if self.width % 8:
            raise WrongUse(
                f"width {self.width} is not a multiple of 8: use {-(-self.width // 8) * 8}"
            )
        within(self, 0, float("inf"), "noise", "blur")
