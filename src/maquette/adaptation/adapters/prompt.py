"""Prompt tuning: vectors before the sequence, the only thing that is trained.

Of a decoder (Lester et al. 2021): they stand before the first token, and since nothing before them is seen,
all that the tokens see of them are the keys and values that they leave in every block, which are computed
once a step for all rows. They begin as embeddings of tokens that the seed draws. P-tuning (Liu et al. 2021,
section 3.2) trains them through a network, a bidirectional LSTM and an MLP over those embeddings, which ties
them to each other; a finished run keeps the vectors that came out of it, and is a plain prompt. Left out:
virtual tokens inside and after the text.

Of a Vision Transformer (Jia et al. 2022, section 3.2): tokens after the class token. Shallow: they enter
before the first block and flow on. Deep: before every later block what came out of them is dropped and
that block's own take their place. They have no position and start uniform in (-v, v), v = sqrt(6 / (3
patch^2 + width)). The frozen encoder has no dropout, so it computes in training what it computes in
evaluation. Left out: the projection of prompts (off by default there), deep prompts of decoders.
"""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.adaptation.adapters.adapter import Adapter, Weight, adapters_of, unsupported_model
from maquette.adaptation.adapters.config import PromptConfig
from maquette.adaptation.adapters.prefix import LanguageAdapter, drawn_rows
from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel, Model
from maquette.models.vit import ViT
from maquette.nn.attention import Prefix
from maquette.nn.linear import Linear
from maquette.nn.rules import Role


def prompt(config: PromptConfig, model: Model) -> Adapter:
    """The prompts of a decoder, or of a Vision Transformer."""
    if isinstance(model, ViT):
        return VisualPrompts(config, model)
    if isinstance(model, LanguageModel):
        return TextPrompts(config, model)
    raise unsupported_model(
        model, "prompt", "decoders and Vision Transformers", "linear, bias or full"
    )


class TextPrompts(LanguageAdapter):
    """Vectors (length, width) before the first token."""

    config: PromptConfig

    def __init__(self, config: PromptConfig, model: LanguageModel) -> None:
        super().__init__(config, model)
        if config.deep:
            raise WrongUse("deep prompts are for Vision Transformers: use prefix for a decoder")
        model.prefix_shape(config.length)  # refuses a model without attention
        self.roles = {"vectors": Role.INPUT}
        self.vectors = nn.Parameter(torch.empty(config.length, self.width))
        self.network = PromptEncoder(self.width) if config.reparametrised else None

    @torch.no_grad()
    def initialise(self, model: Model, seed: int) -> None:
        """Fill them with the embeddings of tokens drawn by the seed."""
        assert isinstance(model, LanguageModel)
        self.vectors.copy_(drawn_rows(model, self.config.length, seed))
        if self.network is not None:
            self.network.initialise(seed)

    def trained_vectors(self) -> Tensor:
        """The vectors (length, width) that stand before the first token."""
        return self.vectors if self.network is None else self.network(self.vectors)

    @torch.no_grad()
    def trained_tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.trained_vectors().detach()}

    def prefixes(self, model: LanguageModel) -> list[Prefix]:
        vectors = self.trained_vectors()
        return model.prefixes(F.dropout(vectors, self.config.dropout, self.training))


class PromptEncoder(nn.Module):
    """The network of P-tuning: a bidirectional LSTM of two layers, then an MLP with one hidden layer.

    It starts as torch starts an LSTM, uniform in (-v, v), v = 1 / sqrt(width), under every parametrisation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.lstm = LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden = Linear(2 * width, 2 * width, bias=True)
        self.output = Linear(2 * width, width, bias=True)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the parameters, as a function of the seed alone."""
        bound = 1 / math.sqrt(self.width)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:  # (length, width) -> (length, width)
        states, _ = self.lstm(inputs)  # (length, 2 width)
        return self.output(F.relu(self.hidden(states)))  # type: ignore[no-any-return]


class LSTM(nn.LSTM):
    """torch's LSTM with the roles of its parameters."""

    @property
    def roles(self) -> dict[str, Role]:
        """Role of each parameter by its name."""
        names = [name for name, _ in self.named_parameters(recurse=False)]
        return {n: Role.HIDDEN if n.startswith("weight") else Role.VECTOR for n in names}


class VisualPrompts(Adapter):
    """Vectors (1 or blocks, length, width) after the class token; on (weight 1) or off (weight 0)."""

    config: PromptConfig

    def __init__(self, config: PromptConfig, model: ViT) -> None:
        super().__init__(config, model)
        if config.reparametrised:
            raise WrongUse("p-tuning is for decoders: use vpt-shallow or vpt-deep")
        c = model.config
        self.roles = {"vectors": Role.INPUT}
        layers = c.depth if config.deep else 1
        self.vectors = nn.Parameter(torch.empty(layers, config.length, c.width))
        self.bound = math.sqrt(6 / (3 * c.patch**2 + c.width))  # Jia et al. 2022, their code
        self.first = model.summary  # where they stand

    def check_weight(self, weight: Weight) -> None:
        if isinstance(weight, Tensor) or weight not in (0, 1):
            raise WrongUse("prompts of a Vision Transformer are on or off: use the weight 1 or 0")

    @torch.no_grad()
    def initialise(self, model: Model, seed: int) -> None:
        """Draw them from U(-bound, bound), as a function of the seed alone."""
        digest = hashlib.sha256(f"{seed}/prompts".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        drawn = torch.empty(self.vectors.shape, dtype=torch.float32)
        self.vectors.copy_(drawn.uniform_(-self.bound, self.bound, generator=generator))

    def hook(self, model: Model) -> None:
        assert isinstance(model, ViT)
        if any(isinstance(other, VisualPrompts) for other in adapters_of(model).values()):
            raise WrongUse("this model has prompts already: attach one adapter with prompts")
        for layer, block in enumerate(model.blocks):
            if layer == 0 or self.config.deep:
                self.add_handle(block.register_forward_pre_hook(InsertPrompts(self, layer)))
        self.add_handle(model.blocks.register_forward_hook(RemovePrompts(self)))

    def before(self, layer: int, x: Tensor) -> Tensor:
        """The sequence with the prompts of a block in their place."""
        rest = x[:, self.first :] if layer == 0 else x[:, self.first + self.config.length :]
        tokens = self.vectors[layer].to(x.dtype).expand(len(x), -1, -1)
        tokens = F.dropout(tokens, self.config.dropout, self.training)
        return torch.cat([x[:, : self.first], tokens, rest], dim=1)

    def after(self, x: Tensor) -> Tensor:
        """The sequence without them."""
        return torch.cat([x[:, : self.first], x[:, self.first + self.config.length :]], dim=1)


class InsertPrompts:
    """A pre-hook of a block."""

    def __init__(self, adapter: VisualPrompts, layer: int) -> None:
        self.adapter, self.layer = adapter, layer

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.adapter.off:
            return inputs
        return (self.adapter.before(self.layer, inputs[0]), *inputs[1:])


class RemovePrompts:
    """A hook of the stack."""

    def __init__(self, adapter: VisualPrompts) -> None:
        self.adapter = adapter

    def __call__(self, stack: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if self.adapter.off else self.adapter.after(output)
