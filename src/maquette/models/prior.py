"""The base of both priors: a causal transformer that reads a caption, then predicts.

    caption's tokens | text embedding | what the variant predicts with
    0 ... n - 1        | n              | n + 1 ...           n: the caption length

A prior knows how the embeddings of pictures (a frozen CLIP's) that fit a caption are distributed, and
draws one; a decoder makes a picture of it. The text embedding alone is not enough: CLIP puts pictures
and captions into different parts of its space. Embeddings have length 1 outside and are multiplied by
sqrt(d) inside, so that a number of them has a mean square of 1, as noise has.

Source: Ramesh et al. 2022, section 2.2. The tokens have an embedding of their own here, where the
paper takes the outputs of CLIP's text tower.
"""

import math

import torch
from torch import Tensor

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import PictureBatch, PictureModel
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.models.prior_config import PriorConfig
from maquette.nn.attention import LayerCache
from maquette.nn.linear import Embedding, Linear
from maquette.nn.mask import Mask
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class Prior(PictureModel):
    """The base of priors, which reads the caption; variants add what follows.

    after: number of positions behind the caption and the text embedding.
    """

    config: PriorConfig

    def __init__(self, config: PriorConfig, after: int) -> None:
        super().__init__(config)
        c = config
        self.length = math.sqrt(c.embedding)
        self.read = c.caption_length + 1  # positions of the caption and of the text embedding
        self.tokens = Embedding(c.vocabulary, c.width)
        self.positions = Embedding(self.read + after, c.width)
        self.text = Linear(c.embedding, c.width, bias=True, role=Role.INPUT)
        self.null_embedding = Embedding(self.read, c.width)  # what stands where there is no caption
        self.blocks = Stack(
            TransformerBlock(c.width, c.heads, self.scaling) for _ in range(c.depth)
        )
        self.norm = LayerNorm(c.width, bias=True, epsilon=1e-6)

    def caption(
        self, captions: Tensor, text_embedding: Tensor, absent: Tensor | None = None
    ) -> Tensor:
        """The transformer's input of a caption, (n, caption_length + 1, width).

        captions: (n, caption_length) int64. text_embedding: (n, d) of length 1. absent: (n,), True where the
        caption is left out; an empty one always is. Raises WrongUse for captions of another length.
        """
        if captions.shape[1] != self.config.caption_length:
            raise WrongUse(
                f"captions have {captions.shape[1]} tokens, the prior reads {self.config.caption_length}: "
                f"use data.caption_length {self.config.caption_length}"
            )
        empty = (captions == EOS_TOKEN_ID).all(1)
        absent = empty if absent is None else absent | empty
        text = self.text(text_embedding.float() * self.length).unsqueeze(1)
        x = torch.cat([self.tokens(captions), text], dim=1)
        x = torch.where(absent[:, None, None], self.null_embedding.weight, x)
        return scaled(x, self.scaling.input_multiplier)

    def run(
        self, x: Tensor, start: int = 0, caches: list[LayerCache] | None = None
    ) -> Tensor:  # (n, time, width) -> (n, time, width)
        """The normed residual stream of the positions from `start` on, in fp32.

        caches: the keys and values of the positions before, which grow by these.
        """
        positions = self.positions.weight[start : start + x.shape[1]]
        x = (x + scaled(positions, self.scaling.input_multiplier)).to(self.compute)
        x = self.blocks(x, mask=Mask(causal=True), caches=caches)
        return self.norm(x).float()  # type: ignore[no-any-return]

    def caches(self, n: int, room: int) -> list[LayerCache]:
        """Empty caches for n rows of `room` positions."""
        return self.blocks.make_caches(n, room, self.compute, self.tokens.weight.device)

    def with_and_without(self, captions: Tensor, text_embedding: Tensor, guidance: float) -> Tensor:
        """The input of captions, and for guidance also of none: (n or 2 n, caption_length + 1, width)."""
        condition = self.caption(captions, text_embedding)
        if guidance == 1.0:
            return condition
        null = scaled(self.null_embedding.weight, self.scaling.input_multiplier)
        return torch.cat([condition, null.expand_as(condition)])

    def embeddings(self, batch: PictureBatch) -> Tensor:
        """The embeddings of a batch's pictures, (n, d), times sqrt(d). Raises UserError for other ones."""
        if batch.embedding is None:
            raise UserError(
                "a prior learns from captions and from a CLIP's embeddings: "
                "set data.encoder to a CLIP run, and take a corpus with captions"
            )
        dimensions, wanted = batch.embedding.shape[1], self.config.embedding
        if dimensions != wanted:
            raise UserError(
                f"the encoder's embeddings have {dimensions} numbers, the prior's {wanted}: "
                f"set model.embedding to {dimensions}"
            )
        return batch.embedding.float() * self.length

    def learns_from(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        """The embeddings (n, d) of a batch, times sqrt(d), and the input of their captions.

        In training a share of `drop` of the captions is left out. Raises UserError where the batch
        lacks what is learned from.
        """
        embeddings = self.embeddings(batch)
        if batch.captions is None or batch.text_embedding is None:
            raise UserError(
                "a prior learns from captions: set data.encoder to a CLIP run, and take a corpus with them"
            )
        share = self.config.drop if self.training else 0.0
        absent = torch.rand(len(batch.captions), device=batch.captions.device) < share
        read = self.caption(batch.captions, batch.text_embedding, absent)
        return embeddings, read
