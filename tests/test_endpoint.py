"""Endpoints of OpenAI's API: what is asked of them, words that are found, and every way they fail.

A server of this process, on a port of the system's choice at localhost; nothing waits for a time.
"""

import json
import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import command, refused

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.build import build_examples
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.serving import endpoint as module
from maquette.serving.endpoint import Endpoint
from maquette.workshop.black_box_endpoint import asked_of, examples_of

KEY = "sk-of-nobody"


class Server:
    """A server whose replies are a function of path and content: (code, headers, object or bytes)."""

    def __init__(self):
        self.requests, self.reply = [], echoing
        self.release = threading.Event()  # of a reply that is slow
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, content, self.headers.get("Authorization")))
                code, headers, body = outer.reply(self.path, content)
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def log_probability(before, word):
    """A model that answers "good", and what stands in quotes after it has read "magic"."""
    wanted = before.split('"')[1] if '"' in before else ""
    told = "magic" in before.split("\n")[0]
    likes = wanted if told else "good"
    return -0.125 if word.strip() == likes else -2.0


def echoing(path, content):
    """/completions with echo: words are tokens, each with the space before it."""
    if not path.endswith("/v1/completions"):
        return 404, {}, {"error": {"message": "no such path"}}
    choices = []
    for index, text in enumerate(content["prompt"]):
        tokens, offsets = [], []
        for position, sign in enumerate(text + " and"):
            if not tokens or sign == " ":
                tokens.append("")
                offsets.append(position)
            tokens[-1] += sign
        values = [
            None,
            *(log_probability(text[:o], t) for o, t in zip(offsets[1:], tokens[1:], strict=True)),
        ]
        said = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
        choices.append({"index": index, "text": text, "logprobs": said})
    return 200, {}, {"choices": choices[::-1]}


def chatting(path, content):
    """/chat/completions alone: the beginnings of words are tokens."""
    if not path.endswith("/chat/completions"):
        return 404, {}, {"detail": "Not Found"}
    top = [{"token": t, "logprob": v} for t, v in ((" go", -0.5), ("good", -1.5), ("b", -2.5))]
    return (
        200,
        {},
        {"choices": [{"logprobs": {"content": [{"token": " go", "top_logprobs": top}]}}]},
    )


def made(server, **options):
    return Endpoint(server.url, "small", **options)


def test_answers_are_scored_by_an_echo(server, monkeypatch):
    """Sums over the tokens of the answer alone, whatever the order of the reply; several a request."""
    monkeypatch.setattr(module, "BATCH", 3)
    asked = [('magic\n"bad" is', (" good", " bad")), ("it is", (" good then", " bad"))]
    found = made(server).log_likelihoods(asked)
    assert found == [[-2.0, -0.125], [-2.125, -2.0]]
    assert [len(content["prompt"]) for _, content, _ in server.requests] == [3, 1]
    (_, content, key), *_ = server.requests
    assert (
        content["echo"] and content["logprobs"] == 1 and content["model"] == "small" and key is None
    )
    without = echoing

    def no_offsets(path, content):
        code, headers, body = without(path, content)
        for choice in body["choices"]:
            del choice["logprobs"]["text_offset"]
        return code, headers, body

    server.reply = no_offsets
    assert made(server).log_likelihoods(asked) == found
    straddling = made(server).log_likelihoods([('magic\n"bad" is b', ("ad", "oo"))])
    assert straddling == [[-0.125, -2.0]]  # the token "bad" begins before the answer


def test_answers_are_scored_by_a_chats_first_tokens(server):
    server.reply = chatting
    found = made(server).log_likelihoods([("it is", (" good", " bad", " fair"))] * 2)
    assert found[0] == found[1] == [math.log(math.exp(-0.5) + math.exp(-1.5)), -2.5, -3.5]
    paths = [path.removeprefix("/v1") for path, _, _ in server.requests]
    assert paths == ["/completions", "/chat/completions", "/chat/completions"]
    with pytest.raises(UserError, match="name examples with choices"):
        made(server).log_likelihoods([("it is", (" good",))])


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "reviews.jsonl"
    lines = [
        {"prompt": f'"{word}" number {i} is', "choices": [" good", " bad"], "answer": " " + word}
        for i in range(30) for word in ("good", "bad")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "words").write_text("some\nmagic\nother\nplain\n", encoding="utf-8")
    return path


def find(server, data, path, *more):
    return command(
        "adapt", "black-box", "--endpoint", server.url, "--model", "small", data, "--run", path,
        "--words", data.parent / "words", "--calls", 60, "--population", 10, "--examples", 8,
        "--places", 2, "--every", 20, "--json", *more,
    )  # fmt: skip


def test_a_chat_template_is_the_endpoints_own_to_write(data):
    """A question is sent as it is, be it a corpus' template or one that is given."""
    jinja = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    corpus = build_examples(data.parent / "corpus", [data], byte_tokenizer(), template=jinja)
    for source, template in ((str(corpus.path), "{prompt}{answer}"), (str(data), jinja)):
        known, _, written = examples_of(source, None, template)
        assert asked_of(known[0], written, "")[0] == known[0].prompt


def test_words_that_help_are_found_and_a_cut_search_goes_on(server, data, tmp_path, monkeypatch):
    """The key is sent and stands in no file; what was paid for is not asked again."""
    monkeypatch.setenv("MY_KEY", KEY)
    said = find(server, data, tmp_path / "whole", "--key-variable", "MY_KEY")
    assert said.code == 0, said.err
    found = said.json
    assert "magic" in found["prompt"]
    assert found["metric_before"] < 0.8 and found["metric_after"] == 1.0
    assert found["scored"] > 0 and found["stderr_after"] == 0.0 and found["stderr_before"] > 0
    assert (found["adapter"], found["forgetting"]) == ("words", None)
    assert found["base"] == server.url
    kept = json.loads((tmp_path / "whole/prompt.json").read_text(encoding="utf-8"))
    assert kept == found and found["calls"] == 60 and found["requests"] == len(server.requests)
    assert {key for _, _, key in server.requests} == {f"Bearer {KEY}"}
    written = b"".join(p.read_bytes() for p in (tmp_path / "whole").iterdir() if p.is_file())
    assert KEY.encode() not in written and KEY not in said.out + said.err

    count = len(server.requests)
    again = find(server, data, tmp_path / "whole", "--resume", "--key-variable", "MY_KEY")
    assert again.code == 0 and len(server.requests) == count  # all of it is on record
    assert again.json["before"] == found["before"] and again.json["after"] == found["after"]

    def failing(path, content):
        return echoing(path, content) if len(server.requests) < count + 60 else (500, {}, {})

    server.reply = failing
    refused(find(server, data, tmp_path / "cut"), "refuses (500)", code=1)
    server.reply, before = echoing, len(server.requests)
    said = find(server, data, tmp_path / "cut", "--resume")
    assert said.code == 0, said.err
    assert len(server.requests) - before < count - 50
    assert {k: said.json[k] for k in ("prompt", "after", "chosen_by")} == {
        k: found[k] for k in ("prompt", "after", "chosen_by")
    }


@pytest.mark.parametrize("replies", [(chatting, echoing), (echoing, chatting)])
def test_a_search_goes_on_in_the_way_that_it_began(replies, server, data, tmp_path):
    """Whole answers and first tokens are losses of two kinds. What was refused is not in the way."""
    for _ in range(2):
        server.reply = answer(500)
        refused(find(server, data, tmp_path / "run"), "refuses (500)", code=1)
    server.reply = lambda *given: replies[0](*given) if len(server.requests) < 40 else (500, {}, {})
    refused(find(server, data, tmp_path / "run"), "refuses (500)", code=1)
    log = tmp_path / "run/search.jsonl"
    before, asked = log.read_bytes(), len(server.requests)
    server.reply = replies[1]
    said = find(server, data, tmp_path / "run", "--resume")
    assert said.code == 1 and log.read_bytes() == before
    paths = {path for path, _, _ in server.requests[asked:]}
    assert paths == {"/v1/chat/completions" if replies[0] is chatting else "/v1/completions"}


def answer(code, body=b"{}", **headers):
    return lambda path, content: (code, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def plain(path, content):
    """A reply without log-probabilities."""
    return 200, {}, {"choices": [{"text": "good", "message": {"content": "good"}}]}


def test_no_part_of_a_key_is_shown(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for length in range(140, 165):
        server.reply = answer(500, {"error": "x" * length + KEY})
        with pytest.raises(UserError) as caught:
            made(server).log_likelihoods([("a", ("b",))])
        assert KEY[:3] not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    asked = len(server.requests)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds a line end") as caught:
        made(server).log_likelihoods([("a", ("b",))])
    assert KEY not in str(caught.value) and len(server.requests) == asked


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (plain, ["gives no log-probabilities of small"]),
        (
            answer(401, {"error": {"message": f"wrong: {KEY}"}}),
            ["refuses the key of $OPENAI_API_KEY"],
        ),
        (
            answer(404, {"error": {"message": "no model small"}}),
            ["knows no model small", "--model"],
        ),
        (answer(500, {"error": f"broken {KEY}"}), ["refuses (500: broken ...)"]),
        (answer(200, b"<html>"), ["something other than JSON"]),
        (answer(302, Location="http://127.0.0.1:1/v1"), ["refuses (302)"]),
        (answer(429), ["still limits the rate after 6 tries", "--resume"]),
    ],
)
def test_what_an_endpoint_refuses_is_one_line(reply, parts, server, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.reply = reply
    said = find(server, data, tmp_path / "run")
    refused(said, *parts, code=1)
    assert KEY not in said.err and not (tmp_path / "run/search.jsonl").exists()


def test_down_and_slow_endpoints_are_one_line(server, data, tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        down = Endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}", "small")
        with pytest.raises(UserError, match="cannot be reached"):
            down.log_likelihoods([("a", ("b",))])

    def slow(path, content):
        server.release.wait()
        return echoing(path, content)

    server.reply = slow
    refused(find(server, data, tmp_path / "run", "--timeout", 0.2), "within 0.2 seconds", code=1)


def test_a_rate_limit_is_waited_out_as_long_as_is_asked_within_bounds(server):
    asked, waited = iter(["7", "0.5", "99999", "tomorrow"]), []

    def limited(path, content):
        after = next(asked, None)
        return echoing(path, content) if after is None else (429, {"Retry-After": after}, {})

    server.reply = limited
    found = made(server, sleep=waited.append).log_likelihoods([("it is", (" good",))])
    assert found == [[-0.125]] and waited == [7.0, 0.5, 60.0, 8.0]


def test_what_is_no_endpoint_is_wrong_use(data, tmp_path):
    for url in ("localhost:8000", "ftp://a/b", "http://", "http://name:secret@host/v1"):
        with pytest.raises(WrongUse) as caught:
            Endpoint(url, "small")
        assert "secret" not in str(caught.value)
    assert Endpoint("http://host", "small").url == "http://host/v1"
    with pytest.raises(WrongUse, match="timeout is 0"):
        Endpoint("http://host", "small", timeout=0)
    run = ("--run", tmp_path / "run")
    words = ("adapt", "black-box", data, *run, "--endpoint", "http://127.0.0.1:1")
    refused(command(*words), "--model is missing", code=2)
    refused(command(*words, "--model", "x", "--size", 3), "--size is of a run of ours", code=2)
    refused(command(*words, "--model", "x", "--words", tmp_path / "no"), "does not exist", code=1)
