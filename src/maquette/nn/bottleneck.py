"""The adapter layer: down to a few dimensions, GELU, and up again (Houlsby et al. 2019, section 2.1).

The last map starts at 0, so that what it is added to is unchanged at first.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear


class Bottleneck(nn.Module):
    """width -> size -> width."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = Linear(width, size, bias=True)
        self.up = Linear(size, width, bias=True, start=0.0)

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> (..., width)
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]
