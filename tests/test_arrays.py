"""Files of arrays: what is written is what is read, the layout is as documented, damage is said."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.base.arrays import DTYPES, check_corpus, open_arrays, write_arrays
from maquette.base.errors import UserError

MAGIC = b"MQTESTED"
HEADER = {"format": 1, "corpus": "c0ffee", "width": 33}
ARRAYS = {"words": np.arange(9, dtype=np.uint64), "rows": np.ones((3, 4), np.int64)}


@pytest.fixture
def path(tmp_path):
    write_arrays(tmp_path / "made.bin", MAGIC, HEADER, ARRAYS)
    return tmp_path / "made.bin"


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=4,
    )
)
def test_what_is_written_is_read(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("arrays") / "some.bin"
    draw = np.random.default_rng(0)
    arrays = {n: draw.integers(0, 100, shape).astype(d) for n, (d, shape) in kinds.items()}
    write_arrays(path, MAGIC, HEADER, arrays)
    header, read = open_arrays(path, MAGIC)
    assert header == HEADER
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array) and read[name].shape == array.shape
        assert not read[name].flags.writeable


def test_the_layout_is_the_documented_one(path):
    """Read by hand, as a program in another language would."""
    data = path.read_bytes()
    assert data[:8] == MAGIC
    end = 12 + int.from_bytes(data[8:12], "little")
    header = json.loads(data[12:end])
    assert end % 64 == 0
    assert header["bytes"] == len(data)
    assert {name: header[name] for name in HEADER} == HEADER
    for name, array in ARRAYS.items():
        entry = header["arrays"][name]
        assert entry["offset"] % 64 == 0
        start = end + entry["offset"]
        assert data[start : start + array.nbytes] == array.astype(entry["dtype"]).tobytes()
        assert entry["dtype"][0] == "<" and entry["shape"] == list(array.shape)


def test_big_endian_and_strided_arrays_are_written_as_little_endian_and_dense(tmp_path):
    array = np.arange(20, dtype=">u4").reshape(4, 5)[:, ::2]
    write_arrays(tmp_path / "a", MAGIC, HEADER, {"a": array})
    read = open_arrays(tmp_path / "a", MAGIC)[1]["a"]
    assert read.dtype.str == "<u4"
    assert np.array_equal(read, array)


def test_a_file_cut_off_anywhere_is_refused(path):
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="build it again"):
            open_arrays(path, MAGIC)
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError, match="damaged"):
        open_arrays(path, MAGIC)


def test_other_files_are_refused(path, tmp_path):
    with pytest.raises(UserError, match="not a file of kind MQOTHERS"):
        open_arrays(path, b"MQOTHERS")
    with pytest.raises(UserError, match="of format 1, this Maquette reads format 2"):
        open_arrays(path, MAGIC, 2)
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="is not there"):
            open_arrays(place, MAGIC)
    header, _ = open_arrays(path, MAGIC)
    check_corpus(path, header, "c0ffee", "maquette x")
    with pytest.raises(UserError, match="another corpus: build it again with maquette x"):
        check_corpus(path, header, "decaf", "maquette x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"offset": 128', b'"offset": 512'),
        (b'"offset": 128', b'"offset": -64'),
        (b'"offset": 128', b'"offset": 1e2'),
        (b'"shape": [9]', b'"shape": [7e'),
        (b'"shape": [9]', b'"shape": 999'),
        (b'"shape": [3, 4]', b'"shape": [3,99]'),
        (b'"shape": [3, 4]', b'"shape": [-3,4]'),
        (b'"dtype": "<u8"', b'"dtype": "|O8"'),
        (b'"corpus": "c0ffee"', b'"corpus": 12345678'),
    ],
)
def test_a_header_that_points_outside_is_refused(path, old, new):
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    with pytest.raises(UserError, match="damaged"):
        open_arrays(path, MAGIC)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write_arrays(path, MAGIC, HEADER, {"words": np.zeros(1000)})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
