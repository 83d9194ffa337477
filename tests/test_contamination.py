"""Shared n-grams are found exactly, whatever the text; what is dirty is dirty for a reason."""

import gzip
import json
import random
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.audit.contamination import (
    bits_per_byte,
    contamination,
    gap,
    split_scores,
)
from maquette.base.errors import UserError
from maquette.base.statistics import weighted_mean
from maquette.corpus.document import Document
from maquette.corpus.tasks import read_tasks
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.ngram_hashes import BASE
from maquette.corpus.text.overlap import Hit, Overlap, gram_length, word_count
from maquette.corpus.text.scripts import parts_of_words


def part_of_word(c: str) -> int:
    """In twelfths, by the names of the characters."""
    name = unicodedata.name(c, "")
    if name.startswith(("CJK", "IDEOGRAPHIC ITERATION")):
        return 8
    if name.startswith(("HIRAGANA", "KATAKANA")):
        return 6
    return 3 if name.startswith(("THAI", "LAO", "KHMER", "MYANMAR")) else 12


def in_words(text: str) -> list[tuple[str, int, int, int]]:
    """Every word with its first byte, the byte after it and its part, character by character."""
    found, word, place, start = [], "", 0, 0
    for c in text + " ":
        size = len(c.encode("utf-8", "surrogatepass"))
        letter = unicodedata.category(c)[0] in "LMN"
        usual = unicodedata.decomposition(c)
        c = unicodedata.normalize("NFKC", c) if usual.startswith(("<wide>", "<narrow>")) else c
        part = part_of_word(c)
        if word and (not letter or part < 12):
            found.append((word, start, place, 12))
            word = ""
        lower = c.lower() if len(c.lower()) == 1 else c
        if letter and part < 12:
            found.append((lower, place, place + size, part))
        elif letter:
            start = start if word else place
            word += lower
        place += size
    return found


def naive_grams(text: str, n: int) -> list[tuple[tuple[str, ...], int, int]]:
    """From every word on, as few as make up n words, with their place."""
    found = in_words(text)
    grams = []
    for first in range(len(found)):
        for last in range(first, len(found)):
            if sum(part for *_, part in found[first : last + 1]) >= 12 * n:
                words = tuple(word for word, *_ in found[first : last + 1])
                grams.append((words, found[first][1], found[last][2]))
                break
    return grams


def naive_hits(texts: list[str], data: str, n: int) -> list[Hit]:
    """Sets of word tuples, one example at a time."""
    hits = []
    for example, text in enumerate(texts):
        known = {words for words, _, _ in naive_grams(text, n)}
        start = end = -1
        for words, first, after in naive_grams(data, n):
            if words not in known:
                continue
            if start >= 0 and first > end:
                hits.append(Hit(start, end, example))
                start = -1
            start = first if start < 0 else start
            end = after
        if start >= 0:
            hits.append(Hit(start, end, example))
    return sorted(hits)


FEW = st.text(alphabet="ab B-é\u0301É.ßİΣς 中文々かﾊＡａกิ៣ﬁ\u2003k\u212a𐐀𐐨\x00", max_size=60).map(
    lambda text: unicodedata.normalize("NFC", text)
)
EXAMPLES = st.lists(FEW, max_size=6)


@given(EXAMPLES, FEW, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_what_is_found_is_what_sets_of_words_find(texts, data, n):
    assert Overlap(texts, n).scan(data.encode()) == naive_hits(texts, data, n)


ACCENTS = st.text(alphabet="ae\u0301\u0323é. 가\u1100\u1161\u11a8กิ中", max_size=40)


@given(ACCENTS, ACCENTS, st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_other_normal_forms_are_the_same_text_at_its_own_place(text, data, n):
    composed, *others = (unicodedata.normalize(f, data) for f in ("NFC", "NFD"))
    usual = Overlap([unicodedata.normalize("NFC", text)], n).scan(composed.encode())
    said = {composed.encode()[h.start : h.end].decode() for h in usual}
    for other in (*others, data):
        hits = Overlap([unicodedata.normalize("NFD", text)], n).scan(other.encode())
        held = [other.encode()[h.start : h.end].decode() for h in hits]  # whole characters
        assert bool(hits) == bool(usual)  # of marks that stand alone, two may touch now
        for one in held:
            assert any(s in unicodedata.normalize("NFC", one) for s in said)


CHINESE = "机器学习是人工智能的一个分支，主要研究如何让计算机从数据中学习规律"
THAI = "ภาษาไทยเป็นภาษาที่ไม่มีการเว้นวรรคระหว่างคำ ทำให้การตัดคำเป็นปัญหาสำคัญของการประมวลผลภาษา"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ"


@pytest.mark.parametrize("example", [CHINESE, THAI, JAPANESE])
def test_text_without_spaces_is_found_by_its_characters(example):
    overlap = Overlap([example, example[:12]])
    assert overlap.short.tolist() == [False, True]
    (hit,) = overlap.scan(f"前文 before{example}後 after".encode())
    assert hit.example == 0
    broken = "\n".join(example[i : i + 7] for i in range(0, len(example), 7))  # other line ends
    assert [h.example for h in overlap.scan(broken.encode())] == [0]
    half = example[: len(example) // 4] + "x" + example[len(example) // 4 + 1 : len(example) // 2]
    assert overlap.scan(half.encode()) == []


def test_wide_letters_and_digits_are_the_usual_ones():
    example = "ＧＰＴ４は 2023年に発表された大規模言語モデルであり、ﾃｷｽﾄを生成する"
    assert Overlap([example]).scan(
        "GPT4は２０２３年に発表された大規模言語モデルであり、テキストを生成する".encode()
    )


@given(EXAMPLES, st.binary(max_size=40), FEW)
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_not_text_part_words(texts, junk, text):
    data = text.encode()[:20] + junk + text.encode()
    read = data.decode("utf-8", "replace")
    if not unicodedata.is_normalized("NFC", read):
        return
    flagged = {hit.example for hit in Overlap(texts, 2).scan(data)}
    assert flagged == {hit.example for hit in naive_hits(texts, read, 2)}


def test_every_character_is_read_as_python_reads_it():
    """All of Unicode, each character between two words: is it in a word, and which."""
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    characters = [c for c in characters if unicodedata.is_normalized("NFC", f"x{c}x")]
    text = " ".join(f"x{c}x" for c in characters)
    parted = np.array([*parts_of_words(0x40000), *(0x110000 - 0x40000) * [12]])
    expected = 0
    for c in characters:
        letter = unicodedata.category(c)[0] in "LMN" and ord(c) < 0x40000
        part = int(parted[ord(c)])
        expected += 24 if not letter else 12 if part == 12 else 24 + part
    assert word_count(text) == expected // 12


def test_equal_hashes_are_told_apart():
    """Grams whose hashes are equal modulo 2^64 (the Thue-Morse sequence) are not taken as one."""
    signs = [0]
    while len(signs) < 2048:
        signs += [1 - s for s in signs]
    one = "".join("ab"[s] for s in signs)
    two = "".join("ba"[s] for s in signs)

    def polynomial(word: str) -> int:
        h = 0
        for c in word:
            h = (h * int(BASE) + ord(c)) % 2**64
        return h

    assert polynomial(one) == polynomial(two)
    both = Overlap([f"x {one} y", f"x {two} y", f"x {one} z"], 2)
    assert [hit.example for hit in both.scan(f"x {one}.".encode())] == [0, 2]
    assert [hit.example for hit in both.scan(f"x {two}.".encode())] == [1]
    assert [hit.example for hit in both.scan(f"{two} y".encode())] == [1]
    assert len(Overlap([f"x {one}"], 2).scan(f"x {two}".encode())) == 0


def test_case_punctuation_and_line_ends_do_not_hide_an_example():
    example = "The quick brown fox jumps over the lazy dog and runs away from the angry farmer"
    data = "xx\nTHE QUICK -- brown fox\njumps (over) the lazy dog, and runs; away... from the ANGRY farmer!"
    (hit,) = Overlap([example]).scan(data.encode())
    assert data[hit.start : hit.end].startswith("THE QUICK")
    assert data[hit.start : hit.end].endswith("farmer")
    assert not Overlap([example]).scan(data.replace("dog", "cat").encode())


def test_examples_end_where_they_end():
    """No gram crosses from an example into the next, and the last word of one is whole."""
    overlap = Overlap(["a b", "c d"], 2)
    assert [hit.example for hit in overlap.scan(b"a b, then c d")] == [0, 1]
    assert not overlap.scan(b"b c")
    assert Overlap(["one", "one two"], 2).short.tolist() == [True, False]
    assert Overlap([], 13).scan(b"whatever") == []
    assert Overlap(["a b"], 2).scan(b"") == []


def test_gram_length_is_the_fifth_percentile_between_eight_and_thirteen():
    assert gram_length(["word " * 3] * 50) == 8
    assert gram_length(["word " * 300] * 50) == 13
    assert gram_length(["word " * 10] * 10 + ["word " * 90] * 90) == 10
    assert gram_length([]) == 13


def remove(text: bytes, hits: list[Hit]) -> list[bytes]:
    """The pieces that remain between the cuts."""
    cuts = Overlap.cuts(text, hits)
    if cuts is None:
        return []
    assert cuts == sorted(cuts)
    edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
    return [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def spans(text: bytes, *places: tuple[int, int]) -> list[Hit]:
    return [Hit(start, end, 0) for start, end in places]


def test_a_collision_goes_with_two_hundred_characters_to_each_side():
    text = ("é" * 1000 + "X" * 50 + "中" * 1000).encode()
    start = text.index(b"X")
    left, right = remove(text, spans(text, (start, start + 50)))
    assert left.decode() == "é" * 800
    assert right.decode() == "中" * 800
    assert remove(text, []) == [text]
    assert remove(b"short", []) == [b"short"]
    assert remove(b"", []) == []
    assert remove(b"x" * 700, spans(text, (340, 350))) == []  # two pieces below 200 characters
    assert remove(b"x" * 700, spans(text, (0, 60), (40, 70))) == [b"x" * 430]


def test_what_falls_into_more_than_ten_pieces_goes_whole():
    text = b"x" * 13_000
    hits = [Hit(1000 * i, 1000 * i + 10, 0) for i in range(1, 13)]
    assert len(remove(text, hits[:9])) == 10
    assert remove(text, hits[:10]) == []


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 90)), max_size=8))
def test_what_is_kept_is_a_window_away_from_every_collision(places):
    text = "".join(chr(0x4E00 + i) for i in range(3100))  # every character once
    hits = [Hit(3 * a, 3 * (a + n), 0) for a, n in places]
    near = {i for a, n in places for i in range(a - 200, a + n + 200)}
    kept = [piece.decode() for piece in remove(text.encode(), hits)]
    assert not near & {ord(c) - 0x4E00 for piece in kept for c in piece}
    assert all(len(piece) >= 200 for piece in kept)
    clean = "".join(" " if i in near else c for i, c in enumerate(text)).split()
    assert kept == [run for run in clean if len(run) >= 200]


WORDS = [f"w{i}" for i in range(500)]


def prose(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(count))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Forty documents; examples 0-4 of a task stand in some of them, 5-9 in none."""
    examples = [prose(1000 + i, 40) for i in range(10)]
    documents = [Document(prose(i, 150), "made", f"made:{i}") for i in range(40)]
    for i in range(5):
        for j in range(i + 1):  # example i stands in i + 1 documents
            text = documents[8 * i + j].text
            inside = f"{text[:300]}\n{examples[i].upper()}.\n{text[300:]}"
            documents[8 * i + j] = Document(inside, "made", f"made:{8 * i + j}")
    path = tmp_path_factory.mktemp("planted") / "corpus"
    return build(path, documents, BuildOptions(vocabulary=300, heldout=0.1)), examples


@pytest.mark.parametrize("n", [13, 8, None])
def test_contamination_names_the_documents(planted, n):
    corpus, examples = planted
    found = contamination(corpus, {"task": examples, "other": ["nothing of this", prose(9, 40)]}, n)
    task, other = found["task"], found["other"]
    rows = {row: corpus.text(row).decode() for row in range(corpus.documents.num_rows)}
    splits = corpus.documents["split"].to_pylist()
    holds = {
        i: [row for row, text in rows.items() if splits[row] == "train" and e.upper() in text]
        for i, e in enumerate(examples)
    }
    assert task.flagged == [i for i in holds if holds[i]]
    assert len(task.flagged) >= 4
    for i in task.flagged:
        assert [hit.row for hit in task.hits if hit.example == i] == holds[i][:5]
    for hit in task.hits:
        text = rows[hit.row].encode()[hit.offset : hit.offset + hit.length]
        assert text.decode() == examples[hit.example].upper()
        assert corpus.documents["source"][hit.row].as_py() == hit.source
    assert (other.dirty, other.clean, other.too_short) == (1, 0, [0])
    assert task.examples == task.dirty + task.clean == 10
    low, high = task.interval
    assert low < task.fraction < high
    assert json.loads(json.dumps(task.to_dict()))["dirty"] == task.dirty
    said = other.to_dict()
    assert (said["dirty"], said["clean"], said["short"], said["too_short"]) == (1, 0, 1, [0])


def test_how_many_documents_are_named_does_not_change_what_is_flagged(planted):
    corpus, examples = planted
    few, many = (contamination(corpus, {"": examples}, documents=d)[""] for d in (1, 50))
    assert few.flagged == many.flagged
    assert len(few.hits) == len(few.flagged) < len(many.hits)


def test_tasks_are_files(tmp_path):
    (tmp_path / "sub").mkdir()
    records = [{"text": "a b\u2028c"}, {"question": "why?", "answer": "so"}]
    (tmp_path / "sub" / "b.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n\n", encoding="utf-8"
    )
    (tmp_path / "a.txt").write_text("a whole\n\ndocument", encoding="utf-8")
    (tmp_path / "ignored.md").write_text("not a task", encoding="utf-8")
    tasks = read_tasks([tmp_path])
    assert list(tasks) == [str(tmp_path / "a.txt"), str(tmp_path / "sub" / "b.jsonl")]
    assert list(tasks.values()) == [["a whole\n\ndocument"], ["a b\u2028c", "why? so"]]
    assert read_tasks([tmp_path / "a.txt", tmp_path / "sub"]) == tasks


Q, C = "What is red?", ["a rose", "the sea"]
KNOWN = [
    ({"question": Q, "choices": C, "answer": 0, "subject": "s"}, f"{Q} a rose"),  # MMLU
    ({"question": Q, "A": "a rose", "B": "the sea", "C": "c", "D": "d", "answer": "B"}, f"{Q} the sea"),
    ({"ctx": Q, "endings": C, "label": "1"}, f"{Q} the sea"),  # HellaSwag
    ({"goal": Q, "sol1": C[0], "sol2": C[1], "label": 1}, f"{Q} the sea"),  # PIQA
    ({"sentence": Q, "option1": C[0], "option2": C[1], "answer": "1"}, f"{Q} a rose"),  # WinoGrande
    ({"Question": Q, "A": "a rose", "B": "b", "C": "c", "D": "d", "Answer": "A"}, f"{Q} a rose"),  # CMMLU
    ({"question_stem": Q, "choices": {"text": C, "label": ["A", "B"]}, "answerKey": "B"},
     f"{Q} the sea"),  # OpenBookQA
    ({"context": "In May", "question": Q, "answers": {"text": ["a", "b"], "answer_start": [3, 4]}},
     f"In May {Q} a"),  # SQuAD
    ({"question": Q, "answer": "#### 4"}, f"{Q} #### 4"),  # GSM8K
    ({"task_id": "HumanEval/0", "prompt": "def f():", "canonical_solution": "  return 1", "test": "t"},
     "def f():   return 1"),
    ({"question": {"stem": Q, "choices": [{"text": t, "label": k} for t, k in zip(C, "12", strict=True)]},
      "answerKey": "2"}, f"{Q} the sea"),  # ARC, its own files
    ({"question": Q, "choices": {"text": C, "label": ["A", "B"]}, "answerKey": "A"}, f"{Q} a rose"),
    ({"question": Q, "choices": C}, f"{Q} a rose the sea"),
    ({"passage": "In May", "question": Q, "answer": True}, f"In May {Q}"),  # BoolQ
    ({"doc_id": 0, "doc": {"question": Q, "answer": "4"}, "resps": [["5"]], "target": "4"}, f"{Q} 4"),
    ({"doc": {"odd": 1}, "arguments": [[Q, " 4"]]}, f"{Q}  4"),
    ({"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": "roses"}]},
     f"{Q} roses"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q}, {"type": "image"}]}]}, Q),
    ({"conversations": [{"from": "human", "value": Q}]}, Q),  # ShareGPT
    ({"instruction": Q, "input": "", "output": "roses"}, f"{Q} roses"),
    ({"text": Q, "label": 1}, Q),
    ({"text": None}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("record", "text"), KNOWN)
def test_the_fields_of_well_known_sets_are_read(record, text, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record).encode() + b"\n" + b'{"text": "b"}\n')
    assert read_tasks([path]) == {str(path): [text, "b"]}


def test_examples_in_every_kind_of_file(tmp_path):
    two = [{"question": Q, "answer": "a, b"}, {"question": "and?", "answer": "c\td"}]
    texts = [f"{Q} a, b", "and? c\td"]
    lines = "".join(json.dumps(record) + "\r\n" for record in two)
    table = 'id,question,answer\n1,What is red?,"a, b"\n2,and?,c\td\n'
    squad = {"version": "1", "data": [{"title": "t", "paragraphs": [
        {"context": "x", "qas": [{"question": "y?", "answers": [{"text": "z"}], "id": 1}]}]}]}  # fmt: skip
    for name, data in {
        "a.jsonl": lines, "a.ndjson": lines, "a.json": json.dumps(two, indent=1),
        "b.json": json.dumps({"examples": two}), "a.csv": "\ufeff" + table,
        "a.tsv": table.replace(",", "\t").replace('"a\t b"', '"a, b"').replace("c\td", '"c\td"'),
        "squad.json": json.dumps(squad),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data.encode())
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(two), tmp_path / "a.parquet")
    found = read_tasks([tmp_path])
    assert found.pop(str(tmp_path / "squad.json")) == ["x y? z"]
    assert len(found) == 8
    for name, examples in found.items():
        assert examples == texts, name


def test_a_table_of_tabs_whose_quotes_do_not_match(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('sentence\tlabel\n"Yes, he said.\tno\nNo way.\tyes\n', encoding="utf-8")
    assert read_tasks([path], "sentence") == {str(path): ['"Yes, he said.', "No way."]}


def test_what_describes_a_set_is_no_example_of_it(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a b"}', encoding="utf-8")
    for name in ("dataset_info.json", "state.json", "results_2024-01-01.json"):
        (tmp_path / name).write_text('{"splits": 1}', encoding="utf-8")
    assert list(read_tasks([tmp_path]).values()) == [["a b"]]


def test_bytes_are_read_as_text_and_what_cannot_be_read_is_nothing(tmp_path):
    table = pa.table({"text": pa.array(["Café x".encode()], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_tasks([tmp_path]).values()) == [["Café x"]]


def test_a_field_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no", "meta": {"body": "yes"}, "n": 7}', encoding="utf-8")
    assert read_tasks([path], "meta.body, n") == {str(path): ["yes 7"]}
    with pytest.raises(UserError, match="has no field 'x': it has text, meta, n; name what"):
        read_tasks([path], "x")


def test_a_build_says_how_many_examples_are_too_short(tmp_path):
    task = tmp_path / "t.jsonl"
    task.write_text(json.dumps({"p": CHINESE}) + '\n{"p": "short"}\n', encoding="utf-8")
    documents = [
        Document(prose(i, 90) + (CHINESE if i == 3 else ""), "made", f"{i}") for i in range(9)
    ]
    made = build(
        tmp_path / "c",
        documents,
        BuildOptions(vocabulary=257, evaluation=(str(task),), evaluation_field="p"),
    )
    assert made.manifest["evaluation"] == {str(task): {"examples": 2, "too_short": 1}}
    assert made.manifest["contaminated"] == 1
    texts = [made.text(row).decode() for row in range(made.documents.num_rows)]
    assert not any(CHINESE in text for text in texts)
    said = command("corpus", "show", made.path)
    assert "2 examples looked for; 1 of fewer than 13 words are too short to be found" in said.out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "x.jsonl",
            b'{"text": "a"}\n{"txt": "b"}',
            "has no field that is known: it has txt; name .* --text-field",
        ),
        ("x.jsonl", b'{"text": "a"}\n{"text"', "x.jsonl:2 is not JSON"),
        ("x.jsonl", b'["text"]', "x.jsonl:1 is no object"),
        ("x.jsonl", b"\n", "holds no examples"),
        ("x.txt", b"", "holds no examples"),
        ("x.txt", b"\xff\xfe", "is not text in UTF-8"),
        ("x.md", b"a,b", "is no task"),
        ("x.csv", b"text\na,b", "x.csv:2 has 2 cells"),
        ("x.json", b'[{"text": "a"}', "is cut off"),
        ("x.jsonl.gz", b"no gzip", "damaged gz data"),
        ("x.parquet", b"PAR1", "damaged parquet"),
    ],
)
def test_a_task_that_cannot_be_read_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_tasks([tmp_path / name])
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        read_tasks([tmp_path / "absent.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        read_tasks([tmp_path / "empty"])


def test_means_and_their_errors():
    x = np.array([1.0, 2.0, 3.0, 6.0])
    assert weighted_mean(x).mean == 3
    assert weighted_mean(x).stderr == pytest.approx(x.std(ddof=1) / 2)
    assert weighted_mean(x, [5, 5, 5, 5]).stderr == pytest.approx(weighted_mean(x).stderr)
    assert weighted_mean([1, 3], [3, 1]).mean == 1.5
    parts = split_scores(x, [False, False, True, True])
    assert [(p.examples, p.mean) for p in parts.values()] == [(2, 1.5), (2, 4.5), (4, 3.0)]
    assert gap(parts).mean == -3
    assert gap(parts).stderr == pytest.approx(
        np.hypot(parts["clean"].stderr, parts["dirty"].stderr)
    )
    assert split_scores(x, [False] * 4)["dirty"].mean is None
    assert gap(split_scores(x, [False] * 4)).mean is None
    assert gap(split_scores(x, [True, False, False, False])).interval == (-np.inf, np.inf)


def test_the_error_of_a_mean_is_how_far_means_of_other_samples_lie():
    draw = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(2000):
        size = draw.integers(1, 50, 30)
        one = weighted_mean(draw.normal(size / 25, 1), size)
        means.append(one.mean)
        errors.append(one.stderr)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)


def test_bits_per_byte_of_examples_are_those_of_the_whole(trained):
    import maquette
    from maquette.evaluation.bits_per_byte import score_documents

    run = maquette.load(trained)
    examples = ["the cat sat", "on a mat by the old stone wall of the tall tree", "é"]
    bits, sizes = bits_per_byte(run.model, run.tokenizer, examples)
    assert sizes.tolist() == [len(e.encode()) for e in examples]
    nats = list(
        score_documents(
            run.model,
            [np.array(run.tokenizer.encode(e)) for e in examples],
            run.tokenizer.special.start,
        )
    )
    assert float((bits * sizes).sum()) == pytest.approx(sum(nats) / np.log(2))
