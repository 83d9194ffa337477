"""A recipe says everything about a run: a function returns it, flags override it, YAML keeps it.

    @recipe
    def tiny() -> Recipe:
        return Recipe(model=DecoderConfig(width=64), steps=60)

    maquette train tiny --optimiser.learning-rate 0.003     (any field is a flag)
    maquette train my.yaml                                  (any field may be left out)

With the corpus, the recipe determines the result to the last bit on one kind of machine.
"""

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, cast, get_args, get_origin

import yaml
from typing_extensions import TypeVar

from maquette.adaptation.adapters.config import AdapterConfig, adapter_kind
from maquette.base.errors import WrongUse, check_numbers, did_you_mean, plain, within
from maquette.base.files import write_atomic
from maquette.base.version import __version__
from maquette.models.config import DecoderConfig
from maquette.models.registry import AnyConfig, ModelConfig, kind_of
from maquette.training.datasets.config import ANY, Data, Watch, data_kind
from maquette.training.datasets.text_config import TextWatch, TokenData

FORMAT = 1  # of run directories
M = TypeVar("M", bound=AnyConfig, default=AnyConfig, covariant=True)  # noqa: PLC0105
D = TypeVar("D", bound=Data, default=Data, covariant=True)  # noqa: PLC0105
W = TypeVar("W", bound=Watch, default=Watch, covariant=True)  # noqa: PLC0105
A = TypeVar(  # noqa: PLC0105
    "A", bound=AdapterConfig | None, default=AdapterConfig | None, covariant=True
)


ParameterGroup = tuple[str, float, int]
"""pattern of parameter names, factor of the learning rate (0: frozen), number of first steps frozen"""


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW (Loshchilov and Hutter 2019); rates and decay are scaled by each parameter's role."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    learning_rate: float = 0.004
    """peak rate, at the base width of the parametrisation"""
    beta1: float = 0.9
    """decay of the first moment"""
    beta2: float = 0.95
    """decay of the second moment; 0.99 suits batches of few tokens"""
    epsilon: float = 1e-10
    """number added to the root of the second moment; small, because wide models have small gradients"""
    weight_decay: float = 0.1
    """decoupled decay of matrices, in learning rates"""
    clip: float = 1.0
    """largest norm of all gradients as one vector; 0: no clipping"""
    z_loss: float = 0.0
    """weight of the squared log-partition (PaLM: 1e-4)"""
    average: float = 0.0
    """decay of a moving average of the weights, which is scored, sampled from and kept; 0: no average"""
    groups: tuple[ParameterGroup, ...] = ()
    """pattern of parameter names, factor of their rate (0: frozen) and number of first steps that they are
    frozen for, as in "heads.*" 1 0 "*" 0 0; the first pattern that matches counts; the rest is trained"""

    def __post_init__(self) -> None:
        within(self, 0, ANY, "learning_rate", "epsilon", "weight_decay", "clip", "z_loss")
        within(self, 0, 0.99999, "beta1", "beta2", "average")
        for pattern, rate, frozen in self.groups:
            if not 0 <= rate < ANY or frozen < 0:
                raise WrongUse(
                    f"optimiser.groups: {pattern} has rate factor {plain(rate)} and {plain(frozen)} frozen "
                    f"steps: use numbers from 0 on"
                )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the run, as fractions of its steps."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """wsd: warm up, stay, decay over the last part (Hu et al. 2024)"""
    warmup: float = 0.03
    """warm-up, as a fraction of the steps"""
    decay: float = 0.2
    """decay of a wsd schedule, as a fraction of the steps"""
    floor: float = 0.1
    """last learning rate over the peak"""

    def __post_init__(self) -> None:
        within(self, 0, 1, "warmup", "decay", "floor")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When the state is saved, and which saves are kept."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    every: int | None = None
    """steps between saves; None: a tenth of the run"""
    keep_last: int = 2
    """number of newest saves that are kept; more where the guard needs one from before its patience began"""
    keep_every: int | None = None
    """steps between saves that are kept for good; None: none are"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "every", "keep_last", "keep_every")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Handling of losses that are not finite or jump (Chowdhery et al. 2022, section 5.1)."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    spike: float = 8.0
    """standard deviations over the recent mean from which a loss is a spike; 0: only non-finite ones are"""
    window: int = 64
    """number of recent steps that make the mean"""
    patience: int = 3
    """number of bad batches in a row that are skipped before a rewind to a checkpoint"""
    rewinds: int = 5
    """number of rewinds before the run gives up"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "window")
        within(self, 0, ANY, "spike", "patience", "rewinds")


MOST_SEED = 2**63 - 1  # what every generator of random numbers takes


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[M, D, W, A]):
    """Everything about a run. What differs between kinds of data and models is in their own dataclasses."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    name: str = "custom"
    """name of the run"""
    steps: int = 1000
    """number of optimiser steps, and length of the schedule"""
    stop: int | None = None
    """step to stop at, though the schedule goes on to `steps`; None: the last"""
    batch: int = 32
    """number of samples a step (sequences, pictures), over all ranks"""
    micro_batch: int | None = None
    """number of samples that a rank computes at a time; None: all of its share"""
    seed: int = 0
    """seed of the parameters, the data order and dropout"""
    ranks: int = 1
    """number of processes"""
    layout: str = "ddp"
    """layout of the tensors over the ranks"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """device; auto: the GPU where there is one"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """precision of the activations; auto: the faster on this machine, measured"""
    compile: Literal["auto", "on", "kernels", "off"] = "auto"
    """whether blocks are compiled: on; kernels: not, but on a processor the row kernels of `nn.native` are
    used, as they are with on; auto: kernels, and blocks too where that pays for this run, measured"""
    recompute: bool = False
    """whether activations are recomputed in the backward pass, to save memory"""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """trackers that get the metrics besides metrics.jsonl"""
    start: str = ""
    """run whose weights this one begins with, tensor by tensor of the same name: new tensors keep their
    start, new inputs begin at zero, positions of another picture size are interpolated; empty: none"""
    adapter: A = None  # type: ignore[assignment] # bound allows it
    """adapter of the frozen model that is trained in the model's place (kind, its options); None: none"""
    model: M = field(default_factory=DecoderConfig)  # type: ignore[assignment] # the default of M
    data: D = None  # type: ignore[assignment] # of the kind that the model learns from
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    watch: W = None  # type: ignore[assignment] # of the data's kind
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        _default(self, "data", data_kind(self.model.learns_from))
        _default(self, "watch", self.data.watch)
        within(self, 1, ANY, "steps", "batch", "ranks")
        check_numbers(self, most_seed=MOST_SEED)
        if self.start:  # a run finds it from any folder
            whole = os.path.abspath(os.path.expanduser(self.start))
            object.__setattr__(self, "start", whole)
        if self.batch % self.ranks:
            better = -(-self.batch // self.ranks) * self.ranks
            raise WrongUse(
                f"batch {self.batch} is not divisible by ranks {self.ranks}: use batch {better}"
            )
        share = self.batch // self.ranks
        if self.micro_batch is not None and (self.micro_batch < 1 or share % self.micro_batch):
            raise WrongUse(
                f"micro_batch {self.micro_batch} does not divide a rank's share of {share} "
                f"samples: use a divisor of {share}"
            )
        if self.stop is not None and not 1 <= self.stop <= self.steps:
            raise WrongUse(f"stop {self.stop} is outside the {self.steps} steps")
        if self.data.modality != self.model.learns_from:
            raise WrongUse(
                f"a {self.model.kind} learns from {self.model.learns_from}, data.kind is {self.data.kind}"
            )
        if not isinstance(self.watch, self.data.watch):
            wanted, actual = self.data.watch.__name__, type(self.watch).__name__
            raise WrongUse(f"watch is {actual}, data.kind {self.data.kind} needs {wanted}")
        self.data.check(self)

    @property
    def unit(self) -> str:
        """Name of what is counted: "tokens" or "pictures"."""
        return self.data.unit

    @property
    def units_per_step(self) -> int:
        """Number of tokens, or pictures, of a step."""
        return self.data.units(self.batch)

    @property
    def flops_per_unit(self) -> float:
        """Operations of a training step per unit; 0 where they are counted on the first batch.

        With an adapter two thirds: of the three products of a frozen map that of its gradient is not taken.
        """
        whole = self.data.flops_per_unit(self.model)
        return whole if self.adapter is None else whole * 2 / 3

    @property
    def last_step(self) -> int:
        """Step at which training ends."""
        return self.stop or self.steps

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for YAML and JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def save(self, path: Path, plan: dict[str, Any] | None = None) -> None:
        """Write `recipe.yaml`; `plan`: what was forecast of it, kept beside the fields."""
        head: dict[str, Any] = {"maquette": __version__, "format": FORMAT}
        if plan is not None:
            head["plan"] = plan
        write_atomic(path, yaml.safe_dump(head | self.to_dict(), sort_keys=False))


def _default(recipe: Recipe, name: str, kind: type[Data] | type[Watch]) -> None:
    """Give a field that was left out its kind's defaults."""
    if getattr(recipe, name) is None:
        object.__setattr__(recipe, name, kind())


LanguageRecipe = Recipe[ModelConfig, TokenData, TextWatch]
"""recipe of a language model"""


def language(recipe: Recipe) -> LanguageRecipe:
    """The recipe of a language model. Raises WrongUse for a recipe of another kind."""
    if not isinstance(recipe.data, TokenData):
        raise WrongUse(
            f"{recipe.name} is a recipe of {recipe.data.kind} ({recipe.model.kind}): name one of text"
        )
    return cast(LanguageRecipe, recipe)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, or say which field of which file is wrong and what was probably meant."""
    content = _content(path)
    content.pop("plan", None)
    written = content.pop("format", FORMAT)
    version = content.pop("maquette", __version__)
    if written != FORMAT:
        raise WrongUse(
            f"{path} was written by Maquette {version} in format {written}, this is {__version__} "
            f"with format {FORMAT}: use that version, or start a new run"
        )
    return recipe_from(content, str(path))


def load_plan(path: Path) -> dict[str, Any]:
    """The numbers that were forecast of a recipe when it was planned; empty where none were."""
    plan = _content(path).get("plan")
    if not isinstance(plan, dict):
        return {}
    return {
        name: value
        for name, value in plan.items()
        if isinstance(name, str) and isinstance(value, int | float) and math.isfinite(value)
    }


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WrongUse(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WrongUse(f"{path} holds no recipe: write fields such as 'steps: 100'")
    return content


def recipe_from(content: dict[str, Any], where: str) -> Recipe:
    """The recipe of plain values. Raises WrongUse for a wrong field, naming it."""
    try:
        model = kind_of(content.get("model", {}))
        fields = content.get("data")
        fields = fields if isinstance(fields, dict) else {}
        data = data_kind(fields.get("kind", model.learns_from))
        adapter = content.get("adapter")
        own = type(None) if adapter is None else adapter_kind(adapter)
    except WrongUse as error:
        raise WrongUse(f"{where}: {error}") from error
    if "model" in content:
        content = content | {"model": _checked(model, content["model"], where, "model.")}
    known = data.of_corpus(fields.get("corpus", data.corpus))
    if "adapter" in content:
        content = content | {"adapter": _checked(own, adapter, where, "adapter.")}
    kind = Recipe[model, known, data.watch, own]  # type: ignore[valid-type,name-defined]
    checked: Recipe = _checked(kind, content, where, "")
    return checked


def _checked(kind: Any, content: Any, where: str, prefix: str) -> Any:
    """A dataclass of plain values. Raises WrongUse for the first wrong value."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, WrongUse):
            raise WrongUse(f"{where}: {cause}") from error
        location = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            names = field_names(kind, prefix)
            raise WrongUse(
                f"{where}: unknown field {location}{did_you_mean(location, names)}"
            ) from error
        raise WrongUse(
            f"{where}: {location} is {first['input']!r}: {first['msg'].lower()}"
        ) from error


def field_names(kind: Any, prefix: str = "") -> list[str]:
    """Every field with its path: steps, model.width, model.parametrisation.base_width ...

    kind: a dataclass, generic or not, or a recipe, whose fields depend on its kinds of model and data.
    """
    names = []
    origin = get_origin(kind) or kind
    parameters = getattr(origin, "__parameters__", ())
    classes: dict[Any, Any] = dict(zip(parameters, get_args(kind), strict=False))
    for f in dataclasses.fields(origin):
        inner = classes.get(f.type, f.type) if isinstance(origin, type) else getattr(kind, f.name)
        is_group = dataclasses.is_dataclass(get_origin(inner) or inner)
        names += field_names(inner, f"{prefix}{f.name}.") if is_group else [prefix + f.name]
    return names
