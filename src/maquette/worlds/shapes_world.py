"""The world of shapes as a corpus: scenes (shapes.py), their pictures, captions, boxes, masks and videos."""

import numpy as np

from maquette.worlds import captions, motion, render, shapes
from maquette.worlds.draw import scenes
from maquette.worlds.registry import Boxes, Numbers, Pixels, World, register


@register
class ShapesWorld(World[shapes.Shapes]):
    """Coloured shapes on a background; every relation and attribute is a label."""

    name = "shapes"
    version = shapes.WORLD_VERSION
    settings_class = shapes.Shapes

    def _scenes(self, seed: int, indices: Numbers, split: str) -> shapes.Scenes:
        return scenes(self.settings, seed, indices, split)

    def pictures(self, seed: int, indices: Numbers, split: str, image_size: int) -> Pixels:
        return render.render(self._scenes(seed, indices, split), image_size)

    def captions(self, seed: int, indices: Numbers, split: str) -> list[str]:
        return captions.captions(self._scenes(seed, indices, split))

    def words(self) -> list[str]:
        return list(captions.WORDS)

    def parse(self, caption: str) -> Numbers:
        return captions.parse(caption, self.settings)

    def labels(self, seed: int, indices: Numbers, split: str) -> Numbers:
        return self._scenes(seed, indices, split).labels

    def label_names(self) -> list[str]:
        return shapes.label_names(self.settings)

    def label_sizes(self) -> list[int]:
        return shapes.label_sizes(self.settings)

    def class_names(self) -> list[str]:
        """Colour and shape: "red circle", "red square" ..."""
        colours = shapes.COLOURS[: self.settings.colours]
        return [f"{c} {s}" for c in colours for s in shapes.SHAPES[: self.settings.shapes]]

    def boxes(self, seed: int, indices: Numbers, split: str) -> Boxes:
        drawn = self._scenes(seed, indices, split)
        there = np.arange(drawn.x.shape[1])[None] < drawn.count[:, None]  # (n, objects)
        classes = drawn.colour * self.settings.shapes + drawn.shape
        corners = render.boxes(drawn).astype(np.float32)
        return Boxes(corners, np.where(there, classes, -1), drawn.count)

    def masks(self, seed: int, indices: Numbers, split: str, image_size: int) -> Pixels:
        return render.masks(self._scenes(seed, indices, split), image_size)

    def frames(
        self, seed: int, indices: Numbers, split: str, image_size: int, count: int
    ) -> Pixels:
        return motion.video(self._scenes(seed, indices, split), count, image_size)
