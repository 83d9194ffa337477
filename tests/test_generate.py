"""Generation: the same tokens with and without cache, alone and in a batch; filters; stops."""

import pytest
import torch
from conftest import command, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import maquette
from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import LoRAConfig, PrefixConfig
from maquette.base.errors import WrongUse
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.evaluation import generation
from maquette.models import families
from maquette.models.decoder import Decoder
from maquette.serving.generate import generate, stream, stream_without_cache
from maquette.serving.sampler import Sampler, Sampling, filtered

SIZES = {"vocabulary": 257, "context": 48, "width": 32, "depth": 2, "heads": 4}
FAMILIES = {
    "gpt2": {},
    "gpt3": {"band": 6},
    "gptj": {"rotary_dims": 4},
    "palm": {},
    "llama": {"kv_heads": 2},
    "bloom": {},
}
PROMPTS = [list(b"the cat sat"), list(b"a"), list(b"one red bird in a tall tree")]
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=1.3, top_k=50, top_p=0.95, seed=5)


def make(family: str) -> Decoder:
    model = Decoder(getattr(families, family)(**(SIZES | FAMILIES[family]))).initialise(3).eval()
    torch.manual_seed(3)
    with torch.no_grad():  # far from uniform, so that rounding decides nothing and texts differ
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.5)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_cache_and_batch_change_nothing(family, sampling):
    model = make(family)
    plain = list(stream_without_cache(model, PROMPTS[0], 20, sampling))
    cached = [step[0] for step in stream(model, PROMPTS[:1], 20, sampling)]
    batched = [step[0] for step in stream(model, PROMPTS, 20, sampling)]
    assert plain == cached == batched
    assert len(set(plain)) > 3


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_every_row_of_a_ragged_batch_is_what_it_is_alone(family):
    model = make(family)
    rows = list(zip(*stream(model, PROMPTS, 12, GREEDY), strict=True))
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert list(row) == [step[0] for step in stream(model, [prompt], 12, GREEDY)]


@pytest.mark.parametrize("family", ["gpt3", "llama", "bloom"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_rows_that_have_ended_leave_the_batch_and_the_others_as_they_are(family, sampling):
    model, sizes, ended = make(family), [], set()
    whole = list(stream(model, PROMPTS * 2, 16, sampling))
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: sizes.append(len(inputs[0])))
    rows = []
    for step, chosen in enumerate(stream(model, PROMPTS * 2, 16, sampling, ended=ended)):
        going = sorted(set(range(6)) - ended)
        assert [chosen[row] for row in going] == [whole[step][row] for row in going]
        rows.append(len(going))
        ended |= {3: {1}, 5: {4, 0}, 9: {5, 2}}.get(step, set())
    assert rows == [6] * 4 + [5] * 2 + [3] * 4 + [1] * 6
    assert sizes == [6] * 6 + [3] * 4 + [1] * 6  # one of six is not worth copying the others for


def test_answers_do_not_depend_on_how_many_prompts_are_batched(monkeypatch):
    model, tokenizer = make("llama"), byte_tokenizer()
    prompts = [bytes(prompt).decode() for prompt in PROMPTS] * 3

    def answers():
        found, cut = generation.generate_answers(
            model, tokenizer, prompts, {"max_gen_toks": 20}, until=("q",)
        )
        assert not cut
        return found

    whole, sizes = answers(), []
    assert len(set(whole)) == len(PROMPTS)
    original = generation.continue_tokens

    def counted(model, tokenizer, encoded, **named):
        sizes.append(len(encoded))
        return original(model, tokenizer, encoded, **named)

    monkeypatch.setattr(generation, "continue_tokens", counted)
    monkeypatch.setattr(generation, "BATCHES", (1, 4))
    numbers = 2 * 2 * 2 * 8  # keys and values of two layers, two key-value heads, eight dimensions
    monkeypatch.setattr(generation, "BYTES", 100 * 4 * numbers)  # a hundred positions
    assert answers() == whole
    assert sizes == [2, 2, 3, 2]


def test_rows_stay_where_adapters_have_a_weight_for_each():
    model = make("llama")
    adapter = LoRAConfig(rank=2).build(model)
    attach(model, "own", adapter)
    adapter.weight = torch.tensor([1.0, 0.0, -1.0])
    whole = list(stream(model, PROMPTS, 6, GREEDY))
    cut = list(stream(model, PROMPTS, 6, GREEDY, ended={0, 1}))
    assert [step[2] for step in whole] == [step[2] for step in cut]


def test_a_seed_is_a_text():
    model = make("llama")

    def text(seed):
        return list(
            stream_without_cache(model, PROMPTS[0], 12, Sampling(temperature=1.5, seed=seed))
        )

    assert text(1) == text(1) != text(2)


def test_samples_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -3.0]])
    sampler = Sampler(Sampling(temperature=1.0), 1, torch.device("cpu"))
    draws = torch.stack([sampler(logits) for _ in range(4000)]).flatten()
    frequency = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(frequency, logits[0].softmax(0), atol=0.03, rtol=0)


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.01, 1.0),
)
def test_filters_keep_the_likeliest_and_what_they_should(logits, top_k, top_p, min_p):
    x = torch.tensor([logits])
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    kept = filtered(x, sampling)[0] > -torch.inf
    p = x.softmax(-1)[0]
    assert p[kept].max() == p.max()
    if top_k and not top_p and not min_p and len(set(logits)) == len(logits):
        assert int(kept.sum()) == min(top_k, len(logits))
    if top_p and not top_k and not min_p:
        assert float(p[kept].sum()) >= top_p - 1e-5
        if int(kept.sum()) > 1:  # without the least of them it would not be enough
            assert float(p[kept].sum() - p[kept].min()) < top_p + 1e-5
    if min_p and not top_k and not top_p:
        assert (p[kept] >= min_p * p.max() - 1e-6).all()
        assert (p[~kept] < min_p * p.max() + 1e-6).all()


def test_stop_strings_and_ends():
    class Scripted(torch.nn.Module):
        """Says a fixed text, then the end of the document."""

        def __init__(self, text: bytes) -> None:
            super().__init__()
            self.config = families.llama(**SIZES)
            self.device = torch.device("cpu")
            self.script = [*text, 256]
            self.at = 0

        def cache(self, batch, room):
            return []

        def hidden(self, tokens, **_):
            return torch.zeros(tokens.shape[0], tokens.shape[1], 1)

        def logits(self, hidden):
            x = torch.full((hidden.shape[0], 257), -10.0)
            x[:, self.script[min(self.at, len(self.script) - 1)]] = 10
            self.at += 1
            return x

    tokenizer = byte_tokenizer()

    def say(text, **options):
        pieces = []
        model = Scripted(text.encode())
        results, timing = generate(
            model, tokenizer, ["x"], sampling=GREEDY, on_text=pieces.append,
            **({"tokens": 40} | options),
        )  # fmt: skip
        assert "".join(pieces) == results[0].text  # what was streamed is what is returned
        return results[0], timing

    assert say("hello")[0].text == "hello"
    assert say("hello")[0].finish == "end"
    assert say("hello world", stop=["wor"])[0].text == "hello "
    assert say("hello world", stop=["wor"])[0].finish == "stop"
    assert say("a naïve é", stop=["zz", "é"])[0].text == "a naïve "
    assert say("hello", tokens=3)[0].text == "hel"
    assert say("hello", tokens=3)[0].finish == "length"


def test_the_command_and_the_python_face_agree(trained):
    said = command(
        "generate", trained, "the ", "--tokens", "12", "--temperature", "0.9", "--seed", "4",
        "--weights", "fp32", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    run = maquette.load(trained)
    assert run.generate("the ", tokens=12, temperature=0.9, seed=4) == said.json["text"]
    assert said.json["tokens_per_second"] > 0
    logits = run.model(torch.tensor([run.tokenizer.encode("the ")]))
    assert logits.shape == (1, 4, 257)
    assert run.tokenizer.decode(run.tokenizer.encode("the ")) == "the "


def test_several_prompts_make_a_batch(trained):
    said = command(
        "generate", trained, "the ", "a ", "--tokens", "5", "--weights", "fp32", "--json"
    )
    assert len(said.json["texts"]) == 2
    alone = command("generate", trained, "--tokens", "5", "--weights", "fp32", "the ", "--json")
    assert said.json["texts"][0] == alone.json["text"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x" * 30], "do not fit the model's context of 32: ask for at most 2 tokens"),
        (["x", "--temperature", "-1"], "temperature is -1.0: use 0 (greedy) or more"),
        (["x", "--top-p", "1.5"], "top_p is 1.5"),
        (["x", "--top-k", "0"], "top_k is 0"),
        (["x", "--tokens", "0"], "ask for at least 1"),
        (["x", "--tokens", "many"], "invalid int value: 'many'"),
    ],
)
def test_what_cannot_be_generated_is_refused(words, message, trained):
    refused(command("generate", trained, *words), message, code=2)


def test_a_sequence_longer_than_positions_is_refused_by_the_engine():
    model = make("gpt2")
    with pytest.raises(WrongUse, match="do not fit the model's context of 48"):
        generate(model, byte_tokenizer(), ["x" * 40], tokens=20)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_the_temperature_says(temperature):
    """Rows draw by themselves: of 4,000 with equal logits, as many take a token as is likely."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampling = Sampling(temperature=temperature, seed=3)
    torch.testing.assert_close(filtered(logits, sampling), logits / temperature)
    rows = 4000
    chosen = Sampler(sampling, rows, torch.device("cpu"))(logits.expand(rows, 4))
    share = torch.bincount(chosen, minlength=4) / rows
    expected = torch.softmax(logits / temperature, 0)
    assert (share - expected).abs().max() < 0.03  # four deviations; the seed is fixed
    alone = Sampler(sampling, 1, torch.device("cpu"))(logits[None])
    assert alone.tolist() == chosen[:1].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_beginning_that_all_prompts_share_is_run_once(family, sampling, monkeypatch):
    """The same tokens for rows of many lengths, whatever was in the memory of the cache."""
    model, begin = make(family), b"the cat sat on "
    prompts = [[*begin, *rest] for rest in (b"a", b"mat by", b"", b"one red bird in")]
    plain = list(stream(model, prompts, 12, sampling))
    room, cache, run = [], model.cache, model.hidden

    def filled(batch, length):
        layers = cache(batch, length)
        for layer in layers:
            layer.keys.fill_(torch.nan)
            layer.values.fill_(torch.nan)
        return layers

    monkeypatch.setattr(model, "cache", filled)
    monkeypatch.setattr(model, "hidden", lambda x, **more: room.append(x.shape) or run(x, **more))
    assert list(stream(model, prompts, 12, sampling, shared=len(begin) - 1)) == plain
    assert room[:2] == [(1, 14), (4, 16)]


def test_prompts_of_an_adapter_stand_before_a_shared_beginning_too():
    model, begin = make("gpt2"), b"the cat sat on "
    adapter = PrefixConfig(length=3).build(model)
    adapter.initialise(model, 0)
    attach(model, "new", adapter)
    for p in adapter.parameters():
        torch.nn.init.normal_(p, std=0.5)
    prompts = [[*begin, *rest] for rest in (b"a", b"mat by")]
    found = list(stream(model, prompts, 8, GREEDY, shared=len(begin) - 1))
    assert found == list(stream(model, prompts, 8, GREEDY))
