"""Pointwise code as one compiled kernel, switched on for a run or off.

`@fused` marks a function of tensors, never differentiated, that is worth one pass over memory
instead of many. With `compilation(True)` it runs through `torch.compile`; otherwise, and inside a
larger compiled region, it is the plain function. One symbolic compilation serves every shape.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")

_on = False
_INPLACE = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


@contextlib.contextmanager
def compilation(on: bool) -> Iterator[None]:
    """Context in which functions marked `@fused` are compiled."""
    global _on
    before, _on = _on, on
    from torch.fx.experimental import _config as symbolic

    # Without this, two dimensions that happen to be equal at the first call (a square tile) are
    # taken for one, and the next shape compiles again.
    duck, symbolic.use_duck_shape = symbolic.use_duck_shape, not on
    try:
        yield
    finally:
        _on, symbolic.use_duck_shape = before, duck


def compiling() -> bool:
    """Whether compiled kernels are switched on."""
    return _on


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Mark `function` as worth compiling to one kernel."""
    compiled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        if not _on or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True)
        # Below autograd, always: otherwise the same kernel compiles once for calls from inside an
        # autograd function and once for calls from compiled code, whose dispatch keys differ.
        with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(_INPLACE):
            return cast(R, compiled(*args, **kwargs))

    return call
