"""Shards as tar writes them: unsorted, with folders, members of equal names, empty captions."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from maquette.corpus.document import Skipped
from maquette.corpus.pictures import shards as picture_shards
from maquette.corpus.pictures.captions import EMPTY
from maquette.corpus.pictures.files import pictures
from maquette.corpus.pictures.foreign import HEIC
from maquette.corpus.pictures.item import NO_CAPTION, Picture
from maquette.corpus.pictures.shards import NO_PICTURE, REPEATED, TOO_LATE
from maquette.corpus.pictures.sidecars import NO_RECORD
from maquette.corpus.pictures.tables import SECOND


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (number, 7, 9)).save(file, "PNG")
    return file.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path.with_suffix(".tar") if path.suffix == ".tgz" else path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if path.suffix == ".tgz":
        whole = path.with_suffix(".tar")
        path.write_bytes(gzip.compress(whole.read_bytes()))
        whole.unlink()
    return path


def read(path: Path, **columns) -> tuple[dict[int, str], dict[str, str]]:
    """The caption by the picture's number (its colour), and reasons by what stands in the shard."""
    captions, left = {}, {}
    for item in pictures([path], columns):
        if isinstance(item, Picture):
            with Image.open(io.BytesIO(item.location.read())) as picture:
                captions[picture.getpixel((0, 0))[0]] = item.caption
        else:
            assert isinstance(item, Skipped)
            left[item.source.partition(f"{path.name}")[2].removeprefix(":")] = item.reason
    return captions, left


@pytest.fixture(params=["a.tar", "a.tgz"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def test_captions_that_stand_after_all_pictures_are_joined(path):
    drawn = [(f"d/{i:04d}.png", png(i)) for i in range(6)]
    said = [(f"d/{i:04d}.txt", b"number %d" % i) for i in (5, 2, 1, 3, 0, 4)]
    for members in (drawn + said, said + drawn, said[:3] + drawn + said[3:]):
        captions, left = read(shard(path, members))
        assert captions == {i: f"number {i}" for i in range(6)}
        assert left == {}


def test_what_stands_apart_is_joined_by_every_ending_and_the_rest_is_named(path):
    members = [("0.png", png(0)), ("1.png", png(1)), ("P2.PNG", png(2)), ("3.png", png(3)),
               ("2023.01.05 a.png", png(4)), ("2023.01.06 b.png", png(5)),
               ("0.json", b'{"caption": "zero"}'), ("1.cls", b"7"), ("p2.caption", b"two"),
               ("2023.01.06 b.txt", b"b"), ("2023.01.05 a.txt", b"a"), ("9.txt", b"nobody's")]  # fmt: skip
    captions, left = read(shard(path, members))
    assert captions == {0: "zero", 1: "7", 2: "two", 4: "a", 5: "b"}
    assert left == {"3": NO_CAPTION, "9": NO_PICTURE}


def test_too_many_captions_apart_are_said_with_the_mend(path, monkeypatch):
    monkeypatch.setattr(picture_shards, "LATE", 20 + 2 * picture_shards.HELD)
    members = [(f"{i}.png", png(i)) for i in range(4)] + [(f"{i}.txt", b"x" * 9) for i in range(4)]
    captions, left = read(shard(path, members))
    assert captions == dict.fromkeys(range(2), "x" * 9)
    assert left == {"2": NO_CAPTION, "3": NO_CAPTION, "": TOO_LATE}


def test_the_same_name_in_other_folders_is_another_picture(path, tmp_path):
    members = [m for i, d in enumerate(("cats", "dogs", "./cows"))
               for m in ((f"{d}/0.png", png(i)), (f"{d}/0.txt", d.encode()))]  # fmt: skip
    for order in (members, members[::2] + members[1::2]):
        assert read(shard(path, order)) == ({0: "cats", 1: "dogs", 2: "./cows"}, {})
    more = shard(tmp_path / "b.tar", [("cats/0.png", png(9)), ("cats/0.txt", b"other")])
    items = list(pictures([path, more]))
    assert sorted(item.caption for item in items) == ["./cows", "cats", "dogs", "other"]


def test_the_same_name_again_is_another_sample_or_is_named(path):
    twice = [("0.png", png(1)), ("0.txt", b"one"), ("0.png", png(2)), ("0.txt", b"two")]
    assert read(shard(path, twice)) == ({1: "one", 2: "two"}, {})
    apart = [*twice[:2], ("5.png", png(5)), ("5.txt", b"five"), *twice[2:]]
    assert read(shard(path, apart)) == ({1: "one", 2: "two", 5: "five"}, {})
    texts_first = [twice[1], twice[0], twice[3], twice[2]]
    assert read(shard(path, texts_first)) == ({1: "one", 2: "two"}, {})
    unclear = [twice[0], twice[2], twice[1], twice[3]]
    captions, left = read(shard(path, unclear))
    assert captions == {1: "one"} and set(left.values()) == {REPEATED, NO_PICTURE}
    captions, left = read(shard(path, [*twice[:2], ("0.TXT", b"again")]))
    assert captions == {1: "one"} and left == {"0.TXT": SECOND}


def test_a_folder_without_captions_is_the_class_of_its_pictures(path):
    members = [("cats/0.png", png(0)), ("cats/1.png", png(1)), ("x/10_sks dog/0.png", png(2)),
               ("birds/0.png", png(3)), ("birds/1.png", png(4)), ("birds/1.txt", b"a wren"),
               ("./5.png", png(5)), ("6.png", png(6))]  # fmt: skip
    captions, left = read(shard(path, members))
    assert captions == {0: "cats", 1: "cats", 2: "sks dog", 4: "a wren"}
    assert left == {"birds/0": NO_CAPTION, "./5": NO_CAPTION, "6": NO_CAPTION}


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ([("0.caption", b"one")], "one"),
        ([("0.caption.txt", b"one")], "one"),
        ([("0.png.txt", b"one")], "one"),
        ([("0.png.json", b'{"TEXT": "one"}')], "one"),
        ([("0.json", b'{"caption": "one"}'), ("0.txt", b"")], "one"),
        ([("0.json", b'{"caption": "none"}'), ("0.txt", b"one")], "one"),
        ([("0.txt", b" "), ("0.cls", b"4")], "4"),
        ([("0.json", json.dumps({"captions": ["one", "two"]}).encode())], "one"),
    ],
    ids=range(8),
)
def test_a_caption_is_found_by_each_ending(members, caption, path):
    assert read(shard(path, [("0.png", png(3)), *members])) == ({3: caption}, {})
    assert read(shard(path, [*members, ("0.png", png(3))])) == ({3: caption}, {})


def test_what_gives_no_caption_has_its_own_reason(path):
    members = [("0.png", png(0)), ("0.txt", b"\n"), ("1.png", png(1)), ("1.json", b"{"),
               ("2.png", png(2)), ("2.txt", b"two"), ("3.heic", b"x"), ("3.txt", b"three"),
               ("4.npy", b"x")]  # fmt: skip
    captions, left = read(shard(path, members))
    assert captions == {2: "two"}
    assert left == {"0": EMPTY, "1": NO_RECORD, "3": HEIC, "4": NO_PICTURE}


def test_the_field_of_records_can_be_named(path):
    members = [("0.png", png(0)), ("0.txt", b"plain"), ("0.json", b'{"alt2": "named"}')]
    assert read(shard(path, members), caption="alt2") == ({0: "named"}, {})
    assert read(path)[0] == {0: "plain"}


def test_a_shard_that_is_cut_off_is_said_once(tmp_path):
    members = [(f"{i}.png", png(i)) for i in range(4)] + [(f"{i}.txt", b"t") for i in range(4)]
    whole = shard(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(b"2.txt") + 100])
    items = list(pictures([tmp_path / "a.tar"]))
    assert sum(isinstance(item, Picture) for item in items) == 2
    assert sum("cut off" in item.reason for item in items if isinstance(item, Skipped)) == 1
