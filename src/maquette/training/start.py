"""What a run's model is before its first step: its seed's parameters, or another run's.

A model that begins with another run's weights may have more than that one: tensors it lacks keep their
start, and those that read more inputs get zeros for the new ones, so that it begins as the other ended
(Nichol et al. 2021, section 3.1: channels for inpainting).
"""

from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import Network
from maquette.models.store import CONFIG, WEIGHTS, load_tensors
from maquette.training.checkpoint import AVERAGE, MODEL, newest
from maquette.training.recipe import BaseRecipe
from maquette.training.run import RunDirectory


def make_model(recipe: BaseRecipe, *, fresh: bool = True) -> Network:
    """The recipe's model with the parameters that a run begins with, and only `trained` ones learning.

    fresh: False leaves out the other run's weights, where a checkpoint is read over them.
    """
    model: Network = recipe.model.build().initialise(recipe.seed)
    if recipe.start and fresh:
        begin_with(model, Path(recipe.start).expanduser())
    if recipe.trained:
        only_train(model, recipe.trained)
    return model


@torch.no_grad()
def begin_with(model: nn.Module, folder: Path) -> list[str]:
    """Copy a run's weights into a model; returns the names of parameters it did not have.

    Raises UserError when they have no tensor in common, or one is of another shape.
    """
    source = weights_file(folder)
    tensors = load_tensors(source)
    own = dict(model.named_parameters())
    common = own.keys() & tensors.keys()
    if not common:
        raise UserError(f"{source} has no parameter in common with this model: name another start")
    for name in common:
        p, given = own[name], tensors[name]
        if p.shape == given.shape:
            p.copy_(given)
            continue
        grown = p.dim() >= 2 and p.shape[0] == given.shape[0] and p.shape[2:] == given.shape[2:]
        if not grown or p.shape[1] < given.shape[1]:
            raise UserError(
                f"{source} belongs to another model: {name} has shape {tuple(given.shape)}, "
                f"not {tuple(p.shape)}"
            )
        p.zero_()
        p[:, : given.shape[1]] = given
    return sorted(own.keys() - common)


def only_train(model: nn.Module, patterns: tuple[str, ...]) -> int:
    """Freeze all parameters but those whose names a pattern matches; returns how many learn."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise WrongUse(
                f"trained: no parameter is called {pattern}: they are {', '.join(names)}"
            )
    count = 0
    for name, p in model.named_parameters():
        learns = any(fnmatchcase(name, pattern) for pattern in patterns)
        p.requires_grad_(learns)
        count += p.numel() * learns
    return count


def weights_file(folder: Path) -> Path:
    """A run's final weights, or those of its newest whole checkpoint, averaged where it averages."""
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no model (no {CONFIG}): name a run directory")
    if (folder / WEIGHTS).exists():
        return folder / WEIGHTS
    found = newest(RunDirectory(folder).checkpoints)
    if found is None:
        raise UserError(f"{folder} has no weights yet: go on with maquette train --resume")
    averaged = found[0] / AVERAGE
    return averaged if averaged.exists() else found[0] / MODEL
