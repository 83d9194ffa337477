"""The decoder: what it may see, what it costs, and that its settings are the published models."""

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maquette.base.errors import WrongUse
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation

SIZES = {"vocabulary": 61, "context": 24, "width": 32, "depth": 3, "heads": 4}
FAMILIES = {
    "gpt2": {},
    "gpt3": {"band": 5},
    "gptj": {"rotary_dims": 4},
    "palm": {},
    "llama": {"kv_heads": 2},
    "bloom": {},
}


def make(family: str, **changes) -> Decoder:
    config = getattr(families, family)(**(SIZES | FAMILIES[family] | changes))
    return Decoder(config).initialise(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_sees_the_future(family):
    model = make(family).eval()
    tokens = torch.randint(0, 61, (2, 24))
    changed = tokens.clone()
    changed[:, 15:] = (changed[:, 15:] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert not torch.equal(before[:, 15:], after[:, 15:])


def test_a_band_sees_only_so_far_back():
    """Only the second block is banded: what it makes of another input shows the band."""
    model, given = make("gpt3", depth=2).eval(), []
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda block, x, inputs: given.append(inputs["mask"]), with_kwargs=True
        )
    with torch.no_grad():
        model(torch.zeros(1, 24, dtype=torch.long))
        assert [mask.window for mask in given] == [None, 5]
        x = torch.randn(1, 24, 32)
        y = x.clone()
        y[:, 3] = torch.randn(32)
        one, two = (block(t, mask=given[1]) for t in (x, y))
    assert ((one - two).abs().amax((0, 2)) > 0).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_documents_in_one_sequence_do_not_see_each_other(family):
    model = make(family).eval()
    a, b = torch.randint(0, 61, (1, 9)), torch.randint(0, 61, (1, 15))
    document_ids = torch.tensor([[0] * 9 + [1] * 15])
    positions = torch.tensor([[*range(9), *range(15)]])
    with torch.no_grad():
        packed = model(torch.cat((a, b), 1), document_ids=document_ids, positions=positions)
        torch.testing.assert_close(packed[:, :9], model(a), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(packed[:, 9:], model(b), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dims", "base"), [(None, 10000.0), (4, 50.0)])
def test_heads_turn_by_the_configs_base_and_dimensions(dims, base):
    """Su et al. 2021, eq. 15: pair i of a position turns by position * base^(-2i / dims)."""
    model, given = make("llama", rotary_dims=dims, rotary_base=base), []
    model.blocks[0].register_forward_pre_hook(
        lambda block, x, inputs: given.append(inputs["rotation"]), with_kwargs=True
    )
    model(torch.zeros(1, 5, dtype=torch.long))
    ((cosine, sine),) = given
    dims = dims or 8
    for place in range(5):
        angles = [place * base ** (-2 * i / dims) for i in range(dims // 2)]
        assert cosine[place].tolist() == pytest.approx([math.cos(a) for a in angles], abs=1e-6)
        assert sine[place].tolist() == pytest.approx([math.sin(a) for a in angles], abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_cross_entropy_of_the_logits(family):
    model = make(family)
    tokens, targets = torch.randint(0, 61, (2, 2, 24)).unbind(0)
    loss = model.loss(TokenBatch(tokens, targets))
    plain = torch.nn.functional.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.total, plain)
    assert loss.count == 48


def test_dropout_is_drawn_from_the_seed_and_off_in_evaluation():
    model = make("gpt2", dropout=0.5)
    batch = TokenBatch(*torch.randint(0, 61, (2, 2, 24)).unbind(0))

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model.loss(batch).value)

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt3"])
def test_stated_costs_are_torchs_count_within_one_percent(family):
    model = make(family, vocabulary=512, context=64, width=64)
    batch = TokenBatch(*torch.randint(0, 512, (2, 4, 64)).unbind(0))
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model.loss(batch).total.backward()
    stated = model.flops_per_token(64) * 4 * 64
    assert stated == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert model.config.parameters() == sum(p.numel() for p in model.parameters())


def test_a_band_costs_what_it_sees():
    dense, banded = make("gpt2", depth=4), make("gpt3", depth=4, band=6)
    saved = dense.flops_per_token(24) - banded.flops_per_token(24)
    assert saved == 2 * 12 * 32 * (24 - 6)  # two of four blocks


def test_the_cache_grows_by_what_is_stated():
    model = make("llama")
    keys = model.cache(batch=1, room=7)
    held = sum(c.keys.nbytes + c.values.nbytes for c in keys)
    assert held == 7 * model.kv_bytes_per_token()
    assert make("palm").kv_bytes_per_token() * 4 == make("gpt2").kv_bytes_per_token()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"width": 100, "heads": 12},
            "width 100 is not divisible by heads 12: use heads 10 or width 108",
        ),
        ({"kv_heads": 3}, "heads 4 is not divisible by kv_heads 3"),
        ({"rotary_dims": 9}, "rotary_dims 9 does not fit a head of 64"),
        ({"depth": 0}, "depth is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_mend(change, message):
    with pytest.raises(WrongUse, match=message):
        DecoderConfig(**change)


def test_no_parameter_is_left_unfilled():
    model = Decoder(families.bloom(**SIZES))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)
    model.initialise(0)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    again = Decoder(families.bloom(**SIZES)).initialise(0)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_initialisation_depends_on_names_and_not_on_neighbours():
    """Adding a block leaves the parameters of the others as they were."""
    small, large = make("llama", depth=2), make("llama", depth=3)
    own = {p.name: p.tensor for p in declared(small)}
    for p in declared(large):
        if p.name in own and not p.residual:
            assert torch.equal(p.tensor, own[p.name])


def test_config_round_trips_through_replace():
    config = DecoderConfig(parametrisation=Parametrisation(base_width=64))
    assert dataclasses.replace(config) == config
    assert config.inner == 704  # 8/3 of 256, up to a multiple of 32
