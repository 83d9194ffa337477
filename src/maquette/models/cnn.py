"""A small residual CNN that reads labels from pictures.

    stem 3x3 -> stage 1 (1/2 size, w) -> stage 2 (1/4, 2 w) -> stage 3 (1/8, 4 w) -> mean -> heads
    a block: x + conv(gelu(norm(conv(gelu(norm x)))))    the first of a stage halves the picture

Pre-activation blocks (He et al. 2016b) with GroupNorm (Wu and He 2018) in the place of BatchNorm, so
that a picture's features do not depend on its neighbours in the batch. It is the baseline that a ViT is
held against, and the oracle that reads generated pictures: those are blurred or noisy, which the two
augmentations (of training alone) prepare it for. Left out: bottlenecks, dropout, mirrored pictures
(left and right are labels here).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.models.classifier import Classifier
from maquette.models.cnn_config import CNNConfig
from maquette.nn.convolution import Conv, GroupNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role
from maquette.nn.stack import Stack


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is averaged and projected where shapes differ."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, multiplier: float) -> None:
        super().__init__()
        self.stride, self.multiplier = stride, multiplier
        self.first_norm = GroupNorm(fan_in)
        self.first = Conv(fan_in, fan_out, 3, stride)
        self.second_norm = GroupNorm(fan_out)
        self.second = Conv(fan_out, fan_out, 3)
        self.shortcut = Conv(fan_in, fan_out, 1, bias=False) if fan_in != fan_out else None

    def forward(self, x: Tensor) -> Tensor:  # (n, fan_in, s, s) -> (n, fan_out, s/stride, s/stride)
        h = self.first(F.gelu(self.first_norm(x)))
        h = self.second(F.gelu(self.second_norm(h)))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return x + scaled(h, self.multiplier)


class CNN(Classifier):
    """The CNN of a config."""

    config: CNNConfig

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        w, branch = config.width, self.scaling.residual_multiplier
        self.stem = Conv(3, w, 3, role=Role.INPUT)
        blocks: list[nn.Module] = []
        before = w
        for channels in (w, 2 * w, 4 * w):
            for i in range(config.depth):
                blocks.append(ResidualBlock(before, channels, 2 if i == 0 else 1, branch))
                before = channels
        self.blocks = Stack(blocks)
        self.norm = GroupNorm(before)
        self.heads = self.make_heads(before)

    def features(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) in [-1, 1] -> (n, 4 width), the mean over the last stage's places."""
        x = self.augment(pictures) if self.training else pictures
        x = scaled(self.stem(x.to(self.compute)), self.scaling.input_multiplier)
        x = self.blocks(x)
        return F.gelu(self.norm(x)).mean((2, 3))

    def augment(self, pictures: Tensor) -> Tensor:
        """Blur and noise, each picture with standard deviations of its own, uniform up to the config's."""
        n = len(pictures)
        if self.config.blur:
            pictures = blur(pictures, self.config.blur * torch.rand(n, device=pictures.device))
        if self.config.noise:
            strength = self.config.noise * torch.rand(n, 1, 1, 1, device=pictures.device)
            pictures = pictures + strength * torch.randn_like(pictures)
        return pictures


def blur(pictures: Tensor, deviations: Tensor) -> Tensor:
    """Gaussian blur, (n, 3, s, s) with a standard deviation in pixels for each picture, (n,).

    Separable, up to three deviations of the widest; the border's pixels go on outside.
    """
    reach = max(1, int(3 * float(deviations.max()) + 0.999))
    offsets = torch.arange(-reach, reach + 1, device=pictures.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / deviations.clamp_min(1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).to(pictures.dtype)  # (n, 2 reach + 1)
    for dimension in (2, 3):
        pad = (0, 0, reach, reach) if dimension == 2 else (reach, reach, 0, 0)
        wide = F.pad(pictures, pad, mode="replicate")
        size = pictures.shape[dimension]
        parts = [
            weights[:, i, None, None, None] * wide.narrow(dimension, i, size)
            for i in range(2 * reach + 1)
        ]
        pictures = torch.stack(parts).sum(0)
    return pictures
