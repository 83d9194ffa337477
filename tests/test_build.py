"""Builds at scale: parts, workers, engines, kill -9, and what each stage leaves out."""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import command, refused, some_text

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.document_selection import _joined, _original
from maquette.corpus.text.scratch import without
from maquette.corpus.text.store import Corpus
from maquette.corpus.worker_pool import Pool

STAGES = BuildOptions(vocabulary=300, near=0.8, substrings=60, portrait=True, locator=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Texts, some of them twice, nearly twice, or sharing a passage."""
    top = tmp_path / "texts"
    top.mkdir()
    for i in range(30):
        (top / f"a{i:02d}.txt").write_text(some_text(i, 120), encoding="utf-8")
    (top / "b-same.txt").write_text(some_text(3, 120), encoding="utf-8")
    (top / "c-near.txt").write_text(some_text(5, 120).replace("the", "this", 1), encoding="utf-8")
    (top / "d-passage.txt").write_text(
        some_text(90, 60) + some_text(7, 120)[:300], encoding="utf-8"
    )
    return top


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("maquette.corpus.text.build.PART_BYTES", 4000)
    monkeypatch.setattr("maquette.corpus.worker_pool.WORTH", 0)


def content(corpus: Corpus) -> dict[str, bytes]:
    """Every file of a corpus."""
    return {p.name: p.read_bytes() for p in sorted(corpus.path.iterdir()) if p.is_file()}


def stopped(
    monkeypatch: pytest.MonkeyPatch, out: Path, folder: Path, options: BuildOptions
) -> None:
    """A build that is cut off when it is about to encode."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("maquette.corpus.text.build.encode_part", stop)
        with pytest.raises(KeyboardInterrupt):
            build(out, files([folder]), options)


def rows(corpus: Corpus, name: str) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(corpus.path / name).to_pylist()


def test_one_process_and_several_write_the_same_bytes(folder, tmp_path, small_parts):
    one = build(tmp_path / "one", files([folder]), STAGES, workers=1)
    two = build(tmp_path / "two", files([folder]), STAGES, workers=2)
    assert len(files([folder]).parts(4000)) > 3
    assert content(one) == content(two)


def test_the_parts_change_nothing(folder, tmp_path, monkeypatch):
    one = build(tmp_path / "one", files([folder]), STAGES)
    monkeypatch.setattr("maquette.corpus.text.build.PART_BYTES", 4000)
    parts = build(tmp_path / "parts", files([folder]), STAGES, workers=1)
    assert one.hash == parts.hash
    assert one.documents.equals(parts.documents)


def test_ray_writes_the_same_bytes(folder, tmp_path, small_parts, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:
        pytest.skip(f"Ray does not start on this machine: {error}")
    try:
        far = build(
            tmp_path / "far",
            files([folder]),
            STAGES,
            workers=2,
            engine="ray",
        )
    finally:
        ray.shutdown()
    near = build(tmp_path / "near", files([folder]), STAGES, workers=1)
    assert content(far) == content(near)


def test_what_is_left_out_is_named_with_its_reason(folder, tmp_path):
    corpus = build(tmp_path / "c", files([folder]), STAGES)
    out = {Path(r["source"]).name: r for r in rows(corpus, "dropped.parquet")}
    assert out["b-same.txt"]["reason"] == "exact"
    assert out["b-same.txt"]["detail"] == f"the same text as {folder / 'a03.txt'}"
    assert out["c-near.txt"]["reason"] == "near"
    assert out["c-near.txt"]["detail"] == f"nearly the same text as {folder / 'a05.txt'}"
    assert set(out) == {"b-same.txt", "c-near.txt"}
    assert corpus.manifest["duplicates_removed"] == 2
    assert corpus.manifest["removed"]["near"] == 1


def test_a_repeated_passage_is_cut_and_its_first_place_kept(folder, tmp_path):
    corpus = build(tmp_path / "c", files([folder]), replace(STAGES, heldout=0.3))
    texts = {
        Path(r["source"]).name: corpus.text(i) for i, r in enumerate(corpus.documents.to_pylist())
    }
    whole = some_text(90, 60) + some_text(7, 120)[:300]
    left = texts["d-passage.txt"].decode()
    assert len(left) < len(whole) - 200
    assert whole.startswith(left[:200])
    assert texts["a07.txt"].decode() == some_text(7, 120)
    assert corpus.manifest["cut_bytes"] >= len(whole) - len(left)


def test_signatures_are_kept_by_the_row_of_their_document(folder, tmp_path):
    from maquette.base.arrays import open_arrays
    from maquette.corpus.text.near_duplicates import signature

    corpus = build(
        tmp_path / "c", files([folder]), BuildOptions(vocabulary=300, near=0.8, heldout=0.3)
    )
    header, arrays = open_arrays(corpus.path / "signatures.bin", b"MQMINHSH")
    assert header["corpus"] == corpus.hash
    assert sorted(arrays["rows"].tolist()) == list(range(len(corpus.documents)))
    for row, own in zip(arrays["rows"].tolist(), arrays["signatures"], strict=True):
        assert own.tolist() == signature(corpus.text(row)).tolist()


def test_planted_copies_are_found_and_the_rates_printed(tmp_path):
    from conftest import Texts

    corpus = build(tmp_path / "c", Texts(documents=80, words=300), BuildOptions(vocabulary=257))
    said = command("corpus", "show", corpus.path, "--planted", "--json")
    assert said.code == 0, said.err
    rates = said.json["planted"]
    assert rates["near copies found"]["rate"] >= 0.924
    assert rates["near-duplicate precision"]["rate"] == 1
    assert all(rate["of"] > 0 for rate in rates.values())


def test_an_evaluation_set_is_cut_out_and_counted(folder, tmp_path):
    question = " ".join(some_text(1000 + i, 4) for i in range(10))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"text": question}) + "\n", encoding="utf-8")
    leak = folder / "e-leak.txt"
    leak.write_text(some_text(91, 300) + question + " " + some_text(92, 300), encoding="utf-8")
    corpus = build(
        tmp_path / "c",
        files([folder]),
        BuildOptions(vocabulary=300, evaluation=(str(test),), portrait=False),
    )
    assert corpus.manifest["contaminated"] == 1
    table = corpus.documents.to_pylist()
    row = next(i for i, r in enumerate(table) if Path(r["source"]).name == "e-leak.txt")
    assert table[row]["overlap"] >= 1
    assert question.encode() not in corpus.text(row)
    assert corpus.text(row).startswith(some_text(91, 300)[:200].encode())


KILLER = """
import os, signal, sys
from pathlib import Path
from maquette.corpus.text import build as module
from maquette.corpus.read import files

module.PART_BYTES = 4000
out, folder = Path(sys.argv[1]), sys.argv[2]

def once(deadly):
    replace, calls = os.replace, 0
    def counted(*names):
        nonlocal calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)
    os.replace = counted
    options = module.BuildOptions(
        vocabulary=300, near=0.8, substrings=60, portrait=True, locator=True
    )
    module.build(out, files([folder]), options, workers=1)

deaths = 0
while not (out / "manifest.json").exists():
    child = os.fork()
    if child == 0:
        once(1 + deaths % 7)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert not (out / "manifest.json").exists()
        deaths += 1
    else:
        assert os.waitstatus_to_exitcode(status) == 0
    assert deaths < 200
print(deaths)
"""


def test_killed_at_every_few_writes_it_becomes_the_same_corpus(folder, tmp_path, small_parts):
    """Every try is killed at one of its first seven renames, whatever stage they are in."""
    said = subprocess.run(
        [sys.executable, "-c", KILLER, tmp_path / "killed", folder],
        capture_output=True, text=True, check=False,
     encoding="utf-8")  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) > 10
    whole = build(tmp_path / "whole", files([folder]), STAGES, workers=1)
    assert content(Corpus(tmp_path / "killed")) == content(whole)
    assert not (tmp_path / ".killed.building").exists()


def test_a_workspace_that_was_half_wiped_is_not_gone_on_from(folder, tmp_path, monkeypatch):
    def half(path):
        for file in sorted(Path(path).rglob("text.bin")):
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("maquette.corpus.text.build.shutil.rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=300))
    assert (tmp_path / ".c.building" / "read" / "00000" / "part.json").exists()
    again = build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=300), replace=True)
    assert content(again) == content(
        build(tmp_path / "d", files([folder]), BuildOptions(vocabulary=300))
    )


def test_other_options_do_not_go_on_from_what_is_there(folder, tmp_path, monkeypatch):
    stopped(monkeypatch, tmp_path / "c", folder, BuildOptions(vocabulary=300))
    assert (tmp_path / ".c.building" / "tokenizer.json").exists()
    corpus = build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=280))
    assert corpus.vocabulary == 280
    assert not (tmp_path / ".c.building").exists()


def test_a_changed_evaluation_set_is_looked_for_again(folder, tmp_path, monkeypatch):
    test, leak = tmp_path / "test.jsonl", " ".join(some_text(2000 + i, 4) for i in range(10))
    test.write_text(json.dumps({"text": "quite another question " * 9}) + "\n", encoding="utf-8")
    (folder / "e.txt").write_text(some_text(91, 300) + leak, encoding="utf-8")
    options = BuildOptions(vocabulary=300, evaluation=(str(test),))
    stopped(monkeypatch, tmp_path / "c", folder, options)
    test.write_text(json.dumps({"text": leak}) + "\n", encoding="utf-8")
    assert build(tmp_path / "c", files([folder]), options).manifest["contaminated"] == 1


def test_texts_that_become_the_same_by_cuts_are_one(tmp_path):
    """None of them is held out while another is trained on."""
    top = tmp_path / "texts"
    top.mkdir()
    common = some_text(1, 200)
    questions = [" ".join(some_text(500 + 20 * i + k, 4) for k in range(8)) for i in range(30)]
    for i, question in enumerate(questions):
        (top / f"{i}.txt").write_text(common + question, encoding="utf-8")
    (top / "other.txt").write_text(some_text(2, 200), encoding="utf-8")
    test = tmp_path / "test.jsonl"
    test.write_text("\n".join(json.dumps({"text": q}) for q in questions), encoding="utf-8")
    corpus = build(
        tmp_path / "c",
        files([top]),
        BuildOptions(vocabulary=300, heldout=0.3, evaluation=(str(test),)),
    )
    texts = [corpus.text(i) for i in range(len(corpus.documents))]
    assert len(texts) == len(set(texts))
    assert corpus.manifest["removed"]["exact"] == 29


def test_a_thousand_parts_need_no_thousand_open_files(folder, tmp_path):
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom maquette.corpus.text import build, scratch\n"
        "from maquette.corpus.read import files\n"
        "build.PART_BYTES, scratch.OPEN = 500, 4\n"
        "import maquette.corpus.text.near_duplicates, maquette.corpus.text.substring\n"
        "import tiktoken, rustbpe, pyarrow.parquet\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (28, 28))\n"
        "options = build.BuildOptions(vocabulary=257, near=0.8)\n"
        "c = build.build(Path(sys.argv[1]), files([sys.argv[2]]), options, workers=1)\n"
        "print(c.manifest['documents'])\n"
    )
    assert len(files([folder]).parts(500)) > 30
    said = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "c", folder],
        capture_output=True, text=True, check=False,
     encoding="utf-8")  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) == 31


def test_changed_files_are_read_again(folder, tmp_path, monkeypatch):
    stopped(monkeypatch, tmp_path / "c", folder, BuildOptions(vocabulary=300))
    (folder / "a00.txt").write_text("another text " * 40, encoding="utf-8")
    corpus = build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=300))
    assert any(corpus.text(i).startswith(b"another text") for i in range(len(corpus.documents)))


def test_a_full_disk_is_one_line_and_the_next_try_goes_on(folder, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    words = ("corpus", "build", tmp_path / "c", folder, "--vocabulary", "300")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(command(*words), "No space left on device", "free space", code=1)
    assert not (tmp_path / "c").exists()
    assert (tmp_path / ".c.building" / "read" / "00000" / "part.json").exists()
    assert command(*words).code == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_error_of_a_worker_is_raised_here(tmp_path):
    with pytest.raises(UserError, match="no such"), Pool(2) as pool:
        list(pool.each(_complain, [1, 2, 3], math.inf))


def test_a_worker_that_is_killed_is_one_line():
    with pytest.raises(UserError, match="a worker was killed"), Pool(2) as pool:
        list(pool.each(_die, [1, 2, 3], math.inf))


def test_little_work_starts_no_process():
    with Pool(2) as pool:
        assert list(pool.each(_process, [1, 2, 3], 1000)) == [os.getpid()] * 3
        assert os.getpid() not in list(pool.each(_process, [1, 2, 3], math.inf))


def test_a_script_without_a_guard_may_build(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom maquette.corpus import worker_pool\n"
        "from maquette.corpus.text import build\n"
        "from maquette.corpus.read import files\n"
        "worker_pool.WORTH, build.PART_BYTES = 0, 4000\n"
        f"print(build.build(Path({str(tmp_path / 'c')!r}), files([{str(folder)!r}]), "
        "build.BuildOptions(vocabulary=257), workers=2).hash)\n",
        encoding="utf-8",
    )
    said = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        encoding="utf-8",
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == Corpus(tmp_path / "c").hash


def _process(number: int) -> int:
    return os.getpid()


def _complain(number: int) -> int:
    if number == 2:
        raise UserError("no such thing")
    return number


def _die(number: int) -> int:
    os.kill(os.getpid(), 9)
    return number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near": 1.5}, "near is 1.5"),
        ({"near": 0.3}, "near is 0.3"),
        ({"vocabulary": 256}, "vocabulary is 256"),
        ({"substrings": 3}, "substrings is 3"),
        ({"heldout": 1.0}, "heldout is 1.0"),
        ({"digits": 0}, "digits is 0"),
        ({"clean": ("qualty",)}, "unknown cleaning rule qualty"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(WrongUse, match=message):
        BuildOptions(**options)


def test_a_build_without_workers_is_refused_before_anything_is_written(folder, tmp_path):
    with pytest.raises(WrongUse, match="workers is 0: use 1 or more"):
        build(tmp_path / "c", files([folder]), BuildOptions(vocabulary=257), workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_ranges_of_what_remains_are_found_in_the_whole():
    text = bytes(range(65, 91))
    cuts = [(2, 5), (10, 12)]
    left = without(text, cuts)
    for start in range(len(left)):
        for end in range(start + 1, len(left) + 1):
            a, b = _original(cuts, start, end)
            assert without(text, _joined([*cuts, (a, b)])) == left[:start] + left[end:]
