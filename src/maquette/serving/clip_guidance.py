"""Guidance by the gradient of a CLIP that knows noise (Nichol et al. 2022, section 2.4).

The mean of a denoising step is shifted by s Sigma grad_x (f(x_t, t) . g(caption)). On a denoiser, which says
the denoised picture, that is

    x_0' = x_0 + s sigma(t)^2 / alpha(t) grad_x l,    l = logit scale * f(x_t, t) . g(caption)

because the score of x_t is (alpha x_0 - x_t) / sigma^2 (Dhariwal and Nichol 2021, section 4.2). As in the
released code of GLIDE, l is the logit, with the learnt temperature in it. s = 0 is no guidance; the guided
picture is clipped to [-1, 1].
"""

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.models.clip import Clip
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule


def clip_guided(
    denoiser: Denoiser, clip: Clip, captions: Tensor, schedule: NoiseSchedule, scale: float
) -> Denoiser:
    """`denoiser` led towards pictures that the CLIP finds closer to the captions (n, caption_length).

    clip: noised, on the same schedule as the denoiser's model. Raises WrongUse for another.
    """
    if not clip.config.noised or clip.config.path != schedule.kind:
        reason = "sees no noise" if not clip.config.noised else f"was trained on {clip.config.path}"
        raise WrongUse(
            f"this CLIP {reason}, and cannot guide a model of the {schedule.kind} schedule: "
            f"train one with model.noised and model.path {schedule.kind}"
        )
    with torch.no_grad():
        wanted = clip.embed_captions(captions)  # (n, d)
        temperature = clip.scale()

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        picture = denoiser(x, t)
        if scale == 0:
            return picture
        with torch.enable_grad():
            seen = x.detach().float().requires_grad_()
            fit = temperature * (clip.embed_pictures(seen, t.to(seen)) * wanted).sum()
            gradient = torch.autograd.grad(fit, seen)[0]
        factor = scale * schedule.sigma(t).square() / schedule.alpha(t)
        factor = factor.to(x).reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
        return (picture + factor * gradient.to(x)).clamp(-1, 1)

    return denoised
