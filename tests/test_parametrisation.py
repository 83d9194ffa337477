"""Maximal-update parametrisation: the table of rules, the multipliers, and that widths agree."""

import math

import pytest
import torch

from maquette.models.base import Batch
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.nn.parametrisation import declared
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


def activation_growth(kind: str) -> float:
    """d log2(mean |residual stream|) / d log2(width) after five steps, widths 32 to 256."""
    sizes = {}
    for width in (32, 256):
        model = Decoder(config(width, kind)).initialise(1)
        optimiser = make_optimiser(model, model.scaling, Optimiser(learning_rate=2**-5))
        torch.manual_seed(0)
        tokens = torch.randint(0, 64, (8, 17))
        batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
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
