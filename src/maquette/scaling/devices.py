"""Devices and their limits: makers' data sheets for those that are not at hand, `here()` for this one.

Dense products without sparsity, a multiplication and an addition counted as two; bf16 with fp32
accumulation. A number that no source gives is None, which means unknown: an estimate that needs it
says so. A device that is not here is refused, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from maquette.base.errors import WrongUse, did_you_mean
from maquette.base.machine import Machine, kept
from maquette.base.probes import Rates

TERA, GIGA, GIB = 1e12, 1e9, 2**30
USABLE = 0.98  # of a GPU's memory: the driver keeps the rest
ECC = 15 / 16  # of it where error correction has no memory of its own (GDDR of servers' cards)
ATTAINED = 0.65
FITTED = {"A100-40": 0.75, "A100": 0.75, "H100": 0.56, "H200": 0.56}
"""fraction of the peak that products reach: fitted to published runs (benchmarks/plan.py --published); for
devices without such runs ATTAINED, between the two"""


@dataclass(frozen=True)
class Device:
    """A device and its limits.

    flops: operations a second by precision, "bf16", "fp32" and "tf32". bandwidth: bytes a second
    to its memory. memory: bytes. link: bytes a second that it sends to the others of its node.
    network: bytes a second, its share of what the node sends to other nodes. per_node: devices of
    a node. rates: measured speeds of a step's parts, for the device at hand. kind: "cpu" or "cuda",
    which stands for any accelerator. attained: what products reach of the peak where `rates` do
    not tell. Every number has its source in `sources`.
    """

    name: str
    flops: Mapping[str, float | None]
    bandwidth: float | None
    memory: float | None
    link: float | None = None
    network: float | None = None
    per_node: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    rates: Rates | None = None
    kind: str = "cuda"
    attained: float = ATTAINED

    def peak(self, precision: str) -> float | None:
        """Operations a second of products: fp32 ones use tf32 where the device has it."""
        if precision == "fp32" and self.flops.get("tf32") is not None:
            return self.flops["tf32"]
        return self.flops.get(precision)


def _entry(
    name: str,
    bf16: float | None,
    fp32: float | None,
    bandwidth: float | None,
    memory: float,
    source: str,
    *,
    tf32: float | None = None,
    link: float | None = None,
    network: float | None = None,
    per_node: int | None = None,
    link_source: str = "",
    network_source: str = "",
    node_source: str = "",
    unit: float = USABLE * GIB,
) -> Device:
    """Speeds in TFLOP/s and GB/s, memory in GB, as data sheets give them.

    unit: bytes in one GB of memory. Of GPUs it is a GiB: an "80 GB" H100 reports 79.6 GiB.
    """

    def times(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit

    names = ("flops", "bandwidth", "memory")
    sources = dict.fromkeys(names, source)
    sources["link"] = link_source or (source if link is not None else "not published")
    sources["network"] = network_source or "not published: it is the cluster's, not the device's"
    if unit != GIGA:
        taken = "the driver keeps" if unit == USABLE * GIB else "driver and error correction keep"
        sources["memory"] = f"{source}; in GiB, less what {taken}"
    sources["per_node"] = node_source or link_source or source
    return Device(
        name,
        {"bf16": times(bf16, TERA), "fp32": times(fp32, TERA), "tf32": times(tf32, TERA)},
        times(bandwidth, GIGA),
        memory * unit,
        times(link, GIGA),
        times(network, GIGA),
        per_node,
        sources,
        attained=FITTED.get(name, ATTAINED),
    )


DGX = "one InfiniBand adapter a device, as in NVIDIA's {} system"
PCIE = "PCI Express 4.0 x16, 32 GB/s each way; no NVLink"
EIGHT = "assumed: servers of them usually hold eight"
TPU = "Jouppi et al. 2023, table 4"
CLOUD = "Google Cloud's TPU documentation"

ALL = [
    # No bf16: the half precision of its tensor cores is fp16.
    _entry("V100", 125, 15.7, 900, 32, "NVIDIA V100 data sheet, SXM2 32 GB (fp16 for bf16)",
           link=150, network=6.25, per_node=8, link_source="six NVLink 2, 25 GB/s each way",
           network_source="four 100 Gb/s adapters for eight devices, as in NVIDIA's DGX-1"),
    _entry("A100-40", 312, 19.5, 1555, 40, "NVIDIA A100 data sheet, SXM4 40 GB", tf32=156,
           link=300, network=25, per_node=8, network_source=DGX.format("DGX A100 (200 Gb/s)")),
    _entry("A100", 312, 19.5, 2039, 80, "NVIDIA A100 data sheet, SXM4 80 GB", tf32=156,
           link=300, network=25, per_node=8, network_source=DGX.format("DGX A100 (200 Gb/s)")),
    _entry("H100", 989, 67, 3350, 80, "NVIDIA H100 data sheet, SXM5", tf32=494.5,
           link=450, network=50, per_node=8, network_source=DGX.format("DGX H100 (400 Gb/s)")),
    _entry("H200", 989, 67, 4800, 141, "NVIDIA H200 data sheet, SXM", tf32=494.5,
           link=450, network=50, per_node=8, network_source=DGX.format("DGX H200 (400 Gb/s)")),
    _entry("B200", 2250, 75, 8000, 180, "NVIDIA DGX B200 data sheet", tf32=1125,
           link=900, network=50, per_node=8, network_source=DGX.format("DGX B200 (400 Gb/s)")),
    _entry("L4", 121, 30.3, 300, 24, "NVIDIA L4 data sheet, halved for sparsity", tf32=60,
           link=32, link_source=PCIE,
           per_node=8, node_source=EIGHT, unit=ECC * USABLE * GIB),
    _entry("L40S", 362, 91.6, 864, 48, "NVIDIA L40S data sheet, without sparsity", tf32=183,
           link=32, link_source=PCIE,
           per_node=8, node_source=EIGHT, unit=ECC * USABLE * GIB),
    _entry("A10G", 70, 35, 600, 24, "AWS and NVIDIA, A10G data sheet", tf32=35,
           link=32, link_source=PCIE,
           per_node=8, node_source=EIGHT, unit=ECC * USABLE * GIB),
    _entry("T4", 65, 8.1, 300, 16, "NVIDIA T4 data sheet (fp16 for bf16)",
           link=16, link_source="PCI Express 3.0 x16, 16 GB/s each way",
           per_node=8, node_source=EIGHT, unit=ECC * USABLE * GIB),
    _entry("RTX3090", 71, 35.6, 936, 24, "NVIDIA GA102 white paper, fp32 accumulation", tf32=35.6,
           link=32, link_source=PCIE,
           per_node=8, node_source=EIGHT),
    _entry("RTX4090", 165, 82.6, 1008, 24, "NVIDIA Ada white paper, fp32 accumulation", tf32=82.6,
           link=32, link_source=PCIE,
           per_node=8, node_source=EIGHT),
    _entry("RTX5090", 209.5, 104.8, 1792, 32, "NVIDIA RTX Blackwell white paper, fp32 accumulation",
           tf32=104.8, link=64, link_source="PCI Express 5.0 x16, 64 GB/s each way",
           per_node=8, node_source=EIGHT),
    _entry("MI250X", 383, 95.7, 3277, 128, "AMD MI250X data sheet, both dies",
           link=350, network=25, per_node=4, link_source="AMD: seven links, 50 GB/s each way",
           network_source="200 Gb/s a device, as in the Frontier system"),
    _entry("MI300X", 1307, 163.4, 5300, 192, "AMD MI300X data sheet",
           link=448, per_node=8, link_source="AMD: seven links, 64 GB/s each way"),
    _entry("TPUv3", 123, None, 900, 32, TPU, unit=GIGA, link=280, per_node=1024,
           link_source=f"{TPU}: four links of 70 GB/s; a node is a pod"),
    _entry("TPUv4", 275, None, 1200, 32, TPU, unit=GIGA, link=300, per_node=4096,
           link_source=f"{TPU}: six links of 50 GB/s; a node is a pod"),
    _entry("TPUv5e", 197, None, 819, 16, CLOUD, unit=GIGA, link=200, per_node=256,
           link_source=f"{CLOUD}: 1,600 Gb/s a chip; a node is a pod"),
    _entry("TPUv5p", 459, None, 2765, 95, CLOUD, unit=GIGA, link=600, per_node=8960,
           link_source=f"{CLOUD}: 4,800 Gb/s a chip; a node is a pod"),
]  # fmt: skip
DEVICES = {entry.name: entry for entry in ALL}


def device(name: str) -> Device:
    """A device of the table by name, in any case. Raises WrongUse for an unknown device."""
    known = {entry.lower(): entry for entry in DEVICES}
    if name.lower() not in known:
        raise WrongUse(f"unknown device {name}{did_you_mean(name, DEVICES)}")
    return DEVICES[known[name.lower()]]


def here() -> Device | None:
    """This machine as measured in the last day, without importing torch; None: not measured."""
    machine = kept()
    return None if machine is None else from_machine(machine)


def from_machine(machine: Machine) -> Device:
    """A measured machine as a device; how fast it reaches others was not measured."""
    how = "measured on this machine (maquette doctor)"
    memory = machine.memory if machine.device == "cpu" else machine.device_memory
    sources = dict.fromkeys(("flops", "bandwidth"), how)
    sources |= {
        "memory": "of this machine" if machine.device == "cpu" else "of this GPU",
        "link": "not measured",
        "network": "not measured",
        "per_node": "this machine alone",
    }
    return Device(
        machine.processor,
        {"bf16": machine.bf16_flops, "fp32": machine.fp32_flops},
        machine.bandwidth,
        None if memory is None else float(memory),
        sources=sources,
        per_node=1,
        rates=machine.rates,
        kind=machine.device,
    )
