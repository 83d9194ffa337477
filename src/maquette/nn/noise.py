"""Random numbers that belong to a row: the first of four pictures is the one made alone.

One generator for a batch gives each row what the rows before it left, so that a second draw depends on
how many there are. A generator a row does not; rows are numbered over the whole request, whatever part
of it is computed at a time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None
"""one generator for each row, one for all rows, or None for torch's own"""


def generators(seed: int, count: int, stage: int = 0) -> list[torch.Generator]:
    """A CPU generator for each of `count` rows, a function of (seed, stage, row).

    stage: number of a model among those that draw one after the other. seed: a number from 0 on.
    """
    return [
        torch.Generator().manual_seed(_seed(np.random.SeedSequence([seed, stage, i])))
        for i in range(count)
    ]


def draw(like: Tensor, generator: Generators = None) -> Tensor:
    """Noise of variance 1, drawn on the generator's device so that every device gets the same."""
    if isinstance(generator, Sequence):
        return torch.stack([draw(row, g) for row, g in zip(like, generator, strict=True)])
    device = like.device if generator is None else generator.device
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)


def draw_exponential(like: Tensor, generator: Generators = None) -> Tensor:
    """Numbers of the exponential distribution of rate 1, drawn as `draw` draws."""
    if isinstance(generator, Sequence):
        return torch.stack([draw_exponential(r, g) for r, g in zip(like, generator, strict=True)])
    device = like.device if generator is None else generator.device
    drawn = torch.empty(like.shape, dtype=like.dtype, device=device)
    return drawn.exponential_(generator=generator).to(like.device)


def part_of(generator: Generators, rows: slice) -> Generators:
    """The generators of the given rows."""
    return generator[rows] if isinstance(generator, Sequence) else generator


def _seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
