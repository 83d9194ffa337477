"""The ways to adapt a trained model to another task: which adapter each attaches, and what it trains.

    method        adds                                          of
    linear        nothing: new heads are trained alone          classifiers
    bias          changes of the biases (BitFit)                every model
    lora          low-rank changes of the blocks' linear maps   models with linear maps in their blocks
    adapter       small layers after the blocks' branches       transformers, all-MLPs
    vpt-shallow   prompts before the first block                Vision Transformers
    vpt-deep      prompts before every block                    Vision Transformers
    prompt        vectors before the first token                decoders
    p-tuning      the same, trained through a network           decoders
    prefix        keys and values before those of the tokens    decoders
    full          nothing: everything is trained                every model

An adapted run is the adapter and the task's heads beside its base (`adapters/`); `full` is an ordinary run
that begins with the base's weights. "Trained parameters" are those that training changes, counted without
the heads, and as a percentage of the base without its heads: papers count otherwise, which is why it is
printed.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import (
    AdapterConfig,
    BiasConfig,
    BottleneckConfig,
    LinearConfig,
    LoRAConfig,
    PrefixConfig,
    PromptConfig,
)
from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.base import Model
from maquette.models.registry import AnyConfig

Method = Literal[
    "linear",
    "bias",
    "lora",
    "adapter",
    "vpt-shallow",
    "vpt-deep",
    "prompt",
    "p-tuning",
    "prefix",
    "full",
]
METHODS: tuple[str, ...] = get_args(Method)
PICTURES = ("vpt-shallow", "vpt-deep", "linear")
"""methods of pictures alone"""
TEXT = ("prompt", "p-tuning", "prefix")
"""methods of text alone"""


@dataclass(frozen=True)
class Counted:
    """Numbers of parameters that a method trains and leaves as they are."""

    trained: int
    """number of trained parameters, without the heads"""
    heads: int
    """number of parameters of the task's heads, which every method trains"""
    base: int
    """number of parameters of the model that is adapted, without its heads"""

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of the base's."""
        return self.trained / self.base

    def __str__(self) -> str:
        heads = f"heads left out of both: {self.heads:,}, trained by every method"
        return (
            f"{self.trained:,} trained parameters, {100 * self.share:.2f} % of the base's "
            f"{self.base:,}" + (f" ({heads})" if self.heads else "")
        )


def checked(method: str) -> Method:
    """The method of that name, or WrongUse with the nearest."""
    if method not in METHODS:
        raise WrongUse(f"unknown method {method}{did_you_mean(method, METHODS)}")
    return method  # type: ignore[return-value]


def adapter_of(method: Method, learns_from: str, *, length: int, size: int) -> AdapterConfig | None:
    """The adapter of a method for models of that kind of data; None: everything is trained.

    length: number of prompts, keys or values of a block. size: rank of lora, size of an adapter's layer.
    Raises WrongUse for a method of another kind of data.
    """
    others = PICTURES if learns_from == "text" else TEXT
    if method in others:
        known = ", ".join(m for m in METHODS if m not in others)
        raise WrongUse(f"{method} is not for a run of {learns_from}: use {known}")
    for name, value in {"prompts": length, "rank": size}.items():
        if value < 1:
            raise WrongUse(f"{name} is {value}: use at least 1")
    adapters: dict[str, AdapterConfig | None] = {
        "linear": LinearConfig(),
        "bias": BiasConfig(),
        "lora": LoRAConfig(rank=size, alpha=2.0 * size),
        "adapter": BottleneckConfig(size=size),
        "vpt-shallow": PromptConfig(length=length),
        "vpt-deep": PromptConfig(length=length, deep=True),
        "prompt": PromptConfig(length=length),
        "p-tuning": PromptConfig(length=length, reparametrised=True),
        "prefix": PrefixConfig(length=length),
        "full": None,
    }
    return adapters[method]


def count(config: AnyConfig, adapter: AdapterConfig | None) -> Counted:
    """How many parameters an adapter of a model trains, counted on the model itself.

    Raises WrongUse where the model has no place for the adapter.
    """
    with torch.device("meta"):
        model: Model = config.build()
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        heads = sum(
            n
            for name, n in sizes.items()
            if any(fnmatchcase(name, pattern) for pattern in model.task_parameters)
        )
        base = sum(sizes.values()) - heads
        if adapter is None:
            return Counted(base, heads, base)
        own = adapter.build(model)
        attach(model, adapter.kind, own)  # says what cannot be attached
    return Counted(sum(p.numel() for p in own.parameters()), heads, base)
