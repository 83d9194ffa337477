"""Decoding speed of one sequence: Maquette beside Hugging Face's `generate`, same weights.

    python benchmarks/generate.py                 12 x 768 with a vocabulary of 50,257 (GPT-2 small)
    python benchmarks/generate.py --shape 6x384 --vocabulary 257

A decoding step reads every weight once, so the limit is the memory bandwidth: the table gives
bytes of weights x tokens/s as a fraction of the bandwidth measured between the turns. The arms take
turns. Greedy, from one prompt; fp32 tokens must be the same, which is printed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from maquette.base.machine import keep_freed_memory, measure, processor, read_speed
from maquette.models import families
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.serving.generate import stream
from maquette.serving.hugging_face import export_model
from maquette.serving.pack import pack
from maquette.serving.sampler import Sampling

PROMPT = 16


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="12x768", help="blocks x width (default: 12x768)")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=64, help="a turn (default: 64)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    depth, width = map(int, arguments.shape.split("x"))
    keep_freed_memory()
    config = families.gpt2(
        vocabulary=arguments.vocabulary, context=1024, width=width, depth=depth, heads=width // 64
    )
    folder = Path(tempfile.mkdtemp())
    plain = Decoder(config).initialise(0).eval()
    save_config(folder, config)
    save_tensors(folder / WEIGHTS, dict(plain.named_parameters()))
    export_model(folder, folder / "out")
    prompt = torch.randint(0, arguments.vocabulary, (1, PROMPT))

    def ours(dtype: torch.dtype) -> Callable[[], list[int]]:
        model = Decoder(config).initialise(0).eval()
        model.compute = dtype
        model.to(dtype)
        assert pack(model)
        greedy = Sampling(temperature=0)
        return lambda: [s[0] for s in stream(model, prompt.tolist(), arguments.tokens, greedy)]

    def theirs(dtype: torch.dtype) -> Callable[[], list[int]]:
        model = transformers.GPT2LMHeadModel.from_pretrained(folder / "out", dtype=dtype).eval()

        def run() -> list[int]:
            out = model.generate(
                prompt, max_new_tokens=arguments.tokens, min_new_tokens=arguments.tokens,
                do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(prompt),
            )  # fmt: skip
            return list(out[0, PROMPT:].tolist())

        return run

    arms = {
        f"Maquette, {measure().precision}": (ours(torch.bfloat16 if measure().bf16 else torch.float32),
                                             2 if measure().bf16 else 4),
        "Maquette, fp32": (ours(torch.float32), 4),
        "Hugging Face, fp32": (theirs(torch.float32), 4),
        "Hugging Face, bf16": (theirs(torch.bfloat16), 2),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    said: dict[str, list[int]] = {}
    bandwidth = 0.0
    for turn in range(arguments.rounds + 1):
        bandwidth = max(bandwidth, read_speed("cpu"))
        for name, (run, _) in arms.items():
            start = time.perf_counter()
            said[name] = run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    counts = plain.config.parameters_by_role()
    read = counts["hidden"] + counts["vector"] + plain.output.weight.numel()
    print(f"{processor()}, {measure().threads} threads, torch {torch.__version__}")
    print(f"{arguments.shape}, {sum(counts.values()):,} parameters, {arguments.tokens} tokens a turn; "
          f"bandwidth in this run {bandwidth / 1e9:.1f} GB/s\n")  # fmt: skip
    head = f"{'arm':<20} {'tokens/s':>9} {'(best)':>8} {'GB/s':>7} {'of bandwidth':>13} {'slower by':>10}"
    print(head + "\n" + "-" * len(head))
    first = next(iter(arms))
    middle = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    table = {}
    for name, (_, size) in arms.items():
        speed = arguments.tokens / middle[name]
        table[name] = {"tokens_per_second": speed, "bandwidth": speed * read * size / bandwidth}
        print(f"{name:<20} {speed:>9.1f} {arguments.tokens / min(seconds[name]):>8.1f} "
              f"{speed * read * size / 1e9:>7.1f} {100 * table[name]['bandwidth']:>11.1f} % "
              f"{middle[name] / middle[first]:>8.2f} x")  # fmt: skip
    same = said["Maquette, fp32"] == said["Hugging Face, fp32"]
    print(f"\nthe same fp32 tokens as Hugging Face: {'yes' if same else 'NO'}")
    print(
        json.dumps({"shape": arguments.shape, "bandwidth": bandwidth, "arms": table, "same": same})
    )
    if not same:
        raise SystemExit("the tokens differ")


if __name__ == "__main__":
    main()
