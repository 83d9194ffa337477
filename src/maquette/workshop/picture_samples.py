"""Samples of a picture run: a grid of generated pictures at every evaluation, as PNG."""

import numpy as np

from maquette.base.files import write_atomic
from maquette.models.base import Model
from maquette.models.diffusion.drawing import Drawing
from maquette.serving.make import can_make, make_pictures
from maquette.training.datasets.encoder import encoder_of, encoder_reader
from maquette.training.datasets.picture_config import picture_recipe
from maquette.training.datasets.pictures import Reader, to_pixels
from maquette.training.loop import eager_mode
from maquette.training.observer import Observer
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import pictures_of
from maquette.workshop.charts import png_grid


class PictureSamples:
    """Observer that writes a grid of samples at every evaluation, and forwards to another observer."""

    def __init__(self, run: RunDirectory, observer: Observer) -> None:
        self._run, self._next = run, observer
        self._recipe = picture_recipe(run.recipe())
        corpus = pictures_of(run)
        data = self._recipe.data
        self._reader = Reader(corpus.tokenizer, data.caption_length, encoder_reader(data))
        self._encoder = encoder_of(data)
        self._split = corpus.split("heldout", data.image_size)

    def start(self, step: int, steps: int) -> None:
        self._next.start(step, steps)

    def step(self, record: dict[str, object]) -> None:
        self._next.step(record)

    def say(self, message: str) -> None:
        self._next.say(message)

    def sample(self, step: int, model: Model) -> None:
        watch = self._recipe.watch
        if watch.grid and can_make(model):
            count = min(watch.grid, len(self._split))
            batch = self._reader.batch(self._split, np.arange(count, dtype=np.int64))
            if watch.prompts:
                prompts = [watch.prompts[i % len(watch.prompts)] for i in range(count)]
                batch.captions = self._reader.token_ids(prompts)
            if self._encoder is not None:
                batch = self._encoder(batch)
            with eager_mode():
                drawing = Drawing(steps=watch.steps, guidance=watch.guidance, seed=step)
                made = make_pictures(model, batch, drawing)
            picture = png_grid(to_pixels(made))
            write_atomic(self._run / "samples" / f"step-{step:08d}.png", picture)
        self._next.sample(step, model)
