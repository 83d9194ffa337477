"""The kinds of condition of a diffusion model, each a class; `CONDITIONERS` gives their names and order.

    text             its tokens, and the last one pooled into the vector (GLIDE: Nichol et al. 2022)
    label            the sum of a row for each label in the vector; a table has a row more, for no label
    embedding        a projection in the vector and four more tokens (unCLIP: Ramesh et al. 2022, section 2.1)
    known_pixels     channels: the known pixels, and where they are (inpainting)
    low_resolution   channels: the smaller picture, bilinear (GLIDE: blurred in training)

A new kind is a class and a line in the table. Channels start at weights of 0, so that a run without them
can be the start of one with them.
"""

import math
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import UserError
from maquette.models.base import PictureBatch
from maquette.models.cnn import blur
from maquette.models.diffusion.conditioner import Conditioner, Signal
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.text import TextEncoder
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.nn.linear import Embedding, Linear
from maquette.nn.rules import Scaling

TOKENS = 4  # of a picture embedding
BLUR = 0.6  # pixels: widest blur of the low-resolution picture, in training
TEXT_DROP = 0.5  # of captions beside an embedding (Ramesh et al. 2022, section 2.1)


class Text(Conditioner):
    """Captions: values (n, caption_length) int64; EOS alone is no caption."""

    attended: ClassVar[bool] = True

    def __init__(self, config: DiffusionConfig, scaling: Scaling) -> None:
        super().__init__()
        self.drop = TEXT_DROP if config.embedding else config.drop
        self.encoder = TextEncoder(config, scaling)
        self.pooled = Linear(config.text_width, config.vector, bias=True)

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        return cls(config, scaling) if config.condition == "text" else None

    def null(self, n: int, device: torch.device) -> Tensor:
        return torch.full((n, 1), EOS_TOKEN_ID, device=device)

    def example(self, batch: PictureBatch) -> Tensor:
        if batch.captions is None:
            raise UserError("a model of captions cannot learn from pictures without any")
        return batch.captions

    def forward(self, value: Tensor, compute: torch.dtype) -> Signal:
        tokens, mask, last = self.encoder(value, compute)
        return Signal(self.pooled(last.float()), tokens, mask)


class Label(Conditioner):
    """Labels: values (n, factors) int64; a negative one is no label."""

    starts: Tensor
    nulls: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.drop, self.classes = config.drop, config.classes
        c = config.classes
        self.table = Embedding(sum(c) + len(c), config.vector)
        starts = torch.tensor([sum(c[:i]) + i for i in range(len(c))])
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("nulls", torch.tensor(c), persistent=False)

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        return cls(config) if config.classes else None

    def null(self, n: int, device: torch.device) -> Tensor:
        return torch.full((n, len(self.classes)), -1, device=device)

    def example(self, batch: PictureBatch) -> Tensor:
        factors = 0 if batch.labels is None else batch.labels.shape[1]
        if batch.labels is None or factors != len(self.classes):
            raise UserError(
                f"a model of {len(self.classes)} label factors cannot learn from pictures with "
                f"{factors}: set model.classes to the classes of each factor of the data"
            )
        return batch.labels

    def forward(self, value: Tensor, compute: torch.dtype) -> Signal:
        rows = self.starts + torch.where(value < 0, self.nulls, value)  # (n, factors)
        return Signal(self.table(rows).sum(1))


class PictureEmbedding(Conditioner):
    """A CLIP's embedding of the picture: values (n, d) of length 1; zeros are no embedding."""

    attended: ClassVar[bool] = True

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.drop, self.embedding, self.width = config.drop, config.embedding, config.text_width
        self.vector = Linear(self.embedding, config.vector, bias=True)
        self.tokens = Linear(self.embedding, TOKENS * self.width, bias=True)

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        return cls(config) if config.embedding else None

    def null(self, n: int, device: torch.device) -> Tensor:
        return torch.zeros(n, self.embedding, device=device)

    def example(self, batch: PictureBatch) -> Tensor:
        if batch.embedding is None or batch.embedding.shape[1] != self.embedding:
            raise UserError(
                f"a model of embeddings of {self.embedding} dimensions cannot learn without them: "
                f"set data.encoder to a CLIP run with as many"
            )
        return batch.embedding

    def forward(self, value: Tensor, compute: torch.dtype) -> Signal:
        value = value.float() * math.sqrt(self.embedding)  # numbers of variance 1
        tokens = self.tokens(value).unflatten(1, (TOKENS, self.width))
        return Signal(self.vector(value), tokens.to(compute))


class KnownPixels(Conditioner):
    """Known pixels: values (picture (n, 3, height, width), mask (n, 1, height, width), 1 where known)."""

    guided: ClassVar[bool] = False
    channels: ClassVar[int] = 4

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        return cls(config.image_size) if config.task == "inpaint" else None

    def null(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(n, 4, self.image_size, self.image_size, device=device)
        return zeros[:, :3], zeros[:, 3:]

    def example(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        """The left half is known."""
        mask = torch.zeros_like(batch.pictures[:, :1])
        mask[..., : self.image_size // 2] = 1
        return batch.pictures, mask

    def learned(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        n, device = len(batch.pictures), batch.pictures.device
        return batch.pictures, random_known(n, self.image_size, device)

    def forward(self, value: tuple[Tensor, Tensor], compute: torch.dtype) -> Signal:
        known, mask = value
        assert known.shape[1] == 3 and mask.shape[1] == 1, "a picture, and a mask of one channel"
        mask = mask.to(known)
        together = torch.cat([known * mask, mask.expand(len(known), 1, -1, -1)], dim=1)
        return Signal(channels=together)


class LowResolution(Conditioner):
    """The smaller picture: values (n, 3, height / scale, width / scale)."""

    guided: ClassVar[bool] = False
    channels: ClassVar[int] = 3

    def __init__(self, image_size: int, scale: int) -> None:
        super().__init__()
        self.image_size, self.scale = image_size, scale

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        return cls(config.image_size, config.scale) if config.task == "upsample" else None

    def null(self, n: int, device: torch.device) -> Tensor:
        side = self.image_size // self.scale
        return torch.zeros(n, 3, side, side, device=device)

    def example(self, batch: PictureBatch) -> Tensor:
        return F.avg_pool2d(batch.pictures, self.scale)

    def learned(self, batch: PictureBatch) -> Tensor:
        small = self.example(batch)
        return blur(small, BLUR * torch.rand(len(small), device=small.device))

    def forward(self, value: Tensor, compute: torch.dtype) -> Signal:
        size = (self.image_size, self.image_size)
        wide = F.interpolate(value, size=size, mode="bilinear", align_corners=False)
        return Signal(channels=wide)


CONDITIONERS: dict[str, type[Conditioner]] = {
    "text": Text,
    "label": Label,
    "embedding": PictureEmbedding,
    "known_pixels": KnownPixels,
    "low_resolution": LowResolution,
}


def conditioners_of(config: DiffusionConfig, scaling: Scaling) -> dict[str, Conditioner]:
    """The conditioners of a model of that shape, by name."""
    built = {name: kind.of(config, scaling) for name, kind in CONDITIONERS.items()}
    return {name: conditioner for name, conditioner in built.items() if conditioner is not None}


def random_known(n: int, image_size: int, device: torch.device) -> Tensor:
    """Masks (n, 1, height, width) to learn inpainting from: 1 where known, 0 in what is hidden.

    Two fifths hide a box, one fifth all but a box, one fifth a stroke; a tenth each hide everything
    and nothing. Boxes have sides of a quarter to three quarters of the picture's.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(n, *shape, 1, 1, device=device)

    position = (torch.arange(image_size, device=device) + 0.5) / image_size
    y, x = position[:, None], position[None, :]  # (height, 1), (1, width)
    half = 0.125 + 0.25 * draw(2)
    centre = draw(2)
    box = ((y - centre[:, 0]).abs() < half[:, 0]) & ((x - centre[:, 1]).abs() < half[:, 1])
    stroke = torch.zeros_like(box)
    ends = draw(4, 2)  # a line through four points
    for a, b in zip(ends.unbind(1)[:-1], ends.unbind(1)[1:], strict=True):
        line = b - a
        along = (y - a[:, 0]) * line[:, 0] + (x - a[:, 1]) * line[:, 1]
        along = (along / line.square().sum(1).clamp_min(1e-6)).clamp(0, 1)
        gap = (y - a[:, 0] - along * line[:, 0]).square()
        gap = gap + (x - a[:, 1] - along * line[:, 1]).square()
        stroke = stroke | (gap.sqrt() < 0.06)
    kind = torch.rand(n, 1, 1, device=device)
    hidden = torch.where(kind < 0.4, box, torch.where(kind < 0.6, ~box, stroke))
    hidden = torch.where(kind < 0.8, hidden, kind < 0.9)
    return (~hidden).float().unsqueeze(1)
