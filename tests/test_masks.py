"""Masks are data: what programs write as one, read as what it hides."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.workshop.picture_input import Input

SIDE = 32
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[4:12, 8:24] = True
PHOTO = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def grey(low, high, dtype=np.uint8):
    return Image.fromarray(np.where(HOLE, high, low).astype(dtype))


def rgb(low, high):
    return Image.fromarray(np.where(HOLE[..., None], high, low).astype(np.uint8))


def layer(colours, alpha):
    shape = (SIDE, SIDE, 3)
    pixels = np.broadcast_to(np.asarray(colours, np.uint8), shape)
    return Image.fromarray(np.dstack([pixels, alpha.astype(np.uint8)]))


def palette(*colours, transparent=None):
    picture = Image.fromarray(HOLE.astype(np.uint8), "P")
    picture.putpalette([v for colour in colours for v in colour])
    if transparent is not None:
        picture.info["transparency"] = transparent
    return picture


def classes(*colours):
    """Two classes side by side in the hole, the second from column 16 on."""
    numbers = np.where(HOLE, np.where(np.arange(SIDE)[None] < 16, 1, 2), 0)
    picture = Image.fromarray(numbers.astype(np.uint8), "P")
    picture.putpalette([v for colour in colours for v in colour])
    return picture


def soft():
    """A smooth edge: half of the range lies where the hole's does."""
    ramp = np.where(HOLE, 200, 40).astype(np.uint8)
    ramp[4, 8:24], ramp[3, 8:24] = 130, 120
    return Image.fromarray(ramp)


PAINTED = 255 * HOLE
ERASED = 255 * ~HOLE
MASKS = {
    "grey": grey(0, 255),
    "1 bit": grey(0, 255).convert("1"),
    "colour": rgb((0, 0, 0), (255, 255, 255)),
    "red on black": rgb((0, 0, 0), (255, 0, 0)),
    "white on red": rgb((90, 0, 0), (255, 255, 255)),
    "0 and 1": grey(0, 1),
    "0 and 1, coloured": rgb((0, 0, 0), (1, 1, 1)),
    "0 and 2": grey(0, 2),
    "dim": rgb((0, 0, 0), (100, 100, 90)),
    "two levels": grey(100, 160),
    "16 bit": grey(0, 65535, np.uint16),
    "16 bit, 0 and 1": grey(0, 1, np.uint16),
    "palette, red": palette((0, 0, 0), (255, 0, 0)),
    "palette, dark": palette((0, 0, 0), (128, 0, 0)),
    "palette of one colour": palette((0, 0, 0), (0, 0, 0)),
    "palette, the rest transparent": palette((255, 255, 255), (255, 255, 255), transparent=0),
    "soft": soft(),
    "layer, white": layer((255, 255, 255), PAINTED),
    "layer, red": layer((255, 0, 0), PAINTED),
    "layer, white on black, partly": layer(
        np.where(HOLE[..., None], 255, 0), np.where(np.arange(SIDE)[:, None] < 16, 255, 0 * HOLE)
    ),
    "layer, soft": layer((255, 255, 255), np.where(HOLE, 180, 60)),
    "grey with alpha": layer((255, 255, 255), PAINTED).convert("LA"),
    "the picture with a part erased": layer(PHOTO, ERASED),
    "black with a part erased": layer((0, 0, 0), ERASED),
    "layer, a brush of half the opacity": layer((255, 0, 0), 120 * HOLE),
    "layer, a white brush of less": layer((255, 255, 255), 102 * HOLE),
    "layer, black": layer((0, 0, 0), PAINTED),
    "layer, nearly black": layer((31, 0, 0), PAINTED),
    "layer, two colours": layer(
        np.where(np.arange(SIDE)[None, :, None] < 16, (255, 0, 0), (0, 0, 255)), PAINTED
    ),
    "classes of a palette": classes((0, 0, 0), (64, 0, 0), (192, 128, 128)),
    "all opaque": layer(np.where(HOLE[..., None], 255, 0), np.full((SIDE, SIDE), 255)),
}  # fmt: skip


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    return path


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_hides_what_its_maker_painted(tmp_path, photo, name):
    MASKS[name].save(tmp_path / "mask.png")
    given = Input()
    assert np.array_equal(given.hidden(tmp_path / "mask.png", photo, SIDE), HOLE)
    assert len(given.notes) <= 1


@pytest.mark.parametrize("kind", ["tif", "bmp", "webp", "jpg", "gif"])
def test_any_format_holds_a_mask(tmp_path, photo, kind):
    path = tmp_path / f"mask.{kind}"
    picture = grey(0, 255)
    picture.save(path, **({"quality": 95} if kind in ("jpg", "webp") else {}))
    assert (Input().hidden(path, photo, SIDE) == HOLE).mean() > 0.99


def test_numbers_of_floating_point_are_a_mask(tmp_path, photo):
    grey(0.0, 1.0, np.float32).save(tmp_path / "mask.tif")
    assert np.array_equal(Input().hidden(tmp_path / "mask.tif", photo, SIDE), HOLE)


def test_a_flat_picture_with_a_part_erased_is_known_by_the_picture(tmp_path):
    Image.new("RGB", (SIDE, SIDE), (200, 30, 40)).save(tmp_path / "flat.png")
    layer((200, 30, 40), ERASED).save(tmp_path / "mask.png")
    given = Input()
    assert np.array_equal(given.hidden(tmp_path / "mask.png", tmp_path / "flat.png", SIDE), HOLE)
    assert "a picture with a part erased" in given.notes[0]


def test_a_nearly_white_picture_with_a_part_erased_is_no_white_layer(tmp_path):
    drawn = np.full((SIDE, SIDE, 3), 250, np.uint8)
    drawn[20, ::2] = 0  # a line or two
    Image.fromarray(drawn).save(tmp_path / "a.png")
    layer(drawn, ERASED).save(tmp_path / "mask.png")
    given = Input()
    assert np.array_equal(given.hidden(tmp_path / "mask.png", tmp_path / "a.png", SIDE), HOLE)
    assert "a picture with a part erased" in given.notes[0]


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_mask_is_turned_as_its_picture_is(tmp_path, turn):
    """Picture and mask, stored alike, are shown alike; a profile of the mask changes nothing."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.zeros((24, 36), np.uint8)
    stored[2:9, 12:20] = 255
    Image.fromarray(np.repeat(stored[..., None], 3, 2)).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "m.png", exif=exif, icc_profile=b"none")
    given = Input()
    shown = given.square(tmp_path / "a.png", 24)[..., 0] > 127
    assert np.array_equal(given.hidden(tmp_path / "m.png", tmp_path / "a.png", 24), shown)


def test_the_same_shape_at_another_scale_is_cut_alike(tmp_path):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:20, 20:40] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    for scale in (2, 1):
        mask = Image.fromarray(picture[..., 0]).resize(
            (60 * scale, 40 * scale), Image.Resampling.NEAREST
        )
        mask.save(tmp_path / "m.png")
        hidden = Input().hidden(tmp_path / "m.png", tmp_path / "a.png", 20)
        expected = np.zeros((20, 20), bool)
        expected[5:10, 5:15] = True
        assert np.array_equal(hidden, expected)
    Image.fromarray(picture[..., 0]).resize((31, 21)).save(tmp_path / "m.png")  # a rounded side
    Input().hidden(tmp_path / "m.png", tmp_path / "a.png", 20)


def test_another_shape_is_refused_with_both_sizes(tmp_path, photo):
    for shape in ((48, 32), (32, 48), (33, 32)):
        Image.new("L", shape, 255).save(tmp_path / "m.png")
        with pytest.raises(WrongUse, match=f"{shape[0]} x {shape[1]}, the picture .* is 32 x 32"):
            Input().hidden(tmp_path / "m.png", photo, SIDE)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_one_that_hides_nothing_is_refused(tmp_path, photo, kind):
    Image.new("L", (SIDE, SIDE)).save(tmp_path / f"m.{kind}")
    with pytest.raises(UserError, match="hides nothing: paint it white"):
        Input().hidden(tmp_path / f"m.{kind}", photo, SIDE)


def test_one_that_hides_too_little_or_beside_the_square_is_refused(tmp_path):
    Image.new("RGB", (128, 64)).save(tmp_path / "a.png")
    for spot in ((64, 32), (2, 32)):
        mask = Image.new("L", (128, 64))
        mask.putpixel(spot, 255)
        mask.save(tmp_path / "m.png")
        with pytest.raises(UserError, match="less than a pixel of the middle square, 16 x 16"):
            Input().hidden(tmp_path / "m.png", tmp_path / "a.png", 16)


@pytest.mark.parametrize("value", [1, 90, 255])
def test_one_that_hides_everything_is_said(tmp_path, photo, value):
    Image.new("L", (SIDE, SIDE), value).save(tmp_path / "m.png")
    given = Input()
    assert given.hidden(tmp_path / "m.png", photo, SIDE).all()
    assert any("hides everything: nothing of the picture is kept" in note for note in given.notes)


def test_bytes_that_are_no_picture_are_one_line(tmp_path, photo):
    (tmp_path / "m.png").write_bytes(photo.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be used as a picture"):
        Input().hidden(tmp_path / "m.png", photo, SIDE)
