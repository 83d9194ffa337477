"""The world of shapes: the same scenes anywhere, captions without loss, pictures with exact truth."""

import dataclasses
import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from maquette.base.errors import WrongUse
from maquette.worlds.captions import WORDS, caption_of, captions, parse
from maquette.worlds.draw import scenes
from maquette.worlds.motion import moved, video
from maquette.worlds.render import PAINTS, boxes, masks, render
from maquette.worlds.shapes import MARGIN, Shapes, held_pairs, label_names, label_sizes, shown_pairs

WORLDS = {
    "default": Shapes(),
    "one": Shapes(objects=1, colours=8, shapes=8, textures=3, sizes=True, phrasings=6),
    "inside": Shapes(relations=("left of", "above", "inside"), shapes=8, phrasings=6),
    "attributes": Shapes(colours=7, textures=2, sizes=True, phrasings=6, backgrounds="colour"),
    "three": Shapes(objects=3, colours=3, shapes=2, phrasings=6, backgrounds="gradient"),
    "counts": Shapes(objects=4, counts=True, colours=7, shapes=8, sizes=True, phrasings=6),
    "four": Shapes(objects=4, backgrounds="texture", noise=0.1, blur=1.0),
}
each = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def arrays(s):
    return {f.name: getattr(s, f.name) for f in dataclasses.fields(s) if f.name != "world"}


@each
def test_a_scene_depends_on_its_number_alone(world):
    whole = scenes(world, 7, np.arange(40), "heldout")
    order = np.random.default_rng(0).permutation(40)
    parts = [scenes(world, 7, part, "heldout") for part in np.array_split(order, 3)]
    for name, array in arrays(whole).items():
        got = np.concatenate([arrays(part)[name] for part in parts])
        np.testing.assert_array_equal(got, array[order], err_msg=name)
    pictures = np.concatenate([render(part, 16) for part in parts])
    np.testing.assert_array_equal(pictures, render(whole, 16)[order])


def test_a_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; import numpy as np\n"
        "from maquette.worlds.draw import scenes\n"
        "from maquette.worlds.shapes import Shapes\n"
        "from maquette.worlds.render import render\n"
        "print(hashlib.sha256(render(scenes(Shapes(), 3, [5, 2**40])).tobytes()).hexdigest())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    here = hashlib.sha256(render(scenes(Shapes(), 3, [5, 2**40])).tobytes()).hexdigest()
    assert ran.stdout.strip() == here


def test_seeds_splits_and_numbers_are_different_scenes():
    drawn = [scenes(Shapes(), seed, [i], split) for seed in (0, 1, -1)
             for split in ("train", "heldout") for i in (0, 1, 2**40)]  # fmt: skip
    places = {(s.x.tobytes(), s.y.tobytes(), s.radius.tobytes()) for s in drawn}
    assert len(places) == len(drawn)


def test_the_settings_need_no_compiler():
    """A recipe has them as a field: reading it must not import Numba."""
    code = "import sys; import maquette.worlds.shapes as w; print(w.Shapes().digest)\n"
    code += "assert 'numba' not in sys.modules and 'torch' not in sys.modules"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert ran.stdout.strip() == Shapes().digest
    assert Shapes(noise=0.1).digest != Shapes().digest


def test_labels_are_uniform():
    labels = scenes(Shapes(), 0, np.arange(20_000)).labels
    for column, size in zip(labels.T, label_sizes(Shapes()), strict=True):
        share = np.bincount(column, minlength=size) / len(column)
        assert abs(share - 1 / size).max() < 4.5 * np.sqrt(0.25 / len(column)), share
    assert label_names(Shapes()) == ["colour 1", "shape 1", "colour 2", "shape 2", "relation"]
    together = np.corrcoef(labels.T) - np.eye(5)
    assert abs(together).max() < 0.04


@each
def test_shapes_are_inside_the_picture_and_apart(world):
    s = scenes(world, 1, np.arange(2000))
    there = np.arange(s.x.shape[1])[None] < s.count[:, None]
    inside = world.relations.index("inside") if "inside" in world.relations else -1
    for centre in (s.x, s.y):
        assert ((centre - s.radius)[there] > 0).all() and ((centre + s.radius)[there] < 1).all()
    for i, j in itertools.combinations(range(s.x.shape[1]), 2):
        linked = s.relation[:, i] if j == i + 1 and not world.counts else np.full(len(s), -1)
        both = there[:, i] & there[:, j] & ((linked != inside) | (inside < 0))
        dx, dy = s.x[:, j] - s.x[:, i], s.y[:, j] - s.y[:, i]
        far = np.maximum(abs(dx), abs(dy)) - s.radius[:, i] - s.radius[:, j]
        assert (far[both] > 0.0499).all()
        for code, (along, across) in enumerate(((dx, dy), (dy, dx))):
            rows = both & (linked == code)
            assert (along[rows] >= abs(across[rows]) + MARGIN - 1e-12).all()
            assert not rows.any() or rows.sum() > 100
    if world.sizes:
        small, large = s.radius[s.size == 0], s.radius[s.size == 1]
        assert small.max() < large.min()


def test_four_in_a_row_have_room():
    world = Shapes(objects=4)
    row = scenes(world, 0, np.arange(300), labels=np.zeros((300, 11), int))
    assert (np.diff(row.x, axis=1) > 0).all() and row.radius.min() > 0.06


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_pairs_that_are_held_out(split):
    world = Shapes(held_out=6)
    held = set(held_pairs(world))
    assert len(held) == 6 and held | set(shown_pairs(world)) == {
        (c, s) for c in range(6) for s in range(4)
    }
    s = scenes(world, 0, np.arange(4000), split)
    pairs = [[*zip(s.colour[:, i].tolist(), s.shape[:, i].tolist(), strict=True)] for i in (0, 1)]
    if split == "train":
        assert not held & {*pairs[0], *pairs[1]}
        assert {c for c, _ in pairs[0]} == set(range(6)) and {k for _, k in pairs[0]} == set(
            range(4)
        )
    else:
        assert set(pairs[0]) == held and len(set(pairs[1])) == 24


@pytest.mark.parametrize(("colours", "shapes"), [(2, 2), (8, 2), (2, 8), (3, 8), (5, 4), (8, 8)])
def test_every_colour_and_every_shape_stays_in_the_train_split(colours, shapes):
    for k in range(colours * shapes // 2 + 1):
        world = Shapes(colours=colours, shapes=shapes, held_out=k)
        shown = shown_pairs(world)
        assert len(shown) == colours * shapes - k == colours * shapes - len(set(held_pairs(world)))
        assert {c for c, _ in shown} == set(range(colours))
        assert {s for _, s in shown} == set(range(shapes))


@each
def test_captions_and_labels_say_the_same(world):
    """Every caption of the default world in every grammar; some thousands of the others'."""
    sizes = label_sizes(world)
    every = np.stack([g.ravel() for g in np.indices(sizes[:6])], 1) if len(sizes) < 6 else None
    if every is None or len(every) > 3000:
        draw = np.random.default_rng(0)
        every = np.stack([draw.integers(0, size, 1500) for size in sizes], 1)
    said: dict[str, tuple[int, ...]] = {}
    for row in every:
        for phrasing in range(6):
            text = caption_of(row, world, phrasing)
            assert set(text.split()) <= set(WORDS), text
            assert said.setdefault(text, tuple(row)) == tuple(row), text
            np.testing.assert_array_equal(parse(text, world), row, err_msg=text)
    assert len(said) >= len({tuple(row) for row in every}) * 3


def test_captions_of_scenes_use_the_scenes_phrasing():
    assert captions(scenes(Shapes(), 0, [0])) == ["a red cross above a magenta square"]
    s = scenes(WORLDS["inside"], 0, np.arange(300))
    for i, text in enumerate(captions(s)):
        assert text == caption_of(s.labels[i], s.world, s.phrasing[i])
    assert set(s.phrasing.tolist()) == set(range(6))


def test_what_each_grammar_says():
    labels = [0, 0, 2, 1, 0]
    assert [caption_of(labels, phrasing=p) for p in range(6)] == [
        "a red circle left of a blue square",
        "a red circle to the left of a blue square",
        "there is a red circle left of a blue square",
        "a blue square right of a red circle",
        "a blue square with a red circle to its left",
        "a picture of a blue square to the right of a red circle",
    ]
    world = WORLDS["counts"]
    assert caption_of([6, 3, 0, 2], world) == "three small orange crosses"
    assert caption_of([6, 3, 0, 0], world, 2) == "there is one small orange cross"
    assert caption_of([6, 3, 1, 1], world, 2) == "there are two large orange crosses"
    np.testing.assert_array_equal(parse("A red circle left of a blue square."), labels)
    np.testing.assert_array_equal(parse("an orange cross", Shapes(objects=1, colours=7)), [6, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red circel left of a blue square", "unknown word circel: did you mean 'circle'"),
        ("a orange circle left of a blue square", "unknown word orange"),  # the seventh colour
        ("a red circle", "no caption of this world: 'a red circle'; write, for example, 'a red"),
        ("a red circle left a blue square", "no caption"),
        ("a red circle left of a blue square above a red cross", "no caption"),
        ("a red circle above a blue square to its left", "no caption"),
        ("", "no caption"),
    ],
)
def test_what_is_no_caption_is_refused(text, message):
    with pytest.raises(WrongUse, match=message):
        parse(text)


def test_links_that_go_both_ways_are_refused():
    world = Shapes(objects=3)
    with pytest.raises(WrongUse, match="no caption"):
        parse("a red circle left of a red square below a red cross", world)


def test_scenes_of_given_labels():
    world = Shapes(held_out=6)
    labels = np.array([[0, 0, 2, 1, 1]] * 50)  # a red circle is held out
    s = scenes(world, 0, np.arange(50), labels=labels)
    np.testing.assert_array_equal(s.labels, labels)
    assert (s.y[:, 1] > s.y[:, 0]).all() and len(np.unique(s.x)) == 100
    free = scenes(world, 0, np.arange(50))
    np.testing.assert_array_equal(s.background, free.background)
    counted = scenes(WORLDS["counts"], 0, [0], labels=[[1, 2, 0, 2]])
    assert counted.count[0] == 3 and counted.shape.tolist() == [[2, 2, 2, 2]]


@pytest.mark.parametrize("shape", range(8))
def test_a_shape_is_where_its_mask_and_its_box_say(shape):
    world = Shapes(objects=1, shapes=8, colours=8)
    s = scenes(world, 0, np.arange(8), labels=[[c, shape] for c in range(8)])
    pictures, mask, box = render(s, 128), masks(s, 128), boxes(s)
    for n in range(8):
        inside = mask[n] == 1
        paint = np.round(PAINTS[n] * 255)
        grey = pictures[n, 0, 0]
        # all but the edge is paint or background to the byte, and the edge is thin
        same = (abs(pictures[n].astype(int) - paint) <= 1).all(-1)
        back = (pictures[n] == grey).all(-1)
        assert (
            (same | back).mean() > 0.97 and not (inside & back).any() and not (same & ~inside).any()
        )
        rows, columns = np.nonzero(inside)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 128
        np.testing.assert_allclose(found, box[n, 0], atol=1.6 / 128)


def test_a_scene_is_the_same_at_every_size():
    """The mean of 8x8 pixels of 256 is the pixel of 32, but for how edges are smoothed."""
    s = scenes(WORLDS["inside"], 0, np.arange(20))
    large = render(s, 256).reshape(20, 32, 8, 32, 8, 3).astype(float).mean((2, 4))
    difference = abs(large - render(s, 32))
    assert difference.mean() < 1.0 and np.quantile(difference, 0.99) < 20
    fine = masks(s, 256)[:, 4::8, 4::8]
    assert (fine == masks(s, 32)).mean() > 0.98


def test_what_is_around_a_shape_inside_another_is_background():
    """So that a red circle inside a red square can be seen."""
    world = Shapes(relations=("inside",))
    s = scenes(world, 0, np.arange(20), labels=[[0, 0, 0, 1, 0]] * 20)
    for picture, mask, level in zip(render(s, 128), masks(s, 128), s.background[:, 0], strict=True):
        assert set(np.unique(mask)) == {0, 1, 2}
        y, x = np.nonzero(mask == 1)
        row = picture[int(y.mean()), : int(x.mean())]
        greys = (abs(row.astype(int) - round(level * 255)) <= 1).all(-1)
        kinds = [bool(grey) for grey, _ in itertools.groupby(greys)]
        assert kinds == [True, False, True, False]  # outside, the square, around the circle, it


@each
def test_backgrounds(world):
    s = scenes(world, 0, np.arange(30))
    pictures = render(dataclasses.replace(s, world=dataclasses.replace(world, noise=0, blur=0)), 32)
    empty = pictures[masks(s, 32) == 0].reshape(-1, 3)
    if world.backgrounds == "grey":
        spread = [
            len(np.unique(p[m == 0][:, 0])) for p, m in zip(pictures, masks(s, 32), strict=True)
        ]
        assert min(spread) >= 1 and (pictures[:, 0, 0] == pictures[:, 31, 31]).all()
    else:
        assert abs(np.diff(empty.astype(int), axis=1)).max() > 20


def test_noise_and_blur():
    quiet = scenes(Shapes(), 0, np.arange(200))
    base = render(quiet).astype(float)
    noisy = render(dataclasses.replace(quiet, world=Shapes(noise=0.1))) - base
    each_picture = noisy[:, :4, :4].std((1, 2, 3))
    assert 0.1 * 255 * 0.45 < np.sqrt((each_picture**2).mean()) < 0.1 * 255 * 0.7  # uniform: 0.58
    assert abs(noisy.mean()) < 0.5
    blurred = render(dataclasses.replace(quiet, world=Shapes(blur=1.5))).astype(float)
    assert abs(blurred.mean() - base.mean()) < 1
    edges = [abs(np.diff(p, axis=2)).max((1, 2, 3)).mean() for p in (blurred, base)]
    assert edges[0] < 0.8 * edges[1]
    np.testing.assert_array_equal(scenes(Shapes(noise=0.1), 0, [3]).x, quiet[3:4].x)


@each
def test_videos_begin_with_the_picture_and_stay_inside(world):
    s = scenes(world, 0, np.arange(6))
    frames = video(s, 5, 16, step=2.0)
    assert frames.shape == (6, 5, 16, 16, 3)
    np.testing.assert_array_equal(frames[:, 0], render(s, 16))
    assert (frames[:, 1] != frames[:, 0]).any((1, 2, 3)).all()
    for time in (1.0, 40.0):
        later = moved(s, time)
        for a in (later.x, later.y):
            assert (a - s.radius > 0).all() and (a + s.radius < 1).all()
    steps = [moved(s, t).x[:, -1] for t in (0, 0.001, 0.002)]
    np.testing.assert_allclose(steps[1] - steps[0], steps[2] - steps[1], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": 5}, "objects is 5: use 1 to 4"),
        ({"colours": 1}, "colours is 1"),
        ({"held_out": 13}, "held_out is 13: use 0 to 12"),
        ({"relations": ("left off",)}, "unknown relation left off: did you mean 'left of'"),
        ({"relations": ()}, "name each once"),
        ({"relations": ("above", "above")}, "name each once"),
        ({"relations": ("inside",), "objects": 3}, "inside is a relation of two objects"),
        ({"backgrounds": "gray"}, "unknown backgrounds gray: did you mean 'grey'"),
        ({"noise": -0.1}, "noise is -0.1"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(WrongUse, match=message):
        Shapes(**change)


def test_arguments_that_cannot_be():
    with pytest.raises(WrongUse, match="unknown split test"):
        scenes(Shapes(), 0, [0], "test")
    with pytest.raises(WrongUse, match="no number -1"):
        scenes(Shapes(), 0, [-1])
    with pytest.raises(WrongUse, match="label shape 2 is 4: use 0 to 3"):
        scenes(Shapes(), 0, [0], labels=[[0, 0, 0, 4, 0]])
    with pytest.raises(WrongUse, match="2 rows of labels for 1 scenes"):
        scenes(Shapes(), 0, [0], labels=[[0, 0, 0, 0, 0]] * 2)
    with pytest.raises(WrongUse, match=r"shape \(1, 4\)"):
        caption_of([0, 0, 0, 0])
    for size in (7, 257):
        with pytest.raises(WrongUse, match=f"image_size is {size}: use 8 to 256"):
            render(scenes(Shapes(), 0, [0]), size)
    assert render(scenes(Shapes(), 0, [])).shape == (0, 32, 32, 3)
