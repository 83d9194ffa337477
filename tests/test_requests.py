"""What `maquette generate` is asked and cannot do: numbers, files, long prompts, said before the work."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import command, refused
from picture_runs import small, untrained
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.drawing import Drawing
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.models.vit_config import ViTConfig
from maquette.nn.patches import resize_positions
from maquette.serving.sampler import Sampling
from maquette.training.datasets.picture_config import PictureData, PictureRecipe
from maquette.training.initial_model import begin_with, make_model
from maquette.training.recipe import load_recipe
from maquette.workshop import picture_generation
from maquette.workshop.picture_request import Draw, Options

HUGE = 99999999999999999999


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = PictureRecipe(model=small(), data=PictureData(image_size=16, caption_length=12))
    return untrained(tmp_path_factory.mktemp("runs") / "r", recipe)


@pytest.fixture
def no_work(monkeypatch):
    def work(*_):
        raise AssertionError("refused before anything is drawn")

    monkeypatch.setattr(picture_generation, "make", work)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--seed", HUGE], f"seed is {HUGE}: use 0 to 18446744073709551615"),
        (["--seed", -1], "seed is -1: use 0 to"),
        (["--seed", 2**64], "use 0 to"),
        (["--guidance", "nan"], "guidance is nan: use a number"),
        (["--guidance", "inf"], "guidance is inf: use a number"),
        (["--guidance", "-2"], "guidance is -2: use at least 0"),
        (["--steps", 0], "steps is 0: use at least 1"),
        (["--count", 0], "count is 0: use at least 1"),
        (["--count", -3], "count is -3"),
    ],
)
def test_numbers_that_cannot_be_meant_are_one_line(run, no_work, words, part):
    refused(command("generate", run, "a red circle", *words), part, code=2)


def test_the_largest_seed_works(run, tmp_path):
    out = tmp_path / "a.png"
    said = command("generate", run, "a", "--seed", 2**64 - 1, "--steps", 1, "--out", out)
    assert said.code == 0 and out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", HUGE], ["--seed", -1], ["--temperature", "nan"], ["--temperature", "inf"],
        ["--temperature", "-1"], ["--top-p", "7"], ["--top-p", "nan"], ["--min-p", "inf"], ["--top-k", 0],
        ["--tokens", 0],
    ],
)  # fmt: skip
def test_numbers_of_text_are_checked_alike(tmp_path, words):
    from maquette.models.config import DecoderConfig

    save_config(tmp_path, DecoderConfig(vocabulary=257, width=16, depth=1, heads=2))
    refused(command("generate", tmp_path, "a", *words), " is ", ": ", code=2)
    assert Sampling(seed=2**64 - 1).seed == 2**64 - 1


@pytest.mark.parametrize(
    "words", [["--guidance", "nan"], ["--steps", 0], ["--pictures", 0], ["--guidance", "inf"]]
)
def test_numbers_of_scores_are_checked_alike(run, words):
    refused(command("eval", run, *words), code=2)


@pytest.mark.parametrize(
    ("place", "value", "name"),
    [
        (("optimiser", "learning_rate"), ".nan", "learning_rate"),
        (("optimiser", "clip"), ".inf", "clip is inf"),
        (("watch", "guidance"), ".inf", "guidance is inf"),
        (("model", "drop"), ".nan", "drop"),
        (("seed",), str(HUGE), "seed"),
        (("data", "world", "objects"), ".nan", "objects"),
    ],
)
def test_a_recipe_that_holds_no_number_is_refused(tmp_path, place, value, name):
    plain = PictureRecipe(
        model=small(), data=PictureData(image_size=16, caption_length=12)
    ).to_dict()
    inner = plain
    for key in place[:-1]:
        inner = inner[key]
    assert place[-1] in inner
    inner[place[-1]] = "THIS"
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(plain).replace("THIS", value), encoding="utf-8")
    with pytest.raises(WrongUse, match=name):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("out", "part"),
    [
        ("a.gif", ".gif is no format that is written: use .png, .jpg"),
        ("a.JPG2", "no format"),
        ("folder.png", "cannot be written (it is a folder)"),
        ("file/a.png", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    run, tmp_path, no_work, out, part
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(command("generate", run, "a red circle", "--out", tmp_path / out), part)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("new/a", "PNG")],
)
def test_a_file_is_what_its_name_says(run, tmp_path, name, format):
    out = tmp_path / name
    assert command("generate", run, "a", "--count", 2, "--steps", 1, "--out", out).code == 0
    with Image.open(out) as made:
        assert made.format == format and made.size == (2 * 64 + 2, 64)
    if format == "WEBP":
        command("generate", run, "a", "--count", 2, "--steps", 1, "--out", tmp_path / "b.png")
        assert np.array_equal(
            np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "b.png"))
        )


def test_a_jpeg_is_said_to_keep_no_pixel_and_a_mask_without_a_hole_to_change_none(run, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "m.png")
    Image.new("L", (16, 16)).save(tmp_path / "black.png")
    words = ["generate", run, "--picture", tmp_path / "a.png", "--steps", 1, "--mask"]
    said = command(*words, tmp_path / "m.png", "--out", tmp_path / "o.jpg", "--json")
    assert any("keeps no pixel to the bit" in note for note in said.json["notes"])
    assert any("hides everything" in note for note in said.json["notes"])
    refused(
        command(*words, tmp_path / "black.png", "--out", tmp_path / "o.png"),
        "hides nothing",
        code=1,
    )
    assert not (tmp_path / "o.png").exists()


def test_a_prompt_that_is_cut_is_said(run, tmp_path):
    words = ["--steps", 1, "--out", tmp_path / "a.png", "--json"]
    said = command(
        "generate", run, "a red circle " * 30, "a red circle " * 30, "a red circle", *words
    )
    cut = [note for note in said.json["notes"] if "is cut to the 12 that are read" in note]
    assert len(cut) == 1 and said.code == 0
    said = command("generate", run, "a red circle", *words)
    assert not any("is cut" in note for note in said.json["notes"])


def vit(**changes) -> ViTConfig:
    sizes = {
        "image_size": 32,
        "patch": 8,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "classes": (3,),
        "positions": "learned",
    }
    return ViTConfig(**(sizes | changes))  # fmt: skip


def kept(folder: Path, config) -> Path:
    folder.mkdir()
    model = config.build().initialise(5)
    save_config(folder, config)
    save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
    return folder


def test_positions_of_another_picture_size_are_interpolated(tmp_path):
    before = kept(tmp_path / "r32", vit())
    model = vit(image_size=48).build().initialise(0)
    begun = begin_with(model, before)
    assert begun.resized == ["position.weight"] and not begun.new and not begun.unused
    table = vit().build().initialise(5).position.weight.detach()
    assert torch.equal(model.position.weight, resize_positions(table, 6))
    assert "are positions of another grid" in begun.notes("r32")[0]

    sizes = {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "text_width": 16,
        "text_depth": 1,
        "text_heads": 2,
    }
    old = kept(tmp_path / "clip", ClipConfig(image_size=16, patch=4, **sizes))
    clip = ClipConfig(image_size=24, patch=4, **sizes).build().initialise(0)
    assert begin_with(clip, old).resized == ["picture_tower.positions.weight"]
    given = (
        ClipConfig(image_size=16, patch=4, **sizes)
        .build()
        .initialise(5)
        .picture_tower.positions.weight
    )
    own = clip.picture_tower.positions.weight
    assert torch.equal(own[0], given[0])
    torch.testing.assert_close(own[1:], resize_positions(given[1:], 6))


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ({"width": 32}, "--model.width 16"),
        ({"classes": (4,)}, "--model.classes 3"),
        ({"patch": 4}, "--model.patch 8"),
    ],
)
def test_a_start_of_another_shape_says_what_to_set(tmp_path, change, mend):
    before = kept(tmp_path / "r", vit())
    with pytest.raises(UserError, match=f"belongs to another model.*use {mend}"):
        begin_with(vit(**change).build().initialise(0), before)


def test_what_a_start_lacks_and_what_it_has_besides_is_said(tmp_path):
    before = kept(tmp_path / "r", vit(pool="cls", positions="none"))
    recipe = PictureRecipe(
        model=vit(pool="mean"), data=PictureData(image_size=32), start=str(before)
    )
    said = io.StringIO()
    make_model(recipe, say=said.write)
    assert "position.weight are not there and keep their start" in said.getvalue()
    assert "cls.weight are there alone and are left out" in said.getvalue()
    said = io.StringIO()
    make_model(replace(recipe, start=""), say=said.write)
    assert not said.getvalue()


def test_a_request_in_python_is_checked_as_the_command_is():
    with pytest.raises(WrongUse, match="guidance is nan"):
        Options(guidance=float("nan")).request()
    with pytest.raises(WrongUse, match="seed is"):
        Draw(drawing=Drawing(seed=HUGE))
    with pytest.raises(WrongUse, match="count is 0"):
        Draw(count=0)
