"""The settings of sampling from diffusion models, without torch.

All defaults of sampling stand here, those of the command line and of Python too.
"""

from dataclasses import dataclass

from maquette.base.errors import WrongUse, check_numbers, did_you_mean, within

SOLVERS = ("ddpm", "ddim", "dpm2m", "heun", "euler")
"""names of the solvers, see `serving/solvers.py`"""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings of sampling pictures. Raises WrongUse for impossible values."""

    solver: str = "dpm2m"
    """name of the solver, one of `SOLVERS`"""
    steps: int = 20
    """number of the solver's steps"""
    guidance: float = 3.0
    """strength of classifier-free guidance; 1 is none"""
    seed: int = 0
    """seed of the noise"""

    def __post_init__(self) -> None:
        check_numbers(self)
        within(self, 1, float("inf"), "steps")
        within(self, 0, float("inf"), "guidance")
        if self.solver not in SOLVERS:
            raise WrongUse(f"unknown solver {self.solver}{did_you_mean(self.solver, SOLVERS)}")


@dataclass(frozen=True, kw_only=True)
class PriorDrawing(Drawing):
    """Settings of sampling picture embeddings from a prior.

    ddpm draws from the distribution; few steps of an ODE solver draw near its mean.
    """

    solver: str = "ddpm"
    """name of a diffusion prior's solver"""
    steps: int = 64
    """number of a diffusion prior's steps"""
    guidance: float = 1.0
    """strength of classifier-free guidance; 1 is none"""
    candidates: int = 2
    """number of embeddings drawn for each caption; the closest to the caption's is kept"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, float("inf"), "candidates")


DRAWING = Drawing()
"""default for pictures from a condition"""
AROUND = Drawing(solver="ddpm")
"""default around known pixels: fresh noise lets both parts agree"""
UPSAMPLING = Drawing(guidance=1.0)
"""default of upsampling generated pictures: the small picture says enough"""
INVERSION = Drawing(solver="ddim", steps=2 * Drawing.steps, guidance=1.0)
"""default of inversion, between a picture and its noise, which guidance would not find again"""
PRIOR = PriorDrawing()
"""default for embeddings from a prior"""
