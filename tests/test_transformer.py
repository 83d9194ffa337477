"""The block of every model, and the stack: caches, recomputation and compilation."""

from collections import Counter

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from maquette.models import families
from maquette.models.base import PictureBatch, TokenBatch
from maquette.models.clip_config import ClipConfig
from maquette.models.cnn_config import CNNConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.prior_config import PriorConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.models.vit_config import ViTConfig
from maquette.nn.mask import Mask
from maquette.nn.parametrisation import initialise
from maquette.nn.rules import Parametrisation, Scaling
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock

WIDTH, CONTEXT = 16, 12


def block(**settings) -> TransformerBlock:
    scaling = Scaling(Parametrisation(base_width=WIDTH, base_depth=1, base_head_dim=4), WIDTH, 2)
    made = TransformerBlock(WIDTH, 4, scaling, **settings)
    initialise(made, scaling, 0)
    return made


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


KINDS = {
    "encoder-decoder": {"context": CONTEXT},
    "grouped": {"kv_heads": 2, "norm": "rmsnorm", "norm_bias": False, "activation": "swiglu"},
    "parallel": {"parallel": True, "head_dim": 8},
    "modulated": {"context": CONTEXT, "condition": 6},
}


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_with_caches_is_the_whole_sequence(kind):
    """A decoder of an encoder-decoder reads the encoder's output once, at its first step."""
    stack = Stack(block(**KINDS[kind]) for _ in range(2)).eval()
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * draw(*p.shape))  # gates, too
    x, inputs = draw(3, 9, WIDTH), {}
    if "condition" in KINDS[kind]:
        inputs["condition"] = draw(3, 6)
    context = {}
    if "context" in KINDS[kind]:
        inputs["context_mask"] = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
        context["context"] = draw(3, 4, CONTEXT)
    with torch.no_grad():
        whole = stack(x, mask=Mask(causal=True), **inputs, **context)
        caches = stack.make_caches(3, 9, x.dtype, x.device)
        parts = [stack(x[:, :4], mask=Mask(causal=True), caches=caches, **inputs, **context)]
        for i in range(4, 9):  # without the context: it is in the caches
            one = x[:, i : i + 1]
            parts.append(stack(one, mask=Mask(causal=True), caches=caches, **inputs))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    if context:
        assert caches[0].context[0].shape == (3, 4, 4, 4)
        other = stack(x, mask=Mask(causal=True), context=-context["context"], **inputs)
        assert not torch.allclose(other, whole, atol=1e-3)  # or the test would hold without it


def test_the_context_counts_up_to_its_mask():
    one = block(context=CONTEXT)
    x, context = draw(2, 5, WIDTH), draw(2, 4, CONTEXT)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    changed = context.clone()
    changed[:, 2:] = 9.0
    a, b = (one(x, mask=Mask(), context=c, context_mask=mask) for c in (context, changed))
    assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])


def test_a_bias_reaches_the_scores_of_every_block_and_gathers_all_their_gradients():
    stack = Stack(block() for _ in range(2))
    x, bias = draw(2, 5, WIDTH), draw(4, 5, 5).requires_grad_()
    assert not torch.allclose(stack(x, mask=Mask(), bias=bias), stack(x, mask=Mask()))
    loss = stack(x, mask=Mask(), bias=bias).square().sum()
    (whole,) = torch.autograd.grad(loss, bias)
    last = stack[1](stack[0](x, mask=Mask(), bias=bias).detach(), mask=Mask(), bias=bias)
    (second,) = torch.autograd.grad(last.square().sum(), bias)
    assert second.abs().max() > 0 and not torch.allclose(whole, second)


def test_a_mask_for_all_blocks_or_one_for_each():
    stack = Stack(block() for _ in range(2))
    x, causal, all_ = draw(1, 6, WIDTH), Mask(causal=True), Mask()
    expected = stack[1](stack[0](x, mask=causal), mask=all_)
    assert torch.equal(stack(x, mask=[causal, all_]), expected)
    assert torch.equal(stack(x, mask=causal), stack(x, mask=[causal, causal]))


CAPTIONS = {"vocabulary": 9, "caption_length": 5}
RULES = {"parametrisation": Parametrisation(base_width=16, base_depth=1, base_head_dim=4)}
MODELS = {
    "decoder": families.gpt2(vocabulary=9, context=8, width=16, depth=3, heads=2,
                             dropout=0.2),
    "smlp": SMLPConfig(vocabulary=9, context=8, width=16, dense=2, sparse=1, dropout=0.2),
    "vit": ViTConfig(image_size=8, patch=4, width=16, depth=3, heads=2, classes=(3,), **RULES),
    "cnn": CNNConfig(image_size=8, width=8, depth=2, classes=(3,), **RULES),
    "clip": ClipConfig(image_size=8, patch=4, width=16, depth=3, heads=2, text_width=16, text_depth=3,
                       text_heads=2, embedding=8, **CAPTIONS, **RULES),
    "dit": DiffusionConfig(backbone="dit", image_size=8, patch=4, width=16, depth=3, heads=2,
                           condition="text", text_width=16, text_depth=2, text_heads=2, **CAPTIONS,
                           **RULES),
    "unet": DiffusionConfig(image_size=8, width=16, multipliers=(1, 2), heads=2, depth=1, attention=(4,),
                            condition="text", text_width=16, text_depth=1, text_heads=2,
                            **CAPTIONS, **RULES),
    "prior": PriorConfig(embedding=8, width=16, depth=3, heads=2, **CAPTIONS, **RULES),
    "super-resolution": SuperResolutionConfig(image_size=16, width=8, depth=3, **RULES),
}  # fmt: skip


def batch(kind: str) -> TokenBatch | PictureBatch:
    generator = torch.Generator().manual_seed(0)
    if kind in ("decoder", "smlp"):
        rows = torch.randint(0, 9, (2, 9), generator=generator)
        return TokenBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    side = MODELS[kind].image_size if kind != "prior" else 8
    captions = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 0, 0, 0, 0], [7, 8, 1, 2, 0]])
    unit = torch.nn.functional.normalize(torch.randn(2, 4, 8, generator=generator), dim=2)
    pictures = torch.rand(4, 3, side, side, generator=generator)
    return PictureBatch(pictures, captions, torch.tensor([[0], [1], [2], [0]]), *unit)


@pytest.mark.parametrize("kind", MODELS)
def test_recomputing_activations_changes_no_gradient_of_any_model(kind):
    """Every block runs again in the backward pass, and random numbers are drawn as before."""
    model, gradients = MODELS[kind].build().initialise(0).train(), []
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * draw(*p.shape))  # what starts at 0 hides gradients
    blocks, runs = [one for stack in model.stacks() for one in stack], Counter()
    assert len(blocks) >= 3
    for one in blocks:
        one.register_forward_pre_hook(lambda one, _: runs.update([one]))
    for recompute in (False, True):
        model.recompute = recompute
        assert model.recompute == recompute
        runs.clear()
        model.zero_grad()
        torch.manual_seed(3)
        model.loss(batch(kind)).total.backward()
        assert runs == dict.fromkeys(blocks, 1 + recompute)
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_run_again_in_the_backward_pass_alone(recompute):
    stack, runs = Stack(block(dropout=0.5) for _ in range(2)), []
    stack.recompute = recompute
    for one in stack:
        one.feedforward.register_forward_hook(lambda *_: runs.append(1))
    x = draw(2, 5, WIDTH).requires_grad_()
    torch.manual_seed(0)
    y = stack(x, mask=Mask(causal=True))
    assert len(runs) == 2
    y.square().sum().backward()
    assert len(runs) == (4 if recompute else 2)
    stack.recompute = False
    torch.manual_seed(0)  # the same places are dropped in both passes
    (expected,) = torch.autograd.grad(stack(x, mask=Mask(causal=True)).square().sum(), x)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize(("family", "kinds"), [("gpt2", 1), ("gpt3", 2), ("bloom", 1)])
def test_each_kind_of_block_is_compiled_once(family, kinds, monkeypatch):
    """Dense and banded blocks are two kinds; a model of another depth brings no third."""
    torch._dynamo.reset()
    counter, compile_ = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **k: compile_(self, backend=counter, **k)
    )
    make, tokens = getattr(families, family), torch.randint(0, 9, (2, 8))
    sizes = {"vocabulary": 9, "context": 8, "width": 16, "heads": 2}
    sizes |= {"band": 3} if family == "gpt3" else {}
    for depth in (4, 6):
        model = make(**sizes, depth=depth).build().initialise(0).eval()
        with torch.no_grad():
            plain = model(tokens)
            model.compile_blocks()
            torch.testing.assert_close(model(tokens), plain)
    assert counter.frame_count == kinds
    torch._dynamo.reset()


def test_a_compiled_block_takes_a_prepared_mask_in_one_graph():
    """FlexAttention inside a compiled block: other documents need no other graph."""
    from maquette.nn.flex_attention import with_blocks

    torch._dynamo.reset()
    one, x, counter = block(alibi=True, kv_heads=2).eval(), draw(2, 150, WIDTH), CompileCounter()
    compiled = torch.compile(one, backend=counter, fullgraph=True, dynamic=False)
    for length in (40, 70):
        ids = torch.arange(150).div(length, rounding_mode="floor").repeat(2, 1)
        mask = Mask(causal=True, window=60, document_ids=ids)
        prepared = with_blocks(mask, 2, 150, x.device, compiled=False)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, mask=prepared), one(x, mask=mask))
    assert counter.frame_count == 1
    torch._dynamo.reset()
