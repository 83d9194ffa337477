"""Speed of serving beside llama.cpp: decoding one sequence at equal bits.

    python benchmarks/serve.py decode                     24 x 1024, vocabulary 8,192: 630 MB in 16 bits
    python benchmarks/serve.py decode --threads 2 --rounds 7

Needs the packages xllamacpp and gguf. A decoding step reads every weight once, so the limit is the memory
bandwidth, measured between the turns; the table gives bytes of weights x tokens/s as a share of it. The arms
take turns: Maquette in bf16, int8 and int4 (embedding and output in int8), and llama.cpp on random weights of
the same shape in BF16, F16, Q8_0 and Q4_0 (embedding and output in Q8_0).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maquette.base.machine import keep_freed_memory, processor, read_speed
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.quantised import weight_bytes
from maquette.serving.generate import stream
from maquette.serving.sampler import Sampling
from maquette.serving.weights import prepare

PROMPT = 16
KINDS = ("BF16", "F16", "Q8_0", "Q4_0")
PAIRS = {"bf16": ("BF16", "F16"), "int8": ("Q8_0",), "int4": ("Q4_0",)}


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("decode",))
    parser.add_argument("--shape", default="24x1024", help="blocks x width (default: 24x1024)")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=48, help="a turn (default: 48)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true",
                        help="the processor's seconds, not the clock's: on a busy machine")  # fmt: skip
    parser.add_argument("--only", nargs="*", help="names of arms")
    decode(parser.parse_args())


def decode(arguments: argparse.Namespace) -> None:
    """Take turns, print the table."""
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    keep_freed_memory()
    depth, width = map(int, arguments.shape.split("x"))
    config = DecoderConfig(
        vocabulary=arguments.vocabulary, context=512, width=width, depth=depth, heads=width // 64
    )
    folder = Path(tempfile.mkdtemp(prefix="serve-"))
    arms: dict[str, tuple[Callable[[], float], float]] = {}
    for weights in PAIRS:
        if not arguments.only or weights in arguments.only:
            arms[weights] = ours(config, weights, arguments.tokens, clock)
    for kind in KINDS:
        if not arguments.only or kind in arguments.only:
            path = folder / f"{kind}.gguf"
            write_gguf(config, kind, path)
            arms[kind] = theirs(path, arguments.tokens, arguments.threads, arguments.processor_time)
            path.unlink()
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    bandwidth = 0.0
    for turn in range(arguments.rounds + 1):
        bandwidth = max(bandwidth, read(arguments.processor_time))
        for name, (run, _) in arms.items():
            speed = run()
            if turn:
                speeds[name].append(speed)
    print(f"{processor()}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{arguments.shape}, {config.parameters():,} parameters, {arguments.tokens} tokens a turn, "
          f"{arguments.rounds} turns; bandwidth in this run {bandwidth / 1e9:.1f} GB/s\n")  # fmt: skip
    head = f"{'arm':<6} {'MB':>6} {'tokens/s':>9} {'(best)':>8} {'GB/s':>6} {'of bandwidth':>13}"
    head += f" {'beside llama.cpp':>17}"
    print(head + "\n" + "-" * len(head))
    table: dict[str, Any] = {}
    for name, (_, size) in arms.items():
        speed, best = float(np.median(speeds[name])), max(speeds[name])
        others = [float(np.median(speeds[o])) for o in PAIRS.get(name, ()) if o in speeds]
        ratio = speed / max(others) if others else None
        table[name] = {"median": speed, "best": best, "bytes": size, "ratio": ratio,
                       "bandwidth": speed * size / bandwidth}  # fmt: skip
        share, beside = 100 * speed * size / bandwidth, "" if ratio is None else f"{ratio:.2f} x"
        print(f"{name:<6} {size / 1e6:>6.0f} {speed:>9.1f} {best:>8.1f} {speed * size / 1e9:>6.1f} "
              f"{share:>11.1f} % {beside:>17}")  # fmt: skip
    print(json.dumps({"shape": arguments.shape, "threads": arguments.threads,
                      "bandwidth": bandwidth, "arms": table}))  # fmt: skip


def read(processor_time: bool) -> float:
    """Bytes a second read from memory."""
    if not processor_time:
        return read_speed("cpu")
    numbers, best = torch.ones(1 << 26), 0.0
    for _ in range(8):
        start = time.process_time()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.process_time() - start))
    return best


def ours(
    config: DecoderConfig, weights: Any, tokens: int, clock: Callable[[], float]
) -> tuple[Callable[[], float], float]:
    """A function that decodes and returns tokens a second, and the bytes that a token reads."""
    model = Decoder(config).initialise(0).eval()
    prepare(model, weights)
    table = getattr(model.embedding, "matrix", None)
    size = model.embedding.weight.nbytes if table is None else table.packed.nbytes
    prompt = torch.randint(0, config.vocabulary, (PROMPT,)).tolist()

    def run() -> float:
        steps = stream(model, [prompt], tokens + 1, Sampling(temperature=0))
        next(steps)
        start = clock()
        for _ in steps:
            pass
        return tokens / (clock() - start)

    return run, weight_bytes(model) - size


def theirs(
    path: Path, tokens: int, threads: int, processor_time: bool
) -> tuple[Callable[[], float], float]:
    """The same of llama.cpp, by its own timings, or the processor's time of a long answer less a short."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    server = xllamacpp.Server(params)
    size = path.stat().st_size - EMBEDDING_BYTES[path.stem]

    def answer(count: int) -> tuple[float, float]:
        start = time.process_time()
        said = server.handle_completions(
            {"prompt": list(range(300, 300 + PROMPT)), "n_predict": count, "temperature": 0,
             "ignore_eos": True, "cache_prompt": False}
        )  # fmt: skip
        return float(said["timings"]["predicted_per_second"]), time.process_time() - start

    def run() -> float:
        if not processor_time:
            return answer(tokens + 1)[0]
        return tokens / (answer(tokens + 1)[1] - answer(1)[1])

    return run, size


EMBEDDING_BYTES: dict[str, int] = {}


def write_gguf(config: DecoderConfig, kind: str, path: Path) -> None:
    """A LLaMA of random weights, with the vocabulary of bytes and nothing else."""
    import gguf

    types = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "llama")
    head = config.width // config.heads
    writer.add_block_count(config.depth)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.inner)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocabulary)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [f"word{i}" for i in range(config.vocabulary - len(tokens))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (config.vocabulary - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    random = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int) -> None:
        table = kind == "Q4_0" and name in ("token_embd.weight", "output.weight")
        form = types.Q8_0 if table else types[kind]
        x = random.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        data = gguf.quants.quantize(x, form)
        if name == "token_embd.weight":
            EMBEDDING_BYTES[kind] = data.nbytes
        writer.add_tensor(name, data, raw_dtype=form)

    width, inner = config.width, config.inner
    add("token_embd.weight", config.vocabulary, width)
    add("output.weight", config.vocabulary, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(config.depth):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}.weight", width, width)
        add(f"blk.{layer}.ffn_gate.weight", inner, width)
        add(f"blk.{layer}.ffn_up.weight", inner, width)
        add(f"blk.{layer}.ffn_down.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's threads need not be waited for
