"""What stands under a name "module.name", imported when it is asked for."""

import importlib
from typing import Any


def named(what: Any) -> Any:
    """What "module.name" names; anything but a string is given back as it is."""
    if not isinstance(what, str):
        return what
    module, name = what.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)
