"""The directory that a run is: made once, locked while training, readable at any moment.

runs/NAME/
    recipe.yaml         everything about the run
    decisions.json      what `auto` became on this machine, and why
    config.json, tokenizer.json, model.safetensors      the model (weights when finished)
    special_tokens.json what begins and ends a text, where the tokenizer is another model's
    corpus.json         where the corpus was, its hash and its table
    encoder.json        where the frozen CLIP of a picture run was, and the SHA-256 of its weights
    metrics.jsonl       one object a step; events (a skipped batch, a rewind) beside them
    lengths.json        where `steps` was changed under way, and what that did to the learning rate
    outcome.json        how the last call ended
    checkpoints/        see checkpoint.py
    samples/            text sampled while training, one file a look
    report.html         when finished
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock, read_json, sha256, write_json
from maquette.corpus.pictures import PictureCorpus, open_pictures
from maquette.corpus.special_tokens import SPECIAL
from maquette.corpus.store import MANIFEST, TOKENIZER, Corpus
from maquette.corpus.tokenizer import copy_tokenizer
from maquette.models.store import CONFIG, WEIGHTS, save_config
from maquette.training.length import change_length, check_end, reached
from maquette.training.picture_recipe import PictureRecipe
from maquette.training.recipe import BaseRecipe, Recipe, load_recipe
from maquette.worlds.registry import world_from

RECIPE, DECISIONS, CORPUS = "recipe.yaml", "decisions.json", "corpus.json"
ENCODER = "encoder.json"
METRICS, OUTCOME = "metrics.jsonl", "outcome.json"
CHANGEABLE = frozenset({"name", "steps", "stop", "ranks", "trackers", "checkpoints", "watch"})


class RunDirectory:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the final weights are there."""
        return (self / WEIGHTS).exists()

    def recipe(self) -> BaseRecipe:
        """The run's recipe."""
        if not (self / RECIPE).exists():
            raise UserError(f"{self.path} is not a run (no {RECIPE}): name a run directory")
        return load_recipe(self / RECIPE)

    def language_recipe(self) -> Recipe:
        """The recipe of a run of text. Raises WrongUse for one of pictures."""
        recipe = self.recipe()
        if not isinstance(recipe, Recipe):
            raise WrongUse(f"{self.path} is a run of pictures: name a run of text")
        return recipe

    def picture_recipe(self) -> PictureRecipe:
        """The recipe of a run of pictures. Raises WrongUse for one of text."""
        recipe = self.recipe()
        if not isinstance(recipe, PictureRecipe):
            raise WrongUse(f"{self.path} is a run of text: name a run of pictures")
        return recipe

    def corpus(self) -> Corpus:
        """The text it was trained on, if it still is what it was. WrongUse for a run of pictures."""
        corpus = self.any_corpus()
        if not isinstance(corpus, Corpus):
            raise WrongUse(f"{self.path} is a run of pictures: name a run of text")
        return corpus

    def pictures(self) -> PictureCorpus:
        """The pictures it was trained on. Raises WrongUse for a run of text."""
        corpus = self.any_corpus()
        if not isinstance(corpus, PictureCorpus):
            raise WrongUse(f"{self.path} is a run of text: name a run of pictures")
        return corpus

    def any_corpus(self) -> Corpus | PictureCorpus:
        """The corpus it was trained on, if it still is what it was."""
        kept = self.kept_corpus()
        manifest, table = Path(kept["path"]) / MANIFEST, kept.get("table", {})
        corpus: Corpus | PictureCorpus
        if not manifest.exists() and table.get("kind") == "world":  # of another machine, or cleared
            corpus = open_pictures(table["world"]["name"], world_from(table["world"]))
        elif not manifest.parent.exists():
            raise UserError(
                f"the corpus of {self.path} is no longer at {kept['path']}: move it back, or name its new "
                f"place with --corpus where a command takes one"
            )
        else:
            drawn = manifest.exists() and read_json(manifest).get("kind") in ("pictures", "world")
            corpus = PictureCorpus(kept["path"]) if drawn else Corpus(kept["path"])
        if corpus.hash != kept["hash"]:
            raise UserError(
                f"the corpus at {kept['path']} has changed since this run (hash {corpus.hash[:12]}, "
                f"not {kept['hash'][:12]}): restore it, or train a new run"
            )
        return corpus

    def kept_corpus(self) -> dict[str, Any]:
        """What the run keeps of its corpus: `path`, `hash` and `table`, its manifest without the shards."""
        if not (self / CORPUS).exists():
            raise UserError(f"{self.path} was not trained here: name a corpus in its place")
        kept = read_json(self / CORPUS)
        if not isinstance(kept, dict) or not {"path", "hash"} <= kept.keys():
            raise UserError(f"{self / CORPUS} is damaged: restore it, or train a new run")
        return kept

    def records(self) -> list[dict[str, Any]]:
        """The steps of metrics.jsonl in order; of a step taken twice (a rewind), the later one."""
        steps: dict[int, dict[str, Any]] = {}
        for entry in self._lines():
            if "step" in entry and "event" not in entry:
                while steps and next(reversed(steps)) >= entry["step"]:
                    steps.popitem()
                steps[entry["step"]] = entry
        return list(steps.values())

    def events(self) -> list[dict[str, Any]]:
        """What happened besides: skipped batches, rewinds, resumptions."""
        return [entry for entry in self._lines() if "event" in entry]

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not (self / METRICS).exists():
            return
        with (self / METRICS).open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
                    yield json.loads(line)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep every other training out while this one lasts."""
        return lock(
            self / ".lock",
            f"{self.path} is being trained by another process: wait for it, or choose another --run",
        )

    def create(self, recipe: BaseRecipe, corpus: Corpus | PictureCorpus) -> None:
        """Write what a run starts with. An existing run is left alone and refused."""
        started = {
            ".lock",
            CONFIG,
            TOKENIZER,
            SPECIAL,
            CORPUS,
            ENCODER,
        }  # what a start that was cut off leaves
        there = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        if not {name for name in there if not name.endswith(".tmp")} <= started:
            raise WrongUse(
                f"{self.path} exists: choose another --run, or continue it with --resume"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        for name in there:
            if name.endswith(".tmp"):  # a write that was cut off
                (self / name).unlink()
        save_config(self.path, recipe.model)
        copy_tokenizer(corpus.path, self.path)
        kept = {k: v for k, v in corpus.manifest.items() if k not in ("shards", "skipped_named")}
        write_json(self / CORPUS, {"path": str(corpus.path), "hash": corpus.hash, "table": kept})
        if isinstance(recipe, PictureRecipe) and recipe.data.encoder:
            kept = {"path": recipe.data.encoder, "sha256": _encoder_hash(recipe)}
            write_json(self / ENCODER, kept)
        recipe.save(self / RECIPE)  # last: its presence says that the run began

    def _check_encoder(self, recipe: BaseRecipe) -> None:
        """Raise UserError where the frozen CLIP is another than at the start."""
        if not isinstance(recipe, PictureRecipe) or not (self / ENCODER).exists():
            return
        before, now = str(read_json(self / ENCODER)["sha256"]), _encoder_hash(recipe)
        if before != now:
            raise UserError(
                f"data.encoder {recipe.data.encoder} has changed since this run began (weights "
                f"{now[:12]}, not {before[:12]}): restore it, or start a new run"
            )

    def resume(
        self, wanted: BaseRecipe | None, say: Callable[[str], None] = lambda text: None
    ) -> BaseRecipe:
        """The recipe to go on with: the run's own, with what may change taken from `wanted`.

        say: is told what another length does to the learning rate. Raises WrongUse where something
        else differs, or where the run would have to end before the step that it has reached.
        """
        own = self.recipe()
        self._check_encoder(own)
        if wanted is None:
            return own
        before, after = own.to_dict(), wanted.to_dict()
        for name in before:
            if name not in CHANGEABLE and before[name] != after[name]:
                what = _difference(name, before[name], after[name])
                raise WrongUse(
                    f"{self.path} cannot be resumed with another recipe ({what}): "
                    f"drop the change, or start a new run"
                )
        recipe = replace(own, **{name: getattr(wanted, name) for name in CHANGEABLE - {"name"}})
        if recipe != own:
            check_end(self.path, own, recipe)
            change = change_length(self.path, own, recipe, reached(self.path))
            if change is not None:
                say(change.line(recipe.schedule.kind))
            recipe.save(self / RECIPE)
        return recipe

    def lengthen(
        self, recipe: BaseRecipe, step: int, steps: int, say: Callable[[str], None]
    ) -> BaseRecipe:
        """The recipe with another length from `step` on, which is kept; see `length.py`."""
        longer = replace(recipe, steps=steps)
        change = change_length(self.path, recipe, longer, step)
        if change is not None:
            say(change.line(recipe.schedule.kind))
            longer.save(self / RECIPE)
        return longer


def _encoder_hash(recipe: PictureRecipe) -> str:
    weights = Path(recipe.data.encoder) / WEIGHTS
    if not weights.exists():
        raise UserError(f"data.encoder {weights.parent} has no {WEIGHTS}: move it back")
    return sha256(weights)


def free_name(folder: Path, name: str) -> Path:
    """`folder/name`, or the first of name-2, name-3 ... that does not exist."""
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path


def _difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict):
        inner = next(key for key in before if before[key] != after[key])
        return _difference(f"{name}.{inner}", before[inner], after[inner])
    return f"{name} was {before}, not {after}"
