"""Many clients over HTTP: Maquette's server beside llama.cpp's, on the same model at equal bits.

    python benchmarks/serve_clients.py                          6 x 384, vocabulary 4,096
    python benchmarks/serve_clients.py --weights int8 --clients 32
    python benchmarks/serve_clients.py --soak 10000             memory before and after so many requests

A model of random weights is made a run, which `maquette serve` answers in a process of its own, and written
as by `maquette export gguf` for llama.cpp's server (package xllamacpp), with as many slots as there are
clients at most, in another. Each client sends its next request when the last was answered (a closed loop), on
a connection of its own, greedy and streamed; prompts are of tokens of their own, or begin with the same 96.
Our own engine answers the same requests one by one in a third process, without HTTP. Arms take turns, and the
best round of each counts: on a busy machine the others tell of its load. Beside the clock stands the server's
processor time for each token, the least of all rounds, which others change less. The last two columns say
what a server uses of the memory's bandwidth and of the matrix products' peak, both measured in the run, where
a step of all rows reads the weights once.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from maquette.base.machine import processor, product_speed, read_speed
from maquette.corpus.tokenizer import train_tokenizer
from maquette.models import families
from maquette.models.decoder import Decoder
from maquette.serving.gguf import export_gguf, import_gguf

CONTEXT, SHARED, OWN = 256, 96, 32  # tokens
KINDS = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
BEGIN = 600  # seconds that a server may take to begin
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

THEIRS = """
import sys, time, xllamacpp
path, slots, threads, context = sys.argv[1], *map(int, sys.argv[2:])
p = xllamacpp.CommonParams()
p.model.path, p.offline, p.port, p.verbosity, p.n_gpu_layers = path, True, 0, -1, 0
p.n_ctx, p.n_parallel, p.n_threads_http = context * slots, slots, slots + 2
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.warmup, p.fit_params, p.ui = True, False, False
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
ALONE = """
import json, sys, time
from maquette.serving.engine import Engine, Request
from maquette.serving.sampler import Sampling
from maquette.base.machine import keep_freed_memory
from maquette.workshop.load import load
keep_freed_memory()
run = load(sys.argv[1]).optimise(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    engine, first, count, begun = Engine(run.model, run.tokenizer, rows=1), [], 0, time.perf_counter()
    for prompt in asked["prompts"]:
        start, n = time.perf_counter(), 0
        engine.submit(Request(prompt=tuple(prompt), tokens=asked["tokens"], sampling=Sampling(temperature=0)))
        while len(engine):
            for step in engine.step():
                first += [time.perf_counter() - start] if n == 0 else []
                n += 1
        count += n
    print(json.dumps([count, time.perf_counter() - begun, first]), flush=True)
"""


@dataclass
class Turn:
    """What an arm did in a turn: tokens, seconds by the clock and of the processor, those to first tokens."""

    tokens: int
    seconds: float
    processor: float
    first: list[float]


def main() -> None:
    """Make the model, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="6x384", help="blocks x width (default: 6x384)")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--weights", choices=KINDS, default="bf16")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--requests", type=int, default=2, help="of a client in a turn (default: 2)"
    )
    parser.add_argument("--tokens", type=int, default=48, help="of an answer (default: 48)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each server (default: 1)")
    parser.add_argument(
        "--soak", type=int, metavar="N", help="send N short requests, print the memory"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="clients-") as name, ExitStack() as stack:
        run, file, parameters = make(Path(name), arguments)
        command = [sys.executable, "-m", "maquette", "serve", str(run), "--port", "0",
                   "--weights", arguments.weights]  # fmt: skip
        ours = stack.enter_context(server(command, arguments.threads))
        if arguments.soak:
            soak(ours, arguments.soak)
            return
        slots = max(arguments.clients)
        command = [
            sys.executable,
            "-c",
            THEIRS,
            str(file),
            *map(str, (slots, arguments.threads, CONTEXT)),
        ]
        theirs = stack.enter_context(server(command, arguments.threads))
        command = [sys.executable, "-c", ALONE, str(run), arguments.weights]
        alone = stack.enter_context(server(command, arguments.threads))
        compare(
            arguments,
            {"Maquette": ours, "llama.cpp": theirs},
            alone,
            parameters,
            file.stat().st_size,
        )


def make(folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path, int]:
    """A run of random weights, the same as a GGUF file, and the number of its parameters."""
    depth, width = map(int, arguments.shape.split("x"))
    text = "\n".join(
        f.read_text(encoding="utf-8") for f in Path(__file__).parents[1].glob("src/maquette/*/*.py")
    )
    tokenizer = train_tokenizer([text], arguments.vocabulary)
    config = families.llama(
        vocabulary=tokenizer.vocabulary,
        context=CONTEXT,
        width=width,
        depth=depth,
        heads=width // 64,
    )
    model = Decoder(config).initialise(0)
    files = {kind: folder / f"{kind}.gguf" for kind in ("F32", KINDS[arguments.weights])}
    for kind, path in files.items():
        export_gguf(path, config, dict(model.named_parameters()), tokenizer, kind=kind)
    import_gguf(files["F32"], folder / "model")
    return folder / "model", files[KINDS[arguments.weights]], config.parameters()


class Process:
    """A process that said a line; its first address in it, if there is one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        self.url = next((word for word in line.split() if word.startswith("http")), "")
        if not line:
            raise SystemExit("a server did not begin: see above")

    def seconds(self) -> float:
        """Processor time so far."""
        fields = (
            Path(f"/proc/{self.process.pid}/stat")
            .read_text(encoding="utf-8")
            .rsplit(")", 1)[1]
            .split()
        )
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Bytes of memory held."""
        return (
            int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
            * PAGE
        )

    def ask(self, value: Any) -> Any:
        """A line in, a line out."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(value), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextmanager
def server(command: list[str], threads: int) -> Iterator[Process]:
    """A process that serves, until the end."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
    try:
        yield Process(process)
    finally:
        process.kill()
        process.wait()


def prompts(
    draw: np.random.Generator, count: int, vocabulary: int, shared: list[int]
) -> list[list[int]]:
    """Prompts of random tokens, special ones left out."""
    low = vocabulary // 2
    own = draw.integers(low, vocabulary - 8, (count, OWN if shared else OWN + SHARED)).tolist()
    return [shared + one for one in own]


async def closed_loop(
    url: str, clients: int, asked: list[list[int]], tokens: int
) -> tuple[int, list[float]]:
    """Answer prompts by so many clients; returns the number of tokens and the seconds to first tokens."""
    left, first, counts = iter(asked), list[float](), list[int]()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:

        async def client() -> None:
            for prompt in left:
                body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
                        "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
                begun, last, found = time.perf_counter(), b"", False
                async with http.stream("POST", "/v1/completions", json=body) as reply:
                    reply.raise_for_status()
                    async for part in reply.aiter_raw():
                        if not found:
                            found = True
                            first.append(time.perf_counter() - begun)
                        last = (last + part)[-4096:]
                events = [
                    json.loads(e[6:]) for e in last.split(b"\n\n") if e.startswith(b"data: {")
                ]
                counts.append(
                    next(e["usage"]["completion_tokens"] for e in events[::-1] if e.get("usage"))
                )

        await asyncio.gather(*(client() for _ in range(clients)))
    return sum(counts), first


def compare(
    arguments: argparse.Namespace,
    servers: dict[str, Process],
    alone: Process,
    parameters: int,
    size: int,
) -> None:
    """Take turns, print the table."""
    draw, tokens = np.random.default_rng(0), arguments.tokens
    vocabulary = arguments.vocabulary
    bandwidth = products = 0.0
    kept: dict[tuple[str, str, int], list[Turn]] = {}

    def over_http(process: Process, clients: int) -> Callable[[list[list[int]]], Turn]:
        def turn(asked: list[list[int]]) -> Turn:
            before, begun = process.seconds(), time.perf_counter()
            try:
                count, first = asyncio.run(closed_loop(process.url, clients, asked, tokens))
            except httpx.HTTPError as error:
                ended = process.process.poll()
                raise SystemExit(
                    f"{process.process.args[1:4]}, ended {ended}: {error!r}"
                ) from error
            return Turn(count, time.perf_counter() - begun, process.seconds() - before, first)

        return turn

    def one_by_one(asked: list[list[int]]) -> Turn:
        before = alone.seconds()
        count, seconds, first = alone.ask({"prompts": asked, "tokens": tokens})
        return Turn(count, seconds, alone.seconds() - before, first)

    precision = torch.float32 if arguments.weights == "fp32" else torch.bfloat16
    loads = []
    for turn in range(arguments.rounds + 1):
        bandwidth, products = (
            max(bandwidth, read_speed("cpu")),
            max(products, product_speed(precision, "cpu")),
        )
        loads.append(os.getloadavg()[0])
        for sort in ("own", "shared"):
            shared = [] if sort == "own" else prompts(draw, 1, vocabulary, [])[0][:SHARED]
            arms = [("engine, one by one", 1, one_by_one)]
            arms += [(n, c, over_http(p, c)) for c in arguments.clients for n, p in servers.items()]
            for name, clients, run in arms:
                count = arguments.requests * max(clients, 2) if turn else clients
                asked = prompts(draw, count, vocabulary, shared)
                done = run(asked)
                said = f"{turn} {sort} {name}, {clients} clients: {done.tokens} tokens in "
                said += f"{done.seconds:.1f} s, {done.processor:.1f} of the processor"
                print(said, file=sys.stderr)
                if turn:
                    kept.setdefault((sort, name, clients), []).append(done)
    print(f"{processor()}, {arguments.threads} threads a server, torch {torch.__version__}, "
          f"load {min(loads):.1f} to {max(loads):.1f} on {len(os.sched_getaffinity(0))} cores")  # fmt: skip
    print(f"llama {arguments.shape}, {parameters:,} parameters, {KINDS[arguments.weights]}; prompts of "
          f"{SHARED + OWN}, answers of {tokens} tokens, best of {arguments.rounds} rounds; "
          f"{bandwidth / 1e9:.1f} GB/s, {products / 1e9:.0f} GFLOP/s")  # fmt: skip
    table = []
    for sort, title in (
        ("own", "of their own"),
        ("shared", f"that begin with the same {SHARED} tokens"),
    ):
        print(f"\nprompts {title}")
        head = (f"{'arm':<18} {'clients':>7} {'tokens/s':>9} {'beside one':>10} {'first token':>12} "
                f"{'99 %':>8} {'processor':>13} {'bandwidth':>9} {'products':>8}")  # fmt: skip
        print(head + "\n" + "-" * len(head))
        one = max(t.tokens / t.seconds for t in kept[sort, "engine, one by one", 1])
        computed = (
            1 + (OWN if sort == "shared" else OWN + SHARED) / tokens
        )  # for a token of an answer
        for (_, name, clients), turns in ((k, v) for k, v in kept.items() if k[0] == sort):
            best = max(turns, key=lambda t: t.tokens / t.seconds)
            speed, cost = best.tokens / best.seconds, min(t.processor / t.tokens for t in turns)
            first, last = np.quantile(best.first, [0.5, 0.99]).tolist()
            read = speed / clients * size / bandwidth
            flops = 2 * parameters * speed * computed / products
            table.append({"prompts": sort, "arm": name, "clients": clients, "tokens_per_second": speed,
                          "first_token": [first, last], "processor_seconds": cost})  # fmt: skip
            print(f"{name:<18} {clients:>7} {speed:>9.1f} {speed / one:>8.2f} x {1e3 * first:>9.0f} ms "
                  f"{1e3 * last:>5.0f} ms {1e3 * cost:>8.2f} ms/t {100 * read:>7.1f} % "
                  f"{100 * flops:>6.1f} %")  # fmt: skip
    print("\n" + json.dumps(table))


def soak(process: Process, count: int) -> None:
    """Send short requests; print the memory of the server on the way."""
    draw = np.random.default_rng(0)
    print(f"{'requests':>8} {'MB held':>8}")
    asked, done = [200] + [max(1, count // 10)] * 10, 0
    for number in asked:
        short = [one[:16] for one in prompts(draw, number, 4096, [])]
        asyncio.run(closed_loop(process.url, 32, short, 4))
        done += number
        print(f"{done:>8} {process.memory() / 1e6:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
