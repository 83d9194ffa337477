"""DiT: a transformer over patches of the noisy picture (Peebles and Xie 2023).

    patches + positions -> blocks, each modulated by the vector (adaLN-Zero) -> norm, modulated -> patches

The vector tells the time and the condition; captions are attended to besides, as in the U-Net. Every
block starts as the identity and the last layer at 0. Positions are sines, and fixed. Unlike the paper's
code, guidance acts on all channels, and the variance is not learned.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from maquette.models.diffusion.config import DiffusionConfig
from maquette.nn.linear import Linear
from maquette.nn.mask import Mask
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import Patches, sincos2d, unpatch
from maquette.nn.rules import Role, Scaling
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class DiT(nn.Module):
    """(n, channels, height, width), a vector and a context -> (n, 3, height, width) in fp32.

    channels: number of channels of the input. context: width of the tokens that blocks attend to; None: none.
    """

    positions: Tensor

    def __init__(
        self, config: DiffusionConfig, scaling: Scaling, channels: int, context: int | None
    ) -> None:
        super().__init__()
        c, self.patch = config, config.patch
        self.multipliers = scaling.input_multiplier, scaling.output_multiplier
        self.input = Patches(c.patch, c.width, channels=channels)
        grid_size = c.image_size // c.patch
        self.register_buffer("positions", sincos2d(grid_size, c.width), persistent=False)
        self.blocks = Stack(
            TransformerBlock(c.width, c.heads, scaling, context=context, condition=c.vector)
            for _ in range(c.depth)
        )
        self.norm = LayerNorm(c.width, bias=True, epsilon=1e-6)
        self.modulation = Linear(c.vector, 2 * c.width, bias=True, start=0.0)
        self.output = Linear(c.width, 3 * c.patch**2, bias=True, role=Role.OUTPUT, start=0.0)

    @property
    def input_weight(self) -> Tensor:
        """The input's weight, (width, input channels x places of a patch)."""
        return self.input.projection.weight

    def forward(
        self,
        x: Tensor,  # (n, channels, height, width)
        vector: Tensor,  # (n, vector), fp32
        context: Tensor | None = None,  # (n, tokens, context)
        mask: Tensor | None = None,  # (n, tokens), True where a token counts
    ) -> Tensor:
        x = scaled(self.input(x), self.multipliers[0])
        x = x + self.positions.to(x.dtype)  # (n, places, width)
        x = self.blocks(x, mask=Mask(), context=context, context_mask=mask, condition=vector)
        shift, scale = self.modulation(F.silu(vector)).to(x.dtype)[:, None].chunk(2, dim=2)
        x = self.norm(x) * (1 + scale) + shift
        return unpatch(scaled(self.output(x), self.multipliers[1]).float(), self.patch)
