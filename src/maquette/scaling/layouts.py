"""The fastest layout over devices that fits, and why the other kinds are not chosen.

A layout is a product: replicate x shard x tensor x pipeline x context devices. Replicas and shards
(ZeRO: Rajbhandari et al. 2020) divide the batch, tensor parallelism the matrices (Shoeybi et al.
2019), the pipeline the blocks (Narayanan et al. 2021), context parallelism the sequence (Liu et
al. 2023, ring attention). All products that use every device are estimated by `memory` and
`roofline`; those that do not fit are dropped, the rest is ranked by time.

ZeRO's degree is the group of replicas, never all devices. Tensor parallelism stays within a node,
whose devices its groups divide.
Left out: interleaved pipelines, sequence parallelism of the norms, experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.scaling.devices import Device
from maquette.scaling.memory import Memory, memory
from maquette.scaling.roofline import StepTime, step_time
from maquette.scaling.training_step import Layout, Precision, TrainingStep

GIB = 2**30
MICRO = 64  # largest micro-batch that is tried


@dataclass(frozen=True)
class Option:
    """A layout with its estimated memory and time."""

    layout: Layout
    micro_batch: int
    """number of sequences that a device computes at a time"""
    memory: Memory
    time: StepTime
    room: float
    """bytes of a device's memory; infinite where it is unknown"""

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room


@dataclass(frozen=True)
class Choice:
    """The fastest layout that fits, or the smallest if none does, with the alternatives."""

    best: Option
    options: list[Option]
    """all estimated layouts"""
    runnable: Option | None
    """fastest layout that fits and that this version trains"""

    @property
    def fits(self) -> bool:
        return self.best.fits

    @property
    def layout(self) -> Layout:
        return self.best.layout

    @property
    def lost(self) -> list[str]:
        """A line for each kind of alternative to the best one."""
        return self.why_lost(self.best)

    def why_lost(self, shown: Option) -> list[str]:
        """`lost` relative to another option, such as `runnable`; faster alternatives are named as faster."""
        return _why_lost(shown, self.options)


def choose(
    config: DecoderConfig,
    batch_sequences: int,
    time: int,
    device: Device,
    devices: int,
    precision: Precision,
    *,
    compiled: bool = False,
) -> Choice:
    """The fastest layout for a step of `batch_sequences` sequences of `time` tokens.

    Raises WrongUse when no product of that many devices divides the model and the batch.
    """
    options = [
        option
        for layout in products(config, batch_sequences, time, device, devices)
        for option in fillings(
            config, layout, batch_sequences, time, device, precision, compiled=compiled
        )
    ]
    if not options:
        raise WrongUse(
            f"no layout divides a batch of {batch_sequences} sequences over {devices} devices: "
            f"use a batch that {devices} divides, or fewer devices"
        )
    fitting = [option for option in options if option.fits]
    ranked = sorted(fitting, key=_seconds) if fitting else sorted(options, key=_bytes)
    best = ranked[0]
    ours = [option for option in ranked if option.layout.runnable and option.fits]
    return Choice(best, options, ours[0] if ours else None)


def products(
    config: DecoderConfig, batch: int, time: int, device: Device, devices: int
) -> Iterator[Layout]:
    """Every layout that uses all devices and divides heads, blocks, sequence and batch evenly."""
    node = device.per_node or 1
    for tensor in _divisors(devices):
        if tensor > node or (devices > node and node % tensor):
            continue  # its groups would lie on two nodes
        if config.heads % tensor or config.inner % tensor:
            continue
        for pipeline in _divisors(devices // tensor):
            if config.depth % pipeline:
                continue
            for context in _divisors(devices // tensor // pipeline):
                if time % context or (context > 1 and time // context < 1024):
                    continue  # shorter pieces send more than they compute
                data = devices // tensor // pipeline // context
                if batch % data:
                    continue
                plain = Layout(replicate=data, tensor=tensor, pipeline=pipeline, context=context)
                yield plain
                if data == 1:
                    continue
                for zero in (1, 2, 3):
                    if zero == 3 and pipeline > 1:
                        continue  # weights would be gathered for every micro-batch
                    if zero == 2 and pipeline > 1:
                        continue  # gradients are added up over the micro-batches
                    yield replace(plain, replicate=1, shard=data, zero=zero)
                    if node < data and data % node == 0 and tensor == 1 and context == 1:
                        yield replace(plain, shard=node, replicate=data // node, zero=zero)


def fillings(
    config: DecoderConfig,
    layout: Layout,
    batch: int,
    time: int,
    device: Device,
    precision: Precision,
    *,
    compiled: bool = False,
) -> Iterator[Option]:
    """The largest micro-batch that fits, without and with recomputation; the smallest if none does."""
    share = batch // (layout.replicate * layout.shard)
    room = device.memory or float("inf")
    kind: Literal["cpu", "cuda"] = "cpu" if device.kind == "cpu" else "cuda"
    sizes = sorted((m for m in _divisors(share) if m <= MICRO), reverse=True)
    if layout.pipeline > 1:
        sizes = sizes[-3:]  # many small micro-batches keep a pipeline full
    for recompute in (False, True):
        best: tuple[TrainingStep, Memory] | None = None
        low, high = 0, len(sizes) - 1  # memory rises with the micro-batch: bisect
        while low <= high:
            middle = (low + high) // 2
            part = sizes[middle]
            filled = replace(layout, micro_batches=share // part, recompute=recompute)
            step = TrainingStep(config, part, time, precision, filled, compiled)
            held = memory(step, device=kind)
            if held.total <= room:
                best, high = (step, held), middle - 1
            else:
                low = middle + 1
                if best is None and middle == len(sizes) - 1:
                    best = (step, held)
        assert best is not None
        step, held = best
        seconds = step_time(step, device)
        yield Option(step.layout, step.micro_batch, held, seconds, room)
        if held.total <= room and layout.pipeline == 1:
            break  # recomputation only costs time where everything fits


def _why_lost(best: Option, options: list[Option]) -> list[str]:
    """One line for each kind of layout that is not the best one's, the least bad of it first."""
    kinds: dict[str, Option] = {}
    for option in sorted(options, key=_seconds):
        kind = _kind(option.layout)
        if kind not in kinds or (option.fits and not kinds[kind].fits):
            kinds[kind] = option
    lines = []
    for kind, option in kinds.items():
        if kind == _kind(best.layout):
            continue
        lines.append(f"{option.layout.name}: {_reason(best, option)}")
    return lines


def _reason(best: Option, option: Option) -> str:
    if not option.fits:
        over = option.memory.total - option.room
        least = "even with recomputation " if option.layout.recompute else ""
        return (
            f"does not fit: {least}{option.memory.total / GIB:.3g} GiB a device, "
            f"{over / GIB:.3g} GiB too many"
        )
    ours, theirs = best.time.seconds, option.time.seconds
    if theirs is None:
        return f"its time is unknown: {', '.join(option.time.unknown)}"
    if ours is None:
        return f"{theirs:.3g} s a step; the time of {best.layout.name} is unknown"
    slower = theirs / ours - 1
    excess = {
        name: (value or 0.0) - (best.time.parts.get(name) or 0.0)
        for name, value in option.time.parts.items()
    }
    name = max(excess, key=lambda part: excess[part])
    beyond = "" if option.layout.runnable else ", not trained by this version"
    faster = ours / theirs - 1
    if faster >= 0.005:
        return f"{faster:.0%} faster{beyond}" if faster >= 0.01 else f"{faster:.1%} faster{beyond}"
    if slower < 0.005:
        return f"as fast within 0.5 %, {option.memory.total / GIB:.3g} GiB a device{beyond}"
    return f"{slower:.0%} slower: {name} {option.time.why.get(name, '')}"


def _kind(layout: Layout) -> str:
    """The kind of a layout: the dimensions that it divides."""
    words = [f"zero{layout.zero}"] if layout.zero else []
    words += [k for k in ("tensor", "pipeline", "context") if getattr(layout, k) > 1]
    return ",".join(words) or "ddp"


def _seconds(option: Option) -> tuple[float, float]:
    return (option.time.seconds or float("inf"), option.memory.total)


def _bytes(option: Option) -> float:
    return option.memory.total


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
