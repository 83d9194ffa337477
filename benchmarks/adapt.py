"""Adaptation: Maquette beside peft and transformers, full tuning, LoRA and prompts on the same weights.

    python benchmarks/adapt.py                    6 x 384, vocabulary 4096, context 256, batch 8, fp32
    python benchmarks/adapt.py --shape 12x768     the size of GPT-2 small

LLaMA's shape. Every arm is a process of its own: the same start, adapters, batches and AdamW; the arms take
turns, the best of the rounds counts. After equal steps the losses must be equal, which the table prints.
Memory is the largest that the process had, less what it had when its libraries were loaded.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.adaptation.adapters.adapter import attach
from maquette.adaptation.adapters.config import AdapterConfig, LoRAConfig, PromptConfig
from maquette.base.machine import keep_freed_memory, resident
from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, save_config, save_tensors
from maquette.serving.hugging_face import export_model
from maquette.serving.peft import export_peft
from maquette.training.trained_model import open_model

BATCH, CONTEXT, LENGTH, RATE = 8, 256, 20, 1e-3
ADAPTERS: dict[str, AdapterConfig | None] = {
    "full": None,
    "lora": LoRAConfig(rank=8, alpha=16.0),
    "prompt": PromptConfig(length=LENGTH),
}
Step = Callable[[Tensor], Tensor]  # tokens (batch, CONTEXT + 1) -> the mean loss


def ours(folder: Path, method: str) -> tuple[Step, list[Tensor]]:
    """Maquette's model with the adapter, and what is trained."""
    model = adapted(folder, method).train()

    def step(tokens: Tensor) -> Tensor:
        loss = model.loss(TokenBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        return loss.total / loss.count

    return step, [p for p in model.parameters() if p.requires_grad]


def theirs(folder: Path, method: str) -> tuple[Step, list[Tensor]]:
    """The exported model in transformers with the same adapter in peft."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    if method == "lora":
        model = peft.PeftModel.from_pretrained(model, folder / "lora", is_trainable=True)
    if method == "prompt":
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
        model = peft.get_peft_model(model, config)
        vectors = dict(adapted(folder, method).named_parameters())["adapters.prompt.vectors"]
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(vectors)
    model.train()

    def step(tokens: Tensor) -> Tensor:
        logits = model(input_ids=tokens[:, :-1]).logits[:, -CONTEXT:]
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    return step, [p for p in model.parameters() if p.requires_grad]


def adapted(folder: Path, method: str) -> Decoder:
    """The base with the method's adapter, the same in every process."""
    model = open_model(folder)
    assert isinstance(model, Decoder)
    config = ADAPTERS[method]
    if config is not None:
        model.requires_grad_(False)
        adapter = config.build(model)
        adapter.initialise(model, 0)
        attach(model, config.kind, adapter)
    return model


def arm(name: str, folder: Path, steps: int) -> dict[str, float]:
    """Run one arm in this process."""
    keep_freed_memory()
    way, method = name.split("-")
    if way == "theirs":
        import peft  # noqa: F401
        from transformers import LlamaForCausalLM  # noqa: F401
    before = resident()
    step, trained = {"ours": ours, "theirs": theirs}[way](folder, method)
    optimiser = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    generator, seconds, loss = torch.Generator().manual_seed(1), [], torch.zeros(())
    rows = torch.randint(4096, (64, CONTEXT + 1), generator=generator)
    for i in range(steps):
        start = time.perf_counter()
        loss = step(rows[torch.arange(i * BATCH, (i + 1) * BATCH) % len(rows)])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens_per_second": BATCH * CONTEXT / statistics.median(seconds[2:]),
        "memory": most - before,
        "loss": loss.item(),
        "trained": sum(p.numel() for p in trained),
    }


def prepare(folder: Path, shape: str) -> None:
    """The base here, as transformers reads it, and its LoRA as peft does."""
    depth, width = map(int, shape.split("x"))
    config = families.llama(
        vocabulary=4096, context=CONTEXT, width=width, depth=depth, heads=width // 64
    )
    save_config(folder, config)
    save_tensors(folder / WEIGHTS, dict(config.build().initialise(0).named_parameters()))
    export_model(folder, folder / "hf")
    export_peft(folder, adapted(folder, "lora"), folder / "lora")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="6x384")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        name, folder = arguments.arm
        print(json.dumps(arm(name, Path(folder), arguments.steps)))
        return
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), arguments.shape)
        for _ in range(arguments.rounds):
            for name in [f"{way}-{method}" for method in ADAPTERS for way in ("ours", "theirs")]:
                words = [sys.executable, __file__, "--arm", name, folder]
                out = subprocess.run(
                    [*words, "--steps", str(arguments.steps)], check=True, text=True,
                    capture_output=True, encoding="utf-8",
                ).stdout  # fmt: skip
                numbers = json.loads(out.splitlines()[-1])
                kept = measured.setdefault(name, numbers)
                kept["tokens_per_second"] = max(
                    kept["tokens_per_second"], numbers["tokens_per_second"]
                )
                kept["memory"] = min(kept["memory"], numbers["memory"])
    print(f"{'arm':16} {'tokens/s':>9} {'memory, MiB':>12} {'trained':>11} {'loss':>9}")
    for name, numbers in measured.items():
        print(
            f"{name:16} {numbers['tokens_per_second']:9,.0f} {numbers['memory'] / 2**20:12,.0f} "
            f"{numbers['trained']:11,} {numbers['loss']:9.5f}"
        )


if __name__ == "__main__":
    main()
