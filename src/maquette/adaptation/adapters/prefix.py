"""Prefix tuning: keys and values of every block that stand before the sequence's (Li and Liang 2021).

They begin as those that tokens of the vocabulary leave in the model, drawn by the seed (section 7.4 there:
activations of real words). A weight multiplies the attention that they get: its logarithm is added to
their scores, so that weights are 0 or more. Left out: the network that the paper trains them through.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maquette.adaptation.adapters.adapter import Adapter, Weight, check_rows, unsupported_model
from maquette.adaptation.adapters.config import AdapterConfig, PrefixConfig
from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel, Model
from maquette.nn.attention import Prefix
from maquette.nn.rules import Role


class LanguageAdapter(Adapter):
    """What stands before the sequence of a language model with attention: see `prefixes`."""

    def __init__(self, config: AdapterConfig, model: Model) -> None:
        super().__init__(config, model)
        if not isinstance(model, LanguageModel):
            raise unsupported_model(model, config.kind, "decoders", "linear, bias, lora or full")
        self.width = model.config.width

    def prefixes(self, model: LanguageModel) -> list[Prefix]:
        """One for each block."""
        raise NotImplementedError

    def hook(self, model: Model) -> None:
        assert isinstance(model, LanguageModel)
        handle = model.blocks.register_forward_pre_hook(PrefixHook(self, model), with_kwargs=True)
        self.add_handle(handle)

    def check_weight(self, weight: Weight) -> None:
        least = float(weight.min()) if isinstance(weight, Tensor) else weight
        if least < 0:
            raise WrongUse(
                f"a {self.config.kind} cannot have the weight {least:g}: use 0 or more, or a lora"
            )


class PrefixHook:
    """A pre-hook of a stack: the prefixes of an adapter join those of others."""

    def __init__(self, adapter: LanguageAdapter, model: LanguageModel) -> None:
        self.adapter, self.model = adapter, model

    def __call__(
        self, stack: nn.Module, inputs: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        caches: Sequence[Any] | None = given.get("caches")
        begun = caches is not None and caches[0].length > 0  # the cache has them
        if self.adapter.off or begun:
            return inputs, given
        if isinstance(self.adapter.weight, Tensor):
            check_rows(self.adapter.weight, len(inputs[0]))
        bias = scores(self.adapter.weight, self.adapter.config.length)  # type: ignore[attr-defined]
        own = [Prefix(p.keys, p.values, bias) for p in self.adapter.prefixes(self.model)]
        others = given.get("prefixes")
        if others is not None:
            own = [p.after(other) for p, other in zip(own, others, strict=True)]
        return inputs, given | {"prefixes": own}


def scores(weight: Weight, length: int) -> Tensor | None:
    """What a weight adds to the scores of `length` keys, (1 or batch, length); None for a weight of 1."""
    if isinstance(weight, Tensor):
        return weight.float().log()[:, None].expand(-1, length)
    return None if weight == 1 else torch.full((1, length), math.log(weight))


def drawn_rows(model: LanguageModel, count: int, seed: int) -> Tensor:
    """The embeddings (count, width) of tokens that the seed draws, as they enter the blocks."""
    generator = torch.Generator().manual_seed(seed)
    table = model.embedding.weight.detach()
    rows = torch.randint(len(table), (count,), generator=generator)
    return table[rows.to(table.device)].clone() * model.scaling.input_multiplier


class KeyValuePrefix(LanguageAdapter):
    """Keys and values of every block, (blocks, kv_heads, length, head_dim)."""

    config: PrefixConfig

    def __init__(self, config: PrefixConfig, model: Model) -> None:
        super().__init__(config, model)
        assert isinstance(model, LanguageModel)
        self.roles = {"keys": Role.INPUT, "values": Role.INPUT}
        shape = model.prefix_shape(config.length)
        self.keys = nn.Parameter(torch.empty(shape))
        self.values = nn.Parameter(torch.empty(shape))

    @torch.no_grad()
    def initialise(self, model: Model, seed: int) -> None:
        """Fill them with what tokens drawn by the seed leave in the model."""
        assert isinstance(model, LanguageModel)
        drawn = model.prefixes(drawn_rows(model, self.config.length, seed))
        self.keys.copy_(torch.stack([p.keys for p in drawn]))
        self.values.copy_(torch.stack([p.values for p in drawn]))

    def prefixes(self, model: LanguageModel) -> list[Prefix]:
        return [Prefix(k, v) for k, v in zip(self.keys, self.values, strict=True)]
