"""Two replicas behind Ray Serve: both answer, and keys, limits and gates hold in each."""

import json
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import process

from maquette.serving.api.gate import change
from maquette.serving.api.keys import add_key

ENOUGH = 180  # seconds in which both replicas must have answered, on a machine of any load


def called(url, secret, tokens=2, **fields):
    """The status of an answer, and its text or the code of its error."""
    body = {"model": "run", "prompt": "a", "max_tokens": tokens, "temperature": 0} | fields
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["code"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_replicas_answer_and_hold_keys_limits_and_gates(shared_run, tmp_path):
    pytest.importorskip(
        "ray.serve",
        reason="Ray Serve is not installed: pip install 'maquette[ray-serve]'",
        exc_type=ImportError,
    )
    run, keys = tmp_path / "run", tmp_path / "keys.json"
    shutil.copytree(shared_run, run)
    (run / "gate.yaml").write_text("terms: for research alone", encoding="utf-8")
    free, slow, stranger = (add_key(keys, name, requests=most)
                            for name, most in (("ana", None), ("ben", 1), ("eve", None)))  # fmt: skip
    for name in ("ana", "ben"):
        change(run, name, "asked")
        change(run, name, "accepted")
    server = process("serve", run, "--keys", keys, "--replicas", "2", "--port", "0", "--weights", "fp32",
                     RAY_DEDUP_LOGS="0")  # fmt: skip
    said: list[str] = []
    errors = threading.Thread(target=lambda: said.extend(server.stderr), daemon=True)
    errors.start()  # or its pipe runs full
    try:
        lines = iter(server.stdout.readline, "")
        line = next((one for one in lines if one.startswith("serving run at http://")), "")
        assert line, said
        out = threading.Thread(target=lambda: said.extend(lines), daemon=True)
        out.start()
        url = line.split()[3]
        texts, deadline = set(), time.monotonic() + ENOUGH
        with ThreadPoolExecutor(8) as pool:
            while len(answered_by(said)) < 2:
                assert time.monotonic() < deadline, said
                texts.update(pool.map(lambda _: called(url, free), range(8)))
        assert len(texts) == 1 and next(iter(texts))[0] == 200
        assert called(url, "mq-wrong") == (401, "invalid_api_key")
        assert called(url, stranger)[0] == 403
        limited = [called(url, slow) for _ in range(16)]
        assert (429, "rate_limit_exceeded") in limited
        stream = urllib.request.Request(
            f"{url}/v1/completions",
            json.dumps({"model": "run", "prompt": "a", "max_tokens": 24, "stream": True}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {free}"},
        )
        with urllib.request.urlopen(stream) as reply:
            assert reply.readline().startswith(b"data: ")
            server.send_signal(signal.SIGTERM)
            rest = reply.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert server.wait(120) == 0, said
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            server.kill()


def answered_by(said):
    """The processes whose log says that they answered."""
    return {one.split("pid=")[1].split(")")[0] for one in list(said)
            if "POST /v1/completions 200" in one and "pid=" in one}  # fmt: skip
