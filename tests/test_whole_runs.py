"""A picture run is whole by itself: its paths hold from any folder, pictures are made without its corpus."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import command, refused
from picture_runs import small, untrained
from PIL import Image

from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import pictures_of
from maquette.workshop.load_pictures import load_pictures


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder that a user stands in, with a corpus `c` of two classes."""
    for name in ("red", "blue"):
        (tmp_path / "files" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng([i, len(name)]).integers(
                0, 256, (16, 16, 3), dtype=np.uint8
            )
            Image.fromarray(pixels).save(tmp_path / "files" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    assert (
        command("corpus", "pictures", "c", "files", "--image-size", 16, "--heldout", 0.3).code == 0
    )
    return tmp_path


def recipe(**model) -> PictureRecipe:
    return PictureRecipe(
        model=small(**model),
        data=PictureData(corpus="c", image_size=16, caption_length=12),
        watch=PictureWatch(pictures=4),
        batch=4,
        start="before",
    )


@pytest.mark.parametrize("condition", ["text", "class"])
def test_a_run_makes_pictures_from_any_folder_and_without_its_corpus(
    folder, condition, monkeypatch
):
    classes = {"classes": (2,)} if condition == "class" else {}
    run = untrained("r", recipe(condition=condition, **classes)).absolute()
    kept = json.loads((run / "corpus.json").read_text(encoding="utf-8"))
    assert kept["path"] == str(folder / "c")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    made = ["generate", run, "red", "--steps", 1, "--out", folder / "a.png"]
    assert command(*made).code == 0
    assert load_pictures(run).corpus.path == folder / "c"
    shutil.move(folder / "c", folder / "moved")
    assert command(*made, "--seed", 1).code == 0
    refused(command("eval", run), f"is no longer at {folder / 'c'}", "--corpus")
    said = command("eval", run, "--corpus", folder / "moved", "--json")
    assert said.code == 0 and said.json["tasks"]["held-out loss"]["value"] > 0, said
    if condition == "class":
        (folder / "files" / "blue").rename(folder / "files" / "green")
        again = (
            "corpus",
            "pictures",
            "others",
            folder / "files",
            "--image-size",
            16,
            "--heldout",
            0.3,
        )
        assert command(*again).code == 0
        refused(command("eval", run, "--corpus", "others"), "['green', 'red']", "['blue', 'red']")
        refused(
            command("generate", run, "green", "--out", folder / "a.png"), "there is no class green"
        )


def test_every_path_that_a_recipe_keeps_is_absolute(folder):
    made = recipe(condition="text")
    saved = PictureRecipe(model=made.model, data=replace(made.data, encoder="runs/clip"), start="s")
    saved.save(folder / "r.yaml")
    for text in (folder / "r.yaml").read_text(encoding="utf-8").splitlines():
        name, _, value = text.strip().partition(": ")
        if name in ("encoder", "corpus", "start"):
            assert value == str(
                folder / {"encoder": "runs/clip", "corpus": "c", "start": "s"}[name]
            )
    assert PictureData().corpus == "shapes" and PictureRecipe().start == ""


def test_a_run_of_a_world_makes_pictures_where_the_world_is_not_kept(tmp_path):
    run = untrained(
        tmp_path / "r",
        replace(recipe(condition="text"), data=PictureData(image_size=16, caption_length=12)),
    )
    shutil.rmtree(pictures_of(RunDirectory(run)).path)
    said = command("generate", run, "a red house", "--steps", 1, "--out", tmp_path / "a.png")
    assert said.code == 0 and "unknown word house" in said.out


def test_a_run_finds_the_encoder_that_was_moved_with_it(folder):
    untrained(
        "runs/clip",
        PictureRecipe(
            model=small(), data=PictureData(corpus="c", image_size=16, caption_length=12)
        ),
    )
    data = PictureData(corpus="c", image_size=16, caption_length=12, encoder="runs/clip")
    untrained("runs/decoder", PictureRecipe(model=small(condition="none", embedding=8), data=data))
    shutil.move(folder / "runs", folder / "elsewhere")
    decoder = load_pictures(folder / "elsewhere" / "decoder")
    assert decoder.recipe.data.encoder == str(folder / "elsewhere" / "clip")


def test_an_imported_clip_is_scored_on_pictures_that_are_named(folder):
    pytest.importorskip("transformers")
    from test_clip_files import bpe, write

    write(folder / "theirs", bpe())
    assert command("import", "hf", "theirs", "im").code == 0
    refused(command("eval", "im"), "was not trained here")
    assert (
        command("corpus", "pictures", "large", "files", "--image-size", 32, "--heldout", 0.3).code
        == 0
    )
    said = command("eval", "im", "--corpus", "large", "--json")
    assert said.code == 0 and said.json["tasks"]["held-out loss"]["value"] > 0, said
