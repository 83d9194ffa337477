"""Devices that models are served on: phones, boards, laptops and GPUs, by what they read and hold.

A token of one sequence reads every weight once, so that bandwidth over bytes bounds its speed. Bandwidths
are the vendor's peaks (rate of the memory times width of its bus); what llama.cpp and gpt-fast reach of them
is a share by class, from the published runs in `MEASURED`. What no vendor publishes is said to be assumed.
"""

from dataclasses import dataclass

from maquette.base.errors import WrongUse, did_you_mean
from maquette.scaling.devices import DEVICES, GIGA, Device, device

GIB = 2**30


@dataclass(frozen=True)
class DeviceClass:
    """What devices of a class have in common.

    share: of the peak bandwidth that decoding reaches. usable: of the memory that one model may take.
    """

    share: float
    usable: float
    share_source: str
    usable_source: str


CLASSES = {
    "phone": DeviceClass(
        0.3, 0.6,
        "llama.cpp on a Pixel 5 (0.22) and a Pixel 6 (0.37)",
        "assumed: the system and other apps keep the rest",
    ),
    "board": DeviceClass(0.6, 0.8, "assumed: as a computer's", "assumed: the system keeps the rest"),
    "computer": DeviceClass(
        0.6, 0.8,
        "llama.cpp on a Core i9-13900K (0.68), on this project's machine (0.47 to 0.78)",
        "assumed: the system keeps the rest",
    ),
    "mac": DeviceClass(
        0.65, 0.75,
        "llama.cpp on the GPU of an M2 Pro (0.66 in 4 bits, 0.73 in 16)",
        "what Metal recommends for the GPU, about three quarters",
    ),
    "gpu": DeviceClass(
        0.55, 1.0,
        "gpt-fast on an A100 (0.69 in 16 bits, 0.52 in 8, 0.40 in 4)",
        "the device's own memory, less what the driver keeps",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ServingDevice:
    """A device that serves.

    bandwidth: bytes a second of its memory, the vendor's peak, or measured. memory: bytes. kind: its class.
    source: where both numbers stand.
    """

    name: str
    title: str
    kind: str
    bandwidth: float
    memory: float
    source: str

    @property
    def share(self) -> float:
        """The part of the bandwidth that decoding reaches."""
        return CLASSES[self.kind].share

    @property
    def usable(self) -> float:
        """Bytes that a model may take."""
        return self.memory * CLASSES[self.kind].usable


def _entry(
    name: str, title: str, kind: str, bandwidth: float, memory: float, source: str
) -> ServingDevice:
    """Bandwidth in GB/s, memory in GiB."""
    return ServingDevice(name, title, kind, bandwidth * GIGA, memory * GIB, source)


TABLE = {
    entry.name: entry
    for entry in (
        _entry("pixel-5", "Google Pixel 5", "phone", 17.1, 8,
               "Snapdragon 765G: LPDDR4X at 2,133 MHz on two 16-bit channels (Qualcomm); 8 GB"),
        _entry("pixel-6", "Google Pixel 6", "phone", 51.2, 8,
               "Tensor: LPDDR5-6400 on four 16-bit channels (AnandTech, November 2021); 8 GB"),
        _entry("pixel-8", "Google Pixel 8", "phone", 51.2, 8,
               "Tensor G3: LPDDR5X on four 16-bit channels, its rate unpublished, 6,400 MT/s assumed; 8 GB"),
        _entry("iphone-15-pro", "Apple iPhone 15 Pro", "phone", 51.2, 8,
               "A17 Pro: LPDDR5-6400 on 64 bits, 8 GB (teardowns; Apple publishes neither)"),
        _entry("pi-4", "Raspberry Pi 4", "board", 12.8, 8,
               "LPDDR4-3200 on 32 bits (Raspberry Pi's product brief); the 8 GB board"),
        _entry("pi-5", "Raspberry Pi 5", "board", 17.1, 8,
               "LPDDR4X-4267 on 32 bits (Raspberry Pi's product brief); the 8 GB board"),
        _entry("laptop", "laptop with DDR5", "computer", 89.6, 16,
               "two channels of DDR5-5600, 64 bits each; 16 GB"),
        _entry("i9-13900k", "desktop, Core i9-13900K", "computer", 102.4, 64,
               "two channels of DDR5-6400, 64 bits each, as in llama.cpp's issue 34; 64 GB assumed"),
        _entry("m2", "MacBook Air, M2", "mac", 100, 16, "Apple's newsroom, June 2022; 16 GB"),
        _entry("m2-pro", "Mac mini, M2 Pro", "mac", 200, 32, "Apple's newsroom, January 2023; 32 GB"),
        _entry("m1-max", "MacBook Pro, M1 Max", "mac", 400, 64, "Apple's newsroom, October 2021; 64 GB"),
    )
}  # fmt: skip
MEASURED = (
    # device, architecture, bits, tokens a second, source
    ("pixel-5", "llama-7b", "Q4_0", 1.0, "reported of llama.cpp in March 2023: about 1"),
    ("pixel-6", "llama-7b", "Q4_0", 5.0, "reported of llama.cpp in March 2023"),
    ("i9-13900k", "llama-7b", "Q4_0", 18.3, "ggml-org/llama.cpp, issue 34, 8 threads"),
    ("m2-pro", "llama-7b", "Q4_0", 34.6, "XiongjieDai/GPU-Benchmarks-on-LLM-Inference, issue 1"),
    ("m2-pro", "llama-7b", "F16", 10.8, "XiongjieDai/GPU-Benchmarks-on-LLM-Inference, issue 1"),
    ("A100", "llama-7b", "F16", 104.9, "gpt-fast's README, Llama 2 7B"),
    ("A100", "llama-7b", "Q8_0", 155.6, "gpt-fast's README, Llama 2 7B, int8"),
    ("A100", "llama-7b", "Q4_0", 196.8, "gpt-fast's README, Llama 2 7B, int4 in groups of 32"),
)
"""published speeds of one sequence, which forecasts are held against"""


def serving_device(name: str) -> ServingDevice:
    """A device by name, of this table or of the planner's accelerators. Raises WrongUse for another."""
    known = {entry.lower(): entry for entry in (*TABLE, *DEVICES)}
    if name.lower() not in known:
        raise WrongUse(
            f"unknown device {name}{did_you_mean(name, known)} (--device list shows all)"
        )
    own = known[name.lower()]
    return TABLE[own] if own in TABLE else accelerator(device(own))


def accelerator(known: Device) -> ServingDevice:
    """A device of the planner, or this machine as it was measured. Raises WrongUse without its numbers."""
    if known.bandwidth is None or known.memory is None:
        raise WrongUse(f"bandwidth or memory of {known.name} is unknown: name another device")
    source, memory = known.sources["bandwidth"], known.sources["memory"]
    source = memory if memory.startswith(source) else f"{source}; memory: {memory}"
    kind = "gpu" if known.kind == "cuda" else "computer"
    return ServingDevice(known.name, known.name, kind, known.bandwidth, known.memory, source)
