"""This machine: what it has, and how fast it really multiplies and reads.

Every speed in Maquette is reported as a fraction of what is measured here, never of a data
sheet. The probe takes about two seconds. Its answer is kept (`~/.cache/maquette/machine.json`) for a
day, and the best of all answers for the same processor, threads and torch counts: a probe that ran
beside something else must not make everything after it look faster than it is.
"""

import contextlib
import ctypes
import functools
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base import probes
from maquette.base.errors import UserError
from maquette.base.files import home, lock, read_json, write_json
from maquette.base.probes import Rates, fastest

if TYPE_CHECKING:
    import torch

PROBE_SECONDS = 0.15  # for each of the three peaks
KEPT_SECONDS = 24 * 3600
LOCK = ".machine.lock"  # held while machine.json is read and written
PEAKS = ("fp32_flops", "bf16_flops", "bandwidth")
MEMINFO = Path("/proc/meminfo")  # of Linux
BF16_PAYS = 1.3  # bf16 is chosen when its matrix products are this much faster than fp32


@dataclass(frozen=True)
class Machine:
    """One device and its measured limits.

    device: "cpu" or "cuda". fp32_flops, bf16_flops: matrix-product operations a second (a
    multiplication and an addition count as two). bandwidth: bytes read a second from memory.
    memory: bytes of main memory. rates: the speeds of a step's parts, None where they were not
    asked for. device_memory: bytes of a GPU's own memory, None on a processor.
    """

    device: str
    processor: str
    cores: int
    threads: int
    memory: int
    torch: str
    fp32_flops: float
    bf16_flops: float
    bandwidth: float
    rates: Rates | None = None
    device_memory: int | None = None

    @property
    def bf16(self) -> bool:
        """Whether training in bf16 pays here."""
        return self.bf16_flops >= BF16_PAYS * self.fp32_flops

    @property
    def precision(self) -> str:
        """The faster of the two: "bf16" or "fp32"."""
        return "bf16" if self.bf16 else "fp32"

    def peak(self, precision: str) -> float:
        """The measured matrix-product peak in that precision."""
        return self.bf16_flops if precision == "bf16" else self.fp32_flops


def cores() -> int:
    """Processor cores that this process may use (affinity and the container's quota counted)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            allowed = min(allowed or 1, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return allowed or 1


def memory() -> int:
    """Bytes of main memory that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def available() -> int:
    """Bytes of main memory that this process may still take, other processes' counted."""
    own = max(0, memory() - resident())
    try:
        lines = MEMINFO.read_text(encoding="utf-8").splitlines()
        (said,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return min(own, int(said) * 1024)
    except (OSError, ValueError):
        return own


def resident() -> int:
    """Bytes of memory this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """The processor's own name, with the family and model where the name is bare."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']} model {fields['model']})"
    return name


def keep_freed_memory() -> None:
    """Let glibc keep the large blocks that a training step frees, instead of returning them.

    By default every activation over 128 KiB is mapped afresh and each of its pages faults again,
    at every step. No effect where the C library has no `mallopt`.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def pick_device(wanted: str = "auto") -> str:
    """ "cuda" or "cpu": the GPU where torch can use one, unless "cpu" is wanted.

    Raises UserError when a GPU is wanted and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("there is no GPU that torch can use: drop --device cuda")
    return "cuda" if there and wanted != "cpu" else "cpu"


@functools.lru_cache(maxsize=4)
def measure(wanted: str = "auto", refresh: bool = False) -> Machine:
    """Measure this machine, or return what was measured before on the same one.

    wanted: "auto", "cpu" or "cuda", see `pick_device`.
    """
    import torch

    device = pick_device(wanted)
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    known = {
        "device": device,
        "processor": name,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": memory(),
        "torch": torch.__version__,
    }
    path = home() / "machine.json"
    identity = _identity(known)
    everything = _entries(path) if path.exists() else {}
    entry = everything.get(identity, {})
    entry = entry if isinstance(entry, dict) else {}
    rates = probes.rates_from(entry.get("rates"))
    if refresh or rates is None or not _fresh(entry):
        speeds = {
            "fp32_flops": product_speed(torch.float32, device),
            "bf16_flops": product_speed(torch.bfloat16, device),
            "bandwidth": read_speed(device),
        }
        best: dict[str, Any] = {n: max(value, entry.get(n) or 0.0) for n, value in speeds.items()}
        if device == "cuda":
            best["device_memory"] = torch.cuda.get_device_properties(device).total_memory
        rates = probes.better(probes.probe(device), rates)
        entry = known | best | {"rates": rates.plain(), "when": time.time()}
        # A read-only home costs two seconds at every start.
        with contextlib.suppress(OSError), lock(path.with_name(LOCK)):
            everything = _entries(path) if path.exists() else {}
            if isinstance(other := everything.get(identity), dict):  # another process measured too
                entry |= {n: max(best[n], other.get(n) or 0.0) for n in speeds}
            write_json(path, everything | {identity: entry})
    return _machine(entry | known, rates)


def measure_peak_again(machine: Machine, precision: str) -> Machine:
    """The machine, its peak in that precision measured anew: the best of then and now, and kept.

    For when something computed faster than the probe, beside which something else was running.
    """
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    name, speed = f"{precision}_flops", product_speed(dtype, machine.device)
    peak = max(machine.peak(precision), speed)
    better = (
        replace(machine, bf16_flops=peak)
        if precision == "bf16"
        else replace(machine, fp32_flops=peak)
    )
    path, identity = home() / "machine.json", _identity(vars(machine))
    with contextlib.suppress(OSError), lock(path.with_name(LOCK)):
        everything = _entries(path) if path.exists() else {}
        if isinstance(entry := everything.get(identity), dict):
            best = max(peak, entry.get(name) or 0.0)
            write_json(path, everything | {identity: entry | {name: best}})
    measure.cache_clear()
    return better


def _identity(known: Mapping[str, Any]) -> str:
    """Identity of the machine as it is used, under which measurements are kept."""
    names = ("device", "processor", "cores", "threads", "memory", "torch")
    return "; ".join(str(known[name]) for name in names)


def kept() -> Machine | None:
    """The kept measurement of this machine with this torch, without importing torch.

    A GPU before the processor, as `measure()` chooses, then the most threads (a worker of a pool
    measures its share), then the newest. None when there is none younger than a day.
    """
    path = home() / "machine.json"
    try:
        torch_version = version("torch")
        everything = _entries(path)
    except (PackageNotFoundError, OSError, ValueError):
        return None
    here = {"cores": cores(), "memory": memory(), "torch": torch_version}
    name = processor()
    ranked: list[tuple[bool, int, float, Machine]] = []
    for entry in everything.values():
        if not isinstance(entry, dict) or any(entry.get(k) != v for k, v in here.items()):
            continue  # of another machine, or written before its identity was kept beside it
        if any(name not in entry for name in ("device", "processor", "threads")):
            continue
        if entry["device"] == "cpu" and entry["processor"] != name:
            continue
        rates = probes.rates_from(entry.get("rates"))
        if rates is not None and _fresh(entry):
            rank = (entry["device"] == "cuda", entry["threads"], entry["when"])
            ranked.append((*rank, _machine(entry, rates)))
    return max(ranked, key=lambda entry_rank: entry_rank[:3])[3] if ranked else None


def _entries(path: Path) -> dict[str, Any]:
    """The measurements of a file; none where it holds something else."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _fresh(entry: dict[str, Any]) -> bool:
    """Whether an entry is whole and of the last day. Old ones of a GPU lack its memory."""
    numbers = [*PEAKS, "when"] + ["device_memory"] * (entry.get("device") == "cuda")
    whole = all(isinstance(entry.get(name), int | float) for name in numbers)
    return whole and time.time() - entry["when"] < KEPT_SECONDS


def _machine(entry: dict[str, Any], rates: Rates) -> Machine:
    names = [f.name for f in fields(Machine) if f.name not in ("rates", "device_memory")]
    known = {name: entry[name] for name in names}
    return Machine(**known, rates=rates, device_memory=entry.get("device_memory"))


def product_speed(dtype: "torch.dtype", device: str) -> float:
    """Operations a second of a large matrix product."""
    import torch

    best = 0.0
    for n in (768, 1536) if device == "cpu" else (4096, 8192):
        a = torch.randn(n, n, device=device).to(dtype)
        b = torch.randn(n, n, device=device).to(dtype)
        seconds = fastest(lambda a=a, b=b: a @ b.T, device, PROBE_SECONDS / 2)  # type: ignore[misc]
        best = max(best, 2 * n**3 / seconds)
    return best


def read_speed(device: str) -> float:
    """Bytes a second read from memory."""
    import torch

    numbers = torch.ones(1 << (26 if device == "cpu" else 28), device=device)
    return numbers.numel() * 4 / fastest(numbers.sum, device, PROBE_SECONDS)
