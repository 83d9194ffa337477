"""Picture runs go through the ordinary trainer: resumed, spread, averaged, begun from one another."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command, refused
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.pictures.store import TOKENIZER, PictureCorpus
from maquette.corpus.tokenizer import byte_tokenizer, save_tokenizer
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.drawing import Drawing
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.models.store import WEIGHTS, load_tensors, save_config, save_tensors
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.training.average import Average
from maquette.training.cost import measure_cost
from maquette.training.datasets.encoder import caption_tokens, encoder_of
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.datasets.pictures import (
    PictureDataset,
    Reader,
    check_pictures,
    cut_captions,
    to_pixels,
    to_tensor,
)
from maquette.training.heldout import derived_seed, seed
from maquette.training.initial_model import begin_with, make_model
from maquette.training.parameter_groups import freeze, only
from maquette.training.recipe import Checkpoints, Optimiser, load_recipe
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import pictures_of
from maquette.training.run_setup import create, resume
from maquette.workshop import evaluate_pictures as evaluate_pictures_module
from maquette.workshop import picture_generation
from maquette.workshop.evaluate_pictures import evaluate_pictures, rows
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.workshop.picture_request import Options
from maquette.workshop.report import write_report
from maquette.workshop.train import train

MODEL = DiffusionConfig(
    image_size=16, width=8, multipliers=(1, 2), attention=(), heads=2, condition="text",
    vocabulary=512, caption_length=12, text_width=8, text_depth=1, text_heads=2,
)  # fmt: skip
TOY = PictureRecipe(
    name="toy",
    steps=6,
    batch=4,
    precision="fp32",
    model=MODEL,
    data=PictureData(image_size=16, caption_length=12),
    optimiser=Optimiser(learning_rate=0.002, average=0.9),
    checkpoints=Checkpoints(every=2),
    watch=PictureWatch(every=3, pictures=8, grid=4, steps=2),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "toy"
    train(TOY, path)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(path / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_resumed_run_is_the_uninterrupted_one(toy, tmp_path):
    """Weights, their average, moments, data and noise all go on where they were."""
    path = tmp_path / "cut"
    train(replace(TOY, stop=3), path)
    assert not same(toy, path)
    train(replace(TOY, stop=None), path, resume=True)
    assert same(toy, path)


def test_a_killed_run_goes_on_bit_for_bit(toy, tmp_path):
    path = tmp_path / "killed"
    TOY.save(tmp_path / "toy.yaml")
    kill = (
        "import os, signal, sys; from pathlib import Path\n"
        "from maquette.training import checkpoint\n"
        "from maquette.training.recipe import load_recipe\n"
        "from maquette.workshop.train import train\n"
        "write, count = checkpoint.Saver._write, []\n"
        "def dying(self, *a):\n"
        "    count.append(1)\n"
        "    if len(count) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, *a)\n"
        "checkpoint.Saver._write = dying\n"
        f"train(load_recipe(Path({str(tmp_path / 'toy.yaml')!r})), Path({str(path)!r}))\n"
    )
    dead = subprocess.run([sys.executable, "-c", kill], capture_output=True, check=False)
    assert dead.returncode == -9
    assert RunDirectory(path).checkpoints.exists() and not RunDirectory(path).finished
    train(None, path, resume=True)
    assert same(toy, path)


def test_two_ranks_see_what_one_sees(tmp_path):
    """The batch of a step is the same set of pictures; noise differs by rank, and by step."""
    corpus = TOY.data.open_corpus()
    dataset = PictureDataset(TOY, corpus)
    whole = dataset.step(8)[0].pictures
    parts = [dataset.step(8, rank, 2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([part.pictures for part in parts]), whole)
    model = make_model(TOY)

    def noised(sample: int, rank: int) -> float:
        seed(derived_seed(0, sample, rank), torch.device("cpu"))
        return float(model.loss(parts[0]).value)

    assert noised(8, 0) == noised(8, 0)
    assert len({noised(8, 0), noised(8, 1), noised(12, 0), noised(12, 1)}) == 4
    recipe = replace(TOY, ranks=2, watch=replace(TOY.watch, grid=0))
    outcome = train(recipe, tmp_path / "two")
    assert outcome.finished and outcome.tokens == 24
    one = train(replace(recipe, ranks=1), tmp_path / "one")
    assert outcome.heldout_loss == pytest.approx(one.heldout_loss, rel=0.1)
    first, second = (RunDirectory(tmp_path / name).records()[0] for name in ("one", "two"))
    assert first["loss"] != second["loss"]  # other noise on the same pictures
    assert first["loss"] == pytest.approx(second["loss"], rel=0.5)


def test_an_average_is_a_model_beside_the_trained_one():
    """How it is taken: `test_step.py`."""
    model = torch.nn.Linear(3, 2)
    first = model.weight.detach().clone()
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight += 1
    average.update(1)  # decay min(0.5, 2 / 11)
    assert torch.allclose(average.model.weight, first + (1 - 2 / 11))
    assert torch.allclose(model.weight, first + 1)
    assert Average(model, 0.0).model is model


def test_a_finished_run_has_averaged_weights(toy):
    last = RunDirectory(toy).checkpoints / "step-00000006"
    kept, own = load_tensors(last / "average.safetensors"), load_tensors(last / "model.safetensors")
    final = weights(toy)
    assert all(torch.equal(final[n], kept[n]) for n in final)
    assert any(not torch.equal(final[n], own[n]) for n in final)


def test_a_run_begins_with_anothers_weights_and_grows(toy):
    """New input channels begin at zero, so that the larger model says what the smaller one says."""
    grown = replace(TOY, model=replace(MODEL, task="inpaint"), start=str(toy))
    model, base = make_model(grown), load_pictures(toy).model
    before, after = dict(base.named_parameters()), dict(model.named_parameters())
    wider = [n for n in before if before[n].shape != after[n].shape]
    assert len(wider) == 1
    name = wider[0]
    width = before[name].shape[1]
    assert torch.equal(after[name][:, :width], before[name])
    assert not after[name][:, width:].any()
    assert all(torch.equal(before[n], after[n]) for n in before if n != name)


def test_a_start_that_does_not_fit_is_refused(toy):
    other = replace(MODEL, width=16)
    with pytest.raises(UserError, match="belongs to another model"):
        begin_with(other.build().initialise(0), toy)
    with pytest.raises(UserError, match="no parameter in common"):
        begin_with(torch.nn.Linear(2, 2), toy)


def test_only_what_is_named_learns(toy, tmp_path):
    recipe = replace(
        TOY,
        start=str(toy),
        optimiser=replace(TOY.optimiser, average=0.0, groups=only("*.bias")),
    )
    train(recipe, tmp_path / "part")
    before, after = weights(toy), weights(tmp_path / "part")
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all(n.endswith(".bias") for n in changed)
    model = make_model(recipe)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learning == freeze(model, only("*.bias"))
    with pytest.raises(WrongUse, match="no parameter is called prompts"):
        freeze(model, only("prompts"))


def test_operations_are_torchs_count():
    """Of one matrix product forward there are two backward: of the input's and of the weights'."""

    class Map(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4, bias=False)

        def loss(self, x):
            from maquette.models.base import Loss

            total = self.b(self.a(x)).sum()
            return Loss(total, total, 5)

    cost = measure_cost(Map(), torch.randn(5, 8))
    assert cost.flops == 2 * 5 * (8 * 16 * 2 + 16 * 4 * 3)  # no gradient of the data
    assert cost.activations == 4 * 5 * (8 + 16)  # what both products read


def test_captions_end_in_zero_and_keep_their_tokens():
    tokenizer = TOY.data.open_corpus().tokenizer
    text = "a red circle left of a blue square"
    tokens = caption_tokens(tokenizer, [text, "", text * 9], 12)
    n = len(tokenizer.encode(text))
    assert n == len(text.split())  # a word is a token
    assert (tokens[0, :n] > 0).all() and (tokens[0, n:] == EOS_TOKEN_ID).all()
    assert (tokens[1] == EOS_TOKEN_ID).all()
    assert tokens[2, -1] == EOS_TOKEN_ID and (tokens[2, :-1] > 0).all()
    back = [s - (s <= tokenizer.eos_token_id) for s in tokens[0, :n].tolist()]
    assert tokenizer.decode(back) == text


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A CLIP of pictures of 16 that reads captions letter by letter, up to 10 of them."""
    folder = tmp_path_factory.mktemp("clips") / "foreign"
    config = ClipConfig(image_size=16, width=16, depth=1, heads=2, vocabulary=257, caption_length=10,
                        text_width=16, text_depth=1, text_heads=2, embedding=8)  # fmt: skip
    save_config(folder, config)
    save_tensors(folder / WEIGHTS, dict(config.build().initialise(1).named_parameters()))
    save_tokenizer(byte_tokenizer(), folder / TOKENIZER)
    return folder


def test_an_encoder_reads_captions_as_it_was_trained_to(foreign):
    """By its own tokenizer, in its own number of tokens, and not by the corpus'."""
    corpus = TOY.data.open_corpus()
    data = replace(TOY.data, encoder=str(foreign))
    clip, numbers = encoder_of(data), np.arange(3)
    batch = clip(
        Reader(corpus.tokenizer, data.caption_length, clip.reader).batch(
            corpus.split("train", 16), numbers
        )
    )
    texts = corpus.split("train", 16).captions(numbers)
    letters = torch.tensor([[byte + 1 for byte in t.encode()[:9]] + [EOS_TOKEN_ID] for t in texts])
    assert torch.equal(clip.token_ids(texts), letters)
    assert torch.equal(batch.text_embedding, clip.model.embed_captions(letters))
    assert torch.equal(batch.captions, caption_tokens(corpus.tokenizer, texts, data.caption_length))


def test_an_encoder_that_sees_another_size_is_refused_before_the_start(foreign, tmp_path):
    wide = replace(TOY, model=replace(MODEL, image_size=32),
                   data=replace(TOY.data, image_size=32, encoder=str(foreign)))  # fmt: skip
    with pytest.raises(
        WrongUse, match=r"sees pictures of 16 pixels, data.image_size is 32: use --data"
    ):
        train(wide, tmp_path / "wide")
    assert not (tmp_path / "wide" / "recipe.yaml").exists()


def test_a_run_goes_on_with_the_encoder_it_began_with_alone(foreign, tmp_path, monkeypatch):
    """Found from any folder, and known by its weights."""
    clip = tmp_path / "clip"
    shutil.copytree(foreign, clip)
    monkeypatch.chdir(tmp_path)
    recipe = replace(TOY, steps=2, data=replace(TOY.data, encoder="clip"))
    assert recipe.data.encoder == str(clip)
    run = RunDirectory("run")
    create(run, recipe, recipe.data.open_corpus())
    assert resume(run, recipe) == resume(run, None) == recipe
    monkeypatch.chdir("/")
    run = RunDirectory(tmp_path / "run")
    assert resume(run, None).data.encoder == str(clip)
    tensors = load_tensors(clip / WEIGHTS)
    save_tensors(clip / WEIGHTS, {name: t + 1 for name, t in tensors.items()})
    with pytest.raises(UserError, match=r"clip has changed since this run began \(weights"):
        resume(run, None)
    (clip / WEIGHTS).unlink()
    with pytest.raises(UserError, match="clip has no model.safetensors: move it back"):
        resume(run, recipe)


def test_held_out_captions_of_another_corpus_are_read_as_the_run_reads(toy, monkeypatch):
    """The other corpus' tokenizer is not asked for the loss, nor for anything else."""
    loaded = load_pictures(toy)
    monkeypatch.setattr(PictureCorpus, "tokenizer", property(lambda self: byte_tokenizer()))
    (batch,) = evaluate_pictures_module.heldout_pictures(
        loaded.recipe, loaded.corpus, tokenizer=loaded.tokenizer
    )
    texts = loaded.corpus.split("heldout", 16).captions(np.arange(8))
    assert torch.equal(batch.captions, caption_tokens(loaded.tokenizer, texts, 12))
    seen = []
    monkeypatch.setattr(
        evaluate_pictures_module, "heldout_loss", lambda m, b, g: seen.extend(b) or 0.0
    )
    evaluate_pictures_module._loss(loaded, loaded.corpus)
    assert torch.equal(seen[0].captions, batch.captions)


def test_pixels_survive_the_way_there_and_back():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(to_pixels(to_tensor(every)), every)


def test_what_cannot_be_trained_is_refused_before_it_starts(tmp_path):
    small = replace(TOY, model=replace(MODEL, vocabulary=100))
    with pytest.raises(WrongUse, match=r"vocabulary is 100.*use --model.vocabulary \d+"):
        train(small, tmp_path / "small")
    classes = replace(MODEL, condition="class", classes=(3, 4))
    with pytest.raises(WrongUse, match=r"use --model.classes 6 4 6 4 2"):
        train(replace(TOY, model=classes), tmp_path / "classes")
    long = replace(TOY, data=replace(TOY.data, caption_length=16))
    with pytest.raises(
        WrongUse,
        match=r"data.caption_length is 16, model.caption_length is 12: .*--model.caption-length 16",
    ):
        train(long, tmp_path / "small")
    unread = replace(long, model=replace(MODEL, condition="none"))
    check_pictures(unread, TOY.data.open_corpus())  # where no caption is read any number will do
    with pytest.raises(WrongUse, match="seed is 2147483648: use 0 to 2147483647"):
        replace(TOY, seed=2**31)
    last = replace(TOY, seed=2**31 - 1)
    assert len(PictureDataset(last, TOY.data.open_corpus()).step(2**20)[0]) == 4
    assert not (tmp_path / "small" / "recipe.yaml").exists()
    with pytest.raises(WrongUse, match="data.image_size 32 is not model.image_size 16"):
        replace(TOY, data=replace(TOY.data, image_size=32))


def test_captions_that_are_cut_are_said_before_the_start():
    corpus = TOY.data.open_corpus()
    assert cut_captions(TOY, corpus) is None
    short = replace(TOY, data=replace(TOY.data, caption_length=4))
    assert cut_captions(short, corpus).startswith(
        "100.0 % of the captions have more than data.caption_length 4"
    )
    assert "--data.caption-length 9 --model.caption-length 9" in cut_captions(short, corpus)
    corpus.manifest["caption_tokens"] = {"most": 3}  # believed: with their end they have 4
    assert cut_captions(short, corpus) is None
    unread = replace(short, model=replace(MODEL, condition="none"))
    assert cut_captions(unread, TOY.data.open_corpus()) is None


def test_a_recipe_round_trips_and_its_fields_are_flags(tmp_path):
    TOY.save(tmp_path / "toy.yaml")
    assert load_recipe(tmp_path / "toy.yaml") == TOY
    run = tmp_path / "run"
    said = command(
        "train", tmp_path / "toy.yaml", "--run", run, "--steps", 2, "--data.world.objects", 1,
        "--model.path", "linear", "--json",
    )  # fmt: skip
    result = json.loads(said.out.splitlines()[-1])
    assert result["pictures"] == 8 and result["pictures_per_second"] > 0
    kept = RunDirectory(run).recipe()
    assert kept.data.world.objects == 1 and kept.model.path == "linear"


def test_a_world_is_made_again_where_it_is_not(toy, tmp_path, monkeypatch):
    """A run that was copied to another machine is evaluated and resumed there."""
    run = RunDirectory(tmp_path / "copied")
    shutil.copytree(toy, run.path)
    kept = json.loads((run / "corpus.json").read_text(encoding="utf-8"))
    kept["path"] = str(tmp_path / "other-home" / "worlds-1" / "shapes")
    (run / "corpus.json").write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path / "home"))
    assert pictures_of(run).hash == kept["hash"]
    assert (pictures_of(run).path / TOKENIZER).read_bytes() == (run / TOKENIZER).read_bytes()
    kept["hash"] = "0" * 64
    (run / "corpus.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(UserError, match="has changed since this run"):
        pictures_of(run)
    (run / "corpus.json").write_text(
        json.dumps(kept | {"table": {"kind": "pictures"}}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="is no longer at"):
        pictures_of(run)


def test_the_report_shows_the_grids(toy):
    page = write_report(toy).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 2
    assert "24 pictures in 6 steps" in page
    with Image.open(toy / "samples" / "step-00000006.png") as grid:
        assert grid.size == (2 * 64 + 2, 2 * 64 + 2)


def test_an_expectation_stands_beside_the_outcome(toy):
    expected = json.loads((toy / "expected.json").read_text(encoding="utf-8"))
    assert expected["seconds"] > 0 and expected["memory"] > 1e6
    decisions = json.loads((toy / "decisions.json").read_text(encoding="utf-8"))
    assert decisions["flops"] > 1e6 and "channels last" in decisions["why"]["precision"]


def test_a_recipe_of_pictures_is_planned(tmp_path):
    TOY.save(tmp_path / "toy.yaml")
    said = command("plan", tmp_path / "toy.yaml", "--device", "H100", "--json")
    found = json.loads(said.out.splitlines()[-1])
    assert found["parameters"] == MODEL.parameters() and found["pictures"] == 24
    assert found["seconds"] > 0 and found["seconds_there"] > 0 and 0 < found["utilisation"] < 1
    refused(command("plan", tmp_path / "toy.yaml", "--devices", 2), "is planned for one device")


def test_runs_of_the_other_kind_are_refused_in_one_line(toy, tmp_path):
    refused(command("generate", toy, "a", "--tokens", 5), "--tokens is not for a run of pictures")
    refused(command("audit", "memorised", toy), "of pictures")
    refused(command("export", "hf", toy, tmp_path / "out"), "only decoders and CLIPs")


def test_a_prompt_that_the_world_has_no_words_for_is_told(toy, tmp_path):
    said = command("generate", toy, "a red house", "--steps", 2, "--out", tmp_path / "a.png")
    assert (
        said.code == 0 and "has learnt nothing like 'a red house': unknown word house" in said.out
    )


def test_a_run_makes_pictures_to_a_file(toy, tmp_path):
    out = tmp_path / "a.png"
    said = command(
        "generate", toy, "a red circle left of a blue square", "--steps", 2, "--out", out, "--json"
    )
    result = json.loads(said.out.splitlines()[-1])
    assert result["pictures"] == 1 and result["evaluations"] == 2
    with Image.open(out) as made:
        assert made.size == (16, 16)
    again = tmp_path / "b.png"
    command("generate", toy, "a red circle left of a blue square", "--steps", 2, "--out", again)
    assert out.read_bytes() == again.read_bytes()


def test_the_python_face_opens_and_makes(toy):
    import maquette

    run = maquette.load(toy)
    made = run.generate("a red circle", count=2, steps=2, seed=1)
    assert made.shape == (2, 16, 16, 3) and made.dtype == np.uint8
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(made, run.generate("a red circle", count=2, steps=2, seed=1))


def test_a_mask_keeps_what_is_black_to_the_bit(toy, tmp_path):
    generator = np.random.default_rng(0)
    given = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "a.png")
    hole = np.zeros((16, 16), np.uint8)
    hole[4:12, 4:12] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    out = tmp_path / "b.png"
    command("generate", toy, "a red circle", "--picture", tmp_path / "a.png", "--mask",
            tmp_path / "hole.png", "--steps", 2, "--out", out)  # fmt: skip
    made = np.asarray(Image.open(out))
    assert np.array_equal(made[hole == 0], given[hole == 0])
    assert not np.array_equal(made[hole == 255], given[hole == 255])


def test_a_picture_is_continued(toy, tmp_path):
    given = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "a.png")
    out = tmp_path / "wide.png"
    command("generate", toy, "--picture", tmp_path / "a.png", "--outpaint", "right=24", "--steps", 2,
            "--out", out)  # fmt: skip
    made = np.asarray(Image.open(out))
    assert made.shape == (16, 40, 3) and np.array_equal(made[:, :16], given)


def test_a_wide_picture_is_continued_whole(toy, tmp_path):
    """Neither cut to its middle square nor made as small as the model's pictures."""
    given = np.random.default_rng(1).integers(0, 256, (20, 36, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "a.png")
    out = tmp_path / "wide.png"
    said = command("generate", toy, "--picture", tmp_path / "a.png", "--outpaint", "left=4",
                   "--steps", 1, "--out", out, "--json")  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(out))[:, 4:], given) and said.json["notes"] == []


def test_what_is_cut_off_a_picture_is_said(toy, tmp_path, monkeypatch):
    from maquette.workshop import picture_input

    picture = tmp_path / "a.png"
    Image.new("RGB", (60, 30)).save(picture)
    Image.new("L", (60, 30), 255).save(tmp_path / "m.png")
    said = command("generate", toy, "--picture", picture, "--mask", tmp_path / "m.png", "--steps",
                   1, "--out", tmp_path / "b.png", "--json")  # fmt: skip
    line = f"{picture} is 60 x 30: its middle square was taken and made smaller, 16 x 16"
    assert line in said.err and line in said.json["notes"]
    monkeypatch.setattr(picture_input, "MOST", 450)
    given = picture_input.Input()
    assert given.whole(picture).shape == (15, 30, 3)
    assert given.notes == [f"{picture} is 60 x 30: made smaller, 30 x 15"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--mask", "m.png"], "name it with --picture"),
        (["--outpaint", "right"], "as in right=64"),
        (["--solver", "magic"], "unknown solver magic"),
        (["--variations-of", "a.png"], "a prompt does nothing with --variations-of"),
        (["--picture", "none.png", "--mask", "m.png"], "there is no picture"),
        (["--count", 0], "count is 0: use at least 1"),
        (["--prior", "runs/p"], "--prior does nothing for this run"),
        (
            ["--outpaint", "right=4", "--picture", "a.png", "--prior", "p"],
            "nothing with --outpaint",
        ),
        (["--variations-of", "a.png", "--toward", "b.png", "--text-diff", "a", "b"], "not both"),
    ],
)
def test_what_cannot_be_made_is_one_line(toy, words, part):
    refused(command("generate", toy, "a", *words), part)


@pytest.fixture(scope="module")
def square(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("given") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def changed(toy: Path, **model) -> LoadedPictures:
    """The toy's run with another model that knows nothing."""
    return LoadedPictures(
        toy, replace(MODEL, **model).build().initialise(0).eval(), load_pictures(toy).tokenizer
    )


def test_a_picture_around_known_pixels_is_made_by_the_solver_named_in_parts(
    toy, square, monkeypatch
):
    loaded, sizes, asked = load_pictures(toy), [], []
    monkeypatch.setattr(picture_generation, "BATCH", 2)

    def recorded(way):
        def run(model, pictures, *rest, **options):
            sizes.append(len(pictures))
            asked.append((rest[-1].solver, rest[-1].guidance))
            return way(model, pictures, *rest, **options)

        return run

    for name in ("fill", "extend"):
        monkeypatch.setattr(picture_generation, name, recorded(getattr(picture_generation, name)))
    for way, solver in (({"mask": square}, "ddim"), ({"outpaint": {"top": 2}}, "")):
        request = Options(prompts=("a red circle",), count=3, picture=square, steps=1, solver=solver,
                          guidance=2.0, **way).request()  # fmt: skip
        assert len(picture_generation.make(loaded, request).pixels) == 3
    assert sizes == [2, 1, 2, 1] and asked == [("ddim", 2.0)] * 2 + [("ddpm", 2.0)] * 2
    plain, asks = changed(toy, condition="none"), []
    plain.model.register_forward_hook(lambda model, given, out: asks.append(len(given[0])))
    request = Options(picture=square, outpaint={"top": 2}, steps=1).request()
    picture_generation.make(plain, request)
    assert asks == [1], "nothing to be guided by"


def test_a_class_is_told_to_every_window(toy, square, monkeypatch):
    classes = tuple(load_pictures(toy).corpus.label_sizes)
    loaded = changed(toy, condition="class", classes=classes)
    told, condition = [], loaded.model.condition

    def recorded(n, **given):
        told.append(given["label"])
        return condition(n, **given)

    monkeypatch.setattr(loaded.model, "condition", recorded)
    text = loaded.corpus.split("heldout", 16).captions(np.arange(1))[0]
    request = Options(
        prompts=(text,), count=2, picture=square, outpaint={"left": 20}, steps=1
    ).request()
    picture_generation.make(loaded, request)
    assert len(told) > 1 and all(len(t) == 2 and (t >= 0).all() for t in told)


def test_an_upsampler_is_told_the_prompts_and_known_before_anything_is_drawn(toy, monkeypatch):
    loaded = load_pictures(toy)
    larger = changed(toy, task="upsample", image_size=32, scale=2, multipliers=(1, 2, 2))
    told, condition = [], larger.model.condition

    def recorded(n, **given):
        told.append(given.get("text"))
        return condition(n, **given)

    monkeypatch.setattr(larger.model, "condition", recorded)
    monkeypatch.setattr(
        picture_generation, "load_pictures", lambda path: {"large": larger, "same": loaded}[path]
    )
    prompts = ("a red circle", "a blue square")
    made = picture_generation.make(
        loaded, Options(prompts=prompts, steps=1, upsample="large").request()
    )
    assert made.pixels.shape == (2, 32, 32, 3)
    assert torch.equal(told[0], larger.captions(list(prompts)))
    monkeypatch.setattr(picture_generation, "_diffusion", None)  # not asked
    with pytest.raises(WrongUse, match="enlarges nothing: name a run whose task is upsample"):
        picture_generation.make(
            loaded, Options(prompts=prompts, steps=1, upsample="same").request()
        )


@pytest.mark.parametrize(
    ("model", "options", "part"),
    [
        ({}, {"variations_of": True}, "makes no pictures from embeddings"),
        ({"task": "upsample"}, {"mask": True, "picture": True}, "--mask does nothing for a run that"),
        ({"task": "upsample"}, {"outpaint": {"top": 2}, "picture": True}, "--outpaint does nothing"),
        ({"condition": "none"}, {"prompts": ("a",)}, "a prompt does nothing for this run"),
        ({"condition": "none"}, {"guidance": 2.0}, "--guidance does nothing for this run"),
        (None, {"picture": True, "prompts": ("a",)}, "a prompt does nothing for a run that restores"),
        (None, {"picture": True, "count": 2}, "--count does nothing for a run that restores"),
        ({"embedding": 8}, {"prompts": ("a",), "mask": True, "picture": True}, "--picture does nothing"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(toy, square, model, options, part):
    given = {name: square if value is True else value for name, value in options.items()}
    if model is None:
        config = SuperResolutionConfig(image_size=16, scale=4, width=8, depth=1)
        loaded = LoadedPictures(toy, config.build().initialise(0).eval(), None)
    else:
        loaded = changed(toy, **model)
    with pytest.raises(WrongUse, match=part):
        picture_generation.make(loaded, Options(**given).request())


def test_evaluations_are_those_of_the_network(toy, square, monkeypatch):
    loaded = load_pictures(toy)
    monkeypatch.setattr(picture_generation, "BATCH", 2)
    made = picture_generation.make(
        loaded, Options(prompts=("a",), count=3, steps=3, solver="heun").request()
    )
    assert made.evaluations == 5
    made = picture_generation.make(
        loaded, Options(picture=square, outpaint={"right": 24}, steps=2).request()
    )
    assert made.evaluations == 2 * 3, "of every window"
    made = picture_generation.make(loaded, Options(picture=square, mask=square, steps=5).request())
    assert made.evaluations == 5 * 3, "repaint takes its steps three times"


def test_evaluation_reads_what_was_made(toy, monkeypatch):
    quick = partial(evaluate_pictures_module.oracle_for, quick=True)
    monkeypatch.setattr(evaluate_pictures_module, "oracle_for", quick)
    loaded = load_pictures(toy)
    tasks = evaluate_pictures(loaded, pictures=8, drawing=Drawing(steps=2))
    assert tasks["held-out loss"]["value"] > 0
    made = tasks["all right, guidance 3"]
    assert made["n"] == 8 and 0 <= made["low"] <= made["value"] <= made["high"] <= 1
    assert any("misread by the oracle" in row[0] for row in rows(tasks))


def test_pictures_and_text_are_told_apart(toy, tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "hash": "0"}', encoding="utf-8")
    with pytest.raises(WrongUse, match="is a corpus of text"):
        PictureCorpus(tmp_path)
    with pytest.raises(UserError, match="holds no pictures"):
        PictureCorpus(tmp_path / "none")
