"""Requests that schemathesis makes up from the server's OpenAPI document: none may end in a 500.

    python benchmarks/serve_fuzz.py [--requests 10000] [--seed 0] [--silent 500]

A server over an untrained decoder and an untrained diffusion model is started in this process; schemathesis
calls it over HTTP with valid and invalid bodies. Before that, so many connections are opened that say
nothing; after it a body of 100 MB is sent. Printed are the answers by status, the memory that the process
holds after each round, and whether the server still answers. Needs: pip install schemathesis.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--silent", type=int, default=500)
    arguments = parser.parse_args()
    from maquette.serving.api.limits import Limits
    from maquette.serving.api.server import listening, run

    with tempfile.TemporaryDirectory() as name:
        listener = listening("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        failed: list[str] = []

        def fuzz() -> None:
            try:
                failed.extend(judge(url, name, arguments))
            except Exception as error:  # the server must end, or nothing is printed
                failed.append(repr(error))
            os.kill(os.getpid(), signal.SIGTERM)

        work = threading.Thread(target=fuzz)
        limits = Limits(answer_seconds=20, head_seconds=5, body_seconds=5, steps=4, pictures=2)
        run(tiny_server(Path(name), limits), listener, limits, work.start)
        work.join()
    print("held" if not failed else "\n".join(["FAILED", *failed]))
    return len(failed) > 0


def tiny_server(folder: Path, limits):  # type: ignore[no-untyped-def]
    """The application over tiny models without training."""
    from picture_runs import small, untrained
    from served import application, language_model, run_of

    from maquette.training.datasets.picture_config import PictureData, PictureRecipe
    from maquette.workshop.serve import served_run

    recipe = PictureRecipe(model=small(), data=PictureData(image_size=16, caption_length=12))
    painter = served_run(untrained(folder / "painter", recipe), {})
    return application(run_of(folder, language_model(context=64)), painter, limits=limits)


def document(url: str, folder: str) -> Path:
    """The OpenAPI document, where names of runs are those that are served."""
    with urllib.request.urlopen(f"{url}/openapi.json") as reply:
        content = json.load(reply)
    for schema in content["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"type": "string", "enum": ["tiny", "painter"]}
    for route in content["paths"].values():
        form = (
            route.get("post", {})
            .get("requestBody", {})
            .get("content", {})
            .get("multipart/form-data")
        )
        if form:
            form["schema"]["properties"]["model"] = {"type": "string", "enum": ["painter", "tiny"]}
    path = Path(folder) / "openapi.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def judge(url: str, folder: str, arguments: argparse.Namespace) -> list[str]:
    """What did not hold."""
    failed = []
    path = document(url, folder)
    port = int(url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(arguments.silent)]
    rounds, memory, before = 0, [], 0
    while (done := sum(answers(url).values())) < arguments.requests and (
        done > before or not rounds
    ):
        before = done
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", str(path), "--url", url, "--max-examples", "100",
            "--seed", str(arguments.seed + rounds), "--checks", "not_a_server_error", "--phases",
            "examples,coverage,fuzzing", "--mode", "all", "--request-timeout", "60", "--no-color",
        ]  # fmt: skip
        subprocess.run(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        rounds += 1
        memory.append((sum(answers(url).values()), resident()))
        print(
            f"round {rounds}: {memory[-1][0]:,} requests, {memory[-1][1] / 2**20:.0f} MiB",
            flush=True,
        )
    found = answers(url)
    print("answers by status:", json.dumps(found, sort_keys=True))
    if any(status.startswith("5") and status not in ("503", "504") for status in found):
        failed.append(f"errors of the server: {found}")
    if sum(found.values()) < arguments.requests:
        failed.append(f"only {sum(found.values())} requests were made")
    closed = sum(one.recv(1) == b"" for one in silent)
    print(f"silent connections: {closed} of {len(silent)} were closed by the server")
    if closed < len(silent):
        failed.append("silent connections stay")
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as large:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 << 20}\r\n\r\n"
        large.sendall(head.encode())
        answer = large.recv(1 << 16)
        print("a body of 100 MB:", answer.split(b"\r\n")[0].decode())
        if b" 413 " not in answer:
            failed.append("a body of 100 MB is not refused")
    with urllib.request.urlopen(f"{url}/health") as reply:
        if reply.status != 200:
            failed.append("the server does not answer any more")
    return failed


def answers(url: str) -> dict[str, int]:
    """Number of answers by status."""
    with urllib.request.urlopen(f"{url}/metrics") as reply:
        text = reply.read().decode()
    found: dict[str, int] = {}
    for status, count in re.findall(r'maquette_requests_total\{.*status="(\d+)"\} ([\d.]+)', text):
        found[status] = found.get(status, 0) + int(float(count))
    return found


def resident() -> int:
    """Bytes of memory that this process holds."""
    from maquette.base.machine import resident as held

    return held()


if __name__ == "__main__":
    sys.exit(main())
