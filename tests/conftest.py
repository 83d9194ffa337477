"""Tiny models and corpora in milliseconds, a home of their own, ranks, and the command line."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Workers share the cores: more threads than cores wait for each other, ten times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # they inherit what the process that started them has set
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, however slow the machine is just now: no test fails by chance.
settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")
signal.signal(signal.SIGINT, signal.default_int_handler)  # or children inherit a shell's "ignore"
ROOT = Path(__file__).parents[1]
WORDS = """the cat sat on a mat and saw one red bird in its tall tree by the old stone wall
def return if else for while import class self x y z 0 1 2 3""".split()


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that Maquette caches goes into a folder that the tests own."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("MAQUETTE_HOME")
    os.environ["MAQUETTE_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["MAQUETTE_HOME"]
    else:
        os.environ["MAQUETTE_HOME"] = before


def some_text(seed: int, words: int) -> str:
    """Sentences of a small vocabulary, different for every seed."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + ".\n"


@dataclass
class Texts:
    """A source of made-up documents in two components."""

    documents: int = 60
    words: int = 120

    def __iter__(self) -> Iterator[Any]:
        from maquette.corpus.document import Document

        for i in range(self.documents):
            part = "code" if i % 3 == 2 else "stories"
            yield Document(some_text(i, self.words), part, f"made:{i}")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """About 30 kB of made-up text as bytes, a fifth of it held out."""
    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions

    folder = tmp_path_factory.mktemp("corpora") / "made"
    return build(folder, Texts(), BuildOptions(vocabulary=257, heldout=0.2))


@pytest.fixture
def recipe(corpus: Any) -> Any:
    """A recipe that takes a step in about 5 ms."""
    from maquette.models.config import DecoderConfig
    from maquette.nn.rules import Parametrisation
    from maquette.training.datasets.text_config import TextData, TextWatch
    from maquette.training.recipe import Checkpoints, LanguageRecipe, Optimiser

    return LanguageRecipe(
        name="test",
        model=DecoderConfig(
            vocabulary=257,
            context=32,
            width=32,
            depth=2,
            heads=2,
            parametrisation=Parametrisation(base_width=32, base_depth=2),
        ),
        data=TextData(corpus=str(corpus.path), sequence=32),
        optimiser=Optimiser(learning_rate=0.01),
        checkpoints=Checkpoints(every=4),
        watch=TextWatch(every=6, tokens=512, sample_tokens=4),
        precision="fp32",
        compile="off",
        batch=4,
        steps=12,
    )


@pytest.fixture
def trained(recipe: Any, tmp_path: Path) -> Path:
    """A finished run of twelve steps."""
    from maquette.workshop.train import train

    train(recipe, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def shared_run(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of twelve steps that tests share: none may change it."""
    from maquette.workshop.train import train

    path = tmp_path_factory.getbasetemp() / "shared-run"
    if not path.exists():
        train(recipe, path)
    return path


@dataclass
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line."""
        result: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return result


def command(*words: str | Path) -> Said:
    """Run a command line in this process."""
    from maquette.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Said(code, out.getvalue(), err.getvalue())


def refused(said: Said, *parts: str, code: int | None = None) -> None:
    """Assert that a command ended in one clear line that holds every part, and no traceback."""
    lines = [line for line in said.err.strip().splitlines() if line.startswith("maquette: ")]
    assert said.code == code if code is not None else said.code in (1, 2), said
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in lines[0], lines[0]


def process(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "maquette", *map(str, words)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def amid_imports(process: subprocess.Popen[str]) -> None:
    """Wait until the process has begun to import torch, which takes it a second."""
    while process.poll() is None and "libtorch" not in _mapped(process.pid):
        time.sleep(0.005)


def _mapped(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""


def same_steps(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    """Assert that two runs took the same steps, bit for bit; only the timings may differ."""
    timings = {"seconds", "tokens_per_second", "flops_utilisation", "memory"}

    def kept(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k not in timings} for r in records]

    assert kept(a) == kept(b)


class Poison:
    """Makes chosen calls of a decoder's training loss bad, by the number of the call from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bad: dict[int, float]) -> None:
        from maquette.models.base import Loss
        from maquette.models.decoder import Decoder

        self.calls, self.bad = 0, bad
        original = Decoder.loss

        def loss(model: Any, batch: Any, z_loss: float = 0.0) -> Any:
            result = original(model, batch, z_loss)
            if not model.training:
                return result
            self.calls += 1
            factor = self.bad.get(self.calls, 1.0)
            return Loss(result.total * factor, result.value * factor, result.count)

        monkeypatch.setattr(Decoder, "loss", loss)


def in_ranks(function: Callable[..., None], ranks: int, *arguments: Any) -> None:
    """Run `function(group, *arguments)` in `ranks` processes joined over gloo; all must succeed."""
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (function, ranks, Path(folder) / "meeting", arguments), nprocs=ranks)


def _rank(
    rank: int, function: Callable[..., None], ranks: int, meeting: Path, arguments: tuple[Any, ...]
) -> None:
    import torch

    from maquette.parallel.group import join
    from maquette.parallel.launch import environment

    torch.set_num_threads(1)
    os.environ |= environment(rank, ranks, meeting)
    with join() as group:
        function(group, *arguments)
    os._exit(0)  # as `cli.main.entry` does, for its reason
