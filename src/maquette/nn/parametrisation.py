"""Roles in a model: what its modules declare of their parameters, and the start that follows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.nn.rules import Role, Scaling


@dataclass(frozen=True)
class Declared:
    """One parameter with its role and its start, as its module declares them."""

    name: str
    tensor: nn.Parameter
    role: Role
    fan_in: int
    residual: bool
    start: float | None
    """constant initial value (gains 1, biases 0, or the module's `start`); None: drawn from a normal"""


def declared(model: nn.Module) -> Iterator[Declared]:
    """Every parameter once, with its role. A parameter without a role is a defect."""
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
    """Initialise every parameter as a function of (seed, name, shape) alone."""
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
    """`tensor * multiplier`, without an operation where multiplier is 1."""
    return tensor if multiplier == 1.0 else tensor * multiplier
