"""Worlds by name: settings in Python, in files and as flags; boxes, masks and frames; a new world."""

import hashlib
import itertools
import json
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from conftest import command, refused
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.pictures.build import build_pictures
from maquette.corpus.pictures.build_options import PictureBuildOptions
from maquette.experiments.catalogue import recipe_named
from maquette.training.datasets.picture_config import PictureData
from maquette.training.recipe import load_recipe, recipe_from
from maquette.training.run import RunDirectory
from maquette.workshop.load_pictures import load_pictures
from maquette.worlds.draw import scenes
from maquette.worlds.moon import Moon, MoonWorld
from maquette.worlds.motion import moved
from maquette.worlds.registry import (
    WORLDS,
    World,
    WorldSettings,
    described,
    register,
    world_class,
    world_from,
    world_names,
)
from maquette.worlds.render import PAINTS, boxes, masks, render
from maquette.worlds.shapes import Scenes, Shapes
from maquette.worlds.shapes_world import ShapesWorld

NUMBERS = np.array([0, 5, 2**40])


# pictures are those of before


@pytest.mark.parametrize(
    ("split", "digest", "settings"),
    [
        ("train", "89fc74a573d7ee60", {}),
        ("heldout", "61ec3b903c44dbea", {}),
        ("train", "520da9a2e01fdac7", {"objects": 1, "colours": 8, "shapes": 8, "textures": 3,
                                       "sizes": True, "phrasings": 6}),
        ("heldout", "22ff715c042cbfce", {"relations": ("left of", "above", "inside"), "shapes": 8,
                                         "phrasings": 6}),
    ],
)  # fmt: skip
def test_shapes_are_drawn_as_ever(split, digest, settings):
    """Another digest needs another WORLD_VERSION, by which a run says what it was trained on."""
    pictures = ShapesWorld(Shapes(**settings)).pictures(3, NUMBERS, split, 32)
    assert hashlib.sha256(pictures.tobytes()).hexdigest()[:16] == digest


def test_waves_noise_and_craters_are_drawn_as_ever():
    """By their means: the last bit of a sine differs between machines."""
    waves = ShapesWorld(Shapes(objects=4, backgrounds="texture", noise=0.1, blur=1.0))
    for world, means in (
        (waves, [109.345, 78.674, 109.141]),
        (MoonWorld(Moon()), [84.656, 65.163, 78.995]),
    ):
        pictures = world.pictures(3, np.array([0, 5, 2**31]), "train", 32)
        np.testing.assert_allclose(pictures.mean((1, 2, 3)), means, atol=0.02)


# boxes, masks, frames


def plain(name: str) -> Scenes:
    """Scenes without noise on grey. A colour inside another is not on the way from that to grey."""
    if name == "inside":
        labels = [[0, i, 2, j, 0] for i, j in itertools.product(range(8), range(8))]
        world = Shapes(relations=("inside",), shapes=8)
        return scenes(world, 0, np.arange(len(labels)), labels=labels)
    world = {
        "one": Shapes(objects=1, colours=8, shapes=8),
        "two": Shapes(shapes=8),
        "counts": Shapes(objects=4, counts=True, shapes=8),
    }[name]
    return scenes(world, 0, np.arange(60))


each = pytest.mark.parametrize("name", ["one", "two", "inside", "counts"])


@each
def test_a_pixel_is_nearest_to_the_colour_of_whom_its_mask_says(name):
    """A pixel that a shape covers half of is nearer to its colour than to the background, and no other is."""
    drawn, size = plain(name), 96
    few = 2 if name == "inside" else 0  # pixels of a picture in which three colours meet
    pictures, segments, corners = render(drawn, size), masks(drawn, size), boxes(drawn) * size
    y, x = np.mgrid[:size, :size] + 0.5
    for n, (picture, segment) in enumerate(zip(pictures.astype(float), segments, strict=True)):
        ground = np.sqrt(((picture - round(drawn.background[n, 0] * 255)) ** 2).sum(-1))
        reached = np.zeros((size, size), bool)
        for k in range(drawn.count[n]):
            paint = PAINTS[drawn.colour[n, k]] * 255
            nearer = ground - np.sqrt(((picture - paint) ** 2).sum(-1))  # to the shape's colour
            left, top, right, bottom = corners[n, k]
            near = (x > left - 1) & (x < right + 1) & (y > top - 1) & (y < bottom + 1)
            assert (nearer[segment == k + 1] < -3).sum() <= few
            assert (nearer[near & (segment == 0)] > 3).sum() <= few
            reached |= near
        assert not segment[~reached].any() and ground[~reached].max() <= 2
        assert set(np.unique(segment)) == set(range(drawn.count[n] + 1))


def alone(drawn: Scenes, k: int) -> Scenes:
    """The scenes with their shape number k alone."""
    names = ("colour", "shape", "size", "texture", "x", "y", "radius")
    kept = {name: getattr(drawn, name)[:, k : k + 1].copy() for name in names}
    return replace(drawn, count=np.ones_like(drawn.count), **kept)


def test_where_shapes_overlap_the_mask_is_of_the_one_that_is_seen():
    drawn = moved(scenes(Shapes(objects=4), 0, np.arange(40)), 9.0)
    own = [masks(alone(drawn, k), 64) == 1 for k in range(4)]
    segments, pictures = masks(drawn, 64), render(drawn, 64).astype(int)
    np.testing.assert_array_equal(segments > 0, np.any(own, 0))
    hidden = 0
    for k in range(4):
        above = np.any(own[:k], 0) if k else np.zeros_like(own[0])
        np.testing.assert_array_equal(segments == k + 1, own[k] & ~above)
        hidden += (own[k] & above).sum()
        whole = np.ones_like(own[0])  # well inside the shape, and well outside those above
        for step, axis in itertools.product((-1, 0, 1), (1, 2)):
            whole &= np.roll(own[k] & ~above, step, axis)
        whole &= ~np.any(
            [np.roll(above, s, (1, 2)) for s in itertools.product((-1, 1), (-1, 1))], 0
        )
        paint = np.rint(PAINTS[drawn.colour[:, k]] * 255)[:, None, None]
        off = abs(pictures - paint).max(-1)
        assert np.quantile(off[whole], 0.98) <= 1 and whole.sum() > 1000
    assert hidden > 500, "nothing overlaps, so nothing was tested"


@each
def test_boxes_are_the_bounds_of_masks(name):
    drawn, size = plain(name), 256
    segments, corners = masks(drawn, size), boxes(drawn) * size
    for n, k in np.ndindex(*drawn.x.shape):
        rows, columns = np.nonzero(segments[n] == k + 1)
        if k >= drawn.count[n]:
            assert not corners[n, k].any() and not len(rows)
            continue
        low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
        assert (corners[n, k, :2] <= low + 0.5).all() and (high + 0.5 <= corners[n, k, 2:]).all()
        # the tips of a star are less than half a pixel wide over their last pixel and a half
        np.testing.assert_allclose(corners[n, k], [*low, *(high + 1)], atol=1.6)


def test_a_world_says_what_is_where():
    world = ShapesWorld(Shapes(objects=4, counts=True, colours=3))
    numbers = np.arange(30)
    found, names = world.boxes(0, numbers, "heldout"), world.class_names()
    labels, captions = world.labels(0, numbers, "heldout"), world.captions(0, numbers, "heldout")
    assert found.corners.dtype == np.float32 and found.corners.shape == (30, 4, 4)
    assert found.corners.min() >= 0 and found.corners.max() <= 1 and len(names) == 12
    np.testing.assert_array_equal(found.count, labels[:, -1] + 1)
    there = np.arange(4)[None] < found.count[:, None]
    assert (found.classes[~there] == -1).all() and not found.corners[~there].any()
    for n, caption in enumerate(captions):
        kinds = {names[c] for c in found.classes[n, : found.count[n]]}
        assert len(kinds) == 1
        colour, shape = kinds.pop().split()
        assert f"{colour} {shape[:4]}" in caption
    frames = world.frames(0, numbers, "heldout", 16, 3)
    assert frames.shape == (30, 3, 16, 16, 3)
    np.testing.assert_array_equal(frames[:, 0], world.pictures(0, numbers, "heldout", 16))
    assert (frames[:, 1] != frames[:, 2]).any((1, 2, 3)).all()


def test_a_split_of_a_drawn_corpus_has_the_truth_of_its_world():
    split = PictureData(image_size=16).open_corpus().split("heldout", 16, seed=4)
    world, numbers = ShapesWorld(Shapes()), np.array([3, 1])
    asked = 4, numbers, "heldout"
    np.testing.assert_array_equal(split.masks(numbers), world.masks(*asked, 16))
    np.testing.assert_array_equal(split.frames(numbers, 2), world.frames(*asked, 16, 2))
    for field in fields(found := split.boxes(numbers)):
        expected = getattr(world.boxes(*asked), field.name)
        np.testing.assert_array_equal(getattr(found, field.name), expected)


def test_pictures_without_that_truth_say_so(tmp_path):
    for i in range(4):
        (tmp_path / "in" / "grey").mkdir(parents=True, exist_ok=True)
        grey = np.full((16, 16, 3), 60 * i, np.uint8)
        Image.fromarray(grey).save(tmp_path / "in" / "grey" / f"{i}.png")
    stored = build_pictures(
        tmp_path / "out", [tmp_path / "in"], PictureBuildOptions(image_size=16), workers=1
    )
    moons, one = PictureData(corpus="moon", image_size=16).open_corpus(), np.zeros(1, np.int64)
    for corpus, whose in ((stored, "these pictures have"), (moons, "the world moon has")):
        split = corpus.split("train", 16)
        assert split.pictures(one).shape == (1, 16, 16, 3)
        for what, more in (("boxes", ()), ("masks", ()), ("frames", (2,))):
            with pytest.raises(WrongUse, match=f"{whose} no {what}: use"):
                getattr(split, what)(one, *more)


# settings


def test_the_settings_are_those_of_the_world_that_the_corpus_names():
    assert PictureData().world == Shapes() and PictureData(corpus="moon").world == Moon()
    assert PictureData(corpus="moon", world=Moon(craters=3)).world.craters == 3
    assert PictureData(corpus="/tmp").world is None
    data = PictureData(world=Shapes(objects=1))
    assert data.with_corpus("shapes") == data
    assert data.with_corpus("moon").world == Moon() and data.with_corpus("/tmp").world is None
    with pytest.raises(WrongUse, match="data.world is Shapes, the world moon has Moon"):
        PictureData(corpus="moon", world=Shapes())
    with pytest.raises(WrongUse, match=r"data.corpus shapez is no world: did you mean 'shapes'"):
        PictureData(corpus="shapez", world=Shapes())


def test_unknown_worlds_are_named_with_the_nearest(tmp_path):
    assert {"shapes", "moon"} <= set(world_names())
    with pytest.raises(WrongUse, match="unknown world mon: did you mean 'moon'"):
        world_class("mon")
    with pytest.raises(WrongUse, match="unknown world gone"):
        world_from({"name": "gone", "settings": {}, "version": 1})
    with pytest.raises(UserError, match="or a world: did you mean 'moon'"):
        PictureData(corpus=str(tmp_path / "mon")).open_corpus()


def test_a_world_comes_back_from_plain_values():
    world = ShapesWorld(Shapes(relations=("above",), objects=3))
    known = json.loads(json.dumps(described(world)))
    again = world_from(known)
    assert isinstance(again, ShapesWorld) and again.settings == world.settings
    with pytest.raises(WrongUse, match="was drawn in version 0, today in 1"):
        world_from(known | {"version": 0})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"world": {"objectz": 1}}, "unknown field data.world.objectz: did you mean 'data.world.objects'"),
        ({"corpus": "moon", "world": {"objects": 1}}, "unknown field data.world.objects"),
        ({"moon": {"depth": 1}}, "unknown field data.moon"),
        ({"world": {"objects": 9}}, "objects is 9: use 1 to 4"),
        ({"world": {"objects": "two"}}, "data.world.objects is 'two'"),
        ({"corpus": "moom", "world": {}}, "data.corpus moom is no world: did you mean 'moon'"),
        ({"corpus": ["moon"]}, "data.corpus is ['moon']"),
    ],
)  # fmt: skip
def test_wrong_settings_in_a_file_are_named(data, said):
    with pytest.raises(WrongUse) as caught:
        recipe_from({"model": {"kind": "super_resolution"}, "data": data}, "a.yaml")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("recipe", "settings"), [
    ("super-resolution", Shapes(objects=3, noise=0.5)), ("fake-moon", Moon(memorised=0.25, craters=7)),
])  # fmt: skip
def test_a_recipe_of_a_world_comes_back_from_its_file(tmp_path, recipe, settings):
    whole = recipe_named(recipe)
    whole = replace(whole, data=replace(whole.data, world=settings))
    whole.save(tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml") == whole


def test_the_settings_are_flags():
    from maquette.cli.fields import with_flags

    shapes, moon = recipe_named("super-resolution"), recipe_named("fake-moon")
    assert with_flags(shapes, ["--data.world.objects", "1"]).data.world == Shapes(objects=1)
    changed = with_flags(moon, ["--data.world.craters=9", "--data.image-size", "64"]).data
    assert changed.world == replace(moon.data.world, craters=9) and changed.corpus == "moon"
    other = with_flags(shapes, ["--data.world.craters", "9", "--data.corpus", "moon"]).data
    assert other.corpus == "moon" and other.world == Moon(craters=9)
    folder = with_flags(moon, ["--data.corpus", "/tmp"])
    assert folder.data.world is None and with_flags(folder, ["--steps", "9"]).data == folder.data
    for words, said in (
        (["--data.world.crater", "9"], "did you mean 'data.world.craters'"),
        (["--data.corpus", "shapes", "--data.world.craters", "9"], "unknown field --data.world.craters"),
        (["--data.world.craters", "0"], "craters is 0: use 1 to 1000"),
    ):  # fmt: skip
        with pytest.raises(WrongUse) as caught:
            with_flags(moon, words)
        assert said in str(caught.value)


# a world of one's own


@dataclass(frozen=True, kw_only=True)
class Bars(WorldSettings):
    """Bars over the whole picture."""

    bars: int = 2
    """number of bars"""
    levels: tuple[int, ...] = (50, 200)
    """brightness between bars and of bars"""


class BarsWorld(World[Bars]):
    name, version, settings_class = "bars", 1, Bars

    def labels(self, seed, indices, split):
        return (indices[:, None] + seed) % 2

    def label_names(self):
        return ["direction"]

    def label_sizes(self):
        return [2]

    def captions(self, seed, indices, split):
        return [("down", "across")[row[0]] for row in self.labels(seed, indices, split)]

    def words(self):
        return ["down", "across"]

    def pictures(self, seed, indices, split, image_size):
        high = np.arange(image_size) * 2 * self.settings.bars // image_size % 2
        down = np.broadcast_to(
            np.take(self.settings.levels, high), (image_size, image_size)
        ).astype(np.uint8)
        labels = self.labels(seed, indices, split)[:, 0]
        return np.stack([down.T if label else down for label in labels])[..., None].repeat(3, -1)


@pytest.fixture
def bars():
    yield register(BarsWorld)
    del WORLDS["bars"]


def test_two_worlds_have_two_names(bars):
    with pytest.raises(ValueError, match="two worlds are named bars"):
        register(type("Other", (BarsWorld,), {}))


def test_a_world_from_outside_is_trained_on(bars, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "steps: 2\nbatch: 4\nprecision: fp32\ncompile: 'off'\n"
        "model: {kind: cnn, image_size: 16, width: 8, depth: 1, classes: [2]}\n"
        "data: {corpus: bars, image_size: 16, world: {bars: 4}}\nwatch: {pictures: 4, report: false}\n",
        encoding="utf-8",
    )
    run = tmp_path / "run"
    train = "train", tmp_path / "r.yaml", "--run", run
    refused(command(*train, "--data.world.bar", "3"), "did you mean 'data.world.bars'", code=2)
    done = command(*train, "--data.world.levels", "10", "90", "--json")
    assert done.code == 0, done.err
    assert RunDirectory(run).recipe().data.world == Bars(bars=4, levels=(10, 90))
    loaded = load_pictures(run)
    assert isinstance(loaded.world, BarsWorld) and loaded.corpus.label_names == ["direction"]
    pictures = loaded.corpus.split("train", 16).pictures(np.arange(2))
    assert (
        set(np.unique(pictures)) == {10, 90} and (pictures[0] == pictures[1].swapaxes(0, 1)).all()
    )
    with pytest.raises(WrongUse, match="the captions of the world bars stand for no labels"):
        loaded.world.parse("down")
    scored = command("eval", run, "--json")
    assert scored.code == 0, scored.err
