"""Memory: published accounting, torch's own hooks, live bytes of a step.

What a whole process holds moves with its allocator: `benchmarks/plan.py` measures that.
"""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from maquette.models import families
from maquette.models.base import TokenBatch
from maquette.models.config import DecoderConfig
from maquette.nn import fused
from maquette.nn.native import compiler
from maquette.nn.rules import Role
from maquette.scaling.memory import memory, states
from maquette.scaling.saved_tensors import saved_by_block
from maquette.scaling.training_step import Layout, TrainingStep

FAMILIES = {
    "default": DecoderConfig,
    "gpt2": families.gpt2,
    "gpt3": families.gpt3,
    "gptj": families.gptj,
    "palm": families.palm,
    "bloom": families.bloom,
    "grouped": lambda **sizes: families.llama(kv_heads=2, **sizes),
}
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}
ONE = Layout()


def small(name: str, depth: int = 4, **changes) -> DecoderConfig:
    sizes = {"vocabulary": 257, "context": 64, "width": 64, "heads": 4, "depth": depth}
    return FAMILIES[name](**(sizes | changes))


def batch(sequences: int, time: int) -> TokenBatch:
    tokens = torch.randint(0, 257, (sequences, time))
    return TokenBatch(tokens, tokens)


def test_the_zero_papers_gigabytes():
    """Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 devices."""
    found = [sum(states(7.5e9, zero, 64, (2, 2, 12))) / 1e9 for zero in range(4)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    ours = [sum(states(7.5e9, zero, 64)) for zero in range(4)]
    assert ours == sorted(ours, reverse=True)
    assert ours[3] == pytest.approx(16 * 7.5e9 / 64)


def test_a_block_keeps_about_what_megatrons_does():
    """Korthikanti et al. 2022, equation 6: 34 bytes a token and width without attention's scores."""
    sizes = {"vocabulary": 50304, "context": 2048, "width": 6144, "depth": 48, "heads": 64}
    config = families.gpt3(**sizes)
    kept = saved_by_block(config, 4, 2048, "bf16", compiled=True, casts=False)
    assert kept / (4 * 2048 * 6144) == pytest.approx(34, rel=0.1)


def saved(config: DecoderConfig, precision: str, compiled: bool) -> int:
    """Bytes of different storages that autograd keeps of one forward pass, parameters left out."""
    model = config.build().initialise(0)
    model.compute = DTYPE[precision]
    if compiled:
        model.compile_blocks()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(t)  # or its place is given to another
        return t

    with fused.compilation(compiled), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.loss(batch(2, 64))
    return sum(found.values())


@pytest.mark.parametrize("precision", DTYPE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_keeps_what_torch_keeps(family, precision):
    """One block more, and the bytes that autograd keeps grow by what `saved_by_block` says."""
    two, four = (saved(small(family, depth), precision, False) for depth in (2, 4))
    config = small(family, 4)
    told = sum(saved_by_block(config, 2, 64, precision, layer=i) for i in (2, 3))
    assert told == pytest.approx(four - two, rel=1e-9)


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compiled_blocks_keep_what_they_are_said_to():
    config = small("default", 2)
    told = memory(TrainingStep(config, 2, 64, "bf16", ONE, compiled=True))
    assert told.moment == "forward"
    assert told.activations == pytest.approx(saved(config, "bf16", True), rel=0.02)


class Live(TorchDispatchMode):
    """Bytes of living storages, and the most there were."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in tree_flatten(out)[0]:
            if isinstance(t, torch.Tensor):
                self.add(t.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", DTYPE)
@pytest.mark.parametrize("family", ["default", "gpt2", "palm"])
def test_the_fullest_moment_of_a_step(family, precision, recompute):
    config = small(family)
    model = config.build().initialise(0)
    model.compute, model.recompute = DTYPE[precision], recompute
    rows = batch(8, 64)
    with Live(model) as live:
        model.loss(rows).total.backward()
    told = memory(
        TrainingStep(config, 8, 64, precision, Layout(recompute=recompute)),
        device="cpu",
        saving=False,
    )
    assert told.activations + told.working + told.gradients == pytest.approx(live.peak, rel=0.05)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(
    ("width", "time", "hidden", "fullest"),
    [(64, 64, None, "forward"), (64, 64, 2048, "backward"), (256, 8, None, "forward")],
)
def test_gradients_live_through_the_update_and_the_later_parts(width, time, hidden, fullest, parts):
    """Few tokens of a wide model are fullest at the update; a later part at its own, beside the sum."""
    config = small("default", width=width, heads=4, hidden=hidden)
    model = config.build().initialise(0)
    rows, p = batch(4, time), sum(p.numel() for p in model.parameters())
    with Live(model) as live:
        for _ in range(parts):
            model.loss(rows).total.backward()
        after = live.now
    assert after == 4 * p + 8 * 4 * time  # what the update begins with, and the tokens
    layout = Layout(micro_batches=parts)
    told = memory(TrainingStep(config, 4, time, "fp32", layout), device="cpu", saving=False)
    assert (told.parameters, told.optimiser) == (4 * p, 8 * p)
    grown = told.activations + told.working + told.gradients
    if parts > 1:
        assert (told.moment, told.gradients) == (fullest, 4 * p)
        assert told.activations + told.working > 0
        assert grown == pytest.approx(live.peak, rel=0.05)
    elif width == 256:
        assert (told.moment, grown, told.gradients) == ("update", 4 * p, 4 * p)
        assert grown == pytest.approx(live.peak, rel=0.2)
    else:
        assert told.moment == fullest
        assert grown == pytest.approx(live.peak, rel=0.05)
    kept = told.saving + told.framework + told.margin
    assert told.total == pytest.approx(12 * p + grown + kept)


def test_the_parts_sum_to_the_total_and_each_has_its_reason():
    config = small("default")
    told = memory(TrainingStep(config, 8, 64, "bf16", ONE), device="cpu")
    parts = {k: v for k, v in vars(told).items() if isinstance(v, float)}
    assert sum(parts.values()) == pytest.approx(told.total)
    assert parts.keys() <= told.why.keys()
    assert all(told.why.values())
    assert told.saving == pytest.approx(max(0.0, 3 * told.parameters - told.margin))
    assert memory(TrainingStep(config, 8, 64, "bf16", ONE)).saving == 0


def test_copies_of_a_checkpoint_lie_in_the_holes_that_activations_leave():
    """Many parameters on few tokens need room of their own; few on many tokens need none."""
    config = small("default")
    wide = DecoderConfig(vocabulary=4096, context=64, width=256, depth=4, heads=4)
    for one, sequences in ((config, 64), (wide, 1)):
        kept, none = (
            memory(
                TrainingStep(one, sequences, 64, "bf16", Layout(recompute=True)),
                device="cpu",
                saving=saving,
            )
            for saving in (True, False)
        )
        copies = kept.parameters + kept.optimiser
        assert kept.total - none.total == pytest.approx(max(0.0, copies - kept.margin))
    assert (
        memory(TrainingStep(config, 64, 64, "bf16", Layout(recompute=True)), device="cpu").saving
        == 0
    )
    assert (
        memory(TrainingStep(wide, 1, 64, "bf16", Layout(recompute=True)), device="cpu").saving > 0
    )


def test_layouts_divide_what_they_say_they_divide():
    config = families.gpt3(vocabulary=50257, context=2048, width=12288, depth=96, heads=96)
    whole = memory(TrainingStep(config, 1, 2048, "bf16", ONE))
    zero = memory(TrainingStep(config, 1, 2048, "bf16", Layout(shard=64, zero=3)))
    assert zero.parameters == pytest.approx(whole.parameters / 64)
    assert zero.optimiser == pytest.approx(whole.optimiser / 64)
    # ZeRO's degree is the replicas that share, never all devices.
    some = memory(TrainingStep(config, 1, 2048, "bf16", Layout(replicate=8, shard=8, zero=1)))
    assert some.optimiser == pytest.approx(whole.optimiser / 8)
    assert some.parameters == whole.parameters
    split = memory(TrainingStep(config, 1, 2048, "bf16", Layout(tensor=8, pipeline=8)))
    assert split.optimiser < whole.optimiser / 60
    ring = memory(TrainingStep(config, 1, 2048, "bf16", Layout(context=2)))
    assert ring.activations < 0.51 * whole.activations + 5e9


def test_stage_three_frees_what_it_gathered():
    """Casts of all blocks are kept where weights are whole; of two blocks where they are shared."""
    config = families.gpt3(vocabulary=50257, context=2048, width=4096, depth=32, heads=32)
    two, three = (
        memory(TrainingStep(config, 1, 2048, "bf16", Layout(shard=8, zero=z))) for z in (2, 3)
    )
    block = config.parameters_by_role()[Role.HIDDEN] / 32
    assert two.moment == three.moment == "forward"
    assert two.activations - three.activations == pytest.approx(32 * 2 * block)
    assert three.working - two.working == pytest.approx(2 * (4 + 2) * block)
    assert f"{2 * 6 * block:,.0f} bytes of gathered weights: 2 blocks" in three.why["working"]


def test_shared_gradients_stay_shared_over_micro_batches():
    config = families.gpt3(vocabulary=50257, context=2048, width=4096, depth=32, heads=32)
    one, two, three = (
        memory(TrainingStep(config, 1, 2048, "bf16", Layout(shard=8, zero=z, micro_batches=4)))
        for z in (1, 2, 3)
    )
    assert two.gradients == three.gradients == pytest.approx(one.gradients / 8)
    assert "after each of 4 micro-batches" in two.why["gradients"]
    assert "stage" not in one.why["gradients"]


def test_recomputation_keeps_one_block_and_every_input():
    config = small("default", 12)
    whole, less = (
        memory(TrainingStep(config, 256, 64, "fp32", Layout(recompute=again)))
        for again in (False, True)
    )
    inputs = 12 * 256 * 64 * 64 * 4
    block = saved_by_block(config, 256, 64, "fp32")
    assert whole.activations > 12 * block
    assert inputs < less.activations + less.working < inputs + 2.5 * block
