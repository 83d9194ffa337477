"""The row kernels as operators of torch with gradients: activations, norms, rotary embedding, linear."""

import torch
from torch import Tensor

from maquette.nn.native import call

ACTIVATIONS = ("gelu_tanh", "swiglu")


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
    call(activation, x.dtype, rows, width, *arguments)
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
        call("swiglu_backward", x.dtype, rows, width, d_y, x, d_x)
    else:
        call(f"{activation}_backward", x.dtype, rows, width, d_y, x, bias, d_x, d_bias)
    return d_x, d_bias


def _empty_result(x: Tensor, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // (2 if activation == "swiglu" else 1))


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
    call("rms_norm", x.dtype, inverse.numel(), x.shape[-1], x, weight, float(epsilon), y, inverse)
    return y, inverse


@torch.library.custom_op("maquette::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    d_y, x, weight = d_y.contiguous(), x.contiguous(), weight.float().contiguous()
    d_x, d_weight = torch.empty_like(x), torch.empty_like(weight)
    sizes = inverse.numel(), x.shape[-1]
    call("rms_norm_backward", x.dtype, *sizes, d_y, x, weight, inverse, d_x, d_weight)
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
    call("layer_norm", x.dtype, *sizes, x, weight, bias, float(epsilon), y, mean, inverse)
    return y, mean, inverse


@torch.library.custom_op("maquette::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    d_y, x, weight = d_y.contiguous(), x.contiguous(), weight.float().contiguous()
    d_x, d_weight, d_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    sizes = inverse.numel(), x.shape[-1]
    results = d_x, d_weight, d_bias
    call("layer_norm_backward", x.dtype, *sizes, d_y, x, weight, mean, inverse, *results)
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
    call(
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
        call("add_bias", y.dtype, *y.shape, y, bias.float().contiguous())
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
        call("column_sums", d_y.dtype, *d_y.shape, d_y, d_bias)
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
