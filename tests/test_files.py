"""Files that survive: a reader sees the old content or the new; locks die with their holder."""

import errno
import os
import subprocess
import sys

import pytest

from maquette.base.errors import UserError, WrongUse, did_you_mean, need
from maquette.base.files import (
    directory_aside,
    lock,
    read_json,
    sha256,
    write_atomic,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), directory_aside(tmp_path / "d") as folder:
        (folder / "x").write_text("1", encoding="utf-8")
        assert not (tmp_path / "d").exists()
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    for content in ("1", "2"):
        with directory_aside(tmp_path / "d") as folder:
            (folder / "x").write_text(content, encoding="utf-8")
        assert (tmp_path / "d" / "x").read_text(encoding="utf-8") == content
    assert os.listdir(tmp_path) == ["d"]


def test_what_a_crash_left_aside_is_cleared(tmp_path):
    (tmp_path / ".d.tmp").mkdir()
    (tmp_path / ".d.tmp" / "stale").write_text("", encoding="utf-8")
    with directory_aside(tmp_path / "d") as folder:
        assert list(folder.iterdir()) == []


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from maquette.base.files import lock\n"
        "with lock(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "l"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(WrongUse, match="busy"), lock(tmp_path / "l", "busy"):
        pass
    child.kill()
    child.wait()
    with lock(tmp_path / "l", "busy"):
        pass


def test_json_that_is_damaged_names_its_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    (tmp_path / "a.json").write_text('{"x": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))


def test_checksums_are_the_standard_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_the_nearest_name_is_offered():
    assert did_you_mean("widht", ["width", "depth"]) == ": did you mean 'width'?"
    assert did_you_mean("zzz", ["width", "depth"]) == ": choose from depth, width"


def test_a_missing_extra_says_what_to_install():
    with pytest.raises(
        UserError, match=r"nowhere is not installed: run pip install 'maquette\[x\]'"
    ):
        need("nowhere.at_all", "x")
