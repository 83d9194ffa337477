"""A run's model: from its own weights, or from its base's and what the run keeps of its change."""

from pathlib import Path

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.store import (
    ADAPTER,
    Description,
    attach_saved,
    base_hash,
    load_kept,
    read_description,
)
from maquette.base.errors import UserError, WrongUse
from maquette.models.base import Model
from maquette.models.store import load_config, load_model, load_tensors
from maquette.training.initial_model import begin_with, kept_file, weights_file
from maquette.training.recipe import Recipe


def describe(folder: Path, recipe: Recipe) -> None:
    """Write `adapter.json` of a run with an adapter, before its first step."""
    if recipe.adapter is None:
        return
    base = Path(recipe.start) if recipe.start else None
    digest = "" if base is None else base_hash(base, weights_file(base))
    Description(recipe.adapter, recipe.start, digest, recipe.seed).save(folder)


def find_base(folder: Path, base: Path | None = None) -> Path | None:
    """The folder of the base of an adapted run: `base`, or where it was, or beside the run.

    None for a base that was never trained. Raises UserError where it is missing, or another model.
    """
    described = read_description(folder)
    if not described.base:
        return None
    recorded = Path(described.base)
    places = [base] if base else [recorded, folder.resolve().parent / recorded.name]
    there = next((p for p in places if p.is_dir()), None)
    if there is None:
        raise UserError(
            f"the base of {folder} is not at {places[0]}: move it back, or beside {folder.name} "
            f"(generate also takes --base)"
        )
    digest = base_hash(there, weights_file(there))
    if digest != described.base_hash:
        raise UserError(
            f"{folder} adapts another model than {there} (hash {described.base_hash[:12]}, not "
            f"{digest[:12]}): put its base there (generate also takes --base)"
        )
    return there


def open_model(folder: Path, base: Path | None = None) -> Model:
    """The model of a run in evaluation mode: its final weights, or those of its newest whole checkpoint.

    base: where the base of an adapted run is now. Raises UserError when there is no model, when it is
    damaged, or when the base is missing or another.
    """
    if not (folder / ADAPTER).exists():
        if base is not None:
            raise WrongUse(f"{folder} is no adapted run: leave --base out")
        return load_model(folder, weights_file(folder))
    described, start = read_description(folder), find_base(folder, base)
    model: Model = load_config(folder).build().initialise(described.seed)
    if start is not None:
        begin_with(model, start)
    source = kept_file(folder)
    attach(model, described.adapter.kind, described.stored(source).build(model))
    load_kept(model, load_tensors(source), source)
    return model.eval()


def attach_run(model: Model, name: str, folder: Path, own: Path, weight: float = 1.0) -> None:
    """Attach the adapter of the run `folder` to the model of the run `own`, which must be its base.

    An adapted run counts as its base. Raises UserError for an adapter of another model.
    """
    base = find_base(own) if (own / ADAPTER).exists() else own
    if find_base(folder, base) is None:
        raise UserError(f"{folder} adapts a model that was never trained: open that run itself")
    source = kept_file(folder)
    adapter = attach_saved(model, name, read_description(folder), load_tensors(source), source)
    adapter.weight = weight
