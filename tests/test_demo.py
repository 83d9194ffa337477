"""The main job, end to end, on a folder of one's own and on the default corpus, in seconds."""

import json
import shutil
import signal

import pytest
from conftest import amid_imports, command, process, refused, some_text

from maquette.base.files import home
from maquette.base.machine import measure
from maquette.training.run import RunDirectory


@pytest.fixture
def small_default(monkeypatch):
    """The default corpus cut to 200 kB a component, so that the test takes seconds."""
    from maquette.corpus.text import named as corpora
    from maquette.corpus.text.local import Local

    monkeypatch.setitem(corpora.BUILT, "default", (Local(limit=200_000), 600))


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(some_text(i, 700), encoding="utf-8")
    return folder


PROMISED = {"run", "report", "loss_first", "loss_last", "bits_per_byte", "seconds"}


def test_the_demo_on_this_machines_text(small_default, tmp_path):
    said = command("demo", "--minutes", "0.05", "--run", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    assert said.json.keys() >= PROMISED
    assert said.json["loss_last"] < said.json["loss_first"]
    assert set(said.json["compressors"]) == {"zstd -19", "xz -9e"}
    assert said.json["components"].keys() >= {"prose", "all"}  # the others may hold out nothing
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for heading in ("Prediction and outcome", "Held-out text", "Beside the compressors"):
        assert heading in page
    assert f"{said.json['bits_per_byte']:.3f} bits per byte" in page
    assert said.err.count("sample: ") == 3
    assert "report: " in said.err
    commands = [line for line in said.err.splitlines() if line.startswith("  maquette ")]
    assert len(commands) == 4
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["scores"]["all"]["bits_per_byte"] == said.json["bits_per_byte"]


@pytest.mark.parametrize(
    ("paces", "found", "asked"),
    [([2.0, 0.1, 0.09, 0.01], 0.09, 3), ([0.1, 0.11], 0.1, 2), ([8.0, 4.0, 2.0, 1.0, 0.1], 1.0, 4)],
)
def test_a_moment_of_load_is_not_the_pace(paces, found, asked):
    from maquette.workshop.demo_plan import settled

    left = iter(paces)
    assert settled(lambda: next(left), pause=0) == found
    assert len(list(left)) == len(paces) - asked


def test_the_demo_on_a_folder(documents, tmp_path):
    words = ("demo", documents, "--minutes", "0.05", "--json")
    said = command(*words, "--run", tmp_path / "a")
    assert said.code == 0, said.err
    assert said.json["components"].keys() == {"prose", "all"}
    again = command(*words, "--run", tmp_path / "b")  # the corpus is there already
    assert again.code == 0, again.err
    assert again.json["seconds"] > 0
    (documents / "new.txt").write_text(some_text(99, 700), encoding="utf-8")
    changed = command(*words, "--run", tmp_path / "c")  # and is built anew when the files change
    assert "61 documents" in changed.err


def test_a_folder_with_too_little_text_is_refused(tmp_path):
    (tmp_path / "few").mkdir()
    for i in range(30):
        (tmp_path / "few" / f"{i}.txt").write_text(some_text(i, 90), encoding="utf-8")
    refused(
        command("demo", tmp_path / "few", "--run", tmp_path / "run"), "a demo needs 100,000", code=1
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "after", ["imports", "corpus: ", "plan: measuring", "plan: forecast", "step ", "evaluation: "]
)
def test_ctrl_c_in_every_phase(after, documents, tmp_path):
    """One line, exit code 1, nothing half-written; training has saved and goes on."""
    run = tmp_path / "run"
    measure.cache_clear()  # an earlier test may have measured in a home of its own
    measure()
    (tmp_path / "home").mkdir()
    shutil.copy(
        home() / "machine.json", tmp_path / "home"
    )  # or each would measure the machine anew
    demo = process(
        "demo", documents, "--minutes", "0.1", "--run", run,
        MAQUETTE_HOME=str(tmp_path / "home"), PYTHONUNBUFFERED="1",
    )  # fmt: skip
    assert demo.stdout is not None
    if after == "imports":
        amid_imports(demo)
    else:
        for line in demo.stdout:
            if line.startswith(after):
                break
    demo.send_signal(signal.SIGINT)
    said, complaint = demo.communicate(timeout=300)
    assert demo.returncode == 1, (said, complaint)
    assert "Traceback" not in complaint
    (line,) = [line for line in complaint.splitlines() if line.startswith("maquette: ")]
    corpora = tmp_path / "home" / "corpora"
    left = [p.name for p in corpora.iterdir()] if corpora.exists() else []
    assert all(n.startswith("documents-") or n.endswith(".lock") for n in left), left
    if "go on with" in line:
        words = line.split("go on with maquette ")[1].split()
        assert command(*words).code == 0
        assert RunDirectory(run).finished
        page = (run / "report.html").read_text(encoding="utf-8")
        for heading in (
            "Prediction and outcome",
            "Beside the compressors",
        ):  # the demo's own report
            assert heading in page
        plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
        (planned,) = [r["planned"] for r in plan["compared"] if r["name"] == "training time"]
        assert planned == "6 s"  # as it was asked for
    else:
        assert "interrupted" in line
