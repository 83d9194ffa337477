"""Objects by name, "module.name", imported at first use."""

import importlib
from typing import Any


def named(target: Any) -> Any:
    """The object of a name "module.name"; anything but a string is returned unchanged."""
    if not isinstance(target, str):
        return target
    module, name = target.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)
