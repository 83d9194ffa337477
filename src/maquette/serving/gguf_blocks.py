"""Weights in few bits, as GGUF keeps them: blocks of 32 or 256 weights with scales of their own.

    Q8_0    32 weights   fp16 d, 32 x int8                        x = d q              8.5 bits a weight
    Q4_0    32           fp16 d, 32 x 4 bits                      x = d (q - 8)        4.5
    Q4_K    256          fp16 d, m; 8 x (6-bit s, 6-bit t), 4 bits  x = d s q - m t    4.5
    Q6_K    256          16 x int8 s, fp16 d, 6 bits              x = d s q            6.5625

Layouts and roundings are those of ggml (ggml-org/llama.cpp, ggml-common.h, ggml-quants.c). Q8_0, Q4_0 and
BF16 are ggml's to the bit; the scales of the K types are searched as ggml does, by weighted least squares
over some roundings of every sub-block; its sums run in another order, so that a last bit may differ. Left
out: importance matrices, the other types.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.jit import jit

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
AT_ONCE = (
    1 << 19
)  # weights that are packed at once, so that what is made of them stays in the cache


@dataclass(frozen=True)
class BlockType:
    """One way to keep weights.

    number: of ggml. file_type: number of a file whose matrices are mostly of this type. weights, size:
    weights of a block, and its bytes. pack: (blocks, weights) fp32 to (blocks, size) bytes; unpack: the way
    back.
    """

    number: int
    file_type: int
    weights: int
    size: int
    pack: Callable[[Floats], Bytes]
    unpack: Callable[[Bytes], Floats]

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.size / self.weights

    def bytes_of(self, weights: int) -> int:
        """Bytes of so many weights."""
        return weights // self.weights * self.size

    def quantise(self, weights: Floats) -> Bytes:
        """The bytes of weights of any shape, whose last dimension is a multiple of a block."""
        packed: Bytes = _chunked(self.pack, weights.reshape(-1, self.weights))
        return packed

    def dequantise(self, content: Bytes) -> Floats:
        """The weights of bytes, flat."""
        unpacked: Floats = _chunked(self.unpack, content.reshape(-1, self.size))
        return unpacked


def _chunked(function: Callable[[Any], Any], rows: npt.NDArray[Any]) -> Any:
    """A function of rows, of some at once."""
    step = max(1, AT_ONCE // rows.shape[1])
    parts = [function(rows[i : i + step]) for i in range(0, len(rows), step)]
    return np.concatenate(parts).reshape(-1)


def block_type(number: int, what: str) -> str:
    """The name of ggml's type of that number. Raises UserError for another than those here."""
    for name, kind in BLOCKS.items():
        if kind.number == number:
            return name
    raise UserError(f"{what} is of ggml's type {number}: Maquette reads {', '.join(BLOCKS)}")


def _pack_f32(rows: Floats) -> Bytes:
    return np.ascontiguousarray(rows, np.float32).view(np.uint8)


def _unpack_f32(rows: Bytes) -> Floats:
    return rows.view(np.float32)


def _pack_f16(rows: Floats) -> Bytes:
    return np.ascontiguousarray(rows.astype(np.float16)).view(np.uint8)


def _unpack_f16(rows: Bytes) -> Floats:
    return rows.view(np.float16).astype(np.float32)


def _pack_bf16(rows: Floats) -> Bytes:
    n = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    nan = (n & 0x7FFFFFFF) > 0x7F800000
    rounded = n + (0x7FFF + ((n >> 16) & 1))  # to the nearest, ties to even
    quiet = np.where(nan, n | np.uint32(1 << 22), rounded)
    return (quiet >> 16).astype(np.uint16).view(np.uint8)


def _unpack_bf16(rows: Bytes) -> Floats:
    return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _pack_q8_0(rows: Floats) -> Bytes:
    scale = np.abs(rows).max(1, keepdims=True) / np.float32(127)
    q = _rounded_away(rows * _inverse(scale)).astype(np.int8)
    return np.concatenate([_fp16(scale), q.view(np.uint8)], axis=1)


def _unpack_q8_0(rows: Bytes) -> Floats:
    return _floats(rows[:, :2]) * rows[:, 2:].view(np.int8).astype(np.float32)


def _pack_q4_0(rows: Floats) -> Bytes:
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    scale = largest / np.float32(-8)  # signed: the largest weight is exactly -8
    q = (rows * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([_fp16(scale), q[:, :16] | (q[:, 16:] << 4)], axis=1)


def _unpack_q4_0(rows: Bytes) -> Floats:
    q = np.concatenate([rows[:, 2:] & 15, rows[:, 2:] >> 4], axis=1).astype(np.float32)
    return _floats(rows[:, :2]) * (q - np.float32(8))


def _pack_q4_k(rows: Floats) -> Bytes:
    blocks = len(rows)
    parts = rows.reshape(-1, 32)
    scale, low = (x.reshape(blocks, 8) for x in _scale_and_minimum(parts))  # x = scale q - low
    d, m = scale.max(1, keepdims=True) / np.float32(63), low.max(1, keepdims=True) / np.float32(63)
    s = np.rint(scale * _inverse(d)).clip(0, 63).astype(np.uint8)
    t = np.rint(low * _inverse(m)).clip(0, 63).astype(np.uint8)
    head = np.concatenate([_fp16(d), _fp16(m)], axis=1)
    step = (_floats(head[:, :2]) * s).reshape(-1, 1)
    shift = (_floats(head[:, 2:]) * t).reshape(-1, 1)
    q = np.rint((parts + shift) * _inverse(step)).clip(0, 15).astype(np.uint8)
    q = q.reshape(blocks, 4, 2, 32)
    nibbles = (q[:, :, 0] | (q[:, :, 1] << 4)).reshape(blocks, 128)
    first = s[:, :4] | (s[:, 4:] >> 4 << 6)
    second = t[:, :4] | (t[:, 4:] >> 4 << 6)
    third = (s[:, 4:] & 15) | ((t[:, 4:] & 15) << 4)
    return np.concatenate([head, first, second, third, nibbles], axis=1)


def _unpack_q4_k(rows: Bytes) -> Floats:
    blocks = len(rows)
    first, second, third = rows[:, 4:8], rows[:, 8:12], rows[:, 12:16]
    s = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    t = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    step, shift = _floats(rows[:, :2]) * s, _floats(rows[:, 2:4]) * t  # (blocks, 8)
    nibbles = rows[:, 16:].reshape(blocks, 4, 1, 32)
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(blocks, 8, 32)
    values: Floats = step[:, :, None] * q - shift[:, :, None]
    return values.reshape(blocks, 256)


@jit
def _scale_and_minimum(rows: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum of rows x = scale q - minimum with q of 0 to 15, minimum at least 0.

    For each of some first scales, the q that it gives and the least squares fit to that q; the fit of the
    least weighted error is kept. A weight's weight is |x| and the row's root mean square (ggml's).
    """
    scales, minima = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32)
    q = np.empty(rows.shape[1], np.float32)
    for i in range(len(rows)):
        x = rows[i]
        low, high, squares = np.float32(0), x[0], np.float32(0)
        for value in x:
            low, high, squares = min(low, value), max(high, value), squares + value * value
        if high <= low:
            continue
        mean_square = np.float32(math.sqrt(squares / len(x)))
        least = np.float32(np.inf)
        for start in range(-11, 11):  # ggml's 15 and 14 to 16 steps over the span
            steps = np.float32(15 if start == -11 else 15 + 0.1 * start)
            inverse = steps / (high - low)
            total = q1 = q2 = x1 = xq = np.float32(0)
            for k in range(len(x)):
                q[k] = min(np.rint((x[k] - low) * inverse), np.float32(15))
                weight = mean_square + abs(x[k])
                wq = weight * q[k]
                total, q1, q2 = total + weight, q1 + wq, q2 + wq * q[k]
                x1, xq = x1 + weight * x[k], xq + wq * x[k]
            determinant = total * q2 - q1 * q1
            if determinant <= 0:
                continue
            fit, cut = (total * xq - x1 * q1) / determinant, (q2 * x1 - q1 * xq) / determinant
            if cut > 0:  # the minimum of a row is at most 0
                fit, cut = xq / q2, np.float32(0)
            error = np.float32(0)
            for k in range(len(x)):
                difference = fit * q[k] + cut - x[k]
                error += (mean_square + abs(x[k])) * difference * difference
            if error < least:
                least, scales[i], minima[i] = error, fit, -cut
    return scales, minima


def _pack_q6_k(rows: Floats) -> Bytes:
    blocks = len(rows)
    parts = rows.reshape(-1, 16)
    scale = _signed_scale(parts).reshape(blocks, 16)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(1)[:, None], 1)
    d = _fp16(largest / np.float32(-128))
    s = np.rint(scale * (np.float32(-128) * _inverse(largest))).clip(-128, 127).astype(np.int8)
    step = (_floats(d) * s).reshape(-1, 1)
    q = (np.rint(parts * _inverse(step)).clip(-32, 31) + 32).astype(np.uint8)
    q = q.reshape(blocks, 2, 4, 32)  # a half of a block is four groups of 32
    low, high = q & 15, q >> 4
    nibbles = low[:, :, :2] | (low[:, :, 2:] << 4)  # (blocks, 2, 2, 32)
    pairs = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    parts_of = nibbles.reshape(blocks, 128), pairs.reshape(blocks, 64), s.view(np.uint8), d
    return np.concatenate(parts_of, axis=1)


def _unpack_q6_k(rows: Bytes) -> Floats:
    blocks = len(rows)
    nibbles = rows[:, :128].reshape(blocks, 2, 2, 32)
    pairs = rows[:, 128:192].reshape(blocks, 2, 1, 32)
    low = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    high = (pairs >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    q = (low | (high << 4)).astype(np.float32).reshape(blocks, 16, 16) - np.float32(32)
    step = _floats(rows[:, 208:]) * rows[:, 192:208].view(np.int8).astype(np.float32)
    values: Floats = step[:, :, None] * q
    return values.reshape(blocks, 256)


@jit
def _signed_scale(rows: Floats) -> Floats:
    """The scale of rows x = scale q with q of -32 to 31: the best of some, by squares weighted with x^2."""
    scales = np.zeros(len(rows), np.float32)
    for i in range(len(rows)):
        x = rows[i]
        largest = np.float32(0)
        for value in x:
            if abs(value) > abs(largest):
                largest = value
        best = np.float32(0)
        for start in range(-9, 10):  # ggml's 0.1 x -9 to 9
            if largest == 0:
                break
            inverse = -np.float32(32 + 0.1 * start) / largest
            xq = qq = np.float32(0)
            for value in x:
                q = max(min(np.rint(value * inverse), np.float32(31)), np.float32(-32))
                weight = value * value
                xq, qq = xq + weight * value * q, qq + weight * q * q
            if qq > 0 and xq * xq > best * qq:  # what the least squares fit explains
                best, scales[i] = xq * xq / qq, xq / qq
    return scales


def _inverse(x: Floats) -> Floats:
    """1 / x, and 0 where x is 0 or too small to have one."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / x
    finite: Floats = np.where(np.isfinite(inverse), inverse, np.float32(0))
    return finite


def _rounded_away(x: Floats) -> Floats:
    """Round to the nearest, halves away from zero, as C's roundf."""
    size = np.abs(x)
    whole = np.floor(size)
    rounded: Floats = np.copysign(whole + np.floor(2 * (size - whole)), x)
    return rounded


def _fp16(x: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x.astype(np.float16)).view(np.uint8)


def _floats(content: Bytes) -> Floats:
    return np.ascontiguousarray(content).view(np.float16).astype(np.float32)


BLOCKS: dict[str, BlockType] = {
    "F32": BlockType(0, 0, 1, 4, _pack_f32, _unpack_f32),
    "F16": BlockType(1, 1, 1, 2, _pack_f16, _unpack_f16),
    "BF16": BlockType(30, 32, 1, 2, _pack_bf16, _unpack_bf16),
    "Q8_0": BlockType(8, 7, 32, 34, _pack_q8_0, _unpack_q8_0),
    "Q4_0": BlockType(2, 2, 32, 18, _pack_q4_0, _unpack_q4_0),
    "Q4_K": BlockType(12, 14, 256, 144, _pack_q4_k, _unpack_q4_k),
    "Q6_K": BlockType(14, 18, 256, 210, _pack_q6_k, _unpack_q6_k),
}
"""block types that are read and written, by ggml's names"""
