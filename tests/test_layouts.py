"""Layouts: names, what fits, what wins, and that each loser has its reason."""

import pytest

from maquette.base.errors import WrongUse
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.scaling.devices import device
from maquette.scaling.layouts import choose, products
from maquette.scaling.training_step import Layout

GPT2 = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
SEVEN = families.llama(vocabulary=32000, context=2048, width=4096, depth=32, heads=32, hidden=11008)
GPT3 = families.gpt3(vocabulary=50257, context=2048, width=12288, depth=96, heads=96)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (Layout(), "ddp"),
        (Layout(replicate=8), "ddp"),
        (Layout(shard=8, zero=3), "zero3:8"),
        (Layout(shard=8, zero=1, tensor=2), "zero1:8,tensor:2"),
        (Layout(tensor=2, pipeline=4), "tensor:2,pipeline:4"),
        (Layout(context=4), "context:4"),
    ],
)
def test_a_layouts_name_is_the_recipes(layout, name):
    assert layout.name == name


def test_a_layout_that_is_none_is_refused():
    with pytest.raises(WrongUse, match="shard is 4 without a ZeRO stage"):
        Layout(shard=4)
    with pytest.raises(WrongUse, match="tensor is 0"):
        Layout(tensor=0)


def test_products_use_all_devices_and_divide_evenly():
    found = list(products(GPT3, 1536, 2048, device("A100"), 64))
    assert len(found) > 20
    for layout in found:
        assert layout.devices == 64
        assert GPT3.heads % layout.tensor == 0
        assert layout.tensor <= 8  # within a node
        assert GPT3.depth % layout.pipeline == 0
        assert layout.zero == 0 or layout.shard <= 64 // layout.tensor // layout.pipeline


def test_a_small_model_is_replicated():
    choice = choose(GPT2, 512, 1024, device("A100"), 8, "bf16", compiled=True)
    assert choice.fits
    assert choice.layout.tensor == choice.layout.pipeline == choice.layout.context == 1
    assert choice.runnable.layout.name == "ddp"
    assert choice.runnable.time.seconds < 1.05 * choice.best.time.seconds
    tensor = next(line for line in choice.lost if ",tensor:2" in line)
    assert "% slower: tensor" in tensor
    assert "all-reduces" in tensor


def test_what_does_not_fit_is_said_with_how_much():
    choice = choose(SEVEN, 256, 2048, device("A100"), 8, "bf16", compiled=True)
    assert choice.fits
    assert choice.runnable is None
    plain = next(line for line in choice.lost if line.startswith("ddp: "))
    assert "does not fit" in plain
    assert "GiB too many" in plain
    none = choose(GPT3, 8, 2048, device("T4"), 8, "bf16")
    assert not none.fits
    assert none.best.memory.total > none.best.room


def test_losses_are_told_relative_to_what_is_shown():
    choice = choose(SEVEN, 256, 2048, device("H200"), 8, "bf16", compiled=True)
    shown = choice.runnable
    assert shown is not None
    assert shown is not choice.best
    kind = choice.layout.name
    line = next(text for text in choice.why_lost(shown) if text.startswith(f"{kind}: "))
    gained = shown.time.seconds / choice.best.time.seconds - 1
    assert gained > 0.01
    assert line == f"{kind}: {gained:.0%} faster, not trained by this version"
    assert not any("faster" in text for text in choice.lost)
    assert choice.lost == choice.why_lost(choice.best)
    assert not any(text.startswith("ddp: ") for text in choice.why_lost(shown))


def test_tensor_groups_do_not_straddle_nodes():
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    found = {layout.tensor for layout in products(config, 48, 1024, device("A100"), 48)}
    assert found == {1, 2, 4}  # 3 and 6 divide heads and devices, not the eight of a node
    assert 3 in {layout.tensor for layout in products(config, 48, 1024, device("A100"), 6)}


def test_the_largest_published_model_fits_on_a_thousand_devices():
    found = list(products(GPT3, 1536, 2048, device("A100"), 1024))
    assert len(set(found)) == len(found) < 500  # each once: how many are estimated, so the time
    choice = choose(GPT3, 1536, 2048, device("A100"), 1024, "bf16", compiled=True)
    layout = choice.layout
    assert choice.fits
    assert layout.devices == 1024
    assert layout.tensor > 1
    assert layout.pipeline > 1
    assert 0.2 < choice.best.time.utilisation < 0.6
    share = 1536 // (layout.replicate * layout.shard)
    assert choice.best.micro_batch * layout.micro_batches == share
    assert len(choice.lost) == len({line.split(": ")[0] for line in choice.lost})


def test_memory_decides_recomputation():
    config = families.llama(vocabulary=32000, context=2048, width=2048, depth=24, heads=16)
    roomy = choose(config, 8, 2048, device("H200"), 1, "bf16", compiled=True)
    tight = choose(config, 8, 2048, device("RTX4090"), 1, "bf16", compiled=True)
    assert roomy.fits
    assert not roomy.layout.recompute
    assert tight.best.memory.total < roomy.best.memory.total


def test_a_batch_that_nothing_divides_is_refused():
    with pytest.raises(WrongUse, match="no layout divides a batch of 3 sequences over 7 devices"):
        choose(DecoderConfig(), 3, 256, device("A100"), 7, "bf16")
