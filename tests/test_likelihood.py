"""Likelihoods of many continuations: those of scoring one by one, however they are batched and shared."""

import functools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maquette.adaptation.adapters.adapter import attach, detach
from maquette.adaptation.adapters.config import LoRAConfig, PrefixConfig, PromptConfig
from maquette.base.errors import UserError
from maquette.corpus.tokenizer import byte_tokenizer, train_tokenizer
from maquette.evaluation import likelihood
from maquette.evaluation.encoding import PairEncoder, rolling_requests
from maquette.evaluation.likelihood import Likelihood, Request, log_likelihoods, truncated
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.models.smlp_config import SMLPConfig

SHAPE = {"vocabulary": 61, "context": 24, "width": 32, "depth": 3, "heads": 4}
MODELS = {
    "learned positions": families.gpt2(**SHAPE),
    "banded": DecoderConfig(**SHAPE, positions="learned", band=5),
    "banded rotary": DecoderConfig(**SHAPE, positions="rotary", band=5),
    "grouped rotary": families.llama(**SHAPE, kv_heads=2),
    "alibi": families.bloom(**SHAPE),
    "parallel, interleaved": DecoderConfig(**SHAPE, block="parallel", rotary_pairs="interleaved"),
    "no positions, one key head": DecoderConfig(**SHAPE, positions="none", kv_heads=1),
    "smlp": SMLPConfig(vocabulary=61, context=24, width=32),
}


def made(name):
    model = MODELS[name].build().initialise(0).eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():  # as initialised all scores are alike
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model


@torch.no_grad()
def one_by_one(model, request):
    full = torch.tensor((request.context + request.continuation)[-(model.config.context + 1) :])
    logits = model(full[None, :-1])[0, -len(request.continuation) :]
    wanted = full[-len(request.continuation) :]
    scores = logits.log_softmax(-1).gather(1, wanted[:, None]).double()
    return Likelihood(float(scores.sum()), bool((logits.argmax(-1) == wanted).all()))


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-4)
        assert a.greedy == b.greedy


def few_shot(model, seed, shots, questions, choices):
    """Requests as tasks make them: shots, questions of many lengths, choices that begin alike."""
    draw = random.Random(seed)

    def some(least, most):
        return tuple(draw.randrange(61) for _ in range(draw.randint(least, most)))

    prefix = some(shots, shots)
    requests = []
    for _ in range(questions):
        context = (*prefix, *some(1, 6))
        begun = some(0, 2)
        for _ in range(choices):
            requests.append(Request(context, (*begun, *some(1, 4))))
        with torch.no_grad():  # one that is greedy, too
            best = int(model(torch.tensor([context[-24:]]))[0, -1].argmax())
        requests.append(Request(context, (best,)))
    return requests


def of_no_numbers(model, monkeypatch):
    """Let what a cache holds before it is filled be NaN: what is hidden may not count by chance."""
    make = model.cache

    def cache(batch, room):
        layers = make(batch, room)
        for layer in layers:
            for tensor in vars(layer).values():
                if isinstance(tensor, torch.Tensor):
                    tensor.fill_(torch.nan)
        return layers

    monkeypatch.setattr(model, "cache", cache)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shots", [1, 11, 30])
def test_likelihoods_are_those_of_scoring_one_by_one(name, shots, monkeypatch):
    model = made(name)
    of_no_numbers(model, monkeypatch)
    requests = few_shot(model, shots, shots, questions=5, choices=3)
    found = log_likelihoods(model, requests)
    same(found, [one_by_one(model, r) for r in requests])
    assert any(one.greedy for one in found)
    assert not all(one.greedy for one in found)


@pytest.mark.parametrize("kind", [PromptConfig(length=3), PrefixConfig(length=3), LoRAConfig()])
def test_an_adapter_is_scored_with_every_request(kind):
    """What stands before the tokens of an adapted model is not in the keys and values of a shared text."""
    model = small_model()
    plain = few_shot(model, 5, 5, questions=4, choices=2)
    before = log_likelihoods(model, plain)
    adapter = kind.build(model)
    adapter.initialise(model, 0)
    attach(model, "new", adapter)
    try:
        for p in adapter.parameters():
            torch.nn.init.normal_(p, std=0.5)
        found = log_likelihoods(model, plain)
        same(found, [one_by_one(model, r) for r in plain])
    finally:
        detach(model, "new")  # other tests have the same model
    pairs = zip(found, before, strict=True)
    assert any(abs(a.log_likelihood - b.log_likelihood) > 1e-2 for a, b in pairs)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple)


@given(
    pairs=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=8),
    rows=st.integers(8, 40),
    depth=st.integers(0, 9),
)
def test_any_requests_in_batches_of_any_size(pairs, rows, depth):
    """Few symbols: many contexts are prefixes of others, and many inputs come twice."""
    model = small_model()
    requests = [Request(context, continuation[:20]) for context, continuation in pairs]
    settings = {"ROWS": rows, "SAVED": 1, "LONG": 1, "DEPTH": depth}
    kept = {name: getattr(likelihood, name) for name in settings}
    try:
        vars(likelihood).update(settings)
        found = log_likelihoods(model, requests)
    finally:
        vars(likelihood).update(kept)
    same(found, [one_by_one(model, r) for r in requests])


def test_contexts_that_go_on_from_each_other_make_no_deep_tree():
    model = small_model()
    text = tuple(i % 7 for i in range(1500))
    requests = [Request(text[:n], text[n : n + 1]) for n in range(1, 1400)]
    found = log_likelihoods(model, requests)
    same(found[::99], [one_by_one(model, r) for r in requests[::99]])


@functools.cache
def small_model():
    return made("grouped rotary")


def test_a_shared_prefix_is_run_once(monkeypatch):
    model = made("alibi")
    requests = few_shot(model, 0, shots=12, questions=8, choices=3)
    counted = []
    run = model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda x, **more: counted.append(x.numel()) or run(x, **more)
    )
    log_likelihoods(model, requests)
    assert sum(counted) < sum(len(r.context) + len(r.continuation) - 1 for r in requests) / 2


def test_what_is_too_long_is_counted_or_refused():
    model = made("alibi")
    fits, long = Request((1,) * 20, (2,) * 5), Request((1,) * 21, (2,) * 5)
    assert truncated(model, [fits, long, long]) == 2
    with pytest.raises(UserError, match="25 tokens, more than the model's context of 24"):
        log_likelihoods(model, [Request((1,), (2,) * 25)])
    with pytest.raises(UserError, match="token 61"):
        log_likelihoods(model, [Request((1,), (61,))])


def test_the_border_is_where_the_context_alone_ends():
    tokenizer = train_tokenizer(["the cat sat on the mat " * 50], 280, or_fewer=True)
    encode = PairEncoder(tokenizer)
    moved, plain = encode("the cat ", "sat"), encode("the cat", " sat")
    assert moved == plain
    assert moved.context == tuple(tokenizer.encode("the cat"))
    assert moved.context + moved.continuation == tuple(tokenizer.encode("the cat sat"))
    assert encode("", "sat") == Request((tokenizer.eos_token_id,), tuple(tokenizer.encode("sat")))
    assert encode("  ", "sat").continuation == tuple(tokenizer.encode("  sat"))
    whole = encode("the c", "at")  # one token, or two that begin otherwise: nothing is lost
    assert whole.continuation
    with pytest.raises(UserError, match="an answer is empty"):
        encode("the cat", "")


@given(length=st.integers(0, 60), context=st.integers(1, 20), start=st.booleans())
def test_rolling_windows_score_every_token_once(length, context, start):
    tokens = list(range(1, length + 1))
    scored = []
    for request in rolling_requests(tokens, [0] if start else [], context):
        assert len(request.continuation) <= context
        assert len(request.context) + len(request.continuation) <= context + 1
        joined = request.context + request.continuation
        assert joined == tuple(range(joined[0], joined[0] + len(joined)))
        scored += request.continuation
    assert scored == (tokens if start else tokens[1:])


def test_a_byte_is_a_token_at_the_border():
    request = PairEncoder(byte_tokenizer())("2 + 2 = ", "4")
    assert bytes(request.context) == b"2 + 2 ="
    assert bytes(request.continuation) == b" 4"
