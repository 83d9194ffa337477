"""What a recipe says of its adapter: a kind and its options, without torch and without a model.

    adapter: {kind: lora, rank: 8, alpha: 16}

    kind         what it adds to the frozen model
    linear       nothing: the heads of a new task are trained alone
    bias         a vector to the output of every module with a bias (BitFit, Ben Zaken et al. 2021)
    lora         a product of two thin matrices to linear maps (Hu et al. 2021)
    bottleneck   a small layer after every branch of a block (Houlsby et al. 2019)
    prompt       vectors before the sequence (Lester et al. 2021, Liu et al. 2021, Jia et al. 2022)
    prefix       keys and values before the sequence, of every block (Li and Liang 2021)

`KINDS` names them; another file may add its own.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, did_you_mean, within
from maquette.base.named import named

ANY = float("inf")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The kind of an adapter and its options.

    adapter_class: "module.Class" of the adapter, which is made of the config and the model.
    """

    adapter_class: ClassVar[str]
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: str = ""
    """kind of adapter"""

    def build(self, model: Any) -> Any:
        """The adapter of a model, neither attached to it nor filled.

        Raises WrongUse where the model has no place for it.
        """
        return named(self.adapter_class)(self, model)

    @property
    def trained(self) -> "AdapterConfig":
        """The config of the adapter when it is trained: without what only training needs."""
        return self


@dataclass(frozen=True, kw_only=True)
class LinearConfig(AdapterConfig):
    """Nothing but new heads: the linear probe."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.adapter.Adapter"

    kind: Literal["linear"] = "linear"
    """kind of adapter"""


@dataclass(frozen=True, kw_only=True)
class BiasConfig(AdapterConfig):
    """Changes of the biases; of a model without any, biases of its blocks' linear maps."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.bias.Bias"

    kind: Literal["bias"] = "bias"
    """kind of adapter"""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(AdapterConfig):
    """Low-rank changes of linear maps."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.lora.LoRA"

    kind: Literal["lora"] = "lora"
    """kind of adapter"""
    rank: int = 8
    """rank of the change"""
    alpha: float = 16.0
    """factor of the change, times its rank"""
    target_modules: tuple[str, ...] = ("*",)
    """patterns of the linear maps that are changed, as in "*.attention.qkv"; "*": all inside blocks"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "rank")
        within(self, 0, ANY, "alpha")


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(AdapterConfig):
    """A small layer with a residual connection after every branch of every block."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.bottleneck.Bottlenecks"

    kind: Literal["bottleneck"] = "bottleneck"
    """kind of adapter"""
    size: int = 16
    """size of the layer's hidden vector"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "size")


@dataclass(frozen=True, kw_only=True)
class PromptConfig(AdapterConfig):
    """Vectors before the sequence."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.prompt.prompt"

    kind: Literal["prompt"] = "prompt"
    """kind of adapter"""
    length: int = 10
    """number of vectors"""
    deep: bool = False
    """whether every block has vectors of its own; off: those of the first flow on"""
    dropout: float = 0.0
    """dropout of the vectors while they are trained"""
    reparametrised: bool = False
    """whether the vectors are trained through a network (P-tuning), which a finished run does not keep"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "length")
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"dropout is {self.dropout}: use 0 to below 1")

    @property
    def trained(self) -> AdapterConfig:
        """Without the network that makes the vectors."""
        return replace(self, reparametrised=False)


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(AdapterConfig):
    """Keys and values of every block before those of the sequence."""

    adapter_class: ClassVar[str] = "maquette.adaptation.adapters.prefix.KeyValuePrefix"

    kind: Literal["prefix"] = "prefix"
    """kind of adapter"""
    length: int = 10
    """number of keys and values of a block"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "length")


KINDS: dict[str, str | type[AdapterConfig]] = {
    "linear": "maquette.adaptation.adapters.config.LinearConfig",
    "bias": "maquette.adaptation.adapters.config.BiasConfig",
    "lora": "maquette.adaptation.adapters.config.LoRAConfig",
    "bottleneck": "maquette.adaptation.adapters.config.BottleneckConfig",
    "prompt": "maquette.adaptation.adapters.config.PromptConfig",
    "prefix": "maquette.adaptation.adapters.config.PrefixConfig",
}
"""the config of a kind of adapter by its name, or where it is"""


def adapter_kind(content: Any) -> type[AdapterConfig]:
    """The class of an adapter's plain values. Raises WrongUse for what names no kind."""
    name = content.get("kind") if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(name, str):
        raise WrongUse(
            f"adapter is {content!r}: write adapter: {{kind: lora}}; the kinds are {', '.join(KINDS)}"
        )
    if name not in KINDS:
        raise WrongUse(f"unknown adapter.kind {name}{did_you_mean(name, KINDS)}")
    kind: type[AdapterConfig] = named(KINDS[name])
    return kind


def adapter_from(content: Any) -> AdapterConfig:
    """The config of plain values, as JSON has them. Raises WrongUse and TypeError for what is none."""
    kind = adapter_kind(content)
    options: dict[str, Any] = {
        n: tuple(v) if isinstance(v, list) else v for n, v in content.items()
    }
    known = {field.name for field in fields(kind)}
    for name in sorted(options.keys() - known):
        raise WrongUse(f"unknown field {name}{did_you_mean(name, known)}")
    return kind(**options)
