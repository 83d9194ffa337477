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
    """kind of the architecture"""
    image_size: int = 32
    """height and width of a picture in pixels"""
    width: int = 32
    """channels of the first stage; twice as many in the second, four times in the third"""
    depth: int = 2
    """number of residual blocks in each of the three stages"""
    noise: float = 0.0
    """largest standard deviation of the white noise added in training (pixels are in [-1, 1])"""
    blur: float = 0.0
    """largest standard deviation in pixels of the blur in training"""
    parametrisation: Parametrisation = field(
        default_factory=lambda: Parametrisation(base_width=32, base_depth=2)
    )
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 8, float("inf"), "image_size")
        if self.width % 8:
            raise WrongUse(
                f"width {self.width} is not a multiple of 8: use {-(-self.width // 8) * 8}"
            )
        within(self, 0, float("inf"), "noise", "blur")
