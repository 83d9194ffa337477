"""Guidance of denoisers that are not one network's: a text's against another text's, or a wrapper's.

    guided    u + w (c - u): w = 1 is c, 0 is u, above 1 leads away from the unconditional picture

Ho and Salimans 2022 (whose w is one less). `Diffusion.denoiser(condition, guidance)` is the same for
one network, in one batch. Both clip the guided picture to [-1, 1]; left out: dynamic thresholding.
"""

from torch import Tensor

from maquette.nn.path import Denoiser


def guided(conditional: Denoiser, unconditional: Denoiser, w: float) -> Denoiser:
    """u + w (c - u) of the two clean pictures, clipped to [-1, 1]."""
    if w == 1.0:
        return conditional

    def clean(x: Tensor, t: Tensor) -> Tensor:
        u = unconditional(x, t)
        return (u + w * (conditional(x, t) - u)).clamp(-1, 1)

    return clean
