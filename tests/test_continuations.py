"""Continuations: read with their prompt, character by character, up to a stop string."""

import json

import pytest
import torch
from tiny_models import byte_level, pieces, unigram, write_files

from maquette.corpus.tokenizer import load_tokenizer
from maquette.models import families
from maquette.serving.generate import generate
from maquette.serving.sampler import Sampling

GREEDY = Sampling(temperature=0)


class Chain(torch.nn.Module):
    """A model that writes fixed tokens after any prompt."""

    def __init__(self, script: list[int], vocabulary: int) -> None:
        super().__init__()
        self.config = families.llama(vocabulary=vocabulary, context=200, width=8, depth=1, heads=1)
        self.device = torch.device("cpu")
        self.script, self.at = script, 0

    def cache(self, batch, room):
        return []

    def hidden(self, tokens, **_):
        return torch.zeros(*tokens.shape, 1)

    def logits(self, hidden):
        x = torch.zeros(hidden.shape[0], self.config.vocabulary)
        x[:, self.script[min(self.at, len(self.script) - 1)]] = 1
        self.at += 1
        return x


def say(tokenizer, prompt: str, text: str, **options):
    """What is written, and what is streamed, where the model goes on from `prompt` to `text`."""
    script = tokenizer.encode(text)[len(tokenizer.encode(prompt)) :]
    model = Chain([*script, tokenizer.eos_token_id], tokenizer.vocabulary)
    streamed: list[str] = []
    results, _ = generate(
        model, tokenizer, [prompt], tokens=100, sampling=GREEDY, on_text=streamed.append, **options
    )
    assert "".join(streamed) == results[0].text
    return results[0].text, streamed


@pytest.fixture(params=["prepend", "metaspace", "scored", "byte level"])
def any_tokenizer(request, tmp_path):
    name = request.param
    made = {"byte level": lambda: byte_level("</s>"), "scored": unigram}.get(
        name, lambda: pieces(name)
    )()
    write_files(tmp_path, made, {"eos_token": "</s>"})
    return load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Hello", "Hello world and the cat"),
        ("Hello", "Hello\n日本語 🙂 end"),
        ("Hello", "Hello \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} the"),
        ("日本", "日本語🙂日本語."),
        ("the", "the"),
    ],
)
def test_a_continuation_is_what_the_text_has_more(any_tokenizer, prompt, text):
    written, streamed = say(any_tokenizer, prompt, text)
    assert prompt + written == text
    assert len(streamed) > 2 or len(written) < 8  # as it is written, and not at its end


@pytest.mark.parametrize(
    ("stop", "written"),
    [
        ([" world"], ""),
        (["world"], " "),
        (["d and t"], " worl"),
        (["日"], " world and the "),
        (["語 🙂", "zz"], " world and the 日本"),
        (["\N{REPLACEMENT CHARACTER}"], " world and the 日本語 🙂."),
        (["nowhere"], " world and the 日本語 🙂."),
    ],
)
def test_stop_strings_are_found_in_the_text(any_tokenizer, stop, written):
    said, _ = say(any_tokenizer, "Hello", "Hello world and the 日本語 🙂.", stop=stop)
    assert said == written


@pytest.mark.parametrize("end", ["<|end|>", "<|eot|>", "<|endoftext|>"])
def test_every_end_stops(end, tmp_path):
    made = byte_level("<|end|>", "<|eot|>", "<|endoftext|>", "<|other|>")
    write_files(tmp_path, made, {"eos_token": "<|end|>"})
    for name, token in (("generation_config", "<|eot|>"), ("config", "<|endoftext|>")):
        ends = {"eos_token_id": [made.token_to_id(token)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(ends), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    script = [*tokenizer.encode(" world"), made.token_to_id("<|other|>"), *tokenizer.encode("!")]
    model = Chain([*script, made.token_to_id(end), *tokenizer.encode(" more")], 400)
    results, _ = generate(model, tokenizer, ["Hello"], tokens=20, sampling=GREEDY)
    assert (results[0].text, results[0].finish) == (" world!", "end")
    assert results[0].tokens == script
