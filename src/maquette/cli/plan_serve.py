"""Memory and tokens a second of serving a run or a published architecture on a device."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.models.config import DecoderConfig
    from maquette.scaling.serving_devices import ServingDevice

SMALL = (
    100e6  # bytes in 16 bits that stay in a cache, or take less time than what stands around them
)
WIDTHS = (4, 6, 7, 8, 8, 8, 8, 8, 12)  # columns of the table


def served(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Show a model in 16 to 4 bits on a device, at an eighth of its context and at all of it."""
    from maquette.scaling.serving_cost import BITS, contexts_of, serve
    from maquette.scaling.serving_devices import CLASSES

    if arguments.device == "list":
        return listed(terminal)
    device = _device(arguments.device)
    config, name = _model(arguments.serve)
    contexts = [arguments.context] if arguments.context else contexts_of(config)
    kind = CLASSES[device.kind]
    terminal.say(f"{name}: {config.parameters():,} parameters, one sequence on {device.title}")
    terminal.say(
        f"  bandwidth {amount(device.bandwidth, 'B/s')}, memory {device.memory / 2**30:.3g} GiB: "
        f"{device.source}"
    )
    terminal.say(f"  {kind.share:g} of that bandwidth is reached: {kind.share_source}")
    terminal.say(f"  {kind.usable:g} of that memory is for the model: {kind.usable_source}")
    rows = [serve(config, device, bits, context) for bits in BITS for context in contexts]
    head = ("type", "bits", "context", "weights", "cache", "in all", "tokens/s", "at most", "")
    lines = [head] + [
        (
            row.bits, f"{BITS[row.bits]:.4g}", f"{row.context:,}", amount(row.weights, "B"),
            amount(row.cache, "B"), amount(row.memory, "B"),
            f"{row.speed:.3g}" if row.fits else "-", f"{row.peak:.3g}" if row.fits else "-",
            "fits" if row.fits else "does not fit",
        )
        for row in rows
    ]  # fmt: skip
    for line in lines:
        words = [f"{word:>{n}}" for word, n in zip(line, WIDTHS, strict=True)]
        terminal.say(("  " + "  ".join(words)).rstrip())
    if rows[0].read < SMALL:
        terminal.say(
            "  note: so small a model is bound by its operations, not by memory: read these as bounds"
        )
    return {
        "model": name,
        "parameters": config.parameters(),
        "device": asdict(device) | {"share": device.share, "usable": device.usable},
        "rows": [asdict(row) | {"memory": row.memory} for row in rows],
    }


def listed(terminal: Terminal) -> dict[str, Any]:
    """Show the devices with their sources."""
    from maquette.scaling.devices import DEVICES
    from maquette.scaling.serving_devices import TABLE, accelerator

    devices = [*TABLE.values(), *map(accelerator, DEVICES.values())]
    for device in devices:
        numbers = f"{amount(device.bandwidth, 'B/s'):>9} {device.memory / 2**30:5.3g} GiB"
        terminal.say(f"  {device.name:<14} {numbers}  {device.source}")
    terminal.say("  this           this machine, as maquette doctor measures it")
    return {"devices": [asdict(device) for device in devices]}


def _device(name: str | None) -> "ServingDevice":
    from maquette.scaling.serving_devices import accelerator, serving_device
    from maquette.workshop.planning import device_named

    if name is None or name == "this":
        return accelerator(device_named(None))
    return serving_device(name)


def _model(name: str) -> "tuple[DecoderConfig, str]":
    """The decoder of a run, or a published architecture."""
    from maquette.base.errors import UserError
    from maquette.models.config import DecoderConfig
    from maquette.models.published import published
    from maquette.models.store import CONFIG, load_config

    path = Path(name).expanduser()
    if not (path / CONFIG).exists():
        return published(name).config, name
    config = load_config(path)
    if not isinstance(config, DecoderConfig):
        raise UserError(f"{name} is a {config.kind}: only a decoder's serving is planned")
    return config, name
