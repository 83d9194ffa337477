"""PaLM's claims at toy size: the arms differ in the block alone, and the counts are exact."""

import pytest
import torch

from maquette.experiments.catalogue import recipe_named
from maquette.experiments.lab import Lab
from maquette.models.decoder import Decoder
from maquette.nn.mask import Mask
from maquette.systems import palm


def test_the_arms_differ_in_the_block_and_one_norm_a_block():
    serial, parallel = palm.arm("serial", 0, False), palm.arm("parallel", 0, False)
    assert serial.model.parameters() - parallel.model.parameters() == 4 * 192
    assert serial.units_per_step * serial.steps == parallel.units_per_step * parallel.steps
    assert (serial.seed, serial.optimiser, serial.data) == (0, parallel.optimiser, parallel.data)
    half = palm.arm("parallel", 0, False, blocks=0.5)
    assert (half.model.width, half.model.depth) == (192, 2)


def test_the_parallel_block_is_the_papers():
    """y = x + MLP(norm x) + Attention(norm x), from one norm."""
    block = Decoder(palm.shape("parallel", True)).initialise(0).blocks[0]
    x = torch.randn(2, 5, 48)
    normed = block.attention_norm(x)
    mask = Mask(causal=True)
    expected = x + block.multiplier * (block.attention(normed, mask) + block.feedforward(normed))
    torch.testing.assert_close(block(x, mask=mask), expected)
    assert block.feedforward_norm is None


def test_the_cache_is_one_head_of_as_many():
    found = palm.multi_query.function(Lab(seeds=1))
    assert found.value == 1.0
    assert found.control == 6.0
    assert found.details["bytes_a_token"]["palm-540b"] == {
        "multi-query": 118 * 2 * 256 * 4,
        "multi-head": 118 * 2 * 48 * 256 * 4,
    }


def test_steps_are_timed_in_turns():
    times = palm.step_times(quick=True, rounds=4)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(palm.ARMS, 4)
    assert all((seconds > 0).all() for seconds in times.values())


def test_a_time_ratio_is_taken_round_by_round(monkeypatch):
    """A machine that slows down by half on the way changes nothing."""
    pace = torch.linspace(1, 2, 9).numpy()
    taken = {"serial": pace, "parallel": 0.9 * pace, "serial again": 1.0 * pace}
    monkeypatch.setattr(palm, "step_times", lambda quick, rounds: taken)
    found = palm.parallel_time.function(Lab(seeds=1, quick=True))
    assert found.value == pytest.approx(0.9)
    assert found.control == pytest.approx(1.0)
    assert found.interval == pytest.approx((0.9, 0.9))


def test_the_loss_claim_subtracts_seed_by_seed(monkeypatch):
    """Against made-up runs: two seeds, and the control beside the first of them."""
    losses = {("parallel", 0): 1.02, ("parallel", 1): 1.10, ("serial", 0): 1.0, ("serial", 1): 1.04}
    monkeypatch.setattr(Lab, "train_all", lambda lab, recipes: list(recipes))

    class Run:
        def __init__(self, one):
            self.one = one

        def records(self):
            block = (self.one.model.block, self.one.seed)
            return [{"heldout_loss": 1.3 if self.one.model.depth == 2 else losses[block]}]

    monkeypatch.setattr(palm, "RunDirectory", Run)
    found = palm.parallel_loss.function(Lab(seeds=2))
    assert found.value == pytest.approx(0.04)
    assert found.interval == pytest.approx((0.02, 0.06))
    assert found.control == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["palm-small", "gptj-small", "bloom-small", "llama-small"])
def test_the_small_members_are_small_and_of_their_family(name):
    one = recipe_named(name)
    assert 1_500_000 < one.model.parameters() < 5_000_000
    assert one.data.corpus == "bytes"
    assert one.model.vocabulary == 257
