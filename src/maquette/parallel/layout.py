"""Layouts: how a run is spread over processes.

    ddp    every rank holds the whole model and computes its share of the batch

`ddp` is `group.py`. `zero1`, `tensor`, `pipeline` ... and their products stand beside it when they
come, each a name here.
"""

from maquette.base.errors import WrongUse, did_you_mean

LAYOUTS = ("ddp",)
COMING = ("zero1", "zero2", "zero3", "tensor", "pipeline", "context")


def check_layout(layout: str) -> None:
    """Raise WrongUse for a layout that this version cannot run."""
    names = [part.partition(":")[0] for part in layout.split(",")]
    for name in names:
        if name in COMING:
            raise WrongUse(f"layout {layout} is not built yet: use ddp")
        if name not in LAYOUTS:
            raise WrongUse(f"unknown layout {name}{did_you_mean(name, LAYOUTS + COMING)}")
