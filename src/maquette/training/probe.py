"""A probe of a picture model's training step, about a second: precision, and channels first or last.

Which is faster depends on the model, the processor and the number of threads: none is assumed. What was
found is kept in Maquette's home, so that the same run decides the same again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from maquette.base.files import home, read_json, write_json
from maquette.base.machine import Machine, keep_freed_memory
from maquette.models.base import Model
from maquette.training.cost import measure_cost
from maquette.training.recipe import Recipe

DTYPE = {"bf16": torch.bfloat16, "fp32": torch.float32}
PROBED = 16  # pictures of a micro-batch that are timed
SECONDS = 0.25  # spent on each way


@dataclass(frozen=True)
class Probe:
    """The fastest precision and memory format of a model, and the cost of its step."""

    precision: Literal["bf16", "fp32"]
    channels_last: bool
    seconds: float
    """seconds of forward and backward of a micro-batch"""
    flops: float
    """counted operations of forward and backward per picture"""
    activations: float
    """bytes that autograd keeps of a micro-batch: counted in fp32, halved for bf16"""
    why: str


def probe(recipe: Recipe, machine: Machine, model: Model, batch: Any, threads: int) -> Probe:
    """Time and count the model on its first batch; a result of before is read from Maquette's home."""
    content = recipe.to_dict()
    shape = [
        content["model"],
        content["adapter"],
        content["optimiser"]["groups"],
        recipe.precision,
        len(batch),
    ]
    identity = [shape, threads, machine.device, machine.processor, machine.torch]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    kept = home() / "probes" / f"{key}.json"
    if kept.exists():
        return Probe(**read_json(kept))
    measured = _measured(recipe, machine, model, batch)
    write_json(kept, asdict(measured))
    return measured


def _measured(recipe: Recipe, machine: Machine, model: Model, batch: Any) -> Probe:
    part = batch.rows(0, max(PROBED, model.least_batch))
    model.prepare(part)
    scale = len(batch) / len(part)
    cost = measure_cost(model, part)
    wanted: list[Literal["bf16", "fp32"]] = ["fp32", "bf16"]
    layouts = [False, True] if any(p.dim() == 4 for p in model.parameters()) else [False]
    taken = {
        (precision, last): scale * _step_seconds(model, part, precision, last, machine.device)
        for precision in wanted
        if recipe.precision in ("auto", precision)
        for last in layouts
    }
    (precision, last), seconds = min(taken.items(), key=lambda item: item[1])
    timed = ", ".join(
        f"{p}{' channels last' if channels else ''} {1e3 * s:.0f} ms"
        for (p, channels), s in taken.items()
    )
    return Probe(
        precision,
        last,
        seconds,
        cost.flops / len(part),
        scale * cost.activations * (0.5 if precision == "bf16" else 1.0),
        f"{precision}{', channels last' if last else ''}: a step takes {timed}",
    )


def _step_seconds(
    model: Model, batch: Any, precision: str, channels_last: bool, device: str
) -> float:
    """Seconds of a forward and a backward pass; the model is left without gradients, in fp32."""
    keep_freed_memory()
    shape = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device).to(memory_format=shape)  # type: ignore[call-overload]
    model.compute = DTYPE[precision]
    model.train()
    moved = batch.to(torch.device(device))

    def step() -> None:
        model.loss(moved).total.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        return best_seconds(step, SECONDS, least=1)
    finally:
        model.zero_grad(set_to_none=True)
        model.compute = torch.float32
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def best_seconds(step: Callable[[], None], seconds: float = 1.0, least: int = 3) -> float:
    """Shortest time of the runs that fit into `seconds`, at least `least` of them, after a warm-up run."""
    step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)
