"""Creating a run directory, and resuming a run: recipe, corpus and length."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.adaptation.adapters.store import ADAPTER
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, sha256, write_json
from maquette.base.gate import GATE, GATE_LOG, copy_gate
from maquette.corpus.open import AnyCorpus
from maquette.corpus.special_tokens import SPECIAL
from maquette.corpus.terms_card import TERMS
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import copy_tokenizer
from maquette.models.store import CONFIG, WEIGHTS, save_config
from maquette.training.initial_model import weights_file
from maquette.training.length import change_length, check_end, reached
from maquette.training.recipe import Recipe
from maquette.training.run import BASE, CORPUS, ENCODER, RECIPE, RunDirectory
from maquette.training.run_corpus import keep_corpus
from maquette.training.run_terms import keep_terms, terms_to_train
from maquette.training.trained_model import describe, find_base

CHANGEABLE = frozenset({"name", "steps", "stop", "ranks", "trackers", "checkpoints", "watch"})


def create(run: RunDirectory, recipe: Recipe, corpus: AnyCorpus) -> None:
    """Create a run directory.

    Raises UserError where a run is there already, and where the terms of a source forbid to train.
    """
    terms = terms_to_train(corpus, recipe.start)
    started = {
        ".lock",
        CONFIG,
        TOKENIZER,
        SPECIAL,
        CORPUS,
        ENCODER,
        ADAPTER,
        TERMS,
        GATE,
        GATE_LOG,
        BASE,
    }  # what a start that was cut off leaves
    there = {p.name for p in run.path.iterdir()} if run.path.exists() else set()
    if not {name for name in there if not name.endswith(".tmp")} <= started:
        raise WrongUse(f"{run.path} exists: choose another --run, or continue it with --resume")
    run.path.mkdir(parents=True, exist_ok=True)
    for name in there:
        if name.endswith(".tmp"):  # a write that was cut off
            (run / name).unlink()
    save_config(run.path, recipe.model)
    copy_tokenizer(corpus.path, run.path)
    keep_corpus(run, corpus)
    keep_terms(run.path, terms)
    if (
        recipe.start and recipe.adapter is None
    ):  # an adapted run is behind the gate of its base itself
        copy_gate(Path(recipe.start), run.path)
    frozen = _frozen(recipe)
    if frozen is not None:
        _, weights = frozen
        write_json(run / ENCODER, {"path": str(weights.parent), "sha256": _frozen_hash(*frozen)})
    if recipe.start and recipe.adapter is None and (Path(recipe.start) / CONFIG).exists():
        weights = weights_file(Path(recipe.start))  # an adapter keeps its base's hash itself
        write_json(run / BASE, {"path": recipe.start, "sha256": sha256(weights)})
    describe(run.path, recipe)
    recipe.save(run / RECIPE)  # last: its presence says that the run began


def _check_encoder(run: RunDirectory, recipe: Recipe) -> None:
    """Raise UserError where the frozen CLIP, or the reference, has changed since the start."""
    frozen = _frozen(recipe)
    if frozen is None or not (run / ENCODER).exists():
        return
    before, now = str(read_json(run / ENCODER)["sha256"]), _frozen_hash(*frozen)
    if before != now:
        field, weights = frozen
        raise UserError(
            f"{field} {weights.parent} has changed since this run began (weights "
            f"{now[:12]}, not {before[:12]}): restore it, or start a new run"
        )


def resume(
    run: RunDirectory, wanted: Recipe | None, say: Callable[[str], None] = lambda text: None
) -> Recipe:
    """The recipe to resume with: the run's own, with the changes of `wanted` that are allowed.

    say: receives a line on what another length does to the learning rate. Raises WrongUse where something
    else differs, or where the run would have to end before the step that it has reached.
    """
    own = run.recipe()
    _check_encoder(run, own)
    if own.adapter is not None:
        find_base(run.path)
    if wanted is None:
        return own
    before, after = own.to_dict(), wanted.to_dict()
    for name in before:
        if name not in CHANGEABLE and before[name] != after[name]:
            difference = _difference(name, before[name], after[name])
            raise WrongUse(
                f"{run.path} cannot be resumed with another recipe ({difference}): "
                f"drop the change, or start a new run"
            )
    recipe = replace(own, **{name: getattr(wanted, name) for name in CHANGEABLE - {"name"}})
    if recipe != own:
        check_end(run.path, own, recipe)
        change = change_length(run.path, own, recipe, reached(run.path))
        if change is not None:
            say(change.line(recipe.schedule.kind))
        recipe.save(run / RECIPE)
    return recipe


def lengthen(
    run: RunDirectory, recipe: Recipe, step: int, steps: int, say: Callable[[str], None]
) -> Recipe:
    """The recipe with another length from `step` on, which is kept; see `length.py`."""
    longer = replace(recipe, steps=steps)
    change = change_length(run.path, recipe, longer, step)
    if change is not None:
        say(change.line(recipe.schedule.kind))
        longer.save(run / RECIPE)
    return longer


def _frozen(recipe: Recipe) -> tuple[str, Path] | None:
    """The field of the recipe that names a frozen model, and that model's weights; None: there is none."""
    weights = recipe.data.frozen_weights
    if weights is not None:
        return "data.encoder", weights
    return ("start", weights_file(Path(recipe.start))) if recipe.data.reads_start else None


def _frozen_hash(field: str, weights: Path) -> str:
    if not weights.exists():
        raise UserError(f"{field} {weights.parent} has no {WEIGHTS}: move it back")
    return sha256(weights)


def _difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        inner = next(key for key in before if before[key] != after[key])
        return _difference(f"{name}.{inner}", before[inner], after[inner])
    return f"{name} was {before}, not {after}"
