"""The row kernels of `kernels.cpp`, built by the user's own compiler when a run first uses them, and called.

Softmax, norms, activations, rotary embeddings, biases and cross-entropy: what stands between the matrix
products of a step. torch's compiler turns each into several passes with positions in 64 bits; these are
one pass each (docs/log.md has the times). They compute in fp32 and read and write fp32 or bf16. The build
takes two seconds and is kept in Maquette's home; without a compiler, or where it fails, `library` is None
and callers go on with torch alone. `native_operators.py` has those with a gradient of their own,
`native_rows.py` those that work in place. The products of `products.cpp` are built in the same way, for
`native_products.py`.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from maquette.base.files import home

SOURCE = Path(__file__).with_name("kernels.cpp")
HEADER = Path(__file__).with_name("bfloat16.h")
FLAGS = "-std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -shared -fPIC"
WIDE = "-mprefer-vector-width=512"  # known to compilers for x86 alone
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_on = False


@contextlib.contextmanager
def kernels(on: bool) -> Iterator[None]:
    """Use the kernels where they can be while this is open."""
    global _on  # noqa: PLW0603
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


def compiler() -> str | None:
    """The C++ compiler that compilation would call."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def usable(x: Tensor) -> bool:
    """Whether the kernels serve this tensor now: on a processor, in a run with kernels enabled."""
    return _on and x.device.type == "cpu" and x.dtype in TYPES and available()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether the kernels are built, or can be."""
    return library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built row kernels; see `build`."""
    return build(SOURCE)


def build(source: Path) -> ctypes.CDLL | None:
    """The built kernels of a file; None where no compiler can build them, of which a warning tells."""
    path = compiler()
    if path is None:
        return None
    version = subprocess.run(
        [path, "--version"], capture_output=True, encoding="utf-8", check=False
    ).stdout
    texts = [file.read_text(encoding="utf-8") for file in (source, HEADER)]
    identity = [*texts, FLAGS, WIDE, version, _processor()]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
    built = home() / "compiled" / f"{source.stem}-{key}.so"
    if not built.exists():
        try:
            error = _build(path, source, built)
        except OSError as fault:  # a home that is full or cannot be written
            error = str(fault)
        if error:
            warnings.warn(
                f"{path} does not build the kernels, going on without: {error}", stacklevel=2
            )
            return None
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        warnings.warn(f"the kernels do not load, going on without: {error}", stacklevel=2)
        return None


def _build(compiler: str, source: Path, out: Path) -> str:
    """Build to `out`, atomically; returns what went wrong, or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        for flags in ([WIDE], []):
            command = [compiler, *FLAGS.split(), *flags, "-o", str(made), str(source)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            if done.returncode == 0:
                os.replace(made, out)
                return ""
    return (done.stderr.strip().splitlines() or ["no message"])[0]


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def call(name: str, dtype: torch.dtype, *arguments: object) -> None:
    """Call a kernel of that type of numbers; tensors go as their addresses."""
    kernels = library()
    assert kernels is not None, "the kernels are not built"
    c_arguments = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor)
        else ctypes.c_int64(a) if isinstance(a, int)
        else ctypes.c_float(a) if isinstance(a, float) else a
        for a in arguments
    ]  # fmt: skip
    getattr(kernels, f"{name}_{TYPES[dtype]}")(*c_arguments, ctypes.c_int(torch.get_num_threads()))
