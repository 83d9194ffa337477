"""What a run's model is before its first step: its seed's parameters, or another run's.

A model that begins with another run's weights may have more than that one: tensors it lacks keep their
start, and those that read more inputs get zeros for the new ones, so that it begins as the other ended
(Nichol et al. 2021, section 3.1: channels for inpainting). Learned positions of pictures of another size
are interpolated (Dosovitskiy et al. 2020, section 3.2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from maquette.adaptation.adapters.adapter import Adapter, attach
from maquette.adaptation.adapters.store import ADAPTER, ADAPTER_WEIGHTS
from maquette.base.errors import UserError, WrongUse
from maquette.models.base import Model, PictureModel
from maquette.models.quantised import read_quantised, stored_forms
from maquette.models.store import CONFIG, WEIGHTS, load_config, load_tensors, tensors_of
from maquette.nn.patches import resize_positions
from maquette.training.checkpoint import AVERAGE, MODEL, newest
from maquette.training.parameter_groups import freeze
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory


def make_model(
    recipe: Recipe, *, fresh: bool = True, say: Callable[[str], None] = lambda line: None
) -> Model:
    """The recipe's model with the parameters that a run begins with, frozen but what step 1 trains.

    fresh: False leaves out the other run's weights, where a checkpoint is read over them. say: told how
    a model that begins with another run's differs from it.
    """
    check_quantised(recipe)
    model: Model = recipe.model.build().initialise(recipe.seed)
    if recipe.start and (fresh or recipe.adapter is not None):  # no checkpoint holds a base
        for line in begin_with(model, Path(recipe.start)).notes(recipe.start):
            say(line)
    if recipe.adapter is not None:
        adapter: Adapter = recipe.adapter.build(model)
        adapter.initialise(model, recipe.seed)
        attach(model, recipe.adapter.kind, adapter)
    freeze(model, recipe.optimiser.groups)
    return model


def check_trained(recipe: Recipe) -> int:
    """How many parameters a recipe trains, its adapter's and its task's.

    Raises WrongUse, before anything is written, for groups or an adapter that do not fit the model, and for
    all parameters of a quantised run.
    """
    check_quantised(recipe)
    with torch.device("meta"):
        model: Model = recipe.model.build()
        if recipe.adapter is not None:
            attach(model, recipe.adapter.kind, recipe.adapter.build(model))
        return freeze(model, recipe.optimiser.groups)


def check_quantised(recipe: Recipe) -> None:
    """Raise WrongUse for a recipe that trains the parameters of a quantised run: only adapters can."""
    if recipe.start and recipe.adapter is None:
        start = Path(recipe.start)
        if start.is_dir() and stored_forms(weights_file(start)):
            raise WrongUse(
                f"{start} is quantised and its weights cannot be trained: use a method with an adapter, such "
                f"as lora, or begin with the run it was made of"
            )


@dataclass(frozen=True)
class LoadReport:
    """How a model begins with another run's weights: names of parameters and buffers, sorted.

    new: it lacks them there. grown: they read more inputs here, which begin at zero. resized: positions
    of a grid of another side, interpolated. unused: tensors of that run that it has no parameter for.
    """

    new: list[str]
    grown: list[str]
    resized: list[str]
    unused: list[str]

    def notes(self, source: str) -> list[str]:
        """A line for each kind that occurs."""
        said = {
            "are not there and keep their start": self.new,
            "read more inputs, which begin at zero": self.grown,
            "are positions of another grid and are interpolated": self.resized,
            "are there alone and are left out": self.unused,
        }
        return [
            f"start {source}: {_shortened(names)} {what}" for what, names in said.items() if names
        ]


@torch.no_grad()
def begin_with(model: Model, folder: Path) -> LoadReport:
    """Copy a run's weights into a model, tensor by tensor of the same name; see `LoadReport`.

    The maps of a quantised run become quantised. Raises UserError when they have no tensor in common, or one
    is of another shape and neither reads more inputs nor holds positions of a grid.
    """
    source = weights_file(folder)
    if stored_forms(source):
        read_quantised(model, source)
        return LoadReport([], [], [], [])
    tensors = load_tensors(source)
    own = tensors_of(model)
    common = own.keys() & tensors.keys()
    if not common:
        raise UserError(f"{source} has no parameter in common with this model: name another start")
    grown, resized = [], []
    grids = model.grids if isinstance(model, PictureModel) else {}
    for name in sorted(common):
        p, given = own[name], tensors[name]
        if p.shape == given.shape:
            p.copy_(given)
        elif name in grids and p.shape[1:] == given.shape[1:]:
            before = grids[name]
            side = math.isqrt(len(p) - before)
            p.copy_(torch.cat([given[:before], resize_positions(given[before:].float(), side)]))
            resized.append(name)
        elif _grows(p, given):
            p.zero_()
            p[:, : given.shape[1]] = given
            grown.append(name)
        else:
            raise UserError(
                f"{source} belongs to another model: {name} has shape {tuple(given.shape)}, "
                f"not {tuple(p.shape)}{_mend(model, folder)}"
            )
    new, unused = sorted(own.keys() - common), sorted(tensors.keys() - common)
    return LoadReport(new, grown, resized, unused)


def _grows(p: Tensor, given: Tensor) -> bool:
    """Whether a parameter is a given one that reads more inputs."""
    if p.dim() < 2 or p.dim() != given.dim() or p.shape[1] < given.shape[1]:
        return False
    return p.shape[0] == given.shape[0] and p.shape[2:] == given.shape[2:]


def _mend(model: nn.Module, folder: Path) -> str:
    """Which settings of the two models differ, as the flags that would make them alike."""
    own, theirs = getattr(model, "config", None), load_config(folder)
    if type(own) is not type(theirs):
        return f" (it is a {theirs.kind}): name another start"
    flags = []
    for f in fields(theirs):
        value = getattr(theirs, f.name)
        if f.name != "parametrisation" and value != getattr(own, f.name):
            plain = " ".join(map(str, value)) if isinstance(value, tuple | list) else value
            flags.append(f"--model.{f.name.replace('_', '-')} {plain}")
    return f": use {' '.join(flags)}, or name another start" if flags else ""


def _shortened(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def weights_file(folder: Path) -> Path:
    """A run's final weights, or those of its newest whole checkpoint, averaged where it averages.

    Raises UserError for an adapted run, which keeps its change alone.
    """
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder} is an adapted run and keeps no whole model: name its base, or merge it with "
            f"maquette adapt merge"
        )
    return _newest(folder, WEIGHTS)


def kept_file(folder: Path) -> Path:
    """What an adapted run keeps beside its base: its final tensors, or its newest whole checkpoint's."""
    return _newest(folder, ADAPTER_WEIGHTS)


def _newest(folder: Path, final: str) -> Path:
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no model (no {CONFIG}): name a run directory")
    if (folder / final).exists():
        return folder / final
    found = newest(RunDirectory(folder).checkpoints)
    if found is None:
        raise UserError(f"{folder} has no weights yet: go on with maquette train --resume")
    averaged = found[0] / AVERAGE
    return averaged if averaged.exists() else found[0] / MODEL
