"""Sampling: pictures of a diffusion model from a condition by a solver."""

from collections.abc import Callable

import torch
from torch import Tensor

from maquette.models.diffusion.conditioner import Condition
from maquette.models.diffusion.drawing import Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.nn.noise import Generators, draw, generators
from maquette.serving.solvers import solve, times


@torch.no_grad()
def sample(
    model: Diffusion, condition: Condition, drawing: Drawing, generator: Generators = None
) -> Tensor:
    """Pictures (n, 3, height, width) in [-1, 1] of a condition of n.

    generator: one for each picture or one for all; None: one for each, from the drawing's seed.
    A model without a condition that guidance could leave out is not guided.
    """
    n, image_size = len(condition), model.config.image_size
    generator = generators(drawing.seed, n) if generator is None else generator
    noise = draw(torch.empty(n, 3, image_size, image_size, device=model.device), generator)
    schedule = model.process.schedule
    denoiser = model.denoiser(condition, guidance_of(model, drawing))
    grid = times(drawing.steps, schedule)
    return solve(drawing.solver, denoiser, noise, grid, schedule, generator=generator)


def guidance_of(model: Diffusion, drawing: Drawing) -> float:
    """The strength of guidance: none where the model has no condition to compare with none."""
    return drawing.guidance if model.guided else 1.0


def in_parts(n: int, part: Callable[[slice], Tensor], most: int) -> Tensor:
    """The rows of `part` for 0 ... n - 1, `most` at a time, in bounded memory."""
    return torch.cat([part(slice(i, min(n, i + most))) for i in range(0, n, most)])
