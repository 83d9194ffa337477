"""The server's API, called by OpenAI's own client."""

import asyncio
import base64
import io
import json

import numpy as np
import openai
import pytest
import torch
from served import CONTEXT, application, call, client, closed, language_model, run_of

from maquette.corpus.examples.chat_template import CHATML, JinjaTemplate
from maquette.serving.api.run import PicturesMade
from maquette.serving.engine import Engine
from maquette.serving.generate import generate
from maquette.serving.sampler import Sampling

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def model():
    return language_model()


@pytest.fixture
def app(tmp_path, model):
    return application(run_of(tmp_path, model))


def ask(app, function):
    """What a coroutine function of a client gives."""

    async def main():
        async with client(app) as api:
            return await function(api)

    return asyncio.run(main())


def refuses(app, function, error=openai.BadRequestError):
    """The refusal that a call ends with."""
    with pytest.raises(error) as raised:
        ask(app, function)
    return raised.value


def test_completions_are_those_of_generate(app, model):
    """Greedy and drawn, one prompt and several, n at a time."""
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.0, top_p=0.9, seed=7)):
        expected, _ = generate(
            model.model, model.tokenizer, ["the cat", "a"], tokens=12, sampling=sampling
        )
        made = ask(
            app,
            lambda api, s=sampling: api.completions.create(
                model="tiny", prompt=["the cat", "a"], max_tokens=12, temperature=s.temperature,
                top_p=s.top_p, seed=s.seed,
            ),
        )  # fmt: skip
        assert [c.text for c in made.choices] == [one.text for one in expected]
        assert [c.finish_reason for c in made.choices] == ["length"] * 2
        assert made.usage.completion_tokens == sum(len(one.tokens) for one in expected)
        assert made.usage.prompt_tokens == len("the cat") + len("a")
    several = ask(
        app,
        lambda api: api.completions.create(
            model="tiny", prompt="a", n=3, max_tokens=12, temperature=1.0, seed=7
        ),
    )
    rows, _ = generate(
        model.model,
        model.tokenizer,
        ["a"] * 3,
        tokens=12,
        sampling=Sampling(temperature=1.0, seed=7),
    )
    assert [c.text for c in several.choices] == [row.text for row in rows]


def test_a_streamed_answer_is_the_answer(app):
    async def both(api):
        options = {"model": "tiny", "max_tokens": 20, "temperature": 1.0, "seed": 3, "n": 2}
        whole = await api.completions.create(prompt="x", logprobs=2, echo=True, **options)
        chunks = [
            chunk
            async for chunk in await api.completions.create(
                prompt="x", logprobs=2, echo=True, stream=True,
                stream_options={"include_usage": True}, **options,
            )
        ]  # fmt: skip
        chat = await api.chat.completions.create(messages=HELLO, logprobs=True, **options)
        parts = [
            chunk
            async for chunk in await api.chat.completions.create(
                messages=HELLO, logprobs=True, stream=True, **options
            )
        ]
        return whole, chunks, chat, parts

    whole, chunks, chat, parts = ask(app, both)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    for choice in whole.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in own) == choice.text
        for name in ("tokens", "token_logprobs", "text_offset"):
            said = [value for c in own for value in getattr(c.logprobs, name)]
            assert said == getattr(choice.logprobs, name)
        assert own[-1].finish_reason == choice.finish_reason
    for choice in chat.choices:
        own = [c for chunk in parts for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in own) == choice.message.content
        said = [entry for c in own if c.logprobs for entry in c.logprobs.content]
        assert said == choice.logprobs.content
        assert own[0].delta.role == "assistant"


def test_log_probabilities_are_the_models(app, model):
    made = ask(
        app,
        lambda api: api.completions.create(
            model="tiny", prompt="the cat", max_tokens=3, temperature=0, logprobs=2, echo=True
        ),
    )
    said, text = made.choices[0].logprobs, made.choices[0].text
    tokens = [*b"the cat", *(ord(t) if len(t) == 1 else int(t[-2:], 16) for t in said.tokens[7:])]
    with torch.inference_mode():
        expected = model.model(torch.tensor([tokens])).log_softmax(-1)[0]
    following = [float(expected[i, t]) for i, t in enumerate(tokens[1:])]
    assert said.token_logprobs[0] is None
    assert said.token_logprobs[1:] == pytest.approx(following, abs=1e-4)
    assert max(said.top_logprobs[1].values()) == pytest.approx(float(expected[0].max()), abs=1e-4)
    assert text.startswith("the cat") and said.text_offset[:8] == list(range(8))


def test_the_own_endpoint_client_reads_the_server(tmp_path, model):
    """What `adapt black-box --endpoint` asks for: echoed log-probabilities with one token more."""
    app = application(run_of(tmp_path, model))
    body = {"model": "tiny", "prompt": ["2 + 2 = 4", "2 + 2 = 5"], "max_tokens": 1, "temperature": 0,
            "logprobs": 1, "echo": True}  # fmt: skip
    reply = asyncio.run(call(app, "/v1/completions", body))
    for choice in reply.json["choices"]:
        said = choice["logprobs"]
        assert len(said["tokens"]) == len(said["token_logprobs"]) == len(said["text_offset"]) == 10
        assert said["text_offset"][8] == 8
    asyncio.run(closed(app))


def test_a_prompt_can_be_scored_alone(app):
    made = ask(
        app,
        lambda api: api.completions.create(
            model="tiny", prompt="the cat", max_tokens=0, logprobs=0, echo=True
        ),
    )
    assert made.choices[0].text == "the cat" and made.usage.completion_tokens == 0
    assert len(made.choices[0].logprobs.token_logprobs) == 7


def test_stop_strings_across_tokens_end_an_answer_and_are_cut(app, model):
    (free,), _ = generate(
        model.model, model.tokenizer, ["a"], tokens=60, sampling=Sampling(temperature=1.0, seed=1)
    )
    readable = next(
        i for i in range(2, len(free.text) - 3) if "\ufffd" not in free.text[: i + 3]
    ) if "\ufffd" not in free.text[:5] else None  # fmt: skip
    stop = free.text[2:5] if readable else free.text[:1]

    async def both(api):
        options = {
            "model": "tiny",
            "prompt": "a",
            "max_tokens": 60,
            "temperature": 1.0,
            "seed": 1,
            "stop": [stop],
        }
        whole = await api.completions.create(**options)
        parts = [c async for c in await api.completions.create(stream=True, **options)]
        return whole.choices[0], "".join(c.choices[0].text for c in parts if c.choices)

    choice, streamed = ask(app, both)
    assert choice.text == streamed == free.text[: free.text.index(stop)]
    assert choice.finish_reason == "stop"


def test_bias_and_penalties_reach_the_engine(app):
    async def both(api):
        options = {"model": "tiny", "prompt": "a", "max_tokens": 8, "temperature": 0}
        biased = await api.completions.create(logit_bias={"65": 100, "66": 95}, **options)
        penal = await api.completions.create(
            logit_bias={"65": 100, "66": 95}, frequency_penalty=2, **options
        )
        return biased.choices[0].text, penal.choices[0].text

    biased, penalised = ask(app, both)
    assert biased == "A" * 8 and set(penalised) == {"A", "B"}


def test_an_answer_is_held_to_a_schema(app):
    async def answers(api):
        form = {
            "type": "json_schema",
            "json_schema": {"name": "w", "schema": WEATHER["function"]["parameters"]},
        }
        one = await api.chat.completions.create(
            model="tiny", messages=HELLO, response_format=form, seed=2
        )
        choice = await api.completions.create(
            model="tiny",
            prompt="a",
            max_tokens=20,
            seed=2,
            extra_body={"guided_choice": ["yes", "no"]},
        )
        anything = await api.chat.completions.create(
            model="tiny",
            messages=HELLO,
            response_format={"type": "json_object"},
            max_tokens=8,
            seed=2,
        )
        return one.choices[0], choice.choices[0], anything.choices[0]

    one, choice, anything = ask(app, answers)
    assert json.loads(one.message.content)["city"] in ("Oslo", "Rome")
    assert one.finish_reason == "stop" and choice.text in ("yes", "no")
    assert anything.message.content.startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_tool_that_must_be_called_is_called(app, choice):
    async def both(api):
        options = {
            "model": "tiny",
            "messages": HELLO,
            "tools": [WEATHER],
            "tool_choice": choice,
            "seed": 4,
        }
        whole = await api.chat.completions.create(**options)
        parts = [c async for c in await api.chat.completions.create(stream=True, **options)]
        return whole.choices[0], [c.choices[0] for c in parts]

    whole, parts = ask(app, both)
    (called,) = whole.message.tool_calls
    assert called.function.name == "weather" and whole.message.content is None
    assert json.loads(called.function.arguments)["city"] in ("Oslo", "Rome")
    assert whole.finish_reason == parts[-1].finish_reason == "tool_calls"
    streamed = [c for part in parts for c in part.delta.tool_calls or ()]
    assert streamed[0].function.name == "weather" and streamed[0].id
    assert "".join(c.function.arguments for c in streamed) == called.function.arguments


def test_a_free_answer_that_is_a_call_is_one():
    from maquette.serving.api.bodies import Tool
    from maquette.serving.api.chat import _Writer
    from maquette.serving.api.tools import Choice

    choice = Choice((Tool.model_validate(WEATHER),))
    call_text = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    message = _Writer(choice, False).message(call_text)
    assert message["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Oslo"}',
    }
    for text in ('{"name": "other", "arguments": {}}', "{ not a call", "It rains.", "<b>"):
        assert _Writer(choice, False).message(text) == {"role": "assistant", "content": text}
    writer = _Writer(choice, False)  # what cannot be a call any more is not held back
    assert writer.deltas("It", False) == [{"content": "It"}]


def test_a_conversation_reaches_the_model_as_its_template_writes_it(tmp_path):
    """Roles in a row are joined, a last answer goes on, tools and their results are told."""
    from maquette.serving.api.bodies import Message, Tool
    from maquette.serving.api.conversation import conversation_of, encode_conversation

    def written(model, messages, tools=()):
        told = [Message.model_validate(m) for m in messages]
        return bytes(encode_conversation(model, conversation_of(told, tools)))

    plain, chatml = language_model(), language_model(template=JinjaTemplate(CHATML))
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One?"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": "Three"},
    ]
    assert written(plain, messages) == b"Q: Be short.\n\nOne?\n\nTwo?\nA: Three"
    assert written(chatml, messages).endswith(b"Two?<|im_end|>\n<|im_start|>assistant\nThree")
    used = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]  # fmt: skip
    prompt = written(chatml, used, [Tool.model_validate(WEATHER)])
    assert prompt.startswith(b"<|im_start|>system\nYou can call tools.") and b'"weather"' in prompt
    assert b'{"name": "weather", "arguments": {"city": "Oslo"}}<|im_end|>' in prompt
    assert prompt.endswith(b"user\nrain<|im_end|>\n<|im_start|>assistant\n")


def test_a_full_context_is_an_error_or_shifted_as_the_server_was_told(tmp_path, model):
    body = {"model": "tiny", "prompt": "a" * (CONTEXT - 4), "max_tokens": 12, "temperature": 0}
    plain = application(run_of(tmp_path, model))
    shifting = application(
        run_of(tmp_path, model),
        engine=lambda m: Engine(m.model, m.tokenizer, memory=1 << 26, context_shift=True),
    )

    async def main():
        replies = [await call(app, "/v1/completions", body) for app in (plain, shifting)]
        await closed(plain)
        await closed(shifting)
        return replies

    refused, shifted = asyncio.run(main())
    assert refused.status == 400 and refused.error["code"] == "context_length_exceeded"
    assert shifted.json["usage"]["completion_tokens"] == 12
    assert shifted.json["usage"]["dropped_tokens"] > 0


def test_a_draft_changes_no_token(tmp_path, model):
    app = application(
        run_of(tmp_path, model),
        engine=lambda m: Engine(m.model, m.tokenizer, memory=1 << 26, draft=language_model().model),
    )
    body = {"model": "tiny", "prompt": "the cat", "max_tokens": 20, "temperature": 0, "logprobs": 0}

    async def main():
        reply = await call(app, "/v1/completions", body)
        streamed = await call(app, "/v1/completions", body | {"stream": True})
        await closed(app)
        return reply, streamed

    reply, streamed = asyncio.run(main())
    (expected,), _ = generate(
        model.model, model.tokenizer, ["the cat"], tokens=20, sampling=Sampling(temperature=0)
    )
    assert reply.json["choices"][0]["text"] == expected.text
    lines = streamed.body.strip().split(b"\n\n")
    assert lines.pop() == b"data: [DONE]"
    parts = [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines]
    assert "".join(part["text"] for part in parts) == expected.text
    assert sum(len(part["logprobs"]["tokens"]) for part in parts) == 20


def test_embeddings_are_means_of_hidden_states(app, model):
    made = ask(app, lambda api: api.embeddings.create(model="tiny", input=["the cat", "a"]))
    with torch.inference_mode():
        hidden = model.model.hidden(torch.tensor([list(b"the cat")]))[0].mean(0)
    expected = (hidden / hidden.norm()).tolist()
    assert made.data[0].embedding == pytest.approx(expected, abs=1e-5)  # sent as base64
    assert made.usage.prompt_tokens == 8
    listed = asyncio.run(call(app, "/v1/embeddings", {"model": "tiny", "input": [[97]]})).json
    assert np.linalg.norm(listed["data"][0]["embedding"]) == pytest.approx(1)
    asyncio.run(closed(app))


class Painter:
    """A picture model that remembers its orders."""

    def __init__(self):
        self.orders = []

    def make(self, order, stopped):
        self.orders.append(order)
        assert not stopped()
        return PicturesMade([b"png"] * order.count, 16, 16, 20, ["a note"])


def test_pictures_are_asked_for_by_openais_client(tmp_path):
    painter = Painter()
    about = {"image_size": 16, "condition": "embedding"}
    app = application(
        run_of(tmp_path, painter, "painter", kind="pictures", about=about, load=lambda: painter),
        run_of(tmp_path, None, "prior", kind="prior"),
    )

    async def all_three(api):
        made = await api.images.generate(model="painter", prompt="a dot", n=2, size="16x16")
        await api.images.edit(
            model="painter", prompt="b", image=io.BytesIO(b"picture"), mask=io.BytesIO(b"mask"),
            extra_body={"seed": 5, "steps": 3},
        )  # fmt: skip
        await api.images.edit(
            model="painter",
            prompt="b",
            image=io.BytesIO(b"picture"),
            extra_body={"outpaint": "right=8"},
        )
        await api.images.create_variation(model="painter", image=io.BytesIO(b"like"), n=3)
        return made

    made = ask(app, all_three)
    assert [base64.b64decode(one.b64_json) for one in made.data] == [b"png"] * 2
    drawn, filled, extended, varied = painter.orders
    assert (drawn.prompt, drawn.count, drawn.prior) == ("a dot", 2, tmp_path / "prior")
    assert (filled.picture, filled.mask, filled.seed, filled.steps) == (b"picture", b"mask", 5, 3)
    assert (extended.mask, extended.outpaint) == (None, {"right": 8})
    assert (varied.vary, varied.count) == (b"like", 3)
    for fields in ({"n": 11}, {"size": "1x1"}, {"steps": 10**6}, {"solver": "magic"}, {"prior": "no"},
                   {"response_format": "url"}, {"seed": -1}):  # fmt: skip
        reply = asyncio.run(
            call(app, "/v1/images/generations", {"model": "painter", "prompt": "a"} | fields)
        )
        assert reply.status in (400, 404) and reply.error
    asyncio.run(closed(app))


def test_adapters_are_asked_for_by_name(tmp_path):
    """By RUN:ADAPTER, by weights, and one that is not there."""
    from maquette.adaptation.adapters.adapter import attach
    from maquette.adaptation.adapters.config import LoRAConfig

    model = language_model()
    adapter = LoRAConfig(rank=2).build(model.model)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_()
    attach(model.model, "terse", adapter.eval())
    adapter.weight = 0.0
    app = application(run_of(tmp_path, language_model(model=model.model, adapters={"terse": 0.0})))

    async def texts(api):
        async def text(name, **more):
            made = await api.completions.create(
                model=name, prompt="the", max_tokens=20, temperature=0, extra_body=more
            )
            return made.choices[0].text

        return [
            await text("tiny"),
            await text("tiny:terse"),
            await text("tiny", adapters={"terse": 1.0}),
            await text("tiny:terse", adapters={"terse": 0}),
        ]

    plain, named, weighted, zero = ask(app, texts)
    assert plain == zero != named == weighted
    error = refuses(
        app, lambda api: api.completions.create(model="tiny:no", prompt="a"), openai.NotFoundError
    )
    assert error.code == "adapter_not_found"


def test_tokens_and_lookups(app):
    async def main():
        tokens = await call(app, "/tokenize", {"model": "tiny", "prompt": "é!"})
        text = await call(app, "/detokenize", {"model": "tiny", "tokens": tokens.json["tokens"]})
        traced = await call(app, "/trace", {"model": "tiny", "text": "a"})
        models = await call(app, "/v1/models")
        await closed(app)
        return tokens, text, traced, models

    tokens, text, traced, models = asyncio.run(main())
    assert tokens.json == {
        "tokens": [195, 169, 33], "count": 3, "max_model_len": CONTEXT,
        "pieces": ["bytes:\\xc3", "bytes:\\xa9", "!"],
    }  # fmt: skip
    assert text.json == {"prompt": "é!"} and traced.json["spans"] == []
    assert models.json["data"][0]["maquette"]["context"] == CONTEXT


def test_a_real_run_is_served(shared_run):
    """From its folder: the same text as `maquette.load`."""
    from maquette.workshop.load import load
    from maquette.workshop.serve import served_run

    app = application(served_run(shared_run, {}, "fp32"))
    body = {"model": shared_run.name, "prompt": "the ", "max_tokens": 8, "temperature": 0}

    async def main():
        made = await call(app, "/v1/completions", body)
        unknown = await call(app, "/portrait", {"model": shared_run.name, "text": "a"})
        await closed(app)
        return made, unknown

    made, unknown = asyncio.run(main())
    expected = load(shared_run).optimise("fp32").generate("the ", tokens=8, temperature=0)
    assert made.json["choices"][0]["text"] == expected
    assert unknown.status == 400 and "portrait" in unknown.error["message"]


@pytest.mark.slow
def test_a_real_runs_text_is_traced_and_its_portrait_asked(shared_run):
    from maquette.audit.index import open_index
    from maquette.cli.main import main as maquette
    from maquette.training.run import RunDirectory
    from maquette.training.run_corpus import text_of
    from maquette.workshop.serve import served_run

    corpus = text_of(RunDirectory(shared_run))
    open_index(corpus)
    assert maquette(["audit", "portrait", str(corpus.path)]) == 0
    app = application(served_run(shared_run, {}, "fp32"))
    body = {"model": shared_run.name, "text": corpus.text(0).decode()[:300]}

    async def main():
        replies = [await call(app, path, body) for path in ("/trace", "/portrait")]
        await closed(app)
        return replies

    traced, known = asyncio.run(main())
    assert traced.json["spans"][0]["documents"][0]["source"] == "made:0"
    assert known.json["coverage"] > 0.5


def test_the_page_and_the_documents_load_nothing_from_elsewhere(app):
    async def main():
        pages = [await call(app, path) for path in ("/", "/docs", "/page/index.html")]
        missing = [
            await call(app, f"/page/{name}") for name in ("..%2Fapi.py", "../api/app.py", "none.js")
        ]
        document = (await call(app, "/openapi.json")).json
        return pages, missing, document

    pages, missing, document = asyncio.run(main())
    for page in pages:
        assert page.status == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert b"http://" not in page.body and b"https://" not in page.body
    assert all(one.status == 404 for one in missing)
    assert "/v1/chat/completions" in document["paths"]


def test_an_engine_is_made_for_each_run(tmp_path, model):
    """Two runs at a time answer, each from its own engine."""
    made = []

    def counted(opened):
        made.append(Engine(opened.model, opened.tokenizer, memory=1 << 24))
        return made[-1]

    app = application(run_of(tmp_path, model, "a"), run_of(tmp_path, model, "b"), engine=counted)

    async def both(api):
        return await asyncio.gather(
            *(api.completions.create(model=m, prompt="x", temperature=0) for m in ("a", "b", "a"))
        )

    a, b, _ = ask(app, both)
    assert a.choices[0].text == b.choices[0].text and len(made) == 2
