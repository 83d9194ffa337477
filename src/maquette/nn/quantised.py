"""Weights in 8 or 4 bits: whole numbers with a scale for each group of columns, and the maps that read them.

    symmetric    weight = scale * (code - 2^(bits - 1))        one number of bf16 a group
    asymmetric   weight = scale * code + minimum               two

Group-wise rounding as in llama.cpp's Q8_0 and Q4_0 (`ggml-common.h`) and gpt-fast's int4; scales are bf16,
which holds weights of any size. The numbers lie in memory, and in files, in the order in which the kernels
of `products.cpp` read them. A few rows are multiplied by those kernels; more rows, or without a compiler, by
torch with weights that are written out again, a part at a time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.nn import native_products
from maquette.nn.linear import Embedding, Linear
from maquette.nn.rules import Role

LANES = 16  # rows of a panel
LARGEST_GROUP = 256  # so that a group's sum fits 32 bits
CHUNK = 4096  # rows of a matrix that are worked on at a time
FACTORS = (1.0, 8 / 7, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)
"""multiples of a group's plain scale in 4 bits, of which the one with the least squared error is taken"""
HOOKS = [name for name in vars(nn.Module()) if "_forward" in name and "hooks" in name]
"""tables of a module in which torch keeps what is called before and after it"""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the weights of a matrix are kept."""

    bits: int
    """bits of a code: 8 or 4"""
    group: int = 32
    """number of columns that share a scale, a multiple of 8"""
    asymmetric: bool = False
    """whether a group has a minimum beside its scale"""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise WrongUse(f"bits is {self.bits}: use 8 or 4")
        if self.group % 8 or not 8 <= self.group <= LARGEST_GROUP:
            raise WrongUse(
                f"group is {self.group}: use a multiple of 8 from 8 to {LARGEST_GROUP}, such as 32"
            )

    @property
    def kind(self) -> str:
        """Name of the kernels."""
        return f"{self.bits}{'a' * self.asymmetric}"

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a group of a panel."""
        return LANES * self.group * self.bits // 8

    def shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Shape of the packed weights of a matrix, in bytes: (panels, groups, bytes of a group)."""
        scales = (4 if self.asymmetric else 2) * LANES
        return -(-rows // LANES), -(-columns // self.group), self.code_bytes + scales

    def pack(self, weight: Tensor) -> Tensor:
        """The packed weights (panels, groups, bytes) of a matrix (rows, columns), uint8."""
        return torch.cat([self._pack(part.detach()) for part in weight.split(CHUNK)])

    def _pack(self, weight: Tensor) -> Tensor:
        rows, columns = weight.shape
        panels, groups, _ = self.shape(rows, columns)
        padding = (0, groups * self.group - columns, 0, panels * LANES - rows)
        x = F.pad(weight.float(), padding).view(panels, LANES, groups, self.group)
        codes, *scales = self._asymmetric(x) if self.asymmetric else self._symmetric(x)
        codes = codes.permute(0, 2, 3, 1).unflatten(2, (-1, 4)).transpose(3, 4)
        if self.bits == 4:  # (panels, groups, quads, lanes, 4)
            codes = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
        parts = [codes.flatten(2)]
        for scale in scales:  # (panels, lanes, groups)
            parts.append(scale.transpose(1, 2).contiguous().view(torch.uint8))
        return torch.cat(parts, 2)

    def _symmetric(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and scales in bf16. In 4 bits the number farthest from 0 becomes code 0, as in Q4_0."""
        zero = 1 << (self.bits - 1)
        at = x.abs().argmax(-1, keepdim=True)
        factors: tuple[float, ...]
        if self.bits == 8:
            plain, factors = _up(x.gather(-1, at).abs() / (zero - 1)), (1.0,)
        else:
            plain, factors = x.gather(-1, at) / -zero, FACTORS
        least = torch.full_like(plain, torch.inf)
        best, codes = plain.bfloat16(), torch.zeros_like(x, dtype=torch.uint8)
        for factor in factors:
            scale = (plain * factor).bfloat16()
            tried = _codes(x, scale, self.bits, zero)
            error = ((tried - zero) * scale.float() - x).square().sum(-1, keepdim=True)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, scale, best)
            codes = torch.where(better, tried.to(torch.uint8), codes)
        return codes, best.squeeze(-1)

    def _asymmetric(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, and scales and minima in bf16: the range of a group is covered."""
        minimum = -_up(-x.amin(-1, keepdim=True))
        scale = _up((x.amax(-1, keepdim=True) - minimum) / ((1 << self.bits) - 1))
        codes = _codes(x - minimum, scale.bfloat16(), self.bits, 0)
        return codes.to(torch.uint8), scale.bfloat16().squeeze(-1), minimum.bfloat16().squeeze(-1)

    def unpack(self, packed: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The matrix (rows, columns) of packed weights."""
        if packed.device.type == "cpu" and native_products.library() is not None:
            return native_products.unpacked(packed, self.kind, self.group, (rows, columns), dtype)
        panels = packed.split(CHUNK // LANES)
        return torch.cat([self._unpack(part, dtype) for part in panels])[:rows, :columns]

    def _unpack(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        panels, groups, _ = packed.shape
        codes = packed[:, :, : self.code_bytes].view(panels, groups, -1, LANES, 4)
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), 3).flatten(2, 3)
        scales = packed[:, :, self.code_bytes :].contiguous().view(torch.bfloat16).float()
        x = codes.permute(0, 3, 1, 2, 4).flatten(3).float()  # (panels, lanes, groups, group)
        scale = scales[:, :, :LANES].transpose(1, 2).unsqueeze(3)
        if self.asymmetric:
            x = x * scale + scales[:, :, LANES:].transpose(1, 2).unsqueeze(3)
        else:
            x = (x - (1 << (self.bits - 1))) * scale
        return x.flatten(2).flatten(0, 1).to(dtype)

    def rows(self, packed: Tensor, index: Tensor, columns: int) -> Tensor:
        """Rows (..., columns) of a packed matrix, fp32. index: (...)."""
        panel, lane = index.flatten() // LANES, index.flatten() % LANES
        part = packed[panel]
        codes = part[:, :, : self.code_bytes].view(len(part), len(packed[0]), -1, LANES, 4)
        number = torch.arange(len(part), device=packed.device)
        codes = codes.permute(0, 3, 1, 2, 4)[number, lane]  # (rows, groups, quads, 4)
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), 3).flatten(2, 3)
        scales = part[:, :, self.code_bytes :].contiguous().view(torch.bfloat16).float()
        x, scale = codes.flatten(2).float(), scales[number, :, lane].unsqueeze(2)
        if self.asymmetric:
            x = x * scale + scales[number, :, LANES + lane].unsqueeze(2)
        else:
            x = (x - (1 << (self.bits - 1))) * scale
        chosen: Tensor = x.flatten(1)[:, :columns].unflatten(0, index.shape)
        return chosen


def _codes(x: Tensor, scale: Tensor, bits: int, zero: int) -> Tensor:
    divisor = torch.where(scale == 0, 1, scale).float()
    codes: Tensor = (x / divisor).round_().add_(zero).clamp_(0, (1 << bits) - 1)
    return codes


def _up(x: Tensor) -> Tensor:
    """The least number of bf16 that is not below x, as fp32."""
    near = x.bfloat16()
    above = torch.nextafter(near, torch.full_like(near, torch.inf))
    return torch.where(near.float() < x, above, near).float()


class Packed(nn.Module):
    """A matrix in few bits, as a module has it."""

    def __init__(self, form: Format, packed: Tensor, rows: int, columns: int) -> None:
        super().__init__()
        assert tuple(packed.shape) == form.shape(rows, columns), "the weights are of another shape"
        self.form, self.rows, self.columns = form, rows, columns
        self.register_buffer("packed", packed, persistent=False)

    packed: Tensor

    def matrix(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The whole matrix (rows, columns) as numbers."""
        return self.form.unpack(self.packed, self.rows, self.columns, dtype)

    def product(self, x: Tensor) -> Tensor:
        """x W^T; (..., columns) -> (..., rows)."""
        if native_products.serves(x):
            form = self.form
            return native_products.packed_product(x, self.packed, form.kind, form.group, self.rows)
        panels = CHUNK // LANES
        parts = []
        for first in range(0, len(self.packed), panels):
            rows = min(CHUNK, self.rows - first * LANES)
            part = self.packed[first : first + panels]
            parts.append(F.linear(x, self.form.unpack(part, rows, self.columns, x.dtype)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class QuantisedLinear(Linear):
    """A `Linear` in few bits, with the hooks of the plain one; its weights cannot be trained."""

    def __init__(self, plain: Linear, matrix: Packed) -> None:
        nn.Module.__init__(self)
        self.roles, self.start, self.residual = {"bias": Role.VECTOR}, {}, plain.residual
        self.matrix, self.bias = matrix, plain.bias
        self.train(plain.training)
        for name in HOOKS:  # the same tables, so that an adapter can still be detached
            setattr(self, name, getattr(plain, name))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The whole matrix, written out in fp32 at each call."""
        return self.matrix.matrix()

    def forward(self, x: Tensor) -> Tensor:  # (..., fan_in) -> (..., fan_out)
        y = self.matrix.product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def product(self, x: Tensor) -> Tensor:
        """x W^T without the bias."""
        return self.matrix.product(x)


class QuantisedEmbedding(Embedding):
    """An `Embedding` in few bits."""

    def __init__(self, plain: Embedding, matrix: Packed) -> None:
        nn.Module.__init__(self)
        self.roles = {}
        self.matrix = matrix
        self.train(plain.training)
        for name in HOOKS:
            setattr(self, name, getattr(plain, name))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The whole table, written out in fp32 at each call."""
        return self.matrix.matrix()

    def forward(self, index: Tensor) -> Tensor:  # (...) -> (..., width)
        return self.matrix.form.rows(self.matrix.packed, index, self.matrix.columns)
