"""A request for each way of making pictures: the command's bytes, one place of defaults, refusals."""

import argparse
import ast
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command
from picture_runs import small, untrained
from PIL import Image

from maquette.base.errors import WrongUse
from maquette.cli import evaluate, generate
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.drawing import AROUND, INVERSION, SOLVERS, UPSAMPLING, Drawing
from maquette.models.prior_config import PriorConfig
from maquette.serving import solvers
from maquette.serving.outpaint import Sides
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.picture_generation import make
from maquette.workshop.picture_output import sheet
from maquette.workshop.picture_request import (
    Draw,
    Enlarge,
    Extend,
    Fill,
    Options,
    Request,
    Upsample,
    Vary,
)

RED = "a red circle"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Untrained runs of every kind, and pictures."""
    folder = tmp_path_factory.mktemp("runs")

    def kept(name: str, model, **data) -> None:
        recipe = PictureRecipe(
            model=model, data=PictureData(image_size=model.image_size, caption_length=12, **data)
        )
        untrained(folder / name, recipe)

    sizes = {"width": 16, "depth": 1, "heads": 2, "vocabulary": 2048, "caption_length": 12}
    text = {"text_width": 16, "text_depth": 1, "text_heads": 2}
    larger = {"task": "upsample", "image_size": 32, "scale": 2, "multipliers": (1, 2, 2)}
    kept("text", small())
    kept("larger", small(condition="none", **larger))
    kept("clip", ClipConfig(image_size=16, embedding=8, **sizes, **text))
    encoder = {"encoder": str(folder / "clip")}
    kept("prior", PriorConfig(image_size=16, embedding=8, **sizes), **encoder)
    kept("decoder", small(embedding=8, condition="none"), **encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray((np.arange(16) >= 6).astype(np.uint8)[None].repeat(16, 0) * 255).save(
        folder / "m.png"
    )
    return folder


FEW = {"steps": 2, "seed": 7}
PICTURE, MASK = "--picture {}/a.png", "--mask {}/m.png"
WAYS = [
    ("text", "", lambda at: Draw(prompts=(RED,), drawing=Drawing(**FEW))),
    ("text", "--count 2 --guidance 5 --solver ddim", lambda at: Draw(
        prompts=(RED,), count=2, drawing=Drawing(solver="ddim", guidance=5.0, **FEW))),
    ("decoder", "--prior {}/prior", lambda at: Draw(
        prompts=(RED,), prior=f"{at}/prior", drawing=Drawing(**FEW))),
    ("text", "--upsample {}/larger", lambda at: Draw(
        prompts=(RED,), drawing=Drawing(**FEW),
        upsample=Upsample(run=f"{at}/larger", drawing=replace(UPSAMPLING, **FEW)))),
    ("text", f"{PICTURE} {MASK}", lambda at: Fill(
        prompts=(RED,), picture=at / "a.png", mask=at / "m.png", drawing=replace(AROUND, **FEW))),
    ("text", f"{PICTURE} --outpaint right=5 --outpaint top=3", lambda at: Extend(
        prompts=(RED,), picture=at / "a.png", sides=Sides(right=5, top=3),
        drawing=replace(AROUND, **FEW))),
    ("larger", PICTURE, lambda at: Enlarge(picture=at / "a.png", drawing=Drawing(**FEW))),
    ("decoder", "--variations-of {}/a.png --count 2", lambda at: Vary(
        picture=at / "a.png", count=2, drawing=replace(INVERSION, steps=4, seed=7))),
    ("decoder", "--variations-of {}/a.png --toward {}/m.png", lambda at: Vary(
        picture=at / "a.png", toward=at / "m.png", drawing=replace(INVERSION, steps=4, seed=7))),
]  # fmt: skip


@pytest.mark.parametrize(("run", "words", "request_at"), WAYS)
def test_a_request_gives_the_commands_bytes(runs, tmp_path, run, words, request_at):
    request, out = request_at(runs), tmp_path / "a.png"
    prompts = [p for p in request.prompts if p]
    options = words.replace("{}", str(runs)).split()
    said = command(
        "generate", runs / run, *prompts, *options, "--steps", 2, "--seed", 7, "--out", out
    )
    assert said.code == 0, said.err
    made = make(load_pictures(runs / run), request)
    assert out.read_bytes() == sheet(made.pixels, made.labels)


def asked(*words: str) -> Options:
    """The options as the command line reads them."""
    parser = argparse.ArgumentParser()
    generate.configure(parser)
    given = parser.parse_args(["run", *words])
    names = {f.name for f in fields(Options)} - {"prompts", "outpaint"}
    return Options(**{name: getattr(given, name) for name in names})


def test_what_is_not_said_is_drawn_as_drawing_says():
    assert asked().request().drawing == Options().request().drawing == Drawing() == Draw().drawing
    around = Options(picture="a.png", mask="m.png").request()
    assert isinstance(around, Fill) and around.drawing == AROUND
    assert Options(picture="a.png", outpaint={"left": 4}).request().drawing == AROUND
    assert Options(variations_of="a.png").request().drawing == INVERSION
    assert Options(upsample="r").request().upsample.drawing == UPSAMPLING
    watch = PictureWatch()
    assert (watch.steps, watch.guidance) == (Drawing.steps, Drawing.guidance)
    parser = argparse.ArgumentParser()
    evaluate.configure(parser)
    given = parser.parse_args(["run"])
    assert given.steps is given.guidance is None


def test_no_second_place_names_a_default_of_sampling():
    """No parameter and no field that is called as a field of Drawing has a number or a name of its own."""
    names = {f.name for f in fields(Drawing)} - {"seed"}
    source = ROOT / "src" / "maquette"
    files = [*(source / "serving").glob("*.py"), *(source / "models" / "diffusion").glob("*.py"),
             *source.glob("*/*picture*.py"), source / "cli" / "evaluate.py"]  # fmt: skip
    assert len(files) > 30
    found = []
    for path in sorted(set(files) - {source / "models" / "diffusion" / "drawing.py"}):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found += [f"{path.name}: {name}" for name in named(node, names)]
    assert found == ["model.py: guidance"], "a denoiser without guidance is the plain one"


def named(node: ast.AST, names: set[str]) -> list[str]:
    """Those of the names that get a constant at a node: a default of a function or a field."""
    pairs: list[tuple[str, ast.expr | None]] = []
    if isinstance(node, ast.FunctionDef):
        a = node.args
        plain = [*a.posonlyargs, *a.args]
        pairs += zip(
            [x.arg for x in plain[len(plain) - len(a.defaults) :]], a.defaults, strict=True
        )
        pairs += zip([x.arg for x in a.kwonlyargs], a.kw_defaults, strict=True)
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        pairs.append((node.target.id, node.value))
    if isinstance(node, ast.Dict):
        keys = (k.value for k in node.keys if isinstance(k, ast.Constant))
        pairs += zip(map(str, keys), node.values, strict=False)
    return [
        n for n, v in pairs if n in names and isinstance(v, ast.Constant) and v.value is not None
    ]


def test_solvers_are_those_that_a_drawing_may_name():
    assert set(SOLVERS) == set(solvers.SOLVERS) == set(solvers.EVALUATIONS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"variations_of": "a", "prompts": (RED,)}, "a prompt does nothing with --variations-of"),
        ({"variations_of": "a", "guidance": 2.0}, "--guidance does nothing with --variations-of"),
        ({"variations_of": "a", "solver": "heun"}, "--solver does nothing with --variations-of"),
        ({"variations_of": "a", "picture": "b"}, "--picture does nothing with --variations-of"),
        ({"picture": "a", "mask": "b", "prior": "c"}, "--prior does nothing with --mask"),
        ({"picture": "a", "outpaint": {"up": 3}}, "use left, right, top or bottom"),
        ({"picture": "a", "outpaint": {"left": 0}}, "--outpaint left=0"),
        ({"toward": "a"}, "name it by --variations-of"),
        ({"steps": 0}, "steps is 0: use at least 1"),
        ({"solver": "magic"}, "unknown solver magic"),
    ],
)
def test_options_that_do_not_go_together_are_no_request(options, part):
    with pytest.raises(WrongUse, match=part):
        Options(**options).request()


def test_an_upsamplers_solver_and_steps_are_the_ones_asked_for():
    request = Options(variations_of="a", upsample="r", solver="heun", steps=3, seed=5).request()
    assert request.upsample.drawing == replace(UPSAMPLING, solver="heun", steps=3, seed=5)
    assert request.drawing == replace(INVERSION, steps=6, seed=5)
    assert isinstance(request, Request)
