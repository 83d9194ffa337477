"""The plan of a sweep: fields, values, proxy and rounds.

A point gives each swept field a value. Lists make the product of them, ranges are drawn from by the
logarithm. Many points are thinned by successive halving (Jamieson and Talwalkar 2016).
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from maquette.base.errors import WrongUse, did_you_mean
from maquette.training.recipe import Checkpoints, LanguageRecipe, field_names, language, recipe_from
from maquette.workshop.resized_recipe import decoder, head_size, resized

RATE = "optimiser.learning_rate"
FACTORS = (1 / 4, 1 / 2, 1, 2, 4)
"""factors of the recipe's learning rate in the default sweep"""
MANY = 12
"""number of points from which a sweep is halved"""
SHORTEST = 20
"""number of steps of the shortest round of a halving"""
DRAWS = 16
"""default number of points drawn from ranges"""
TRIES = 20
"""largest number of draws per point, where the same point comes again"""
FIXED = frozenset({"name", "seed", "steps", "stop", "ranks", "layout", "trackers",
                   "model.kind", "model.width", "model.depth", "model.heads", "model.head_dim",
                   "model.kv_heads", "model.vocabulary"})  # fmt: skip
Point = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A field and its values: a list, or a range that is sampled log-uniformly."""

    name: str
    values: tuple[Any, ...] = ()
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep. Equal plans have equal trials."""

    recipe: LanguageRecipe
    width: int
    depth: int | None
    axes: tuple[Axis, ...]
    trials: int | None = None
    seeds: int = 1
    steps: int | None = None
    eta: int = 3

    @property
    def length(self) -> int:
        """Number of steps of a whole trial."""
        return self.steps or self.recipe.steps

    def proxy(self, point: Point, seed: int = 0, steps: int | None = None) -> LanguageRecipe:
        """The recipe of one trial: narrow, with the point's values, watched at its end alone."""
        length = steps or self.length
        recipe = resized(with_values(self.recipe, point), self.width, self.depth)
        return replace(
            recipe,
            name=f"{self.recipe.name}-proxy",
            seed=self.recipe.seed + seed,
            steps=length,
            stop=None,
            ranks=1,
            layout="ddp",
            trackers=(),
            watch=replace(recipe.watch, every=length, sample_tokens=0, report=False),
            checkpoints=Checkpoints(every=max(1, length // 4)),
            guard=replace(recipe.guard, patience=length + 1),  # bad batches are skipped to the end
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to compare with those of a sweep that began."""
        plain = asdict(self) | {"recipe": self.recipe.to_dict()}
        plain["axes"] = [
            {
                "name": axis.name,
                "values": list(axis.values),
                "bounds": axis.bounds and list(axis.bounds),
            }
            for axis in self.axes
        ]
        return plain


def make_plan(
    recipe: LanguageRecipe,
    width: int,
    over: Sequence[str] = (),
    *,
    depth: int | None = None,
    trials: int | None = None,
    seeds: int = 1,
    steps: int | None = None,
    eta: int = 3,
) -> Plan:
    """The plan of checked arguments. over: FIELD=a,b,c or FIELD=low..high; none: the learning rate.

    Raises WrongUse for a width that no proxy can have, for an unknown field and for values that
    the recipe refuses.
    """
    model = decoder(recipe)
    if width >= model.width:
        raise WrongUse(
            f"width {width} is not below the recipe's {model.width}: a proxy is narrower, "
            f"use a multiple of the head size {head_size(model)} below it"
        )
    for name, value, least, most in (
        ("width", width, 1, model.width),
        ("depth", depth, 1, 10_000),
        ("trials", trials, 2, 100_000),
        ("seeds", seeds, 1, 1000),
        ("steps", steps, 1, 10**12),
    ):
        if value is not None and value < least:
            raise WrongUse(f"{name} is {value}: use at least {least}")
        if value is not None and value > most:
            raise WrongUse(f"{name} is {value}: use at most {most}")
    if eta not in (2, 3):
        raise WrongUse(f"halving is {eta}: use 2 or 3")
    rate = recipe.optimiser.learning_rate
    axes = tuple(axis(text, recipe) for text in over) or (
        Axis(RATE, tuple(rate * factor for factor in FACTORS)),
    )
    if len({a.name for a in axes}) < len(axes):
        raise WrongUse("a field is swept twice: give all its values at once")
    plan = Plan(recipe, width, depth, axes, trials, seeds, steps, eta)
    for swept in axes:
        for value in swept.values or swept.bounds or ():
            plan.proxy({swept.name: value})  # what cannot be is said before the first step
    return plan


def axis(text: str, recipe: LanguageRecipe) -> Axis:
    """FIELD=a,b,c or FIELD=low..high."""
    name, equals, values = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not values:
        raise WrongUse(f"--over {text}: write FIELD=value,value or FIELD=low..high")
    names = field_names(recipe)
    if name not in names:
        raise WrongUse(f"unknown field {name}{did_you_mean(name, names)}")
    if name in FIXED or name.startswith("model.parametrisation.base"):
        raise WrongUse(f"{name} is not tuned by a sweep: it is what the models differ in")
    if ".." in values:
        low, _, high = values.partition("..")
        try:
            bounds = float(low), float(high)
        except ValueError:
            bounds = (0.0, 0.0)
        if not 0 < bounds[0] < bounds[1] < math.inf:
            raise WrongUse(f"--over {text}: a range goes from a positive number to a larger one")
        return Axis(name, bounds=bounds)
    listed = [_value(word.strip()) for word in values.split(",")]
    if any(isinstance(v, float) and not math.isfinite(v) for v in listed):
        raise WrongUse(f"--over {text}: use finite numbers")
    if isinstance(attrgetter(name)(recipe), float):
        listed = [float(v) if type(v) is int else v for v in listed]
        if all(type(v) is float for v in listed):  # what is none the recipe refuses, or may be left
            listed.sort()
    return Axis(name, tuple(dict.fromkeys(listed)))


def with_values(recipe: LanguageRecipe, point: Point) -> LanguageRecipe:
    """The recipe with fields by their dotted names replaced, checked as a YAML file's are."""
    content = recipe.to_dict()
    for name, value in point.items():
        *groups, last = name.split(".")
        inner = content
        for group in groups:
            inner = inner[group]
        inner[last] = value
    return language(recipe_from(content, "sweep"))


def points(plan: Plan) -> list[Point]:
    """The product of lists; with a range among the axes, draws that the recipe's seed decides."""
    names = [a.name for a in plan.axes]
    grid = all(a.bounds is None for a in plan.axes)
    draw = random.Random(plan.recipe.seed)
    if grid:
        product = [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(a.values for a in plan.axes))
        ]
        few = plan.trials is not None and plan.trials < len(product)
        return draw.sample(product, plan.trials or 0) if few else product
    drawn: list[Point] = []
    count = plan.trials or DRAWS
    for _ in range(TRIES * count):
        if len(drawn) == count:
            break
        point: Point = {}
        for a in plan.axes:
            if a.bounds is None:
                point[a.name] = draw.choice(a.values)
            else:
                exact = math.exp(draw.uniform(*map(math.log, a.bounds)))
                whole = _is_whole(plan.recipe, a.name)
                point[a.name] = round(exact) if whole else float(f"{exact:.4g}")
        if point not in drawn:  # whole numbers come twice
            drawn.append(point)
    return drawn


def _is_whole(recipe: LanguageRecipe, name: str) -> bool:
    """Whether a field takes integers alone."""
    *groups, last = name.split(".")
    owner = attrgetter(".".join(groups))(recipe) if groups else recipe
    kind = get_type_hints(type(owner))[last]
    kinds = {kind, *get_args(kind)}
    return int in kinds and float not in kinds


def rounds(count: int, steps: int, eta: int) -> list[tuple[int, int]]:
    """(points, steps) of each round: one for few points, else as many as leave three for the last."""
    cuts = 0
    if count > MANY:
        while count // eta ** (cuts + 1) >= 3 and steps // eta ** (cuts + 1) >= SHORTEST:
            cuts += 1
    return [(count // eta**i, steps // eta ** (cuts - i)) for i in range(cuts + 1)]


def _value(word: str) -> Any:
    """A number, a truth value, nothing, or the word itself."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if word.lower() in words:
        return words[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
