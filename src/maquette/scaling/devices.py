"""Matrix-product peaks of devices that are not at hand, from their makers' data sheets.

Dense bf16 with fp32 accumulation, operations a second (a multiplication and an addition are two).
A device that is not here is unknown, and said to be.
"""

from maquette.base.errors import WrongUse, did_you_mean

# name: (operations a second, bytes of memory)
DEVICES = {
    "V100": (125e12, 32e9),  # NVIDIA V100 data sheet (fp16)
    "A100": (312e12, 80e9),  # NVIDIA A100 80GB data sheet
    "H100": (989e12, 80e9),  # NVIDIA H100 SXM data sheet, without sparsity
    "H200": (989e12, 141e9),  # NVIDIA H200 data sheet, without sparsity
    "L40S": (362e12, 48e9),  # NVIDIA L40S data sheet, without sparsity
    "RTX4090": (165e12, 24e9),  # NVIDIA Ada white paper, fp32 accumulation, without sparsity
    "MI300X": (1307e12, 192e9),  # AMD MI300X data sheet
    "TPUv4": (275e12, 32e9),  # Jouppi et al. 2023, table 4
}


def peak(device: str) -> float:
    """Operations a second of a device by name. Raises WrongUse for one that is not known."""
    known = {name.lower(): flops for name, (flops, _) in DEVICES.items()}
    if device.lower() not in known:
        raise WrongUse(f"unknown device {device}{did_you_mean(device, DEVICES)}")
    return known[device.lower()]
