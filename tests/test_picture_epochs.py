"""Epochs over stored pictures: each exactly once, in an order of its own, for any ranks and parts."""

from dataclasses import replace

import numpy as np
import pytest

from maquette.corpus.pictures.store import ENDLESS
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.models.diffusion.config import DiffusionConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.datasets.pictures import PictureDataset, heldout_pictures

RECIPE = PictureRecipe(
    model=DiffusionConfig(image_size=8, width=8, multipliers=(1,), condition="none"),
    data=PictureData(image_size=8, caption_length=4),
    watch=PictureWatch(pictures=5),
)


class Pictures:
    """A split whose pictures are their numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def pictures(self, indices):
        pixels = np.zeros((len(indices), 8, 8, 3), np.uint8)
        pixels[:] = np.asarray(indices)[:, None, None, None] % 256
        return pixels

    def captions(self, indices):
        return [str(i) for i in indices]

    def labels(self, indices):
        return np.asarray(indices, np.int64)[:, None]


class Made:
    """A corpus of such splits."""

    path = "made"
    tokenizer = byte_tokenizer()

    def __init__(self, train: int, heldout: int = 9) -> None:
        self.splits = {"train": Pictures(train), "heldout": Pictures(heldout)}

    def split(self, name: str, image_size: int, seed: int = 0) -> Pictures:
        return self.splits[name]


def read(recipe, corpus, ranks: int, samples: int) -> list[int]:
    """The numbers of the first `samples` pictures, as all ranks read them together."""
    dataset = PictureDataset(recipe, corpus)
    numbers: list[int] = []
    for sample in range(0, samples, recipe.batch):
        for rank in range(ranks):
            for batch in dataset.step(sample, rank, ranks):
                labels = batch.labels[:, 0].tolist()
                level = ((batch.pictures[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
                assert level == [n % 256 for n in labels]  # each with what is known of it
                numbers += labels
    return numbers


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 37])
@pytest.mark.parametrize(
    ("batch", "ranks", "micro"), [(1, 1, None), (4, 1, 2), (4, 2, None), (6, 3, 1)]
)
def test_an_epoch_reads_every_stored_picture_once(count, batch, ranks, micro):
    """Across the ends of batches: an epoch does not begin anew with a step."""
    recipe = replace(RECIPE, batch=batch, micro_batch=micro)
    found = read(recipe, Made(count), ranks, 3 * count + batch)
    epochs = [found[e * count : (e + 1) * count] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    if count > 6:
        assert len(set(map(tuple, epochs))) == 3  # orders of their own
        other = read(replace(recipe, seed=1), Made(count), ranks, count + batch)
        assert other[:count] != epochs[0]


def test_a_part_of_the_pictures_is_the_first_of_them():
    recipe = replace(RECIPE, data=replace(RECIPE.data, count=3), batch=3)
    assert sorted(read(recipe, Made(10), 1, 3)) == [0, 1, 2]
    assert sorted(read(replace(recipe, batch=2), Made(2), 1, 2)) == [
        0,
        1,
    ]  # fewer than were asked for


def test_pictures_of_a_world_never_come_twice():
    recipe = replace(RECIPE, batch=4)
    found = read(recipe, Made(ENDLESS), 2, 40)
    assert len(set(found)) == len(found) == 40
    assert not set(found) & set(read(replace(recipe, seed=1), Made(ENDLESS), 2, 40))


def test_held_out_pictures_are_the_first_of_their_split_whatever_the_batch():
    for size in (1, 2, 5, 64):
        batches = heldout_pictures(RECIPE, Made(20), size)
        assert [n for b in batches for n in b.labels[:, 0].tolist()] == [0, 1, 2, 3, 4]
    (few,) = heldout_pictures(RECIPE, Made(20, heldout=1))
    assert few.labels[:, 0].tolist() == [0]
