"""Super-resolution by regression: a residual network from a small picture to a large one.

    small -> stem 3x3 -> depth times (x + conv(relu(conv x))) -> conv 3x3 to 3 scale^2 channels
          -> pixel shuffle -> + small, enlarged

EDSR (Lim et al. 2017: no normalisation, the mean absolute error) with the one shuffle at the end of
ESPCN (Shi et al. 2016), which keeps all convolutions at the small size. The network adds to the
bilinear enlargement and starts by adding nothing. Its pictures are those of the corpus: `loss` blurs
each one with a width of its own and takes the mean over scale x scale pixels, and the network shall
undo that. Trained so, it answers with the mean (median) of all training pictures that may have given
the small one, and what is not in the small picture comes from them. Left out: adversarial and perceptual
losses, noise and JPEG among the degradations, EDSR's second shuffle.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import Loss, PictureBatch, PictureModel
from maquette.models.cnn import blur
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.nn.convolution import Conv
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role
from maquette.nn.stack import Stack


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, without norms."""

    def __init__(self, width: int, multiplier: float) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 3)
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:  # (n, width, s, s), the same
        return x + scaled(self.second(F.relu(self.first(x))), self.multiplier)


class SuperResolution(PictureModel):
    """The network of a config."""

    config: SuperResolutionConfig

    def __init__(self, config: SuperResolutionConfig) -> None:
        super().__init__(config)
        c = config
        branch = 0.5 * self.scaling.residual_multiplier  # without norms a sum of branches grows
        self.stem = Conv(3, c.width, 3, role=Role.INPUT)
        self.blocks = Stack(ResidualBlock(c.width, branch) for _ in range(c.depth))
        self.output = Conv(c.width, 3 * c.scale**2, 3, role=Role.OUTPUT, start=0.0)

    def forward(self, small: Tensor) -> Tensor:
        """(n, 3, h, w) in [-1, 1] -> (n, 3, scale h, scale w) in fp32, not clipped; any h and w."""
        if small.ndim != 4 or small.shape[1] != 3:
            raise WrongUse(f"the pictures have shape {tuple(small.shape)}: use (n, 3, h, w)")
        x = scaled(self.stem(small.to(self.compute)), self.scaling.input_multiplier)
        x = self.blocks(x)
        added = scaled(self.output(x).float(), self.scaling.output_multiplier)
        wide = F.interpolate(small.float(), scale_factor=self.config.scale, mode="bilinear")
        return wide + F.pixel_shuffle(added, self.config.scale)

    def degrade(self, pictures: Tensor, deviations: Tensor | None = None) -> Tensor:
        """The small pictures of large ones: see the function of that name."""
        return degrade(pictures, self.config.scale, deviations)

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """The error of each picture restored from its small one, mean over its pixels, summed."""
        n, large = len(batch.pictures), batch.pictures
        widths = self.config.blur * torch.rand(n, device=large.device)
        difference = self(self.degrade(large, widths)) - large
        error = difference.abs() if self.config.error == "absolute" else difference.square()
        total = error.mean((1, 2, 3)).sum()
        return Loss(total, total.detach(), n)


def degrade(pictures: Tensor, scale: int, deviations: Tensor | None = None) -> Tensor:
    """Degrade pictures: Gaussian blur, then the mean of each square of pixels.

    pictures: (n, 3, h, w), h and w multiples of scale. deviations: (n,) of the blur, in pixels; None
    for no blur. Returns (n, 3, h / scale, w / scale). Raises WrongUse for other sizes.
    """
    if pictures.shape[-2] % scale or pictures.shape[-1] % scale:
        height, width = pictures.shape[-2:]
        raise WrongUse(f"a picture of {height} x {width} cannot be made {scale} times smaller")
    if deviations is not None and bool((deviations > 0).any()):
        pictures = blur(pictures, deviations)
    return F.avg_pool2d(pictures, scale)
