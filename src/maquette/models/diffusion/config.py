"""The shape of a diffusion model: its backbone, its conditions and its path, without torch."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.picture_config import PictureConfig


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(PictureConfig):
    """The shape of a diffusion model of pictures.

    `width` is the channels of the U-Net's first level, or DiT's residual stream; `depth` the residual
    blocks of each of the U-Net's levels, or DiT's blocks.
    """

    model_class: ClassVar[str] = "maquette.models.diffusion.model.Diffusion"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["diffusion"] = "diffusion"
    """kind of the architecture"""
    backbone: Literal["unet", "dit"] = "unet"
    """unet: convolutions down and up again; dit: a transformer over patches"""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """U-Net: channels of each level over width; each level has half the resolution of the last"""
    attention: tuple[int, ...] = ()
    """U-Net: resolutions of the levels whose blocks attend; none: the smallest. The middle always attends"""
    patch: int = 1
    """height and width of a patch in pixels; the resolution of a U-Net's first level is image_size / patch"""
    heads: int = 4
    """number of attention heads"""
    condition: Literal["none", "class", "text"] = "none"
    """condition of a picture, besides an embedding"""
    classes: tuple[int, ...] = ()
    """class: number of classes of each label factor"""
    vocabulary: int = 64
    """text: number of tokens of captions"""
    caption_length: int = 24
    """text: most tokens of a caption, its EOS token included; EOS alone is no condition"""
    text_width: int = 64
    """text: width of the caption encoder's residual stream"""
    text_depth: int = 2
    """text: number of blocks of the caption encoder"""
    text_heads: int = 4
    """text: number of attention heads of the caption encoder"""
    embedding: int = 0
    """dimensions of the picture embedding that conditions the model, as in unCLIP; 0: none"""
    task: Literal["generate", "inpaint", "upsample"] = "generate"
    """generate: from noise alone; inpaint: around known pixels; upsample: from a smaller picture"""
    scale: int = 4
    """upsample: image_size over the size of the smaller picture"""
    path: Literal["cosine", "linear", "flow"] = "cosine"
    """noise schedule"""
    prediction: Literal["v", "noise", "picture", "velocity"] = "v"
    """target of the network; velocity goes with the flow schedule"""
    drop: float = 0.1
    """fraction of training pictures whose condition is left out, for classifier-free guidance"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(
            self, 1, float("inf"), "patch", "heads", "caption_length", "text_width", "text_depth"
        )
        within(self, 1, float("inf"), "text_heads", "scale")
        within(self, 2, float("inf"), "vocabulary")
        within(self, 0, float("inf"), "embedding")
        within(self, 0, 1, "drop")
        if self.image_size % self.patch:
            fitting = max(p for p in range(1, self.patch + 1) if self.image_size % p == 0)
            raise WrongUse(
                f"image_size {self.image_size} is not divisible by patch {self.patch}: use patch {fitting}"
            )
        self._check_backbone()
        if self.condition == "text" and self.text_width % self.text_heads:
            raise WrongUse(
                f"text_width {self.text_width} is not divisible by text_heads {self.text_heads}: "
                f"use text_width {-(-self.text_width // self.text_heads) * self.text_heads}"
            )
        if (self.condition == "class") != bool(self.classes):
            raise WrongUse(
                f"condition {self.condition} with classes {self.classes}: give the classes of each "
                f"label factor to condition class, as in 6,4,6,4,2, and to no other"
            )
        if (self.prediction == "velocity") != (self.path == "flow"):
            raise WrongUse(
                f"prediction {self.prediction} does not fit path {self.path}: the flow path takes "
                f"velocity, and no other path does"
            )
        if self.task == "upsample" and self.image_size % self.scale:
            raise WrongUse(
                f"image_size {self.image_size} is not divisible by scale {self.scale}: the smaller "
                f"picture would have no whole height"
            )

    def _check_backbone(self) -> None:
        if self.backbone == "dit":
            if self.width % (4 * self.heads):
                fitting = -(-self.width // (4 * self.heads)) * 4 * self.heads
                raise WrongUse(
                    f"width {self.width} is not a multiple of 4 x heads {self.heads}: use {fitting}"
                )
            return
        if not self.multipliers or min(self.multipliers) < 1:
            raise WrongUse(
                f"multipliers is {self.multipliers}: give each level at least 1, as in 1,2,2"
            )
        halvings = 2 ** (len(self.multipliers) - 1)
        if (self.image_size // self.patch) % halvings:
            raise WrongUse(
                f"image_size {self.image_size} in patches of {self.patch} cannot be halved "
                f"{len(self.multipliers) - 1} times: use a size divisible by {self.patch * halvings}, "
                f"or fewer multipliers"
            )
        for resolution in self.attention:
            if resolution not in self.resolutions:
                raise WrongUse(
                    f"attention at resolution {resolution}: this U-Net's levels have resolutions "
                    f"{', '.join(map(str, self.resolutions))}; name some of them, or none for the smallest"
                )
        if (
            self.attention == self.resolutions[-1:]
        ):  # one name for one shape: runs go on with either
            object.__setattr__(self, "attention", ())
        if self.width % 8 or self.width % self.heads:
            raise WrongUse(
                f"width {self.width} is not a multiple of 8 and of heads {self.heads}: "
                f"use width {-(-self.width // (8 * self.heads)) * 8 * self.heads}"
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """U-Net: height and width of each level's feature map."""
        return tuple(self.image_size // self.patch // 2**i for i in range(len(self.multipliers)))

    @property
    def attention_resolutions(self) -> tuple[int, ...]:
        """U-Net: resolutions of the levels whose blocks attend."""
        return self.attention or self.resolutions[-1:]

    @property
    def vector(self) -> int:
        """Dimensions of the vector of time and condition that modulates the network."""
        return 4 * self.width if self.backbone == "unet" else self.width
