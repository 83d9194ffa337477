"""Experts for tokens: each token goes through one feed-forward layer of several.

A gate scores the experts, the token takes one, and what the expert says is multiplied by the sigmoid
of its score, so that the gate learns (BASE layers: Lewis et al. 2021, section 2). In training the
choice is balanced: every expert has a price, such that about as many tokens of the batch prefer each;
these are the dual variables of the assignment problem of BASE layers, found here by coordinate descent
instead of an auction. In evaluation and generation a token takes its best expert and asks no other
token. Tokens are sorted by expert and every expert is one product over its own, so that none is
dropped and the operations are those of the active parameters. Left out: experts on several devices.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear
from maquette.nn.rules import Role

SWEEPS = 3


class ExpertLinear(nn.Module):
    """A matrix for each expert: (experts, fan_out, fan_in), no bias."""

    def __init__(self, experts: int, fan_in: int, fan_out: int, *, residual: bool = False) -> None:
        super().__init__()
        self.roles = {"weight": Role.HIDDEN}
        self.residual = residual
        self.weight = nn.Parameter(torch.empty(experts, fan_out, fan_in))

    def forward(self, x: Tensor, expert: int) -> Tensor:  # (tokens, fan_in) -> (tokens, fan_out)
        return F.linear(x, self.weight[expert].to(x.dtype))


class TokenExperts(nn.Module):
    """A feed-forward layer (GELU) chosen for each token: the tMoE module of Yu et al. 2022.

    gate_multiplier: factor of the gate's scores, from the parametrisation. A single expert has no gate.
    """

    def __init__(self, width: int, hidden: int, experts: int, gate_multiplier: float = 1.0) -> None:
        super().__init__()
        self.experts, self.gate_multiplier = experts, gate_multiplier
        self.gate = Linear(width, experts, role=Role.OUTPUT) if experts > 1 else None
        self.up = ExpertLinear(experts, width, hidden)
        self.down = ExpertLinear(experts, hidden, width, residual=True)

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> (..., width)
        tokens = x.flatten(0, -2)
        if self.gate is None:
            return self._expert(tokens, 0).view_as(x)
        scores = self.gate(tokens).float() * self.gate_multiplier  # (tokens, experts)
        expert, strength = choose(scores, scores if self.training else None)
        y: Tensor = self._routed(tokens, expert) * strength.to(x.dtype)[:, None]
        return y.view_as(x)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _routed(self, tokens: Tensor, expert: Tensor) -> Tensor:
        """The output of each token's expert."""
        order = expert.argsort(stable=True)
        counts = expert.bincount(minlength=self.experts).tolist()
        parts = tokens.index_select(0, order).split(counts)
        outs = [self._expert(part, e) for e, part in enumerate(parts) if len(part)]
        return torch.cat(outs).index_select(0, order.argsort())

    def _expert(self, tokens: Tensor, expert: int) -> Tensor:
        return self.down(F.gelu(self.up(tokens, expert)), expert)  # type: ignore[no-any-return]


def choose(scores: Tensor, among: Tensor | None) -> tuple[Tensor, Tensor]:
    """The expert of each item and the sigmoid of its score: (...) int64 and (...).

    scores: (..., experts). among: (items, experts), the scores that prices are set by, so that the
    experts are equally busy; None: every item takes its best.
    """
    offered = scores.detach() if among is None else scores.detach() - prices(among.detach())
    expert = offered.argmax(-1)
    return expert, scores.gather(-1, expert[..., None]).squeeze(-1).sigmoid()


@torch.no_grad()
def prices(scores: Tensor) -> Tensor:
    """Prices of the experts at which equally many items prefer each: (items, e) -> (e,).

    Coordinate descent on the dual of the balanced assignment: an expert's price is set midway between
    the margins of the last item that should keep it and the first that should not.
    """
    items, experts = scores.shape
    price = scores.new_zeros(experts)
    share = items // experts
    if share < 1 or experts < 2:
        return price
    for _ in range(SWEEPS):
        for e in range(experts):
            net = scores - price
            net[:, e] = -torch.inf
            margin = scores[:, e] - net.amax(1)  # the price at which an item would leave e
            price[e] = margin.topk(share + 1).values[-2:].mean()
    return price
