"""Faults at a server: bad requests, clients that go or do not read, full queues, runs that vanish."""

import asyncio
import json
import socket
import threading

import pytest
from served import Held, application, call, closed, language_model, run_of, worker_of

from maquette.base.errors import UserError, WrongUse
from maquette.serving.api.guard import Access
from maquette.serving.api.limits import Limits
from maquette.serving.api.runs import Runs
from maquette.serving.api.worker import Worker
from maquette.serving.engine import Engine, Request

TEXT = {"model": "tiny", "prompt": "a", "max_tokens": 4}
LONG = {"model": "tiny", "prompt": "a", "max_tokens": 300, "stream": True}


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path, language_model())


def one(app, path, body=None, **options):
    """The reply to one raw call, after which the server ends."""

    async def main():
        try:
            return await call(app, path, body, **options)
        finally:
            await closed(app)

    return asyncio.run(main())


def held(**options):
    """Makes an engine that takes a step for each permit, and the list that it will be in."""
    made: list[Held] = []

    def make(opened):
        made.append(Held(opened.model, opened.tokenizer, memory=1 << 24, **options))
        return made[-1]

    return make, made


async def end(app, engines):
    """End a server whose engines are held."""
    for engine in engines:
        engine.permits.release(10_000)
    await closed(app)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"\xff\xfe{", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b"null", None),
        (b"", None),
        ({"prompt": "a"}, "model"),
        (TEXT | {"max_tokens": "4"}, "max_tokens"),
        (TEXT | {"max_tokens": -1}, "max_tokens"),
        (TEXT | {"temperature": 3}, "temperature"),
        (json.dumps(TEXT).replace("4}", "NaN}").encode(), "max_tokens"),
        (TEXT | {"prompt": {"a": 1}}, None),
        (TEXT | {"prompt": []}, "prompt"),
        (TEXT | {"prompt": [257]}, "prompt"),
        (TEXT | {"prompt": [[1], []]}, None),
        (TEXT | {"prompt": "a" * 400}, "prompt"),
        (TEXT | {"prompt": "\udc80"}, None),
        (TEXT | {"n": 10**9}, "n"),
        (TEXT | {"stop": ["a"] * 17}, "stop"),
        (TEXT | {"logit_bias": {"x": 1}}, None),
        (TEXT | {"logit_bias": {"900": 1}}, None),
        (TEXT | {"suffix": "b"}, "suffix"),
        (TEXT | {"guided_regex": "("}, None),
        (TEXT | {"guided_json": {"type": "nothing"}}, None),
        (TEXT | {"guided_choice": ["a"], "guided_regex": "a"}, None),
        (TEXT | {"adapters": {"a": 1}}, "adapters"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_json_error(run, body, param):
    reply = one(application(run), "/v1/completions", body, method="POST")
    assert reply.status in (400, 404), reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.error["type"] == "invalid_request_error"
    if param is not None:
        assert (reply.error["param"] or "").startswith(param)


def test_chat_refuses_what_it_cannot_do(run):
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    wrong = [
        {"messages": []},
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "king", "content": "a"}]},
        {"messages": [{"role": "user", "content": picture}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_schema"}},
        {"top_logprobs": 3},
        {"max_tokens": 10_000},
    ]

    async def main():
        app = application(run)
        replies = [await call(app, "/v1/chat/completions", chat | change) for change in wrong]
        await closed(app)
        return replies

    for change, reply in zip(wrong, asyncio.run(main()), strict=True):
        assert reply.status == 400 and reply.error, change


def test_fields_that_are_not_known_are_ignored(run):
    assert one(application(run), "/v1/completions", TEXT | {"user": "x", "new": [1]}).status == 200


def test_paths_methods_and_models_that_are_not_there(run):
    async def main():
        app = application(run)
        replies = [
            await call(app, "/v1/nothing"),
            await call(app, "/v1/completions", method="DELETE"),
            await call(app, "/v1/completions", TEXT | {"model": "tinny"}),
            await call(app, "/v1/images/generations", {"model": "tiny", "prompt": "a"}),
            await call(app, "/v1/models/../../etc/passwd"),
        ]
        await closed(app)
        return replies

    nothing, method, model, kind, path = asyncio.run(main())
    assert (nothing.status, method.status, model.status, kind.status, path.status) == (
        404,
        405,
        404,
        400,
        404,
    )
    assert (
        "did you mean 'tiny'" in model.error["message"] and model.error["code"] == "model_not_found"
    )
    assert kind.error["code"] == "wrong_kind"


def test_a_body_that_is_too_large_or_never_ends_is_refused(run):
    limits = Limits(body_bytes=1000, body_seconds=0.001)
    large = b"x" * 1001
    announced = one(application(run, limits=limits), "/v1/completions", b"x",
                    headers={"content-length": "1001"})  # fmt: skip
    sent = one(application(run, limits=limits), "/v1/completions", large)
    slow = one(application(run, limits=limits), "/v1/completions", b"{", more=True)
    assert (announced.status, sent.status, slow.status) == (413, 413, 408)
    assert announced.error["code"] == sent.error["code"] == "too_large"


def test_a_client_that_goes_frees_its_row_within_a_step(run):
    """The same whether its answer is streamed or not."""
    make, engines = held()

    async def main():
        app = application(run, engine=make)
        for body in (LONG, LONG | {"stream": False}):
            gone, started = asyncio.Event(), asyncio.Event()

            async def seen(_, started=started):
                started.set()

            answer = asyncio.create_task(
                call(app, "/v1/completions", body, on_body=seen, gone=gone)
            )
            while app.runs.loaded("tiny") is None or not len(worker_of(app)):
                await asyncio.sleep(0)
            engine = engines[0]
            if body["stream"]:
                engine.permits.release(3)
                await started.wait()
            gone.set()
            await answer
            engine.permits.release(1)  # the step that the thread waits in
            assert await worker_of(app).call(lambda e=engine: len(e)) == 0
        await end(app, engines)

    asyncio.run(main())


def test_a_client_that_does_not_read_is_cancelled_and_blocks_nobody(run):
    make, engines = held()

    async def main():
        app = application(run, engine=make, limits=Limits(unread=8))
        reads = asyncio.Event()

        async def slow(_):
            await reads.wait()

        silent = asyncio.create_task(call(app, "/v1/completions", LONG, on_body=slow))
        while app.runs.loaded("tiny") is None or not len(worker_of(app)):
            await asyncio.sleep(0)
        engines[0].permits.release(10_000)
        other = await call(app, "/v1/completions", TEXT | {"max_tokens": 30})
        while await worker_of(app).call(lambda: len(engines[0])):
            pass  # steps of the silent client's answer, 300 at most
        reads.set()
        reply = await silent
        await closed(app)
        return other, reply

    other, reply = asyncio.run(main())
    assert other.status == 200 and other.json["usage"]["completion_tokens"] == 30
    last = reply.body.strip().split(b"\n\n")[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "slow_client"


def test_a_full_queue_says_when_to_come_again(run):
    make, engines = held(rows=1, queue=1)

    async def main():
        app = application(run, engine=make)
        gone = asyncio.Event()
        first = asyncio.create_task(call(app, "/v1/completions", LONG, gone=gone))
        while app.runs.loaded("tiny") is None or not len(worker_of(app)):
            await asyncio.sleep(0)
        refused = asyncio.create_task(call(app, "/v1/completions", TEXT | {"n": 3}))
        engines[0].permits.release(10_000)
        reply = await refused
        left = len(engines[0])  # all or none: what was taken of the three has left again
        gone.set()
        await first
        await closed(app)
        return reply, left

    reply, left = asyncio.run(main())
    assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1
    assert reply.error["code"] == "queue_full" and left <= 1


def test_an_answer_that_takes_too_long_is_given_up(run):
    make, engines = held()

    async def main():
        app = application(run, engine=make, limits=Limits(answer_seconds=0.001))
        replies = [
            await call(app, "/v1/completions", TEXT),
            await call(app, "/v1/completions", LONG),
        ]
        await end(app, engines)
        return replies

    whole, streamed = asyncio.run(main())
    assert whole.status == 504 and whole.error["code"] == "timeout"
    assert b'"code":"timeout"' in streamed.body and b"[DONE]" not in streamed.body


def test_a_defect_is_told_without_its_traceback_and_the_server_goes_on(run):
    class Broken(Engine):
        broken = True

        def step(self):
            if self.broken:
                Broken.broken = False
                raise RuntimeError("secret detail")
            return super().step()

    async def main():
        app = application(run, engine=lambda m: Broken(m.model, m.tokenizer, memory=1 << 24))
        replies = [await call(app, "/v1/completions", TEXT) for _ in range(2)]
        await closed(app)
        return replies

    failed, after = asyncio.run(main())
    assert failed.status == 500 and failed.error["type"] == "server_error"
    assert b"secret" not in failed.body and after.status == 200


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_step_whose_engine_cannot_be_emptied_fails_and_the_run_is_opened_anew(run, error):
    """Nobody hangs: neither who waits for the engine's thread as it ends, nor who comes later."""
    entered, goes = threading.Event(), threading.Event()
    made = []

    class Broken(Engine):
        def step(self):
            if made.index(self) > 0:
                return super().step()
            entered.set()
            goes.wait()
            raise error("secret detail")

        def cancel(self, request):
            raise AssertionError("prompts are run together")

        def clear(self):
            raise RuntimeError("nor is that possible")

    def make(opened):
        made.append(Broken(opened.model, opened.tokenizer, memory=1 << 24))
        return made[-1]

    async def main():
        app = application(run, engine=make)
        two = asyncio.create_task(call(app, "/v1/completions", TEXT | {"prompt": ["ab", "cd"]}))
        await asyncio.to_thread(entered.wait)
        worker = worker_of(app)
        waits = asyncio.create_task(worker.call(lambda: None))
        await asyncio.sleep(0)  # it is posted now
        goes.set()
        failed = await two
        late = [await asyncio.gather(one, return_exceptions=True)
                for one in (waits, worker.call(lambda: None), worker.submit([]))]  # fmt: skip
        after = await call(app, "/v1/completions", TEXT)
        await closed(app)
        return failed, late, after

    failed, late, after = asyncio.run(main())
    assert failed.status == 500 and b"secret" not in failed.body
    assert [one.status for (one,) in late] == [500] * 3
    assert after.status == 200 and len(made) == 2


def test_a_request_that_cannot_be_cancelled_empties_the_engine(run):
    make, engines = held()
    cleared = threading.Event()

    def stubborn(opened):
        engine = make(opened)

        def cancel(request):
            raise AssertionError("prompts are run together")

        def clear():
            engine._waiting.clear()
            cleared.set()

        engine.cancel, engine.clear = cancel, clear
        return engine

    async def main():
        app = application(run, engine=stubborn)
        gone = asyncio.Event()
        leaves = asyncio.create_task(call(app, "/v1/completions", TEXT, gone=gone))
        while app.runs.loaded("tiny") is None or not len(worker_of(app)):
            await asyncio.sleep(0)
        worker = worker_of(app)
        gone.set()
        await leaves
        engines[0].permits.release(10_000)
        await asyncio.to_thread(cleared.wait)
        reply = await call(app, "/v1/completions", TEXT)
        same = worker_of(app) is worker
        await closed(app)
        return reply, same

    reply, same = asyncio.run(main())
    assert reply.status == 200 and same


def test_a_run_that_is_loaded_as_its_client_goes_is_loaded_once(tmp_path):
    """It is there for the next one, and is closed with the server."""
    begun, goes, opened = threading.Event(), threading.Event(), []

    def load():
        begun.set()
        goes.wait()
        opened.append(language_model())
        return opened[-1]

    async def main():
        app = application(run_of(tmp_path, load))
        gone = asyncio.Event()
        leaves = asyncio.create_task(call(app, "/v1/completions", TEXT, gone=gone))
        await asyncio.to_thread(begun.wait)
        gone.set()
        await leaves
        stays = asyncio.create_task(call(app, "/v1/completions", TEXT))
        goes.set()
        status, users = (await stays).status, app.runs.loaded("tiny").users
        await closed(app)
        return status, users

    assert asyncio.run(main()) == (200, 0) and len(opened) == 1


def test_a_server_that_ends_closes_what_is_being_loaded(tmp_path):
    begun, goes, made = threading.Event(), threading.Event(), []

    def load():
        begun.set()
        goes.wait()
        return language_model()

    def make(opened):
        made.append(Engine(opened.model, opened.tokenizer, memory=1 << 24))
        return made[-1]

    async def main():
        app = application(run_of(tmp_path, load, "ending"), engine=make)
        gone, body = asyncio.Event(), TEXT | {"model": "ending"}
        leaves = asyncio.create_task(call(app, "/v1/completions", body, gone=gone))
        await asyncio.to_thread(begun.wait)
        gone.set()
        await leaves
        ends = asyncio.create_task(closed(app))
        await asyncio.sleep(0)
        goes.set()
        await ends
        return app.runs.loaded("ending")

    assert asyncio.run(main()) is None and len(made) == 1
    assert "engine ending" not in [thread.name for thread in threading.enumerate()]


def test_a_run_that_is_deleted_or_replaced_while_it_is_served(tmp_path):
    opened = []

    def open_second():
        opened.append(language_model())
        return opened[-1]

    first, second = (
        run_of(tmp_path, language_model(), "first"),
        run_of(tmp_path, open_second, "second"),
    )

    async def main():
        app = application(first, second)
        assert (await call(app, "/v1/completions", TEXT | {"model": "first"})).status == 200
        (first.folder / "model.safetensors").unlink()
        gone = await call(app, "/v1/completions", TEXT | {"model": "first"})
        assert app.runs.loaded("first") is None
        others = [(await call(app, "/v1/completions", TEXT | {"model": "second"})).status]
        (second.folder / "model.safetensors").write_bytes(b"other weights")
        others.append((await call(app, "/v1/completions", TEXT | {"model": "second"})).status)
        await closed(app)
        return gone, others

    gone, others = asyncio.run(main())
    assert gone.status == 404 and "no longer there" in gone.error["message"]
    assert others == [200, 200] and len(opened) == 2  # read again, as its file had changed


def test_a_run_that_cannot_be_opened_hides_the_servers_paths(tmp_path):
    def broken():
        raise UserError("/secret/path/model.safetensors is damaged")

    reply = one(application(run_of(tmp_path, broken)), "/v1/completions", TEXT)
    assert reply.status == 503 and reply.error["code"] == "model_unavailable"
    assert b"secret" not in reply.body


def test_the_least_recently_used_run_makes_room(tmp_path):
    """One that is in use stays; what does not fit beside it is told to come again."""
    runs = [run_of(tmp_path, language_model(), name) for name in "abc"]
    served = Runs(runs, lambda m: Engine(m.model, m.tokenizer, memory=1 << 20), memory=250)

    async def main():
        a, b = await served.lease(runs[0]), await served.lease(runs[1])
        with pytest.raises(Exception, match="in use by other runs"):
            await served.lease(runs[2])
        served.release(b)
        c = await served.lease(runs[2])
        there = [served.loaded(name) is not None for name in "abc"]
        served.release(c)
        served.release(a)
        again = await served.lease(runs[0])  # now c is the least recently used
        served.release(again)
        served.release(await served.lease(runs[1]))
        later = [served.loaded(name) is not None for name in "abc"]
        await served.close()
        return there, later

    assert asyncio.run(main()) == ([True, False, True], [True, True, False])


def test_a_run_that_is_used_meanwhile_is_not_unloaded(tmp_path, monkeypatch):
    """Room is made one run after the other; what is unloaded but still used takes room, too."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # slow, and nothing of it is looked at
    runs = [run_of(tmp_path, language_model(), name) for name in "abc"]
    large = run_of(tmp_path, language_model(), "large", memory=250)
    served = Runs(
        [*runs, large], lambda m: Engine(m.model, m.tokenizer, memory=1 << 20), memory=300
    )

    async def main():
        for run in runs[:2]:
            served.release(await served.lease(run))
        first = served.loaded("a")
        closing, goes = threading.Event(), threading.Event()
        close = first.close

        def slowly():
            closing.set()
            goes.wait()
            close()

        first.close = slowly
        wants = asyncio.create_task(served.lease(large))
        await asyncio.to_thread(closing.wait)
        b = await served.lease(runs[1])  # the next that was to go
        goes.set()
        with pytest.raises(Exception, match="in use by other runs"):
            await wants
        still = served.loaded("b") is b
        (runs[1].folder / "model.safetensors").write_bytes(b"other weights")
        newer = await served.lease(runs[1])  # the older one is used, and counts
        c = await served.lease(runs[2])
        with pytest.raises(Exception, match="in use by other runs"):
            await served.lease(runs[0])
        for one in (b, newer, c):
            served.release(one)
        await served.close()
        return still

    assert asyncio.run(main())


def test_a_budget_and_names_that_cannot_be_are_refused(tmp_path):
    runs = [run_of(tmp_path, language_model(), "a")]
    with pytest.raises(WrongUse, match="takes 100 bytes"):
        Runs(runs, None, memory=99)
    with pytest.raises(WrongUse, match="two runs are called a"):
        Runs([runs[0], runs[0]], None)


def test_a_foreign_host_or_origin_is_refused(run):
    async def main():
        app = application(run, access=Access(origins=("https://good.example",)))

        async def status(path="/v1/models", method=None, **headers):
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            return await call(app, path, method=method, headers=fields)

        replies = [
            await status(host="evil.example"),
            await status(host="evil.example:80", path="/health"),
            await status(host="127.0.0.1:8080"),
            await status(origin="https://evil.example"),
            await status(origin="http://localhost", host="localhost"),
            await status(origin="https://good.example"),
        ]
        asked = {"access_control_request_method": "POST"}
        preflight = await status(method="OPTIONS", origin="https://good.example", **asked)
        refused = await status(method="OPTIONS", origin="https://evil.example", **asked)
        await closed(app)
        return replies, preflight, refused

    replies, preflight, refused = asyncio.run(main())
    assert [reply.status for reply in replies] == [403, 403, 200, 403, 200, 200]
    assert replies[-1].headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in replies[4].headers
    assert preflight.status == 204 and refused.status == 403


def test_the_log_holds_no_prompt_and_no_key_unless_asked(run, caplog):
    caplog.set_level("INFO", "maquette.serve")
    secret = {"authorization": "Bearer mq-secret"}
    one(application(run), "/v1/completions", TEXT | {"prompt": "my diary"}, headers=secret)
    assert "diary" not in caplog.text and "mq-secret" not in caplog.text
    assert "POST /v1/completions 200" in caplog.text
    one(application(run, access=Access(log_prompts=True)), "/v1/completions",
        TEXT | {"prompt": "my diary"}, headers=secret)  # fmt: skip
    assert "my diary" in caplog.text and "mq-secret" not in caplog.text


def test_metrics_count_what_was_done(run):
    async def main():
        app = application(run)
        await call(app, "/v1/completions", TEXT)
        await call(app, "/v1/completions", b"{")
        metrics = await call(app, "/metrics")
        await closed(app)
        return metrics.body.decode()

    text = asyncio.run(main())
    assert 'maquette_requests_total{route="/v1/completions",status="200"} 1.0' in text
    assert 'maquette_requests_total{route="/v1/completions",status="400"} 1.0' in text
    assert 'maquette_tokens_total{model="tiny",part="answer"} 4.0' in text
    assert 'maquette_engine_requests{model="tiny"} 0.0' in text


def test_a_port_that_is_taken_is_told_in_a_line():
    from maquette.serving.api.server import listening

    with (
        listening("127.0.0.1", 0) as first,
        pytest.raises(UserError, match="choose another --port"),
    ):
        listening("127.0.0.1", first.getsockname()[1])


def test_a_token_does_not_wait_for_the_last_to_be_acknowledged():
    from maquette.serving.api.server import listening

    async def nagle() -> int:
        asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(reader, writer):
            known = writer.get_extra_info("socket")
            asked.set_result(known.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(accepted, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            off = await asked
            writer.close()
            server.close()
        return off

    assert asyncio.run(nagle())


def test_a_request_takes_no_thread_of_its_own(run):
    async def threads() -> set[str]:
        app = application(run)
        body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
        assert (await call(app, "/v1/completions", body)).status == 200
        names = {thread.name for thread in threading.enumerate()}
        await closed(app)
        return names

    assert not [name for name in asyncio.run(threads()) if name.startswith("AnyIO")]


def test_the_event_loop_is_woken_once_a_step_whatever_the_rows():
    async def woken() -> int:
        opened = language_model()
        engine = Held(opened.model, opened.tokenizer, memory=1 << 26)
        worker, hold, loop = Worker(engine, "held"), threading.Event(), asyncio.get_running_loop()
        worker.post(lambda: hold.wait() and None)
        requests = [Request(prompt=(97, 98 + n), tokens=1) for n in range(3)]
        tasks = [asyncio.ensure_future(worker.submit([request])) for request in requests]
        await asyncio.sleep(0)  # all three are posted
        hold.set()
        streams, calls, post = await asyncio.gather(*tasks), 0, loop.call_soon_threadsafe

        def counted(*given, **options):
            nonlocal calls
            calls += 1
            return post(*given, **options)

        loop.call_soon_threadsafe = counted
        engine.permits.release(8)
        for stream in streams:
            assert [step.finish async for _, step in stream] == ["length"]
        loop.call_soon_threadsafe = post
        worker.close()
        return calls

    assert asyncio.run(woken()) == 1
