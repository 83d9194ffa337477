"""Resolution of `auto` on this machine: precision by a probe, compilation by a measurement.

For a picture model its own training step is timed in each precision and memory layout (`probe`).

Decisions are taken once, before the first step, and kept in the run (`decisions.json`), so that a
resumed run computes with the same kernels and stays the same to the last bit.
"""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from maquette.base.files import home, read_json, write_json
from maquette.base.machine import Machine
from maquette.models.base import LanguageModel, Model
from maquette.nn import fused, native
from maquette.nn.native import compiler
from maquette.training.datasets.dataset import Dataset
from maquette.training.probe import DTYPE, best_seconds, probe
from maquette.training.recipe import LanguageRecipe, Recipe, language

SHORT_SECONDS = 120.0  # a run shorter than this cannot earn back a first compilation
WARM_SECONDS = 10.0  # what even a cached compilation costs at the start


@dataclass(frozen=True)
class Decisions:
    """Precision, compilation and memory layout of a run, with the reasons."""

    device: str
    precision: Literal["bf16", "fp32"]
    compile: bool
    threads: int
    processor: str
    torch_version: str
    why: dict[str, str]
    kernels: bool = False
    """whether the row kernels of `nn.native` are used"""
    channels_last: bool = False
    """whether pictures have the memory format channels_last"""
    flops: float = 0.0
    """counted operations of a training step per picture"""
    seconds: float = 0.0
    """seconds of a training step, measured by the probe"""
    activations: float = 0.0
    """counted bytes that autograd keeps of a micro-batch of pictures"""

    def save(self, path: Path) -> None:
        """Write `decisions.json`."""
        write_json(path, asdict(self))

    @property
    def dtype(self) -> torch.dtype:
        return DTYPE[self.precision]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute as was decided while this is open."""
        with fused.compilation(self.compile), native.kernels(self.kernels):
            yield


def load_decisions(path: Path) -> Decisions:
    """Read `decisions.json`."""
    return Decisions(**read_json(path))


def decide(
    recipe: Recipe, machine: Machine, model: Model, dataset: Dataset | None = None
) -> Decisions:
    """Resolve every `auto` of the recipe. Measures the block plain and compiled if it may matter.

    dataset: source of the batch to time where the cost of a step has no formula (`flops_per_unit` 0).
    """
    if not recipe.flops_per_unit:
        assert dataset is not None, "a model whose operations are counted is timed on its data"
        return _timed(recipe, machine, model, dataset)
    assert isinstance(model, LanguageModel)
    why = {}
    precision = recipe.precision
    ratio = machine.bf16_flops / machine.fp32_flops
    if precision == "auto":
        precision = "bf16" if machine.bf16 else "fp32"
        why["precision"] = f"{precision}: bf16 multiplies {ratio:.1f} times as fast as fp32 here"
    else:
        why["precision"] = f"{precision}: the recipe says so"
    threads = max(1, torch.get_num_threads() // recipe.ranks)
    kernels = recipe.compile != "off" and machine.device == "cpu" and native.available()
    if recipe.compile != "off":
        why["kernels"] = "on" if kernels else "off: they need a processor and a C++ compiler"
    on = recipe.compile == "on"
    why["compile"] = f"{recipe.compile}: the recipe says so"
    if recipe.compile == "auto":
        with native.kernels(kernels):
            on, why["compile"] = _compilation(language(recipe), machine, model, precision, threads)
    elif on and not compiler():
        on, why["compile"] = False, "off: no C++ compiler was found"
        warnings.warn(
            "compile is on, but no C++ compiler was found: going on without", stacklevel=2
        )
    return Decisions(
        machine.device, precision, on, threads, machine.processor, machine.torch, why, kernels
    )


def _timed(recipe: Recipe, machine: Machine, model: Model, dataset: Dataset) -> Decisions:
    """Decisions by `training.probe`, which times the model's own step."""
    threads = max(1, torch.get_num_threads() // recipe.ranks)
    torch.set_num_threads(threads)
    batches = dataset.step(0, 0, recipe.ranks)
    encoder = recipe.data.frozen_encoder(torch.device("cpu"))
    first = batches[0] if encoder is None else encoder(batches[0])
    probed = probe(recipe, machine, model, first, threads)
    on = recipe.compile == "on" and compiler() is not None
    why = {
        "precision": probed.why,
        "compile": "on: the recipe says so" if on else "off: the recipe does not ask for it",
    }
    return Decisions(
        machine.device,
        probed.precision,
        on,
        threads,
        machine.processor,
        machine.torch,
        why,
        channels_last=probed.channels_last,
        flops=probed.flops,
        seconds=probed.seconds * len(batches),
        activations=probed.activations,
    )


def keep_compiled_code() -> None:
    """Cache compiled kernels where they outlive a reboot."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))


def _compilation(
    recipe: LanguageRecipe, machine: Machine, model: LanguageModel, precision: str, threads: int
) -> tuple[bool, str]:
    flops = model.flops_per_token(recipe.data.sequence) * recipe.units_per_step * recipe.last_step
    expected = flops / (0.5 * machine.peak(precision))
    if expected < SHORT_SECONDS:
        return False, f"off: a run of about {expected:.0f} s is too short to earn it back"
    if machine.device == "cuda":
        return True, "on: it pays on every GPU run of this length"
    if not compiler():
        return False, "off: no C++ compiler was found"
    content = recipe.to_dict()
    shape = [content["model"], content["data"], recipe.micro_batch or recipe.batch // recipe.ranks]
    kernels = native.usable(torch.empty(0))
    identity = [shape, precision, threads, machine.processor, machine.torch, kernels]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    kept = home() / "compile.json"
    known: dict[str, Any] = read_json(kept) if kept.exists() else {}
    if key not in known:
        try:
            known[key] = measure_block(recipe, model, precision)
        except Exception as error:  # whatever a compiler or its code can do wrong
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            warnings.warn(f"compilation failed, going on without: {reason[0]}", stacklevel=3)
            return False, "off: it failed on this machine"
        write_json(kept, known)
    plain, compiled = known[key]["plain"], known[key]["compiled"]
    saved = (plain - compiled) / plain * expected
    measured = f"a block takes {1e3 * compiled:.1f} ms compiled, {1e3 * plain:.1f} ms plain"
    if saved > WARM_SECONDS:
        return True, f"on: {measured}"
    return False, f"off: {measured}"


def measure_block(recipe: LanguageRecipe, model: LanguageModel, precision: str) -> dict[str, float]:
    """Seconds of one block, forward and backward, plain and compiled; and of the compilation."""
    from maquette.base.machine import keep_freed_memory

    keep_freed_memory()
    keep_compiled_code()
    c = model.config
    rows = recipe.micro_batch or recipe.batch // recipe.ranks
    x = torch.randn(rows, recipe.data.sequence, c.width).to(DTYPE[precision])
    block, inputs = model.blocks[0], _inputs_of_first_block(model, recipe.data.sequence)

    def step() -> None:
        block(x.requires_grad_(), **inputs).backward(x)

    plain = best_seconds(step)
    start = time.perf_counter()
    with fused.compilation(True):
        block.compile(dynamic=False)
        step()
        seconds = time.perf_counter() - start
        compiled = best_seconds(step)
    block._compiled_call_impl = None
    block.zero_grad(set_to_none=True)
    return {"plain": plain, "compiled": compiled, "compilation": seconds}


@torch.no_grad()
def _inputs_of_first_block(model: LanguageModel, time: int) -> dict[str, Any]:
    """Keyword arguments of the first block in a forward pass of `time` tokens."""
    inputs: dict[str, Any] = {}

    def note(block: Any, _: Any, keywords: dict[str, Any]) -> None:
        inputs.update(keywords)

    handle = model.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    model.hidden(torch.zeros(1, time, dtype=torch.long))
    handle.remove()
    return inputs
