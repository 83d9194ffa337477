"""Compiled kernels and bf16: the same model to rounding, and the same run when resumed."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import same_steps

from maquette.base.machine import Machine
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.decoder import Decoder
from maquette.nn import fused
from maquette.training import decide as deciding
from maquette.training.decide import decide
from maquette.training.run import RunDirectory
from maquette.workshop.train import train

needs_compiler = pytest.mark.skipif(not deciding.compiler(), reason="no C++ compiler here")


def gradients(model: Decoder, batch: TokenBatch) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = model.loss(batch)
    (loss.total / loss.count).backward()
    return float(loss.value / loss.count), [p.grad.float() for p in model.parameters()]


@needs_compiler
@pytest.mark.slow
def test_compiled_blocks_compute_what_plain_ones_do():
    """Grouped queries, a band, documents, several tiles: everything the kernels know at once."""
    config = families.llama(
        vocabulary=300, context=160, width=64, depth=2, heads=4, kv_heads=2, band=40
    )
    model = Decoder(config).initialise(0)
    torch.manual_seed(0)
    tokens = torch.randint(0, 300, (2, 161))
    document_ids = torch.arange(160).div(70, rounding_mode="floor").repeat(2, 1)
    positions = torch.arange(160).remainder(70).repeat(2, 1)
    batch = TokenBatch(
        tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), document_ids, positions
    )
    plain_loss, plain = gradients(model, batch)
    model.compile_blocks()
    with fused.compilation(True):
        loss, found = gradients(model, batch)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_bf16_is_fp32_to_rounding():
    model = Decoder(
        families.gpt2(vocabulary=99, context=32, width=64, depth=2, heads=4)
    ).initialise(0)
    batch = TokenBatch(*torch.randint(0, 99, (2, 4, 32)).unbind(0))
    exact_loss, exact = gradients(model, batch)
    model.compute = torch.bfloat16
    loss, found = gradients(model, batch)
    assert loss == pytest.approx(exact_loss, rel=5e-3)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    a, b = torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in exact])
    assert float((a - b).norm() / b.norm()) < 0.05


@needs_compiler
@pytest.mark.slow
def test_a_compiled_bf16_run_resumes_bit_for_bit(recipe, tmp_path):
    recipe = replace(recipe, precision="bf16", compile="on", steps=9)
    train(recipe, tmp_path / "whole")
    train(replace(recipe, stop=4), tmp_path / "parts")
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (RunDirectory(tmp_path / n).records() for n in ("whole", "parts"))
    parts[3].pop("heldout_loss")
    same_steps(whole, parts)


def machine(**changes) -> Machine:
    known = {
        "device": "cpu", "processor": "p", "cores": 2, "threads": 2, "memory": 1, "torch": "t",
        "fp32_flops": 1e11, "bf16_flops": 1e11, "bandwidth": 1e10,
    }  # fmt: skip
    return Machine(**(known | changes))


def test_precision_is_the_probes_decision(recipe):
    model = recipe.model.build().initialise(0)
    auto = replace(recipe, precision="auto")
    assert decide(auto, machine(), model).precision == "fp32"
    assert decide(auto, machine(bf16_flops=2e11), model).precision == "bf16"
    assert (
        decide(replace(auto, precision="fp32"), machine(bf16_flops=2e11), model).precision == "fp32"
    )


@pytest.mark.parametrize(("plain", "compiled", "on"), [(2.0, 1.0, True), (1.0, 1.1, False)])
def test_compilation_is_a_measurements_decision(plain, compiled, on, recipe, monkeypatch):
    model = recipe.model.build().initialise(0)
    long = replace(recipe, compile="auto", steps=10_000_000, seed=int(10 * plain))
    calls = []

    def measured(*_):
        calls.append(1)
        return {"plain": plain, "compiled": compiled, "compilation": 1.0}

    monkeypatch.setattr(deciding, "measure_block", measured)
    one = machine(processor=f"p{plain}")
    assert decide(long, one, model).compile is on
    assert decide(long, one, model).compile is on  # kept, not measured again
    assert len(calls) == 1
    assert "ms compiled" in decide(long, one, model).why["compile"]
    short = decide(replace(long, steps=5), one, model)
    assert not short.compile
    assert "too short" in short.why["compile"]


def test_a_compiler_that_fails_is_a_warning_and_no_end(recipe, monkeypatch):
    model = recipe.model.build().initialise(0)

    def broken(*_):
        raise RuntimeError("the compiler said no\nand more")

    monkeypatch.setattr(deciding, "measure_block", broken)
    long = replace(recipe, compile="auto", steps=10_000_000)
    with pytest.warns(
        UserWarning, match="compilation failed, going on without: the compiler said no"
    ):
        assert not decide(long, machine(processor="q"), model).compile
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C++ compiler" in decide(long, machine(processor="r"), model).why["compile"]
