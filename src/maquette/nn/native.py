"""The row kernels of `kernels.cpp`, built by the user's own compiler when a run first uses them.

Softmax, norms, activations, rotary embeddings, biases and cross-entropy: what stands between the matrix
products of a step. torch's compiler turns each into several passes with positions in 64 bits; these are
one pass each (docs/log.md has the times). They compute in fp32 and read and write fp32 or bf16. The build
takes two seconds and is kept in Maquette's home; without a compiler, or where it fails, `library` is None
and callers go on with torch alone.
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
FLAGS = "-std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -shared -fPIC"
WIDE = "-mprefer-vector-width=512"  # known to compilers for x86 alone
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
ACTIVATIONS = ("gelu_tanh", "swiglu")


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
    """The built kernels; None where no compiler can build them, of which a warning tells once."""
    path = compiler()
    if path is None:
        return None
    version = subprocess.run(
        [path, "--version"], capture_output=True, encoding="utf-8", check=False
    ).stdout
    identity = [SOURCE.read_text(encoding="utf-8"), FLAGS, WIDE, version, _processor()]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
    built = home() / "compiled" / f"kernels-{key}.so"
    if not built.exists():
        try:
            error = _build(path, built)
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


def _build(compiler: str, out: Path) -> str:
    """Build to `out`, atomically; returns what went wrong, or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        for flags in ([WIDE], []):
            command = [compiler, *FLAGS.split(), *flags, "-o", str(made), str(SOURCE)]
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


class Tile(ctypes.Structure):
    """A tile of scores (batch, heads, rows, keys): where it stands and what its rows may attend to."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in
          ("batch", "heads", "rows", "keys", "first_row", "first_key", "window", "time")),
        ("scale", ctypes.c_float),
        ("slopes", ctypes.c_void_p),
        ("document_ids", ctypes.c_void_p),
    )  # fmt: skip


def make_tile(
    scores: Tensor,
    first_row: int,
    first_key: int,
    window: int,
    scale: float,
    slopes: Tensor | None,
    document_ids: Tensor | None,
) -> Tile:
    """scores: (batch, heads, rows, keys). slopes: (heads,) fp32. document_ids: (batch, time) int32.

    first_row, first_key: positions of the tile's first row and key. window: 0 for all keys before. The
    tensors must live, and be contiguous, as long as the tile is used.
    """
    batch, heads, rows, keys = scores.shape
    assert slopes is None or (slopes.dtype, slopes.shape) == (torch.float32, (heads,))
    assert document_ids is None or (document_ids.dtype, len(document_ids)) == (torch.int32, batch)
    time = 0 if document_ids is None else document_ids.shape[1]
    return Tile(
        batch, heads, rows, keys, first_row, first_key, window, time, scale,
        None if slopes is None else slopes.data_ptr(),
        None if document_ids is None else document_ids.data_ptr(),
    )  # fmt: skip


def softmax_(scores: Tensor, tile: Tile) -> Tensor:
    """Turn scores into probabilities in place; returns the log-sum-exp, (batch, heads, rows) fp32."""
    logsumexp = torch.empty(scores.shape[:3], dtype=torch.float32)
    _call("softmax", scores.dtype, ctypes.byref(tile), scores, logsumexp)
    return logsumexp


def softmax_backward_(
    scores: Tensor, d_probabilities: Tensor, logsumexp: Tensor, delta: Tensor, tile: Tile
) -> None:
    """Turn scores into probabilities, and their gradient into the scores', both in place.

    logsumexp, delta: (batch, heads, rows) fp32, contiguous; delta: the sum of d_out * out.
    """
    tensors = (scores, d_probabilities, logsumexp, delta)
    _call("softmax_backward", scores.dtype, ctypes.byref(tile), *tensors)


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Sums of a * b over the last dimension, fp32."""
    a, b = a.contiguous(), b.contiguous()
    sums = torch.empty(a.shape[:-1], dtype=torch.float32)
    _call("row_products", a.dtype, sums.numel(), a.shape[-1], a, b, sums)
    return sums


def cross_entropy_(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    multiplier: float,
    z_loss: float,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Losses with z-loss and plain, (rows,) fp32; see `loss.linear_cross_entropy`.

    logits: (rows, vocabulary), contiguous; their gradient takes their place where it is wanted.
    """
    if len(targets) and int(targets.max()) >= logits.shape[1]:
        raise IndexError(f"target {int(targets.max())} of {logits.shape[1]} logits")
    loss, entropy = torch.empty(2, len(logits)).unbind(0)
    bias, targets = None if bias is None else bias.float().contiguous(), targets.contiguous()
    _call(
        "cross_entropy", logits.dtype, *logits.shape, logits, bias, targets,
        float(multiplier), float(z_loss), int(gradient), loss, entropy,
    )  # fmt: skip
    return loss, entropy


def activate(x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """The activation of x + bias; x: (..., width), for swiglu (..., 2 width) and without a bias."""
    out: Tensor = _activate(x, bias, activation)
    return out


@torch.library.custom_op("maquette::activate", mutates_args=())
def _activate(x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    x, bias = x.contiguous(), None if bias is None else bias.float().contiguous()
    y = _empty_result(x, activation)
    rows, width = y.numel() // y.shape[-1], y.shape[-1]
    arguments = (x, y) if activation == "swiglu" else (x, bias, y)
    _call(activation, x.dtype, rows, width, *arguments)
    return y


@torch.library.custom_op("maquette::activate_backward", mutates_args=())
def _activate_backward(
    d_y: Tensor, x: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    d_y, x = d_y.contiguous(), x.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    d_x = torch.empty_like(x)
    d_bias = torch.empty(0 if bias is None else len(bias), dtype=torch.float32)
    rows, width = d_y.numel() // d_y.shape[-1], d_y.shape[-1]
    if activation == "swiglu":
        _call("swiglu_backward", x.dtype, rows, width, d_y, x, d_x)
    else:
        _call(f"{activation}_backward", x.dtype, rows, width, d_y, x, bias, d_x, d_bias)
    return d_x, d_bias


def _empty_result(x: Tensor, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // (2 if activation == "swiglu" else 1))


def _call(name: str, dtype: torch.dtype, *arguments: object) -> None:
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


@_activate.register_fake
def _(x, bias, activation):  # type: ignore[no-untyped-def]
    return _empty_result(x, activation)


@_activate_backward.register_fake
def _(d_y, x, bias, activation):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), x.new_empty(0 if bias is None else len(bias), dtype=torch.float32)


def _setup_activation(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, bias, activation = inputs
    ctx.save_for_backward(x, bias)
    ctx.activation = activation


def _gradient(ctx, d_y):  # type: ignore[no-untyped-def]
    x, bias = ctx.saved_tensors
    d_x, d_bias = _activate_backward(d_y.contiguous(), x, bias, ctx.activation)
    return d_x, None if bias is None else d_bias, None


_activate.register_autograd(_gradient, setup_context=_setup_activation)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm of (..., width); weight: (width,) fp32."""
    out: Tensor = _rms_norm(x, weight, epsilon)[0]
    return out


@torch.library.custom_op("maquette::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    x, weight = x.contiguous(), weight.float().contiguous()
    y, inverse = torch.empty_like(x), torch.empty(x.shape[:-1], dtype=torch.float32)
    _call("rms_norm", x.dtype, inverse.numel(), x.shape[-1], x, weight, float(epsilon), y, inverse)
    return y, inverse


@torch.library.custom_op("maquette::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    d_y, x, weight = d_y.contiguous(), x.contiguous(), weight.float().contiguous()
    d_x, d_weight = torch.empty_like(x), torch.empty_like(weight)
    sizes = inverse.numel(), x.shape[-1]
    _call("rms_norm_backward", x.dtype, *sizes, d_y, x, weight, inverse, d_x, d_weight)
    return d_x, d_weight


@_rms_norm.register_fake
def _(x, weight, epsilon):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.float32)


@_rms_norm_backward.register_fake
def _(d_y, x, weight, inverse):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_rms_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _gradient_of_norm(ctx, d_y, _):  # type: ignore[no-untyped-def]
    return *_rms_norm_backward(d_y, *ctx.saved_tensors), None


_rms_norm.register_autograd(_gradient_of_norm, setup_context=_setup_rms_norm)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """Layer norm of (..., width); weight, bias: (width,) fp32."""
    out: Tensor = _layer_norm(x, weight, bias, epsilon)[0]
    return out


@torch.library.custom_op("maquette::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = x.contiguous(), weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    y = torch.empty_like(x)
    mean, inverse = (torch.empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    sizes = inverse.numel(), x.shape[-1]
    _call("layer_norm", x.dtype, *sizes, x, weight, bias, float(epsilon), y, mean, inverse)
    return y, mean, inverse


@torch.library.custom_op("maquette::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    d_y, x, weight = d_y.contiguous(), x.contiguous(), weight.float().contiguous()
    d_x, d_weight, d_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    sizes = inverse.numel(), x.shape[-1]
    results = d_x, d_weight, d_bias
    _call("layer_norm_backward", x.dtype, *sizes, d_y, x, weight, mean, inverse, *results)
    return results


@_layer_norm.register_fake
def _(x, weight, bias, epsilon):  # type: ignore[no-untyped-def]
    rows = [x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2)]
    return x.new_empty(x.shape), *rows


@_layer_norm_backward.register_fake
def _(d_y, x, weight, mean, inverse):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), *(weight.new_empty(weight.shape) for _ in range(2))


def _setup_layer_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.has_bias = inputs[2] is not None
    ctx.save_for_backward(inputs[0], inputs[1], output[1], output[2])


def _gradient_of_layer_norm(ctx, d_y, *_):  # type: ignore[no-untyped-def]
    d_x, d_weight, d_bias = _layer_norm_backward(d_y, *ctx.saved_tensors)
    return d_x, d_weight, d_bias if ctx.has_bias else None, None


_layer_norm.register_autograd(_gradient_of_layer_norm, setup_context=_setup_layer_norm)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, interleaved: bool) -> Tensor:
    """Rotary embedding; shapes as those of `position.rotate`."""
    out: Tensor = _rotate(x, cosine, sine, interleaved, 1.0)
    return out


@torch.library.custom_op("maquette::rotate", mutates_args=())
def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, interleaved: bool, direction: float) -> Tensor:
    batch, time, heads, width = x.shape
    if x.stride()[2:] != (width, 1) or x.stride(0) != time * x.stride(1):
        x = x.contiguous()
    cosine, sine = cosine.float().contiguous(), sine.float().contiguous()
    y = torch.empty(x.shape, dtype=x.dtype)
    pairs = cosine.shape[-1]
    _call(
        "rotate", x.dtype, batch * time, heads, width, x.stride(1), pairs, cosine.numel() // pairs,
        int(interleaved), x, cosine, sine, direction, y,
    )  # fmt: skip
    return y


@_rotate.register_fake
def _(x, cosine, sine, interleaved, direction):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


def _setup_rotation(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, cosine, sine, ctx.interleaved, ctx.direction = inputs
    ctx.save_for_backward(cosine, sine)


def _gradient_of_rotation(ctx, d_y):  # type: ignore[no-untyped-def]
    d_x = _rotate(d_y, *ctx.saved_tensors, ctx.interleaved, -ctx.direction)
    return d_x, None, None, None, None


_rotate.register_autograd(_gradient_of_rotation, setup_context=_setup_rotation)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b in x's precision; x: (..., fan_in), weight: (fan_out, fan_in) fp32, bias: (fan_out,)."""
    out: Tensor = _linear(x, weight, bias)
    return out


@torch.library.custom_op("maquette::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x.flatten(0, -2) @ weight.to(x.dtype).T
    if bias is not None:
        _call("add_bias", y.dtype, *y.shape, y, bias.float().contiguous())
    return y.view(*x.shape[:-1], len(weight))


@torch.library.custom_op("maquette::linear_backward", mutates_args=())
def _linear_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape, d_y, x = x.shape, d_y.flatten(0, -2).contiguous(), x.flatten(0, -2).contiguous()
    d_x, d_weight, d_bias = (torch.empty(0) for _ in range(3))
    if needs_x:
        d_x = (d_y @ weight.to(d_y.dtype)).view(shape)
    if needs_weight:
        d_weight = (d_y.T @ x).float()
    if needs_bias:
        d_bias = torch.empty(len(weight))
        _call("column_sums", d_y.dtype, *d_y.shape, d_y, d_bias)
    return d_x, d_weight, d_bias


@_linear.register_fake
def _(x, weight, bias):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], len(weight))


@_linear_backward.register_fake
def _(d_y, x, weight, needs_x, needs_weight, needs_bias):  # type: ignore[no-untyped-def]
    return (
        x.new_empty(x.shape) if needs_x else x.new_empty(0, dtype=torch.float32),
        weight.new_empty(weight.shape) if needs_weight else weight.new_empty(0),
        weight.new_empty(len(weight) if needs_bias else 0),
    )


def _setup_linear(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0], inputs[1])


def _gradient_of_linear(ctx, d_y):  # type: ignore[no-untyped-def]
    needs = ctx.needs_input_grad
    gradients = _linear_backward(d_y, *ctx.saved_tensors, *needs)
    return tuple(g if needed else None for g, needed in zip(gradients, needs, strict=True))


_linear.register_autograd(_gradient_of_linear, setup_context=_setup_linear)
