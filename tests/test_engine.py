"""The engine: a row's tokens are its own, whoever comes and goes; memory is bounded; what is full says so."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import make as make_decoder

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import LoRAConfig, PrefixConfig
from maquette.base import machine
from maquette.base.errors import WrongUse
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.models.base import LanguageModel
from maquette.models.smlp_config import SMLPConfig
from maquette.serving import generate as generation
from maquette.serving import prefixes
from maquette.serving.answer_text import HALF, AnswerText
from maquette.serving.engine import Engine, Full, Request
from maquette.serving.generate import stream_without_cache
from maquette.serving.prefixes import LEAST, Entry, PrefixCache, common
from maquette.serving.restrict import Answers
from maquette.serving.sampler import RowSampler, Sampler, Sampling
from maquette.workshop.serve import engine_for

TOKENIZER = byte_tokenizer()
END = 256
LONGEST = 10  # tokens of an answer
BEGIN = b"the cat sat on the mat "
PROMPTS = [BEGIN + b"by", BEGIN + b"and saw", b"a", BEGIN, BEGIN + b"by the old wall"]
GREEDY = Sampling(temperature=0)
SAMPLINGS = [
    GREEDY,
    Sampling(temperature=1.3, top_k=50, top_p=0.95, seed=5),
    Sampling(temperature=1.1, min_p=0.01, repetition_penalty=1.3, presence_penalty=0.5, seed=8),
    Sampling(temperature=0, frequency_penalty=1.5, logit_bias={97: 3.0, 101: -100.0}),
]
MODELS = ["gpt2", "gpt3", "gptj", "llama", "bloom", "deterministic", "partial"]


@cache
def make(name: str) -> LanguageModel:
    """A decoder of a family, or an all-MLP by its routing, so that rounding decides nothing."""
    if name not in ("deterministic", "partial"):
        return make_decoder(name)
    config = SMLPConfig(
        vocabulary=257, context=48, width=16, dense=1, sparse=1, hidden=32, expert_hidden=16,
        feature_experts=2, token_experts=2, routing=name, prefix=0.1,
    )  # fmt: skip
    model = config.build().initialise(0).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    return model


@cache
def alone(name: str, prompt: bytes, sampling: int) -> list[int]:
    """What a model writes after a prompt without any cache, up to an EOS token."""
    model = make(name)
    tokens = list(stream_without_cache(model, list(prompt), LONGEST, SAMPLINGS[sampling]))
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def drain(engine: Engine, answers: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """Step until nothing is left; the tokens of every request."""
    answers = {} if answers is None else answers
    while len(engine):
        for step in engine.step():
            answers.setdefault(step.request, []).append(step.token)
    return answers


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_rows_tokens_are_those_of_the_prompt_alone(name, data):
    """Whoever else is there, whenever it came, in whatever chunks, from shared prompts, in little memory."""
    model = make(name)
    each = model.kv_bytes_per_token()
    engine = Engine(
        model,
        TOKENIZER,
        rows=data.draw(st.integers(1, 5), "rows"),
        chunk=data.draw(st.sampled_from([1, 7, 30, 200]), "chunk"),
        memory=data.draw(st.sampled_from([48, 120, 1000]), "positions") * each,
    )
    asked = st.tuples(
        st.sampled_from(PROMPTS),
        st.integers(1, LONGEST),
        st.integers(0, len(SAMPLINGS) - 1),
        st.integers(0, 3),  # steps before the next
        st.booleans(),  # whether it is cancelled then
    )
    wanted, answers = {}, {}
    for prompt, tokens, sampling, steps, cancelled in data.draw(
        st.lists(asked, min_size=2, max_size=9), "requests"
    ):
        request = Request(prompt=tuple(prompt), tokens=tokens, sampling=SAMPLINGS[sampling])
        number = engine.submit(request)
        wanted[number] = alone(name, prompt, sampling)[:tokens]
        for _ in range(steps):
            for step in engine.step():
                answers.setdefault(step.request, []).append(step.token)
            assert engine.used() <= engine.memory
        if cancelled:
            engine.cancel(number)
            wanted[number] = answers.get(number, [])
            assert wanted[number] == alone(name, prompt, sampling)[: len(wanted[number])]
    while len(engine):
        for step in engine.step():
            answers.setdefault(step.request, []).append(step.token)
        assert engine.used() <= engine.memory
    assert {number: answers.get(number, []) for number in wanted} == wanted


def ask(prompt: bytes = BEGIN, tokens: int = 6, **more) -> Request:
    return Request(prompt=tuple(prompt), tokens=tokens, **({"sampling": GREEDY} | more))


def test_several_answers_to_one_prompt_compute_it_once(monkeypatch):
    model, sizes = make("llama"), []
    engine, run = Engine(model, TOKENIZER), model.hidden
    monkeypatch.setattr(model, "hidden", lambda x, **more: sizes.append(x.shape) or run(x, **more))
    numbers = [engine.submit(ask(sampling=Sampling(temperature=1.3, seed=s))) for s in range(3)]
    answers, run_by_engine = drain(engine), list(sizes)
    for seed, number in enumerate(numbers):
        sampling = Sampling(temperature=1.3, seed=seed)
        assert answers[number] == list(stream_without_cache(model, list(BEGIN), 6, sampling))
    assert run_by_engine[0] == (1, len(BEGIN))  # all of the prompt, once
    assert sum(rows * new for rows, new in run_by_engine) == len(BEGIN) + 2 + 3 * 5


@settings(max_examples=50)
@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 1), st.text("ab", max_size=5), st.integers(0, 2)), max_size=25
    )
)
def test_prompts_are_found_as_by_comparing_with_each(prompts):
    cache, kept = PrefixCache(2), []
    for weights, end, action in prompts:
        tokens = np.array([*range(LEAST), *end.encode()], dtype=np.int64)
        same = [e for e in kept if e.weights == weights]
        entry, known = cache.find(weights, tokens)
        most = max((common(e.tokens, tokens) for e in same), default=0)
        assert known == min(most, len(tokens) - 1) * (most >= LEAST and len(tokens) > LEAST)
        if entry is not None:
            assert entry in same and common(entry.tokens, tokens) >= known
            kept.append(kept.pop(kept.index(entry)))
        held = any(common(e.tokens, tokens) == len(tokens) for e in same)
        assert cache.holds(weights, tokens) == held
        if action == 0:
            stay = {entry} - {None}
            cache.shrink(3 * 2 * LEAST, stay)
            while 2 * sum(len(e.tokens) for e in kept) > 3 * 2 * LEAST:
                kept.remove(next(e for e in kept if e not in stay))
        elif not held:
            new = Entry(weights, tokens, [])
            cache.add(new)
            begun = [e for e in same if common(e.tokens, tokens) == len(e.tokens)]
            kept = [*(e for e in kept if e not in begun), new]
        assert cache.entries == kept
        assert cache.bytes() == 2 * sum(len(e.tokens) for e in kept)


def test_many_kept_prompts_cost_a_request_few_comparisons(monkeypatch):
    cache, counted = PrefixCache(1), []
    for number in range(500):  # as a template of chats has them: all begin in the same way
        cache.add(Entry(0, np.array([*range(LEAST), number, 7], dtype=np.int64), []))
    monkeypatch.setattr(prefixes, "common", lambda *two: counted.append(two) or common(*two))
    for number in range(0, 500, 50):
        wanted = np.array([*range(LEAST), number, 8, 9], dtype=np.int64)
        entry, known = cache.find(0, wanted)
        assert known == LEAST + 1 and entry.tokens[LEAST] == number
        assert not cache.holds(0, wanted)
    assert len(cache.entries) == 500 and len(counted) <= 3 * 10


def test_a_conversation_goes_on_from_what_was_answered(monkeypatch):
    model, sizes = make("gptj"), []
    engine, run = Engine(model, TOKENIZER), model.hidden
    number = engine.submit(ask(tokens=18))
    answer = drain(engine)[number]
    turn = [*BEGIN, *answer, *b" b"]
    monkeypatch.setattr(
        model, "hidden", lambda x, **more: sizes.append(x.shape[1]) or run(x, **more)
    )
    number = engine.submit(ask(turn, tokens=4))
    answer, run_by_engine = drain(engine)[number], list(sizes)
    assert answer == list(stream_without_cache(model, turn, 4, GREEDY))
    assert run_by_engine == [3, 1, 1, 1]  # the answer's last token was never run, and two are new


def test_prompts_are_shared_by_rows_with_the_same_weights_of_adapters_alone():
    model = make_decoder("llama")
    for name, config, std in (
        ("lora", LoRAConfig(rank=2), 0.3),
        ("prefix", PrefixConfig(length=3), 0.5),
    ):
        adapter = config.build(model)
        attach(model, name, adapter)
        adapter.initialise(model, 0)
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=std)
    engine = Engine(model, TOKENIZER, rows=4, chunk=16)
    weights = [{"lora": a, "prefix": b} for a in (1.0, 0.0, -0.5) for b in (1.0, 0.0, 0.3)]
    numbers = [engine.submit(ask(p, adapters=w)) for w in weights for p in (PROMPTS[0], PROMPTS[1])]
    answers = drain(engine)
    assert len({tuple(answer) for answer in answers.values()}) > 5
    for number, (w, p) in zip(numbers, [(w, p) for w in weights for p in PROMPTS[:2]], strict=True):
        for name, weight in w.items():
            model.adapters[name].weight = weight
        assert answers[number] == list(stream_without_cache(model, list(p), 6, GREEDY)), (w, p)
    with pytest.raises(WrongUse, match="no adapter is called lara.*lora"):
        engine.submit(ask(adapters={"lara": 1.0}))
    with pytest.raises(WrongUse, match="a prefix cannot have the weight -1"):
        engine.submit(ask(adapters={"prefix": -1.0}))


def test_what_does_not_fit_waits_and_what_never_can_is_refused_with_the_numbers():
    model = make("gpt2")
    each = model.kv_bytes_per_token()
    engine = Engine(model, TOKENIZER, memory=40 * each, queue=3)
    with pytest.raises(
        WrongUse, match=rf"30 tokens and 11 more take {41 * each:,} bytes .* {40 * each:,}"
    ):
        engine.submit(ask(b"x" * 30, tokens=11))
    with pytest.raises(
        WrongUse, match=r"the prompt \(40 tokens\) and 9 more do not fit .* at most 8 tokens"
    ):
        engine.submit(ask(b"x" * 40, tokens=9))
    first, second, third = (engine.submit(ask(b"xyz" * 5, tokens=n)) for n in (8, 3, 3))
    with pytest.raises(Full, match="3 requests wait already"):
        engine.submit(ask())
    order = []
    while len(engine):
        order += [step.request for step in engine.step() if step.finish]
        assert engine.used() <= engine.memory
    assert order == [first, second, third]  # 15 + 8 positions leave no room for 15 + 3


def test_while_a_request_waits_for_memory_no_cache_is_copied():
    model = make("gpt2")
    engine = Engine(model, TOKENIZER, memory=60 * model.kv_bytes_per_token())
    engine.submit(ask(b"ab", tokens=30))
    waits = engine.submit(ask(b"ab", tokens=40))
    for _ in range(3):
        engine.step()
    (group,) = engine._memory.groups.values()
    keys = group.slots.layers[0].keys
    for _ in range(10):
        engine.step()
        assert len(engine) == 2 and len(engine.live) == 1
        assert group.slots.layers[0].keys is keys
    assert len(drain(engine)[waits]) == 40


def test_the_runs_of_a_server_share_half_of_what_the_system_says_is_available(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemFree: 9 kB\nMemAvailable:   600 kB\n", encoding="utf-8")
    assert machine.available() == 600 * 1024
    opened = SimpleNamespace(model=make("gpt2"), tokenizer=TOKENIZER, draft=None)
    assert engine_for(None, runs=3)(opened).memory == 100 * 1024
    assert engine_for(77_000, runs=3)(opened).memory == 77_000
    assert Engine(make("gpt2"), TOKENIZER).memory == 300 * 1024
    (tmp_path / "meminfo").unlink()
    assert 0 < machine.available() <= machine.memory()


def test_a_cancelled_request_leaves_at_once():
    model = make("gpt2")
    engine = Engine(model, TOKENIZER, chunk=8, rows=2)
    live, prefilled, waiting = (engine.submit(ask(p, tokens=9)) for p in (b"a", BEGIN, b"b"))
    for _ in range(2):
        engine.step()
    assert len(engine) == 3 and [row.number for row in engine.live] == [live]
    held = engine.used()
    engine.cancel(prefilled)
    assert len(engine) == 2 and engine.used() < held
    engine.cancel(waiting)
    engine.cancel(live)
    engine.cancel(live)
    engine.cancel(77)
    assert len(engine) == 0 and engine.used() == engine.prefixes.bytes()
    assert engine.step() == []


def test_prompts_that_are_run_together_are_done_within_a_step_where_memory_is_short():
    """Room for the second one is not made from the kept prompt that both begin with."""
    model = make("llama")
    engine = Engine(model, TOKENIZER, memory=80 * model.kv_bytes_per_token(), chunk=20)
    engine.submit(ask(BEGIN, tokens=1))
    drain(engine)  # leaves BEGIN, 23 tokens, beside which 2 * 34 do not fit
    prompts = [BEGIN + b"by a door", BEGIN + b"on a bed "]
    numbers = [engine.submit(ask(p, tokens=2)) for p in prompts]
    answers = {number: [] for number in numbers}
    while len(engine):
        for step in engine.step():
            answers[step.request].append(step.token)
        prefill = engine._memory.prefill
        assert prefill is None or len(prefill.rows) == 1
        assert engine.used() <= engine.memory
    for number, prompt in zip(numbers, prompts, strict=True):
        assert answers[number] == list(stream_without_cache(model, list(prompt), 2, GREEDY))


def test_what_a_failed_step_leaves_can_be_cancelled_and_cleared(monkeypatch):
    model, run = make("llama"), make("llama").hidden
    engine = Engine(model, TOKENIZER, rows=3)
    prompts = (b"a dog", b"a cat")

    def fails(x, **more):
        if len(x) > 1:
            raise MemoryError
        return run(x, **more)

    def broken() -> list[int]:
        """A live request, two in the prefill, one that waits; the step of the two has failed."""
        live = engine.submit(ask(b"x", tokens=9))
        engine.step()
        monkeypatch.setattr(model, "hidden", fails)
        two = [engine.submit(ask(p, prompt_log_probabilities=True)) for p in prompts]
        waits = engine.submit(ask(b"z"))
        with pytest.raises(MemoryError):
            engine.step()
        monkeypatch.setattr(model, "hidden", run)
        assert len(engine) == 4
        return [live, *two, waits]

    live, gone, other, waits = broken()
    engine.cancel(gone)
    assert len(engine) == 3
    answers = drain(engine)
    assert gone not in answers and {live, other, waits} == set(answers)
    assert answers[other] == list(stream_without_cache(model, list(prompts[1]), 6, GREEDY))
    broken()
    engine.clear()
    assert len(engine) == 0 and engine.used() == 0 and engine.step() == []
    number = engine.submit(ask(prompts[0]))
    expected = list(stream_without_cache(model, list(prompts[0]), 6, GREEDY))
    assert drain(engine) == {number: expected}


@torch.no_grad()
def test_log_probabilities_are_the_models_own():
    """Of the prompt, of forced tokens and of the answer, whatever the sampling and the chunks."""
    model, forced = make("llama"), tuple(b" by")
    engine = Engine(model, TOKENIZER, chunk=5)
    engine.submit(
        ask(
            tokens=8, forced=forced, alternatives=3, prompt_log_probabilities=True,
            sampling=Sampling(temperature=2.0, top_k=5, seed=1),
        )
    )  # fmt: skip
    steps = []
    while len(engine):
        steps += engine.step()
    answer = [step.token for step in steps]
    assert tuple(answer[:3]) == forced and len(answer) == 8
    whole = [*BEGIN, *answer]
    expected = model(torch.tensor([whole]))[0].log_softmax(-1)
    scored = [*steps[0].prompt, *steps]
    assert [s.token for s in scored] == whole and scored[0].log_probability is None
    for place, one in enumerate(scored[1:]):
        assert one.log_probability == pytest.approx(float(expected[place, one.token]), abs=1e-4)
        best = expected[place].topk(3)
        assert [token for token, _ in one.alternatives] == best.indices.tolist()
        assert [p for _, p in one.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    engine.submit(ask(tokens=0, prompt_log_probabilities=True))
    (step,) = [step for _ in range(5) for step in engine.step()]
    assert (step.token, step.finish) == (-1, "length")
    assert [s.log_probability for s in step.prompt[1:]] == pytest.approx(
        [s.log_probability for s in scored[1 : len(BEGIN)]], abs=1e-4
    )


def test_a_full_context_drops_its_middle_and_says_so():
    model = make("llama")
    engine = Engine(model, TOKENIZER, context_shift=True)
    other = engine.submit(ask(PROMPTS[1], tokens=LONGEST))
    number = engine.submit(ask(b"x" * 40, tokens=30))
    steps = []
    while len(engine):
        steps += engine.step()
    own = [step for step in steps if step.request == number]
    assert [s.token for s in steps if s.request == other] == alone("llama", PROMPTS[1], 0)
    answer = [step.token for step in own]
    assert len(answer) == 30
    shifts = [place for place, step in enumerate(own) if step.dropped]
    assert shifts == [9]  # after 40 + 9 tokens, for a context of 48
    assert own[9].dropped == 49 - 4 - 22
    whole = [*b"x" * 40, *answer[:9]]
    expected = list(stream_without_cache(model, whole[:4] + whole[-22:], 21, GREEDY))
    assert answer[9:] == expected
    number = engine.submit(ask(b"y" * 100, tokens=3))  # a prompt that is longer than the context
    (first, *_) = (step for _ in range(3) for step in engine.step())
    assert first.dropped == 100 - 26


def test_restricted_rows_stand_beside_free_ones():
    pytest.importorskip("llguidance", reason="the extra [restrict] is not installed")
    engine = Engine(make("llama"), TOKENIZER)
    free = engine.submit(ask(PROMPTS[1], tokens=LONGEST))
    held = engine.submit(ask(b"a", tokens=9, answers=Answers(("yes", "no"))))
    steps = []
    while len(engine):
        steps += engine.step()
    assert [s.token for s in steps if s.request == free] == alone("llama", PROMPTS[1], 0)
    assert "".join(s.text for s in steps if s.request == held) in ("yes", "no")
    assert [s.finish for s in steps if s.request == held][-1] == "end"


@given(
    prompt=st.text("aé\N{GRINNING FACE} ", max_size=12).map(str.encode),
    answer=st.text("aé\N{GRINNING FACE} ", max_size=40).map(str.encode),
    junk=st.binary(max_size=3),
    stop=st.sampled_from([(), ("é a",), ("aa", "a\N{GRINNING FACE}"), ("a aaé",)]),
)
def test_pieces_of_text_are_the_text_that_is_read_at_once(prompt, answer, junk, stop):
    tokens = [*answer, *junk, *answer]
    text = AnswerText(TOKENIZER, list(prompt), stop)
    written, before = "", len(TOKENIZER.decode(list(prompt)))
    for count, token in enumerate(tokens, 1):
        text.add(token)
        whole = TOKENIZER.decode([*prompt, *tokens[:count]])[before:]
        cut = min((whole.find(s) for s in stop if s in whole), default=len(whole))
        assert text.text() == whole[:cut]
        ready = text.ready()
        assert ready.startswith(written)
        written = ready
        if cut < len(whole.rstrip(HALF)):
            assert text.finish == "stop"
            break
        assert text.finish is None
    assert text.text().startswith(written)


def test_a_long_stop_string_costs_no_more_than_its_length():
    """An adversary's stop string is not cut into all of its beginnings, and has a limit."""

    class Counting(str):
        cut = 0

        def __getitem__(self, place):
            part = str.__getitem__(self, place)
            Counting.cut += len(part)
            return part

    text = AnswerText(TOKENIZER, list(b"q"), [Counting("ab" * 500)])
    for token in b"xxabab":
        text.add(token)
    assert text.ready() == "xx" and Counting.cut < 3000
    engine = Engine(make("llama"), TOKENIZER)
    engine.submit(ask(stop=("b", "a" * 1000)))
    with pytest.raises(WrongUse, match=r"a stop string has 1,001 characters: use at most 1,000"):
        engine.submit(ask(stop=("b", "a" * 1001)))


def test_stop_strings_end_an_answer_wherever_tokens_begin():
    model = make("llama")
    answer = bytes(alone("llama", PROMPTS[0], 0)).decode("utf-8", "replace")
    inside = answer[3:5]
    engine = Engine(model, TOKENIZER)
    engine.submit(ask(PROMPTS[0], tokens=LONGEST, stop=(inside,)))
    steps = []
    while len(engine):
        steps += engine.step()
    assert "".join(step.text for step in steps) == answer[: answer.find(inside)]
    assert steps[-1].finish == "stop"


def test_rows_of_one_sampler_are_chosen_each_by_its_own_settings():
    cpu, draw = torch.device("cpu"), torch.Generator().manual_seed(0)
    settings = [
        *SAMPLINGS,
        Sampling(temperature=0.7, top_k=1),
        Sampling(temperature=1.0, top_p=0.5),
    ]
    logits = torch.randn(20, len(settings), 257, generator=draw) * 3

    def rows() -> list[RowSampler]:
        return [RowSampler(s.row(0), cpu, 257, b"cat") for s in settings]

    together, single = rows(), rows()
    sampler = Sampler(together, len(settings), cpu)
    samplers = [Sampler([row], 1, cpu) for row in single]
    for step in logits:
        chosen = sampler(step).tolist()
        assert chosen == [int(own(row[None])) for own, row in zip(samplers, step, strict=True)]
        for row, other, token in zip(together, single, chosen, strict=True):
            row.accept(token)
            other.accept(token)


def test_a_temperature_near_zero_is_greedy():
    cpu, logits = torch.device("cpu"), torch.tensor([[1.0, 3.0, -2.0], [4.0, 0.5, 1.0]])
    for temperature in (0.0, 1e-40, 1e-50, 1e-6):
        near = Sampling(temperature=temperature)
        for other in (near, Sampling(temperature=1.0, top_k=1)):
            rows = [RowSampler(s.row(0), cpu, 3) for s in (near, other)]
            sampler = Sampler(rows, 2, cpu)
            assert sampler(logits).tolist() == [1, 0]
            assert sampler.distribution(logits).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_more_requests_than_may_wait_are_all_answered():
    model = make("llama")
    engine, pieces = Engine(model, TOKENIZER, queue=2, rows=1), []
    prompts = [b"a", b"b", b"c", b"d", b"a cat"]
    results, timing = generation.drain(engine, [ask(p) for p in prompts], pieces.append)
    for prompt, result in zip(prompts, results, strict=True):
        answer = list(stream_without_cache(model, list(prompt), 6, GREEDY))
        assert result.tokens == [token for token in answer if token != END]
    assert "".join(pieces) == results[0].text and timing.tokens == 5 * (6 - 1)


def test_penalties_and_biases_are_those_of_their_papers():
    """CTRL: positive logits are divided, others multiplied; OpenAI: once, and for each time."""
    sampling = Sampling(
        temperature=0, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25,
        logit_bias={3: 1.0},
    )  # fmt: skip
    row = RowSampler(sampling.row(0), torch.device("cpu"), 6, [0, 1])
    for token in (1, 2, 2):
        row.accept(token)
    logits = torch.tensor([[2.0, -2.0, 4.0, 1.0, 1.0, 7.0]])
    found = Sampler([row], 1, torch.device("cpu"), [5]).adjusted(logits)
    expected = [1.0, -4.0 - 0.75, 2.0 - 1.0, 2.0, 1.0, -torch.inf]
    assert found[0].tolist() == expected
