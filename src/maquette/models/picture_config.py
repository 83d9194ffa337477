"""The config fields of every picture model; needs no torch."""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

from maquette.base.errors import within
from maquette.models.architecture import Architecture
from maquette.nn.rules import Parametrisation

EOS_TOKEN_ID = 0
"""the token id that ends and pads a caption, as models see it (`training/datasets/pictures.py`)"""


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Architecture):
    """The shape of a picture model; each kind adds its own fields."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    learns_from: ClassVar[str] = "pictures"

    kind: str = ""
    """kind of the architecture"""
    image_size: int = 32
    """height and width of a picture in pixels"""
    width: int = 128
    """width of the residual stream, or channels of the first level"""
    depth: int = 4
    """number of blocks"""
    parametrisation: Parametrisation = field(default_factory=Parametrisation)
    """rules by which start and learning rates scale with the model"""

    def __post_init__(self) -> None:
        within(self, 1, float("inf"), "image_size", "width", "depth")

    def parameters(self) -> int:
        """Number of parameters."""
        return _counted(self)


@functools.lru_cache(maxsize=64)
def _counted(config: PictureConfig) -> int:
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in config.build().parameters())
