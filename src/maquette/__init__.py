"""Maquette: a workshop for foundation models, and a working scale model of every system of 2018-2023.

The Python face mirrors the command line and imports nothing heavy until it is used:

    import maquette

    run = maquette.train("tiny", run="runs/first")
    run.generate("def ", tokens=40)
    maquette.load("runs/first").model(tokens)  # logits (batch, time, vocabulary)
    maquette.plan(flops=1e19).parameters
    maquette.reproduce("gpt2")
"""

from typing import TYPE_CHECKING, Any

from maquette.base.version import __version__

if TYPE_CHECKING:
    from maquette.face import load, plan, reproduce, train

__all__ = ["__version__", "load", "plan", "reproduce", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import maquette.face

        return getattr(maquette.face, name)
    raise AttributeError(f"module 'maquette' has no attribute '{name}'")
