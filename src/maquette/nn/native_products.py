"""Products of a few rows with weights in 16, 8 or 4 bits, by the kernels of `products.cpp`.

For products without a gradient alone; where `serves` says no, callers go on with torch.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from maquette.nn import native

SOURCE = Path(__file__).with_name("products.cpp")
ROWS_OF_BF16, ROWS = 2, 24
"""numbers of rows up to which the kernels are faster than torch's product of weights in bf16 (docs/log.md)"""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built kernels; None where no compiler can build them."""
    return native.build(SOURCE)


def serves(x: Tensor, rows: int = ROWS) -> bool:
    """Whether the kernels take these (..., columns): at most `rows`, on a processor, without a gradient."""
    return (
        x.device.type == "cpu"
        and x.numel() <= rows * x.shape[-1]
        and x.dtype in native.TYPES
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T; x: (..., columns), weight: (outputs, columns) in bf16."""
    x, outputs = x.contiguous(), len(weight)
    y = x.new_empty(*x.shape[:-1], outputs)
    sizes = x.numel() // x.shape[-1], x.shape[-1], outputs
    _call("product_16", x.dtype, sizes, x, weight.contiguous(), y)
    return y


def packed_product(x: Tensor, packed: Tensor, kind: str, group: int, outputs: int) -> Tensor:
    """x W^T; packed: see `quantised.Format`, of the kind ("4", "4a", "8", "8a")."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], outputs)
    sizes = x.numel() // x.shape[-1], x.shape[-1], group, outputs
    _call(f"product_{kind}", x.dtype, sizes, x, packed, y)
    return y


def unpacked(
    packed: Tensor, kind: str, group: int, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """The weights (outputs, columns) as numbers again."""
    weight = torch.empty(shape, dtype=dtype)
    _call(f"unpack_{kind}", dtype, (shape[1], group, shape[0]), packed, weight)
    return weight


def _call(name: str, dtype: torch.dtype, sizes: tuple[int, ...], *tensors: Tensor) -> None:
    function = _functions()[f"{name}_{native.TYPES[dtype]}"]
    function(*sizes, *[t.data_ptr() for t in tensors], torch.get_num_threads())


@functools.cache
def _functions() -> dict[str, "ctypes._NamedFuncPointer"]:
    """The kernels by name, with the types of their arguments."""
    kernels = library()
    assert kernels is not None, "the kernels are not built"
    size, address, result = ctypes.c_int64, ctypes.c_void_p, {}
    for dtype in native.TYPES.values():
        for kind in ("4", "4a", "8", "8a"):
            result[f"product_{kind}_{dtype}"] = [size] * 4 + [address] * 3 + [ctypes.c_int]
            result[f"unpack_{kind}_{dtype}"] = [size] * 3 + [address] * 2 + [ctypes.c_int]
        result[f"product_16_{dtype}"] = [size] * 3 + [address] * 3 + [ctypes.c_int]
    functions = {}
    for name, arguments in result.items():
        functions[name] = function = getattr(kernels, name)
        function.argtypes, function.restype = arguments, None
    return functions
