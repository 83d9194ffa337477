"""Evaluation of a picture run, by the kind of its model, for `maquette eval`.

vit, cnn             accuracy on held-out pictures, with every label's
clip                 zero-shot naming, retrieval both ways, binding
diffusion            on a world: pictures made of held-out captions, read by the world's oracle, with
                     and without guidance, and of shuffled captions, which is the control
super_resolution     PSNR of held-out pictures beside enlarging alone
every kind           the held-out loss
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from maquette.base.errors import WrongUse
from maquette.corpus.pictures.store import PictureCorpus, PictureSplit
from maquette.evaluation.classify import accuracy
from maquette.evaluation.psnr import restoration
from maquette.evaluation.zero_shot import zero_shot
from maquette.models.classifier import Classifier
from maquette.models.clip import Clip
from maquette.models.diffusion.drawing import DRAWING, Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.models.super_resolution import SuperResolution
from maquette.parallel.group import Group
from maquette.serving.make import make_pictures
from maquette.training.datasets.encoder import caption_length_of, encoder_of, encoder_reader
from maquette.training.datasets.picture_config import PictureData, PictureRecipe
from maquette.training.datasets.pictures import Reader, heldout_pictures
from maquette.training.heldout import heldout_loss
from maquette.training.learner import score
from maquette.training.run import RECIPE
from maquette.workshop.load_pictures import LoadedPictures
from maquette.workshop.oracle import oracle_for
from maquette.worlds.shapes import Shapes

BATCH = 64
Progress = Callable[[str, float, float | None], None]


def evaluate_pictures(
    loaded: LoadedPictures,
    *,
    corpus: str | None = None,
    pictures: int = 500,
    drawing: Drawing = DRAWING,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, dict[str, Any]]:
    """Scores of a run by name; corpus: other pictures than the run's own.

    pictures: how many are scored. drawing: where pictures are made.
    """
    if pictures < 1:
        raise WrongUse(f"pictures is {pictures}: use at least 1")
    recipe = recipe_of(loaded)
    if corpus is None:
        source = loaded.corpus
    else:
        source = recipe.data.with_corpus(corpus).open_corpus()
        _same_classes(loaded, source)
    split = source.split("heldout", recipe.data.image_size)
    model, tasks = loaded.model, _loss(loaded, source)

    def scored(done: int, total: int) -> None:
        progress("scoring", done, total)

    if isinstance(model, Classifier):
        scored_classifier = accuracy(
            model, split, names=source.label_names, pictures=pictures, progress=scored
        )
        tasks["accuracy"] = _shares(scored_classifier.to_dict())
    elif isinstance(model, Clip):
        settings = None if source.world is None else source.world.settings
        world = settings if isinstance(settings, Shapes) else None
        tasks |= _named(zero_shot(loaded, split, world=world, pictures=pictures, progress=scored))
    elif isinstance(model, SuperResolution):
        numbers = np.arange(min(pictures, len(split)), dtype=np.int64)
        batch = Reader(loaded.tokenizer, recipe.data.caption_length).batch(split, numbers)
        for name, value in restoration(model, batch.pictures).items():
            tasks[f"psnr, {name}"] = {"metric": "dB", "value": value, "n": len(numbers)}
    elif isinstance(model, Diffusion):
        tasks |= _made(loaded, model, source, split, pictures, drawing, progress)
    return tasks


def recipe_of(loaded: LoadedPictures) -> PictureRecipe:
    """The recipe of a run; for an imported model, a recipe of its pictures and captions."""
    config = loaded.model.config
    if (loaded.path / RECIPE).exists():
        return loaded.recipe
    caption_length = max(2, caption_length_of(loaded.path))
    return PictureRecipe(
        model=config, data=PictureData(image_size=config.image_size, caption_length=caption_length)
    )


def _loss(loaded: LoadedPictures, source: PictureCorpus) -> dict[str, dict[str, Any]]:
    batches = heldout_pictures(recipe_of(loaded), source, tokenizer=loaded.tokenizer)
    encoder = encoder_of(recipe_of(loaded).data)
    batches = [(encoder or (lambda b: b))(batch).to(loaded.device) for batch in batches]
    value = heldout_loss(partial(score, loaded.model), batches, Group(device=loaded.device))
    count = sum(len(batch.pictures) for batch in batches)
    return {"held-out loss": {"metric": "loss", "value": value, "n": count}}


def _made(
    loaded: LoadedPictures,
    model: Diffusion,
    source: PictureCorpus,
    split: PictureSplit,
    count: int,
    drawing: Drawing,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Pictures of held-out captions, as an oracle reads them."""
    settings = None if source.world is None else source.world.settings
    unconditional = model.config.condition == "none" and not model.config.embedding
    if not isinstance(settings, Shapes) or unconditional or model.config.task != "generate":
        return {}  # nobody knows what such a picture should show
    oracle = oracle_for(settings, loaded.recipe.data.image_size, say=lambda text: None)
    data = loaded.recipe.data
    reader = Reader(loaded.tokenizer, data.caption_length, encoder_reader(data))
    numbers = np.arange(min(count, len(split)), dtype=np.int64)
    batches = [reader.batch(split, numbers[i : i + BATCH]) for i in range(0, len(numbers), BATCH)]
    encoder = encoder_of(data)
    batches = batches if encoder is None else [encoder(batch) for batch in batches]
    labels = split.labels(numbers)
    assert labels is not None
    tasks = {}
    arms = {
        f"all right, guidance {drawing.guidance:g}": drawing.guidance,
        "all right, no guidance": 1.0,
    }
    for number, (name, w) in enumerate(arms.items()):
        made = []
        for i, batch in enumerate(batches):
            way = replace(drawing, guidance=w, seed=i)
            made.append(make_pictures(model, batch, way).cpu())
            progress("making pictures", number * len(batches) + i + 1, 2 * len(batches))
        score = oracle.score(torch.cat(made), labels)
        tasks[name] = {"metric": "share", "value": score.share} | score.to_dict()
        if number == 0:
            control = oracle.score(torch.cat(made), np.roll(labels, 1, axis=0))
            tasks["control: shuffled captions"] = {
                "metric": "share",
                "value": control.share,
            } | control.to_dict()
    return tasks


def _named(results: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Nested shares as one level of tasks."""
    tasks: dict[str, dict[str, Any]] = {}
    for name, value in results.items():
        if isinstance(value, dict) and "share" in value:
            tasks[prefix + name] = _shares(value)
        elif isinstance(value, dict):
            tasks |= _named(value, f"{prefix}{name}, ")
    return tasks


def _shares(result: dict[str, Any]) -> dict[str, Any]:
    return {"metric": "share", "value": result["share"]} | result


def rows(tasks: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A table of the tasks: name, value, 95 % interval, how many."""
    lines = []
    for name, task in tasks.items():
        share = task["metric"] == "share"
        value = f"{100 * task['value']:.1f} %" if share else f"{task['value']:.4g} {task['metric']}"
        interval = f"{100 * task['low']:.1f} to {100 * task['high']:.1f}" if "low" in task else ""
        lines.append([name, value, interval, f"{task['n']:,}"])
        for factor, result in task.get("factors", task.get("per_factor", {})).items():
            part = result["share"] if isinstance(result, dict) else result
            lines.append([f"  {factor}", f"{100 * part:.1f} %", "", ""])
        if "error" in task:
            lines.append(["  misread by the oracle itself", f"{100 * task['error']:.1f} %", "", ""])
    return lines


def _same_classes(loaded: LoadedPictures, source: PictureCorpus) -> None:
    """Raise WrongUse for pictures whose classes are not those that the run learnt."""
    if not getattr(loaded.model.config, "classes", ()):
        return
    for key in ("classes", "label_names", "label_sizes"):
        own, theirs = loaded.table.get(key, []), source.manifest.get(key, [])
        if own != theirs:
            raise WrongUse(
                f"{source.path} has the {key.replace('_', ' ')} {theirs}, the run learnt {own}: name a "
                f"corpus of the same"
            )
