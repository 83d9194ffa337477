"""The server as a process: a stream, SIGTERM amid it, silent connections, what is no HTTP."""

import json
import signal
import socket
import threading
import urllib.request

import pytest
from conftest import process


@pytest.mark.slow
def test_a_stream_is_finished_after_sigterm_and_nobody_new_is_let_in(shared_run):
    server = process("serve", shared_run, "--port", "0", "--precision", "fp32")
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(server.stderr), daemon=True)
    reader.start()  # or its pipe runs full
    try:
        line = server.stdout.readline()
        assert line.startswith("serving shared-run at http://127.0.0.1:"), (line, errors)
        port = int(line.split("127.0.0.1:")[1].split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
            assert json.load(reply)["status"] == "ok"
        with socket.create_connection(("127.0.0.1", port)) as wrong:
            wrong.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            answer = wrong.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400") and b'"error"' in answer
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        body = {"model": "shared-run", "prompt": "a", "max_tokens": 24, "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as stream:
            assert stream.readline().startswith(b"data: ")
            server.send_signal(signal.SIGTERM)
            rest = stream.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        for one in silent:
            one.close()
        assert server.wait(60) == 0, errors
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        server.kill()
        server.wait()
    assert not any("Traceback" in said for said in errors), errors
