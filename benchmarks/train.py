"""Training speed: Maquette, a loop in nanoGPT's manner, and Hugging Face's GPT-2, plain and at their best.

    python benchmarks/train.py                    6 x 384 on bytes, context 256, batch 16
    python benchmarks/train.py --shape 12x768     the size of GPT-2 small

One run, one model shape, one initialisation, one order of the data; the arms take turns, so that a
machine that slows down slows all of them. After equal tokens the losses must be equal, which the
table prints. Speed is a fraction of the matrix-product peak measured between the turns (the best
of all measurements), in the arm's own precision. At its best a peer has its forward pass and loss
compiled as one, bf16 by autocast, and fused AdamW, as nanoGPT has on a GPU. Operations are counted as
torch counts them, all keys of attention included.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.machine import keep_freed_memory, measure, processor, product_speed, read_speed
from maquette.corpus.order import SampleOrder
from maquette.corpus.text.named import open_corpus
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.nn import native
from maquette.serving.hugging_face import export_model
from maquette.training.decide import keep_compiled_code
from maquette.training.optimiser import clip_gradients, make_optimiser
from maquette.training.recipe import Optimiser

CONTEXT = 256
SETTINGS = Optimiser(learning_rate=1e-3, beta2=0.99, epsilon=1e-8, weight_decay=0.1)
Step = Callable[[Tensor], float]


class NanoBlock(nn.Module):
    """A block as nanoGPT writes it: separate maps, torch's attention, exact GELU's tanh form."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.c_attn, self.c_proj = nn.Linear(c.width, 3 * c.width), nn.Linear(c.width, c.width)
        self.c_fc, self.c_out = nn.Linear(c.width, 4 * c.width), nn.Linear(4 * c.width, c.width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(w, dim=2)
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, w))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Nano(nn.Module):
    """The whole of it."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(c.vocabulary, c.width), nn.Embedding(c.context, c.width)
        self.h = nn.ModuleList(NanoBlock(c) for _ in range(c.depth))
        self.ln_f = nn.LayerNorm(c.width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def take(self, model: Decoder) -> None:
        """Copy the weights of our model."""
        ours = dict(model.named_parameters())
        pairs = {"wte": "embedding", "wpe": "position", "ln_f": "norm"}
        for i in range(len(self.h)):
            block = {
                "ln_1": "attention_norm", "c_attn": "attention.qkv", "c_proj": "attention.out",
                "ln_2": "feedforward_norm", "c_fc": "feedforward.up", "c_out": "feedforward.down",
            }  # fmt: skip
            pairs |= {f"h.{i}.{theirs}": f"blocks.{i}.{our}" for theirs, our in block.items()}
        with torch.no_grad():
            for theirs, our in pairs.items():
                module = self.get_submodule(theirs)
                for name, p in module.named_parameters():
                    p.copy_(ours[f"{our}.{name}"])


def plain_step(model: nn.Module, logits: Callable[[Tensor], Tensor], best: bool = False) -> Step:
    """forward, cross-entropy, backward, clip, AdamW: as nanoGPT's loop has them on a CPU.

    best: in bf16 by autocast, the forward pass with its loss compiled, AdamW fused.
    """
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": SETTINGS.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=SETTINGS.learning_rate, betas=(SETTINGS.beta1, SETTINGS.beta2), eps=SETTINGS.epsilon,
        fused=best,
    )  # fmt: skip

    def forward(rows: Tensor) -> Tensor:
        scores = logits(rows[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())

    loss_of = torch.compile(forward) if best else forward

    def step(rows: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=best):
            loss = loss_of(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def our_step(model: Decoder, dtype: torch.dtype) -> Step:
    """A step of `maquette train`, as training/loop.py takes it."""
    model.compute = dtype
    optimiser = make_optimiser(model, model.scaling, SETTINGS)
    parameters = list(model.parameters())

    def step(rows: Tensor) -> float:
        with native.kernels(True):
            loss = model.loss(TokenBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
            (loss.total / loss.count).backward()
            clip_gradients(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(loss.value / loss.count)

    return step


def make_arms(config: DecoderConfig, hugging_face: bool, fp32: bool) -> dict[str, tuple[Step, str]]:
    """Every arm from the same weights, with its precision."""

    def fresh() -> Decoder:
        return Decoder(config).initialise(0)

    nano = Nano(config)
    nano.take(fresh())
    arms = {
        "Maquette": (our_step(fresh(), torch.bfloat16 if measure().bf16 else torch.float32),
                     measure().precision),
        "nanoGPT's manner": (plain_step(nano, nano), "fp32"),
    }  # fmt: skip
    if measure().bf16:
        best = Nano(config)
        best.take(fresh())
        arms["nanoGPT's, at its best"] = (plain_step(best, best, best=True), "bf16")
    if fp32 and measure().bf16:
        arms["Maquette, fp32"] = (our_step(fresh(), torch.float32), "fp32")
    if hugging_face:
        import transformers

        folder = Path(tempfile.mkdtemp())
        save_config(folder, config)
        save_tensors(folder / WEIGHTS, dict(fresh().named_parameters()))
        export_model(folder, folder / "out")

        def theirs(best: bool) -> Step:
            model = transformers.GPT2LMHeadModel.from_pretrained(
                folder / "out", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
            ).train()
            return plain_step(model, lambda tokens: model(tokens).logits, best)

        arms["Hugging Face GPT-2"] = (theirs(best=False), "fp32")
        if measure().bf16:
            arms["Hugging Face, best"] = (theirs(best=True), "bf16")
        shutil.rmtree(folder)
    return arms


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="6x384", help="blocks x width (default: 6x384)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each arm (default: 8)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn (default: 2)")
    parser.add_argument("--only", nargs="+", help="arms by name, to save time")
    arguments = parser.parse_args()
    depth, width = map(int, arguments.shape.split("x"))
    keep_freed_memory()
    keep_compiled_code()
    config = families.gpt2(
        vocabulary=257, context=CONTEXT, width=width, depth=depth, heads=width // 64
    )
    corpus = open_corpus("bytes")
    order = SampleOrder(len(corpus.train), CONTEXT, seed=0)

    def batch(number: int) -> Tensor:
        starts = order.starts(number * arguments.batch, arguments.batch)
        return torch.stack(
            [torch.from_numpy(corpus.train.read(int(s), CONTEXT + 1)) for s in starts]
        )

    arms = make_arms(config, hugging_face=True, fp32=True)
    if arguments.only:
        arms = {name: arm for name, arm in arms.items() if name in arguments.only}
    for name, (step, _) in arms.items():  # compile and warm up; the losses count, the time does not
        start = time.perf_counter()
        for number in range(2):
            step(batch(number))
        print(f"warmed up: {name}, {time.perf_counter() - start:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    losses: dict[str, float] = {}
    peaks = {"fp32": 0.0, "bf16": 0.0}
    number = 2
    for _ in range(arguments.rounds):
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            peaks[precision] = max(peaks[precision], product_speed(dtype, "cpu"))
        rows = [batch(number + i) for i in range(arguments.steps)]
        for name, (step, _) in arms.items():
            for row in rows:
                start = time.perf_counter()
                losses[name] = step(row)
                seconds[name].append(time.perf_counter() - start)
        number += arguments.steps
    tokens = arguments.batch * CONTEXT
    with torch.device("meta"):
        flops = Decoder(config).flops_per_token(CONTEXT) * tokens
    machine = measure()
    print(f"\n{processor()}, {machine.threads} threads, torch {torch.__version__}")
    print(f"peaks in this run: fp32 {peaks['fp32'] / 1e9:.0f}, bf16 {peaks['bf16'] / 1e9:.0f} GFLOP/s; "
          f"{flops / tokens / 1e6:.1f} MFLOP a token")  # fmt: skip
    print(f"{depth} x {width}, context {CONTEXT}, batch {arguments.batch}, "
          f"{number} steps, {number * tokens:,} tokens each\n")  # fmt: skip
    head = f"{'arm':<22} {'tokens/s':>9} {'(best)':>9} {'of its peak':>12} {'slower by':>10}"
    head += f" {'loss':>8}  same"
    print(head + "\n" + "-" * len(head))
    ours = sorted(seconds["Maquette"])[len(seconds["Maquette"]) // 2]
    reference = losses.get("nanoGPT's manner", losses["Maquette"])
    table = {}
    for name, (_, precision) in arms.items():
        times = sorted(seconds[name])
        middle = times[len(times) // 2]
        fraction = flops / middle / peaks[precision]
        equal = abs(losses[name] / reference - 1) < 0.01
        table[name] = {
            "tokens_per_second": tokens / middle,
            "fraction_of_peak": fraction,
            "times_slower": middle / ours,
            "loss": losses[name],
            "equal": equal,
        }
        print(f"{name:<22} {tokens / middle:>9,.0f} {tokens / times[0]:>9,.0f} "
              f"{100 * fraction:>6.1f} % {precision} {middle / ours:>8.2f} x {losses[name]:>8.4f}  "
              f"{'yes' if equal else 'NO'}")  # fmt: skip
    data = time.perf_counter()
    for i in range(50):
        batch(number + i)
    data = (time.perf_counter() - data) / 50
    print(f"\ndata loading: {1e3 * data:.2f} ms a step, {100 * data / ours:.2f} % of a step")
    print(f"limit of the ratio here: bf16 peak / fp32 peak = {peaks['bf16'] / peaks['fp32']:.2f}")
    print(f"memory bandwidth: {read_speed('cpu') / 1e9:.1f} GB/s")
    print(json.dumps({"shape": arguments.shape, "peaks": peaks, "arms": table}))
    if not all(row["equal"] for row in table.values()):
        raise SystemExit("the losses differ after equal tokens")


if __name__ == "__main__":
    main()
