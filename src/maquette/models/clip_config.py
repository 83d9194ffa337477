"""The config of CLIP: two towers, one embedding space; needs no torch."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.models.picture_config import PictureConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig(PictureConfig):
    """The shape of CLIP (Radford et al. 2021) and of SigLIP (Zhai et al. 2023).

    `image_size`, `width` and `depth` are the picture tower's. `width` sets how rates scale; the caption
    tower is meant to grow in proportion.
    """

    model_class: ClassVar[str] = "maquette.models.clip.Clip"
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["clip"] = "clip"
    """kind of the architecture"""
    patch: int = 4
    """height and width of a patch in pixels"""
    heads: int = 4
    """number of attention heads of the picture tower"""
    hidden: int | None = None
    """width of the picture tower's feed-forward layer; None: 4 width"""
    vocabulary: int = 64
    """number of tokens of captions"""
    caption_length: int = 24
    """most tokens of a caption, its EOS token (token id 0) included"""
    bos_token_id: int | None = None
    """token put before every caption; None: no token"""
    highest: int | None = None
    """EOS token id in OpenAI's numbering, where a caption's vector stands at the highest token id of that
    numbering; None: the vector stands at the first EOS token"""
    text_width: int = 128
    """width of the caption tower's residual stream"""
    text_depth: int = 4
    """number of blocks of the caption tower"""
    text_heads: int = 4
    """number of attention heads of the caption tower"""
    text_hidden: int | None = None
    """width of the caption tower's feed-forward layer; None: 4 text_width"""
    embedding: int = 64
    """dimensions of the embeddings of both towers"""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """activation function of the feed-forward layers"""
    norm_epsilon: float = 1e-5
    """epsilon of the normalisation"""
    objective: Literal["softmax", "sigmoid"] = "softmax"
    """contrastive loss: softmax over the batch (CLIP) or sigmoid of each pair (SigLIP)"""
    noised: bool = False
    """whether the picture tower reads noisy pictures and their time (the CLIP that guides GLIDE)"""
    path: Literal["cosine", "linear", "flow"] = "cosine"
    """noised: noise schedule, that of the guided diffusion model"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, float("inf"), "patch", "heads", "text_width", "text_depth", "text_heads")
        within(self, 1, float("inf"), "hidden", "text_hidden", "embedding", "caption_length")
        within(self, 2, float("inf"), "vocabulary")
        within(self, 0, 1, "norm_epsilon")
        within(self, 1, self.vocabulary - 1, "bos_token_id")
        within(self, 0, self.vocabulary - 1, "highest")
        if self.image_size % self.patch:
            fitting = max(p for p in range(1, self.patch + 1) if self.image_size % p == 0)
            raise WrongUse(
                f"image_size {self.image_size} is not divisible by patch {self.patch}: use patch {fitting}"
            )
        if self.width % 4:
            raise WrongUse(
                f"width {self.width} is not a multiple of 4: use {-(-self.width // 4) * 4}"
            )
        for width, heads in (("width", "heads"), ("text_width", "text_heads")):
            w, h = getattr(self, width), getattr(self, heads)
            if w % h:
                fitting = max(n for n in range(1, h + 1) if w % n == 0)
                raise WrongUse(
                    f"{width} {w} is not divisible by {heads} {h}: use {heads} {fitting} "
                    f"or {width} {-(-w // h) * h}"
                )

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.image_size // self.patch) ** 2
