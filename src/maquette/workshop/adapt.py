"""Adapt a picture classifier to another task, and measure what came of it.

    data = PictureData(corpus="shapes", count=1000)
    adapt(Path("runs/vit"), data, Path("runs/task"), AdaptOptions("vpt-deep"))

The base's run is left as it is. The adapted run is an ordinary one, with `adaptation.json` beside its
recipe: the method, what it trained, and the accuracy on held-out pictures before and after. `sweep`
follows Jia et al. 2022 (their code's protocol for VTAB): every pair of learning rate and weight decay
is trained on four fifths of the pictures and scored on the last fifth, the best is trained again on
all; ties go to the smallest rate.
"""

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maquette.adaptation.methods import count
from maquette.adaptation.recipes import AdaptOptions, recipe_of
from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.files import write_json
from maquette.corpus.pictures.store import PictureCorpus
from maquette.evaluation.classify import Accuracy, accuracy
from maquette.models.classifier import Classifier
from maquette.models.classifier_config import ClassifierConfig
from maquette.models.store import load_config
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, picture_recipe
from maquette.training.initial_model import make_model, weights_file
from maquette.training.observer import Observer
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_corpus import pictures_of
from maquette.workshop.adapted import Adaptation, training_of
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.train import train
from maquette.workshop.train_many import train_many

ADAPTATION = "adaptation.json"
FACTORS, DECAYS = (0.25, 1.0, 4.0), (0.0, 0.01)
"""factors of the learning rate and weight decays of a sweep"""
METRIC = "share of held-out pictures with every label right"
HELD_OUT = 2000  # pictures that are scored before and after


@dataclass(frozen=True)
class Trial:
    """One pair of learning rate and weight decay of a sweep."""

    learning_rate: float
    """peak learning rate"""
    weight_decay: float
    """weight decay of AdamW"""
    right: int
    """number of pictures, of the fifth that was left out, with every label right"""


@dataclass(frozen=True, kw_only=True)
class Adapted(Adaptation):
    """An adapted classifier, and its accuracy before and after."""

    accuracies: tuple[Accuracy, Accuracy]
    """accuracy of the base's weights, with untrained heads where the task is another, and of the adapted"""
    recipe: PictureRecipe
    """recipe of the adapted run"""
    trials: list[Trial]
    """scores of the sweep; empty without a sweep"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        before, after = self.accuracies
        return super().to_dict() | {
            "head_parameters": self.counted.heads,
            "accuracy": {"before": before.to_dict(), "after": after.to_dict()},
            "sweep": [vars(trial) for trial in self.trials],
        }


def adapt(
    run: Path,
    data: PictureData,
    path: Path,
    options: AdaptOptions,
    *,
    sweep: bool = False,
    resume: bool = False,
    pictures: int = HELD_OUT,
    observer: Observer | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Adapted:
    """Adapt the classifier of `run` to the labels of `data`; the adapted run is `path`.

    sweep: whether learning rate and weight decay are chosen first. resume: whether a run that was cut off
    goes on. pictures: number of held-out pictures
    that are scored. Raises WrongUse for a run of text or of a model that is no classifier, data without
    labels, unknown labels, or a `path` that exists; UserError for what is wrong outside.
    """
    start = run.expanduser().resolve()
    base = base_config(start)
    if data.image_size != base.image_size:
        data = replace(data, image_size=base.image_size)
    corpus = data.open_corpus()
    chosen = columns(corpus, options.labels)
    classes = tuple(corpus.label_sizes)
    if path.exists() and not resume:
        raise WrongUse(f"{path} exists: choose another --run, or go on with --resume")
    recipe = recipe_of(
        options,
        start,
        base,
        data,
        classes,
        labels=() if len(chosen) == len(classes) else chosen,
        task=task_of(start, base, corpus, chosen),
    )
    assert isinstance(recipe.model, ClassifierConfig)
    counted = count(recipe.model, recipe.adapter)
    trials: list[Trial] = []
    if resume and (path / RECIPE).exists():
        recipe = picture_recipe(RunDirectory(path).recipe())  # a sweep's choice is in it
    elif sweep:
        recipe, trials = swept(recipe, corpus, path, say)
    before = scored(make_model(recipe), corpus, base.image_size, pictures)
    outcome = train(recipe, path, resume=resume, observer=observer)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume --run {path}")
    after = scored(load_pictures(path).model, corpus, base.image_size, pictures)
    done = Adapted(
        **training_of(recipe, path),
        method=options.method,
        adapter=options.method,
        counted=counted,
        metric=METRIC,
        before=before.all.mean,
        after=after.all.mean,
        own=None,
        accuracies=(before, after),
        recipe=recipe,
        trials=trials,
    )
    write_json(path / ADAPTATION, done.to_dict())
    return done


def base_config(run: Path) -> ClassifierConfig:
    """The classifier of a run. Raises WrongUse for a run of anything else."""
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    config = load_config(run)
    if not isinstance(config, ClassifierConfig):
        raise WrongUse(
            f"{run} is a run of a {config.kind}: only language models and classifiers (vit, cnn) are adapted"
        )
    weights_file(run)  # says what is missing
    return config


def columns(corpus: PictureCorpus, names: tuple[str, ...]) -> tuple[int, ...]:
    """The places of the named label factors; those of all for no name."""
    known = corpus.label_names
    if not known:
        raise WrongUse(f"{corpus.path} has no labels to learn: build it with some, or name shapes")
    for name in names:
        if name not in known:
            raise WrongUse(f"unknown label {name}{did_you_mean(name, known)}")
    if not names and min(corpus.label_sizes) < 2:
        names = tuple(n for n, c in zip(known, corpus.label_sizes, strict=True) if c > 1)
    return tuple(i for i, name in enumerate(known) if not names or name in names)


def task_of(
    run: Path, base: ClassifierConfig, corpus: PictureCorpus, chosen: tuple[int, ...]
) -> str:
    """What the heads are called: as the base's where the labels are the same, so that they go on."""
    try:
        own = pictures_of(RunDirectory(run))
        known = [own.label_names[i] for i in base.read]
    except UserError:  # what it was trained on is no longer there
        known = []
    wanted = [corpus.label_names[i] for i in chosen]
    if known == wanted and base.read_classes == tuple(corpus.label_sizes[i] for i in chosen):
        return base.task
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(wanted).lower()).strip("-") or "task"
    return name if name != base.task else f"{name}-again"


def swept(
    recipe: PictureRecipe, corpus: PictureCorpus, path: Path, say: Callable[[str], None]
) -> tuple[PictureRecipe, list[Trial]]:
    """The recipe with the best learning rate and weight decay, and every pair's score."""
    train_split = corpus.split("train", recipe.data.image_size)
    total = min(recipe.data.count or len(train_split), len(train_split))
    if recipe.data.count is None and corpus.world is not None:
        raise WrongUse("a sweep leaves out a fifth of the pictures: say how many with --examples")
    kept = total * 4 // 5
    if not 0 < kept < total:
        raise WrongUse(f"{total} pictures cannot be split for a sweep: use 5 or more")
    middle, data = recipe.optimiser.learning_rate, replace(recipe.data, count=kept)
    pairs = [(middle * factor, decay) for factor in FACTORS for decay in DECAYS]
    folder = path.with_name(f"{path.name}-sweep")
    jobs = []
    for rate, decay in pairs:
        optimiser = replace(recipe.optimiser, learning_rate=rate, weight_decay=decay)
        one = replace(recipe, data=data, optimiser=optimiser)
        jobs.append((one, folder / f"rate-{rate:g}-decay-{decay:g}"))
    names = {place.name for _, place in jobs}
    other = {p.name for p in folder.iterdir()} - names if folder.is_dir() else set()
    if other or (folder.exists() and not folder.is_dir()):
        what = min(other, default="")
        raise WrongUse(
            f"{folder / what} is in the way of the sweep's runs: move it, or choose another --run"
        )
    train_many(jobs, say=say)
    trials = []
    for (rate, decay), (_, place) in zip(pairs, jobs, strict=True):
        model = load_pictures(place).model
        assert isinstance(model, Classifier)
        found = accuracy(model, train_split, pictures=total - kept, first=kept)
        trials.append(Trial(rate, decay, found.all.right))
    best = min(trials, key=lambda t: (-t.right, t.learning_rate, t.weight_decay))
    for _, place in jobs:
        shutil.rmtree(place)
    with contextlib.suppress(OSError):  # not empty: something came in the meantime
        folder.rmdir()
    optimiser = replace(
        recipe.optimiser, learning_rate=best.learning_rate, weight_decay=best.weight_decay
    )
    return replace(recipe, optimiser=optimiser), trials


def scored(model: Any, corpus: PictureCorpus, image_size: int, pictures: int) -> Accuracy:
    """A classifier's accuracy on held-out pictures."""
    assert isinstance(model, Classifier)
    split = corpus.split("heldout", image_size)
    return accuracy(model, split, names=corpus.label_names, pictures=pictures)
