"""Published architectures: each is built, counted, and held against its printed size."""

import subprocess
import sys

import pytest
import torch

from maquette.base.errors import WrongUse
from maquette.experiments.catalogue import recipe_named, recipes
from maquette.experiments.decoder_recipes import published_recipe
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.published import names, published
from maquette.systems.gpt3 import estimate

EXACT = {  # counted from the released weights, or printed to the last digit
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
}
DIFFER = {"gptj-6b", "gpt-neox-20b", "palm-540b", "gopher-280b", "chinchilla-70b"}


@pytest.mark.parametrize("name", names())
def test_the_built_model_has_the_published_size(name):
    one = published(name)
    with torch.device("meta"):
        model = Decoder(one.config)
    built = sum(p.numel() for p in model.parameters())
    assert built == one.config.parameters()
    assert one.reproduced, one.explanation
    assert bool(one.differences) == (name in DIFFER)
    assert built + sum(number for _, number in one.differences) == one.counted
    assert f"{built:,}" in one.explanation
    assert f"{one.counted:,}" in one.explanation


def test_exact_means_exact():
    for name, count in EXACT.items():
        one = published(name)
        assert one.exact
        assert one.config.parameters() == one.parameters == count
        assert not one.meets(count + 1)
    assert {name for name in names() if published(name).exact} == EXACT.keys()


def test_a_rounded_figure_is_met_to_its_last_digit_and_no_further():
    one = published("gpt3-175b")
    assert one.config.parameters() == 174_604_259_328
    assert one.meets(174_605_000_000)
    assert not one.meets(174_605_000_001)
    assert not one.meets(estimate(one.config))


def test_the_differences_are_what_the_shapes_say():
    """GPT-J's released weights lack the copies; the others' terms are counted by hand."""
    j = published("gptj-6b")
    assert j.config.parameters() == 6_050_882_784
    assert j.counted == j.parameters == 6_053_381_344
    assert sum(n for _, n in published("gpt-neox-20b").differences) == 44 * 2 * 6144
    assert sum(n for _, n in published("chinchilla-70b").differences) == 80 * 8192**2
    assert published("gpt-neox-20b").counted == 20_554_567_680


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("gpt3-13b", {"width": 5140, "head_dim": 128}),
        ("gpt3-1.3b", {"heads": 24, "head_dim": 128}),
    ],
)
def test_table_2_1_as_printed_misses_table_d_1(name, printed):
    """The two typos: with the printed width or heads the paper contradicts itself."""
    one = published(name)
    sizes = {
        f: getattr(one.config, f) for f in ("vocabulary", "context", "width", "depth", "heads")
    }
    assert not one.meets(families.gpt3(**(sizes | printed)).parameters())


def test_the_estimate_of_the_control():
    config = DecoderConfig(vocabulary=10, width=8, depth=3, heads=2)
    assert estimate(config) == 12 * 3 * 64 + 80


def test_recipes_hold_what_the_papers_say():
    r = recipe_named("gpt3-175b")
    assert r.name == "gpt3-175b"
    assert (r.batch, r.data.sequence) == (1536, 2048)
    assert r.steps * r.units_per_step == pytest.approx(300e9, rel=1e-5)
    assert (r.optimiser.learning_rate, r.optimiser.beta2, r.optimiser.weight_decay) == (
        6e-5,
        0.95,
        0.1,
    )
    assert r.schedule.warmup * 300e9 == pytest.approx(375e6)
    assert r.schedule.floor == 0.1
    assert r.model.band == 256
    assert r.model.parametrisation.kind == "standard"
    assert recipe_named("megatron-8.3b").steps == 300_000
    assert recipe_named("turing-nlg-17b").model.dropout == 0.1
    assert recipe_named("palm-540b").optimiser.z_loss == 1e-4


def test_every_published_training_of_these_families_is_a_recipe():
    """GPT-2's was not published."""
    known = recipes()
    for name in names():
        if published(name).training:
            made = known[name]()
            assert made.model == published(name).config
            assert made.name == name


def test_wrong_names_and_unpublished_trainings_are_refused():
    with pytest.raises(WrongUse, match="did you mean 'gpt3-175b'"):
        published("gpt3-175")
    with pytest.raises(WrongUse, match=r"GPT-2 1.5B was not published"):
        published_recipe(published("gpt2-1.5b"))


def test_the_table_needs_no_torch():
    code = (
        "import sys; from maquette.models.published import names, published;"
        "[published(n).config.parameters() for n in names()];"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
