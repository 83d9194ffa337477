"""Pictures and captions as people have them: every kind gives its picture, what is broken is named."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Skipped
from maquette.corpus.pictures import captions as picture_captions
from maquette.corpus.pictures import decode as picture_decode
from maquette.corpus.pictures import shards as picture_shards
from maquette.corpus.pictures.captions import CUT, NOT_UTF8, caption, decoded
from maquette.corpus.pictures.decode import NoPicture, decode, decode_whole, shape_of
from maquette.corpus.pictures.files import pictures
from maquette.corpus.pictures.item import Picture
from maquette.corpus.pictures.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
RED, BLUE, WHITE = (200, 30, 40), (20, 40, 210), (255, 255, 255)


def halves(width=64, height=48, left=RED, right=BLUE) -> Image.Image:
    """Two colours side by side."""
    picture = Image.new("RGB", (width, height), left)
    picture.paste(right, (width // 2, 0, width, height))
    return picture


def saved(picture: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def near(pixel, colour, most=6) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - np.asarray(colour, int)).max() <= most)


def found(*sources, **columns) -> tuple[dict[str, Picture], dict[str, str]]:
    """Pictures, and reasons, by the last part of their source."""
    items = list(pictures(sources, columns))
    return (
        {os.path.basename(i.source): i for i in items if isinstance(i, Picture)},
        {os.path.basename(i.source): i.reason for i in items if isinstance(i, Skipped)},
    )


def captions(*sources, **columns) -> dict[str, str]:
    return {name: picture.caption for name, picture in found(*sources, **columns)[0].items()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
        ("GIF", {}),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    ],
)
def test_a_picture_of_each_kind_becomes_its_middle_square(kind, options):
    pixels, _ = decode(saved(halves(160, 80), kind, **options), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert near(pixels[:, 3], RED)
    assert near(pixels[:, 12], BLUE)


def grey16() -> Image.Image:
    return Image.fromarray(np.full((20, 20), 200 << 8 | 77, np.uint16))


def palette(transparency=None) -> bytes:
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([0, 255, 0, *RED])
    return saved(picture, **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("data", "colour", "done"),
    [
        (saved(Image.new("L", (20, 20), 90)), (90, 90, 90), []),
        (saved(Image.new("1", (20, 20), 1)), WHITE, ["1 bit"]),
        (saved(grey16()), (200, 200, 200), ["16 bit"]),
        (saved(grey16(), "TIFF"), (200, 200, 200), ["16 bit"]),
        (saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), ["CMYK"]),
        (saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), ["CMYK"]),
        (palette(), RED, ["palette"]),
        (palette(1), WHITE, ["transparency on white"]),
        (palette(bytes([255, 255])), RED, ["transparency on white"]),
        (saved(Image.new("RGBA", (20, 20), (*RED, 0))), WHITE, ["transparency on white"]),
        (saved(Image.new("RGBA", (20, 20), (0, 0, 0, 128))), (127, 127, 127), ["transparency on white"]),
        (saved(Image.new("LA", (20, 20), (0, 64))), (191, 191, 191), ["transparency on white"]),
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb_and_the_change_is_named(data, colour, done):
    pixels, named = decode(data, 16)
    assert named == done
    assert near(pixels, colour), pixels[8, 8]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_exif_orientation_is_applied(turn, kind):
    from PIL import ImageOps

    corners = Image.new("RGB", (96, 64), (0, 200, 0))
    corners.paste(RED, (0, 0, 48, 32))
    corners.paste(BLUE, (48, 0, 96, 32))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(corners, kind, exif=exif)
    pixels, _ = decode(data, 16)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    wanted = np.asarray(ImageOps.fit(upright, (16, 16), Image.Resampling.BOX))
    for y, x in ((2, 2), (2, 13), (13, 2), (13, 13)):
        assert near(pixels[y, x], wanted[y, x], 12), (turn, y, x)
    whole = decode_whole(data, 10**6)
    assert whole.shape[:2] == shape_of(data) == (upright.height, upright.width)
    assert np.abs(whole.astype(int) - np.asarray(upright)).mean() < 2
    half = decode_whole(data, 96 * 64 // 4)
    assert half.shape[:2] == (upright.height // 2, upright.width // 2)


def test_the_whole_picture_stands_on_white():
    pixels, _ = decode(saved(halves(160, 80)), 16, "none")
    assert (pixels[:4] == 255).all()
    assert (pixels[12:] == 255).all()
    assert near(pixels[8, 2], RED)
    assert near(pixels[8, 13], BLUE)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    rough = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = saved(picture, "JPEG", quality=95)
    wanted = picture.crop((200, 0, 1400, 1200)).resize((32, 32), Image.Resampling.LANCZOS)
    asked = []
    before = Image.Image.draft
    with pytest.MonkeyPatch.context() as patch:
        from PIL.JpegImagePlugin import JpegImageFile

        draft = JpegImageFile.draft
        patch.setattr(
            JpegImageFile, "draft", lambda self, *a: (draft(self, *a), asked.append(self.size))
        )
        pixels, _ = decode(data, 32)
    assert before is Image.Image.draft
    assert asked == [(200, 150)]  # an eighth, above twice the size
    assert np.abs(pixels.astype(int) - np.asarray(wanted)).mean() < 2


def test_of_a_moving_picture_the_first_is_taken():
    frames = [Image.new("RGB", (20, 20), c) for c in (RED, BLUE)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        pixels, done = decode(data, 16)
        assert near(pixels, RED, 12), kind
        assert "first picture of several" in done


def png(width: int, height: int) -> bytes:
    """A PNG whose header says this, and hardly anything behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a picture, or its header is damaged"),
        (saved(halves())[:20], "truncated"),
        (saved(halves())[:6], "not a picture, or its header is damaged"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n",
            "not a picture, or its header is damaged",
        ),
        (saved(halves(400, 300), "JPEG")[:-800], "truncated"),
        (saved(halves(400, 300))[:-100], "truncated"),
        (png(64, 64), "truncated"),
        (png(30_000, 30_000), "more than 100 million pixels"),
        (png(12_000, 9_000), "more than 100 million pixels"),
        (saved(Image.new("1", (12_000, 12_000))), "more than 100 million pixels"),
        (png(1, 1), "a side of less than 8 pixels"),
        (saved(Image.new("RGB", (1, 1))), "a side of less than 8 pixels"),
        (saved(Image.fromarray(np.full((20, 20), 1 << 20, np.int32)), "TIFF"), "mode I (32 bit)"),
        (saved(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF"), "mode F (floating point)"),
    ],
    ids=range(15),
)
def test_what_is_no_picture_is_named_before_it_is_decoded(data, reason):
    with pytest.raises(NoPicture) as error:
        decode(data, 16)
    assert str(error.value) == reason


def test_pillows_own_limit_is_a_reason_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(NoPicture, match="million pixels"):
        decode(saved(halves()), 16)


def test_any_damage_ends_in_a_reason_or_a_picture():
    draw = np.random.default_rng(1)
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = np.frombuffer(saved(halves(), kind), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[draw.integers(0, len(broken), 6)] = draw.integers(0, 256, 6)
            try:
                assert decode(broken.tobytes(), 16)[0].shape == (16, 16, 3)
            except NoPicture:
                refused += 1
    assert 20 < refused < 240


@pytest.mark.parametrize(
    ("data", "text", "foreign"),
    [
        (b"a caf\xc3\xa9", "a café", False),
        (b"\xef\xbb\xbfa cat", "a cat", False),
        ("a café".encode("utf-16"), "a café", False),
        (b"a caf\xe9", "a café", True),
    ],
)
def test_captions_in_other_encodings_are_read(data, text, foreign):
    assert decoded(data) == (text, foreign)
    assert caption(data) == (text, None, (NOT_UTF8,) * foreign)


@pytest.mark.parametrize(
    ("text", "label", "wanted"),
    [
        (" two\n lines\0here ", None, ("two lines here", None)),
        (None, 3, ("3", "3")),
        ("", " cat\n", ("cat", "cat")),
        (["first", "second"], "cat", ("first", "cat")),
        (7, None, ("", None)),
        (None, True, ("", None)),
        ("half \ud83d here", None, ("half ? here", None)),
    ],
)
def test_a_caption_is_one_line_of_unicode(text, label, wanted):
    assert caption(text, label)[:2] == wanted


def test_a_long_caption_is_cut():
    made = caption("word " * 5000)
    assert len(made.text) <= picture_captions.LONGEST
    assert made.converted == (CUT,)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.json", '{"a.jpg": "one", "sub/b.jpg": "two"}'),
        ("captions.json", '[{"path": "a.jpg", "label": "one"}, {"image": "./sub/b.jpg", "text": "two"}]'),
        ("captions.jsonl", '{"file": "a.jpg", "text": "one"}\n\n{"file": "sub\\\\b.jpg", "prompt": "two"}'),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": "one"}\n{"name": "sub/b.jpg", "text": "two"}'),
        ("captions.csv", 'file_name,text\r\na.jpg,one\r\n"sub/b.jpg","two"\r\n'),
        ("captions.csv", "Caption;Image\none;a.jpg\ntwo;sub/b.jpg\n"),
        ("captions.csv", "a.jpg,one\nsub/b.jpg,two\n"),
        ("metadata.csv", "\ufefffile_name,text\na.jpg,one\nsub/b.jpg,two\n"),
    ],
)  # fmt: skip
def test_a_table_of_captions_in_each_form(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    rows, faults = read_table(tmp_path / name, name)
    assert {file: row.text for file, row in rows.items()} == {"a.jpg": "one", "sub/b.jpg": "two"}
    assert faults == []


@pytest.mark.parametrize(
    ("name", "content", "reasons", "left"),
    [
        ("captions.json", b"{", ["not JSON"], 0),
        ("captions.json", b"3", ["no table of file names and captions"], 0),
        ("captions.json", b'{"images": [], "x": {}}', ["no table of file names and captions"], 0),
        ("captions.csv", b"a,b,c\n1,2,3\n", ["no table of file names and captions"], 0),
        ("captions.csv", "file,text\na.jpg,b\n".encode("utf-16"), ["a table in UTF-16: save it as UTF-8"], 0),
        ("captions.jsonl", b'{"text": "x"}\n[\n{"file": "a.jpg", "text": "y"}',
         ["a record without a file name", "not JSON"], 1),
        ("captions.jsonl", b'{"file": "a.jpg", "text": "y"}\n{"file": "a.jpg", "text": "z"}',
         ["a second caption of a picture"], 1),
        ("captions.csv", b"file,text\rx\ra.jpg,b", ["no table of file names and captions"], 0),
        ("captions.csv", b"", ["no table of file names and captions"], 0),
    ],
)  # fmt: skip
def test_what_a_table_lacks_is_named(name, content, reasons, left, tmp_path):
    (tmp_path / name).write_bytes(content)
    rows, faults = read_table(tmp_path / name, name)
    assert [fault.reason for fault in faults] == reasons
    assert len(rows) == left


def test_a_table_that_is_not_utf8_is_read_and_said(tmp_path):
    (tmp_path / "captions.csv").write_bytes(b"file_name,text\na.jpg,a caf\xe9\n")
    rows, _ = read_table(tmp_path / "captions.csv", "")
    assert rows["a.jpg"] == ("a café", None, (NOT_UTF8,))


@pytest.fixture
def folder(tmp_path) -> Path:
    top = tmp_path / "photos"
    (top / "sub").mkdir(parents=True)
    return top


def put(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, 2 * i, 3)).save(folder / name)


def test_a_folder_gives_captions_from_the_file_beside_then_from_tables(folder):
    put(folder, "a.jpg", "b.PNG", "c.jpg", "sub/d.jpg", "e.x.jpg")
    (folder / "a.txt").write_text("beside", encoding="utf-8")
    (folder / "e.x.txt").write_text("with a dot", encoding="utf-8")
    (folder / "captions.json").write_text(
        '{"a.jpg": "in the table", "b.PNG": "b", "sub/d.jpg": "d"}', encoding="utf-8"
    )
    (folder / "old.txt").write_text("nobody's", encoding="utf-8")
    (folder / "notes.md").write_text("x", encoding="utf-8")
    read, skipped = found(folder)
    assert {name: p.caption for name, p in read.items()} == {
        "a.jpg": "beside", "b.PNG": "b", "d.jpg": "d", "e.x.jpg": "with a dot",
    }  # fmt: skip
    assert skipped == {
        "c.jpg": "no caption",
        "old.txt": "a caption without a picture",
        "notes.md": "neither picture nor caption, by its name",
    }
    assert read["b.PNG"].source == str(folder / "b.PNG")
    assert all(p.label is None for p in read.values())


def test_a_table_that_names_what_is_not_there_is_said(folder):
    put(folder, "sub/d.jpg", "other/e.jpg")
    (folder / "sub" / "captions.jsonl").write_text(
        '{"file": "d.jpg", "text": "d"}\n{"file": "../../secret.jpg", "text": "s"}',
        encoding="utf-8",
    )
    read, skipped = found(folder)
    assert read["d.jpg"].caption == "d"
    assert read["e.jpg"].label == "other"  # the table is another folder's
    assert skipped == {"secret.jpg": "named in a table of captions, not there"}


def test_without_captions_a_folders_name_is_the_class(folder):
    put(folder, "top.jpg", "cat/1.jpg", "cat/2.jpg", "big dog/1.png")
    read, skipped = found(folder)
    assert {(p.caption, p.label) for p in read.values()} == {("cat", "cat"), ("big dog", "big dog")}
    assert skipped == {"top.jpg": "no caption"}


def test_a_folder_with_captions_for_some_is_no_class(folder):
    put(folder, "batch/1.jpg", "batch/2.jpg")
    (folder / "batch" / "1.txt").write_text("one", encoding="utf-8")
    read, skipped = found(folder)
    assert (list(read), read["1.jpg"].label, skipped) == (["1.jpg"], None, {"2.jpg": "no caption"})


def test_labels_of_a_table_are_kept(folder):
    put(folder, "a.jpg", "b.jpg")
    (folder / "metadata.csv").write_text(
        "file_name,text,label\na.jpg,a bird,wren\nb.jpg,,owl\n", encoding="utf-8"
    )
    read, _ = found(folder)
    assert [(p.caption, p.label) for p in read.values()] == [("a bird", "wren"), ("owl", "owl")]


def test_loops_pipes_and_links_do_not_hang(folder):
    put(folder, "cat/1.jpg")
    (folder / "cat" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    os.mkfifo(folder / "pipe.jpg")
    read, skipped = found(folder)
    assert list(read) == ["1.jpg"]
    assert skipped == {
        "loop": "a link to a folder: not followed",
        "self.jpg": "a link that leads nowhere",
        "pipe.jpg": "a pipe, socket or device",
    }


@pytest.mark.parametrize("name", ["nowhere", "a.jpg", "captions.csv"])
def test_a_source_that_is_none_is_refused_at_once(name, tmp_path):
    if name != "nowhere":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="name a folder of pictures"):
        pictures([tmp_path / name])
    with pytest.raises(WrongUse, match="no column for alt"):
        pictures([tmp_path], {"alt": "x"})


def shard(path: Path, members: list[tuple[str, bytes]], mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


JPEG = saved(halves(), "JPEG")
MEMBERS = [
    ("d/0001.jpg", JPEG), ("d/0001.txt", b"one"),
    ("d/0002.seg.png", b"x"), ("d/0002.png", saved(halves())),
    ("d/0002.json", b'{"caption": "two", "label": 4}'),
    ("../../0003.jpg", JPEG), ("../../0003.cls", b"7\n"),
    ("._0004.jpg", b"apple"),
    ("0005.txt", b"no picture"),
    ("0006.jpg", JPEG),
    ("0007.webp", JPEG), ("0007.txt", b"seven"), ("0007.json", b"{"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"])
def test_a_shard_gives_its_samples(name, tmp_path):
    path = shard(tmp_path / "a.tar", MEMBERS)
    if name != "a.tar":
        import zstandard

        data = path.read_bytes()
        path.unlink()
        path = tmp_path / name
        path.write_bytes(zstandard.compress(data) if name.endswith("zst") else gzip.compress(data))
    read, skipped = found(path)
    assert {n: (p.caption, p.label) for n, p in read.items()} == {
        "0001": ("one", None), "0002": ("two", "4"), "0003": ("7", "7"), f"{name}:0007": ("seven", None),
    }  # fmt: skip
    assert skipped == {f"{name}:0005": "no picture in the sample", f"{name}:0006": "no caption"}
    assert read["0001"].location.read() == read["0003"].location.read() == JPEG
    assert read["0002"].location.read() == saved(halves())
    assert not (tmp_path.parent / "0003.jpg").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_names_with_dots_before_their_ending_lose_no_picture(name, tmp_path, monkeypatch):
    """A date is not a key; two pictures of one name are two; more than are held come all the same."""
    monkeypatch.setattr(picture_shards, "HELD", 4)
    members = [(f"2023.01.0{i} b.{end}", data)
               for i in range(7) for end, data in (("jpg", JPEG), ("txt", b"%d" % i))]  # fmt: skip
    members += [("one.txt", b"of both"), ("one.in.jpg", JPEG), ("one.out.png", saved(halves()))]
    members += [("two.jpg", JPEG), ("two.png", saved(halves())), ("two.txt", b"two")]
    read, skipped = found(shard(tmp_path / name, members, "w:gz" if name == "a.tgz" else "w"))
    got = {source.partition(":")[2]: picture.caption for source, picture in read.items()}
    assert got == {f"2023.01.0{i} b": str(i) for i in range(7)} | {
        "one.in": "of both", "one.out": "of both", "two.jpg": "two", "two.png": "two",
    }  # fmt: skip
    assert skipped == {}


def test_only_what_is_used_of_a_shard_is_read(tmp_path):
    members = [("1.jpg", JPEG), ("1.npy", b"x" * 9999), ("1.txt", b"one"), ("1.TXT", b"again")]
    path = shard(tmp_path / "a.tgz", members, "w:gz")
    with open(path, "rb") as raw:
        data = {m.name: m.data for m in picture_shards._members(raw, str(path))}
    assert data == {"1.jpg": JPEG, "1.npy": None, "1.txt": b"one", "1.TXT": b"again"}
    assert captions(path) == {"a.tgz:1": "one"}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_megabytes_is_refused_unread(kind, tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("0")
        info.type, info.size = kind, picture_shards.LONGEST_HEADER + 1
        tar.fileobj.write(info.tobuf() + b"x" * (info.size + -info.size % 512))
    asked = []
    monkeypatch.setattr(
        tarfile.TarInfo, "_proc_member", lambda self, tar: asked.append(self.size), raising=False
    )
    read, skipped = found(path)
    assert not read and "read up to there" in "".join(skipped.values()) and not asked


def test_links_and_devices_in_a_shard_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("0.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert found(tmp_path / "a.tar") == ({}, {})


@pytest.mark.parametrize("pack", [False, True])
def test_a_shard_that_is_cut_or_damaged_gives_what_is_sound(pack, tmp_path):
    members = [
        (f"{i}.{end}", data) for i in range(9) for end, data in (("jpg", JPEG), ("txt", b"t"))
    ]
    data = shard(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar").unlink()
    header = data.index(b"4.jpg")
    middle = header + 900  # in its picture
    broken = data[:header] + b"\xff" * 512 + data[header + 512 :]
    for number, one in enumerate((data[:middle], broken, b"nonsense" * 200)):
        path = tmp_path / f"{number}.tar{'.gz' * pack}"
        path.write_bytes(gzip.compress(one) if pack else one)
        read, skipped = found(path)
        assert len(read) == (0 if number == 2 else 4), number
        assert "read up to there" in "".join(skipped.values()), number
        assert all(p.location.read() == JPEG for p in read.values())


def test_a_member_that_leads_backwards_ends_the_shard(tmp_path):
    """A header of negative size once made readers go in circles (CVE-2025-8194)."""
    data = bytearray(shard(tmp_path / "a.tar", [("0.jpg", JPEG), ("0.txt", b"t")]).read_bytes())
    start = data.index(b"0.txt")
    data[start + 124 : start + 136] = b"\xff" * 10 + struct.pack(">h", -2048)
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    (tmp_path / "a.tar").write_bytes(data)
    _, skipped = found(tmp_path / "a.tar")
    assert "read up to there" in "".join(skipped.values())


def table(path: Path, rows: dict, metadata=None, **options) -> Path:
    made = pa.table(rows)
    if metadata:
        made = made.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    pq.write_table(made, path, **options)
    return path


def test_a_table_gives_its_rows(tmp_path):
    hugging_face = [{"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": "/etc/passwd"}, None]
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    path = table(
        tmp_path / "a.parquet",
        {"image": hugging_face, "text": ["one", "two", "three"], "label": [1, 0, 0]},
        names,
    )
    read, skipped = found(path)
    assert {n: (p.caption, p.label, p.location.data) for n, p in read.items()} == {
        "a.parquet:1": ("one", "dog", JPEG)
    }
    assert set(skipped) == {"a.parquet:2", "a.parquet:3"}
    assert set(skipped.values()) == {"no bytes in the row (a path alone is not followed)"}


def test_the_columns_of_a_table_can_be_named(tmp_path):
    path = table(tmp_path / "a.parquet", {"blob": [JPEG] * 3, "alt": ["x", None, ["y"][0]]})
    assert found(path)[1] == {
        "a.parquet": "no column of pictures (has blob, alt): name it by --columns image=..."
    }
    read, skipped = found(path, image="blob", caption="alt")
    assert [p.caption for p in read.values()] == ["x", "y"]
    assert skipped == {"a.parquet:2": "no caption"}
    assert found(path, image="blob", caption="alt2")[1]["a.parquet"].startswith("no column alt2")
    assert (
        found(path, image="alt")[1]["a.parquet"]
        == "column alt holds string, not the bytes of pictures"
    )


def test_captions_of_a_table_need_not_be_utf8_nor_plain(tmp_path):
    raw = pa.array([b"caf\xe9", b"ok"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"image": [JPEG, JPEG], "text": text}), tmp_path / "a.parquet")
    lists = {"image": pa.array([JPEG]).dictionary_encode(), "caption": [["first", "second"]]}
    table(tmp_path / "b.parquet", lists, row_group_size=1)
    assert captions(tmp_path / "a.parquet", tmp_path / "b.parquet") == {
        "a.parquet:1": "café", "a.parquet:2": "ok", "b.parquet:1": "first",
    }  # fmt: skip


def test_a_damaged_table_is_named(folder):
    put(folder, "cat/1.jpg")
    data = table(folder / "a.parquet", {"image": [JPEG], "text": ["x"]}).read_bytes()
    (folder / "a.parquet").write_bytes(data[: len(data) // 2])
    (folder / "b.parquet").write_bytes(b"")
    read, skipped = found(folder)
    assert list(read) == ["1.jpg"]
    assert set(skipped.values()) == {"a damaged parquet file"}


def test_shards_and_tables_in_a_folder_are_read(folder):
    shard(folder / "a.tar", MEMBERS[:2])
    table(folder / "sub" / "b.parquet", {"image": [JPEG], "text": ["x"]})
    assert captions(folder) == {"0001": "one", "b.parquet:1": "x"}


def test_the_order_is_fixed_and_reading_begins_before_it_ends(folder):
    put(folder, "b/2.jpg", "b/1.jpg", "a/9.jpg")
    names = [os.path.relpath(i.source, folder) for i in pictures([folder])]
    assert names == ["a/9.jpg", "b/1.jpg", "b/2.jpg"]
    assert next(iter(pictures([folder]))).source.endswith("a/9.jpg")


def test_no_format_starts_another_program():
    assert "EPS" not in picture_decode._formats()
    assert {"JPEG", "PNG", "WEBP"} <= set(picture_decode._formats())
    assert picture_shards.MOST_BYTES == picture_decode.MOST_BYTES
