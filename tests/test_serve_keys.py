"""Keys, their limits, and gated runs: who may use what, from one request to the next."""

import asyncio
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import command, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from served import application, call, client, closed, language_model, run_of

from maquette.adaptation.adapters.config import LoRAConfig
from maquette.base.errors import UserError, WrongUse
from maquette.serving.api.errors import ApiError
from maquette.serving.api.gate import BEFORE, admitted, change, gated, states, terms
from maquette.serving.api.guard import Access
from maquette.serving.api.keys import Key, Keys, add_key, read_keys, revoke_key
from maquette.serving.api.limits import MINUTE, Account, Accounts, Bucket
from maquette.training.run import RunDirectory
from maquette.training.run_setup import create
from maquette.workshop.gates import gates
from maquette.workshop.train import train

TEXT = {"model": "tiny", "prompt": "a", "max_tokens": 1}


def by(key):
    return {"authorization": f"Bearer {key}"}


def test_keys_are_hashed_and_revoked_from_the_next_request_on(tmp_path):
    file = tmp_path / "keys.json"
    ana, bob = add_key(file, "ana"), add_key(file, "bob", requests=5)
    content = file.read_text(encoding="utf-8")
    assert ana not in content and bob not in content and ana != bob
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(WrongUse, match="ana has a key"):
        add_key(file, "ana")

    async def main():
        app = application(run_of(tmp_path, language_model()), access=Access(Keys(file)))

        async def status(path="/v1/models", **headers):
            return (await call(app, path, headers=headers)).status

        before = [
            await status(),
            await status(**by("wrong")),
            await status(**by(ana)),
            await status("/health"),
        ]
        revoke_key(file, "ana")
        after = [await status(**by(ana)), await status(**by(bob)), await status("/metrics")]
        again = add_key(file, "ana")
        after += [await status(**by(ana)), await status(**by(again))]
        file.write_text("{", encoding="utf-8")
        broken = await call(app, "/v1/models", headers=by(bob))
        await closed(app)
        return before, after, broken

    before, after, broken = asyncio.run(main())
    assert before == [401, 401, 200, 200] and after == [401, 200, 401, 401, 200]
    assert broken.status == 503 and b"keys.json" not in broken.body


def test_a_key_of_openais_client_is_taken(tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "ana")
    app = application(run_of(tmp_path, language_model()), access=Access(Keys(file)))

    async def main():
        async with client(app, key) as api:
            return (await api.models.list()).data[0].id

    assert asyncio.run(main()) == "tiny"


def test_a_bucket_never_gives_more_than_its_rate():
    now = 0.0
    bucket = Bucket(60, lambda: now)
    assert [bucket.take(1) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1) == pytest.approx(1.0)  # one comes each second
    now = 1.0
    assert bucket.take(1) == 0.0 and bucket.take(1) > 0
    now = 10 * MINUTE
    assert bucket.take(61) > 0 and bucket.take(60) == 0.0  # and no more than a minute's worth waits


def test_an_account_keeps_to_the_limits_of_its_key():
    account = Account(Key("ana", "", requests=3, tokens=100, concurrent=2), lambda: 0.0)
    account.enter()
    account.enter()
    with pytest.raises(ApiError, match="2 requests at a time"):
        account.enter()
    account.leave()
    account.enter()
    account.leave()
    with pytest.raises(ApiError, match="3 requests a minute") as limited:
        account.enter()
    assert limited.value.status == 429 and limited.value.headers()["Retry-After"] == "20"
    account.take(90)
    with pytest.raises(ApiError, match="100 tokens a minute"):
        account.take(20)
    account.give_back(40)
    account.take(20)
    with pytest.raises(ApiError) as never:
        account.take(101)
    assert never.value.status == 400


def test_tokens_that_were_not_written_are_given_back(tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "ana", tokens=60, concurrent=1)
    body = TEXT | {"max_tokens": 50, "logit_bias": {"256": 100}}  # ends at once, by EOS

    async def main():
        app = application(run_of(tmp_path, language_model()), access=Access(Keys(file)))
        app._accounts = Accounts(lambda: 0.0)  # or the bucket fills meanwhile
        replies = [await call(app, "/v1/completions", body, headers=by(key)) for _ in range(4)]
        spent = await call(app, "/v1/completions", TEXT | {"max_tokens": 59}, headers=by(key))
        await closed(app)
        return replies, spent

    replies, spent = asyncio.run(main())
    assert [reply.status for reply in replies] == [
        200
    ] * 4  # and one after the other: leave() is called
    assert spent.status == 429 and spent.error["code"] == "rate_limit_exceeded"


def test_commands_for_keys(tmp_path):
    file = tmp_path / "keys.json"
    made = command("keys", "add", "ana", "--file", file, "--requests", "60", "--json").json
    assert Keys(file).find(made["key"]).requests == 60
    listed = command("keys", "list", "--file", file, "--json")
    assert made["key"] not in listed.out and listed.json["keys"][0]["name"] == "ana"
    assert command("keys", "revoke", "ana", "--file", file).code == 0
    assert read_keys(file)[0].revoked and Keys(file).find(made["key"]) is None
    refused(command("keys", "revoke", "ana", "--file", file), "ana has no key")
    refused(command("keys", "add", "bob", "--file", file, "--tokens", "0"), "tokens is 0")
    file.write_text('{"keys": [{}]}', encoding="utf-8")
    refused(command("keys", "list", "--file", file), "holds no keys")


ROUTES = {
    "/v1/completions": TEXT,
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "a"}]},
    "/v1/embeddings": {"model": "tiny", "input": "a"},
    "/tokenize": {"model": "tiny", "prompt": "a"},
    "/detokenize": {"model": "tiny", "tokens": [1]},
    "/trace": {"model": "tiny", "text": "a"},
    "/portrait": {"model": "tiny", "text": "a"},
    "/v1/images/generations": {"model": "tiny", "prompt": "a"},
}


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(("asked", "accepted", "rejected", "revoked", "request")), max_size=20)
)
def test_a_gated_run_answers_who_is_accepted_and_nobody_else(tmp_path_factory, actions):
    """Not one byte of it is read before, and a revocation holds from the next request on."""
    folder = tmp_path_factory.mktemp("gated")
    file = folder / "keys.json"
    key, other = add_key(file, "ana"), add_key(file, "bob")
    opened = []

    def opens():
        opened.append(1)
        return language_model()

    run = run_of(folder, opens)
    (run.folder / "gate.yaml").touch()
    change(run.folder, "bob", "asked")

    async def main():
        app = application(run, access=Access(Keys(file)))
        state = None
        for action in [*actions, "request"]:
            if action != "request":
                if state in BEFORE[action]:
                    change(run.folder, "ana", action)
                    state = action
                else:
                    with pytest.raises(WrongUse):
                        change(run.folder, "ana", action)
                continue
            reply = await call(app, "/tokenize", ROUTES["/tokenize"], headers=by(key))
            if state == "accepted":
                assert reply.status == 200
            else:
                assert (
                    reply.status == 403 and reply.error["code"] == f"gated_{state or 'not_asked'}"
                )
                assert opened or "accepted" not in actions or app.runs.loaded("tiny") is None
        if not opened:
            assert app.runs.loaded("tiny") is None
        assert (await call(app, "/tokenize", ROUTES["/tokenize"], headers=by(other))).status == 403
        assert (await call(app, "/tokenize", ROUTES["/tokenize"])).status == 401
        assert states(run.folder).get("ana") == state
        await closed(app)

    asyncio.run(main())


def test_no_route_says_anything_of_a_gated_run(tmp_path):
    """Every route alike: the refusal holds nothing but its own words, and the run is not even opened."""
    file = tmp_path / "keys.json"
    key = add_key(file, "ana")

    def opens():
        raise AssertionError("it was opened")

    run = run_of(tmp_path, opens, about={"context": 48213})
    (run.folder / "gate.yaml").touch()

    async def main():
        app = application(run, access=Access(Keys(file)))
        replies = [
            (await call(app, path, body, headers=headers), headers)
            for path, body in ROUTES.items()
            for headers in ({}, by(key))
        ]
        local = application(run)  # without keys: everybody is nobody
        replies += [(await call(local, path, body), {}) for path, body in ROUTES.items()]
        models = await call(app, "/v1/models", headers=by(key))
        await closed(app)
        await closed(local)
        return replies, models

    replies, models = asyncio.run(main())
    for reply, headers in replies:
        assert reply.status == (403 if headers else 401)
        assert reply.error["message"] in (
            "a key is needed: Authorization: Bearer KEY",
            "tiny is gated: a key is needed",
            "tiny is gated: access was not asked for",
        )
    assert models.json["data"][0]["maquette"] == {"kind": "text", "gated": True}


def test_a_gate_covers_what_is_made_of_a_gated_run(tmp_path):
    """Bytes of a gated base are in the memory of what adapts it."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "gate.yaml").touch()
    run = run_of(tmp_path, language_model(), gates=(tmp_path / "tiny", base))

    async def main():
        app = application(run)
        reply = await call(app, "/tokenize", ROUTES["/tokenize"])
        await closed(app)
        return reply

    assert asyncio.run(main()).status == 401


def test_a_gate_goes_along_with_what_is_made_of_a_gated_run(shared_run, recipe, tmp_path):
    """In few bits, merged, or further trained: who was accepted is, and nobody else."""
    base, tuned, further = (tmp_path / name for name in ("base", "tuned", "further"))
    shutil.copytree(shared_run, base)
    gate_for(base, "ana")
    begun = replace(recipe, start=str(base), steps=1)
    train(replace(begun, adapter=LoRAConfig(rank=2)), tuned)
    create(RunDirectory(further), begun, recipe.data.open_corpus())
    made = [further]
    for run in (base, tuned):
        for words in (
            ("quantise", run, f"{run}-few"),
            ("adapt", "merge", run, "--run", f"{run}-whole"),
        ):
            if command(*words).code == 0:
                made.append(Path(words[2] if words[0] == "quantise" else words[4]))
    assert len(made) == 4  # the base has nothing to merge
    for run in made:
        assert admitted([run], "ana") is None and admitted([run], "bob") == "not_asked"
        assert admitted([run], None) == "anonymous" and terms(run) == "of base"
    assert not gated(tuned) and admitted(gates(tuned), "bob") == "not_asked"
    gate_for(tuned, "bob")  # behind two gates: nobody is known to have passed both
    assert command("adapt", "merge", tuned, "--run", tmp_path / "both").code == 0
    assert terms(tmp_path / "both") == "of tuned\nof base"
    assert {admitted([tmp_path / "both"], name) for name in ("ana", "bob")} == {"not_asked"}


def gate_for(run, name):
    """Gate a run; one name is accepted."""
    (run / "gate.yaml").write_text(f"terms: of {run.name}", encoding="utf-8")
    for state in ("asked", "accepted"):
        change(run, name, state)


def test_a_log_that_is_damaged_admits_nobody(tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "ana")
    run = run_of(tmp_path, language_model())
    (run.folder / "gate.yaml").touch()
    for state in ("asked", "accepted"):
        change(run.folder, "ana", state)
    log = run.folder / "gate.jsonl"
    whole = log.read_bytes()

    async def main():
        app = application(run, access=Access(Keys(file)))
        found = []
        for content in (whole, whole[:-3], whole + b"\xff\n", whole + b'{"name": "ana"}\n', whole):
            log.write_bytes(content)
            found.append(
                (await call(app, "/tokenize", ROUTES["/tokenize"], headers=by(key))).status
            )
        await closed(app)
        return found

    assert asyncio.run(main()) == [200, 403, 403, 403, 200]
    log.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="damaged"):
        change(run.folder, "bob", "asked")


def test_commands_for_gates(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    refused(command("gate", "ask", run, "ana"), "is not gated", "gate.yaml")
    (run / "gate.yaml").write_text("terms: for research alone", encoding="utf-8")
    said = command("gate", "ask", run, "ana")
    assert said.code == 0 and "for research alone" in said.out
    refused(command("gate", "revoke", run, "ana"), "ana is asked, and cannot be revoked")
    assert command("gate", "accept", run, "ana").code == 0
    assert command("gate", "revoke", run, "ana", "--json").json["states"] == {"ana": "revoked"}
    lines = (run / "gate.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["asked", "accepted", "revoked"]
    refused(command("gate", "list", run, "ana"), "list takes the run alone")


def test_the_server_is_not_opened_to_others_without_keys(tmp_path):
    refused(
        command("serve", tmp_path, "--host", "0.0.0.0"), "name who may use it with --keys", code=2
    )
    refused(command("serve", tmp_path, "--host", "::"), "--keys", code=2)
    refused(command("serve", tmp_path, "--memory", "lots"), "--memory lots", code=2)
    refused(command("serve", tmp_path, "--replicas", "0"), "0 replicas", code=2)
    refused(
        command("serve", tmp_path, "--replicas", "3", "--autoscale", "2"), "3 replicas, 2", code=2
    )
    refused(command("serve", tmp_path, "--keys", tmp_path / "none.json"), "maquette keys add")
    refused(command("serve", tmp_path / "none"), "does not exist")


def test_a_gated_run_is_not_served_to_nobody(shared_run, tmp_path):
    """Without keys nobody could ever use it: said before anything is listened on."""
    shutil.copytree(shared_run, tmp_path / "gated")
    (tmp_path / "gated" / "gate.yaml").touch()
    refused(command("serve", tmp_path / "gated", "--weights", "fp32"), "gated is gated", "--keys")
