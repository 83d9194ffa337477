"""Corpora of pictures: the same for any workers, whole or not there, and every loss counted."""

import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command, refused
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Skipped
from maquette.corpus.pictures import build as picture_build
from maquette.corpus.pictures import window as picture_window
from maquette.corpus.pictures.build import DUPLICATE, build_pictures
from maquette.corpus.pictures.build_options import PictureBuildOptions
from maquette.corpus.pictures.item import Location, Picture
from maquette.corpus.pictures.store import PictureCorpus, open_pictures
from maquette.corpus.pictures.window import Window


def rough(seed: int, width=40, height=30) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def fill(folder: Path, count: int, first=0, end="png") -> Path:
    """So many pictures, each with a caption of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        rough(i).save(folder / f"{i:04d}.{end}")
        (folder / f"{i:04d}.txt").write_text(f"picture number {i} of many", encoding="utf-8")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    return fill(tmp_path / "photos", 60)


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(picture_window, "TASK_PICTURES", 4)
    monkeypatch.setattr(picture_window, "WORTH", 8)


def content(corpus: PictureCorpus) -> dict[str, bytes]:
    """Every file, and of the manifest what does not tell the time."""
    files = {p.name: p.read_bytes() for p in sorted(corpus.path.iterdir())}
    made = json.loads(files.pop("manifest.json"))
    kept = {k: v for k, v in made.items() if k not in ("seconds", "peak_memory")}
    return files | {"manifest": json.dumps(kept).encode()}


def every(corpus: PictureCorpus, split: str):
    side = corpus.split(split, corpus.manifest["image_size"])
    rows = np.arange(len(side))
    return side.pictures(rows), side.captions(rows), side.labels(rows)


def test_a_folder_becomes_a_corpus_that_is_read_back(photos, tmp_path):
    corpus = build_pictures(
        tmp_path / "out", [photos], PictureBuildOptions(image_size=16, heldout=0.2), workers=1
    )
    assert open_pictures(str(tmp_path / "out")).hash == corpus.hash
    read = {}
    for split in ("train", "heldout"):
        pixels, captions, labels = every(corpus, split)
        assert pixels.shape == (corpus.manifest["splits"][split], 16, 16, 3)
        assert labels is None
        read |= dict(zip(captions, pixels, strict=True))
    assert len(read) == 60
    for i in (0, 17, 59):
        middle = rough(i).resize((16, 16), Image.Resampling.LANCZOS, box=(5, 0, 35, 30))
        assert (read[f"picture number {i} of many"] == np.asarray(middle)).all()
    tokens = corpus.tokenizer.encode("picture number 3 of many")
    assert len(tokens) <= corpus.manifest["caption_tokens"]["most"] <= 8
    assert corpus.vocabulary == corpus.manifest["vocabulary"] < 2048


def test_the_manifest_says_what_the_files_hold(photos, tmp_path):
    corpus = build_pictures(
        tmp_path / "out", [photos], PictureBuildOptions(image_size=16), workers=1
    )
    m = corpus.manifest
    assert (m["kind"], m["format"], m["image_size"], m["crop"]) == ("pictures", 2, 16, "center")
    assert sum(m["splits"].values()) == 60
    assert m["bytes_read"] == sum(p.stat().st_size for p in photos.glob("*.png"))
    named = {"manifest.json", "tokenizer.json", *m["files"]}
    assert {p.name for p in corpus.path.iterdir()} == named
    for name, part in m["files"].items():
        data = (corpus.path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    assert m["peak_memory"] > 1 << 20


def test_the_number_of_workers_changes_nothing(photos, tmp_path, small_tasks):
    (photos / "bad.jpg").write_bytes(b"x")
    (photos / "bad.txt").write_text("bad", encoding="utf-8")
    (photos / "copy.png").write_bytes((photos / "0007.png").read_bytes())
    (photos / "copy.txt").write_text("again", encoding="utf-8")
    one = build_pictures(
        tmp_path / "1" / "out", [photos], PictureBuildOptions(image_size=16), workers=1
    )
    two = build_pictures(
        tmp_path / "2" / "out", [photos], PictureBuildOptions(image_size=16), workers=2
    )
    assert content(one) == content(two)
    assert two.manifest["skipped"] == 2


def test_workers_are_used_where_there_is_much_to_do(photos, tmp_path, small_tasks, monkeypatch):
    monkeypatch.setattr(picture_window, "_square", None)  # not in this process
    corpus = build_pictures(
        tmp_path / "out", [photos], PictureBuildOptions(image_size=16), workers=2
    )
    assert sum(corpus.manifest["splits"].values()) == 60


def endless(counted: list[int]):
    file = io.BytesIO()
    rough(0).save(file, "PNG")
    for i in itertools.count():
        counted.append(i)
        yield Picture(f"{i}", "one", None, (), Location(len(file.getvalue()), file.getvalue()))


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_is_read_ahead_than_the_window_holds(workers, small_tasks):
    counted: list[int] = []
    found = Window(16, "center", workers).each(endless(counted))
    for taken in range(1, 120):
        next(found)
        assert len(counted) <= taken + 4 * (2 * workers + 1)
    found.close()


def test_many_skipped_files_in_a_row_do_not_pile_up():
    counted: list[int] = []

    def skips():
        for i in itertools.count():
            counted.append(i)
            yield Skipped(f"{i}", "x")

    found = Window(16, "center", 1).each(skips())
    next(found)
    assert len(counted) <= picture_window.TASK_ITEMS * 20
    found.close()


def test_a_picture_is_left_out_when_it_is_there_already(photos, tmp_path):
    for name in ("0003", "0004"):
        (photos / f"zz{name}.png").write_bytes((photos / f"{name}.png").read_bytes())
        (photos / f"zz{name}.txt").write_text("the same file", encoding="utf-8")
    rough(5).save(photos / "zz.bmp")  # other bytes, the same pixels
    (photos / "zz.txt").write_text("the same pixels", encoding="utf-8")
    corpus = build_pictures(
        tmp_path / "out", [photos, photos], PictureBuildOptions(image_size=16), workers=1
    )
    assert sum(corpus.manifest["splits"].values()) == 60
    assert corpus.manifest["duplicates"] == 3 + 63
    assert corpus.manifest["skipped_reasons"] == {DUPLICATE: 66}
    assert len(corpus.manifest["skipped_named"]) == picture_build.NAMED


def test_numbers_are_known_again_when_they_are_sorted_away(monkeypatch):
    monkeypatch.setattr(picture_build, "RECENT", 10)
    seen = picture_build._Seen()
    draw = np.random.default_rng(0).integers(0, 2**64, 400, dtype=np.uint64).tolist()
    for i, number in enumerate(draw):
        assert number not in seen
        seen.add(number)
        assert all(before in seen for before in draw[: i + 1 : 7])
    assert len(seen._recent) <= 51


def sides(corpus: PictureCorpus) -> dict[str, str]:
    return {caption: split for split in ("train", "heldout") for caption in every(corpus, split)[1]}


def test_a_picture_keeps_its_side_when_the_sources_grow_and_at_every_size(photos, tmp_path):
    few = sides(
        build_pictures(
            tmp_path / "a", [photos], PictureBuildOptions(image_size=16, heldout=0.3), workers=1
        )
    )
    fill(photos, 40, first=100)
    fill(tmp_path / "another", 40, first=200)
    more = build_pictures(
        tmp_path / "b",
        [tmp_path / "another", photos],
        PictureBuildOptions(image_size=8, crop="none", heldout=0.3),
        workers=1,
    )
    assert len(few) == 60 < len(sides(more)) == 140
    assert few.items() <= sides(more).items()
    assert 0.15 < more.manifest["splits"]["heldout"] / 140 < 0.45


@pytest.mark.parametrize("count", [2, 5])
def test_of_a_few_pictures_one_is_held_out_all_the_same(count, tmp_path):
    folder = fill(tmp_path / "few", count)
    corpus = build_pictures(
        tmp_path / "out", [folder], PictureBuildOptions(image_size=16, heldout=1e-9), workers=1
    )
    assert corpus.manifest["splits"] == {"train": count - 1, "heldout": 1}
    draws = {
        f"picture number {i} of many": hashlib.sha256(
            (folder / f"{i:04d}.png").read_bytes()
        ).digest()
        for i in range(count)
    }
    assert every(corpus, "heldout")[1] == [min(draws, key=draws.__getitem__)]
    assert sorted(every(corpus, "train")[1]) == sorted(
        set(draws) - set(every(corpus, "heldout")[1])
    )


def test_classes_are_labels_in_the_order_of_their_names(tmp_path):
    top = tmp_path / "by class"
    for i in range(24):
        folder = top / ["10", "9", "wren"][i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        rough(i).save(folder / f"{i}.png")
    corpus = build_pictures(
        tmp_path / "out", [top], PictureBuildOptions(image_size=16, heldout=0.3), workers=1
    )
    m = corpus.manifest
    assert (m["classes"], m["label_names"], m["label_sizes"]) == (
        ["9", "10", "wren"],
        ["class"],
        [3],
    )
    assert m["class_counts"] == [8, 8, 8]
    for split in ("train", "heldout"):
        _, captions, labels = every(corpus, split)
        assert labels.shape == (len(captions), 1)
        assert [m["classes"][i] for i in labels[:, 0]] == captions


def test_without_a_class_for_each_there_are_no_labels(photos, tmp_path):
    (tmp_path / "more" / "wren").mkdir(parents=True)
    rough(900).save(tmp_path / "more" / "wren" / "1.png")
    out = tmp_path / "out"
    said = command("corpus", "pictures", out, photos, tmp_path / "more", "--image-size", "16")
    assert "no labels: 60 pictures have no class" in said.out
    corpus = open_pictures(str(out))
    assert (corpus.label_names, corpus.manifest["classes"]) == ([], [])
    assert not list(out.glob("labels*"))


def test_the_command_names_every_loss_once_and_shows_a_grid(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rough(300, 200, 100).save(photos / "turned.jpg", exif=exif)
    Image.new("CMYK", (30, 30), (9, 9, 9, 9)).save(photos / "cmyk.jpg")
    rough(301, 1, 1).save(photos / "dot.png")
    whole = (photos / "0001.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "nothing.jpg").write_bytes(b"")
    (photos / "bare.png").write_bytes(whole)
    for name in ("turned", "cmyk", "dot", "cut", "nothing"):
        (photos / f"{name}.txt").write_text(name, encoding="utf-8")
    (photos / "cmyk.txt").write_bytes(b"caf\xe9")
    (photos / "captions.jsonl").write_text(
        '{"file": "gone.jpg", "text": "gone"}\n', encoding="utf-8"
    )
    out = tmp_path / "out"
    said = command(
        "corpus", "pictures", out, photos, "--image-size", "16", "--workers", "1", "--json"
    )
    assert said.code == 0, said.err
    assert said.json["pictures"] == 62
    assert said.json["skipped_reasons"] == {
        "a side of less than 8 pixels": 1,
        "truncated": 1,
        "empty": 1,
        "no caption": 1,
        "named in a table of captions, not there": 1,
    }
    assert said.json["converted"] == {
        "turned by EXIF": 1, "CMYK": 1, "caption not UTF-8: read as Windows-1252": 1,
    }  # fmt: skip
    for reason in said.json["skipped_reasons"]:
        assert said.err.count(f"skipped 1: {reason} (such as ") == 1
    assert "bare.png" in said.err
    assert "gone.jpg" in said.err
    assert "changed 1: CMYK" in said.err
    assert "peak memory" in said.err
    shown = command("corpus", "show", out, "--picture", tmp_path / "grid.png", "--json")
    assert shown.json["hash"] == said.json["hash"]
    assert "picture number 0 of many" in shown.json["examples"]
    assert shown.err.count("skipped 1: truncated") == 1
    grid = Image.open(tmp_path / "grid.png")
    assert min(grid.size) >= 8 * 16


def test_options_reach_the_corpus(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [io.BytesIO() for _ in range(9)]
    for i, file in enumerate(files):
        rough(i, 60, 20).save(file, "PNG")
    rows = {"blob": [f.getvalue() for f in files], "alt": [f"number {i}" for i in range(9)]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    words = ("corpus", "pictures", tmp_path / "out", tmp_path / "a.parquet", "--image-size", "24")
    more = ("--crop", "none", "--vocabulary", "260", "--heldout", "0.5")
    said = command(*words, *more, "--columns", "image=blob, caption=alt", "--json")
    assert said.code == 0, said.err
    corpus = open_pictures(str(tmp_path / "out"))
    assert corpus.vocabulary == 260
    pixels, captions, _ = every(corpus, "train")
    assert captions[0].startswith("number ")
    assert (pixels[:, :8] == 255).all()  # a third of the height: the rest is white
    refused(command(*words, "--columns", "image=blob"), "exists", "--replace", code=2)
    again = command(*words, "--replace", "--columns", "image=blob,caption=alt", "--json")
    assert again.json["hash"] != said.json["hash"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--image-size", "4"), ("image_size is 4", "8 to 1024")),
        (("--heldout", "1"), ("heldout is 1.0",)),
        (("--vocabulary", "100"), ("vocabulary is 100",)),
        (("--workers", "0"), ("workers is 0",)),
        (("--columns", "image"), ("--columns image", "image=...")),
        (("--columns", "picture=a"), ("no column for picture", "image, caption or label")),
        (("--crop", "left"), ("left",)),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words, parts, photos, tmp_path):
    refused(command("corpus", "pictures", tmp_path / "out", photos, *words), *parts, code=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_nothing_left_is_an_error_in_a_line(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    refused(command("corpus", "pictures", out, tmp_path / "nowhere"), "does not exist", code=1)
    refused(command("corpus", "pictures", out, tmp_path / "empty"), "no files found", code=1)
    for text in photos.glob("*.txt"):
        text.unlink()
    refused(command("corpus", "pictures", out, photos), "60 no caption", "NAME.txt beside", code=1)
    for picture in photos.glob("*.png"):
        picture.write_bytes(b"no picture")
        picture.with_suffix(".txt").write_text("x", encoding="utf-8")
    refused(
        command("corpus", "pictures", out, photos), "no picture is left (60 not a picture", code=1
    )
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "photos"]


def test_words_for_text_are_refused_beside_pictures(photos, tmp_path):
    build_pictures(tmp_path / "out", [photos], PictureBuildOptions(image_size=16), workers=1)
    refused(command("corpus", "show", tmp_path / "out", "--why", "x"), "for text", code=2)
    refused(command("corpus", "show", tmp_path / "out", "--planted"), "for text", code=2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk")])
def test_a_build_that_breaks_leaves_nothing_and_spares_what_was(
    error, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    before = build_pictures(out, [photos], PictureBuildOptions(image_size=16), workers=1).hash

    def stop(*_):
        raise error

    monkeypatch.setattr(picture_build, "save_tokenizer", stop)
    with pytest.raises((KeyboardInterrupt, OSError)):
        build_pictures(out, [photos], PictureBuildOptions(image_size=24), workers=1, replace=True)
    with pytest.raises((KeyboardInterrupt, OSError)):
        build_pictures(tmp_path / "new", [photos], PictureBuildOptions(image_size=24), workers=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]
    assert open_pictures(str(out)).hash == before


SLOW = """
import time
from maquette.corpus.pictures import build as picture_build
before = picture_build._Writer.add
def slow(self, *a):
    time.sleep(1)
    before(self, *a)
picture_build._Writer.add = slow
from maquette.cli.main import main
main(["corpus", "pictures", {out!r}, {photos!r}, "--image-size", "16", "--workers", "2"])
"""


def test_kill_leaves_nothing_half_made_and_the_next_build_clears_up(photos, tmp_path):
    out = tmp_path / "out"
    code = SLOW.format(out=str(out), photos=str(photos))
    running = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    aside = tmp_path / ".out.tmp" / "pictures-train.bin"
    for _ in range(6000):
        if aside.exists():
            break
        time.sleep(0.05)
    assert aside.exists()
    time.sleep(0.3)
    busy = command("corpus", "pictures", out, photos, "--image-size", "16")
    refused(busy, "another process is building", code=2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not out.exists()
    whole = build_pictures(out, [photos], PictureBuildOptions(image_size=16), workers=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]
    assert sum(whole.manifest["splits"].values()) == 60


def test_a_worker_that_dies_is_one_line(photos, tmp_path, small_tasks, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    class Broken:
        def submit(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr(picture_window, "start_workers", lambda workers: Broken())
    with pytest.raises(UserError, match="fewer --workers"):
        build_pictures(tmp_path / "out", [photos], PictureBuildOptions(image_size=16), workers=2)
    with pytest.raises(WrongUse, match="one file"):
        build_pictures(tmp_path / "out", [photos / "0000.png"], PictureBuildOptions(image_size=16))
