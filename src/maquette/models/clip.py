"""CLIP: pictures and captions in one space, where what belongs together lies close.

    picture -> patches, class token, positions -> norm -> blocks -> norm of class token -> projection -+
                                                                                          unit vectors  dot
    caption -> tokens, positions ------------> causal blocks -> norm at the first EOS --> projection -+

The caption towers of OpenAI's files take the highest token as they number it in the place of the first
EOS token (`highest`), which is another only where tokens were added behind the EOS token.

A batch is its own set of wrong answers. softmax (Radford et al. 2021, figure 3): the picture's caption
among the batch's captions, and the caption's picture among the pictures; the loss is the mean of both
cross-entropies. sigmoid (Zhai et al. 2023, algorithm 1): of every pair, whether it belongs together.
The temperature is learnt, from 1/0.07, and its inverse held at no more than 100 (section 2.5).

Two pictures of a batch may have the same caption, and in small worlds often do. The pair of the one
picture and the other's caption is then no wrong answer, and is left out of the loss.

noised: the picture tower sees x_t and t, whose embedding is added to every token (Nichol et al. 2021,
section 2.4); the loss draws t evenly from [0, 1].

Left out: negatives from other ranks and other micro-batches. The loss compares what one rank computes
at a time, so that `micro_batch`, not `batch`, is the number of answers to choose from. And the
ResNet tower.
"""

import math
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import Loss, PictureBatch, PictureModel
from maquette.models.clip_config import ClipConfig
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.nn.linear import Embedding, Linear
from maquette.nn.mask import Mask
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import Patches, sincos2d, timestep_embedding
from maquette.nn.rules import Role, Scaling
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock

LARGEST = math.log(100.0)  # of the logit scale
TIMES = 64  # sines and cosines of a time


class PictureTower(nn.Module):
    """Pictures to vectors of `embedding`, of any length."""

    def __init__(self, c: ClipConfig, scaling: Scaling) -> None:
        super().__init__()
        self.patches = Patches(c.patch, c.width, bias=False)
        self.class_token = Embedding(1, c.width)
        self.positions = Embedding(c.patches + 1, c.width)
        self.time = Linear(TIMES, c.width, bias=True, role=Role.INPUT) if c.noised else None
        self.time_out = Linear(c.width, c.width, bias=True) if c.noised else None
        self.norm_before = LayerNorm(c.width, bias=True, epsilon=c.norm_epsilon)
        self.blocks = Stack(
            TransformerBlock(
                c.width,
                c.heads,
                scaling,
                hidden=c.hidden,
                activation=c.activation,
                epsilon=c.norm_epsilon,
            )
            for _ in range(c.depth)
        )
        self.norm = LayerNorm(c.width, bias=True, epsilon=c.norm_epsilon)
        self.projection = Linear(c.width, c.embedding)

    def forward(self, pictures: Tensor, t: Tensor | None) -> Tensor:
        """pictures: (batch, 3, height, width) in the compute precision. t: (batch,) where noised."""
        x = self.patches(pictures)  # (batch, patches, width)
        first = self.class_token.weight.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.positions.weight.to(x.dtype)
        if self.time is not None and self.time_out is not None:
            assert t is not None, "a noised CLIP is told the time"
            h = F.silu(self.time(timestep_embedding(t, TIMES).to(x.dtype)))
            x = x + self.time_out(h).unsqueeze(1)
        x = self.blocks(self.norm_before(x), mask=Mask())
        return self.projection(self.norm(x[:, 0]))  # type: ignore[no-any-return]


class CaptionTower(nn.Module):
    """Captions to vectors of `embedding`, of any length."""

    def __init__(self, c: ClipConfig, scaling: Scaling) -> None:
        super().__init__()
        self.caption_length = c.caption_length
        self.bos_token_id, self.highest = c.bos_token_id, c.highest
        self.multiplier = scaling.input_multiplier
        self.token_embedding = Embedding(c.vocabulary, c.text_width)
        self.positions = Embedding(c.caption_length + (c.bos_token_id is not None), c.text_width)
        self.blocks = Stack(
            TransformerBlock(
                c.text_width,
                c.text_heads,
                scaling,
                hidden=c.text_hidden,
                activation=c.activation,
                epsilon=c.norm_epsilon,
            )
            for _ in range(c.text_depth)
        )
        self.norm = LayerNorm(c.text_width, bias=True, epsilon=c.norm_epsilon)
        self.projection = Linear(c.text_width, c.embedding)

    def forward(self, captions: Tensor, compute: torch.dtype) -> Tensor:
        """captions: (batch, caption_length) int64, each with an EOS token, after which nothing is read."""
        captions = fitted(captions, self.caption_length)
        if self.bos_token_id is not None:
            captions = F.pad(captions, (1, 0), value=self.bos_token_id)
        last = self.last(captions)
        x = self.token_embedding(captions) + self.positions.weight[: captions.shape[1]]
        x = self.blocks(scaled(x, self.multiplier).to(compute), mask=Mask(causal=True))
        pooled = x[torch.arange(len(x), device=x.device), last]
        return self.projection(self.norm(pooled))  # type: ignore[no-any-return]

    def last(self, captions: Tensor) -> Tensor:
        """Position at which the embedding of each caption is taken, (batch,)."""
        if self.highest is None:
            return (captions == EOS_TOKEN_ID).int().argmax(dim=1)  # the first EOS token
        # theirs below EOS count one less than ours, those above it as much as ours
        order = torch.where(captions == EOS_TOKEN_ID, 2 * self.highest + 1, 2 * captions)
        return order.argmax(dim=1)


def fitted(captions: Tensor, caption_length: int) -> Tensor:
    """Captions in at most `caption_length` tokens. Raises WrongUse where more than their filling is lost."""
    if (captions[:, caption_length - 1 :] != EOS_TOKEN_ID).any():
        raise WrongUse(
            f"captions have up to {captions.shape[1]} tokens, the model has room for {caption_length}: "
            f"use data.caption_length {caption_length}, or a larger model.caption_length"
        )
    return captions[:, :caption_length]


class Clip(PictureModel):
    """Two towers and a temperature. See the file's docstring."""

    config: ClipConfig
    grids: ClassVar[dict[str, int]] = {"picture_tower.positions.weight": 1}

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        self.picture_tower = PictureTower(config, self.scaling)
        self.caption_tower = CaptionTower(config, self.scaling)
        sigmoid = config.objective == "sigmoid"
        self.roles = {"logit_scale": Role.VECTOR, "logit_bias": Role.VECTOR}
        self.start = {
            "logit_scale": math.log(10.0 if sigmoid else 1 / 0.07),
            "logit_bias": -10.0,
        }
        self.logit_scale = nn.Parameter(torch.empty(1))  # the logarithm of the inverse temperature
        self.logit_bias = nn.Parameter(torch.empty(1)) if sigmoid else None

    def initialise(self, seed: int) -> Self:
        """Fill the parameters; the positions of the patches begin as sines, and are learnt from there.

        A table drawn at random must first learn which patches lie side by side.
        """
        super().initialise(seed)
        c, table = self.config, self.picture_tower.positions.weight
        with torch.no_grad():
            table[1:] = 0.5 * sincos2d(c.image_size // c.patch, c.width)
        return self

    def embed_pictures(self, pictures: Tensor, t: Tensor | None = None) -> Tensor:
        """(n, 3, height, width) in [-1, 1] -> (n, embedding) of length 1, fp32.

        t: (n,) or one number, the time of pictures with noise, where the model is a noised one; None: 0.
        """
        if t is None:
            t = torch.zeros((), device=pictures.device)
        f = self.picture_tower(pictures.to(self.compute), t.expand(len(pictures)))
        return F.normalize(f.float(), dim=1)

    def embed_captions(self, captions: Tensor) -> Tensor:
        """(n, caption_length) -> (n, embedding) of length 1, fp32."""
        g = self.caption_tower(captions, self.compute)
        return F.normalize(g.float(), dim=1)

    def scale(self) -> Tensor:
        """The inverse temperature, (1,)."""
        return self.logit_scale.float().clamp(max=LARGEST).exp()

    def logits(self, pictures: Tensor, captions: Tensor) -> Tensor:
        """Embeddings (n, d) and (m, d) -> how well each pair fits, (n, m)."""
        scores = self.scale() * pictures @ captions.T
        return scores if self.logit_bias is None else scores + self.logit_bias.float()

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """Summed over the pictures, in nats; those of one call are each other's wrong answers."""
        if batch.captions is None:
            raise WrongUse("a CLIP learns from captions, and these pictures have none")
        n = len(batch.pictures)
        if self.training:
            if n < 2:
                raise WrongUse(
                    "one picture at a time has no wrong caption: use micro_batch 2 or more"
                )
            with torch.no_grad():  # else the gradient beyond the limit is 0, and it stays there
                self.logit_scale.clamp_(max=LARGEST)
        pictures, t = batch.pictures, None
        if self.config.noised:
            t = torch.rand(n, device=pictures.device)
            pictures = NoiseSchedule(self.config.path).mix(pictures, torch.randn_like(pictures), t)
        f, g = self.embed_pictures(pictures, t), self.embed_captions(batch.captions)
        total = contrast(self.logits(f, g), same(batch.captions), self.config.objective)
        return Loss(total, total.detach(), n)


def same(captions: Tensor) -> Tensor:
    """(n, caption_length) -> (n, n): whether two captions are equal, and not one and the same."""
    equal = (captions[:, None] == captions[None]).all(dim=2)
    return equal.fill_diagonal_(False)


def contrast(logits: Tensor, hidden: Tensor, objective: str) -> Tensor:
    """The summed loss of n pairs, of which the diagonal of `logits` (n, n) belongs together.

    hidden: (n, n), pairs that are no wrong answers and are left out.
    softmax: Radford et al. 2021, figure 3. sigmoid: Zhai et al. 2023, algorithm 1.
    """
    n = len(logits)
    if objective == "softmax":
        logits = logits.masked_fill(hidden, -torch.inf)
        target = torch.arange(n, device=logits.device)
        rows = F.cross_entropy(logits, target, reduction="sum")
        columns = F.cross_entropy(logits.T, target, reduction="sum")
        return (rows + columns) / 2
    sign = 2 * torch.eye(n, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).masked_fill(hidden, 0.0).sum()
