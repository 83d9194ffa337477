"""Speculative decoding: the model's own distribution, whatever the draft; greedy, its very tokens."""

from collections import Counter
from itertools import product

import pytest
import torch
from conftest import command, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import (
    BEGIN,
    GREEDY,
    LONGEST,
    PROMPTS,
    SAMPLINGS,
    TOKENIZER,
    alone,
    ask,
    drain,
    make,
)

from maquette.base.errors import WrongUse
from maquette.models import families
from maquette.serving.engine import Engine, Request
from maquette.serving.sampler import Sampling
from maquette.serving.speculative import acceptance, expected_tokens, residual

SIZES = {"vocabulary": 4, "context": 16, "width": 8, "heads": 2}


def tiny(seed: int, depth: int):
    model = families.gpt2(**SIZES, depth=depth).build().initialise(seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.4)
    return model


@given(
    p=st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any),
    q=st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any),
)
def test_a_token_has_the_distribution_of_the_model(p, q):
    """Drafted and kept, or refused and drawn again: summed over all drafts that is p, exactly."""
    p, q = (torch.tensor([one], dtype=torch.float64) for one in (p, q))
    p, q = p / p.sum(), q / q.sum()
    found = torch.zeros(5, dtype=torch.float64)
    for token in q[0].nonzero().flatten():
        keep = acceptance(p, q, token[None])
        found[token] += (q[0, token] * keep)[0]
        found += q[0, token] * (1 - keep) * residual(p, q)[0]
    torch.testing.assert_close(found, p[0], atol=1e-12, rtol=0)
    rate = torch.minimum(p, q).sum()  # Leviathan et al. 2022, corollary 3.6
    kept = sum(q[0, t] * acceptance(p, q, torch.tensor([t]))[0] for t in q[0].nonzero().flatten())
    assert float(kept) == pytest.approx(float(rate))


@torch.no_grad()
def test_two_drafted_tokens_have_the_distribution_of_the_model():
    """All drafts of two tokens of two real models, enumerated: the chain is p(a) p(b | a), exactly."""
    model, draft, prompt = tiny(1, 2), tiny(2, 1), [1, 3]

    def after(of, *tokens: int) -> torch.Tensor:
        return of(torch.tensor([[*prompt, *tokens]]))[:, -1].double().softmax(-1)

    found = torch.zeros(4, 4, dtype=torch.float64)
    for a, b in product(range(4), repeat=2):
        q, p = after(draft), after(model)
        weight = q[0, a]
        keep = acceptance(p, q, torch.tensor([a]))[0]
        others = weight * (1 - keep) * residual(p, q)[0] * after(draft, a)[0, b]
        for other in range(4):  # refused: the next token is the model's, in the step that follows
            found[other] += others[other] * after(model, other)[0]
        q, p, weight = after(draft, a), after(model, a), weight * keep * after(draft, a)[0, b]
        keep = acceptance(p, q, torch.tensor([b]))[0]
        found[a, b] += weight * keep
        found[a] += weight * (1 - keep) * residual(p, q)[0]
    expected = torch.stack([after(model)[0, a] * after(model, a)[0] for a in range(4)])
    assert float((found - expected).abs().sum() / 2) < 1e-12  # total variation


@torch.no_grad()
def test_what_the_engine_writes_has_that_distribution():
    """1,000 seeds, and a bound of five standard deviations of a share; the draft's own would miss it."""
    model, draft, count = tiny(1, 2), tiny(2, 1), 1000
    engine = Engine(model, TOKENIZER, draft=draft, drafted=2, rows=count)
    for seed in range(count):
        sampling = Sampling(temperature=1.0, seed=seed)
        engine.submit(Request(prompt=(1, 3), tokens=2, sampling=sampling))
    pairs = Counter(tuple(answer) for answer in drain(engine).values())

    def pairs_of(of) -> torch.Tensor:
        first = of(torch.tensor([[1, 3]]))[0, -1].softmax(-1)
        rows = torch.tensor([[1, 3, a] for a in range(4)])
        return (first[:, None] * of(rows)[:, -1].softmax(-1)).flatten()

    share = torch.tensor([pairs[pair] / count for pair in product(range(4), repeat=2)])
    bound = 5 * (pairs_of(model) * (1 - pairs_of(model)) / count).sqrt()
    assert ((share - pairs_of(model)).abs() < bound).all()
    assert not ((share - pairs_of(draft)).abs() < bound).all()


@pytest.mark.parametrize(
    ("name", "draft"), [("llama", "gptj"), ("bloom", "gpt2"), ("gpt3", "partial")]
)
@settings(max_examples=3)
@given(data=st.data())
def test_greedy_tokens_are_the_models_whatever_the_draft(name, draft, data):
    engine = Engine(
        make(name),
        TOKENIZER,
        draft=make(draft),
        drafted=data.draw(st.integers(1, 5)),
        rows=data.draw(st.integers(1, 4)),
        chunk=data.draw(st.sampled_from([5, 200])),
    )
    asked = st.tuples(st.sampled_from(PROMPTS), st.integers(1, LONGEST), st.sampled_from([0, 3]))
    wanted = {}
    for prompt, tokens, sampling in data.draw(st.lists(asked, min_size=1, max_size=6)):
        number = engine.submit(ask(prompt, tokens, sampling=SAMPLINGS[sampling]))
        wanted[number] = alone(name, prompt, sampling)[:tokens]
    assert drain(engine) == wanted
    assert engine.used() == engine.prefixes.bytes()


def test_sampled_rows_do_not_depend_on_the_batch():
    requests = [ask(p, 6, sampling=s) for p in PROMPTS[:3] for s in SAMPLINGS[1:3]]

    def answers(rows: int) -> list[list[int]]:
        engine = Engine(make("llama"), TOKENIZER, draft=make("gptj"), rows=rows)
        numbers = [engine.submit(request) for request in requests]
        found = drain(engine)
        return [found[number] for number in numbers]

    assert answers(1) == answers(4)


def test_a_draft_that_is_the_model_is_always_kept():
    engine = Engine(make("llama"), TOKENIZER, draft=make("llama"), drafted=3)
    engine.submit(ask(b"a", tokens=9, sampling=Sampling(temperature=1.0, seed=2)))
    sizes = [len(engine.step()) for _ in range(3)]
    assert sizes == [1, expected_tokens(1.0, 3), expected_tokens(1.0, 3)] == [1, 4, 4]
    assert len(engine) == 0
    assert expected_tokens(0.8, 3) == pytest.approx(1 + 0.8 + 0.64 + 0.512)


def test_what_cannot_draft_is_refused():
    with pytest.raises(WrongUse, match="the draft has a vocabulary of 4, the model of 257"):
        Engine(make("llama"), TOKENIZER, draft=tiny(1, 1))
    engine = Engine(make("llama"), TOKENIZER, draft=make("gpt2"), context_shift=True)
    number = engine.submit(
        ask(BEGIN, tokens=40, sampling=GREEDY)
    )  # beyond the context, in one step
    assert len(drain(engine)[number]) == 40


def test_the_command_says_how_many_tokens_a_pass_gives(trained):
    words = ("generate", trained, "the ", "--tokens", "12", "--temperature", "0", "--json")
    plain = command(*words, "--precision", "fp32")
    said = command(*words, "--precision", "fp32", "--draft", trained)
    assert said.code == 0, said.err
    assert said.json["text"] == plain.json["text"]
    assert (
        said.json["tokens_per_pass"] >= 11 / 3
    )  # its own draft: five tokens a pass, and what is left
    assert f"{said.json['tokens_per_pass']:.2f} a pass of the model" in said.err
    refused(command(*words, "--draft", "nowhere"), "nowhere does not exist", code=1)
