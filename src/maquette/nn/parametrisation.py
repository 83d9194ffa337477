"""Roles in a model: what its modules declare of their parameters, and the start that follows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.nn.rules import Role, Scaling


@dataclass(frozen=True)
class Declared:
    """One parameter with what its module says of it."""

    name: str
    tensor: nn.Parameter
    role: Role
    fan_in: int
    residual: bool
    start: float | None
    """constant start (gains 1, biases 0, what a module's `start` says); None: drawn from a normal"""


def declared(model: nn.Module) -> Iterator[Declared]:
    """Every parameter once, with its role. A module without a role for one is a defect."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, tensor in module.named_parameters(recurse=False):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            roles: dict[str, Role] = getattr(module, "roles", {})
            assert name in roles, f"{type(module).__name__}.{name} declares no role"
            start: float | None = getattr(module, "start", {}).get(name)
            if start is None and roles[name] == Role.VECTOR:
                start = 1.0 if name == "weight" else 0.0
            yield Declared(
                f"{path}.{name}" if path else name,
                tensor,
                roles[name],
                tensor[0].numel(),
                getattr(module, "residual", False),
                start,
            )


@torch.no_grad()
def initialise(model: nn.Module, scaling: Scaling, seed: int) -> None:
    """Fill every parameter: a function of (seed, its name, its shape) and of nothing else."""
    for p in declared(model):
        if p.start is not None:
            p.tensor.fill_(p.start)
            continue
        digest = hashlib.sha256(f"{seed}/{p.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        std = scaling.multipliers(p.role, p.fan_in, p.residual).std
        drawn = torch.empty(p.tensor.shape, dtype=torch.float32)
        p.tensor.copy_(drawn.normal_(0.0, std, generator=generator))


def scaled(tensor: Tensor, multiplier: float) -> Tensor:
    """`tensor * multiplier`; no operation for 1."""
    return tensor if multiplier == 1.0 else tensor * multiplier
