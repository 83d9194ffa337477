"""The command line's contract: light, helpful, one line for every mistake, JSON at the end."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest
from conftest import command, refused

from maquette.cli.main import COMMANDS
from maquette.cli.terminal import amount, clock

NAMES = ["-m", "maquette"]


def loaded_modules(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return set(out.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import maquette",
        "from maquette.cli.main import main; main(['--help'])",
        *(f"from maquette.cli.main import main\ntry: main(['{c}', '--help'])\nexcept SystemExit: pass"
          for c in COMMANDS),
    ],
)  # fmt: skip
def test_help_and_import_need_nothing_heavy(code):
    loaded = loaded_modules(code)
    assert not loaded & {
        "torch",
        "numpy",
        "pyarrow",
        "tokenizers",
        "altair",
        "rich",
        "tyro",
        "pydantic",
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        from maquette.cli.main import main

        main([name, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"example: maquette {name}" in said
    assert "--json" in said


def test_the_overview_names_every_command():
    said = command("--help")
    assert said.code == 0
    assert all(f"  {name}" in said.out for name in COMMANDS)
    assert command().code == 2
    assert command("--version").out.startswith("maquette ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command trian: did you mean 'train'?"),
        (["plan", "--flopz", "1"], "unrecognized arguments: --flopz: see maquette plan --help"),
        (["generate"], "the following arguments are required: run"),
        (["generate", "nowhere", "x"], "nowhere does not exist: name a run directory"),
        (["eval", "."], "holds no model (no config.json)"),
        (["export", "onnx", "a", "b"], "invalid choice: 'onnx'"),
        (["runs", "nowhere"], "nowhere is not a run (no recipe.yaml)"),
        (["corpus", "show", "nowhere"], "there is no corpus nowhere"),
        (["corpus", "shw"], "invalid choice: 'shw'"),
        (["systems", "gtp2"], "unknown system gtp2: did you mean 'gpt2'?"),
        (["reproduce", "gpt2.nothing"], "unknown claim gpt2.nothing"),
        (["reproduce", "tiny"], "tiny makes no claims"),
        (["demo", "--minutes", "0"], "minutes is 0"),
        (["demo", "nowhere"], "nowhere does not exist: name a file or a folder with text"),
    ],
)
def test_mistakes_are_one_line_with_the_mend(words, message):
    refused(command(*words), message)


def test_a_closed_pipe_is_no_error():
    out = subprocess.run(
        f"{sys.executable} -m maquette --help | head -1",
        shell=True,
        capture_output=True,
        check=True,
    )
    assert out.stderr == b""


def test_words_and_the_object_do_not_mix(trained):
    said = command("runs", trained, "--json")
    assert said.out.count("\n") == 1  # the object alone; words go to standard error
    assert said.json["runs"][0]["state"] == "finished"
    assert "finished" in said.err


def test_doctor_measures_this_machine():
    said = command("doctor", "--json")
    assert said.code == 0
    found = said.json
    assert found["fp32_flops"] > 1e9
    assert found["bandwidth"] > 1e8
    assert found["cores"] >= 1
    assert found["bf16"] == (found["bf16_flops"] >= 1.3 * found["fp32_flops"])
    assert command("doctor", "--json").json["fp32_flops"] == found["fp32_flops"]  # kept


def test_runs_are_listed_and_compared(trained, recipe, tmp_path, monkeypatch):
    from dataclasses import replace

    from maquette.workshop.train import train

    train(replace(recipe, seed=1), tmp_path / "runs" / "other")
    said = command("runs", trained, tmp_path / "runs" / "other", "--json")
    assert said.json["differences"] == {"seed": [0, 1]}
    assert [r["step"] for r in said.json["runs"]] == [12, 12]
    monkeypatch.chdir(tmp_path)
    assert [r["run"] for r in command("runs", "--json").json["runs"]] == ["runs/other"]
    monkeypatch.chdir(trained)
    assert command("runs", "--json").json["runs"] == []


def test_amounts_and_times_read_well():
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    assert [amount(x, "B/s") for x in (12, 5.2e4, 3.4e9)] == ["12 B/s", "52 kB/s", "3.4 GB/s"]


def test_train_from_the_command_line(tmp_path):
    said = command(
        "train", "tiny", "--run", tmp_path / "run", "--steps", "6", "--seed", "3", "--json"
    )
    assert said.code == 0, said.err
    assert {
        "run",
        "step",
        "tokens",
        "loss",
        "tokens_per_second",
        "flops_utilisation",
    } <= said.json.keys()
    assert said.json["step"] == 6
    assert "held out" in said.err
    again = command("train", "tiny", "--run", tmp_path / "run", "--resume", "--json")
    assert again.code == 0, again.err
    refused(command("train", "tiny", "--run", tmp_path / "run"), "exists", code=2)
    listed = command("train", "tiny", "--fields")
    assert "--model.width" in listed.out
    assert "width of the residual stream" in listed.out


def test_a_run_that_cannot_be_read_does_not_hide_the_others(trained, tmp_path, monkeypatch):
    (tmp_path / "runs" / "bad").mkdir(parents=True)
    (tmp_path / "runs" / "bad" / "recipe.yaml").write_text("format: 99", encoding="utf-8")
    (tmp_path / "runs" / "good").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    said = command("runs", "--json")
    assert said.code == 0, said.err
    assert [r["state"].partition(":")[0] for r in said.json["runs"]] == ["unreadable", "finished"]


def test_fields_that_come_without_a_recipe_are_fields(trained):
    said = command("train", "--resume", "--run", trained, "--steps", "14", "--json")
    assert said.code == 0, said.err
    assert said.json["step"] == 14


def test_an_interrupt_amid_the_line_about_another_leaves_no_traceback():
    program = (
        "import sys\nfrom maquette.cli import main\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "main._main = main._complain = interrupted\nmain.entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path):
    """A library that would swallow it does not see it; a second one does not wait."""
    (tmp_path / "swallows.py").write_text(
        "import sys, time\nprint('importing', flush=True)\n"
        "try:\n    time.sleep(float(sys.argv[1]))\n"
        "except KeyboardInterrupt:\n    print('swallowed', flush=True)\nprint('imported', flush=True)\n",
        encoding="utf-8",
    )
    program = (
        "from maquette.cli import interrupts\n"
        "try:\n    with interrupts.heard():\n        import swallows\n        while True: pass\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    )

    def importing(seconds: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", program, str(seconds)]
        started = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert started.stdout is not None
        assert started.stdout.readline() == "importing\n"
        return started

    once = importing(0.5)
    once.send_signal(signal.SIGINT)
    assert once.communicate()[0] == "imported\ninterrupted\n"
    twice = importing(600)
    while not select.select([twice.stdout], [], [], 0.3)[0]:  # two at the same time may be one
        twice.send_signal(signal.SIGINT)
    assert twice.stdout.readline() == "swallowed\n"
    twice.kill()
    twice.communicate()


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SOME_TEXT = "Łódź, naïveté — “größer” 中文 🙂 and so on.\n"


def test_the_locale_changes_no_number(trained, tmp_path):
    folder = tmp_path / "größer"
    folder.mkdir()
    for i in range(9):
        (folder / f"é{i}.txt").write_text(f"{i} " + SOME_TEXT * (i + 2), encoding="utf-8")
    (tmp_path / "m.yaml").write_text(
        "components:\n- name: größer\n  sources: [größer]\n", encoding="utf-8"
    )
    (tmp_path / "t.jsonl").write_text(f'{{"text": "{SOME_TEXT[:-1]}"}}\n', encoding="utf-8")
    program = (
        "from maquette.cli.main import main\n"
        "words = ['corpus', 'build', 'out', '--mixture', 'm.yaml', '--vocabulary', '300', '--replace']\n"
        "assert main([*words, '--near', 'off', '--no-portrait', '--json']) == 0\n"
        "assert main(['corpus', 'show', 'out', '--json']) == 0\n"
        "assert main(['corpus', 'show', 'out']) == 0\n"
        f"assert main(['eval', {str(trained)!r}, '--text', 'm.yaml', '--json']) == 0\n"
        f"assert main(['eval', {str(trained)!r}, 't.jsonl', '--json']) == 0\n"
    )
    said = []
    for environment in ({"PYTHONUTF8": "1"}, ASCII):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr.decode()
        results = [json.loads(x) for x in ran.stdout.splitlines() if x.startswith(b"{")]
        for result in results:
            for timing in ("seconds", "stages", "tokens_per_second"):
                result.pop(timing, None)
        said.append((results, ran.stdout))
    (known, shown), (again, replaced) = said
    assert len(known) == 4
    assert known == again
    assert "größer".encode() in shown and b"gr??er" in replaced


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_replaced(encoding, tmp_path):
    path = tmp_path / "łódź\udcff.txt"
    ran = subprocess.run(
        [sys.executable, "-m", "maquette", "corpus", "build", tmp_path / "out", path],
        env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith(b"maquette: ") and ran.stderr.count(b"\n") == 1
    shown = {"ascii": "??d??.txt", "latin-1": "?ód??.txt", "utf-8": "łódź?.txt"}[encoding]
    assert shown.encode(encoding) in ran.stderr


def test_an_error_that_a_library_makes_of_an_interrupt_is_one(monkeypatch):
    """As code in Rust does where Python raises KeyboardInterrupt beneath it."""

    def run(arguments):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 10)
        except KeyboardInterrupt:
            raise TypeError("UntypedStorage") from None

    monkeypatch.setattr("maquette.cli.doctor.run", run)
    refused(command("doctor"), "interrupted: nothing half-written is left", code=1)
