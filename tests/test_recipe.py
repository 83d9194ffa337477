"""Recipes: YAML in and out, flags over them, and mistakes named with the nearest right word."""

import dataclasses
import math

import pytest
import torch
import yaml
from conftest import command, refused

from maquette.base.errors import WrongUse
from maquette.cli.fields import with_flags
from maquette.experiments.catalogue import recipe_named, recipes
from maquette.training.recipe import LanguageRecipe, field_names, load_recipe, recipe_from


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_of_the_catalogue_round_trips_through_yaml(name, tmp_path):
    recipe = recipe_named(name)
    assert recipe.name == name
    recipe.save(tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert recipe_named(str(tmp_path / "r.yaml")) == recipe
    with torch.device("meta"):
        recipe.model.build()


def test_a_file_may_leave_fields_out(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "steps: 7\nmodel: {width: 64, heads: 1}\noptimiser: {learning_rate: 1e-3}\n",
        encoding="utf-8",
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.steps, recipe.model.width, recipe.optimiser.learning_rate) == (7, 64, 0.001)
    assert recipe.batch == LanguageRecipe().batch


def test_flags_change_any_field():
    words = ["--steps", "9", "--model.kv-heads", "2", "--data.document-mask", "--trackers", "wandb",
             "--model.parametrisation.base-width", "32", "--stop", "None"]  # fmt: skip
    recipe = with_flags(recipe_named("tiny"), words)
    assert recipe.steps == 9
    assert recipe.model.kv_heads == 2
    assert recipe.data.document_mask
    assert recipe.trackers == ("wandb",)
    assert recipe.model.parametrisation.base_width == 32
    assert recipe.stop is None
    assert not with_flags(recipe, ["--data.no-document-mask"]).data.document_mask


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {widht: 64}", "unknown field model.widht: did you mean 'model.width'?"),
        ("stepz: 3", "unknown field stepz: did you mean 'steps'?"),
        ("steps: many", "steps is 'many': input should be a valid integer"),
        ("model: {norm: batch}", "model.norm is 'batch'"),
        ("model: {width: 100, heads: 12}", "width 100 is not divisible by heads 12"),
        ("data: {sequence: 9999}", "data.sequence 9999 does not fit model.context 256"),
        ("steps: 0", "steps is 0: use at least 1"),
        ("batch: 3\nranks: 2", "batch 3 is not divisible by ranks 2: use batch 4"),
        ("batch: 8\nmicro_batch: 3", "micro_batch 3 does not divide a rank's share of 8"),
        ("steps: 5\nstop: 9", "stop 9 is outside the 5 steps"),
        ("just words", "holds no recipe"),
        ("a: [1, 2", "is not YAML"),
        ("format: 5\nmaquette: 3.1", "was written by Maquette 3.1 in format 5"),
    ],
)
def test_mistakes_in_a_file(content, message, tmp_path):
    (tmp_path / "r.yaml").write_text(content, encoding="utf-8")
    refused(command("train", tmp_path / "r.yaml", "--run", tmp_path / "run"), message, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.widht", "64"], "unknown field --model.widht: did you mean 'model.width'?"),
        (["--step", "3"], "unknown field --step: did you mean 'steps'?"),
        (["--steps", "many"], "--steps: invalid literal for int() with base 10: 'many'"),
        (["--model.width", "100", "--model.heads", "12"], "width 100 is not divisible by heads 12"),
        (["--data.sequence", "999"], "data.sequence 999 does not fit model.context 128"),
        (["--schedule.kind", "sqrt"], "invalid choice 'sqrt'"),
        (["--steps"], "Missing value for argument '--steps'"),
        (["surplus"], "unexpected surplus"),
        (["--guard.window", "0"], "window is 0: use at least 1"),
        (["--optimiser.beta1", "1.5"], "beta1 is 1.5: use 0 to 0.99999"),
        (["--optimiser.learning-rate", "-1"], "learning_rate is -1: use at least 0"),
        (["--schedule.warmup", "3"], "warmup is 3: use 0 to 1"),
        (["--model.kv-heads", "-1"], "kv_heads is -1: use at least 1"),
        (["--model.band", "0"], "band is 0: use at least 1"),
        (["--model.parametrisation.base-width", "0"], "base_width is 0: use at least 1"),
    ],
)
def test_mistakes_in_flags(words, message, tmp_path):
    refused(command("train", "tiny", "--run", tmp_path / "run", *words), message, code=2)
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe_is_refused_with_the_nearest():
    refused(command("train", "tinny"), "unknown recipe tinny: did you mean 'tiny'?", code=2)
    refused(command("train", "none.yaml"), "none.yaml does not exist", code=2)
    refused(command("train"), "name a recipe: tiny is one", code=2)
    refused(command("train", "tiny", "--resume"), "say which run to resume", code=2)


def test_every_field_is_documented():
    """A flag without a word of help is a flag nobody can use."""
    import ast
    import inspect

    from maquette.models import config, smlp_config
    from maquette.nn import rules
    from maquette.training import recipe
    from maquette.training.datasets import config as data_config
    from maquette.training.datasets import picture_config as picture_recipe
    from maquette.training.datasets import text_config

    seen = []
    for module in (recipe, data_config, text_config, picture_recipe, config, smlp_config, rules):
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef) or not any(
                "kw_only" in ast.dump(d) for d in node.decorator_list
            ):
                continue
            seen.append(node.name)
            for item, following in zip(node.body, node.body[1:], strict=False):
                if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.dump(item.annotation):
                    documented = isinstance(following, ast.Expr) and isinstance(
                        following.value, ast.Constant
                    )
                    section = item.target.id in (
                        "model",
                        "data",
                        "optimiser",
                        "schedule",
                        "checkpoints",
                        "watch",
                        "guard",
                    )
                    assert documented or section, f"{node.name}.{item.target.id}"
    assert {
        "Recipe",
        "TextData",
        "PictureData",
        "DecoderConfig",
        "SMLPConfig",
        "Parametrisation",
    } <= set(seen)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: [a]}", "model.kind is ['a']: write the name of one kind: decoder, smlp"),
        (
            "smlp",
            "model is 'smlp', not fields: write model: {kind: smlp}; the kinds are decoder, smlp",
        ),
        ("[1]", "model is [1], not fields: write model: {kind: decoder}"),
        ("{kind: gru}", "unknown model.kind gru: choose from clip, cnn, decoder, diffusion"),
    ],
)
def test_a_model_that_is_no_kind_is_refused(written, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"model: {written}", encoding="utf-8")
    refused(command("train", path), message, code=2)


@pytest.mark.parametrize("flag", [["--model.kind", "smlp"], ["--model.kind=smlp"]])
def test_no_flag_makes_a_model_another_kind(flag):
    said = command("train", "tiny", *flag)
    refused(said, "write model: {kind: smlp} in a recipe's YAML, or train smlp-small", code=2)
    assert with_flags(recipe_named("smlp-small"), []).model.kind == "smlp"
    refused(
        command("train", "tiny", "--model.kind", "gru"), "choose from clip, cnn, decoder", code=2
    )


def test_field_names_are_the_flags():
    names = field_names(LanguageRecipe())
    assert {"steps", "model.width", "model.parametrisation.base_width", "guard.spike"} <= set(names)
    assert len(names) == len(set(names))


def test_the_saved_recipe_reads_well(tmp_path):
    recipe_named("tiny").save(tmp_path / "r.yaml")
    content = yaml.safe_load((tmp_path / "r.yaml").read_text(encoding="utf-8"))
    assert list(content)[:3] == ["maquette", "format", "name"]
    assert "!!" not in (tmp_path / "r.yaml").read_text(encoding="utf-8")


def test_recipes_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LanguageRecipe().steps = 3  # type: ignore[misc]


def test_impossible_recipes_are_refused_in_python_too():
    with pytest.raises(WrongUse, match="use at least 1"):
        LanguageRecipe(steps=0)


def numbers(recipe):
    """Every field of a recipe that holds a number, with its path."""
    for name in field_names(recipe):
        value = recipe
        for part in name.split("."):
            value = getattr(value, part)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


@pytest.mark.parametrize("name", ["tiny", "vit", "clip", "diffusion", "smlp-small"])
def test_no_number_of_a_recipe_is_infinite_or_none(name):
    """On the command line and in a file: one line that names the field."""
    recipe = recipe_named(name)
    for path, value in numbers(recipe):
        whole = (10**30, 10**400) if isinstance(value, int) else ()
        for bad in (math.nan, math.inf, -math.inf, -1, *whole):
            content = recipe.to_dict()
            group = content
            *groups, last = path.split(".")
            for part in groups:
                group = group[part]
            group[last] = bad
            with pytest.raises(WrongUse) as error:
                recipe_from(content, "r.yaml")
            assert last in str(error.value), (path, bad)
            assert len(str(error.value)) < 300
    with pytest.raises(WrongUse, match="learning_rate is inf: use a number that is finite"):
        with_flags(recipe, ["--optimiser.learning-rate", "inf"])


def test_numbers_of_a_file_are_checked_as_flags_are(tmp_path):
    for content, message in {
        "optimiser: {learning_rate: .inf}": "learning_rate is inf: use a number that is finite",
        "model: {norm_epsilon: .nan}": "norm_epsilon is nan",
        "steps: 10000000000000000000000": "steps is 1e+22: use 1 to 1000000000000000",
        "seed: 18446744073709551616": "seed is 18446744073709551616: use 0 to 9223372036854775807",
    }.items():
        (tmp_path / "r.yaml").write_text(content, encoding="utf-8")
        said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
        refused(said, message, code=2)
        assert not (tmp_path / "run").exists()


def test_a_model_that_the_memory_cannot_hold_is_refused_before_it_is_made(tmp_path):
    said = command("train", "tiny", "--model.width", "4000000", "--run", tmp_path / "run")
    refused(said, "GiB as state of its training alone", "make it smaller", code=1)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "plan tiny --device A100 --devices 10000000000000000000000",
            "devices is 1e+22: use a positive",
        ),
        (
            "plan --flops 1e18 --device A100 --inference-tokens inf",
            "inference tokens are inf: use 0 to",
        ),
        (
            "plan --flops 1e18 --device A100 --inference-tokens nan",
            "inference tokens are nan: use 0 to",
        ),
        (
            "plan --flops 1e18 --device A100 --price 1e30",
            "price is 1e+30: use a positive number up to",
        ),
        ("plan ladder --budget inf", "--budget is inf minutes: use a positive number up to"),
        ("plan ladder --budget nan", "--budget is nan minutes: use a positive number up to"),
        ("plan ladder --workers 100000000", "workers is 100000000: use 1 to 1024"),
        ("plan coordinates --seeds 100000000", "seeds is 100000000: use at most 1000"),
        ("sweep tiny --width 32 --seeds 100000000", "seeds is 100000000: use at most 1000"),
        ("sweep tiny --width -32", "width is -32: use at least 1"),
        ("sweep tiny --width 32 --depth 0", "depth is 0: use at least 1"),
        ("sweep tiny --width 32 --steps 10000000000000", "steps is 10000000000000: use at most"),
        (
            "sweep tiny --width 32 --over optimiser.learning_rate=0.1..inf",
            "a range goes from a positive",
        ),
    ],
)
def test_numbers_of_commands_that_cannot_be_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(command(*words.split()), message, code=2)


def test_memory_that_is_not_there_is_one_line(monkeypatch):
    import torch

    from maquette.cli import doctor

    def starved(arguments):
        torch.empty(1 << 60)

    monkeypatch.setattr(doctor, "run", starved)
    refused(command("doctor"), "there is not enough memory", code=1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("[1]", "data.kind is [1]: write the name of one kind: text"),
        ("null", "data.kind is None: write the name of one kind"),
        ("texts", "unknown data.kind texts: did you mean 'text'?"),
    ],
)
def test_a_kind_of_data_that_is_none_is_one_line(kind, message, tmp_path):
    (tmp_path / "r.yaml").write_text(f"data: {{kind: {kind}}}\n", encoding="utf-8")
    refused(command("train", tmp_path / "r.yaml"), message, code=2)
