"""The planner's estimates against real runs: peak memory and seconds a step, on this machine.

    python benchmarks/plan.py             ten runs of the ordinary trainer
    python benchmarks/plan.py --quick     two of them
    python benchmarks/plan.py --large     six of 12 x 768, 8,192 tokens a step: contexts of 256 to 4,096, with
                                          and without recomputation (ten minutes)
    python benchmarks/plan.py --published utilisation of published runs on accelerators

Each run is a process of its own: its memory is the peak of what it held (VmHWM) over what it held
before the model was made, without pages of library files, the median of three runs, because the holes
that the allocator leaves move it by 12 %; its time is the fastest of its steps. Times are estimated from what
`maquette doctor` measures and nothing else. The allocator's share of the memory (`FRAMEWORK`,
`COMPILER`, `HOLES` in scaling/memory.py) was set from runs of the trainer, these among them, so for
memory this is a check of the model, not a prediction.

The published runs are MosaicML's, of MPT under fully sharded data parallelism without recomputation
on eight devices (the training benchmarks of their llm-foundry); `FITTED` in scaling/devices.py was
fitted to them, a number for each device.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.base.machine import Machine, measure, resident
from maquette.models.config import DecoderConfig
from maquette.models.families import gpt2
from maquette.scaling.devices import device, from_machine
from maquette.scaling.memory import Memory, memory
from maquette.scaling.roofline import StepTime, step_time
from maquette.scaling.training_step import Layout, TrainingStep
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import Checkpoints, LanguageRecipe

STEPS = 8
SHAPES = {  # MPT: blocks, width, heads
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16),
    "3b": (32, 2560, 20), "7b": (32, 4096, 32), "13b": (40, 5120, 40),
}  # fmt: skip
PUBLISHED = {  # device: (model, sequence, micro-batch, micro-batches, utilisation)
    "H100": [
        ("760m", 2048, 24, 2, 0.349), ("1b", 2048, 14, 1, 0.4182), ("1b", 512, 56, 4, 0.4321),
        ("1b", 8192, 3, 4, 0.3773), ("3b", 1024, 20, 6, 0.462), ("3b", 4096, 5, 6, 0.4231),
        ("7b", 2048, 6, 1, 0.4644), ("13b", 2048, 2, 1, 0.3979),
    ],
    "A100": [
        ("125m", 2048, 32, 2, 0.4445), ("350m", 2048, 32, 2, 0.5162), ("760m", 2048, 24, 2, 0.5685),
        ("1b", 2048, 14, 4, 0.5986), ("1b", 8192, 3, 4, 0.5669), ("3b", 2048, 10, 2, 0.6211),
        ("3b", 512, 40, 6, 0.6371), ("7b", 2048, 6, 2, 0.6423), ("13b", 2048, 2, 3, 0.5957),
    ],
}  # fmt: skip


def recipe(config: DecoderConfig, batch: int, time: int, **changes: Any) -> LanguageRecipe:
    """A run of a few steps on the embedded corpus that looks at nothing between them."""
    base = LanguageRecipe(
        name="plan",
        model=config,
        data=TextData(corpus="tiny", sequence=time),
        batch=batch,
        steps=STEPS,
        compile="off",
        checkpoints=Checkpoints(every=1000),
        watch=TextWatch(every=1000, tokens=time, sample_tokens=0, report=False),
    )
    return replace(base, **changes)


def llama(width: int, depth: int, time: int) -> DecoderConfig:
    """The default decoder, with heads of 64."""
    return DecoderConfig(
        vocabulary=257, context=time, width=width, depth=depth, heads=max(2, width // 64)
    )


def runs() -> dict[str, LanguageRecipe]:
    """What is compared: widths, batches, lengths, precisions, compilation, recomputation."""
    small = gpt2(vocabulary=257, context=256, width=384, depth=6, heads=6)
    return {
        "128 x 4, 32 x 256, fp32": recipe(llama(128, 4, 256), 32, 256, precision="fp32"),
        "256 x 4, 32 x 64, fp32": recipe(llama(256, 4, 64), 32, 64, precision="fp32"),
        "256 x 4, 16 x 256, bf16": recipe(llama(256, 4, 256), 16, 256, precision="bf16"),
        "256 x 4, 32 x 256, fp32, recomputed": recipe(
            llama(256, 4, 256), 32, 256, precision="fp32", recompute=True
        ),
        "512 x 4, 8 x 512, fp32": recipe(llama(512, 4, 512), 8, 512, precision="fp32"),
        "512 x 4, 16 x 128 in fours, bf16": recipe(
            llama(512, 4, 128), 16, 128, precision="bf16", micro_batch=4
        ),
        "GPT-2 384 x 6, 16 x 256, fp32": recipe(small, 16, 256, precision="fp32"),
        "GPT-2 384 x 6, 16 x 256, bf16, compiled": recipe(
            small, 16, 256, precision="bf16", compile="on"
        ),
        "GPT-2 384 x 6, 16 x 256, bf16, kernels": recipe(
            small, 16, 256, precision="bf16", compile="kernels"
        ),
        "256 x 8, 64 x 64, bf16, kernels": recipe(
            llama(256, 8, 64), 64, 64, precision="bf16", compile="kernels"
        ),
        "256 x 8, 64 x 64, bf16, compiled": recipe(
            llama(256, 8, 64), 64, 64, precision="bf16", compile="on"
        ),
        "128 x 4, 128 x 128, bf16, compiled, recomputed": recipe(
            llama(128, 4, 128), 128, 128, precision="bf16", compile="on", recompute=True
        ),
    }


def large() -> dict[str, LanguageRecipe]:
    """The LLaMA shape of 12 blocks of 768, 8,192 tokens a step, at three contexts; four steps each."""
    return {
        f"768 x 12, {8192 // time} x {time}, bf16{', recomputed' * again}": recipe(
            llama(768, 12, time), 8192 // time, time, precision="bf16", recompute=again, steps=4
        )
        for time in (256, 1024, 4096)
        for again in (False, True)
    }


def estimates(one: LanguageRecipe, machine: Machine) -> tuple[Memory, StepTime]:
    """What the planner says of a recipe on one process of this machine."""
    part = one.micro_batch or one.batch
    number = one.batch // part
    layout = Layout(micro_batches=number, recompute=one.recompute)
    compiled = one.compile in ("on", "kernels")
    assert one.precision != "auto"
    time = one.data.sequence
    kernels = one.compile == "kernels"
    step = TrainingStep(one.model, part, time, one.precision, layout, compiled, kernels)
    held = memory(step, device="cpu", saving=False, evaluated=1)
    return held, step_time(step, from_machine(machine))


def child(name: str, folder: Path) -> None:
    """Train in this process; print what it took as one JSON line."""
    from maquette.corpus.text.named import open_corpus
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import train

    measure()
    open_corpus("tiny")
    before, files = resident(), status("RssFile")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts here
    train((runs() | large())[name], folder)
    grown = status("VmHWM") - before - (status("RssFile") - files)
    records = RunDirectory(folder).records()
    steps = [record["seconds"] for record in records if "loss" in record]
    print(json.dumps({"memory": grown, "seconds": min(steps[2:])}))


def status(field: str) -> int:
    """Bytes of a field of this process's status."""
    return (
        int(Path("/proc/self/status").read_text(encoding="utf-8").split(field + ":")[1].split()[0])
        * 1024
    )


def published() -> None:
    """Estimated and published utilisation of MPT's runs on eight devices."""
    for name, listed in PUBLISHED.items():
        errors = []
        for model, time, part, parts, reached in listed:
            depth, width, heads = SHAPES[model]
            config = gpt2(vocabulary=50368, context=time, width=width, depth=depth, heads=heads)
            layout = Layout(shard=8, zero=3, micro_batches=parts)
            found = step_time(
                TrainingStep(config, part, time, "bf16", layout),
                device(name),
            ).utilisation
            assert found is not None
            errors.append(math.log(found / reached))
            print(
                f"{name} {model:>5} x {time:<5} {found:6.1%} of {reached:6.1%} ({errors[-1]:+.0%})"
            )
        spread = statistics.pstdev(errors)
        print(f"{name}: {statistics.mean(errors):+.1%} mean, {spread:.1%} standard deviation")


def main() -> None:
    """Estimate, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two runs")
    parser.add_argument("--large", action="store_true", help="six runs of 12 x 768 instead")
    parser.add_argument("--repeats", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument("--only", help="runs whose name holds this")
    parser.add_argument("--published", action="store_true", help="published runs instead")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return child(arguments.one[0], Path(arguments.one[1]))
    if arguments.published:
        return published()
    all_runs = large() if arguments.large else runs()
    chosen = {k: v for k, v in all_runs.items() if not arguments.only or arguments.only in k}
    if arguments.quick:
        chosen = dict(list(chosen.items())[:2])
    machine = measure(refresh=True)
    rows, errors = [], {"memory": [], "time": []}
    for name, one in chosen.items():
        held, seconds = estimates(one, machine)
        found = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, __file__, "--one", name, str(Path(folder) / "run")]
                out = subprocess.run(
                    words, capture_output=True, text=True, check=False, encoding="utf-8"
                )
            if out.returncode:
                raise SystemExit(out.stderr)
            found.append(json.loads(out.stdout.splitlines()[-1]))
        memory_found = statistics.median(f["memory"] for f in found)
        seconds_found = min(f["seconds"] for f in found)
        assert seconds.seconds is not None
        errors["memory"].append(held.total / memory_found - 1)
        errors["time"].append(seconds.seconds / seconds_found - 1)
        parts = ", ".join(f"{k} {1e3 * v:.0f}" for k, v in seconds.parts.items() if v)
        row = {
            "run": name, "memory": memory_found, "memory_estimated": held.total,
            "seconds": seconds_found, "seconds_estimated": seconds.seconds,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:<40} {held.total / 1e6:6.0f} of {memory_found / 1e6:6.0f} MB "
            f"({errors['memory'][-1]:+.0%})   {1e3 * seconds.seconds:6.0f} of "
            f"{1e3 * seconds_found:6.0f} ms ({errors['time'][-1]:+.0%})   {parts}",
            flush=True,
        )
    for what, values in errors.items():
        sizes = [abs(v) for v in values]
        print(f"{what}: error {statistics.median(sizes):.0%} median, {max(sizes):.0%} worst")
    print(json.dumps({"machine": machine.processor, "threads": machine.threads, "runs": rows}))


if __name__ == "__main__":
    main()
