"""Captions beside pictures, in the names people give them; a folder's name where there are none."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import command, refused
from picture_runs import small
from PIL import Image
from test_picture_tables import put, read

from maquette.corpus.pictures import window as picture_window
from maquette.corpus.pictures.captions import EMPTY, REPEATS
from maquette.corpus.pictures.files import pictures
from maquette.corpus.pictures.foreign import HEIC, JPEG_XL
from maquette.corpus.pictures.item import NO_CAPTION, Picture
from maquette.corpus.pictures.sidecars import NO_FIELD, NO_RECORD
from maquette.corpus.pictures.store import open_pictures
from maquette.training.datasets.picture_config import PictureData, PictureRecipe


@pytest.mark.parametrize("folder", ["", "10_sks dog", "00000"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "of a"),
        ("a.caption", " of a\n"),
        ("a.jpg.txt", "of a"),
        ("a.jpg.caption", "of a"),
        ("a.caption.txt", "of a"),
        ("A.TXT", "of a"),
        ("a.json", '{"caption": "of a", "url": "http://x/a.jpg", "width": 20}'),
        ("a.jpg.json", '{"TEXT": "of a"}'),
        ("a.json", '{"captions": ["of a", "another"], "label": null}'),
        ("a.json", '{"text": "", "title": "a.jpg", "description": "of a"}'),
        ("a.json", '\ufeff{"tags": "of a"}'),
    ],
    ids=range(11),
)
def test_the_caption_beside_a_picture_is_found(folder, name, content, tmp_path):
    put(tmp_path / folder, "a.jpg", "b.jpg")
    (tmp_path / folder / name).write_text(content, encoding="utf-8")
    (tmp_path / folder / "b.txt").write_text("of b", encoding="utf-8")
    captions, left, _ = read(tmp_path / folder if not folder else tmp_path)
    assert sorted(captions.values()) == ["of a", "of b"]
    assert left == {}


def test_a_list_of_tags_is_one_caption_and_a_list_of_captions_are_several(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.jpg.json").write_text('{"tags": ["1girl", "solo"]}', encoding="utf-8")
    (tmp_path / "b.jpg.json").write_text('{"captions": ["one", "two"]}', encoding="utf-8")
    assert read(tmp_path)[0] == {"a.jpg": "1girl, solo", "b.jpg": "one"}


def test_the_first_that_says_something_counts(tmp_path):
    put(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg")
    texts = {"a.jpg.txt": "jpg", "a.txt": "both", "a.json": '{"text": "json"}', "b.txt": " \n",
             "b.json": '{"text": "json"}', "c.txt": ""}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {"a.jpg": "jpg", "a.png": "both", "b.jpg": "json"}
    assert left == {"c.jpg": EMPTY}
    (tmp_path / "a.json").write_text('{"alt2": "named"}', encoding="utf-8")
    assert read(tmp_path, caption="alt2")[0]["a.png"] == "named"


def test_names_agree_in_case_and_normal_form_and_an_exact_one_counts_first(tmp_path):
    cafe = unicodedata.normalize("NFC", "Café")
    put(tmp_path, "P0.JPG", unicodedata.normalize("NFD", cafe) + ".png", "x.jpg", "X.jpg")
    (tmp_path / "p0.txt").write_text("zero", encoding="utf-8")
    (tmp_path / f"{cafe}.txt").write_text("coffee", encoding="utf-8")
    (tmp_path / "x.txt").write_text("small", encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions["P0.JPG"] == "zero" and captions["x.jpg"] == "small"
    assert sorted(captions.values()) == ["coffee", "small", "zero"]
    assert left == {"X.jpg": NO_CAPTION}


def test_records_without_a_caption_are_counted_and_leave_the_class(tmp_path):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg", "cow/c.jpg")
    (tmp_path / "cat" / "a.json").write_text(
        '{"shapes": [], "imagePath": "a.jpg"}', encoding="utf-8"
    )
    (tmp_path / "dog" / "b.json").write_text("{", encoding="utf-8")
    (tmp_path / "cow" / "c.json").write_text('{"title": "c.jpg"}', encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {"cat/a.jpg": "cat", "dog/b.jpg": "dog"}
    assert left == {"cat/a.json": NO_FIELD, "dog/b.json": NO_RECORD, "cow/c.json": NO_FIELD,
                    "cow/c.jpg": NO_CAPTION}  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "name", "done"),
    [
        ("10_sks dog", "sks dog", [REPEATS]),
        ("1_a_b", "a_b", [REPEATS]),
        ("sks dog", "sks dog", []),
        ("001_cat", "001_cat", []),
        ("2023_05", "2023_05", []),
        ("20_30", "20_30", []),
        ("10", "10", []),
        (unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café"), []),
    ],
)
def test_a_folders_name_is_a_caption_without_kohyas_repeats(folder, name, done, tmp_path):
    put(tmp_path, f"{folder}/a.jpg")
    (item,) = pictures([tmp_path])
    assert isinstance(item, Picture)
    assert (item.caption, item.label, list(item.converted)) == (name, name, done)


def test_formats_that_are_not_read_are_named_with_the_way_out(tmp_path):
    put(tmp_path, "a.jpg")
    for name in ("IMG_0.HEIC", "IMG_1.heif", "b.jxl"):
        (tmp_path / name).write_bytes(b"x" * 99)
        (tmp_path / name).with_suffix(".txt").write_text("one", encoding="utf-8")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {"a.jpg": "one"}
    assert left == {"IMG_0.HEIC": HEIC, "IMG_1.heif": HEIC, "b.jxl": JPEG_XL}
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "a.txt").unlink()
    said = command("corpus", "pictures", tmp_path / "out", tmp_path)
    assert said.code == 1
    assert "no picture is left (2 HEIC, 1 JPEG XL" in said.err
    assert "convert to JPEG (heif-convert" in said.err


def test_a_file_without_an_ending_is_a_picture_by_its_bytes(tmp_path):
    put(tmp_path, "cat/a.png", "cat/b.jpg")
    for name in ("a.png", "b.jpg"):
        shutil.move(tmp_path / "cat" / name, tmp_path / "cat" / name[0])
    (tmp_path / "cat" / "README").write_text("nothing", encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {"cat/a": "cat", "cat/b": "cat"}
    assert left == {"cat/README": "neither picture nor caption, by its name"}


@pytest.mark.parametrize("heldout", ["0.01", "0.99"])
def test_one_picture_is_trained_on_and_it_is_said_that_none_is_held_out(heldout, tmp_path):
    put(tmp_path / "one", "a.png")
    (tmp_path / "one" / "a.txt").write_text("only one", encoding="utf-8")
    out = tmp_path / "out"
    words = (
        "corpus",
        "pictures",
        out,
        tmp_path / "one",
        "--image-size",
        "16",
        "--heldout",
        heldout,
    )
    said = command(*words, "--json")
    assert said.code == 0, said.err
    assert said.json["splits"] == {"train": 1, "heldout": 0}
    assert "1 picture of 16 x 16: 1 to train on, none held out" in said.err
    assert "none held out" in command("corpus", "show", out).out
    split = open_pictures(str(out)).split("train", 16)
    assert split.captions(np.arange(1)) == ["only one"]
    assert split.pictures(np.arange(1)).shape == (1, 16, 16, 3)
    assert len(open_pictures(str(out)).split("heldout", 16)) == 0
    recipe = PictureRecipe(
        model=small(), data=PictureData(corpus=str(out), image_size=16, caption_length=12)
    )
    recipe.save(tmp_path / "r.yaml")
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    refused(said, "no held-out picture: add a second picture", code=1)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_every_way_of_captions_gives_the_same_bytes_for_any_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_window, "TASK_PICTURES", 4)
    monkeypatch.setattr(picture_window, "WORTH", 8)
    top = tmp_path / "top"
    for i in range(24):
        folder = put(top / ("x" if i % 2 else "y"), f"{i}.png")
        rough = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(rough).save(folder / f"{i}.png")
        if i % 3:
            ending, text = ((".caption", f"n {i}"), (".json", json.dumps({"caption": f"n {i}"})))[
                i % 2
            ]
            (folder / f"{i}{ending}").write_text(text, encoding="utf-8")
    rows = {f"{i}": {"caption": f"n {i}"} for i in range(0, 24, 3)}
    (top / "meta_cap.json").write_text(json.dumps(rows), encoding="utf-8")
    hashes = set()
    for workers in ("1", "2"):
        out = Path(tmp_path / f"out{workers}")
        said = command(
            "corpus", "pictures", out, top, "--image-size", "8", "--workers", workers, "--json"
        )
        assert said.json["pictures"] == 24 and said.json["skipped"] == 0
        hashes.add(said.json["hash"])
    assert len(hashes) == 1
