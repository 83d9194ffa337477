"""Which parameters a run trains, how fast, and from which step on: one list of groups in the recipe.

    optimiser: {groups: [["heads.*", 1.0, 0], ["*", 0.0, 0]]}                     the heads alone
    optimiser: {groups: [["blocks.5.*", 1.0, 0], ["blocks.4.*", 0.4, 100], ...]}  one after the other

The first group whose pattern (fnmatch's) matches a parameter's name is its group; a parameter of none has
the schedule's rate from the first step. What is frozen has no gradient, and no part in the gradient norm.
Rates by depth and gradual unfreezing are those of ULMFiT (Howard and Ruder 2018, sections 3.2 and 3.3).
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from maquette.adaptation.adapters.adapter import trainable
from maquette.base.errors import WrongUse
from maquette.training.recipe import ParameterGroup

DEFAULT: ParameterGroup = ("*", 1.0, 0)


def only(*patterns: str) -> tuple[ParameterGroup, ...]:
    """The groups that train what a pattern matches, and freeze the rest."""
    return (*((pattern, 1.0, 0) for pattern in patterns), ("*", 0.0, 0))


def group_of(name: str, groups: tuple[ParameterGroup, ...]) -> ParameterGroup:
    """The group of a parameter: the first whose pattern matches."""
    return next((group for group in groups if fnmatchcase(name, group[0])), DEFAULT)


def learning(
    model: nn.Module, groups: tuple[ParameterGroup, ...]
) -> Iterator[tuple[nn.Parameter, int]]:
    """Parameters that are trained at some step, each with how many first steps it is frozen for.

    Of a model with adapters: among those that are not its base's.
    """
    for name, p in trainable(model):
        _, rate, frozen = group_of(name, groups)
        if rate:
            yield p, frozen


def freeze(model: nn.Module, groups: tuple[ParameterGroup, ...]) -> int:
    """Freeze what is not trained at step 1; returns how many parameters are trained at some step.

    Raises WrongUse for a pattern that matches no parameter, and where nothing is trained at step 1.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern, _, _ in groups:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise WrongUse(
                f"optimiser.groups: no parameter is called {pattern}: they are {', '.join(names)}"
            )
    learns = list(learning(model, groups))
    if not any(frozen == 0 for _, frozen in learns):
        raise WrongUse(
            "no parameter is trained at step 1: give a group of optimiser.groups a rate factor above 0 "
            "and 0 frozen steps, or use an adapter that has parameters of its own"
        )
    model.requires_grad_(False)
    for p, frozen in learns:
        p.requires_grad_(not frozen)
    return sum(p.numel() for p, _ in learns)
