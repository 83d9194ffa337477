"""Decoding many requests at once: the engine beside one request after the other, and its cost for one.

    python benchmarks/engine.py                 6 x 384 with a vocabulary of 4,096
    python benchmarks/engine.py --shape 12x768 --vocabulary 50257 --rows 1 8 32

Requests have prompts of 16 to 64 tokens and answers of as many tokens each, greedy; tokens per second
are those of the answers, prompts included in the time. The arms take turns in one run: the plain loop of
`serving.generate.stream` over one request after the other, then the engine with so many rows at a time.
Every arm's tokens must be the same, which is printed. On one thread the clock is the processor's, which
others on the machine do not change.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from maquette.base.machine import keep_freed_memory, processor
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.models import families
from maquette.models.decoder import Decoder
from maquette.serving.engine import Engine, Request
from maquette.serving.generate import stream
from maquette.serving.pack import pack
from maquette.serving.sampler import Sampling


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="6x384", help="blocks x width (default: 6x384)")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="live at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--family", choices=("gpt2", "llama"), default="gpt2")
    arguments = parser.parse_args()
    depth, width = map(int, arguments.shape.split("x"))
    keep_freed_memory()
    shape = {"context": 1024, "width": width, "depth": depth, "heads": width // 64}
    more = {"kv_heads": 2} if arguments.family == "llama" else {}
    config = getattr(families, arguments.family)(vocabulary=arguments.vocabulary, **shape, **more)
    model = Decoder(config).initialise(0).eval()
    model.compute = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    model.to(model.compute)
    pack(model)
    draw = torch.Generator().manual_seed(0)
    lengths = [16 + 48 * i // max(1, arguments.requests - 1) for i in range(arguments.requests)]
    prompts = [torch.randint(0, 256, (n,), generator=draw).tolist() for n in lengths]
    greedy, tokenizer = Sampling(temperature=0), byte_tokenizer()
    missing = tokenizer.missing(arguments.vocabulary)

    def plain() -> list[list[int]]:
        made = (stream(model, [p], arguments.tokens, greedy, missing) for p in prompts)
        return [[step[0] for step in steps] for steps in made]

    def engine(rows: int) -> Callable[[], list[list[int]]]:
        def run() -> list[list[int]]:
            made = Engine(model, tokenizer, rows=rows)
            answers: dict[int, list[int]] = {}
            for prompt in prompts:
                request = Request(prompt=tuple(prompt), tokens=arguments.tokens, sampling=greedy)
                answers[made.submit(request)] = []
            while len(made):
                for step in made.step():
                    answers[step.request].append(step.token)
            return list(answers.values())

        return run

    alone = torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    arms: dict[str, Callable[[], list[list[int]]]] = {"plain loop, one by one": plain}
    arms |= {f"engine, {rows} rows": engine(rows) for rows in arguments.rows}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    said: dict[str, list[list[int]]] = {}
    for turn in range(arguments.rounds + 1):
        for name, run in arms.items():
            start = clock()
            said[name] = run()
            if turn:
                seconds[name].append(clock() - start)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{arguments.family} {arguments.shape}, {arguments.precision}, {arguments.requests} requests of "
          f"{arguments.tokens} tokens, {'processor' if alone else 'wall'} time\n")  # fmt: skip
    head = f"{'arm':<24} {'tokens/s':>9} {'(best)':>8} {'faster by':>10} {'same tokens':>12}"
    print(head + "\n" + "-" * len(head))
    first = next(iter(arms))
    middle = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    table = {}
    for name in arms:
        count = sum(map(len, said[name]))
        alike = sum(a[: len(b)] == b for a, b in zip(said[first], said[name], strict=True))
        speed = count / middle[name]
        plain_speed = sum(map(len, said[first])) / middle[first]
        table[name] = {"tokens_per_second": speed, "same": alike}
        print(f"{name:<24} {speed:>9.1f} {count / min(seconds[name]):>8.1f} {speed / plain_speed:>8.2f} x "
              f"{alike:>6} of {len(prompts)}")  # fmt: skip
    print(json.dumps({"shape": arguments.shape, "threads": torch.get_num_threads(), "arms": table}))


if __name__ == "__main__":
    main()
