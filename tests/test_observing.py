"""What is seen of a run: trackers, samples, the report, and the line while it goes on."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import command

from maquette.base.errors import UserError
from maquette.cli.terminal import Terminal, TrainingProgress
from maquette.training import tracking
from maquette.training.run import RunDirectory
from maquette.workshop.report import write_report
from maquette.workshop.train import train


def test_tensorboard_gets_every_step(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    train(replace(recipe, trackers=("tensorboard",)), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    steps = RunDirectory(tmp_path / "run").records()
    assert [e.step for e in events.Scalars("loss")] == [r["step"] for r in steps]
    for event, record in zip(events.Scalars("loss"), steps, strict=True):
        assert event.value == pytest.approx(record["loss"], rel=1e-6)


def test_wandb_works_offline(recipe, tmp_path):
    pytest.importorskip("wandb")
    train(replace(recipe, trackers=("wandb",)), tmp_path / "run")
    (data,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert data.stat().st_size > 1000


def test_a_tracker_that_is_not_installed_says_what_to_install(recipe, tmp_path, monkeypatch):
    def need(module, extra):
        raise UserError(f"{module} is not installed: run pip install 'maquette[{extra}]'")

    monkeypatch.setattr(tracking, "need", need)
    with pytest.raises(
        UserError, match=r"wandb is not installed: run pip install 'maquette\[wandb\]'"
    ):
        train(replace(recipe, trackers=("wandb",)), tmp_path / "run")


def test_the_report_is_whole_and_needs_no_network(trained):
    page = write_report(trained).read_text(encoding="utf-8")
    for heading in ("Loss", "Samples", "Corpus", "Cost", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(http[^"> ]*)', page)
    assert outside == []
    assert 'vegaEmbed("#loss"' in page
    assert "stories" in page
    for name in ("loss", "health"):
        assert (trained / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_sample_says_cannot_break_the_page(trained):
    (trained / "samples" / "step-00000012.txt").write_text(
        "</pre><script>alert(1)</script>", encoding="utf-8"
    )
    page = write_report(trained).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_samples_are_written_at_every_look(trained):
    assert [p.name for p in sorted((trained / "samples").iterdir())] == [
        "step-00000006.txt",
        "step-00000012.txt",
    ]


def test_the_line_while_it_goes_on(recipe, tmp_path, monkeypatch):
    """On a terminal a line that moves; elsewhere one for each look."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", live := Tty())
    terminal = Terminal(as_json=True)
    train(recipe, tmp_path / "live", observer=TrainingProgress(terminal))
    assert live.getvalue().count("\r") >= 12
    parts = (r"step 12/12", r"loss \d\.\d+", r"[\d,]+ tokens/s", r"\d+ % of peak", r"[\d.]+ GiB")
    assert re.search("  ".join((*parts, "0:00 left", "held out")), live.getvalue())
    monkeypatch.undo()
    recipe.save(tmp_path / "r.yaml")
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "plain")
    assert said.out.count("step ") == 2
    assert "\r" not in said.out + said.err


def test_a_finished_training_has_a_report(recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--json")
    assert Path(said.json["report"]) == tmp_path / "run" / "report.html"
    assert (tmp_path / "run" / "report.html").exists()


def test_the_line_moves_though_bars_came_before_it(recipe, tmp_path, monkeypatch):
    """The bars of a build redirect what is printed: they end before the line begins."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", live := Tty())
    terminal = Terminal(as_json=True)
    with terminal.stages() as progress:
        progress("reading", 5, 10)
        train(recipe, tmp_path / "run", observer=TrainingProgress(terminal))
    after = live.getvalue()[live.getvalue().index("step 1/12") :]
    assert after.count("\r\x1b[Kstep ") == 11
    assert after.count("\n") == 2  # one for each look
