"""Tables of captions as people have them: no caption is cut, swapped or lost without a word."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command, refused
from PIL import Image

from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import EMPTY, FIRST
from maquette.corpus.pictures.files import pictures
from maquette.corpus.pictures.item import NO_CAPTION
from maquette.corpus.pictures.rows import JOINED, LONG, SHORT, UNMATCHED
from maquette.corpus.pictures.tables import NOT_THERE, SECOND, SHARED, TWICE


def put(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, 2 * i, 3)).save(folder / name)
    return folder


def read(folder: Path, **columns) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Captions, and reasons of what is left out, by the path in the folder; what was done."""
    items = list(pictures([folder], columns))
    inside = {id(item): item.source.removeprefix(f"{folder}/") for item in items}
    left = [item for item in items if isinstance(item, Skipped)]
    kept = [item for item in items if not isinstance(item, Skipped)]
    return (
        {inside[id(item)]: item.caption for item in kept},
        {inside[id(item)]: item.reason for item in left},
        sorted({what for item in kept for what in item.converted}),
    )


TWO = {"a.jpg": "a man walks , then sits", "b.jpg": "two"}
KOHYA = {
    "a.jpg": {"caption": "a man walks , then sits", "tags": "x,y"},
    "b.jpg": {"caption": "two"},
}
COCO = {
    "info": {},
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "two"},
        {"id": 2, "image_id": 7, "caption": "a man walks , then sits"},
    ],
}
KARPATHY = {
    "dataset": "x",
    "images": [
        {"filename": "a.jpg", "sentences": [{"tokens": ["a"], "raw": "a man walks , then sits"}]},
        {"filename": "b.jpg", "sentences": [{"raw": "two"}]},
    ],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", 'image,caption\na.jpg,"a man walks , then sits"\nb.jpg,two\n'),
        ("captions.csv", "image,caption\na.jpg,a man walks , then sits\nb.jpg,two\n"),
        ("captions.csv", "id,image,caption\r\n1,a.jpg,a man walks , then sits\r\n2,b.jpg,two\r\n"),
        ("captions.csv", "a.jpg,a man walks , then sits\nb.jpg,two\n"),
        ("captions.csv", '\ufeff"IMAGE"; "Caption"\n"a.jpg"; "a man walks , then sits"\nb.jpg;two'),
        ("captions.csv", 'sep=;\nimage;caption\na.jpg;"a man walks , then sits"\nb.jpg;two\n'),
        ("captions.csv", "caption\timage\na man walks , then sits\ta.jpg\ntwo\tb.jpg\n"),
        ("captions.csv", 'image, caption\na.jpg, "a man walks , then sits"\nb.jpg, two\n'),
        ("captions.csv", "image,caption\na.jpg,a man walks , then sits,,\nb.jpg,two,,\n"),
        ("captions.csv", 'image,caption\na.jpg,"a man walks ,\nthen sits"\nb.jpg,two\n'),
        ("captions.tsv", "a.jpg\ta man walks , then sits\nb.jpg\ttwo\n"),
        ("results.csv",
         "image_name| comment_number| comment\na.jpg| 0| a man walks , then sits\nb.jpg| 0| two\n"),
        ("captions.txt", "image,caption\na.jpg,a man walks , then sits\nb.jpg,two\n"),
        ("Flickr8k.token.txt", "a.jpg#0\ta man walks , then sits\nb.jpg#0\ttwo\n"),
        ("results_2013.token", "a.jpg#0\ta man walks , then sits\nb.jpg#0\ttwo\n"),
        ("train.csv", "file_name,text\na.jpg,a man walks , then sits\nb.jpg,two\n"),
        ("anything.jsonl", '{"file_name": "a.jpg", "TEXT": "a man walks , then sits"}\n'
         '{"file_name": "b.jpg", "TEXT": "two"}'),
        ("meta_cap.json", json.dumps(KOHYA)),
        ("meta_cap.json", json.dumps({f"/data/of/another/{n}": v for n, v in KOHYA.items()})),
        ("meta_cap.json", json.dumps({n[0]: v for n, v in KOHYA.items()})),
        ("captions_train2014.json", json.dumps(COCO)),
        ("dataset.json", json.dumps(KARPATHY)),
        ("captions.csv", "path,text\nC:\\me\\a.jpg,a man walks , then sits\nC:\\me\\b.jpg,two\n"),
        ("captions.json", json.dumps({"A.JPG": TWO["a.jpg"], "b.jpg": "two"})),
    ],
    ids=range(24),
)  # fmt: skip
def test_a_table_gives_whole_captions_in_each_form(name, content, tmp_path):
    put(tmp_path, *TWO)
    (tmp_path / name).write_bytes(content.encode())
    captions, left, _ = read(tmp_path)
    assert captions == TWO
    assert left == {}


def test_a_parquet_file_beside_pictures_is_a_table(tmp_path):
    put(tmp_path, *TWO)
    rows = {"file_name": list(TWO), "text": list(TWO.values()), "width": [1, 2]}
    for name in ("metadata.parquet", "other.parquet"):
        pq.write_table(pa.table(rows), tmp_path / name)
        assert read(tmp_path)[:2] == (TWO, {})
        (tmp_path / name).unlink()
    pq.write_table(
        pa.table({"file_name": list(TWO), "alt2": list(TWO.values())}),
        tmp_path / "metadata.parquet",
    )
    assert read(tmp_path, caption="alt2")[:2] == (TWO, {})
    assert read(tmp_path)[1]["metadata.parquet"].startswith(
        "no column of captions (has file_name, alt2)"
    )


def test_a_row_too_long_is_joined_at_the_end_and_named_elsewhere(tmp_path):
    put(tmp_path, *TWO)
    table = tmp_path / "captions.csv"
    table.write_text("image,caption,label\na.jpg,walks, sits,x\nb.jpg,two,y\n", encoding="utf-8")
    assert read(tmp_path)[:2] == ({"b.jpg": "two"}, {"captions.csv:2": LONG, "a.jpg": NO_CAPTION})
    table.write_text("caption,image\nwalks, sits,a.jpg\ntwo,b.jpg\n", encoding="utf-8")
    assert read(tmp_path)[1] == {"captions.csv:2": LONG, "a.jpg": NO_CAPTION}
    table.write_text("image,caption\na.jpg,one,  two , three\nb.jpg,two\n", encoding="utf-8")
    captions, _, done = read(tmp_path)
    assert captions["a.jpg"] == "one, two , three" and done == [JOINED]
    table.write_text('image,caption\na.jpg,A dog , "runs" .\nb.jpg,two\n', encoding="utf-8")
    captions, _, done = read(tmp_path)
    assert captions["a.jpg"] == 'A dog , "runs" .' and done == [JOINED]


def test_a_row_too_short_is_named(tmp_path):
    put(tmp_path, *TWO)
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\na.jpg| 4   A dog runs\nb.jpg| 0| two\n",
        encoding="utf-8",
    )
    assert read(tmp_path)[:2] == ({"b.jpg": "two"}, {"results.csv:2": SHORT, "a.jpg": NO_CAPTION})


@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv"])
def test_quotes_that_do_not_match_swallow_no_row(name, tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    lines = ["image,caption", 'a.jpg,"Stop" says the sign', 'b.jpg,"Go, she said', "c.jpg,three",
             'd.jpg,"a ""quoted"" word"']  # fmt: skip
    sign = "," if name.endswith("csv") else "\t"
    text = "\n".join(line.replace(",", sign, 1) for line in lines)
    (tmp_path / name).write_text(text, encoding="utf-8")
    captions, left, done = read(tmp_path)
    assert captions == {"a.jpg": '"Stop" says the sign', "b.jpg": '"Go, she said', "c.jpg": "three",
                        "d.jpg": 'a "quoted" word'}  # fmt: skip
    assert left == {} and UNMATCHED in done


def test_of_several_captions_the_first_counts_and_the_others_are_named(tmp_path):
    put(tmp_path, *TWO)
    (tmp_path / "captions.txt").write_text(
        "a.jpg#0\tone\na.jpg#1\tother\nb.jpg#0\ttwo\n", encoding="utf-8"
    )
    captions, left, done = read(tmp_path)
    assert captions == {"a.jpg": "one", "b.jpg": "two"}
    assert left == {"captions.txt: a.jpg": SECOND} and done == []
    (tmp_path / "captions.txt").write_text("", encoding="utf-8")
    (tmp_path / "captions.jsonl").write_text(
        '{"file_name": "a.jpg", "captions": ["one", "other"]}\n{"file_name": "b.jpg", "captions": ["two"]}',
        encoding="utf-8",
    )
    captions, _, done = read(tmp_path)
    assert captions == {"a.jpg": "one", "b.jpg": "two"} and done == [FIRST]


def test_places_that_differ_are_counted(tmp_path):
    put(tmp_path, *TWO)
    (tmp_path / "a.txt").write_text("beside", encoding="utf-8")
    (tmp_path / "captions.json").write_text('{"a.jpg": "one", "b.jpg": "two"}', encoding="utf-8")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "b.jpg", "text": "two"}', encoding="utf-8"
    )
    captions, left, done = read(tmp_path)
    assert captions == {"a.jpg": "beside", "b.jpg": "two"} and left == {} and done == [FIRST]


def test_an_empty_cell_has_a_reason_of_its_own(tmp_path):
    put(tmp_path, *TWO)
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,\nb.jpg,two\n", encoding="utf-8")
    assert read(tmp_path)[:2] == ({"b.jpg": "two"}, {"a.jpg": EMPTY})


@pytest.mark.parametrize("where", ["", "annotations", "annotations/deep"])
def test_a_table_counts_for_pictures_in_other_folders(where, tmp_path):
    put(tmp_path, "images/a.jpg", "images/b.jpg", "other/c.jpg")
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    (tmp_path / where / "captions_val.json").write_text(json.dumps(COCO), encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {f"images/{name}": text for name, text in TWO.items()}
    assert left == {"other/c.jpg": NO_CAPTION}


def test_a_table_of_one_folder_is_not_anothers(tmp_path):
    put(tmp_path, "one/a.jpg", "two/a.jpg")
    for name in ("one", "two"):
        (tmp_path / name / "metadata.csv").write_text(
            f"file_name,text\na.jpg,of {name}\n", encoding="utf-8"
        )
    assert read(tmp_path)[:2] == ({"one/a.jpg": "of one", "two/a.jpg": "of two"}, {})


def test_a_row_goes_to_no_picture_but_its_own(tmp_path):
    put(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg", "z/b.jpg", "c.jpg")
    (tmp_path / "captions.csv").write_text(
        "image,caption\na.jpg,whose\nb.jpg,exact\n/p/c.jpg,one\n/q/c.jpg,two\n", encoding="utf-8"
    )
    captions, left, _ = read(tmp_path)
    assert captions == {"b.jpg": "exact", "x/a.jpg": "whose"}
    assert left == {"y/a.jpg": SHARED, "z/b.jpg": NO_CAPTION, "c.jpg": TWICE,
                    "captions.csv: /p/c.jpg": NOT_THERE, "captions.csv: /q/c.jpg": NOT_THERE}  # fmt: skip


def test_case_and_normal_form_of_names_agree(tmp_path):
    composed = unicodedata.normalize("NFC", "café.jpg")
    put(tmp_path, unicodedata.normalize("NFD", composed), "P0.JPG", "q.jpg", "Q.jpg")
    rows = {composed: "coffee", "p0.jpg": "zero", "Q.jpg": "large", "gone.jpg": "gone"}
    (tmp_path / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert sorted(captions.values()) == ["coffee", "large", "zero"]
    assert captions["Q.jpg"] == "large"
    assert left == {"q.jpg": NO_CAPTION, "captions.json: gone.jpg": NOT_THERE}


def test_columns_can_be_named_and_what_is_missing_says_how(tmp_path):
    put(tmp_path, *TWO)
    out = tmp_path / "out"
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": n, "prompt_text": t}) for n, t in TWO.items()),
        encoding="utf-8",
    )
    said = command("corpus", "pictures", out, tmp_path, "--image-size", "16", "--workers", "1")
    refused(said, "has file_name, prompt_text", "--columns caption=", code=1)
    assert read(tmp_path, caption="prompt_text")[:2] == (TWO, {})
    assert read(tmp_path, caption="nothing")[1]["metadata.jsonl"].startswith("no column nothing")
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "list.csv").write_text(
        "photo,words\na.jpg,a man walks , then sits\nb.jpg,two\n", encoding="utf-8"
    )
    assert read(tmp_path, image="photo", caption="words")[:2] == (TWO, {})
    (tmp_path / "list.csv").unlink()
    (tmp_path / "captions.csv").write_text(
        "id,caption\na,a man walks , then sits\nb,two\n", encoding="utf-8"
    )
    assert "(has id, caption): name it by --columns image=" in read(tmp_path)[1]["captions.csv"]
    assert read(tmp_path, image="id")[:2] == (TWO, {})
    (tmp_path / "captions.csv").rename(tmp_path / "train.csv")  # whatever the file is called
    assert read(tmp_path, image="id")[:2] == (TWO, {})


def test_files_that_are_no_tables_are_left_and_counted(tmp_path):
    put(tmp_path, "cat/a.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("text, with a comma\nand more", encoding="utf-8")
    (tmp_path / "cat" / "stats.json").write_text('{"count": 3}', encoding="utf-8")
    (tmp_path / "cat" / "log.jsonl").write_text(
        '{"text": "x"}\n{"name": "y", "text": "z"}\n', encoding="utf-8"
    )
    (tmp_path / "cat" / "prices.csv").write_text("name,title\nfish,cheap\n", encoding="utf-8")
    captions, left, _ = read(tmp_path)
    assert captions == {"cat/a.jpg": "cat"}
    assert left == {"cat/notes.txt": "a caption without a picture"} | dict.fromkeys(
        ("cat/stats.json", "cat/log.jsonl", "cat/prices.csv"), "neither picture nor caption, by its name"
    )  # fmt: skip
