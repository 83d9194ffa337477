"""Held-out losses, and the random numbers of a step."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from maquette.base.errors import UserError
from maquette.parallel.group import Group
from maquette.training.learner import Losses


@torch.no_grad()
def heldout_loss(
    score: Callable[[Any], Losses], batches: list[Any], group: Group, uncounted: str = ""
) -> float:
    """Mean loss on held-out batches, a share of them on each rank, with the same random numbers every time.

    uncounted: message where no target counts, see `Model`.
    """
    losses = Losses()
    for number, batch in enumerate(batches):
        seed(derived_seed(0, number * group.world + group.rank, 0), group.device)
        part = score(batch)
        losses.add(part.count, **part.sums)
    value, count = group.sum(losses.sums.get("loss", 0.0), losses.count)  # some ranks may have none
    if count == 0:
        raise UserError(f"the held-out windows: {uncounted}")
    return value / count


def derived_seed(seed: int, sample: int, rank: int) -> int:
    """A seed for the random numbers of one step on one rank, independent of its neighbours'."""
    digest = hashlib.sha256(f"{seed}/{sample}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed(number: int, device: torch.device) -> None:
    """Seed the random numbers of this step (`torch.manual_seed` notes three stacks for no GPU)."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
