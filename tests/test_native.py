"""The row kernels: what torch computes, for every mask, width and number of threads."""

from dataclasses import replace

import pytest
import torch
from conftest import same_steps
from test_attention import MASKS, inputs, masks, reference
from test_compiled import machine
from torch.nn import functional as F

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import BiasConfig, LoRAConfig
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.decoder import Decoder
from maquette.nn import native, native_operators, native_rows
from maquette.nn.feedforward import FeedForward
from maquette.nn.linear import Linear
from maquette.nn.loss import linear_cross_entropy
from maquette.nn.norm import LayerNorm, RMSNorm
from maquette.nn.position import rotary_table, rotate
from maquette.nn.tiled_attention import tiled_attention
from maquette.training.decide import decide
from maquette.training.run import RunDirectory
from maquette.workshop.train import train

TYPES = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 0.05, "rtol": 0.03}}

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def _kernels():
    with native.kernels(True):
        yield


def filled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return module


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_and_its_gradient(name, kv_heads, dtype, monkeypatch):
    """Tiles of 40 rows of 75: shorter than a vector of keys, longer, and cut by a band."""
    monkeypatch.setattr("maquette.nn.tiled_attention.ROWS", 40)
    q, k, v = inputs(2, 4, kv_heads, 75, 8)
    mask, slopes = masks(name, 4, 2, 75)
    expected = reference(q, k, v, 0.3, mask.window, slopes, mask.document_ids)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    lower = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
    found = tiled_attention(*lower, 0.3, mask.window, slopes, mask.document_ids)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, **CLOSE[dtype])
    gradients = torch.autograd.grad((found.float() * weights).sum(), lower)
    for a, b in zip(gradients, wanted, strict=True):
        assert float((a.float() - b).norm() / b.norm()) < CLOSE[dtype]["rtol"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", native_operators.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_layers_and_their_gradients(activation, bias, dtype):
    layer = filled(FeedForward(24, 70, activation, bias=bias))
    x = torch.randn(3, 5, 24).mul(2).to(dtype)

    def computed(on):
        one = x.clone().requires_grad_()
        with native.kernels(on):
            y = layer(one)
            gradients = torch.autograd.grad(y.float().square().sum(), [one, *layer.parameters()])
        return [y.detach(), *gradients]

    for a, b in zip(computed(True), computed(False), strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm() / b.float().norm()) < CLOSE[dtype]["rtol"]


def test_the_activation_is_exact_where_it_is_steep_and_where_it_is_flat():
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.linspace(-1000, 1000, 401)])
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    F.gelu(exact, approximate="tanh").sum().backward()
    y = native_operators.activate(x, None, "gelu_tanh")
    y.sum().backward()
    torch.testing.assert_close(y.double(), F.gelu(exact, approximate="tanh"), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=3e-5, rtol=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_cross_entropy_and_its_gradient(dtype):
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 16).to(dtype), torch.randn(37, 16)
    targets = torch.randint(0, 37, (40,))
    targets[::5] = -1

    def computed(on, bias):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        b = bias.clone().requires_grad_()
        with native.kernels(on):
            total, entropy = linear_cross_entropy(h, w, targets, b, 1.5, 0.01)
            plain = linear_cross_entropy(h.detach(), w.detach(), targets)[1]
            return [total.detach(), entropy, plain, *torch.autograd.grad(total, (h, w, b))]

    bias = torch.randn(37)
    for a, b in zip(computed(True, bias), computed(False, bias), strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm() / b.float().norm()) < CLOSE[dtype]["rtol"]


@pytest.mark.parametrize("kind", [LoRAConfig, BiasConfig])
def test_an_adapter_takes_part(kind):
    """Its hooks on a map whose bias a kernel would add."""
    model = Decoder(families.gpt2(vocabulary=40, context=16, width=32, depth=1, heads=2))
    model.initialise(0)
    batch = TokenBatch(*torch.randint(0, 40, (2, 3, 16)).unbind(0))
    plain = float(model.loss(batch).value)
    adapter = kind().build(model)
    adapter.initialise(model, 0)
    attach(model, "new", adapter)
    for p in adapter.parameters():
        torch.nn.init.normal_(p, std=0.3)
    found = float(model.loss(batch).value)
    with native.kernels(False):
        wanted = float(model.loss(batch).value)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert abs(found - plain) > 1e-3


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (5, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_linear_maps_and_their_gradients(shape, bias, frozen, dtype):
    """Wider and narrower, in whole blocks and not; a frozen map passes its gradient on."""
    linear = filled(Linear(*shape, bias=bias))
    linear.weight.requires_grad_(not frozen)
    x = torch.randn(2, 43, shape[0]).to(dtype)
    learning = [p for p in linear.parameters() if p.requires_grad]

    def computed(on):
        one = x.clone().requires_grad_()
        with native.kernels(on):
            y = linear(one)
            return [y.detach(), *torch.autograd.grad(y.float().cos().sum(), [one, *learning])]

    for a, b in zip(computed(True), computed(False), strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm() / b.float().norm()) < CLOSE[dtype]["rtol"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("norm", [RMSNorm(45), LayerNorm(45), LayerNorm(45, bias=True)])
def test_norms_and_their_gradients(norm, dtype):
    norm = filled(norm)
    x = torch.randn(3, 23, 45).to(dtype)

    def computed(on):
        one = x.clone().requires_grad_()
        with native.kernels(on):
            y = norm(one)
            learning = [one, *norm.parameters()]
            return [y.detach(), *torch.autograd.grad(y.float().cos().sum(), learning)]

    for a, b in zip(computed(True), computed(False), strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm() / b.float().norm()) < CLOSE[dtype]["rtol"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("own", [True, False])
def test_rotary_embeddings_and_their_gradients(pairs, own, dtype):
    """Of a part of wider rows, with the rest of each head left as it is."""
    qkv = torch.randn(2, 7, 6, 20).to(dtype)
    positions = torch.stack([torch.arange(7), torch.arange(3, 10)]) if own else torch.arange(7)
    table = rotary_table(positions, 12, 100.0)

    def computed(on):
        one = qkv.clone().requires_grad_()
        with native.kernels(on):
            y = rotate(one.split((3, 2, 1), dim=2)[1], *table, pairs)
            return [y.detach(), *torch.autograd.grad(y.float().cos().sum(), one)]

    for a, b in zip(computed(True), computed(False), strict=True):
        torch.testing.assert_close(a, b, **CLOSE[dtype])


def test_the_result_does_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    x = torch.randn(300, 20)
    bias = torch.randn(20)
    q, k, v = inputs(2, 2, 2, 50, 8)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            d_x, d_bias = native_operators._activate_backward(x, x, bias, "gelu_tanh")
            results.append([d_x, d_bias, tiled_attention(q, k, v, 0.3)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_no_number_stays_so():
    """The guard of a run sees it in the loss."""
    scores = torch.zeros(1, 1, 3, 40)
    scores[0, 0, 1, 1] = torch.nan
    tile = native_rows.make_tile(scores, 0, 0, 0, 1.0, None, None)
    assert native_rows.softmax_(scores, tile).isnan().tolist() == [[[False, True, False]]]
    x = torch.tensor([[torch.nan, 1.0]])
    assert native_operators.activate(x, None, "gelu_tanh").isnan().tolist() == [[True, False]]
    loss, _ = native_rows.cross_entropy_(x.clone(), None, torch.tensor([1]), 1.0, 0.0, True)
    assert loss.isnan().all()


def test_a_target_that_is_no_token_is_an_error():
    with pytest.raises(IndexError, match="target 7 of 7 logits"):
        native_rows.cross_entropy_(torch.zeros(1, 7), None, torch.tensor([7]), 1.0, 0.0, True)


def test_recomputed_blocks_have_the_same_gradients():
    model = Decoder(families.gpt2(vocabulary=40, context=16, width=32, depth=2, heads=2))
    model.initialise(0)
    batch = TokenBatch(*torch.randint(0, 40, (2, 3, 16)).unbind(0))
    found = []
    for recompute in (False, True):
        model.recompute = recompute
        loss = model.loss(batch)
        found.append(torch.autograd.grad(loss.total, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_custom_operators_keep_their_promises_to_torch():
    for strides in (False, True):
        x = torch.randn(6, 4).T if strides else torch.randn(4, 6)
        x.requires_grad_()
        for activation, bias in (("gelu_tanh", torch.randn(6)), ("swiglu", None)):
            torch.library.opcheck(native_operators._activate, (x, bias, activation))
        torch.library.opcheck(native_operators._rms_norm, (x, torch.randn(6), 1e-5))
        torch.library.opcheck(
            native_operators._layer_norm, (x, torch.randn(6), torch.randn(6), 1e-5)
        )
        torch.library.opcheck(native_operators._linear, (x, torch.randn(3, 6), torch.randn(3)))
        q = torch.randn(2, 3, 6, 4).transpose(2, 3) if strides else torch.randn(2, 3, 4, 6)
        q.requires_grad_()
        table = rotary_table(torch.arange(3), 4, 100.0)
        torch.library.opcheck(native_operators._rotate, (q, *table, False, 1.0))


def test_parameters_of_any_precision_and_document_ids_of_one_row_are_taken():
    x, weight, bias = torch.randn(3, 6), torch.randn(2, 6), torch.randn(2).to(torch.bfloat16)
    torch.testing.assert_close(
        native_operators.linear(x, weight, bias), F.linear(x, weight, bias.float())
    )
    assert Linear(6, 2).forward(torch.randn(6)).shape == (2,)
    q, k, v = inputs(3, 2, 2, 9, 8)
    ids = torch.tensor([[0] * 4 + [1] * 5])
    shared = tiled_attention(q, k, v, 0.3, document_ids=ids)
    torch.testing.assert_close(shared, tiled_attention(q, k, v, 0.3, document_ids=ids.repeat(3, 1)))


def test_they_are_used_where_a_run_does_not_say_off(recipe, monkeypatch):
    model = recipe.model.build().initialise(0)
    for compile_, kernels in (("kernels", True), ("auto", True), ("off", False)):
        assert decide(replace(recipe, compile=compile_), machine(), model).kernels is kernels
    monkeypatch.setattr(native, "library", lambda: None)
    assert not decide(replace(recipe, compile="kernels"), machine(), model).kernels


def test_a_compiler_that_fails_is_a_warning_and_no_end(monkeypatch, tmp_path):
    broken = tmp_path / "kernels.cpp"
    broken.write_text("this is no program", encoding="utf-8")
    monkeypatch.setattr(native, "SOURCE", broken)
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path / "home"))
    with pytest.warns(UserWarning, match="does not build the kernels, going on without: .*error"):
        assert native.library.__wrapped__() is None
    assert not list((tmp_path / "home").rglob("*.so"))


def test_a_home_that_cannot_be_written_is_a_warning_and_no_end(monkeypatch, tmp_path):
    (tmp_path / "home").write_text("a file in the way", encoding="utf-8")
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path / "home"))
    with pytest.warns(UserWarning, match="does not build the kernels, going on without"):
        assert native.library.__wrapped__() is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_resumes_bit_for_bit(precision, recipe, tmp_path):
    recipe = replace(recipe, precision=precision, compile="kernels", steps=9)
    train(recipe, tmp_path / "whole")
    train(replace(recipe, stop=4), tmp_path / "parts")
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (RunDirectory(tmp_path / n).records() for n in ("whole", "parts"))
    parts[3].pop("heldout_loss")
    same_steps(whole, parts)
