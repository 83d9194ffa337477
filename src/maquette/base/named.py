"""What stands under a name "module.name", imported when it is asked for."""

import importlib
from typing import Any


def named(target: Any) -> Any:
    """What "module.name" names; anything but a string is given back as it is."""
    if not isinstance(target, str):
        return target
    module, name = target.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)
