"""The U-Net of diffusion models: residual blocks down, a middle, and up again beside the way down.

    input ---- level 1 ---------------------- level 1 ---- output
                  |                               |
               level 2 ---------------------- level 2         each level half the resolution of the last
                  |                               |
               level 3 ---- middle ---------- level 3

A level has `depth` blocks each way; a block on the way up is given the output of its counterpart on the
way down. The time and the condition's vector shift and scale each block's second norm (FiLM), and
captions are attended to at the sides where blocks attend.

Sources: Ronneberger et al. 2015; Ho et al. 2020; Dhariwal and Nichol 2021 (scale and shift); Nichol et
al. 2022 (captions). Places that attend are told where they are by fixed sines, which these leave to the
convolutions. Left out: the attention's own group norm (blocks are the language models', with LayerNorm),
learned down- and upsampling (pooling and repeating cost no product).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.models.diffusion.config import DiffusionConfig
from maquette.nn.convolution import Conv, GroupNorm
from maquette.nn.linear import Linear
from maquette.nn.mask import Mask
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import sincos2d
from maquette.nn.rules import Role, Scaling
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock

GROUP = (
    16  # channels of a group: with fewer, torch's backward pass in bf16 is up to 30 times slower
)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the second starts at 0, so the block as its shortcut."""

    def __init__(self, fan_in: int, fan_out: int, vector: int) -> None:
        super().__init__()
        self.first_norm = GroupNorm(fan_in, -(-fan_in // GROUP))
        self.first = Conv(fan_in, fan_out, 3)
        self.film = Linear(vector, 2 * fan_out, bias=True)
        self.second_norm = GroupNorm(fan_out, -(-fan_out // GROUP))
        self.second = Conv(fan_out, fan_out, 3, start=0.0)
        self.shortcut = Conv(fan_in, fan_out, 1) if fan_in != fan_out else None

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x: (n, fan_in, height, width), vector: (n, vector) -> (n, fan_out, height, width)."""
        h = self.first(F.silu(self.first_norm(x)))
        scale, shift = self.film(vector).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        h = self.second_norm(h) * (1 + scale) + shift
        h = self.second(F.silu(h))
        return h + (x if self.shortcut is None else self.shortcut(x))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A residual block, and an attention block where the level attends."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        config: DiffusionConfig,
        scaling: Scaling,
        attends: int,
        context: int | None,
    ) -> None:
        super().__init__()
        c = config
        self.residual = ResidualBlock(fan_in, fan_out, c.vector)
        self.attention = (
            TransformerBlock(fan_out, c.heads, scaling, hidden=2 * fan_out, context=context)
            if attends
            else None
        )
        positions = sincos2d(attends, fan_out) if attends else None
        self.register_buffer("positions", positions, persistent=False)

    positions: Tensor

    def forward(
        self, x: Tensor, vector: Tensor, context: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        x = self.residual(x, vector)
        if self.attention is None:
            return x
        n, channels, h, w = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, channels)  # a view, channels last
        pixels = pixels + self.positions.to(pixels.dtype)
        tokens: Tensor = self.attention(pixels, mask=Mask(), context=context, context_mask=mask)
        x = tokens.view(n, h, w, channels).permute(0, 3, 1, 2)
        return x if last else x.contiguous()


class UNet(nn.Module):
    """(n, channels, height, width), a vector and a context -> (n, 3, height, width) in fp32.

    channels: number of channels of the input. context: width of the tokens that blocks attend to; None: none.
    """

    def __init__(
        self, config: DiffusionConfig, scaling: Scaling, channels: int, context: int | None
    ) -> None:
        super().__init__()
        c, self.patch = config, config.patch
        self.multipliers = scaling.input_multiplier, scaling.output_multiplier
        widths = [c.width * m for m in c.multipliers]
        self.input = Conv(channels * c.patch**2, widths[0], 3, role=Role.INPUT)
        down, before, skips = [], widths[0], []
        for width, resolution in zip(widths, c.resolutions, strict=True):
            for _ in range(c.depth):
                attends = resolution if resolution in c.attention_resolutions else 0
                down.append(Stage(before, width, c, scaling, attends, context))
                before = width
                skips.append(width)
        self.down = Stack(down)
        self.middle = Stage(before, before, c, scaling, c.resolutions[-1], context)
        up = []
        for width, resolution in zip(reversed(widths), reversed(c.resolutions), strict=True):
            for _ in range(c.depth):
                attends = resolution if resolution in c.attention_resolutions else 0
                up.append(Stage(before + skips.pop(), width, c, scaling, attends, context))
                before = width
        self.up = Stack(up)
        self.depth = c.depth
        self.norm = GroupNorm(before, -(-before // GROUP))
        self.output = Conv(before, 3 * c.patch**2, 3, role=Role.OUTPUT, start=0.0)

    @property
    def input_weight(self) -> Tensor:
        """The input's weight, (width, input channels x places of a patch, ...)."""
        return self.input.weight

    @property
    def blocks(self) -> list[nn.Module]:
        """The stages, in order."""
        return [*self.down, self.middle, *self.up]

    def forward(
        self,
        x: Tensor,  # (n, channels, height, width)
        vector: Tensor,  # (n, vector), fp32
        context: Tensor | None = None,  # (n, tokens, context)
        mask: Tensor | None = None,  # (n, tokens), True where a token counts
    ) -> Tensor:
        inputs = {"vector": F.silu(vector), "context": context, "mask": mask}
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        x = scaled(self.input(x), self.multipliers[0])
        skips = []
        for i, stage in enumerate(self.down):
            if i and i % self.depth == 0:
                x = F.avg_pool2d(x, 2)
            x = self.down.run(stage, x, **inputs)
            skips.append(x)
        x = self.down.run(self.middle, x, **inputs)
        for i, stage in enumerate(self.up):
            if i and i % self.depth == 0:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up.run(stage, torch.cat([x, skips.pop()], dim=1), **inputs)
        x = scaled(self.output(F.silu(self.norm(x))), self.multipliers[1]).float()
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x
