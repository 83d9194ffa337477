"""Options of a corpus of pictures: all that a build depends on, besides its sources."""

from collections.abc import Mapping
from dataclasses import dataclass

from maquette.base.errors import WrongUse
from maquette.corpus.pictures.decode import Crop
from maquette.corpus.tokenizer import BYTES


@dataclass(frozen=True)
class PictureBuildOptions:
    """Size, held-out split, captions' tokenizer and columns. Raises WrongUse for a value that cannot be."""

    image_size: int = 64
    """height and width of the pictures in pixels, 8 to 1024"""
    crop: Crop = "center"
    """crop to a square: "center" keeps the middle square, "none" the whole picture on white"""
    heldout: float = 0.05
    """fraction of the pictures held out for evaluation, between 0 and 1"""
    vocabulary: int = 2048
    """largest number of tokens of the captions' tokenizer"""
    columns: Mapping[str, str] | None = None
    """names of the columns of tables and records, by part: image, caption, label; None: the usual names"""

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 1024:
            raise WrongUse(f"image_size is {self.image_size}: use 8 to 1024 pixels")
        if self.crop not in ("center", "none"):
            raise WrongUse(f"crop is {self.crop}: use center or none")
        if not 0 < self.heldout < 1:
            raise WrongUse(
                f"heldout is {self.heldout}: use a fraction between 0 and 1, such as 0.05"
            )
        if not BYTES < self.vocabulary < 1 << 31:
            raise WrongUse(
                f"vocabulary is {self.vocabulary}: use {BYTES + 1} (plain bytes) or more"
            )
