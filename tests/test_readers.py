"""Readers: every format gives its text, what is broken is named, nothing else is lost."""

import errno
import gzip
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.base.errors import UserError, WrongUse
from maquette.corpus import decompress, formats, json_records, read, records, remote, tables
from maquette.corpus.decompress import Contents
from maquette.corpus.document import Document, Skipped
from maquette.corpus.read import Files, files, walk


def found(*sources) -> tuple[list[Document], dict[str, str]]:
    """The documents, and the reason by the last name of what was skipped."""
    items = list(files(sources))
    return (
        [i for i in items if isinstance(i, Document)],
        {i.source.rpartition("/")[2]: i.reason for i in items if isinstance(i, Skipped)},
    )


def jsonl(*records) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in records).encode()


PAGE = """<html><head><meta charset="{charset}"><title>Of  {word}\n again</title></head>
<body><nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><p>The {word} has two ends.</p><p>A second paragraph.</p><script>x()</script></main></body></html>"""


@pytest.mark.parametrize(
    ("charset", "word"),
    [
        ("utf-8", "naïve café"),
        ("iso-8859-1", "naïve café"),
        ("koi8-r", "русский текст"),
        ("shift_jis", "日本語の文"),
        ("iso-2022-jp", "日本語の文"),
    ],
)
def test_a_page_gives_its_main_content_and_title_in_its_declared_encoding(charset, word, tmp_path):
    data = PAGE.format(charset=charset, word=word).encode(charset)
    (tmp_path / "a.html").write_bytes(data)
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(data))
    documents, skipped = found(tmp_path)
    assert skipped == {}
    for document in documents:
        assert document.text.split("\n") == [f"The {word} has two ends.", "", "A second paragraph."]
        assert (document.title, document.component) == (f"Of {word} again", "prose")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>žluťoučký kůň</p>".encode("utf-16"), "žluťoučký kůň"),  # with its byte order mark
        ("\ufeff<meta charset=iso-8859-1><p>kůň</p>".encode(), "kůň"),
        ("<meta charset=iso-8859-1><p>žluťoučký</p>".encode(), "žluťoučký"),  # not as it declares
        (
            "<?xml version='1.0' encoding='iso-8859-2'?><p>kůň</p>".encode("iso-8859-2"),
            "kůň",
        ),
        ("<p>un café, déjà vu là-bas</p>".encode("cp1252"), "un café, déjà vu là-bas"),
    ],
)
def test_the_encoding_of_a_page_is_found(data, text):
    assert formats.page(data)[0] == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html><body></body></html>", "no text in the page"),
        (b"<p>a\0b</p>", "not text in UTF-8"),
        (b"<div>" * 600 + b"deep", "elements nested deeper than 512"),
        (b"x" * 1001, "a page longer than 0 MB"),
        (b"", "empty"),
    ],
)
def test_a_page_without_text_is_named(data, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "WHOLE", max(1000, len(data) * (data[:1] != b"x")))
    (tmp_path / "a.html").write_bytes(data)
    assert found(tmp_path) == ([], {"a.html": reason})


def test_many_elements_beside_each_other_are_not_deep():
    assert formats.page(b"<div>one</div>" * 600)[0].split() == ["one"] * 600


def pdf(pages: list[str], title: str = "A title", more: str = "") -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{i * 2 + 4} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        draw = f"BT /F1 12 Tf 20 50 Td ({text}) Tj ET"
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 99] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {i * 2 + 5} 0 R >>",
            f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream",
        ]
    objects.append(f"<< /Title ({title}) >>")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return (
        data
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Root 1 0 R "
            f"/Info {len(objects)} 0 R /Size {len(objects) + 1} {more}>>\nstartxref\n{len(data)}\n%%EOF"
        ).encode()
    )


def test_a_pdf_gives_the_text_of_its_pages_and_its_title(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf(["The first page.", "The second page."]))
    (document,), skipped = found(tmp_path)
    assert document.text == "The first page.\n\nThe second page."
    assert (document.title, document.component, skipped) == ("A title", "prose", {})


def test_a_word_that_a_pdf_breaks_at_a_line_is_whole_again():
    data = pdf(["the manip-) Tj 0 -14 Td (ulation of a well-known thing"])
    assert formats.pdf(io.BytesIO(data))[0].split("\n")[0].startswith("the manipulation")


def test_a_broken_pdf_is_named(tmp_path):
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >> "
    (tmp_path / "corrupt.pdf").write_bytes(b"%PDF-1.4 but no more")
    (tmp_path / "encrypted.pdf").write_bytes(pdf(["Secret."], more=f"/ID [<00><00>] {lock}"))
    (tmp_path / "scan.pdf").write_bytes(pdf([" "]))
    missing = pdf(["One.", "Two."]).replace(b"/Kids [4 0 R", b"/Kids [3 0 R")
    (tmp_path / "torn.pdf").write_bytes(missing)
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["Two."]
    assert skipped == {
        "corrupt.pdf": "damaged PDF",
        "encrypted.pdf": "encrypted PDF",
        "scan.pdf": "no text in the PDF (a scan?)",
        "torn.pdf#page=1": "damaged page",
    }


def test_a_record_keeps_what_it_says_of_itself(tmp_path):
    record = {"text": "Words.", "url": "http://x/1", "title": "T", "date": 2019, "license": "MIT"}
    meta = {"text": "More.", "meta": {"pile_set_name": "Wiki"}, "date": "2020-01-02", "title": ""}
    for name, pack in (("a.jsonl", bytes), ("b.jsonl.gz", gzip.compress),
                       ("c.ndjson.zst", zstandard.compress)):  # fmt: skip
        (tmp_path / name).write_bytes(pack(jsonl(record, meta)))
    documents, skipped = found(tmp_path)
    assert skipped == {}
    assert len(documents) == 6
    for name, one, two in zip("abc", documents[::2], documents[1::2], strict=True):
        assert one == Document("Words.", "records", "http://x/1", "2019", "MIT", "T")
        assert (two.text, two.component, two.date, two.title) == (
            "More.", "Wiki", "2020-01-02", None)  # fmt: skip
        assert Path(two.source).name.startswith(f"{name}.")
        assert two.source.endswith(":2")


def test_a_title_can_always_be_written(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "title": "half \\ud83d"}', encoding="utf-8")
    assert found(tmp_path)[0][0].title == "half ?"


def test_a_broken_line_of_records_is_named_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "WHOLE", 200_000)
    bad = [
        b"{",
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "%s"}' % (b"x" * 300_000),
        b'{"text": 7}',
        b"[1]",
        b'{"text": " "}',
    ]
    good = b'{"text": "good"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n\n".join([good, *bad, good]))
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["good", "good"]
    assert list(skipped.values()) == [
        "not JSON", "not text in UTF-8", "not JSON", "a line longer than 0 MB",
        "'text' is no text but a number", "no object", "no 'text'",
    ]  # fmt: skip
    assert list(skipped) == [f"a.jsonl:{n}" for n in range(3, 17, 2)]


def test_a_long_text_of_a_record_is_cut_as_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 100)
    text = "".join(f"line {i} {'é' * (i % 9)}\n" for i in range(60))
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": text, "title": "T", "id": 5}))
    documents, _ = found(tmp_path)
    assert "".join(d.text for d in documents) == text
    assert max(len(d.text.encode()) for d in documents) <= 100
    assert [d.source for d in documents[:3]] == ["5", "5#1", "5#2"]
    assert {d.title for d in documents} == {"T"}


@given(
    lines=st.lists(st.binary(max_size=9), max_size=12),
    block=st.integers(1, 9),
    longest=st.integers(0, 9),
)
def test_lines_are_those_of_a_naive_split(lines, block, longest):
    data = b"\n".join(lines)
    expected = data.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompress, "BLOCK", block)
        got = list(Contents(io.BytesIO(data)).lines(longest))
    assert got == [line if len(line) <= longest else None for line in expected]


SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"  # RFC 8878, 3.1.2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gz", gzip.compress(b"first, ") + gzip.compress(b"second") + b"\0" * 3000),
        ("a.zst", zstandard.compress(b"first, ") + SKIPPABLE + zstandard.compress(b"second")),
        ("a.txt", b"first, second"),
    ],
)
def test_what_is_compressed_in_several_parts_is_read_whole(name, data):
    whole = Contents(io.BytesIO(data), name)
    assert [whole.read(4), whole.read(99), whole.read(9)] == [b"firs", b"t, second", b""]
    assert whole.fault is None


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_truncated_compressed_file_gives_what_is_before_the_cut(pack, tmp_path):
    kind = {gzip.compress: "gz", zstandard.compress: "zst"}[pack]
    texts = [f"record {i}: {os.urandom(400).hex()} é" for i in range(2000)]
    records = pack(jsonl(*({"text": t} for t in texts)))
    words = pack("\n".join(texts).encode())
    (tmp_path / f"a.jsonl.{kind}").write_bytes(records[: len(records) // 2])
    (tmp_path / f"b.txt.{kind}").write_bytes(words[: len(words) // 2])
    (tmp_path / f"c.jsonl.{kind}").write_bytes(b"no such thing")
    documents, skipped = found(tmp_path)
    *kept, prose = [d.text for d in documents]
    assert kept == texts[: len(kept)]
    assert "\n".join(texts).startswith(prose)
    assert 700 < len(kept) < 1300
    assert 0.35 < len(prose) / len("\n".join(texts)) < 0.65
    cut = f"cut off: {kind} data without its end"
    assert skipped.pop(f"a.jsonl.{kind}:{len(kept) + 1}", "not JSON") == "not JSON"
    assert skipped == {
        f"a.jsonl.{kind}": cut,
        f"b.txt.{kind}": cut,
        f"c.jsonl.{kind}": f"damaged {kind} data",
    }


def test_a_cut_inside_a_character_loses_that_character_only(tmp_path):
    data = gzip.compress("é".encode() * 5 + b"\xc3", compresslevel=0)
    (tmp_path / "a.txt.gz").write_bytes(data[:-8])
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["é" * 5]
    assert skipped == {"a.txt.gz": "cut off: gz data without its end"}


ROWS = [
    {"text": "The first.", "id": "a", "date": "2020-01-02", "licence": "MIT", "title": "One",
     "meta": {"pile_set_name": "Wiki", "other": 1}},
    {"text": None, "id": "b", "date": None, "licence": None, "title": None, "meta": None},
    {"text": "The third.", "id": None, "date": "2021-01-02", "licence": None, "title": None,
     "meta": None},
]  # fmt: skip


def write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        opened = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "file.arrow", "stream.arrow"])
def test_the_rows_of_a_table_are_records(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 1)  # row by row
    write_table(tmp_path / name, pa.Table.from_pylist(ROWS))
    documents, skipped = found(tmp_path)
    assert documents == [
        Document("The first.", "Wiki", "a", "2020-01-02", "MIT", "One"),
        Document("The third.", "records", f"{tmp_path}/{name}:3", "2021-01-02"),
    ]
    assert skipped == {f"{name}:2": "no 'text'"}


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow"])
def test_odd_columns_of_a_table_are_read(name, tmp_path):
    """Bytes, dictionaries, days, nanoseconds, years with gaps, and text that is not UTF-8."""
    broken = pa.array([b"fine", b"caf\xe9", b"last"]).view(pa.string())
    days = pa.array([0, 1, None], pa.timestamp("ns", "UTC"))
    columns = [
        pa.table({"text": pa.array([b"one", b"\xff", b"two"]), "date": pa.array([0, 1, 2], pa.date32())}),
        pa.table({"text": pa.array(["x", "y", "x"]).dictionary_encode(), "date": days}),
        pa.table({"text": pa.array(["x", "y", "z"], pa.large_string()), "date": [2019.0, None, 2021]}),
        pa.table({"text": broken, "title": broken}),
        pa.table({"text": pa.array([], pa.string())}),
    ]  # fmt: skip
    got = []
    for number, table in enumerate(columns):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_table(folder / name, table)
        documents, skipped = found(folder)
        got.append(([(d.text, d.date) for d in documents], list(skipped.values())))
    bad = ["not text in UTF-8"]
    assert got == [
        ([("one", "1970-01-01"), ("two", "1970-01-03")], bad),
        ([("x", "1970-01-01"), ("y", "1970-01-01"), ("x", None)], []),
        ([("x", "2019"), ("y", None), ("z", "2021")], []),
        ([("fine", None), ("last", None)], bad),
        ([], ["empty"]),
    ]


def test_a_table_without_text_or_damaged_is_named(tmp_path):
    write_table(tmp_path / "a.parquet", pa.table({"a": [1], "b": [2], "content": ["x"]}))
    write_table(tmp_path / "b.parquet", pa.table({"text": [1]}))
    write_table(tmp_path / "c.parquet", pa.table({"text": ["x" * 99]}))
    (tmp_path / "d.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-50])
    (tmp_path / "e.arrow").write_bytes(b"ARROW1 and nothing else")
    (tmp_path / "f.feather").write_bytes(b"x")
    (tmp_path / "g.parquet").write_bytes(b"")
    documents, skipped = found(tmp_path)
    assert len(documents) == 1
    assert skipped == {
        "a.parquet": "no field 'text' (has a, b, content: name one with --text-field)",
        "b.parquet": "column 'text' holds int64, not text",
        "d.parquet": "damaged parquet file",
        "e.arrow": "damaged arrow file",
        "f.feather": "damaged feather file",
        "g.parquet": "empty",
    }


def test_a_table_with_a_damaged_end_gives_its_beginning(tmp_path):
    path = tmp_path / "stream.arrow"
    table = pa.table({"text": [f"row {i} " * 50 for i in range(100)]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    documents, skipped = found(path)
    assert [d.text for d in documents] == table["text"].to_pylist()[: len(documents)]
    assert 30 <= len(documents) <= 60
    assert skipped == {"stream.arrow": "damaged arrow file"}


def test_small_and_broken_text(tmp_path):
    for name, data in {
        "empty": b"",
        "blank": b" \n ",
        "byte": b"x",
        "high": b"\xff",
        "latin": "café".encode("latin-1"),
        "nul": b"a\0b",
        "nul-late": b"a" * 5000 + b"\0",
        "wide": "text".encode("utf-16"),
        "marked": b"\xef\xbb\xbfmarked",
        "mark": b"\xef\xbb\xbf",
    }.items():
        (tmp_path / f"{name}.txt").write_bytes(data)
    documents, skipped = found(tmp_path)
    assert {Path(d.source).stem: d.text for d in documents} == {"byte": "x", "marked": "marked"}
    assert skipped == {
        "blank.txt": "empty",
        "empty.txt": "empty",
        "mark.txt": "empty",
        **{f"{n}.txt": "not text in UTF-8" for n in ("high", "latin", "nul", "nul-late", "wide")},
    }


def test_an_empty_folder_is_named_beside_others(tmp_path):
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("text", encoding="utf-8")
    documents, skipped = found(tmp_path / "empty", tmp_path / "full")
    assert [d.text for d in documents] == ["text"]
    assert skipped == {"empty": "no files found"}


def test_links_are_read_once_and_never_in_circles(tmp_path):
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "a.txt").write_text("once", encoding="utf-8")
    (top / "inner" / "loop").symlink_to(top)
    (top / "again").symlink_to(top / "inner")
    (top / "self").symlink_to(top / "self")
    (top / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "named").symlink_to(top)
    for start in (top, tmp_path / "named"):
        documents, skipped = found(start)
        assert [d.source for d in documents] == [f"{start}/inner/a.txt"]
        assert skipped == {
            "again": "a link to a folder: not followed",
            "loop": "a link to a folder: not followed",
            "self": "a link that leads nowhere",
            "dangling.txt": "a link that leads nowhere",
        }
        assert list(walk(start)) == [start / "inner" / "a.txt"]


def test_pipes_sockets_and_devices_are_never_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
        reason = "a pipe, socket or device"
        assert found(".") == ([], dict.fromkeys(["pipe.txt", "socket.txt", "zero.txt"], reason))
    with pytest.raises(UserError, match="pipe.txt is no file and no folder: '-' reads"):
        files([tmp_path / "pipe.txt"])


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """As root everything may be read: the system's answer is put in its place."""
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    scandir, opened = os.scandir, Path.open

    def refuse(real, name):
        def call(path, *rest):
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *rest)

        return call

    monkeypatch.setattr(os, "scandir", refuse(scandir, "closed"))
    monkeypatch.setattr(Path, "open", refuse(opened, "b.txt"))
    documents, skipped = found(tmp_path)
    assert [d.source for d in documents] == [f"{tmp_path}/open/a.txt"]
    assert skipped == dict.fromkeys(["closed", "b.txt"], "no permission to read")
    assert found(tmp_path / "closed") == ([], {"closed": "no permission to read"})
    monkeypatch.setattr(Path, "stat", refuse(Path.stat, "b.txt"))
    with pytest.raises(UserError, match=r"b.txt cannot be read \(Permission denied\)"):
        files([tmp_path / "b.txt"])


def test_a_file_that_goes_away_is_named(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    items = iter(files([tmp_path]))
    assert next(items).text == "a"
    (parts,) = files([tmp_path]).parts()
    (tmp_path / "b.txt").unlink()
    assert [i.reason for i in parts if isinstance(i, Skipped)] == ["gone before it was read"]
    assert [i.reason for i in items if isinstance(i, Skipped)] == ["gone before it was read"]


def test_text_has_the_day_of_its_files_last_change_if_the_calendar_has_it(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    os.utime(tmp_path / "a.txt", (86400 * 365, 86400 * 365 + 43200))
    assert found(tmp_path)[0][0].date == "1971-01-01"
    assert read._day(1e18) is None


def test_hidden_files_and_caches_are_left_out_unless_they_are_named(tmp_path):
    for name in (".hidden/a.txt", "__pycache__/b.txt", ".c.txt", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert [d.text for d in found(tmp_path)[0]] == ["d.txt"]
    named = found(tmp_path / ".hidden", tmp_path / "__pycache__", tmp_path / ".c.txt")[0]
    assert [d.text for d in named] == [".hidden/a.txt", "__pycache__/b.txt", ".c.txt"]


MEMORY = """
import sys
from maquette.corpus.read import files
from maquette.corpus.document import Document
import maquette.corpus.formats, json

def peak():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

before = peak()
size = reasons = 0
for item in files([sys.argv[1]]):
    size += len(item.text) if isinstance(item, Document) else 0
    reasons += not isinstance(item, Document)
print(json.dumps([size, reasons, peak() - before]))
"""


@pytest.mark.parametrize("name", ["a.txt", "a.txt.zst", "a.jsonl", "a.jsonl.gz"])
def test_memory_does_not_grow_with_a_line(name, tmp_path):
    """A line of 256 MB is read in 8 MB of text at a time; as a record it is dropped unread."""
    size = 256 << 20
    data = b"x" * size if "txt" in name else b'{"text": "' + b"x" * size + b'"}'
    pack = {".zst": zstandard.compress, ".gz": lambda d: gzip.compress(d, 1)}.get(Path(name).suffix)
    (tmp_path / name).write_bytes(pack(data) if pack else data)
    del data
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / name],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout
    read_bytes, skipped, megabytes = json.loads(out)
    assert (read_bytes, skipped) == ((size, 0) if "txt" in name else (0, 1))
    assert megabytes < 120


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Files of many kinds and sizes in folders, some of them broken."""
    top = tmp_path_factory.mktemp("tree")
    for i in range(40):
        folder = top / f"folder{i % 7}" / f"inner{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.txt").write_text(f"document {i} " * (i * i % 300), encoding="utf-8")
        (folder / f"{i}.jsonl").write_bytes(
            jsonl({"text": f"a{i}"}, {"none": 1}, {"text": f"b{i}"})
        )
    (top / "broken").symlink_to(top / "nowhere")
    (top / "link").symlink_to(top / "folder1")
    return top


@given(size=st.integers(0, 6000), folders=st.lists(st.integers(0, 6), max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_parts_one_after_another_are_the_whole(size, folders, tree):
    source = files([*(tree / f"folder{i}" for i in folders), tree])
    parts = source.parts(size)
    assert all(isinstance(part, read.Part) for part in parts)
    sizes = [[_size(item) for item in part.items] for part in parts]
    assert all(len(part) == 1 or sum(part) <= size for part in sizes)
    assert all(sum(a) + b[0] > size for a, b in pairwise(sizes))
    # as workers get them, from this program itself
    carried = [pickle.loads(pickle.dumps(part)) for part in parts]
    for _ in range(2):
        assert [item for part in carried for item in part] == list(source)


def _size(item: read.File | Skipped) -> int:
    return os.stat(item.path).st_size if isinstance(item, read.File) else 0


def test_a_listing_does_not_depend_on_the_file_systems_order(tree, monkeypatch):
    expected = list(files([tree]).listing())
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path):
            self.entries = iter(sorted(scandir(path), key=lambda e: e.name[::-1], reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert list(files([tree]).listing()) == expected


def test_a_relative_source_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = files(["text", "./text/a.txt"])
    monkeypatch.chdir("/")
    assert [d.source for d in source] == ["text/a.txt", "text/a.txt"]
    assert [d.source for part in source.parts(0) for d in part] == ["text/a.txt", "text/a.txt"]


def test_the_fingerprint_changes_with_the_files_and_not_without(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")

    def fingerprint() -> str:
        return files([tmp_path]).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    seen = {first}
    (tmp_path / "a.txt").write_text("more text", encoding="utf-8")
    seen.add(fingerprint())
    os.utime(tmp_path / "b.txt", ns=(0, 7))
    seen.add(fingerprint())
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    seen.add(fingerprint())
    (tmp_path / "d.txt").symlink_to(tmp_path / "nowhere")
    seen.add(fingerprint())
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (jsonl({"text": "one"}, {"text": "two"}), ["one", "two"]),
        (b"one\n{}\ntwo", ["one\n{}\ntwo"]),
        (b"[1, 2]\n", ["[1, 2]\n"]),
    ],
)
def test_standard_input_is_text_or_records_and_can_be_read_again(data, texts, monkeypatch):
    def given_input() -> Files:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return files(["-"])

    source, again = given_input(), given_input()
    for _ in range(2):
        assert [d.text for d in source] == texts
    assert {d.source.partition(":")[0] for d in source} == {"-"}
    assert {d.date for d in source} == {None}
    assert source.fingerprint() == again.fingerprint()
    assert source.paths != again.paths
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data + b"\n"), encoding="utf-8"))
    assert files(["-"]).fingerprint() != source.fingerprint()


def test_empty_standard_input_is_named_and_a_full_disk_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
    assert found("-") == ([], {"-": "empty"})

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote.tempfile, "mkstemp", full)
    with pytest.raises(UserError, match="No space left on device.*: set TMPDIR to a folder with"):
        files(["-"])


def test_standard_input_leaves_no_file_behind(tmp_path):
    code = "import sys\nfrom maquette.corpus.read import files\nprint(list(files(['-'])))"
    said = subprocess.run(
        [sys.executable, "-c", code], input="words", env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
     encoding="utf-8")  # fmt: skip
    assert "words" in said.stdout
    assert list(tmp_path.iterdir()) == []


HELD = {
    "README.md": b"not data",
    "data/train-00000-of-00002.parquet": None,
    "data/train-00001-of-00002.parquet": None,
    "data/test-00000-of-00001.parquet": None,
    "extra/train.jsonl.zst": zstandard.compress(jsonl({"text": "extra"})),
}


@pytest.fixture
def fake_hub(tmp_path, monkeypatch) -> list[str]:
    """A data set of four files in place of the Hub; gives the names of those downloaded."""
    for name, data in HELD.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if data is None:
            write_table(path, pa.table({"text": [name]}))
        else:
            path.write_bytes(data)
    downloaded = []

    class Api:
        def dataset_info(self, dataset):
            assert dataset == "some/set"
            return SimpleNamespace(
                sha="c0ffee", siblings=[SimpleNamespace(rfilename=n) for n in reversed(HELD)]
            )

    def download(dataset, name, repo_type, revision):
        assert (dataset, repo_type, revision) == ("some/set", "dataset", "c0ffee")
        downloaded.append(name)
        return str(tmp_path / name)

    fake = SimpleNamespace(HfApi=Api, hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return downloaded


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("hf://some/set", [1, 2, 3, 4]),
        ("hf://datasets/some/set/", [1, 2, 3, 4]),
        ("hf://some/set@train", [1, 2, 4]),
        ("hf://some/set/data@train", [1, 2]),
        ("hf://some/set/extra/train.jsonl.zst", [4]),
        ("hf://some/set@test", [3]),
    ],
)
def test_a_data_set_of_the_hub_is_read_as_its_files(name, chosen, fake_hub):
    names = sorted(list(HELD)[i] for i in chosen)
    source = files([name])
    assert fake_hub == names
    documents = list(source)
    assert [d.text for d in documents] == ["extra" if "extra" in n else n for n in names]
    assert [d.source for d in documents] == [f"hf://some/set/{n}:1" for n in names]
    assert source.fingerprint() == files([name]).fingerprint()


def test_a_data_set_without_what_was_named_says_what_it_has(fake_hub):
    with pytest.raises(UserError, match=r"of the split dev \(it has README.md, data/test-00000"):
        files(["hf://some/set@dev"])
    with pytest.raises(UserError, match="under other "):
        files(["hf://some/set/other"])
    for wrong in ("hf://", "hf:///", "hf://some/set@", "hf://some/set@main/data"):
        with pytest.raises(WrongUse, match=r"write hf://OWNER/NAME\[/path\]\[@split\]"):
            files([wrong])


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def hub_that_raises(error: Exception) -> None:
        def raise_it(self, dataset):
            raise error

        fake = SimpleNamespace(HfApi=type("Api", (), {"dataset_info": raise_it}))
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)

    missing = type("RepositoryNotFoundError", (OSError,), {})("404")
    gated = type("GatedRepoError", (type(missing),), {})("403")
    full = OSError(errno.ENOSPC, "No space left on device", "/cache")
    for error, message in (
        (ConnectionError("[Errno -2] Name or service not known"), "no network (ConnectionError): "
         "download it and name the folder"),
        (missing, "there is no such data set, or it is private: check the name"),
        (gated, "its owner asks for consent: give it at https://huggingface.co/datasets/x/y"),
        (full, "No space left on device (/cache): make room"),
    ):  # fmt: skip
        hub_that_raises(error)
        with pytest.raises(UserError) as raised:
            files(["hf://x/y"])
        assert str(raised.value).startswith(f"hf://x/y: {message}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is not installed: run pip install"):
        files(["hf://x/y"])


def test_the_real_hub_library_offline_is_one_line():
    """The tests run with HF_HUB_OFFLINE: the installed library's own error is understood."""
    pytest.importorskip("huggingface_hub")
    with pytest.raises(UserError, match=r"hf://x/y: no network \(.*\): download it and name"):
        files(["hf://x/y"])
