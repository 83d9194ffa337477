"""Records of every layout, packed in every way, with odd columns and values: nothing else is lost."""

import bz2
import decimal
import gzip
import json
import lzma
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from conftest import command, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import found, jsonl, pdf, write_table

from maquette.corpus import decompress, json_records
from maquette.corpus.decompress import Contents
from maquette.corpus.document import Document, Skipped
from maquette.corpus.read import files
from maquette.corpus.records import UNDATED, Fields, Records
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions

TWO = [{"text": "the first", "id": "a"}, {"text": "zweitens: größer", "id": "b"}]


def zst(data: bytes) -> bytes:
    return zstandard.compress(data)


PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zst, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", jsonl(*TWO)),
        ("a.jsonl", b"\xef\xbb\xbf" + jsonl(*TWO)),
        ("a.json", b"\xef\xbb\xbf\n" + jsonl(*TWO)),
        ("a.json", jsonl(*TWO).replace(b"\n", b"\r\n\r\n")),
        ("a.json", json.dumps(TWO).encode()),
        ("a.json", json.dumps(TWO, indent=2, ensure_ascii=False).encode()),
        ("a.jsonl", json.dumps(TWO, indent=2).encode()),
        ("a.json", b"".join(json.dumps(record, indent=1).encode() for record in TWO)),
        ("a.json", json.dumps({"version": [1, {}], "data": TWO, "more": 1}).encode()),
        ("a.json", json.dumps({"items": [{"x": 1}], "rows": TWO}, indent=3).encode()),
    ],
)
def test_records_of_every_layout_are_read(name, data, packing, tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "BLOCK", 7)  # values that reach over many blocks
    (tmp_path / f"{name}{packing}").write_bytes(PACKED[packing](data))
    documents, skipped = found(tmp_path)
    assert [(d.text, d.source, d.component) for d in documents] == [
        (record["text"], record["id"], "records") for record in TWO
    ]
    assert skipped == {}


@pytest.mark.parametrize(
    "data",
    [
        '{"name": "a-package", "scripts": {"test": "x"}}\n',
        '{\n "compilerOptions": {"strict": true},\n "items": [{"a": 1}]\n}\n',
        "[1, 2, [3]]",
        "[]",
        "{}",
        '"text"',
        "{ // a comment\n}",
        "[" * 5000,
        '{"data": ' * 3000,
        '{"a": 1} trailing',
    ],
)
def test_other_json_is_code_as_it_stands(data, tmp_path):
    (tmp_path / "a.json").write_text(data, encoding="utf-8")
    documents, skipped = found(tmp_path)
    assert [(d.text, d.component) for d in documents] == [(data, "code")]
    assert skipped == {}


def test_one_object_with_a_text_is_a_record(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "on its own",\n "title": "T"}', encoding="utf-8")
    assert found(tmp_path)[0] == [
        Document("on its own", "records", f"{tmp_path}/a.json:1", title="T")
    ]


def test_an_array_that_is_damaged_gives_what_is_before(tmp_path):
    whole = json.dumps([{"text": f"number {i}"} for i in range(9)])
    (tmp_path / "cut.json").write_text(whole[:-40], encoding="utf-8")
    (tmp_path / "open.json").write_text(whole[:-1], encoding="utf-8")
    (tmp_path / "odd.json").write_text(whole.replace('"number 5"', "oh"), encoding="utf-8")
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(whole.encode())[:-9])
    documents, skipped = found(tmp_path)
    files = [Path(d.source.rpartition(":")[0]).name for d in documents]
    assert [files.count(f"{name}.json") for name in ("cut", "open", "odd")] == [7, 9, 5]
    assert sorted(skipped.values()) == [
        "cut off: an array without its end",
        "cut off: gz data without its end",
        "not JSON: read up to there",
        "not JSON: read up to there",
    ]


def test_a_record_that_is_too_long_ends_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "WHOLE", 100_000)
    monkeypatch.setattr(json_records, "BLOCK", 1000)
    long = [{"text": "a"}, {"text": "x" * 500_000}]
    (tmp_path / "a.json").write_text(json.dumps(long), encoding="utf-8")
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["a"]
    assert skipped == {"a.json:2": "not JSON: read up to there"}


@pytest.mark.parametrize("window", [27, 30, 31])
def test_a_zstd_window_of_up_to_2_gb_is_read(window, tmp_path):
    parameters = zstandard.ZstdCompressionParameters(
        window_log=window, write_content_size=False, enable_ldm=False
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packer.compress(jsonl(*TWO)) + packer.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(data + zst(jsonl({"text": "another frame"})))
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == [*(r["text"] for r in TWO), "another frame"]
    assert skipped == {}


@pytest.mark.parametrize("packing", [".bz2", ".xz"])
def test_streams_one_after_another_are_one_and_a_bomb_grows_in_small_steps(packing, tmp_path):
    pack = PACKED[packing]
    (tmp_path / f"a{packing}").write_bytes(pack(b"one ") + pack(b"two"))
    with (tmp_path / f"a{packing}").open("rb") as file:
        assert Contents(file, file.name).read(99) == b"one two"
    (tmp_path / f"b{packing}").write_bytes(pack(bytes(64 << 20)))
    with (tmp_path / f"b{packing}").open("rb") as file:
        bomb = Contents(file, file.name)
        assert bomb.read(10) == bytes(10)
        assert len(bomb._held) <= decompress.GROWN
        rest = 10
        while block := bomb.read(1 << 20):
            rest += len(block)
        assert (rest, bomb.fault) == (64 << 20, None)
    (tmp_path / f"c{packing}").write_bytes(pack(bytes(range(256)) * 99)[:-20])
    with (tmp_path / f"c{packing}").open("rb") as file:
        cut = Contents(file, file.name)
        cut.read(1 << 20)
        assert cut.fault == f"cut off: {packing[1:]} data without its end"


def test_packed_tables_and_pdfs_are_read(tmp_path, monkeypatch):
    write_table(tmp_path / "a.parquet", pa.Table.from_pylist(TWO))
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "c.pdf.xz").write_bytes(lzma.compress(pdf(["A page."])))
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == [*(r["text"] for r in TWO), "A page."]
    monkeypatch.setattr(decompress, "UNPACKED", 100)
    documents, skipped = found(tmp_path / "c.pdf.xz")
    assert documents == []
    assert skipped == {"c.pdf.xz": "more than 0 GB when unpacked"}


class Odd(pa.ExtensionType):
    """An extension type that no reader knows."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "made.up")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


DAYS = pa.array([10**8, -(10**8), 3], pa.date32())
TEXTS = ["one", "two", "three"]
ODD_COLUMNS = {
    "date beyond the calendar": ("date", DAYS, [None, None, "1970-01-04"], 2),
    "time of day": ("date", pa.array([1, 2, 3], pa.time64("ns")), [None] * 3, 3),
    "duration": ("date", pa.array([1, 2, 3], pa.duration("ns")), [None] * 3, 3),
    "instants": ("date", pa.array([2**62, -(2**62), 0], pa.timestamp("us")),
                 [None, None, "1970-01-01"], 2),
    "list": ("date", pa.array([["2020"], [], None]), [None] * 3, 2),
    "struct": ("date", pa.array([{"y": 1}, {"y": 2}, None]), [None] * 3, 2),
    "decimal": ("date", pa.array([decimal.Decimal("1.5")] * 3), [None] * 3, 3),
    "milliseconds": ("date", pa.array([1577923200000, -315619200000, None]),
                     ["2020-01-02", "1960-01-01", None], 0),
    "map": ("title", pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())), [None] * 3, 0),
    "views": ("text", pa.array(TEXTS, pa.string_view()), [None] * 3, 0),
    "large": ("text", pa.array(TEXTS, pa.large_string()), [None] * 3, 0),
    "extension": ("text", pa.ExtensionArray.from_storage(Odd(), pa.array(TEXTS)), [None] * 3, 0),
    "dictionary": ("text", pa.array(TEXTS).dictionary_encode(), [None] * 3, 0),
    "union": ("licence", pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()),
        [pa.array(["a", "b"]), pa.array([5])]), [None] * 3, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_COLUMNS)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_an_odd_column_does_not_cost_the_text(name, ending, tmp_path):
    column, values, dates, undated = ODD_COLUMNS[name]
    table = pa.table({"text": pa.array(TEXTS)} | {column: values})
    path = tmp_path / f"a.{ending}"
    try:
        write_table(path, table)
    except pa.ArrowNotImplementedError:
        pytest.skip(f"{ending} holds no such column")
    items = list(files([path]))
    documents = [i for i in items if isinstance(i, Document)]
    assert [d.text for d in documents] == TEXTS
    assert [d.date for d in documents] == dates
    assert [i.reason for i in items if isinstance(i, Skipped)] == [UNDATED] * undated


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
def test_of_columns_of_one_name_the_first_is_read_and_that_is_said(ending, tmp_path):
    table = pa.table(
        [pa.array(TEXTS), pa.array([1, 2, 3]), pa.array(["x"] * 3)], names=["text", "n", "text"]
    )
    path = tmp_path / f"a.{ending}"
    if ending == "feather":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        write_table(path, table)
    documents, skipped = found(path)
    assert [d.text for d in documents] == TEXTS
    assert skipped == {path.name: "several columns 'text': the first was read"}


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path):
    views = pa.array([b"fine", b"\xff", b"last"])
    for number, kind in enumerate((pa.binary(), pa.large_binary(), pa.binary_view())):
        path = tmp_path / f"{number}.arrow"
        write_table(path, pa.table({"text": views.cast(kind), "id": [1, 2, 3]}))
        documents, skipped = found(path)
        assert [(d.text, d.source) for d in documents] == [("fine", "1"), ("last", "3")]
        assert list(skipped.values()) == ["not text in UTF-8"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, None), ("", None), ("spring 1850", "spring 1850"), (1850, "1850"), (1850.0, "1850"),
        (20200131, "2020-01-31"), (1577836800, "2020-01-01"), (1577836800000, "2020-01-01"),
        (1577836800.5, "2020-01-01"), (-315619200, "1960-01-01"), (float("nan"), None),
    ],
)  # fmt: skip
def test_dates_in_many_forms(given, said):
    (document,) = Records(None, Fields())({"text": "a", "date": given}, "x")
    assert document.date == said


@pytest.mark.parametrize(
    "given",
    [0, 99999, -5, True, [2020], {"year": 2020}, 10**30, -(10**30), float("inf"), 20201399, 1.5],
)
def test_a_date_that_is_none_is_counted_and_the_text_kept(given):
    skipped, document = Records(None, Fields())({"text": "a", "date": given}, "x:1")
    assert skipped == Skipped("x:1", UNDATED)
    assert (document.text, document.date) == ("a", None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
    | st.datetimes() | st.times() | st.timedeltas() | st.just(uuid.UUID(int=1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
NAMES = st.sampled_from(
    ["text", "date", "source", "url", "id", "title", "licence", "component", "meta"]
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(NAMES, VALUES) | VALUES)
def test_no_value_of_any_kind_ends_a_file(record):
    items = list(Records(None, Fields())(record, "x:1"))
    assert items
    text = record.get("text") if isinstance(record, dict) else None
    if isinstance(text, str) and text and not text.isspace() and text != "\ufeff":
        assert [i.text for i in items if isinstance(i, Document)] == [text.removeprefix("\ufeff")]


def test_a_library_that_fails_costs_its_file_alone(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_bytes(b"<p>some text</p>")
    (tmp_path / "b.txt").write_bytes(b"plain")

    def fail(data):
        raise AssertionError("deep inside")

    monkeypatch.setattr("maquette.corpus.read.page", fail)
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["plain"]
    assert skipped == {"a.html": "cannot be read (AssertionError)"}


CRAWL = [
    {"url": "u1", "page": {"body": "the body", "n": 1}},
    {"url": "u2", "page": {}},
    {"page": 1},
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_field_of_another_name_can_be_named(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        write_table(
            path, pa.Table.from_pylist([{"url": "u1", "page": {"body": "the body", "n": 1}}])
        )
    else:
        path.write_bytes(jsonl(*CRAWL) if ending == "jsonl" else json.dumps(CRAWL).encode())
    documents = [i for i in files([path], text="page.body") if isinstance(i, Document)]
    assert [(d.text, d.source) for d in documents] == [("the body", "u1")]
    (reason,) = set(found(path)[1].values()) - {
        "no field 'text' (has page: name one with --text-field)"
    }
    assert reason == "no field 'text' (has url, page: name one with --text-field)"


def test_reasons_do_not_grow_with_what_records_are_called(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(*({f"k{i}": "v" * i} for i in range(500))))
    assert len(set(found(tmp_path)[1].values())) < 20


def test_the_command_and_a_mixture_name_the_field(tmp_path):
    data = [{"content": f"line {i} of what is said here"} for i in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(data), encoding="utf-8")
    out = tmp_path / "out"
    words = ("corpus", "build", out, tmp_path / "a.json", "--vocabulary", 257, "--near", "off")
    refused(command(*words), "30 no field 'text' (has content: name one with --text-field)")
    said = command(*words, "--text-field", "content", "--json")
    assert said.json["documents"] == 30
    refused(command("corpus", "build", tmp_path / "b", "--text-field", "x"), "name the sources")
    (tmp_path / "m.yaml").write_text(
        f"components:\n- name: crawl\n  sources: [{tmp_path / 'a.json'}]\n  text: content\n",
        encoding="utf-8",
    )
    mixed = ("corpus", "build", tmp_path / "c", "--mixture", tmp_path / "m.yaml", *words[4:])
    refused(command(*mixed, "--text-field", "x"), "write text: in it")
    assert command(*mixed, "--json").json["components"]["crawl"]["train_documents"] > 20


def test_one_odd_file_among_others_does_not_change_the_rest(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(f"the text of file {i} " * 9, encoding="utf-8")
    plain = build(tmp_path / "plain", files([folder]), BuildOptions(vocabulary=257))
    (folder / "x.json").write_text('[{"no": 1}]', encoding="utf-8")
    (folder / "y.parquet").write_bytes(b"PAR1 and no more PAR1")
    (folder / "z.jsonl").write_bytes(b'{"text": ["a"]}\n[' + b"[" * 9000)
    odd = build(tmp_path / "odd", files([folder]), BuildOptions(vocabulary=257))
    assert odd.hash == plain.hash
    assert odd.manifest["skipped"] == 4


def test_arrays_after_each_other_are_all_read(tmp_path):
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text(
            '[{"text":"a"}]\n[{"text":"b"},{"text":"c"}]\n', encoding="utf-8"
        )
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["a", "b", "c"] * 2
    assert not skipped


def test_a_null_among_the_texts_does_not_make_records_source_code(tmp_path):
    (tmp_path / "a.json").write_text('{"data":[{"text":null},{"text":"b"}]}', encoding="utf-8")
    documents, skipped = found(tmp_path)
    assert [(d.text, d.component) for d in documents] == [("b", "records")]
    assert list(skipped.values()) == ["no 'text'"]


def test_indented_objects_are_records_under_every_name(tmp_path):
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text(
            "\n".join(json.dumps({"text": t, "n": 1}, indent=1) for t in "ab"), encoding="utf-8"
        )
    documents, skipped = found(tmp_path)
    assert [d.text for d in documents] == ["a", "b"] * 2
    assert not skipped


def test_a_date_in_a_zone_that_nobody_knows_costs_nothing(tmp_path):
    times = pa.array([0, 86_400_000_000], pa.timestamp("us", tz="Nowhere/At_All"))
    pa.parquet.write_table(pa.table({"text": ["a", "b"], "date": times}), tmp_path / "t.parquet")
    documents, skipped = found(tmp_path)
    assert [(d.text, d.date) for d in documents] == [("a", "1970-01-01"), ("b", "1970-01-02")]
    assert not skipped


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_date_may_stand_inside_of_another_field(name, tmp_path):
    rows = [{"text": "a", "meta": {"made": "2020-01-31", "pile_set_name": "Books"}}]
    if name == "a.jsonl":
        (tmp_path / name).write_text(json.dumps(rows[0]), encoding="utf-8")
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    source = files([str(tmp_path)], date="meta.made")
    (document,) = [d for d in source if isinstance(d, Document)]
    assert (document.date, document.component) == ("2020-01-31", "Books")


def test_a_column_of_a_table_of_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(
        'stars,review\n5,"good, very"\n1,bad,and more\n', encoding="utf-8"
    )
    (tmp_path / "b.tsv").write_text('review\tstars\n"Yes, he said.\t1\nNo.\t0\n', encoding="utf-8")
    items = list(files([str(tmp_path)], text="review"))
    assert [d.text for d in items if isinstance(d, Document)] == [
        "good, very",
        '"Yes, he said.',
        "No.",
    ]
    (ragged,) = [d for d in items if isinstance(d, Skipped)]
    assert "3 cells" in ragged.reason and ragged.source.endswith("a.csv:3")


def test_a_full_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    import errno

    from maquette.corpus import read

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    monkeypatch.setattr(read, "_documents", full)
    with pytest.raises(OSError, match="No space left"):
        found(tmp_path)
