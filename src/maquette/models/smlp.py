"""Sparse all-MLP: a language model without attention, with experts over features and over tokens.

    dense block (gMLP)                sparse block
      x -> norm -> token mixing -+      x -> norm -> mixing by experts (sMoE) -+
      |                          v      |                                      v
      x -----------------------> +      x -----------------------------------> +
                                        x -> norm -> feed-forward experts (tMoE) -> +

Source: Yu et al. 2022, "Efficient Language Modeling with Sparse all-MLP", section 3; the dense block is
that of Liu et al. 2021. First come the dense blocks, then the sparse ones.

A gate over the features of a whole sequence would tell every position about the future. The paper's
two ways out are `routing` "deterministic" and "partial"; with the second the gate sees the first fifth
and the loss counts the rest. Here the gate sees, at a position inside that fifth, what has been
read so far, so that nothing leaks there either and a text can be generated from any prompt. What this
means: the training and held-out loss of such a run are those of the last four fifths; `eval` scores
every token, also those that the model was never trained to predict; a prompt should be at least that
long. The balanced choice of feed-forward experts looks at a whole batch (of one rank and one micro-batch)
in training; in evaluation and generation every token chooses alone. Left out: biases but the gate's,
experts on several devices.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel, TokenBatch
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.linear import Embedding, Linear
from maquette.nn.moe import TokenExperts
from maquette.nn.norm import make_norm
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role, Scaling
from maquette.nn.stack import Stack
from maquette.nn.token_mixing import MixCache, QueryPositions, SpatialGating, TokenMixing


class Block(nn.Module):
    """Token mixing and, in a sparse block, feed-forward experts, each adding to the residual stream."""

    branches: ClassVar[tuple[str, ...]] = ("mixing", "experts")

    def __init__(self, config: SMLPConfig, sparse: bool, scaling: Scaling) -> None:
        super().__init__()
        c = config
        self.dropout, self.multiplier = c.dropout, scaling.residual_multiplier
        gating = SpatialGating(
            c.inner // 2,
            c.context,
            c.feature_experts if sparse else 1,
            routing=c.routing,
            prefix=max(1, c.unpredicted),
            norm=c.norm,
            epsilon=c.norm_epsilon,
            multiplier=c.mixing_multiplier / c.context,
            gate_multiplier=1 / scaling.width_ratio,
        )
        self.mixing_norm = make_norm(c.norm, c.width, bias=False, epsilon=c.norm_epsilon)
        self.mixing = TokenMixing(c.width, c.inner, gating)
        self.experts_norm: nn.Module | None = None
        self.experts: TokenExperts | None = None
        if sparse:
            self.experts_norm = make_norm(c.norm, c.width, bias=False, epsilon=c.norm_epsilon)
            self.experts = TokenExperts(
                c.width, c.expert_inner, c.token_experts, 1 / scaling.width_ratio
            )

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        query_positions: QueryPositions | None = None,
        cache: MixCache | None = None,
    ) -> Tensor:
        x = x + self._branch(self.mixing(self.mixing_norm(x), query_positions, cache))
        if self.experts is None or self.experts_norm is None:
            return x
        return x + self._branch(self.experts(self.experts_norm(x)))

    def cache(self, batch: int, room: int, dtype: torch.dtype, device: torch.device) -> MixCache:
        """An empty cache of `room` positions of `batch` sequences."""
        return self.mixing.cache(batch, room, dtype, device)

    def _branch(self, y: Tensor) -> Tensor:
        return F.dropout(scaled(y, self.multiplier), self.dropout, self.training)


class SMLP(LanguageModel):
    """The all-MLP of a config; see `LanguageModel` for what it offers."""

    config: SMLPConfig
    uncounted: ClassVar[str] = (
        "no target counts, as where every document is shorter than the prefix of partial routing: lower "
        "model.prefix, leave out data.document_mask, or use another model.routing"
    )

    def __init__(self, config: SMLPConfig) -> None:
        super().__init__(config)
        c = config
        self.embedding = Embedding(c.vocabulary, c.width)
        self.blocks = Stack(Block(c, layer >= c.dense, self.scaling) for layer in range(c.depth))
        self.norm = make_norm(c.norm, c.width, bias=False, epsilon=c.norm_epsilon)
        self.output = Linear(c.width, c.vocabulary, role=Role.OUTPUT)
        if c.tied:
            self.output.weight = self.embedding.weight

    def hidden(
        self,
        tokens: Tensor,  # (batch, time)
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: list[MixCache] | None = None,
    ) -> Tensor:
        """Raises WrongUse for sequences longer than the mixing matrices."""
        past = cache[0].length if cache else 0
        end = past + tokens.shape[1]
        if positions is None and end > self.config.context:
            raise WrongUse(
                f"a sequence of {end} tokens does not fit the mixing matrices of "
                f"{self.config.context} positions: shorten it, or train with a larger model.context"
            )
        query_positions = None
        if positions is not None or document_ids is not None:
            if positions is None:
                positions = torch.arange(past, end, device=tokens.device)
            query_positions = QueryPositions(positions.expand(tokens.shape), document_ids)
        x = scaled(self.embedding(tokens), self.scaling.input_multiplier).to(self.compute)
        x = F.dropout(x, self.config.dropout, self.training)
        x = self.blocks(x, query_positions=query_positions, caches=cache)
        return self.norm(x)  # type: ignore[no-any-return]

    def counted(self, batch: TokenBatch) -> Tensor:
        """The targets; with partial routing those after the prefix.

        Raises WrongUse when no target comes after the prefix.
        """
        targets, prefix = batch.targets, self.config.unpredicted
        if not prefix:
            return targets
        positions = batch.positions
        if positions is None:
            positions = torch.arange(targets.shape[1], device=targets.device)
            self.config.check_sequence(targets.shape[1])
        # the prediction made at the prefix's last position is the first that knew all of it
        return targets.masked_fill(positions < prefix - 1, -1)
