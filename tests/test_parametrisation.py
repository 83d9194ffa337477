"""Maximal-update parametrisation: the table of rules, the multipliers, and that widths agree."""

import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.nn.linear import Linear
from maquette.nn.parametrisation import declared, initialise
from maquette.nn.rules import Parametrisation, Role, Scaling
from maquette.training.optimiser import make_optimiser, set_learning_rate
from maquette.training.recipe import Optimiser


def test_the_table_of_tensor_programs_v():
    """Width ratio 4, depth ratio 2: rates, decays, deviations and forward multipliers by role."""
    rules = Parametrisation(base_width=64, base_depth=4, embedding_std=0.5, output_multiplier=3.0)
    s = Scaling(rules, width=256, depth=8)
    hidden = s.multipliers(Role.HIDDEN, fan_in=256)
    assert (hidden.std, hidden.learning_rate, hidden.weight_decay) == (1 / 16, 0.25, 4.0)
    assert hidden.learning_rate * hidden.weight_decay == 1  # decay keeps its strength
    into, out = s.multipliers(Role.INPUT, 256), s.multipliers(Role.OUTPUT, 256)
    assert (into.std, into.learning_rate) == (0.5, 1.0)
    assert (out.std, out.learning_rate) == (1 / 8, 1.0)  # constant in width: 1/sqrt(base)
    assert s.multipliers(Role.VECTOR, 256).weight_decay == 0
    assert s.output_multiplier == 3.0 / 4
    assert s.residual_multiplier == 0.5
    assert s.attention_scale(64) == 1 / 8  # 1/sqrt(64) at the base head
    assert s.attention_scale(128) == 1 / 16  # 1/head beyond it


def test_standard_parametrisation_is_gpt2s():
    s = Scaling(Parametrisation(kind="standard"), width=256, depth=8)
    assert s.multipliers(Role.HIDDEN, 256).std == 0.02
    assert s.multipliers(Role.HIDDEN, 256, residual=True).std == 0.02 / 4
    assert s.output_multiplier == s.residual_multiplier == s.input_multiplier == 1
    assert s.attention_scale(64) == 1 / 8


def config(width: int, kind: str = "mup") -> DecoderConfig:
    return DecoderConfig(
        vocabulary=64, context=16, width=width, depth=2, heads=width // 16,
        parametrisation=Parametrisation(kind=kind, base_width=32, base_depth=2, base_head_dim=16),
    )  # fmt: skip


def test_parameters_start_with_their_roles_deviation():
    model = Decoder(config(128)).initialise(0)
    for p in declared(model):
        expected = model.scaling.multipliers(p.role, p.fan_in, p.residual).std
        if p.role == Role.VECTOR:
            assert (p.tensor == 1).all()
        else:
            assert float(p.tensor.std()) == pytest.approx(expected, rel=0.05), p.name


def test_every_group_gets_its_share_of_the_rate():
    model = Decoder(config(128)).initialise(0)
    settings = Optimiser(learning_rate=0.4, weight_decay=0.1)
    optimiser = make_optimiser(model, model.scaling, settings)
    set_learning_rate(optimiser, 0.2)
    found = {}
    for group in optimiser.param_groups:
        for p in group["params"]:
            found[id(p)] = (group["lr"], group["weight_decay"])
    roles = {p.role: found[id(p.tensor)] for p in declared(model)}
    assert roles[Role.HIDDEN] == (pytest.approx(0.05), pytest.approx(0.4))
    assert roles[Role.INPUT] == (pytest.approx(0.2), pytest.approx(0.1))
    assert roles[Role.VECTOR] == (pytest.approx(0.2), 0)
    assert len(found) == len(list(model.parameters()))


def test_a_shared_embedding_starts_and_learns_as_an_input_and_its_logits_are_divided():
    model = Decoder(replace(config(128), tied=True)).initialise(0)
    (shared,) = [p for p in declared(model) if p.tensor is model.output.weight]
    assert (shared.name, shared.role) == ("embedding.weight", Role.INPUT)
    assert float(shared.tensor.detach().std()) == pytest.approx(0.1, rel=0.05)
    x = torch.randn(3, 128)
    expected = x @ model.embedding.weight.T / 4
    assert torch.allclose(model.logits(x), expected, atol=1e-6)


def test_depth_scales_branches_and_hidden_rates():
    """Dey et al. 2025, table 1: l ** -exponent on branches, l ** (exponent - 1) on hidden rates."""
    for exponent in (0.5, 1.0):
        rules = Parametrisation(base_width=64, base_depth=4, depth_exponent=exponent)
        s = Scaling(rules, width=128, depth=16)
        assert s.residual_multiplier == 4**-exponent
        assert s.multipliers(Role.HIDDEN, 128).learning_rate == 4 ** (exponent - 1) / 2
        assert s.multipliers(Role.INPUT, 128).learning_rate == 1


def activation_growth(kind: str) -> float:
    """d log2(mean |residual stream|) / d log2(width) after five steps, widths 32 to 256."""
    sizes = {}
    for width in (32, 256):
        model = Decoder(config(width, kind)).initialise(1)
        optimiser = make_optimiser(model, model.scaling, Optimiser(learning_rate=2**-5))
        torch.manual_seed(0)
        tokens = torch.randint(0, 64, (8, 17))
        batch = TokenBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        for _ in range(5):
            loss = model.loss(batch)
            (loss.total / loss.count).backward()
            optimiser.step()
            optimiser.zero_grad()
        seen = []
        model.blocks[-1].register_forward_hook(lambda m, i, y, seen=seen: seen.append(y))
        with torch.no_grad():
            model(batch.tokens)
        sizes[width] = float(seen[0].abs().mean())
    return math.log2(sizes[256] / sizes[32]) / 3


def test_activations_keep_their_size_over_eight_widths_and_do_not_without():
    """The coordinate check (Yang et al. 2022, appendix D.1) with its negative control."""
    assert abs(activation_growth("mup")) < 0.2
    assert activation_growth("standard") > 0.5


class OurMLP(nn.Module):
    """Three maps whose modules declare their roles."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rules = Parametrisation(base_width=32, base_depth=1, output_multiplier=2.0)
        self.scaling = Scaling(rules, width, 1)
        self.first = Linear(10, width, role=Role.INPUT)
        self.up = Linear(width, 2 * width)
        self.down = Linear(2 * width, width)
        self.output = Linear(width, 5, role=Role.OUTPUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(torch.relu(self.up(torch.relu(self.first(x)))))
        return self.output(y) * self.scaling.output_multiplier


def their_mlp(width: int, mup) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(10, width, bias=False),
            a=nn.ReLU(),
            up=nn.Linear(width, 2 * width, bias=False),
            b=nn.ReLU(),
            down=nn.Linear(2 * width, width, bias=False),
            output=mup.MuReadout(width, 5, bias=False, output_mult=2.0),
        )
    )


class TheirAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, 16**0.5 / (width // heads)  # 1/d, as 1/sqrt(16) at 16
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT) * self.scale
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class TheirBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = TheirAttention(width, heads)
        self.feedforward_norm = nn.RMSNorm(width, eps=1e-5)
        self.feedforward = nn.Sequential(
            OrderedDict(
                up=nn.Linear(width, 4 * width, bias=False),
                act=nn.GELU(),
                down=nn.Linear(4 * width, width, bias=False),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feedforward(self.feedforward_norm(x))


class TheirDecoder(nn.Module):
    """The same transformer of torch's modules and the package's readout."""

    def __init__(self, width: int, heads: int, mup) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, width)
        self.position = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(TheirBlock(width, heads) for _ in range(2))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.output = mup.MuReadout(width, 64, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))


def our_decoder(width: int, heads: int) -> Decoder:
    rules = Parametrisation(base_width=32, base_depth=2, base_head_dim=16)
    config = DecoderConfig(
        vocabulary=64, context=16, width=width, depth=2, heads=heads, positions="learned",
        activation="gelu", parametrisation=rules,
    )  # fmt: skip
    return Decoder(config)


def a_pair(what: str, mup) -> tuple[nn.Module, nn.Module]:
    """One function twice: by our rules, and by the package's from base shapes at width 32."""
    if what == "MLP":
        ours: nn.Module = OurMLP(128)
        theirs, base, delta = (their_mlp(width, mup) for width in (128, 32, 64))
    else:  # heads of 16 that grow in number, or two heads that grow in size
        heads = {"heads": lambda width: width // 16, "head size": lambda width: 2}[what]
        ours = our_decoder(128, heads(128))
        theirs, base, delta = (TheirDecoder(w, heads(w), mup) for w in (128, 32, 64))
    initialise(ours, ours.scaling, seed=0)
    mup.set_base_shapes(theirs, base, delta=delta, do_assert=False)
    theirs.load_state_dict(ours.state_dict())
    return ours.double(), theirs.double()


def their_optimiser(model: nn.Module, settings: Optimiser, mup) -> torch.optim.Optimizer:
    """The package's AdamW. It decays gains as it does matrices, and here they are left alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    return mup.MuAdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
    )


@pytest.fixture
def mup():
    return pytest.importorskip("mup", reason="pip install --no-deps mup compares with its rules")


SETTINGS = Optimiser(learning_rate=0.02, weight_decay=0.1)


@pytest.mark.parametrize("what", ["MLP", "heads", "head size"])
def test_rates_decays_and_starts_are_the_mup_packages(what, mup):
    """Every tensor's rate and decay, and how its start narrows from the base width to this one."""
    ours, theirs = a_pair(what, mup)
    found = {}
    for model, optimiser in (
        (ours, make_optimiser(ours, ours.scaling, SETTINGS)),
        (theirs, their_optimiser(theirs, SETTINGS, mup)),
    ):
        names = {id(p): name for name, p in model.named_parameters()}
        found[model] = {
            names[id(p)]: (group["lr"], group["weight_decay"])
            for group in optimiser.param_groups
            for p in group["params"]
        }
    assert found[ours].keys() == found[theirs].keys()
    for name, values in found[ours].items():
        assert values == pytest.approx(found[theirs][name]), name
    base = replace(ours.scaling, width=32)
    shapes = dict(theirs.named_parameters())
    for p in declared(ours):
        if p.role == Role.VECTOR:
            continue
        grown = shapes[p.name].infshape[1]
        fan_in = grown.base_dim if grown.isinf() else p.fan_in
        start = ours.scaling.multipliers(p.role, p.fan_in).std
        narrowing = start / base.multipliers(p.role, fan_in).std
        scales: list[float] = []
        mup.init.constant_std_init_(
            shapes[p.name], lambda tensor, scale=1.0, into=scales: into.append(scale)
        )
        assert [narrowing] == pytest.approx(scales), p.name


@pytest.mark.parametrize("what", ["MLP", "heads", "head size"])
def test_three_steps_are_the_mup_packages(what, mup):
    """From equal weights: equal outputs before and after, decay included; and the width mattered."""
    ours, theirs = a_pair(what, mup)
    draw = torch.Generator().manual_seed(0)
    if what == "MLP":
        x = torch.randn(32, 10, generator=draw, dtype=torch.float64)
        target = torch.randint(0, 5, (32,), generator=draw)
    else:
        x = torch.randint(0, 64, (4, 16), generator=draw)
        target = torch.randint(0, 64, (64,), generator=draw)
    outputs = []
    for model, optimiser in (
        (ours, make_optimiser(ours, ours.scaling, SETTINGS)),
        (theirs, their_optimiser(theirs, SETTINGS, mup)),
    ):
        if isinstance(model, Decoder):
            model.compute = torch.float64
        steps = []
        for _ in range(4):
            y = model(x).double()
            steps.append(y.detach())
            torch.nn.functional.cross_entropy(y.flatten(0, -2), target).backward()
            optimiser.step()
            optimiser.zero_grad()
        outputs.append(torch.stack(steps))
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5
    assert (outputs[0][3] - outputs[0][0]).abs().max() > 0.1  # they did move
