"""The ladder of shapes that plans choose from, and the size of a batch.

Below a width of 2,048 (about a billion parameters) a rung is a multiple of 64, with width / 64 blocks
(nanochat's ratio), four at least, and heads of 64. From there on shapes have to divide over devices:
widths go in steps of 512 (1,024 from 4,096 on, where heads are of 128 as in GPT-3 and LLaMA), so that
heads are a multiple of eight, and so are blocks. About min(16 + width / 128, 48 + width / 256) of
them: 32 at 2,048, 48 at 4,096, 80 at 8,192 (LLaMA 65B and Chinchilla have 80), 96 at 12,288 (GPT-3
175B has 96). Every multiple of eight within eight of that is a rung, so that the next size is near.
"""

from collections.abc import Iterator

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role

HEAD = 64
LARGE_WIDTH, LARGE_HEAD_WIDTH, LARGE_HEAD = 2048, 4096, 128
LEAST_LARGE_DEPTH = 32
"""least number of blocks at width 2,048; fewer would be smaller than narrower shapes"""
WIDEST = 65_536


def nearest_shape(
    parameters: float, vocabulary: int, context: int, embedded: bool = True
) -> DecoderConfig:
    """The decoder of the ladder whose size is nearest by ratio (see `rungs`).

    embedded: whether `parameters` counts the embeddings, the input's and the output's.
    """
    best: DecoderConfig | None = None
    best_distance = float("inf")
    for width, depth in rungs():
        config = shape(width, vocabulary, context, depth)
        size = config.parameters() if embedded else non_embedding(config)
        distance = max(size / parameters, parameters / size)
        if distance >= best_distance:
            break
        best, best_distance = config, distance
    assert best is not None
    if best_distance > 2 and best.width > HEAD:
        raise WrongUse(
            f"{parameters:.3g} parameters are called for, and shapes end at {best.parameters():.3g}: "
            f"give a smaller budget"
        )
    return best


def rungs() -> Iterator[tuple[int, int]]:
    """(width, blocks) of every rung, in the order of blocks x width^2."""
    for width in range(HEAD, LARGE_WIDTH, HEAD):
        yield width, max(4, width // HEAD)
    widths = [
        *range(LARGE_WIDTH, LARGE_HEAD_WIDTH, 512),
        *range(LARGE_HEAD_WIDTH, WIDEST + 1, 1024),
    ]
    large = [(width, depth) for width in widths for depth in _depths(width)]
    yield from sorted(large, key=lambda shape: shape[1] * shape[0] ** 2)


def shape(width: int, vocabulary: int, context: int, depth: int | None = None) -> DecoderConfig:
    """One rung. depth: blocks; None for the middle of those that the width has."""
    if depth is None:
        large = width >= LARGE_WIDTH
        depth = 8 * round(_middle(width) / 8) if large else max(4, width // HEAD)
    head = LARGE_HEAD if width >= LARGE_HEAD_WIDTH else HEAD
    return DecoderConfig(
        vocabulary=vocabulary,
        context=context,
        width=width,
        depth=depth,
        heads=max(1, width // head),
    )


def shape_rule(width: int) -> str:
    """The rule for blocks and heads of a width, in words."""
    if width < LARGE_WIDTH:
        return f"one block for every {HEAD} of the width, 4 at least"
    middle = "16 + width / 128" if width <= 8192 else "48 + width / 256"
    return f"blocks a multiple of 8 within 8 of {middle}, and heads a multiple of 8"


def non_embedding(config: DecoderConfig) -> int:
    """Parameters without the embeddings and the output's matrix, as Kaplan et al. 2020 count."""
    roles = config.parameters_by_role()
    return config.parameters() - roles[Role.INPUT] - roles[Role.OUTPUT]


def batch_tokens(tokens: float, context: int) -> int:
    """Tokens a step: the power of two nearest to their root, a sequence at least.

    GPT-3 took 0.5 to 3.2 M for 300 G tokens (root 0.55 M), Chinchilla 1.5 to 3 M for 1.4 T (1.2 M),
    and 2,048 to 4,096 served best for 3 M tokens here (docs/log.md).
    """
    return max(context, 1 << round(0.5 * (int(tokens).bit_length() - 0.5)))


def _middle(width: int) -> int:
    return min(16 + width // 128, 48 + width // 256)


def _depths(width: int) -> list[int]:
    """The multiples of eight within eight of the middle."""
    middle = _middle(width)
    least = max(LEAST_LARGE_DEPTH, -(-(middle - 8) // 8) * 8)
    return list(range(least, middle + 9, 8))
