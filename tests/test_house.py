"""The house: imports go downwards, the README's commands run, its tables are generated."""

import ast
import re
import shlex
import subprocess
import sys
from functools import partial

import pytest
from conftest import ROOT, command


def test_no_two_files_import_each_other():
    """Not in a circle of any length, nor inside functions."""
    import grimp

    graph = grimp.build_graph("maquette")
    left = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    while free := {m for m, imported in left.items() if not imported & left.keys()}:
        left = {m: imported for m, imported in left.items() if m not in free}
    assert not left, f"a circle among {sorted(left)}"


def test_imports_go_downwards():
    out = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout


def readme_commands() -> list[str]:
    """Every `maquette ...` line of the README's console blocks marked as tested."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if line.startswith("maquette ")]


def test_the_readme_has_commands():
    named = {line.split()[1] for line in readme_commands()}
    assert {
        "demo",
        "corpus",
        "plan",
        "train",
        "generate",
        "eval",
        "runs",
        "export",
        "systems",
    } <= named


@pytest.mark.slow
@pytest.mark.timeout(1800)  # dozens of commands, one after the other
def test_the_readmes_commands_run_in_order(tmp_path, monkeypatch):
    """As printed, in one folder, at toy size: minutes and tokens are cut, nothing else."""
    from maquette.corpus.text import named as corpora
    from maquette.corpus.text.local import Local
    from maquette.workshop import evaluate_pictures
    from maquette.workshop.oracle import oracle_for

    monkeypatch.setitem(corpora.BUILT, "default", (Local(limit=200_000), 600))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Documents").mkdir()
    for i in range(40):
        (tmp_path / "Documents" / f"{i}.txt").write_text(
            f"Document {i} says something. " * 150, encoding="utf-8"
        )
    (tmp_path / "Documents" / "notes.txt").write_text(
        "Some notes of a day in the woods. " * 40, encoding="utf-8"
    )
    (tmp_path / "questions.jsonl").write_text(
        "".join(f'{{"prompt": "{n} + 1 = ", "answer": {n + 1}}}\n' for n in range(60)),
        encoding="utf-8",
    )
    (tmp_path / "README.md").write_text(
        (ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    for line in readme_commands():
        words = shlex.split(line.split("  #")[0])[1:]
        words = [w.replace("~", str(tmp_path)) for w in words]
        if words[0] == "demo":
            words = [
                *(w for w in words if w != "--minutes" and not w.isdigit()),
                "--minutes",
                "0.05",
            ]
        if words[0] == "corpus" and "--vocabulary" in words:
            words[words.index("--vocabulary") + 1] = "300"
        if words[:2] == ["plan", "ladder"]:
            toy_ladder(monkeypatch)
        if words[:2] == ["train", "diffusion"]:
            words[words.index("--steps") + 1] = "2"
            words += ["--batch", "4", "--watch.every", "2", "--watch.steps", "2"]
        if words[:2] == ["train", "tiny"] and "runs/years" in words:
            words[words.index("--steps") + 1] = "10"
        if words[:3] == ["eval", "runs/years", "order_of_years"]:
            words += ["--limit", "30"]
        if words[0] == "eval" and "--pictures" in words:
            monkeypatch.setattr(evaluate_pictures, "oracle_for", partial(oracle_for, quick=True))
        if words[0] == "reproduce":
            words += ["--quick", "--seeds", "1"]
        said = command(*words)
        assert said.code == 0, f"{line}\n{said.err}"


def toy_ladder(monkeypatch):
    """Three budgets of a few steps in place of ten minutes."""
    from maquette.scaling import rungs

    for name, value in {"PLANS": ((3, 1),), "LEAST": 4, "WARMUP": 4, "LARGER": 2.0}.items():
        monkeypatch.setattr(rungs, name, value)
    monkeypatch.setattr(rungs, "tokens_a_parameter", lambda vocabulary: 0.3)


def test_the_readmes_catalogue_is_what_the_code_says():
    from maquette.experiments.gallery import catalogue_table
    from maquette.experiments.results import results

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert catalogue_table(results(ROOT / "claims")) in text, "run make docs"


@pytest.mark.parametrize("path", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(path):
    page = ROOT / "docs" / path
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


NAMED_BY_THE_USER = {"endpoint.py"}  # an address that `adapt black-box --endpoint` names


def test_no_pickle_is_loaded_and_no_network_is_used():
    """Neither the modules nor the calls that would do it are in the package, but for what a user names."""
    modules = {
        "pickle",
        "dill",
        "joblib",
        "urllib",
        "requests",
        "http",
        "httpx",
        "aiohttp",
        "ftplib",
    }
    calls = {"eval", "exec", "torch.load", "np.load", "numpy.load"}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named: set[str] = set()
            if isinstance(node, ast.Import):
                named = {alias.name.partition(".")[0] for alias in node.names} & modules
            elif isinstance(node, ast.ImportFrom):
                named = {(node.module or "").partition(".")[0]} & modules
            elif isinstance(node, ast.Call):
                named = {ast.unparse(node.func)} & calls
            if path.name in NAMED_BY_THE_USER:
                named -= {"urllib", "http"}
            assert not named, f"{path.name}:{node.lineno}: {named}"


def test_what_opens_text_says_its_encoding():
    """The lint (PLW1514) sees only paths whose type is plain to it; here are the rest by name."""
    own = {"os", "Image", "tarfile"}  # whose `open` opens no text
    unsaid = []
    for top in ("src", "tests", "docs", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                named = {word.arg: word.value for word in node.keywords}
                method = isinstance(node.func, ast.Attribute)
                name = node.func.attr if method else getattr(node.func, "id", "")
                if "encoding" in named or None in named:
                    continue
                if name in ("read_text", "write_text"):
                    text = len(node.args) < 1 + (name == "write_text")
                elif name == "open":
                    owner = ast.unparse(node.func.value) if method else ""
                    modes = [*node.args[not method :], named.get("mode", ast.Constant("r"))]
                    mode = modes[0].value if isinstance(modes[0], ast.Constant) else "b"
                    text = owner.partition(".")[0] not in own and "b" not in mode
                else:
                    text = (
                        isinstance(named.get("text"), ast.Constant) and named["text"].value is True
                    )
                if text:
                    unsaid.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert unsaid == []
