"""Speeds of the operations of a training step on this machine, measured in about a second.

A matrix product is slower at small widths, a pointwise operation faster in a cache than in memory,
and every operation has a price of its own. So the speeds are curves over the size, each point the
best of the calls that fit into its share of the time. `scaling.roofline` adds them up to a step.
Left out: the compiled kernels, whose first compilation takes longer than all of this.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Curve = tuple[tuple[float, float], ...]
"""(size, speed) pairs, sizes rising"""

SECONDS = 0.04  # for each point
PRODUCTS = ((64, 512), (256, 512), (768, 4096))
"""(width, tokens) of the products of a curve. Narrow ones are short, so that some call is not
interrupted; the widest is as long as a step's, because units that multiply faster than memory feeds
them (AMX) reach their peak on short ones alone"""
STREAM = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 25, 1 << 27)
"""bytes of one operand; the last is beyond the cache of a server's processor, which several share"""
POINTWISE = 1 << 17  # numbers: in the second-level cache, so that arithmetic is what is timed
ATTENTION = ((64, 64), (256, 64), (1024, 64), (2048, 64), (64, 16), (256, 16), (1024, 16))
"""(positions, head size): long ones are faster by far, as the fused kernel skips what is masked"""
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Rates:
    """Measured speeds of the parts of a training step on one device.

    products: by precision, operations a second of a product (tokens, width) x (width, width) over
    the width, the mean of y = x w^T and its two gradients, see `PRODUCTS`. stream: bytes a second of a
    multiplication of two fp32 tensors over the bytes of one, reads and writes counted once each.
    arithmetic, exponential: by precision, numbers a second of a multiplication and of a SiLU in
    cache. rows: numbers a second of fp32 multiplications of half of each row of 64 with a vector
    that several rows share, as rotary positions do. cast: numbers a second from fp32 to bf16.
    attention: by precision and head size, operations a second of causal attention, forward and
    backward, over the positions; all pairs of positions counted. update: bytes a second of an
    update in place over tensors too large for a cache.
    operation: seconds that any operation takes beside its work.
    """

    products: Mapping[str, Curve]
    stream: Curve
    arithmetic: Mapping[str, float]
    exponential: Mapping[str, float]
    rows: float
    cast: float
    attention: Mapping[str, Mapping[int, Curve]]
    update: float
    operation: float

    def plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def rates_from(content: Any) -> Rates | None:
    """The rates of `plain`; None where a number is missing or another version wrote them."""
    try:
        products = {name: _curve(points) for name, points in content["products"].items()}
        attention = {
            name: {int(head): _curve(points) for head, points in heads.items()}
            for name, heads in content["attention"].items()
        }
        stream = _curve(content["stream"])
        rest = {name: float(content[name]) for name in ("rows", "cast", "update", "operation")}
        both = {
            name: {p: float(content[name][p]) for p in PRECISIONS}
            for name in ("arithmetic", "exponential")
        }
        if set(products) != set(PRECISIONS) or set(attention) != set(PRECISIONS):
            return None
        if [size for size, _ in stream] != list(STREAM):  # of a version that measured fewer points
            return None
        for p in PRECISIONS:
            if [width for width, _ in products[p]] != [width for width, _ in PRODUCTS]:
                return None
            points = {(n, head) for head, curve in attention[p].items() for n, _ in curve}
            if points != set(ATTENTION):
                return None
        return Rates(
            products=products,
            attention=attention,
            stream=stream,
            arithmetic=both["arithmetic"],
            exponential=both["exponential"],
            **rest,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def better(a: Rates, b: Rates | None) -> Rates:
    """The faster of two measurements of one machine, number by number."""
    if b is None:
        return a
    return Rates(
        products={p: _faster(a.products[p], b.products[p]) for p in a.products},
        stream=_faster(a.stream, b.stream),
        arithmetic={p: max(a.arithmetic[p], b.arithmetic[p]) for p in a.arithmetic},
        exponential={p: max(a.exponential[p], b.exponential[p]) for p in a.exponential},
        rows=max(a.rows, b.rows),
        cast=max(a.cast, b.cast),
        attention={
            p: {h: _faster(curve, b.attention[p].get(h, curve)) for h, curve in heads.items()}
            for p, heads in a.attention.items()
        },
        update=max(a.update, b.update),
        operation=min(a.operation, b.operation),
    )


def probe(device: str) -> Rates:
    """Measure every speed on that device, "cpu" or "cuda"."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    attention: dict[str, dict[int, list[tuple[float, float]]]] = {p: {} for p in PRECISIONS}
    for precision, dtype in kinds.items():
        for positions, head in ATTENTION:
            speed = attention_speed(positions, head, dtype, device)
            attention[precision].setdefault(head, []).append((positions, speed))
    return Rates(
        products={
            p: tuple((w, training_product_speed(w, rows, dtype, device)) for w, rows in PRODUCTS)
            for p, dtype in kinds.items()
        },
        stream=tuple((size, stream_speed(size, device)) for size in STREAM),
        arithmetic={p: pointwise_speed("mul", dtype, device) for p, dtype in kinds.items()},
        exponential={p: pointwise_speed("silu", dtype, device) for p, dtype in kinds.items()},
        rows=rows_speed(device),
        cast=pointwise_speed("cast", torch.float32, device),
        attention={p: {h: tuple(c) for h, c in heads.items()} for p, heads in attention.items()},
        update=update_speed(device),
        operation=operation_seconds(device),
    )


def training_product_speed(width: int, rows: int, dtype: "torch.dtype", device: str) -> float:
    """Operations a second of a product of `rows` tokens with a square matrix and its gradients."""
    import torch

    x, d = (torch.randn(rows, width, device=device).to(dtype) for _ in range(2))
    w = torch.randn(width, width, device=device).to(dtype)

    def three() -> None:
        x @ w.T, d @ w, d.T @ x

    return 6 * rows * width**2 / fastest(three, device, SECONDS)


def stream_speed(size: int, device: str) -> float:
    """Bytes a second of c = a b in fp32, `size` bytes each."""
    import torch

    a, b, c = (torch.ones(size // 4, device=device) for _ in range(3))
    return 3 * size / fastest(lambda: torch.mul(a, b, out=c), device, SECONDS)


def pointwise_speed(kind: str, dtype: "torch.dtype", device: str) -> float:
    """Numbers a second of an operation on a tensor that stays in cache."""
    import torch

    a = torch.randn(POINTWISE, device=device).to(dtype)
    out = torch.empty_like(a, dtype=torch.bfloat16 if kind == "cast" else dtype)
    work: dict[str, Callable[[], object]] = {
        "mul": lambda: torch.mul(a, a, out=out),
        "silu": lambda: torch.ops.aten.silu.out(a, out=out),
        "cast": lambda: out.copy_(a),
    }
    return POINTWISE / fastest(work[kind], device, SECONDS)


def rows_speed(device: str) -> float:
    """Numbers a second of the first halves of rows of 64 times a vector that four rows share."""
    import torch

    rows = POINTWISE // 128
    half = torch.randn(rows, 4, 64, device=device)[..., :32]
    shared = torch.randn(rows, 1, 32, device=device)
    out = torch.empty(rows, 4, 32, device=device)
    return half.numel() / fastest(lambda: torch.mul(half, shared, out=out), device, SECONDS)


def attention_speed(positions: int, head: int, dtype: "torch.dtype", device: str) -> float:
    """Operations a second of causal attention, 12 positions^2 head a head for both directions."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    # The backward pass gives a thread whole heads: at least one for each.
    heads = 4 if positions < 2048 else max(2, torch.get_num_threads())
    shape = (max(1, 512 // positions), heads, positions, head)
    q, k, v = (torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3))
    d = torch.randn(shape, device=device).to(dtype)
    seconds = fastest(
        lambda: scaled_dot_product_attention(q, k, v, is_causal=True).backward(d),
        device,
        SECONDS / 2,
    )
    return 12 * shape[0] * heads * positions**2 * head / seconds


def update_speed(device: str) -> float:
    """Bytes a second of a += b c in fp32 over 4 million numbers, 16 for each: in place, as AdamW."""
    import torch

    a, b, c = (torch.ones(1 << 22, device=device) for _ in range(3))
    return 16 * a.numel() / fastest(lambda: a.addcmul_(b, c), device, SECONDS)


def operation_seconds(device: str) -> float:
    """Seconds of one operation on eight numbers, the mean over forward and backward."""
    import torch

    x = torch.ones(8, device=device, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(50):
            y = y * x
        y.sum().backward()

    return fastest(chain, device, SECONDS) / 200  # a product has three operations in backward


def fastest(function: Callable[[], object], device: str, seconds: float) -> float:
    """The shortest of the calls that fit into `seconds`, in seconds, after one to warm up."""
    import torch

    def timed() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed()
    best = timed()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, timed())
    return best


def at(curve: Sequence[tuple[float, float]], size: float) -> float:
    """The speed at a size: linear between measured points in the logarithm, flat beyond them."""
    if size <= curve[0][0]:
        return curve[0][1]
    for (low, slow), (high, fast) in itertools.pairwise(curve):
        if size <= high:
            part = math.log(size / low) / math.log(high / low)
            return float(slow * (fast / slow) ** part)
    return curve[-1][1]


def _curve(points: Any) -> Curve:
    curve = tuple((float(size), float(speed)) for size, speed in points)
    if not curve or min(speed for _, speed in curve) <= 0:
        raise ValueError("an empty curve")
    return curve


def _faster(a: Curve, b: Curve) -> Curve:
    known = dict(b)
    return tuple((size, max(speed, known.get(size, 0.0))) for size, speed in a)
