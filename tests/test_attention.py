"""Attention against a plain reference: every mask, every grouping, both engines, both directions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.nn import flex_attention, fused
from maquette.nn.attention import attend
from maquette.nn.flex_attention import with_blocks
from maquette.nn.mask import Mask
from maquette.nn.position import alibi_slopes, rotary_table, rotate
from maquette.nn.tiled_attention import _forward, tiled_attention


def reference(q, k, v, scale, window, slopes, document_ids):
    """Attention as written in the paper, one score at a time."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    keys, queries = k.shape[2], q.shape[2]
    scores = q @ k.transpose(2, 3) * scale
    for i in range(queries):
        for j in range(keys):
            place = i + keys - queries
            hidden = j > place or (window is not None and j <= place - window)
            if hidden:
                scores[:, :, i, j] = -torch.inf
            elif slopes is not None:
                scores[:, :, i, j] += slopes * (j - place)
            if document_ids is not None:
                other = document_ids[:, place] != document_ids[:, j]
                scores[other, :, i, j] = -torch.inf
    return scores.softmax(-1) @ v


def inputs(batch, heads, kv_heads, time, dim, seed=0):
    torch.manual_seed(seed)
    q = torch.randn(batch, heads, time, dim, requires_grad=True)
    k, v = (torch.randn(batch, kv_heads, time, dim, requires_grad=True) for _ in range(2))
    return q, k, v


MASKS = ["causal", "window", "alibi", "documents", "everything"]


def masks(name, heads, batch, time):
    window = 5 if name in ("window", "everything") else None
    slopes = torch.tensor(alibi_slopes(heads)) if name in ("alibi", "everything") else None
    document_ids = None
    if name in ("documents", "everything"):
        document_ids = torch.arange(time).div(7, rounding_mode="floor").repeat(batch, 1)
        document_ids[1:] = torch.arange(time).div(11, rounding_mode="floor")
    return Mask(causal=True, window=window, document_ids=document_ids), slopes


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("engine", ["sdpa", "tiled"])
def test_both_engines_compute_attention_and_its_gradient(
    name, heads, kv_heads, engine, monkeypatch
):
    monkeypatch.setattr("maquette.nn.tiled_attention.ROWS", 8)  # several tiles, the last one short
    monkeypatch.setattr("maquette.nn.tiled_attention.TILE_BYTES", 4 * heads * 8 * 21)
    q, k, v = inputs(3, heads, kv_heads, 21, 8)
    mask, slopes = masks(name, heads, 3, 21)
    expected = reference(q, k, v, 0.3, mask.window, slopes, mask.document_ids)
    if engine == "tiled":
        found = tiled_attention(q, k, v, 0.3, mask.window, slopes, mask.document_ids)
    else:
        found = attend(q, k, v, mask, scale=0.3, slopes=slopes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    given_ = torch.autograd.grad((found * weights).sum(), (q, k, v))
    for a, b in zip(given_, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", MASKS)
def test_flex_attention_computes_what_the_dense_mask_does(name):
    """By torch's reference on a processor, which has no gradient: the rule and the slopes are tested."""
    q, k, v = (t.detach() for t in inputs(2, 4, 2, 200, 8))
    mask, slopes = masks(name, 4, 2, 200)
    prepared = with_blocks(mask, 2, 200, q.device, compiled=False)
    assert prepared.block_mask is not None and mask.block_mask is None
    found = attend(q, k, v, prepared, scale=0.3, slopes=slopes)
    torch.testing.assert_close(found, attend(q, k, v, mask, scale=0.3, slopes=slopes))


def test_masks_are_prepared_for_flex_attention_on_a_gpu_that_compiles_alone(monkeypatch):
    """Not for a plain causal mask, and not where the kernel fails on this machine."""
    gpu, made = torch.device("cuda", 0), []
    monkeypatch.setattr(flex_attention, "with_blocks", lambda mask, *_: made.append(mask) or mask)
    monkeypatch.setattr(flex_attention, "works", lambda *heads: heads[0] == 4)
    banded = Mask(causal=True, window=3)

    def prepares(mask, *, device=gpu, time=128, slopes=False, heads=4, on=True):
        made.clear()
        with fused.compilation(on):
            found = flex_attention.prepared(mask, 2, time, device, slopes, (heads, 2, 8))
        assert found is mask
        return bool(made)

    assert prepares(banded) and prepares(Mask(causal=True), slopes=True)
    assert not prepares(Mask(causal=True))
    assert not prepares(banded, device=torch.device("cpu")) and not prepares(banded, on=False)
    assert not prepares(banded, time=127) and not prepares(banded, heads=8)


def test_a_kernel_that_fails_or_is_wrong_is_told_and_left(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel\nand a long trace")

    works = flex_attention.works.__wrapped__
    monkeypatch.setattr(flex_attention, "_error", broken)
    with pytest.warns(UserWarning, match="going on with dense masks: no such kernel$"):
        assert not works(4, 2, 8, torch.device("cpu"))
    monkeypatch.setattr(flex_attention, "_error", lambda *_: 0.5)
    with pytest.warns(UserWarning, match="off by 0.5"):
        assert not works(4, 2, 8, torch.device("cpu"))
    monkeypatch.setattr(flex_attention, "_error", lambda *_: 0.001)
    assert works(4, 2, 8, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MASKS)
def test_flex_attention_on_a_gpu_is_the_dense_mask_with_its_gradient(name):
    gpu = torch.device("cuda", 0)
    q, k, v = (t.detach().to(gpu).requires_grad_() for t in inputs(2, 4, 2, 300, 64))
    mask, slopes = masks(name, 4, 2, 300)
    if mask.document_ids is not None:
        mask.document_ids = mask.document_ids.to(gpu)
    slopes = None if slopes is None else slopes.to(gpu)
    assert flex_attention.works(4, 2, 64, gpu)
    prepared = with_blocks(mask, 2, 300, gpu, compiled=True)
    results = [attend(q, k, v, m, scale=0.3, slopes=slopes) for m in (prepared, mask)]
    torch.testing.assert_close(*results, atol=0.02, rtol=0.02)
    gradients = [torch.autograd.grad(y.square().sum(), (q, k, v)) for y in results]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("queries", [1, 3])
def test_the_last_queries_against_a_longer_cache(name, queries):
    q, k, v = inputs(2, 4, 2, 13, 8)
    mask, slopes = masks(name, 4, 2, 13)
    whole = attend(q, k, v, mask, scale=0.3, slopes=slopes)
    last = attend(q[:, :, -queries:], k, v, mask, scale=0.3, slopes=slopes)
    torch.testing.assert_close(last, whole[:, :, -queries:], atol=1e-5, rtol=1e-5)


def test_tiles_are_chosen_where_kernels_are_compiled_and_know_the_mask(monkeypatch):
    called = []
    monkeypatch.setattr(
        "maquette.nn.attention.tiled_attention", lambda *a: called.append(a) or a[0]
    )
    q, k, v = inputs(1, 2, 2, 4, 8)
    everything = torch.ones(1, 4, dtype=torch.bool)
    attend(q, k, v, Mask(causal=True), scale=1.0)
    assert not called
    with fused.compilation(True):
        attend(q, k, v, Mask(), scale=1.0)
        attend(q, k, v, Mask(causal=True, attention_mask=everything), scale=1.0)
        attend(q, k, v, Mask(causal=True), scale=1.0, bias=torch.zeros(2, 4, 4))
        assert not called
        attend(q, k, v, Mask(causal=True, window=3), scale=1.0)
    assert len(called) == 1


def test_a_bias_is_added_to_the_scores_and_learns():
    """Shared by the batch or not, with a mask and ALiBi beside it, under both ways to compute."""
    q, k, v = inputs(2, 4, 2, 9, 8)
    ids = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    mask, slopes = Mask(causal=True, document_ids=ids), torch.tensor(alibi_slopes(4))
    for shape in ((4, 9, 9), (2, 4, 9, 9)):
        bias = torch.randn(shape, requires_grad=True)
        place = torch.arange(9)
        scores = 0.3 * q @ k.repeat_interleave(2, 1).transpose(2, 3) + bias
        scores = scores + slopes[:, None, None] * (place - place[:, None])
        hidden = (place > place[:, None]) | (ids[:, :, None] != ids[:, None])[:, None]
        probabilities = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        expected = probabilities @ v.repeat_interleave(2, 1)
        for on in (False, True):
            with fused.compilation(on):
                found = attend(q, k, v, mask, scale=0.3, slopes=slopes, bias=bias)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            (wanted,) = torch.autograd.grad(expected.square().sum(), bias, retain_graph=True)
            (gradient,) = torch.autograd.grad(found.square().sum(), bias)
            torch.testing.assert_close(gradient, wanted, atol=2e-5, rtol=1e-4)
        assert (wanted == 0).any() and (wanted != 0).any()  # hidden pairs have none


def test_the_custom_operator_keeps_its_promises_to_torch():
    q, k, v = inputs(2, 4, 2, 9, 8)
    torch.library.opcheck(_forward, (q, k, v, 0.3, 0, None, None))


@settings(max_examples=20, deadline=None)
@given(
    shift=st.integers(0, 500),
    dims=st.sampled_from([4, 8]),
    pairs=st.sampled_from(["half", "interleaved"]),
)
def test_rotary_scores_depend_on_the_distance_alone(shift, dims, pairs):
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).unbind(0)

    def score(i, j):
        a = rotate(q, *rotary_table(torch.tensor([i]), dims, 100.0), pairs)
        b = rotate(k, *rotary_table(torch.tensor([j]), dims, 100.0), pairs)
        return (a * b).sum()

    assert abs(score(7, 3) - score(7 + shift, 3 + shift)) < 1e-3


def test_alibi_slopes_are_the_papers_and_bloom_s():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]  # section 3 of the paper
    assert alibi_slopes(4) == [2.0 ** (-2 * i) for i in range(1, 5)]
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for heads in (6, 12, 16):
        theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # slope times position
        assert [math.isclose(a, float(b[0, 1]), rel_tol=1e-6) for a, b in
                zip(alibi_slopes(heads), theirs, strict=True)] == [True] * heads  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_short_sequences_learn_by_plain_products_with_the_same_result(causal, monkeypatch):
    """In bf16 on a processor; the fused kernel in fp32 is the reference."""
    from maquette.nn import attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 12, 8, generator=generator) for _ in range(3))
    mask = torch.rand(2, 12, generator=generator) > 0.4
    mask[:, 0] = True

    def result(dtype):
        one, two, three = (t.detach().clone().to(dtype).requires_grad_() for t in (q, k, v))
        if causal:
            y = attend(one, two, three, Mask(causal=True), scale=0.3)
        else:
            y = attend(one, two, three, Mask(attention_mask=mask), scale=0.3)
        y.float().square().sum().backward()
        return [t.float() for t in (y, one.grad, two.grad, three.grad)]

    calls = []
    plain = attention._products
    monkeypatch.setattr(attention, "_products", lambda *a: calls.append(1) or plain(*a))
    expected = result(torch.float32)
    assert not calls
    found = result(torch.bfloat16)
    assert calls
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)
