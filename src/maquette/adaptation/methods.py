"""The ways to adapt a picture classifier to another task: what each adds, and what it trains.

    method        adds                                     trains, besides the new heads
    linear        nothing                                  nothing
    bias          nothing                                  biases (Ben Zaken et al. 2021, BitFit)
    vpt-shallow   prompts before the first block           prompts (Jia et al. 2022, section 3.2)
    vpt-deep      prompts before every block               prompts
    lora          low-rank changes of every block's maps   those (Hu et al. 2021)
    full          nothing                                  everything

An adapted model is another config whose weights begin from the base's, of which only the parameters
that match the method's patterns train, so that it is trained, saved and loaded as any other. Patterns
are fnmatch's. "Trained parameters" are those that training changes, counted without the heads, and as
a percentage of the base without its heads: papers count otherwise, which is why it is printed.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeVar, get_args

import torch

from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.classifier_config import ClassifierConfig
from maquette.models.vit_config import ViTConfig

Method = Literal["linear", "bias", "vpt-shallow", "vpt-deep", "lora", "full"]
METHODS: tuple[str, ...] = get_args(Method)
HEADS = "heads.*"
PATTERNS: dict[str, tuple[str, ...]] = {
    "linear": (HEADS,),
    "bias": ("*.bias", HEADS),
    "vpt-shallow": ("prompts.*", HEADS),
    "vpt-deep": ("prompts.*", HEADS),
    "lora": ("*.lora_a", "*.lora_b", HEADS),
    "full": ("*",),
}
"""patterns of the names of the parameters that each method trains"""
C = TypeVar("C", bound=ClassifierConfig)


@dataclass(frozen=True)
class Counted:
    """Numbers of parameters that a method trains and leaves as they are."""

    trained: int
    """number of trained parameters, without the heads"""
    heads: int
    """number of parameters of the new heads, which every method trains"""
    base: int
    """number of parameters of the model that is adapted, without its heads"""

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of the base's."""
        return self.trained / self.base

    def __str__(self) -> str:
        return (
            f"{self.trained:,} trained parameters, {100 * self.share:.2f} % of the base's "
            f"{self.base:,} (heads left out of both: {self.heads:,}, trained by every method)"
        )


def checked(method: str) -> Method:
    """The method of that name, or WrongUse with the nearest."""
    if method not in METHODS:
        raise WrongUse(f"unknown method {method}{did_you_mean(method, METHODS)}")
    return method  # type: ignore[return-value]


def adapted(
    base: C,
    method: Method,
    *,
    classes: tuple[int, ...],
    labels: tuple[int, ...] = (),
    task: str = "",
    prompts: int = 10,
    rank: int = 8,
) -> C:
    """The config of the adapted model: the base's with new heads, and with what the method adds.

    classes, labels, task: the data's label factors, those that are learned, and what the heads are
    called. Raises WrongUse where the architecture has no place for prompts or low-rank changes.
    """
    new = replace(base, classes=classes, labels=labels, task=task)
    if method in ("linear", "bias", "full"):
        return new
    if not isinstance(new, ViTConfig):
        raise WrongUse(
            f"{method} adapts Vision Transformers, this run is a {base.kind}: use linear, bias or full"
        )
    if method == "lora":
        if rank < 1:
            raise WrongUse(f"rank is {rank}: use at least 1")
        return replace(new, lora_rank=rank, lora_alpha=2.0 * rank)
    if prompts < 1:
        raise WrongUse(f"prompts is {prompts}: use at least 1")
    if new.prompts:
        raise WrongUse("this run has prompts already: adapt the run that it began from")
    return replace(new, prompts=prompts, deep=method == "vpt-deep")


def count(base: ClassifierConfig, config: ClassifierConfig, method: Method) -> Counted:
    """How many parameters the method trains, counted on the model itself."""
    with torch.device("meta"):
        before = sum(_sizes(base.build(), ("*",)).values())
        own = _sizes(config.build(), PATTERNS[method])
    heads = sum(n for name, n in own.items() if fnmatchcase(name, HEADS))
    return Counted(sum(own.values()) - heads, heads, before - _heads(base))


def _sizes(model: torch.nn.Module, patterns: tuple[str, ...]) -> dict[str, int]:
    """The parameters whose names match one of the patterns, with their sizes."""
    return {
        name: p.numel()
        for name, p in model.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _heads(config: ClassifierConfig) -> int:
    with torch.device("meta"):
        return sum(_sizes(config.build(), (HEADS,)).values())
